//! Putting tensors together and apart along one dimension: Concat and Split.

use super::{
    CpuLowering, GpuLowering, InferContext, Operator,
    lower::{Concrete, Movement, infer_moved_elements, invalid, lower_movement, mismatch},
};
use crate::{
    cpu::{
        kernel::{CpuKernel, Layout},
        movement::{MoveFn, StridedCopy, dense_steps},
    },
    error::{Error, Result},
    gpu::{kernel::GpuKernel, kernels::movement},
    graph::Node,
    tensor::{Dim, display_shape, resolve_axis},
};

/// ONNX `Concat`: the inputs one after another along `axis` (1 by default before opset 4). Any element type.
#[derive(Debug)]
struct Concat {
    axis: i64,
}

/// Makes [`Concat`].
pub fn make_concat(node: &Node) -> Result<Box<dyn Operator>> {
    let axis = match node.attributes.int("axis")? {
        Some(axis) => axis,
        None if node.operator.version < 4 => 1,
        None => return Err(invalid("attribute axis is missing")),
    };
    Ok(Box::new(Concat { axis }))
}

impl Operator for Concat {
    fn infer(&self, ctx: &mut InferContext<'_>) -> Result<()> {
        let dtype = ctx.dtype(0)?;
        let mut result: Option<Vec<Dim>> = None;
        let mut is_known = true;
        for index in 0..ctx.input_count() {
            let other = ctx.dtype(index)?;
            if other != dtype {
                return Err(invalid(format!("inputs 0 and {index} have different element types"))
                    .expected(dtype.name())
                    .actual(other.name()));
            }
            let Some(shape) = ctx.shape(index) else {
                is_known = false;
                continue;
            };
            let axis = resolve_axis(self.axis, shape.len())?;
            let Some(sum) = &mut result else {
                result = Some(shape.to_vec());
                continue;
            };
            let fits = |sum: &[Dim]| {
                let mut pairs = sum.iter().zip(shape).enumerate().filter(|(at, _)| *at != axis);
                sum.len() == shape.len()
                    && pairs.all(|(_, (a, b))| a.known().zip(b.known()).is_none_or(|(a, b)| a == b))
            };
            if !fits(sum) {
                return Err(
                    mismatch("the inputs' shapes differ in more than the concatenated dimension")
                        .expected(display_shape(sum))
                        .actual(display_shape(shape)),
                );
            }
            for (at, (sum, dim)) in sum.iter_mut().zip(shape).enumerate() {
                if at == axis {
                    *sum = sum.clone() + dim.clone();
                } else if sum.known().is_none() {
                    *sum = dim.clone();
                }
            }
        }
        let result = match result {
            Some(mut shape) if !is_known => {
                let axis = resolve_axis(self.axis, shape.len())?;
                shape[axis] = ctx.fresh_dim();
                Some(shape)
            }
            other => other,
        };
        ctx.set_output(0, dtype, result);
        infer_moved_elements(self, ctx)
    }

    fn cpu(&self, ctx: &CpuLowering<'_>) -> Result<CpuKernel> {
        if ctx.input_count() == 1 {
            return Ok(CpuKernel::View { input: 0 });
        }
        let kernel = lower_movement(self, ctx)?;
        Ok(match is_outermost(self.axis, &ctx.output(0)?.shape)? {
            true => kernel.with_layout(Layout::Joined),
            false => kernel,
        })
    }

    fn gpu(&self, ctx: &GpuLowering<'_>) -> Result<Option<GpuKernel>> {
        if ctx.input_count() == 1 || !ctx.moves_gpu_type() {
            return Ok(None);
        }
        let shapes: Option<Vec<&[usize]>> = ctx
            .inputs
            .iter()
            .map(|desc| desc.as_ref().map(|desc| desc.shape.as_slice()))
            .collect();
        let axis = resolve_axis(self.axis, ctx.output(0)?.shape.len())?;
        Ok(shapes.and_then(|shapes| movement::concat(&shapes, axis, ctx.caps)))
    }
}

/// Whether nothing but this axis tells where an element stands: all before it are of size 1.
fn is_outermost(axis: i64, shape: &[usize]) -> Result<bool> {
    let axis = resolve_axis(axis, shape.len())?;
    Ok(shape[..axis].iter().all(|&dim| dim == 1))
}

impl Movement for Concat {
    fn kernel_name(&self) -> &'static str {
        "concat"
    }

    fn data(&self, given: &[bool]) -> Vec<usize> {
        (0..given.len()).collect()
    }

    fn movement(&self, node: &Concrete) -> Result<Box<MoveFn>> {
        let output = node.output()?;
        let axis = resolve_axis(self.axis, output.len())?;
        let steps = dense_steps(output);
        let mut copies = Vec::new();
        let mut start = 0;
        for index in 0..node.inputs.len() {
            let shape = node.input(index)?;
            copies.push(StridedCopy::new(shape, &dense_steps(shape), &steps, 0, start));
            start += shape[axis] * steps[axis] as usize;
        }
        Ok(Box::new(move |moved| {
            let size = moved.size;
            let data = std::mem::take(&mut moved.data);
            let target = moved.output()?;
            copies
                .iter()
                .zip(&data)
                .try_for_each(|(copy, source)| copy.run(size, source, target))
        }))
    }
}

/// ONNX `Split`: parts of the input along `axis`, of the sizes that the attribute or input `split` names, else equal
/// (from opset 18 on, the last may be shorter). Any element type.
#[derive(Debug)]
struct Split {
    axis: i64,
    sizes: Option<Vec<i64>>,
    count: Option<i64>,
    may_be_uneven: bool,
}

/// Makes [`Split`].
pub fn make_split(node: &Node) -> Result<Box<dyn Operator>> {
    let version = node.operator.version;
    let sizes = if version < 13 {
        node.attributes.ints("split")?
    } else {
        None
    };
    Ok(Box::new(Split {
        axis: node.attributes.int("axis")?.unwrap_or(0),
        sizes: sizes.map(<[i64]>::to_vec),
        count: if version >= 18 {
            node.attributes.int("num_outputs")?
        } else {
            None
        },
        may_be_uneven: version >= 18,
    }))
}

impl Split {
    /// The parts' sizes when none are named.
    fn equal_sizes(&self, dim: &Dim, outputs: usize) -> Result<Vec<Dim>> {
        let count = self.count.unwrap_or(outputs as i64);
        if count != outputs as i64 || outputs == 0 {
            return Err(invalid("attribute num_outputs is not the number of outputs")
                .expected(outputs.to_string())
                .actual(count.to_string()));
        }
        let parts = Dim::from(count);
        let size = dim.ceil_div(&parts);
        let last = dim.clone() - size.clone() * Dim::from(count - 1);
        if last.known().is_some_and(|last| last < 0)
            || (!self.may_be_uneven && dim.modulo(&parts).known().is_some_and(|rest| rest != 0))
        {
            return Err(mismatch("the dimension does not divide into equal parts")
                .expected(format!("a multiple of {count}"))
                .actual(dim.to_string()));
        }
        let mut sizes = vec![
            if self.may_be_uneven {
                size
            } else {
                dim.floor_div(&parts)
            };
            outputs
        ];
        if let (true, Some(end)) = (self.may_be_uneven, sizes.last_mut()) {
            *end = last;
        }
        Ok(sizes)
    }

    fn check_sizes(sizes: &[i64], dim: Option<usize>, outputs: usize) -> Result<()> {
        let sum = sizes
            .iter()
            .try_fold(0i64, |sum, &size| sum.checked_add(size).filter(|_| size >= 0));
        let fits = sizes.len() == outputs && sum.is_some() && dim.is_none_or(|dim| sum == Some(dim as i64));
        if fits {
            return Ok(());
        }
        Err(
            mismatch("the sizes of the parts do not fit the dimension and the number of outputs")
                .expected(format!(
                    "{outputs} sizes that add up to {}",
                    dim.map_or("the dimension".into(), |dim| dim.to_string())
                ))
                .actual(format!("{sizes:?}")),
        )
    }
}

impl Operator for Split {
    fn infer(&self, ctx: &mut InferContext<'_>) -> Result<()> {
        let dtype = ctx.dtype(0)?;
        let outputs = ctx.outputs.len();
        let named = match &self.sizes {
            Some(sizes) => Some(sizes.iter().map(|&size| Dim::from(size)).collect()),
            None if ctx.has_input(1) => ctx.elements(1),
            None => None,
        };
        let is_named = self.sizes.is_some() || ctx.has_input(1);
        let Some(shape) = ctx.shape(0) else {
            (0..outputs).for_each(|index| ctx.set_output(index, dtype, None));
            return Ok(());
        };
        let axis = resolve_axis(self.axis, shape.len())?;
        let sizes: Vec<Dim> = match named {
            Some(sizes) => {
                if let Some(known) = sizes.iter().map(Dim::known).collect::<Option<Vec<i64>>>() {
                    Split::check_sizes(&known, shape[axis].size(), outputs)?;
                } else if sizes.len() != outputs {
                    return Err(mismatch("the sizes of the parts are not as many as the outputs"));
                }
                sizes
            }
            None if is_named => ctx.fresh_shape(outputs),
            None => self.equal_sizes(&shape[axis], outputs)?,
        };
        for (index, size) in sizes.into_iter().enumerate() {
            let mut part = shape.to_vec();
            part[axis] = size;
            ctx.set_output(index, dtype, Some(part));
        }
        infer_moved_elements(self, ctx)
    }

    fn cpu(&self, ctx: &CpuLowering<'_>) -> Result<CpuKernel> {
        let kernel = lower_movement(self, ctx)?;
        if !is_outermost(self.axis, &ctx.input(0)?.shape)? {
            return Ok(kernel);
        }
        let mut offsets = Vec::with_capacity(ctx.outputs.len());
        let mut end = 0;
        for output in ctx.outputs {
            // Where those behind an output that nobody wants begin, or one of fewer bits than a byte, is not worth knowing.
            let Some(output) = output.as_ref().filter(|output| output.dtype.bits() >= Some(8)) else {
                return Ok(kernel);
            };
            offsets.push(end);
            end += output.dtype.byte_len(output.shape.iter().product()).unwrap_or(0);
        }
        Ok(kernel.with_layout(Layout::Parts(offsets)))
    }

    fn gpu(&self, ctx: &GpuLowering<'_>) -> Result<Option<GpuKernel>> {
        let shape = &ctx.input(0)?.shape;
        let axis = resolve_axis(self.axis, shape.len())?;
        // A part that nobody wants has no buffer to go to; the CPU skips it.
        let lengths: Option<Vec<usize>> = ctx
            .outputs
            .iter()
            .map(|desc| desc.as_ref()?.shape.get(axis).copied())
            .collect();
        if !ctx.moves_gpu_type() {
            return Ok(None);
        }
        Ok(lengths.and_then(|lengths| movement::split(shape, axis, &lengths, ctx.caps)))
    }
}

impl Movement for Split {
    fn kernel_name(&self) -> &'static str {
        "split"
    }

    fn movement(&self, node: &Concrete) -> Result<Box<MoveFn>> {
        let input = node.input(0)?;
        let axis = resolve_axis(self.axis, input.len())?;
        let steps = dense_steps(input);
        let outputs = node.outputs.len();
        // Sizes follow from the wanted outputs' shapes; those of the others only matter before a wanted one.
        let named = self.sizes.as_deref().or_else(|| node.ints(1));
        let sizes: Vec<usize> = match named {
            Some(sizes) => {
                Split::check_sizes(sizes, Some(input[axis]), outputs)?;
                sizes.iter().map(|&size| size as usize).collect()
            }
            None if node.has_input(1) => {
                let shapes = node.outputs.iter().map(|shape| Some(shape.as_ref()?[axis]));
                let sizes = shapes.collect::<Option<Vec<_>>>();
                sizes.ok_or_else(|| Error::internal("the sizes of the parts are not known"))?
            }
            None => {
                let sizes = self.equal_sizes(&Dim::from(input[axis]), outputs)?;
                sizes.iter().filter_map(Dim::size).collect()
            }
        };
        let mut start = 0;
        let mut copies = Vec::new();
        for (size, output) in sizes.iter().zip(&node.outputs) {
            let copy = output.as_ref().map(|shape| StridedCopy::gather(shape, &steps, start));
            copies.push(copy);
            start += size * steps[axis] as usize;
        }
        Ok(Box::new(move |moved| {
            let (size, source) = (moved.size, moved.data[0]);
            for (copy, target) in copies.iter().zip(&mut moved.outputs) {
                if let (Some(copy), Some(target)) = (copy, target) {
                    copy.run(size, source, target)?;
                }
            }
            Ok(())
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{TestNode, f32s, i64s};
    use crate::tensor::{DType, Tensor};

    #[test]
    fn concat_joins_along_any_axis() {
        let (a, b) = (|| f32s(&[2, 1], &[1.0, 2.0]), || f32s(&[2, 2], &[3.0, 4.0, 5.0, 6.0]));
        let node = |axis: i64| TestNode::new("Concat", 13).attr("axis", axis);
        let joined = node(-1).input(a()).input(b()).run1().unwrap();
        assert_eq!(joined, f32s(&[2, 3], &[1.0, 3.0, 4.0, 2.0, 5.0, 6.0]));
        assert!(node(0).input(a()).input(b()).run().is_err());
        let empty = f32s(&[0, 1], &[]);
        assert_eq!(
            node(0).input(a()).input(empty).input(a()).run1().unwrap(),
            f32s(&[4, 1], &[1.0, 2.0, 1.0, 2.0])
        );
        assert_eq!(node(0).input(a()).run1().unwrap(), a());
        assert!(
            TestNode::new("Concat", 13).input(a()).run().is_err(),
            "the axis is required"
        );
    }

    #[test]
    fn packed_elements_join_across_bytes() {
        let packed = |count: usize, bytes: Vec<u8>| Tensor::from_bytes(DType::I4, &[count], bytes).unwrap();
        let node = TestNode::new("Concat", 13).attr("axis", 0);
        let result = node
            .input(packed(3, vec![0x21, 0x0f]))
            .input(packed(2, vec![0x98]))
            .run1()
            .unwrap();
        assert_eq!(result.to_i64s().unwrap(), [1, 2, -1, -8, -7]);
    }

    #[test]
    fn split_takes_sizes_or_a_number_of_parts() {
        let x = || f32s(&[5], &[1.0, 2.0, 3.0, 4.0, 5.0]);
        let sizes = TestNode::new("Split", 13)
            .outputs(2)
            .input(x())
            .constant(i64s(&[2], &[1, 4]));
        assert_eq!(
            sizes.run().unwrap(),
            [f32s(&[1], &[1.0]), f32s(&[4], &[2.0, 3.0, 4.0, 5.0])]
        );
        let attribute = TestNode::new("Split", 11)
            .attr("split", [2, 3])
            .wanted(&[false, true])
            .input(x());
        assert_eq!(attribute.run().unwrap(), [f32s(&[3], &[3.0, 4.0, 5.0])]);
        let uneven = TestNode::new("Split", 18).attr("num_outputs", 3).outputs(3).input(x());
        assert_eq!(uneven.run().unwrap()[2], f32s(&[1], &[5.0]));
        assert!(TestNode::new("Split", 13).outputs(2).input(x()).run().is_err());
        let floats = TestNode::new("Split", 1)
            .outputs(2)
            .input(x())
            .constant(f32s(&[2], &[1.0, 4.0]));
        assert_eq!(floats.run().unwrap(), sizes.run().unwrap());
        let wrong = TestNode::new("Split", 13)
            .outputs(2)
            .input(x())
            .constant(i64s(&[2], &[-1, 6]));
        assert!(wrong.run().is_err());
    }
}
