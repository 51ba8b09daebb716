//! Padding at the borders.

use super::{
    CpuLowering, GpuLowering, InferContext, Operator,
    lower::{Concrete, Movement, infer_moved_elements, invalid, lower_movement, mismatch},
};
use crate::{
    cpu::{
        kernel::CpuKernel,
        movement::{Indices, MoveFn, StridedCopy, TableCopy, dense_steps, fill},
    },
    error::{Error, ErrorCode, Result},
    gpu::{
        kernel::GpuKernel,
        kernels::movement::{self, PadMode},
    },
    graph::Node,
    tensor::{DType, Dim, display_shape, resolve_axis},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Constant,
    Reflect,
    Edge,
    Wrap,
}

/// ONNX `Pad`: elements added before and after each dimension, or taken away where the padding is negative.
///
/// Paddings are attributes (`paddings` in opset 1, `pads` before 11) or the second input, the value an attribute or the
/// third, `axes` the fourth (opset 18). Modes `constant`, `reflect`, `edge` and (opset 19) `wrap`; with the latter
/// three, negative paddings apply first. Any element type.
#[derive(Debug)]
struct Pad {
    mode: Mode,
    pads: Option<Vec<i64>>,
    value: f32,
    has_inputs: bool,
}

/// Makes [`Pad`].
pub fn make(node: &Node) -> Result<Box<dyn Operator>> {
    let (version, attributes) = (node.operator.version, &node.attributes);
    let mode = match attributes.string("mode")?.unwrap_or("constant") {
        "constant" => Mode::Constant,
        "reflect" => Mode::Reflect,
        "edge" => Mode::Edge,
        "wrap" if version >= 19 => Mode::Wrap,
        other => return Err(invalid("attribute mode is not a mode of Pad in this opset").actual(other)),
    };
    let has_inputs = version >= 11;
    let pads = match (has_inputs, version) {
        (true, _) => None,
        (false, 1) => attributes.ints("paddings")?.or(attributes.ints("pads")?),
        (false, _) => attributes.ints("pads")?,
    };
    if !has_inputs && pads.is_none() {
        return Err(invalid("attribute pads is missing"));
    }
    Ok(Box::new(Pad {
        mode,
        pads: pads.map(<[i64]>::to_vec),
        value: if has_inputs {
            0.0
        } else {
            attributes.float("value")?.unwrap_or(0.0)
        },
        has_inputs,
    }))
}

/// What is added before and after each dimension.
fn per_dimension<T: Clone>(rank: usize, pads: &[T], axes: Option<&[i64]>, zero: T) -> Result<Vec<(T, T)>> {
    let all: Vec<i64> = (0..rank as i64).collect();
    let axes = axes.unwrap_or(&all);
    if pads.len() != 2 * axes.len() {
        return Err(mismatch("the paddings are not two for each dimension")
            .expected((2 * axes.len()).to_string())
            .actual(pads.len().to_string()));
    }
    let mut result = vec![(zero.clone(), zero); rank];
    for (index, &axis) in axes.iter().enumerate() {
        result[resolve_axis(axis, rank)?] = (pads[index].clone(), pads[index + axes.len()].clone());
    }
    Ok(result)
}

impl Operator for Pad {
    fn infer(&self, ctx: &mut InferContext<'_>) -> Result<()> {
        let dtype = ctx.dtype(0)?;
        if self.value != 0.0 && !dtype.is_float() {
            // Opsets with the attribute pad nothing but floats.
            return Err(
                Error::new(ErrorCode::WrongType, "only floats are padded with an attribute")
                    .expected("a float type")
                    .actual(dtype.name()),
            );
        }
        let pads = match &self.pads {
            Some(pads) => Some(pads.iter().map(|&pad| Dim::from(pad)).collect()),
            None => ctx.elements(1),
        };
        let has_axes = self.has_inputs && ctx.has_input(3);
        let axes = if has_axes { ctx.ints(3) } else { None };
        let Some(shape) = ctx.shape(0) else {
            ctx.set_output(0, dtype, None);
            return Ok(());
        };
        let rank = shape.len();
        let (Some(pads), false) = (pads, has_axes && axes.is_none()) else {
            let fresh = ctx.fresh_shape(rank);
            ctx.set_output(0, dtype, Some(fresh));
            return Ok(());
        };
        let pads = per_dimension(rank, &pads, axes.as_deref(), Dim::from(0))?;
        let mut result = Vec::with_capacity(rank);
        for (dim, (before, after)) in shape.iter().zip(pads) {
            let padded = dim.clone() + before.clone() + after.clone();
            if padded.known().is_some_and(|size| size < 0) {
                return Err(mismatch("negative paddings take away more than there is")
                    .expected(display_shape(shape))
                    .actual(format!("{before} and {after}")));
            }
            result.push(padded);
        }
        ctx.set_output(0, dtype, Some(result));
        infer_moved_elements(self, ctx)
    }

    fn cpu(&self, ctx: &CpuLowering<'_>) -> Result<CpuKernel> {
        lower_movement(self, ctx)
    }

    fn gpu(&self, ctx: &GpuLowering<'_>) -> Result<Option<GpuKernel>> {
        let input = ctx.input(0)?;
        let has_axes = self.has_inputs && ctx.optional_input(3).is_some();
        let axes = if has_axes { ctx.ints(3) } else { None };
        let pads = self.pads.clone().or_else(|| ctx.ints(1));
        let (Some(pads), true) = (pads, ctx.moves_gpu_type() && has_axes == axes.is_some()) else {
            return Ok(None);
        };
        let mode = match self.mode {
            Mode::Edge => PadMode::Edge,
            Mode::Reflect => PadMode::Reflect,
            Mode::Wrap => PadMode::Wrap,
            Mode::Constant => match ctx
                .optional_input(2)
                .filter(|desc| self.has_inputs && !desc.shape.contains(&0))
            {
                None if input.dtype == DType::F32 || self.value == 0.0 => PadMode::Constant(self.value.to_bits()),
                None => return Ok(None),
                Some(desc) => match desc.constant.as_ref().map(|tensor| (tensor.dtype(), tensor.bytes())) {
                    Some((DType::Bool, [byte])) => PadMode::Constant(u32::from(*byte != 0)),
                    Some((_, &[a, b, c, d])) => PadMode::Constant(u32::from_le_bytes([a, b, c, d])),
                    _ => PadMode::Input(2),
                },
            },
        };
        let pads = per_dimension(input.shape.len(), &pads, axes.as_deref(), 0)?;
        let before: Vec<isize> = pads.iter().map(|pad| pad.0 as isize).collect();
        let after: Vec<isize> = pads.iter().map(|pad| pad.1 as isize).collect();
        // With the other modes than constant, taking away comes first, which the shader does not do.
        if self.mode != Mode::Constant && pads.iter().any(|pad| pad.0 < 0 || pad.1 < 0) {
            return Ok(None);
        }
        Ok(movement::pad(&input.shape, &before, &after, mode, ctx.caps))
    }
}

impl Pad {
    fn mover(&self, input: &[usize], output: &[usize], pads: &[(i64, i64)]) -> Result<Mover> {
        for (&(before, after), (&dim, &padded)) in pads.iter().zip(input.iter().zip(output)) {
            let sum = (dim as i64).checked_add(before).and_then(|sum| sum.checked_add(after));
            if sum != Some(padded as i64) {
                return Err(Error::new(
                    ErrorCode::RunFailed,
                    "a tensor is padded otherwise than was planned",
                ));
            }
        }
        let steps = dense_steps(input);
        if self.mode == Mode::Constant {
            let targets = dense_steps(output);
            let (mut dims, mut source, mut target) = (Vec::new(), 0, 0);
            for (axis, &(before, after)) in pads.iter().enumerate() {
                let kept = input[axis] as i64 + before.min(0) + after.min(0);
                dims.push(kept.max(0) as usize);
                if kept > 0 {
                    source += (-before).max(0) as usize * steps[axis] as usize;
                    target += before.max(0) as usize * targets[axis] as usize;
                }
            }
            let covers = dims == output;
            return Ok(Mover::Block(
                StridedCopy::new(&dims, &steps, &targets, source, target),
                covers,
            ));
        }
        let mut tables = Vec::new();
        for (axis, &(before, after)) in pads.iter().enumerate() {
            let first = (-before).max(0);
            let kept = input[axis] as i64 + before.min(0) + after.min(0);
            if kept <= 0 && output[axis] > 0 {
                return Err(mismatch("an empty dimension cannot be padded with its own elements"));
            }
            let place = |index: usize| {
                let index = index as i64 - before.max(0);
                let index = match self.mode {
                    Mode::Edge | Mode::Constant => index.clamp(0, kept - 1),
                    Mode::Wrap => index.rem_euclid(kept),
                    Mode::Reflect if kept == 1 => 0,
                    Mode::Reflect => {
                        let period = 2 * (kept - 1);
                        let index = index.rem_euclid(period);
                        index.min(period - index)
                    }
                };
                (first + index) as usize * steps[axis] as usize
            };
            tables.push((0..output[axis]).map(place).collect());
        }
        Ok(Mover::Table(TableCopy::new(tables)))
    }
}

enum Mover {
    /// Whether the block covers the whole output stands beside it.
    Block(StridedCopy, bool),
    Table(TableCopy),
}

impl Mover {
    fn run(&self, size: usize, source: &[u8], value: &[u8], target: &mut [u8]) -> Result<()> {
        match self {
            Mover::Block(copy, covers) => {
                if !covers {
                    fill(size, target, value)?;
                }
                copy.run(size, source, target)
            }
            Mover::Table(copy) => copy.run(size, source, target),
        }
    }
}

impl Movement for Pad {
    fn kernel_name(&self) -> &'static str {
        "pad"
    }

    fn data(&self, given: &[bool]) -> Vec<usize> {
        if self.mode == Mode::Constant && self.has_inputs && given.get(2) == Some(&true) {
            vec![0, 2]
        } else {
            vec![0]
        }
    }

    fn movement(&self, node: &Concrete) -> Result<Box<MoveFn>> {
        let (input, output) = (node.input(0)?.to_vec(), node.output()?.to_vec());
        let has_axes = self.has_inputs && node.has_input(3);
        let known = match &self.pads {
            Some(pads) => Some(pads.clone()),
            None if has_axes && node.ints(3).is_none() => None,
            None => node.ints(1).map(<[i64]>::to_vec),
        };
        let known = match known {
            Some(pads) => {
                let axes = if has_axes { node.ints(3) } else { None };
                Some(self.mover(&input, &output, &per_dimension(input.len(), &pads, axes, 0)?)?)
            }
            None => None,
        };
        let value = self.value;
        let pad = Pad {
            mode: self.mode,
            pads: self.pads.clone(),
            value,
            has_inputs: self.has_inputs,
        };
        Ok(Box::new(move |moved| {
            let size = moved.size;
            // The attribute is a float of the input's width; opsets that have it know no other types.
            let constant: Vec<u8> = match size {
                _ if value == 0.0 => vec![0; size],
                2 => half::f16::from_f32(value).to_le_bytes().to_vec(),
                4 => value.to_le_bytes().to_vec(),
                _ => f64::from(value).to_le_bytes().to_vec(),
            };
            let source = moved.data[0];
            let element: &[u8] = moved
                .data
                .get(1)
                .copied()
                .filter(|value| !value.is_empty())
                .unwrap_or(&constant);
            let made;
            let mover = match &known {
                Some(mover) => mover,
                None => {
                    let pads: Vec<i64> = Indices::of(moved.inputs, 1)?.iter().collect();
                    let axes: Option<Vec<i64>> = match has_axes {
                        true => Some(Indices::of(moved.inputs, 3)?.iter().collect()),
                        false => None,
                    };
                    let pads = per_dimension(input.len(), &pads, axes.as_deref(), 0)?;
                    made = pad.mover(&input, &output, &pads)?;
                    &made
                }
            };
            mover.run(size, source, element, moved.output()?)
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{TestNode, f32s, i64s, tensor};
    use crate::tensor::Tensor;

    fn pad(mode: &str, x: Tensor, pads: &[i64]) -> TestNode {
        let node = TestNode::new("Pad", 19).attr("mode", mode);
        node.input(x).constant(i64s(&[pads.len()], pads))
    }

    #[test]
    fn an_attribute_pads_floats_alone() {
        let node = |x: Tensor| {
            TestNode::new("Pad", 2)
                .attr("pads", &[1i64, 0][..])
                .attr("value", 2.5f32)
                .constant(x)
        };
        assert_eq!(node(f32s(&[1], &[1.0])).run1().unwrap(), f32s(&[2], &[2.5, 1.0]));
        assert!(node(i64s(&[1], &[1])).run().is_err());
    }

    #[test]
    fn every_mode_pads_and_crops() {
        let x = || tensor(&[4], &[1i32, 2, 3, 4]);
        let cases: [(&str, [i64; 2], &[i32]); 7] = [
            ("constant", [1, 2], &[0, 1, 2, 3, 4, 0, 0]),
            ("constant", [-1, 1], &[2, 3, 4, 0]),
            ("edge", [2, 1], &[1, 1, 1, 2, 3, 4, 4]),
            ("reflect", [2, 3], &[3, 2, 1, 2, 3, 4, 3, 2, 1]),
            ("reflect", [0, 7], &[1, 2, 3, 4, 3, 2, 1, 2, 3, 4, 3]),
            ("wrap", [1, 5], &[4, 1, 2, 3, 4, 1, 2, 3, 4, 1]),
            ("edge", [-2, 1], &[3, 4, 4]),
        ];
        for (mode, pads, expected) in cases {
            let result = pad(mode, x(), &pads).run1().unwrap();
            assert_eq!(result, tensor(&[expected.len()], expected), "{mode} {pads:?}");
        }
        assert!(pad("constant", x(), &[-3, -3]).run().is_err());
        assert!(pad("constant", x(), &[1]).run().is_err());
        assert!(pad("mirror", x(), &[1, 1]).run().is_err());
        assert!(pad("edge", tensor::<i32>(&[0], &[]), &[1, 0]).run().is_err());
    }

    #[test]
    fn values_and_axes_come_as_inputs_or_attributes() {
        let x = || f32s(&[1, 2], &[1.0, 2.0]);
        let inputs = pad("constant", x(), &[1, 0])
            .constant(f32s(&[], &[9.0]))
            .constant(i64s(&[1], &[-1]));
        assert_eq!(inputs.run1().unwrap(), f32s(&[1, 3], &[9.0, 1.0, 2.0]));
        let no_value = pad("constant", x(), &[0, 1]).no_input().constant(i64s(&[1], &[0]));
        assert_eq!(no_value.run1().unwrap(), f32s(&[2, 2], &[1.0, 2.0, 0.0, 0.0]));
        let attributes = TestNode::new("Pad", 2)
            .attr("pads", [0, 1, 0, 0])
            .attr("value", 7.0f32)
            .input(x());
        assert_eq!(attributes.run1().unwrap(), f32s(&[1, 3], &[7.0, 1.0, 2.0]));
        let strings = Tensor::from_strings(&[1], vec!["a".into()]).unwrap();
        let padded = pad("constant", strings, &[1, 0]).run1().unwrap();
        assert_eq!(padded.strings().unwrap(), ["", "a"]);
    }
}
