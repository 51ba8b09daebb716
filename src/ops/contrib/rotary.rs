//! Rotary position embedding, by itself (`com.microsoft.RotaryEmbedding`) and as attention uses it.

use super::{
    super::{
        CpuLowering, InferContext, Operator,
        lower::{invalid, mismatch},
    },
    tensors::{dims, floats, given, shape_error},
};
use crate::{cpu::kernel::CpuKernel, error::Result, graph::Node, tensor::Tensor};

/// The rotation of pairs of elements by an angle for each position and pair.
pub struct Rotation<'a> {
    /// Cosines `[positions, pairs]`.
    pub cos: &'a [f32],
    /// Sines `[positions, pairs]`.
    pub sin: &'a [f32],
    /// Pairs of elements that are rotated; the elements behind them stay.
    pub pairs: usize,
    /// Whether the elements of a pair stand side by side, or in the two halves of what is rotated.
    pub interleaved: bool,
}

impl Rotation<'_> {
    /// The number of positions that there are angles for.
    pub fn positions(&self) -> usize {
        let count = self.cos.len().min(self.sin.len());
        count.checked_div(self.pairs).unwrap_or(usize::MAX)
    }

    /// Rotates one head's elements at a position, which must have an angle.
    pub fn apply(&self, position: usize, values: &mut [f32]) {
        let start = position * self.pairs;
        let angles = self.cos[start..start + self.pairs].iter().zip(&self.sin[start..]);
        for (pair, (&cos, &sin)) in angles.enumerate() {
            let (first, second) = match self.interleaved {
                true => (2 * pair, 2 * pair + 1),
                false => (pair, pair + self.pairs),
            };
            let (x, y) = (values[first], values[second]);
            values[first] = x * cos - y * sin;
            values[second] = x * sin + y * cos;
        }
    }
}

/// `RotaryEmbedding`: X `[b, s, n * h]` or `[b, n, s, h]` rotated by the angles whose cosines and sines the last two inputs
/// hold for each position. Positions are `[b, s]`, or one for the first element of each sequence. Floats.
#[derive(Debug)]
struct RotaryEmbedding {
    heads: usize,
    rotated: usize,
    interleaved: bool,
}

/// Makes [`RotaryEmbedding`].
pub fn make(node: &Node) -> Result<Box<dyn Operator>> {
    let size = |name: &str| -> Result<usize> {
        let value = node.attributes.int(name)?.unwrap_or(0);
        usize::try_from(value).map_err(|_| invalid(format!("attribute {name} is negative")))
    };
    Ok(Box::new(RotaryEmbedding {
        heads: size("num_heads")?,
        rotated: size("rotary_embedding_dim")?,
        interleaved: node.attributes.flag("interleaved", false)?,
    }))
}

impl Operator for RotaryEmbedding {
    fn infer(&self, ctx: &mut InferContext<'_>) -> Result<()> {
        ctx.copy_type(0, 0)
    }

    fn cpu(&self, ctx: &CpuLowering<'_>) -> Result<CpuKernel> {
        if !ctx.input(0)?.dtype.is_float() {
            return Err(ctx.unsupported_type(0));
        }
        let (heads, rotated, interleaved) = (self.heads, self.rotated, self.interleaved);
        Ok(CpuKernel::dynamic("rotary_embedding", move |inputs| {
            run(heads, rotated, interleaved, inputs).map(|result| vec![result])
        }))
    }
}

fn run(heads: usize, rotated: usize, interleaved: bool, inputs: &[Option<Tensor>]) -> Result<Tensor> {
    let x = given(inputs, 0)?;
    let [_, pairs] = dims::<2>(2, given(inputs, 2)?)?;
    let (cos, sin) = (given(inputs, 2)?.to_f32s()?, given(inputs, 3)?.to_f32s()?);
    let rotation = Rotation {
        cos: &cos,
        sin: &sin,
        pairs,
        interleaved,
    };
    if given(inputs, 3)?.shape() != given(inputs, 2)?.shape() {
        return Err(shape_error(3, "the shape of input 2", given(inputs, 3)?.shape()));
    }
    // How many elements a head has, and how to find the position of the one with this number.
    let (batch, rows, size, by_head) = match *x.shape() {
        [batch, rows, hidden] => {
            let size = match (heads, rotated) {
                (0, _) => 2 * pairs,
                (heads, _) => hidden / heads,
            };
            if size == 0 || hidden % size != 0 {
                return Err(shape_error(
                    0,
                    format!("a multiple of {size} in the last axis"),
                    x.shape(),
                ));
            }
            (batch, rows, size, hidden / size)
        }
        [batch, _, rows, size] => (batch, rows, size, 0),
        ref shape => return Err(shape_error(0, "3 or 4 dimensions", shape)),
    };
    if 2 * pairs > size || (rotated > 0 && rotated != 2 * pairs) {
        let expected = if rotated > 0 { rotated } else { size };
        return Err(shape_error(
            2,
            format!("{} angles", expected / 2),
            given(inputs, 2)?.shape(),
        ));
    }
    let places = given(inputs, 1)?;
    let given_positions = places.to_i64s()?;
    let is_offset = given_positions.len() == 1 && batch * rows != 1;
    if !is_offset && given_positions.len() != batch * rows {
        return Err(shape_error(1, format!("[1] or [{batch}, {rows}]"), places.shape()));
    }
    let limit = rotation.positions();
    let position = |sequence: usize, row: usize| -> Result<usize> {
        let number = match is_offset {
            true => given_positions[0].checked_add(row as i64),
            false => given_positions.get(sequence * rows + row).copied(),
        };
        let number = number.unwrap_or(-1);
        usize::try_from(number)
            .ok()
            .filter(|&number| number < limit)
            .ok_or_else(|| {
                mismatch("a position has no angles")
                    .expected(format!("below {limit}"))
                    .actual(number.to_string())
            })
    };
    let mut values = x.to_f32s()?.into_owned();
    let per_sequence = values.len() / batch.max(1);
    for (sequence, values) in values.chunks_exact_mut(per_sequence.max(1)).enumerate() {
        for (index, values) in values.chunks_exact_mut(size.max(1)).enumerate() {
            let row = if by_head > 0 { index / by_head } else { index % rows };
            rotation.apply(position(sequence, row)?, values);
        }
    }
    floats(x.dtype(), x.shape(), values)
}
