//! Bits and rows put elsewhere as they are: BitCast and TensorScatter.

use super::{Call, Whole, whole};
use crate::{
    error::{Error, ErrorCode, Result},
    graph::Node,
    ops::{
        InferContext, Operator,
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
