//! ONNX `RotaryEmbedding`.

use super::{Call, Whole, outside, singles, whole, zeros};
use crate::{
    error::Result,
    gpu::{
        kernel::{Binding, Check, GpuKernel},
        kernels::attention::{Positions, Preparation, Rows, Turn},
    },
    graph::Node,
    ops::{
        GpuLowering, InferContext, Operator,
        context::rank_error,
        lower::{invalid, mismatch},
    },
    tensor::{DType, Tensor, display_shape},
};

/// ONNX `RotaryEmbedding` (opset 23): pairs of elements of each head rotated by the angle of their row. Input
/// `[B, H, S, D]`, or `[B, S, H * D]` with `num_heads`; cosines and sines `[positions, R / 2]` chosen by `position_ids`,
/// or `[B, S, R / 2]`, where R is `rotary_embedding_dim` or the whole head; the rest of a head stays as it is.
#[derive(Debug)]
struct RotaryEmbedding {
    interleaved: bool,
    rotated: usize,
    heads: usize,
}

/// Makes [`RotaryEmbedding`].
pub fn make(node: &Node) -> Result<Box<dyn Operator>> {
    let size = |name: &str| -> Result<usize> {
        let value = node.attributes.int(name)?.unwrap_or(0);
        usize::try_from(value).map_err(|_| invalid(format!("attribute {name} is negative")).actual(value.to_string()))
    };
    whole(RotaryEmbedding {
        interleaved: node.attributes.flag("interleaved", false)?,
        rotated: size("rotary_embedding_dim")?,
        heads: size("num_heads")?,
    })
}

impl Whole for RotaryEmbedding {
    fn kernel_name(&self) -> &'static str {
        "rotary_embedding"
    }

    fn infer(&self, ctx: &mut InferContext<'_>) -> Result<()> {
        if let Some(rank) = ctx.rank(0).filter(|rank| !matches!(rank, 3 | 4)) {
            return Err(rank_error(0, "3 or 4", rank));
        }
        ctx.copy_type(0, 0)
    }

    fn gpu(&self, ctx: &GpuLowering<'_>) -> Result<Option<GpuKernel>> {
        let (shape, angles) = (&ctx.input(0)?.shape, &ctx.input(1)?.shape);
        let f32_only = (0..3).all(|index| ctx.optional_input(index).is_some_and(|desc| desc.dtype == DType::F32));
        let (batch, heads, rows, size, steps) = match **shape {
            [batch, heads, rows, size] => (batch, heads, rows, size, [heads * rows * size, rows * size, size]),
            [batch, rows, width] if self.heads > 0 && width % self.heads == 0 => {
                let size = width / self.heads;
                (batch, self.heads, rows, size, [rows * width, size, width])
            }
            _ => return Ok(None),
        };
        let rotated = if self.rotated == 0 { size } else { self.rotated };
        let positions = ctx.optional_input(3);
        let table = match (positions, &angles[..]) {
            (Some(ids), &[table, half]) if ids.shape == [batch, rows] && 2 * half == rotated => table,
            (None, &[b, s, half]) if (b, s) == (batch, rows) && 2 * half == rotated => batch * rows,
            _ => return Ok(None),
        };
        if !f32_only || rotated > size || ctx.input(2)?.shape != *angles || table == 0 {
            return Ok(None);
        }
        let checks = match positions {
            Some(_) => ctx.checked(3, Check::Between(0, table as i64 - 1)),
            None => Some(Vec::new()),
        };
        let Some(checks) = checks else { return Ok(None) };
        if shape.contains(&0) {
            return Ok(Some(GpuKernel::default()));
        }
        let rows_of = |binding: Binding| Rows {
            binding,
            start: 0,
            steps,
        };
        let turn = Turn {
            cosines: Binding::Input(1),
            sines: Binding::Input(2),
            half: rotated / 2,
            table,
            interleaved: self.interleaved,
            positions: match positions {
                Some(_) => Positions::Given {
                    binding: Binding::Input(3),
                    steps: [rows, 1],
                    run: 0,
                },
                None => Positions::Own,
            },
        };
        let preparation = Preparation {
            turn: Some(turn),
            ..Preparation::default()
        };
        let sizes = [batch, heads, rows, size];
        let dispatch = preparation.dispatch(
            &rows_of(Binding::Input(0)),
            sizes,
            &rows_of(Binding::Output(0)),
            ctx.caps,
        );
        Ok(dispatch.map(|dispatch| GpuKernel {
            checks,
            ..GpuKernel::of(vec![dispatch])
        }))
    }

    fn takes_narrowed(&self) -> bool {
        true
    }

    fn run(&self, call: &Call<'_>) -> Result<Vec<Tensor>> {
        let (tensor, cos, sin) = (call.input(0)?, call.input(1)?, call.input(2)?);
        // Sizes and, in the order of memory, whether heads come before rows.
        let (batch, heads, rows, size, heads_first) = match *tensor.shape() {
            [batch, heads, rows, size] => (batch, heads, rows, size, true),
            [batch, rows, width] if self.heads > 0 && width % self.heads == 0 => {
                (batch, self.heads, rows, width / self.heads, false)
            }
            _ => {
                return Err(mismatch("the input does not divide into heads")
                    .expected(format!("[B, H, S, D], or [B, S, {} * D]", self.heads))
                    .actual(display_shape(tensor.shape())));
            }
        };
        let rotated = if self.rotated == 0 { size } else { self.rotated };
        let half = rotated / 2;
        if rotated > size || rotated % 2 != 0 {
            return Err(mismatch("the rotated part is not an even part of a head")
                .expected(format!("at most {size}"))
                .actual(rotated.to_string()));
        }
        let positions = match call.optional(3) {
            Some(ids) if ids.shape() != [batch, rows] => {
                return Err(mismatch("the positions are not one for each row")
                    .expected(display_shape(&[batch, rows]))
                    .actual(display_shape(ids.shape())));
            }
            Some(ids) => Some(ids.to_i64s()?),
            None => None,
        };
        let table = match *cos.shape() {
            [table, width] if positions.is_some() && width == half => table,
            [b, s, width] if positions.is_none() && (b, s, width) == (batch, rows, half) => batch * rows,
            _ => {
                return Err(mismatch("the cosines do not fit the rotated part")
                    .expected(match &positions {
                        Some(_) => format!("[positions, {half}]"),
                        None => display_shape(&[batch, rows, half]),
                    })
                    .actual(display_shape(cos.shape())));
            }
        };
        if sin.shape() != cos.shape() {
            return Err(mismatch("the sines have another shape than the cosines").actual(display_shape(sin.shape())));
        }
        let (cos, sin, data) = (cos.to_f32s()?, sin.to_f32s()?, tensor.to_f32s()?);
        let mut result: Vec<f32> = zeros(tensor.shape())?;
        result.copy_from_slice(&data);
        for (number, head) in result.chunks_exact_mut(size.max(1)).enumerate() {
            let row = match heads_first {
                true => number / (heads * rows) * rows + number % rows,
                false => number / heads,
            };
            let angle = match &positions {
                Some(positions) => {
                    let position = positions[row];
                    let index = usize::try_from(position).ok().filter(|&index| index < table);
                    index.ok_or_else(|| outside(position, table))?
                }
                None => row,
            };
            let (cos, sin) = (&cos[angle * half..][..half], &sin[angle * half..][..half]);
            for pair in 0..half {
                let (first, second) = match self.interleaved {
                    true => (2 * pair, 2 * pair + 1),
                    false => (pair, pair + half),
                };
                let (x, y) = (head[first], head[second]);
                head[first] = x * cos[pair] - y * sin[pair];
                head[second] = x * sin[pair] + y * cos[pair];
            }
        }
        Ok(vec![singles(tensor.dtype(), tensor.shape(), result)?])
    }
}

#[cfg(test)]
mod tests {
    use crate::ops::testing::{TestNode, f32s, i64s};

    #[test]
    fn pairs_are_rotated_by_the_angle_of_their_position() {
        let node = |interleaved: i64, rotated: i64, position: i64| {
            TestNode::new("RotaryEmbedding", 23)
                .attr("interleaved", interleaved)
                .attr("rotary_embedding_dim", rotated)
                .input(f32s(&[1, 1, 1, 4], &[1.0, 2.0, 3.0, 4.0]))
                .input(f32s(&[2, 2], &[1.0, 1.0, 0.0, 0.0]))
                .input(f32s(&[2, 2], &[0.0, 0.0, 1.0, 1.0]))
                .input(i64s(&[1, 1], &[position]))
                .run1()
        };
        assert_eq!(node(0, 0, 1).unwrap(), f32s(&[1, 1, 1, 4], &[-3.0, -4.0, 1.0, 2.0]));
        assert_eq!(node(1, 4, 1).unwrap(), f32s(&[1, 1, 1, 4], &[-2.0, 1.0, -4.0, 3.0]));
        assert_eq!(node(0, 0, 0).unwrap(), f32s(&[1, 1, 1, 4], &[1.0, 2.0, 3.0, 4.0]));
        assert!(node(0, 0, 2).is_err());
        assert!(node(0, 0, -1).is_err());
        assert!(node(0, 2, 0).is_err());
        assert!(node(0, 6, 0).is_err());
    }

    #[test]
    fn packed_heads_use_the_cosines_of_their_row() {
        let node = TestNode::new("RotaryEmbedding", 23)
            .attr("num_heads", 2)
            .input(f32s(&[1, 2, 4], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]))
            .input(f32s(&[1, 2, 1], &[1.0, 0.0]))
            .input(f32s(&[1, 2, 1], &[0.0, 1.0]));
        assert_eq!(
            node.run1().unwrap(),
            f32s(&[1, 2, 4], &[1.0, 2.0, 3.0, 4.0, -6.0, 5.0, -8.0, 7.0])
        );
    }
}
