//! The parts of ONNX's `FlexAttention`, between which graphs of the model's own may stand.

use super::{Call, Whole, sum_of_products, whole};
use crate::{
    cpu::kernel::CpuKernel,
    error::{Error, Result},
    graph::Node,
    ops::{
        CpuLowering, InferContext, Operator,
        context::{equal_dims, rank_error},
        lower::{invalid, mismatch},
    },
    tensor::{DType, Dim, Tensor, display_shape},
};

/// ONNX `FlexAttention` (ai.onnx.preview, version 1): `prob_mod(softmax(score_mod(scale * Q · Kᵀ))) · V`, queries
/// `[B, H, S, D]`, keys and values `[B, Hkv, T, D]`, where Hkv divides H. The optimizer replaces it by its parts.
#[derive(Debug)]
struct FlexAttention;

/// Makes [`FlexAttention`].
pub fn make(_: &Node) -> Result<Box<dyn Operator>> {
    Ok(Box::new(FlexAttention))
}

impl Operator for FlexAttention {
    fn infer(&self, ctx: &mut InferContext<'_>) -> Result<()> {
        let dtype = ctx.dtype(2)?;
        let shape = match (ctx.shape(0), ctx.shape(2)) {
            (Some([batch, heads, queries, _]), Some([_, _, _, size])) => {
                Some([batch, heads, queries, size].map(Dim::clone).to_vec())
            }
            _ => None,
        };
        ctx.set_output(0, dtype, shape);
        Ok(())
    }

    fn cpu(&self, _: &CpuLowering<'_>) -> Result<CpuKernel> {
        Err(Error::internal("a FlexAttention that was not replaced by its parts"))
    }
}

/// The scores of queries and keys, `scale * Q · Kᵀ` (by default one over the root of the head's size), in the type of
/// `softmax_precision`, by default f32, or f64 for f64.
#[derive(Debug)]
struct Scores {
    scale: Option<f32>,
    precision: Option<DType>,
}

/// Makes [`Scores`].
pub fn make_scores(node: &Node) -> Result<Box<dyn Operator>> {
    let precision = match node.attributes.int("softmax_precision")? {
        None => None,
        Some(number) => {
            let dtype = i32::try_from(number).ok().and_then(DType::from_onnx);
            let is_float = |dtype: &DType| matches!(dtype, DType::F16 | DType::BF16 | DType::F32 | DType::F64);
            let dtype = dtype.filter(is_float);
            Some(dtype.ok_or_else(|| {
                invalid("attribute softmax_precision is not a floating-point type").actual(number.to_string())
            })?)
        }
    };
    whole(Scores {
        scale: node.attributes.float("scale")?,
        precision,
    })
}

impl Scores {
    fn dtype(&self, input: DType) -> DType {
        self.precision.unwrap_or(match input {
            DType::F64 => DType::F64,
            _ => DType::F32,
        })
    }
}

/// The sizes of queries (or their weights) and of the keys or values that they share.
fn check_heads(queries: &Tensor, shared: &Tensor) -> Result<[usize; 4]> {
    match (queries.shape(), shared.shape()) {
        (&[batch, heads, rows, width], &[shared_batch, shared_heads, ..])
            if shared.shape().len() == 4
                && batch == shared_batch
                && shared_heads > 0
                && heads.is_multiple_of(shared_heads) =>
        {
            Ok([batch, heads, rows, width])
        }
        (queries, shared) => Err(mismatch("keys or values do not fit the queries")
            .expected("[B, H, S, D] and [B, a divisor of H, ..]")
            .actual(format!("{} and {}", display_shape(queries), display_shape(shared)))),
    }
}

fn cast(tensor: &Tensor, dtype: DType) -> Result<Tensor> {
    match tensor.dtype() == dtype {
        true => Ok(tensor.clone()),
        false => Tensor::from_f64s(dtype, tensor.shape(), &tensor.to_f64s()?),
    }
}

/// Queries with the heads that share keys together.
fn grouped(tensor: &Tensor, shared_heads: usize, [batch, heads, rows, width]: [usize; 4]) -> Result<Tensor> {
    tensor.reshaped(&[batch, shared_heads, heads / shared_heads, rows, width])
}

impl Whole for Scores {
    fn kernel_name(&self) -> &'static str {
        "attention_scores"
    }

    fn infer(&self, ctx: &mut InferContext<'_>) -> Result<()> {
        let dtype = self.dtype(ctx.dtype(0)?);
        let shape = match (ctx.shape(0), ctx.shape(1)) {
            (Some([batch, heads, queries, size]), Some([_, _, keys, key_size])) => {
                equal_dims(size, key_size, "head size")?;
                Some([batch, heads, queries, keys].map(Dim::clone).to_vec())
            }
            (Some(queries), Some(_)) => return Err(rank_error(0, "4, as input 1 has", queries.len())),
            _ => None,
        };
        ctx.set_output(0, dtype, shape);
        Ok(())
    }

    fn run(&self, call: &Call<'_>) -> Result<Vec<Tensor>> {
        let (queries, keys) = (call.input(0)?, call.input(1)?);
        let sizes @ [batch, heads, rows, size] = check_heads(queries, keys)?;
        let dtype = self.dtype(queries.dtype());
        // Half-precision products are rounded to their own type only after the scale.
        let wide = if dtype == DType::F64 { DType::F64 } else { DType::F32 };
        let groups = grouped(&cast(queries, wide)?, keys.shape()[1], sizes)?;
        let products = sum_of_products("bhgld,bhsd->bhgls", &[Some(groups), Some(cast(keys, wide)?)])?;
        let scale = self.scale.map_or(1.0 / (size as f64).sqrt(), f64::from);
        let mut values = products.to_f64s()?;
        values.iter_mut().for_each(|value| *value *= scale);
        Ok(vec![Tensor::from_f64s(
            dtype,
            &[batch, heads, rows, keys.shape()[2]],
            &values,
        )?])
    }
}

/// The values of keys weighted by the probabilities of the queries, `P · V`, in V's type.
#[derive(Debug)]
struct Values;

/// Makes [`Values`].
pub fn make_values(_: &Node) -> Result<Box<dyn Operator>> {
    whole(Values)
}

impl Whole for Values {
    fn kernel_name(&self) -> &'static str {
        "attention_values"
    }

    fn infer(&self, ctx: &mut InferContext<'_>) -> Result<()> {
        let dtype = ctx.dtype(1)?;
        let shape = match (ctx.shape(0), ctx.shape(1)) {
            (Some([batch, heads, queries, _]), Some([_, _, _, size])) => {
                Some([batch, heads, queries, size].map(Dim::clone).to_vec())
            }
            (Some(weights), Some(_)) => return Err(rank_error(0, "4, as input 1 has", weights.len())),
            _ => None,
        };
        ctx.set_output(0, dtype, shape);
        Ok(())
    }

    fn run(&self, call: &Call<'_>) -> Result<Vec<Tensor>> {
        let (weights, values) = (call.input(0)?, call.input(1)?);
        let sizes @ [batch, heads, rows, _] = check_heads(weights, values)?;
        let dtype = values.dtype();
        let groups = grouped(weights, values.shape()[1], sizes)?;
        let products = sum_of_products(
            "bhgls,bhsv->bhglv",
            &[Some(groups), Some(cast(values, weights.dtype())?)],
        )?;
        let result = products.reshaped(&[batch, heads, rows, values.shape()[3]])?;
        Ok(vec![cast(&result, dtype)?])
    }
}

#[cfg(test)]
mod tests {
    use crate::{
        graph::OperatorId,
        ops::testing::{TestNode, f32s, tensor},
        tensor::Tensor,
    };

    fn part(name: &str, a: Tensor, b: Tensor) -> crate::error::Result<Tensor> {
        TestNode::of(OperatorId::internal(name)).input(a).input(b).run1()
    }

    #[test]
    fn heads_share_keys_and_values() {
        let queries = f32s(&[1, 2, 1, 1], &[2.0, 3.0]);
        let keys = f32s(&[1, 1, 2, 1], &[1.0, 10.0]);
        let scores = part("AttentionScores", queries.clone(), keys.clone()).unwrap();
        assert_eq!(scores, f32s(&[1, 2, 1, 2], &[2.0, 20.0, 3.0, 30.0]));
        let values = tensor(&[1, 1, 2, 1], &[1.0, 0.5].map(half::f16::from_f32));
        let result = part("AttentionValues", scores, values).unwrap();
        assert_eq!(result, tensor(&[1, 2, 1, 1], &[12.0, 18.0].map(half::f16::from_f32)));
        assert!(part("AttentionScores", queries.clone(), f32s(&[1, 1, 1, 2], &[1.0; 2])).is_err());
        assert!(part("AttentionScores", queries, f32s(&[1, 3, 1, 1], &[1.0; 3])).is_err());
    }
}
