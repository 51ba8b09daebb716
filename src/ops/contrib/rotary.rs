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
        self.apply_by(values, |_| position);
    }

    /// Rotates one head's elements, each pair at a position of its own.
    pub fn apply_by(&self, values: &mut [f32], position: impl Fn(usize) -> usize) {
        for pair in 0..self.pairs {
            let place = position(pair) * self.pairs + pair;
            let (cos, sin) = (self.cos[place], self.sin[place]);
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
///
/// `MRotaryEmbedding` has three positions for each element, `[3, b, s]`: each pair is rotated by one of them.
#[derive(Clone, Debug)]
struct RotaryEmbedding {
    heads: usize,
    rotated: usize,
    interleaved: bool,
    sections: Option<Sections>,
}

/// Which of three positions rotates a pair.
#[derive(Clone, Debug)]
struct Sections {
    sizes: [usize; 3],
    /// Whether the second and third position take every third pair, or runs of their own.
    by_turns: bool,
}

impl Sections {
    fn of(&self, pair: usize) -> usize {
        let [first, second, third] = self.sizes;
        match self.by_turns {
            true if pair % 3 == 1 && pair < 3 * second => 1,
            true if pair % 3 == 2 && pair < 3 * third => 2,
            true => 0,
            false if pair < first => 0,
            false if pair - first < second => 1,
            false => 2,
        }
    }
}

/// Makes [`RotaryEmbedding`].
pub fn make(node: &Node) -> Result<Box<dyn Operator>> {
    RotaryEmbedding::of(node, None)
}

/// Makes `com.microsoft.MRotaryEmbedding`.
pub fn make_multimodal(node: &Node) -> Result<Box<dyn Operator>> {
    let list = node.attributes.ints("mrope_section")?.unwrap_or(&[]);
    let sizes: Vec<usize> = list
        .iter()
        .filter_map(|&size| usize::try_from(size).ok().filter(|&size| size < 1 << 30))
        .collect();
    let sizes = <[usize; 3]>::try_from(sizes)
        .map_err(|_| invalid("attribute mrope_section does not hold three sizes").actual(format!("{list:?}")))?;
    let by_turns = node.attributes.flag("mrope_layout", false)?;
    RotaryEmbedding::of(node, Some(Sections { sizes, by_turns }))
}

impl RotaryEmbedding {
    fn of(node: &Node, sections: Option<Sections>) -> Result<Box<dyn Operator>> {
        let size = |name: &str| -> Result<usize> {
            let value = node.attributes.int(name)?.unwrap_or(0);
            usize::try_from(value).map_err(|_| invalid(format!("attribute {name} is negative")))
        };
        Ok(Box::new(RotaryEmbedding {
            heads: size("num_heads")?,
            rotated: size("rotary_embedding_dim")?,
            interleaved: node.attributes.flag("interleaved", false)?,
            sections,
        }))
    }
}

impl Operator for RotaryEmbedding {
    fn infer(&self, ctx: &mut InferContext<'_>) -> Result<()> {
        ctx.copy_type(0, 0)
    }

    fn cpu(&self, ctx: &CpuLowering<'_>) -> Result<CpuKernel> {
        if !ctx.input(0)?.dtype.is_float() {
            return Err(ctx.unsupported_type(0));
        }
        let settings = self.clone();
        Ok(CpuKernel::dynamic("rotary_embedding", move |inputs| {
            run(&settings, inputs).map(|result| vec![result])
        }))
    }
}

fn run(settings: &RotaryEmbedding, inputs: &[Option<Tensor>]) -> Result<Tensor> {
    let &RotaryEmbedding {
        heads,
        rotated,
        interleaved,
        ref sections,
    } = settings;
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
    let streams = if sections.is_some() { 3 } else { 1 };
    let is_offset = given_positions.len() == 1 && batch * rows != 1;
    if (!is_offset || sections.is_some()) && given_positions.len() != streams * batch * rows {
        return Err(shape_error(
            1,
            format!("[1] or [{batch}, {rows}] in {streams} streams"),
            places.shape(),
        ));
    }
    if let Some(Sections { sizes, .. }) = sections
        && sizes.iter().sum::<usize>() != pairs
    {
        return Err(mismatch("the sections of a rotary embedding do not sum to its angles")
            .expected(pairs.to_string())
            .actual(format!("{sizes:?}")));
    }
    let limit = rotation.positions();
    let position = |stream: usize, sequence: usize, row: usize| -> Result<usize> {
        let number = match is_offset {
            true => given_positions[0].checked_add(row as i64),
            false => given_positions.get((stream * batch + sequence) * rows + row).copied(),
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
            match sections {
                None => rotation.apply(position(0, sequence, row)?, values),
                Some(sections) => {
                    let mut places = [0; 3];
                    for (stream, place) in places.iter_mut().enumerate() {
                        *place = position(stream, sequence, row)?;
                    }
                    rotation.apply_by(values, |pair| places[sections.of(pair)]);
                }
            }
        }
    }
    floats(x.dtype(), x.shape(), values)
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::{TestNode, f32s, i64s};
    use crate::{error::ErrorCode, graph::OperatorId};

    fn node(name: &str) -> TestNode {
        TestNode::of(OperatorId::new("com.microsoft", name, 1))
    }

    #[test]
    fn a_quarter_turn_swaps_the_elements_of_a_pair() {
        // Position 0 stays, position 1 turns.
        let turned = |interleaved: i64| {
            node("RotaryEmbedding")
                .attr("interleaved", interleaved)
                .input(f32s(&[1, 2, 4], &[1.0, 2.0, 3.0, 4.0, 1.0, 2.0, 3.0, 4.0]))
                .input(i64s(&[1], &[0]))
                .input(f32s(&[2, 2], &[1.0, 1.0, 0.0, 0.0]))
                .input(f32s(&[2, 2], &[0.0, 0.0, 1.0, 1.0]))
                .run1()
                .unwrap()
        };
        assert_eq!(turned(0), f32s(&[1, 2, 4], &[1.0, 2.0, 3.0, 4.0, -3.0, -4.0, 1.0, 2.0]));
        assert_eq!(turned(1), f32s(&[1, 2, 4], &[1.0, 2.0, 3.0, 4.0, -2.0, 1.0, -4.0, 3.0]));
    }

    #[test]
    fn sections_take_their_angles_from_their_own_positions() {
        let turned = |layout: i64, sections: [i64; 3]| {
            let node = node("MRotaryEmbedding")
                .attr("interleaved", 1i64)
                .attr("mrope_layout", layout)
                .attr("mrope_section", sections)
                .input(f32s(&[1, 1, 6], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]))
                .input(i64s(&[3, 1, 1], &[0, 1, 0]))
                .input(f32s(&[2, 3], &[1.0, 1.0, 1.0, 0.0, 0.0, 0.0]));
            node.input(f32s(&[2, 3], &[0.0, 0.0, 0.0, 1.0, 1.0, 1.0])).run1()
        };
        let second = f32s(&[1, 1, 6], &[1.0, 2.0, -4.0, 3.0, 5.0, 6.0]);
        assert_eq!(turned(0, [1, 1, 1]).unwrap(), second);
        assert_eq!(turned(1, [1, 1, 1]).unwrap(), second);
        let last = f32s(&[1, 1, 6], &[1.0, 2.0, -4.0, 3.0, -6.0, 5.0]);
        assert_eq!(turned(0, [1, 2, 0]).unwrap(), last);
        assert_eq!(turned(0, [1, 1, 2]).unwrap_err().code(), ErrorCode::ShapeMismatch);
    }

    #[test]
    fn positions_without_angles_are_errors() {
        for position in [2, -1, i64::MAX] {
            let node = node("RotaryEmbedding")
                .input(f32s(&[1, 1, 2], &[1.0, 2.0]))
                .input(i64s(&[1, 1], &[position]))
                .input(f32s(&[2, 1], &[1.0, 1.0]))
                .input(f32s(&[2, 1], &[0.0, 0.0]));
            assert_eq!(node.run().unwrap_err().code(), ErrorCode::ShapeMismatch);
        }
    }
}
