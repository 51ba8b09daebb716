//! Bits and rows put elsewhere as they are: BitCast and TensorScatter.

use super::{Call, Whole, whole};
use crate::{
    error::{Error, ErrorCode, Result},
    gpu::{
        kernel::{Binding, Check, GpuKernel},
        kernels::{
            attention::{Before, Lengths, Rows, write_rows},
            movement,
        },
    },
    graph::Node,
    ops::{
        GpuLowering, InferContext, Operator,
        lower::{invalid, mismatch, unsupported},
    },
    tensor::{AlignedBytes, DType, Tensor, display_shape, resolve_axis},
};

/// ONNX `BitCast` (opset 26): the same bits as elements of another type of the same width.
#[derive(Debug)]
struct BitCast {
    to: DType,
}

/// Makes [`BitCast`].
pub fn make_bit_cast(node: &Node) -> Result<Box<dyn Operator>> {
    let number = node.attributes.int("to")?;
    let number = number.ok_or_else(|| invalid("attribute to is missing"))?;
    let to = i32::try_from(number).ok().and_then(DType::from_onnx);
    let to = to.filter(|&to| to != DType::String);
    whole(BitCast {
        to: to.ok_or_else(|| unsupported("attribute to names no supported element type").actual(number.to_string()))?,
    })
}

impl Whole for BitCast {
    fn kernel_name(&self) -> &'static str {
        "bit_cast"
    }

    fn infer(&self, ctx: &mut InferContext<'_>) -> Result<()> {
        let from = ctx.dtype(0)?;
        if from.bits() != self.to.bits() {
            return Err(invalid("the element types differ in width")
                .expected(format!("a type as wide as {}", self.to))
                .actual(from.name()));
        }
        let shape = ctx.shape(0).map(<[_]>::to_vec);
        ctx.set_output(0, self.to, shape);
        Ok(())
    }

    fn run(&self, call: &Call<'_>) -> Result<Vec<Tensor>> {
        let tensor = call.input(0)?;
        let bytes = tensor
            .shared_bytes()
            .ok_or_else(|| unsupported("strings have no bits"))?;
        Ok(vec![Tensor::from_bytes(self.to, tensor.shape(), bytes.clone())?])
    }
}

/// ONNX `TensorScatter` (opset 24): a cache with rows of an update written along `axis`, for each sequence from its own
/// index on; past the end they begin again in front (mode `circular`) or are an error (`linear`). Any element type.
#[derive(Debug)]
struct TensorScatter {
    axis: i64,
    circular: bool,
}

/// Makes [`TensorScatter`].
pub fn make_tensor_scatter(node: &Node) -> Result<Box<dyn Operator>> {
    let circular = match node.attributes.string("mode")?.unwrap_or("linear") {
        "linear" => false,
        "circular" => true,
        other => return Err(invalid("attribute mode is neither linear nor circular").actual(other)),
    };
    whole(TensorScatter {
        axis: node.attributes.int("axis")?.unwrap_or(-2),
        circular,
    })
}

impl TensorScatter {
    fn axis(&self, rank: usize) -> Result<usize> {
        match resolve_axis(self.axis, rank)? {
            0 => Err(invalid("attribute axis is that of the batch")),
            axis => Ok(axis),
        }
    }

    /// The GPU kernel: a copy of the cache, unless it is given up, and a dispatch that writes the update there.
    fn on_gpu(&self, ctx: &GpuLowering<'_>) -> Option<GpuKernel> {
        let (cache, update) = (&ctx.optional_input(0)?.shape, &ctx.optional_input(1)?.shape);
        let axis = self.axis(cache.len()).ok()?;
        let (batch, room, rows) = (cache[0], cache[axis], *update.get(axis)?);
        let mut expected = cache.clone();
        expected[axis] = rows;
        if *update != expected || rows > room || expected.contains(&0) || !ctx.moves_gpu_type() {
            return None;
        }
        let mut kernel = GpuKernel::default();
        if ctx.takes_over(0, 0) {
            kernel.in_place.push((0, 0));
        } else {
            kernel.dispatches = movement::copy(cache.iter().product(), ctx.caps)?.dispatches;
        }
        let before = match ctx.optional_input(2) {
            None => Before::Same(0),
            Some(indices) if indices.shape == [batch] => {
                let check = match self.circular {
                    true => Check::Between(i32::MIN.into(), i32::MAX.into()),
                    false => Check::Between(0, (room - rows) as i64),
                };
                kernel.checks = ctx.checked(2, check)?;
                Before::Lengths(Lengths {
                    binding: Binding::Input(2),
                    offset: rows as i32,
                    is_prompt: false,
                })
            }
            Some(_) => return None,
        };
        let (heads, size) = (cache[1..axis].iter().product(), cache[axis + 1..].iter().product());
        let wraps = self.circular && matches!(before, Before::Lengths(_));
        let (sizes, place) = ([batch, heads, rows, size], (room, wraps));
        let from = Rows::head_by_head(Binding::Input(1), heads, rows, size);
        let write = write_rows(&before, &from, sizes, place, Binding::Output(0), ctx.caps)?;
        kernel.dispatches.push(write);
        Some(kernel)
    }
}

impl Whole for TensorScatter {
    fn kernel_name(&self) -> &'static str {
        "tensor_scatter"
    }

    fn infer(&self, ctx: &mut InferContext<'_>) -> Result<()> {
        if let Some(rank) = ctx.rank(0) {
            self.axis(rank)?;
        }
        ctx.copy_type(0, 0)
    }

    fn gpu(&self, ctx: &GpuLowering<'_>) -> Result<Option<GpuKernel>> {
        Ok(self.on_gpu(ctx))
    }

    fn takes_narrowed(&self) -> bool {
        true
    }

    fn run(&self, call: &Call<'_>) -> Result<Vec<Tensor>> {
        let (cache, update) = (call.input(0)?, call.input(1)?);
        let shape = cache.shape();
        let axis = self.axis(shape.len())?;
        let mut expected = shape.to_vec();
        expected[axis] = update.shape().get(axis).copied().unwrap_or(0);
        if update.shape() != expected || expected[axis] > shape[axis] || update.dtype() != cache.dtype() {
            return Err(mismatch("the update does not fit the cache")
                .expected(format!(
                    "{} of at most {}",
                    display_shape(&expected),
                    display_shape(shape)
                ))
                .actual(display_shape(update.shape())));
        }
        let (rows, room, batch) = (expected[axis], shape[axis], shape[0]);
        let starts = match call.optional(2) {
            Some(indices) if indices.shape() != [batch] => {
                return Err(
                    mismatch("the indices are not one for each sequence").actual(display_shape(indices.shape()))
                );
            }
            Some(indices) => indices.to_i64s()?,
            None => vec![0; batch],
        };
        if cache.is_empty() || rows == 0 {
            return Ok(vec![cache.clone()]);
        }
        let inner: usize = shape[axis + 1..].iter().product();
        let outer: usize = shape[1..axis].iter().product();
        let mut copies: Vec<(usize, usize)> = Vec::new();
        for (item, &start) in starts.iter().enumerate() {
            let start = match self.circular {
                true => start.rem_euclid(room as i64) as usize,
                false => {
                    let start = usize::try_from(start).ok().filter(|&start| start <= room - rows);
                    start.ok_or_else(|| {
                        Error::new(ErrorCode::RunFailed, "the update reaches beyond the cache")
                            .expected(format!("an index of at most {}", room - rows))
                            .actual(starts[item].to_string())
                    })?
                }
            };
            for block in item * outer..(item + 1) * outer {
                copies.extend((0..rows).map(|row| {
                    (
                        (block * rows + row) * inner,
                        (block * room + (start + row) % room) * inner,
                    )
                }));
            }
        }
        Ok(vec![overwrite(cache, update, &copies, inner)?])
    }
}

/// `tensor` with runs of `len` elements of `update` in it, each from its first place to its second.
fn overwrite(tensor: &Tensor, update: &Tensor, copies: &[(usize, usize)], len: usize) -> Result<Tensor> {
    let Some(bits) = tensor.dtype().bits() else {
        let (mut strings, source) = (tensor.strings()?.to_vec(), update.strings()?);
        for &(from, to) in copies {
            strings[to..to + len].clone_from_slice(&source[from..from + len]);
        }
        return Tensor::from_strings(tensor.shape(), strings);
    };
    let mut memory = AlignedBytes::copy_of(tensor.bytes())?;
    let (source, target) = (update.bytes(), memory.as_mut());
    if (len * bits).is_multiple_of(8) {
        for &(from, to) in copies {
            let (from, to, len) = (from * bits / 8, to * bits / 8, len * bits / 8);
            target[to..to + len].copy_from_slice(&source[from..from + len]);
        }
    } else {
        let mask = (1u8 << bits) - 1;
        for (from, to) in copies
            .iter()
            .flat_map(|&(from, to)| (0..len).map(move |index| (from + index, to + index)))
        {
            let element = source[from * bits / 8] >> (from * bits % 8) & mask;
            let (byte, shift) = (&mut target[to * bits / 8], to * bits % 8);
            *byte = *byte & !(mask << shift) | element << shift;
        }
    }
    Tensor::from_bytes(tensor.dtype(), tensor.shape(), memory)
}

#[cfg(test)]
mod tests {
    use crate::{
        ops::testing::{TestNode, f32s, i64s, tensor},
        tensor::{DType, Tensor},
    };

    #[test]
    fn bits_keep_their_order() {
        let node = |to: DType, x: Tensor| {
            TestNode::new("BitCast", 26)
                .attr("to", i64::from(to.to_onnx()))
                .input(x)
                .run1()
        };
        assert_eq!(
            node(DType::I32, f32s(&[1], &[1.0])).unwrap(),
            tensor(&[1], &[0x3f80_0000i32])
        );
        assert_eq!(node(DType::F64, i64s(&[], &[0])).unwrap(), tensor(&[], &[0.0f64]));
        assert!(node(DType::I64, f32s(&[1], &[1.0])).is_err());
        assert!(node(DType::String, f32s(&[1], &[1.0])).is_err());
    }

    #[test]
    fn rows_are_written_from_each_sequences_index() {
        let node = |mode: &str, starts: &[i64]| {
            TestNode::new("TensorScatter", 24)
                .attr("mode", mode)
                .input(tensor::<i8>(&[2, 3, 1], &[1, 2, 3, 4, 5, 6]))
                .input(tensor::<i8>(&[2, 2, 1], &[-1, -2, -3, -4]))
                .input(i64s(&[2], starts))
                .run1()
        };
        assert_eq!(
            node("linear", &[0, 1]).unwrap(),
            tensor::<i8>(&[2, 3, 1], &[-1, -2, 3, 4, -3, -4])
        );
        assert_eq!(
            node("circular", &[2, 4]).unwrap(),
            tensor::<i8>(&[2, 3, 1], &[-2, 2, -1, 4, -3, -4])
        );
        assert!(node("linear", &[2, 0]).is_err());
        assert!(node("linear", &[-1, 0]).is_err());
    }

    #[test]
    fn the_gpu_writes_the_same_rows() {
        let counted = |shape: &[usize], from: i32| {
            let count = shape.iter().product::<usize>() as i32;
            tensor(shape, &(from..from + count).collect::<Vec<_>>())
        };
        let node = |mode: &str, axis: i64| {
            TestNode::new("TensorScatter", 24)
                .attr("mode", mode)
                .attr("axis", axis)
                .input(counted(&[2, 3, 5, 7], 0))
        };
        let update = || counted(&[2, 3, 2, 7], 1000);
        node("linear", -2).input(update()).assert_gpu_agrees(0.0);
        let starts = |starts: &[i64]| i64s(&[2], starts);
        node("linear", 2)
            .input(update())
            .input(starts(&[3, 0]))
            .assert_gpu_agrees(0.0);
        let wrapped = node("circular", -2).input(update()).input(starts(&[-1, 14]));
        wrapped.assert_gpu_agrees(0.0);
        let other_axis = node("circular", 3).input(counted(&[2, 3, 5, 3], 1000));
        other_axis.input(starts(&[6, 2])).assert_gpu_agrees(0.0);
    }

    #[test]
    fn packed_elements_are_written_one_by_one() {
        let fours = |shape: &[usize], values: &[i64]| Tensor::from_i64s(DType::U4, shape, values).unwrap();
        let result = TestNode::new("TensorScatter", 24)
            .attr("axis", 1)
            .input(fours(&[1, 3], &[1, 2, 3]))
            .input(fours(&[1, 1], &[15]))
            .input(i64s(&[1], &[1]))
            .run1();
        assert_eq!(result.unwrap(), fours(&[1, 3], &[1, 15, 3]));
    }
}
