//! Fourier transforms: DFT and STFT. Complex numbers are the two elements of a last dimension; all types are computed in f64.

use super::{
    super::{
        CpuLowering, GpuLowering, InferContext, Operator,
        context::rank_error,
        lower::{invalid, mismatch},
    },
    float_type, scalar_int, zeros,
};
use crate::{
    cpu::{
        fft::{Complex, Fft},
        kernel::CpuKernel,
    },
    error::{Error, ErrorCode, Result},
    gpu::{
        kernel::GpuKernel,
        kernels::fourier::{self, Transform},
    },
    graph::Node,
    tensor::{DType, Dim, Tensor, display_shape, element_count, resolve_axis},
};

/// ONNX `DFT` (opsets 17 and 20): the discrete Fourier transform of `[..., 1]` real or `[..., 2]` complex numbers along one
/// dimension, which is cut or filled with zeros to `dft_length`.
#[derive(Debug)]
struct Dft {
    kind: Kind,
    /// The axis, unless it is an input.
    axis: i64,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Forward,
    /// The first half of a transform.
    ForwardHalf,
    Inverse,
    /// Real numbers of the first half of their transform.
    InverseHalf,
}

impl Kind {
    /// The number of elements that a transform of length `n` makes.
    fn made(self, n: &Dim) -> Dim {
        match self {
            Kind::ForwardHalf => n.floor_div(&Dim::from(2)) + Dim::from(1),
            _ => n.clone(),
        }
    }

    /// The length of the transform of `size` elements when none is asked for.
    fn default_length(self, size: &Dim) -> Dim {
        match self {
            Kind::InverseHalf => (size.clone() - Dim::from(1)) * Dim::from(2),
            _ => size.clone(),
        }
    }

    /// The size of the last dimension of what is made.
    fn parts(self) -> usize {
        if self == Kind::InverseHalf { 1 } else { 2 }
    }
}

/// Makes [`Dft`].
pub fn make_dft(node: &Node) -> Result<Box<dyn Operator>> {
    let flag = |name: &str| node.attributes.flag(name, false);
    let kind = match (flag("inverse")?, flag("onesided")?) {
        (false, false) => Kind::Forward,
        (false, true) => Kind::ForwardHalf,
        (true, false) => Kind::Inverse,
        (true, true) => Kind::InverseHalf,
    };
    let axis = match node.operator.version {
        ..20 => node.attributes.int("axis")?.unwrap_or(1),
        _ => -2,
    };
    Ok(Box::new(Dft { kind, axis }))
}

/// The axis of a transform, which is not the last dimension.
fn signal_axis(axis: i64, rank: usize) -> Result<usize> {
    let axis = resolve_axis(axis, rank)?;
    if axis + 1 == rank {
        return Err(invalid(
            "the axis is the last dimension, which holds the parts of complex numbers",
        ));
    }
    Ok(axis)
}

impl Operator for Dft {
    fn infer(&self, ctx: &mut InferContext<'_>) -> Result<()> {
        let dtype = float_type(ctx, 0)?;
        let axis = match ctx.has_input(2) {
            true => ctx.ints(2).and_then(|list| list.first().copied()),
            false => Some(self.axis),
        };
        let shape = match ctx.shape(0) {
            Some(shape) if shape.len() < 2 => return Err(rank_error(0, "2 or more", shape.len())),
            Some(shape) => {
                let mut made = match axis {
                    Some(axis) => {
                        let axis = signal_axis(axis, shape.len())?;
                        let length = match ctx.has_input(1) {
                            true => ctx.elements(1).and_then(|list| list.first().cloned()),
                            false => Some(self.kind.default_length(&shape[axis])),
                        };
                        let size = length.map_or_else(|| ctx.fresh_dim(), |length| self.kind.made(&length));
                        let mut made = shape.to_vec();
                        made[axis] = size;
                        made
                    }
                    None => ctx.fresh_shape(shape.len()),
                };
                made[shape.len() - 1] = Dim::from(self.kind.parts());
                Some(made)
            }
            None => None,
        };
        ctx.set_output(0, dtype, shape);
        Ok(())
    }

    fn cpu(&self, _: &CpuLowering<'_>) -> Result<CpuKernel> {
        let (kind, axis) = (self.kind, self.axis);
        Ok(CpuKernel::dynamic("dft", move |inputs| {
            let x = inputs.first().and_then(Option::as_ref);
            let x = x.ok_or_else(|| invalid("required input 0 is missing"))?;
            if x.shape().len() < 2 {
                return Err(rank_error(0, "2 or more", x.shape().len()));
            }
            let axis = scalar_int(inputs, 2)?.unwrap_or(axis);
            let axis = signal_axis(axis, x.shape().len())?;
            let length = match scalar_int(inputs, 1)? {
                Some(length) => length,
                None => kind.default_length(&Dim::from(x.shape()[axis])).known().unwrap_or(0),
            };
            let length = usize::try_from(length)
                .ok()
                .filter(|&length| length > 0)
                .ok_or_else(|| {
                    Error::new(ErrorCode::RunFailed, "the length of a transform is not positive")
                        .actual(length.to_string())
                })?;
            Ok(vec![dft(x, axis, length, kind)?])
        }))
    }

    fn gpu(&self, ctx: &GpuLowering<'_>) -> Result<Option<GpuKernel>> {
        let (x, made) = (ctx.input(0)?, ctx.output(0)?);
        let int = |index: usize| match ctx.optional_input(index) {
            Some(_) => ctx.ints(index).and_then(|list| list.first().copied()).map(Some),
            None => Some(None),
        };
        let (Some(length), Some(axis), true) = (int(1), int(2), x.dtype == DType::F32) else {
            return Ok(None);
        };
        let (shape, last) = (&x.shape, x.shape.len() - 1);
        let axis = signal_axis(axis.unwrap_or(self.axis), shape.len())?;
        let length = length.or(self.kind.default_length(&Dim::from(shape[axis])).known());
        Ok(fourier::dft(
            Transform {
                outer: shape[..axis].iter().product(),
                size: shape[axis],
                inner: shape[axis + 1..last].iter().product(),
                parts: shape[last],
                length: usize::try_from(length.unwrap_or(0)).unwrap_or(0),
                made: made.shape[axis],
                inverse: matches!(self.kind, Kind::Inverse | Kind::InverseHalf),
                half: self.kind == Kind::InverseHalf,
            },
            ctx.caps,
        ))
    }
}

/// The transform of a tensor whose last dimension holds the parts of numbers.
fn dft(x: &Tensor, axis: usize, length: usize, kind: Kind) -> Result<Tensor> {
    let last = x.shape().len() - 1;
    let (size, parts) = (x.shape()[axis], x.shape()[last]);
    if !(1..=2).contains(&parts) {
        return Err(mismatch("the last dimension holds neither real nor complex numbers")
            .expected("1 or 2")
            .actual(parts.to_string()));
    }
    let made = kind.made(&Dim::from(length)).size().unwrap_or(0);
    let mut shape = x.shape().to_vec();
    (shape[axis], shape[last]) = (made, kind.parts());
    let (mut fft, source) = (Fft::new(length)?, x.to_f64s()?);
    let mut result = zeros(&shape)?;
    let mut line: Vec<Complex> = vec![[0.0; 2]; length];
    let outer: usize = x.shape()[..axis].iter().product();
    let inner: usize = x.shape()[axis + 1..last].iter().product();
    if result.is_empty() {
        return Tensor::from_f64s(x.dtype(), &shape, &result);
    }
    for (block, column) in (0..outer).flat_map(|block| (0..inner).map(move |column| (block, column))) {
        line.fill([0.0; 2]);
        // Of half a transform, the rest mirrors it.
        let given = if kind == Kind::InverseHalf {
            length / 2 + 1
        } else {
            length
        };
        for index in 0..given.min(size) {
            let at = ((block * size + index) * inner + column) * parts;
            let value = [source[at], if parts == 2 { source[at + 1] } else { 0.0 }];
            line[index] = value;
            if kind == Kind::InverseHalf && index > 0 {
                let mirror = length - index;
                if mirror == index {
                    line[index][1] = 0.0;
                } else {
                    line[mirror] = [value[0], -value[1]];
                }
            }
        }
        match kind {
            Kind::Forward | Kind::ForwardHalf => fft.forward(&mut line),
            Kind::Inverse | Kind::InverseHalf => {
                if kind == Kind::InverseHalf {
                    line[0][1] = 0.0;
                }
                fft.inverse(&mut line);
            }
        }
        for (index, value) in line[..made].iter().enumerate() {
            let at = ((block * made + index) * inner + column) * kind.parts();
            result[at..at + kind.parts()].copy_from_slice(&value[..kind.parts()]);
        }
    }
    Tensor::from_f64s(x.dtype(), &shape, &result)
}

/// ONNX `STFT` (opset 17): the transforms `[batch, frames, bins, 2]` of the frames of `[batch, length, 1 or 2]` signals, `frame_step`
/// apart, each times a window.
#[derive(Debug)]
struct Stft {
    half: bool,
}

/// Makes [`Stft`].
pub fn make_stft(node: &Node) -> Result<Box<dyn Operator>> {
    Ok(Box::new(Stft {
        half: node.attributes.flag("onesided", true)?,
    }))
}

impl Operator for Stft {
    fn infer(&self, ctx: &mut InferContext<'_>) -> Result<()> {
        let dtype = float_type(ctx, 0)?;
        let signal = match ctx.shape(0) {
            Some([batch, length, _]) => Some((batch.clone(), length.clone())),
            Some(other) => return Err(rank_error(0, "3", other.len())),
            None => None,
        };
        let step = ctx
            .ints(1)
            .and_then(|list| list.first().copied())
            .filter(|&step| step > 0);
        let frame = match (ctx.has_input(3), ctx.has_input(2)) {
            (true, _) => ctx.elements(3).and_then(|list| list.first().cloned()),
            (false, true) => ctx.shape(2).and_then(|shape| shape.first().cloned()),
            (false, false) => signal.as_ref().map(|(_, length)| length.clone()),
        };
        let frames = match (&signal, step, &frame) {
            (Some((_, length)), Some(step), Some(frame)) => {
                (length.clone() - frame.clone()).floor_div(&Dim::from(step)) + Dim::from(1)
            }
            _ => ctx.fresh_dim(),
        };
        let kind = if self.half { Kind::ForwardHalf } else { Kind::Forward };
        let bins = frame.map_or_else(|| ctx.fresh_dim(), |frame| kind.made(&frame));
        let batch = signal.map_or_else(|| ctx.fresh_dim(), |(batch, _)| batch);
        ctx.set_output(0, dtype, Some(vec![batch, frames, bins, Dim::from(2)]));
        Ok(())
    }

    fn cpu(&self, _: &CpuLowering<'_>) -> Result<CpuKernel> {
        let half = self.half;
        Ok(CpuKernel::dynamic("stft", move |inputs| {
            let x = inputs.first().and_then(Option::as_ref);
            let x = x.ok_or_else(|| invalid("required input 0 is missing"))?;
            let &[batch, length, parts @ 1..=2] = x.shape() else {
                return Err(mismatch("the signals are not lists of numbers")
                    .expected("[batch, length, 1 or 2]")
                    .actual(display_shape(x.shape())));
            };
            let positive = |index: usize, what: &str| -> Result<Option<usize>> {
                let Some(value) = scalar_int(inputs, index)? else {
                    return Ok(None);
                };
                let size = usize::try_from(value).ok().filter(|&size| size > 0);
                let wrong =
                    || Error::new(ErrorCode::RunFailed, format!("{what} is not positive")).actual(value.to_string());
                size.ok_or_else(wrong).map(Some)
            };
            let step = positive(1, "frame_step")?.ok_or_else(|| invalid("required input 1 is missing"))?;
            let window = inputs.get(2).and_then(Option::as_ref);
            let default = window.map_or(length, Tensor::len);
            let frame = positive(3, "frame_length")?.unwrap_or(default);
            if frame > length || frame == 0 || window.is_some_and(|window| window.len() != frame) {
                return Err(mismatch("frames do not fit the signal and the window")
                    .expected(format!("1 to {length} elements in a frame, and as many in the window"))
                    .actual(format!("{frame} and {default}")));
            }
            if half && parts == 2 {
                return Err(invalid("complex signals have no one-sided transform"));
            }
            let window = window
                .map(Tensor::to_f64s)
                .transpose()?
                .unwrap_or_else(|| vec![1.0; frame]);
            let frames = (length - frame) / step + 1;
            let bins = if half { frame / 2 + 1 } else { frame };
            let shape = [batch, frames, bins, 2];
            let (mut fft, source) = (Fft::new(frame)?, x.to_f64s()?);
            let mut result = Vec::new();
            result
                .try_reserve_exact(element_count(&shape)?)
                .map_err(|_| Error::new(ErrorCode::OutOfMemory, "there is no memory for the transforms"))?;
            let mut line: Vec<Complex> = vec![[0.0; 2]; frame];
            for (batch, number) in (0..batch).flat_map(|batch| (0..frames).map(move |number| (batch, number))) {
                let start = (batch * length + number * step) * parts;
                for (index, value) in line.iter_mut().enumerate() {
                    let at = start + index * parts;
                    let imaginary = if parts == 2 { source[at + 1] } else { 0.0 };
                    *value = [source[at] * window[index], imaginary * window[index]];
                }
                fft.forward(&mut line);
                result.extend_from_slice(line[..bins].as_flattened());
            }
            Ok(vec![Tensor::from_f64s(x.dtype(), &shape, &result)?])
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::super::testing::{TestNode, assert_tensor_close, f32s, i64s, tensor},
        *,
    };

    #[test]
    fn transforms_go_along_any_axis_and_back() {
        let x = || f32s(&[1, 2, 3, 1], &[1.0, 2.0, 4.0, 0.0, 1.0, 0.0]);
        let along = TestNode::new("DFT", 20).input(x()).no_input().constant(i64s(&[], &[1]));
        let expected = f32s(
            &[1, 2, 3, 2],
            &[1.0, 0.0, 3.0, 0.0, 4.0, 0.0, 1.0, 0.0, 1.0, 0.0, 4.0, 0.0],
        );
        assert_tensor_close(&along.run1().unwrap(), &expected, 1e-6);
        let there = TestNode::new("DFT", 20).input(x()).run1().unwrap();
        let back = TestNode::new("DFT", 20).attr("inverse", 1).input(there).run1().unwrap();
        let real: Vec<f32> = back.to_f32s().unwrap().chunks(2).map(|pair| pair[0]).collect();
        assert_tensor_close(&f32s(&[1, 2, 3, 1], &real), &x(), 1e-6);
        let half = TestNode::new("DFT", 17)
            .attr("axis", 2)
            .attr("onesided", 1)
            .input(x())
            .run1()
            .unwrap();
        assert_eq!(half.shape(), [1, 2, 2, 2]);
        let again = TestNode::new("DFT", 17)
            .attr("axis", 2)
            .attr("onesided", 1)
            .attr("inverse", 1);
        let again = again.input(half).constant(i64s(&[], &[3])).run1().unwrap();
        assert_tensor_close(&again, &x(), 1e-6);
    }

    #[test]
    fn signals_are_cut_filled_and_checked() {
        let node = |length: i64| {
            let x = tensor(&[2, 1], &[1.0f64, 3.0]);
            TestNode::new("DFT", 20).input(x).input(i64s(&[], &[length]))
        };
        let expected = [4.0, 0.0, 1.0, -3.0, -2.0, 0.0, 1.0, 3.0];
        assert_tensor_close(&node(4).run1().unwrap(), &tensor(&[4, 2], &expected), 1e-6);
        assert_eq!(node(1).run1().unwrap(), tensor(&[1, 2], &[1.0f64, 0.0]));
        assert_eq!(node(0).run().unwrap_err().code(), ErrorCode::RunFailed);
        let last = TestNode::new("DFT", 20).input(f32s(&[2, 1], &[0.0; 2])).no_input();
        assert!(last.constant(i64s(&[], &[-1])).run().is_err());
        let none = TestNode::new("DFT", 20).input(f32s(&[0, 3, 1], &[])).run1().unwrap();
        assert_eq!(none.shape(), [0, 3, 2]);
    }

    #[test]
    fn frames_are_transformed_one_by_one() {
        let node = |half: i64| {
            let x = f32s(&[1, 6, 1], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
            TestNode::new("STFT", 17)
                .attr("onesided", half)
                .input(x)
                .constant(i64s(&[], &[2]))
        };
        let window = || f32s(&[4], &[1.0, 1.0, 0.0, 0.0]);
        let half = node(1).constant(window()).run1().unwrap();
        let expected = [3.0, 0.0, 1.0, -2.0, -1.0, 0.0, 7.0, 0.0, 3.0, -4.0, -1.0, 0.0];
        assert_tensor_close(&half, &f32s(&[1, 2, 3, 2], &expected), 1e-6);
        let length = node(0).no_input().constant(i64s(&[], &[3])).run1().unwrap();
        assert_eq!(length.shape(), [1, 2, 3, 2]);
        assert_eq!(node(0).run1().unwrap().shape(), [1, 1, 6, 2]);
        assert!(node(1).constant(window()).constant(i64s(&[], &[3])).run().is_err());
        assert!(node(1).no_input().constant(i64s(&[], &[7])).run().is_err());
    }
}
