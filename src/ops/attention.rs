//! The internal `FusedAttention`, which `optimize/attention.rs` makes of two matrix products with a softmax between them.

use super::{
    ALL_OPERATORS, CpuLowering, GpuLowering, InferContext, Operator, TensorDesc,
    context::{broadcast_dims, equal_dims, rank_error},
    epilogue::{CpuEpilogue, GpuEpilogue, OwnSteps, OwnValues, Rows, gpu_epilogue_of},
    lower::mismatch,
};
use crate::{
    cpu::{
        dot_attention::{DotAttention, OnNan, Operands, View},
        kernel::{CpuKernel, scratch_as_f32},
    },
    error::Result,
    gpu::{
        kernel::{Binding, GpuKernel},
        kernels::dot_attention as gpu,
    },
    graph::Node,
    tensor::{DType, Dim, display_shape, resolve_axis},
};

/// `softmax(scores(scale * Q · K)) · V` of f32, the softmax along the last axis: Q `[.., q, d]`, K `[.., d, k]`, V `[.., k, v]`,
/// whose leading axes broadcast as MatMul's do. The node's epilogue is `scores`: it applies to the scores `[.., q, k]`, not to
/// the output.
///
/// `perm_q`, `perm_k`, `perm_v` permute the axes of an input before it is looked at so, and `perm_out` those of the output
/// `[.., q, v]` afterwards, as Transpose does. `repeats_k` and `repeats_v` have each head of the keys or values, on the last axis
/// but two, seen so many times in a row. Nothing is moved for any of it. With `zero_nan` weights that are no number are 0.
#[derive(Debug)]
struct FusedAttention {
    scale: f32,
    permutations: [Option<Vec<i64>>; 4],
    /// Of queries, keys and values.
    repeats: [i64; 3],
    on_nan: OnNan,
}

/// The attributes that permute the inputs and the output.
pub const PERMUTATIONS: [&str; 4] = ["perm_q", "perm_k", "perm_v", "perm_out"];

/// The attributes that repeat the heads of keys and values.
pub const REPEATS: [&str; 2] = ["repeats_k", "repeats_v"];

/// Makes [`FusedAttention`].
pub fn make(node: &Node) -> Result<Box<dyn Operator>> {
    let attributes = &node.attributes;
    let mut permutations = [const { None }; 4];
    for (name, permutation) in PERMUTATIONS.iter().zip(&mut permutations) {
        *permutation = attributes.ints(name)?.map(<[i64]>::to_vec);
    }
    let mut repeats = [1; 3];
    for (name, repeats) in REPEATS.iter().zip(&mut repeats[1..]) {
        *repeats = attributes.int(name)?.unwrap_or(1).max(1);
    }
    Ok(Box::new(FusedAttention {
        scale: attributes.float("scale")?.unwrap_or(1.0),
        permutations,
        repeats,
        on_nan: match attributes.flag("zero_nan", false)? {
            true => OnNan::Zero,
            false => OnNan::Keep,
        },
    }))
}

impl FusedAttention {
    fn permutation(&self, of: usize, rank: usize) -> Result<Vec<usize>> {
        let Some(list) = &self.permutations[of] else {
            return Ok((0..rank).collect());
        };
        let axes = list.iter().map(|&axis| resolve_axis(axis, rank));
        let axes = axes.collect::<Result<Vec<_>>>()?;
        let mut sorted = axes.clone();
        sorted.sort_unstable();
        if !sorted.into_iter().eq(0..rank) {
            return Err(mismatch("a permutation does not fit the rank"));
        }
        Ok(axes)
    }

    fn plan(&self, inputs: [&TensorDesc; 3], rank: usize) -> Result<DotAttention> {
        let mut permutations = Vec::with_capacity(4);
        for (of, input) in inputs.iter().enumerate() {
            permutations.push(self.permutation(of, input.shape.len())?);
        }
        let out = self.permutation(3, rank)?;
        let view = |of: usize| View {
            shape: &inputs[of].shape,
            permutation: &permutations[of],
            repeats: self.repeats[of] as usize,
        };
        DotAttention::new(view(0), view(1), view(2), &out, self.on_nan).ok_or_else(|| {
            let shapes = inputs.map(|input| display_shape(&input.shape));
            mismatch("queries, keys and values do not fit together").actual(shapes.join(", "))
        })
    }
}

impl Operator for FusedAttention {
    fn infer(&self, ctx: &mut InferContext<'_>) -> Result<()> {
        let dtype = ctx.dtype(0)?;
        let mut seen: Vec<Vec<Dim>> = Vec::with_capacity(3);
        for of in 0..3 {
            let Some(shape) = ctx.shape(of) else {
                ctx.set_output(0, dtype, None);
                return Ok(());
            };
            let axes = self.permutation(of, shape.len())?;
            let mut sizes: Vec<Dim> = axes.into_iter().map(|axis| shape[axis].clone()).collect();
            if let [.., heads, _, _] = &mut sizes[..] {
                *heads = heads.clone() * Dim::from(self.repeats[of]);
            }
            seen.push(sizes);
        }
        let [
            [q_lead @ .., queries, q_size],
            [k_lead @ .., k_size, keys],
            [v_lead @ .., v_keys, size],
        ] = [&seen[0][..], &seen[1], &seen[2]]
        else {
            return Err(rank_error(0, "at least 2", 0));
        };
        equal_dims(q_size, k_size, "size of queries and keys")?;
        equal_dims(keys, v_keys, "number of keys and values")?;
        let lead = match broadcast_dims(q_lead, k_lead)? {
            Some(lead) => broadcast_dims(&lead, v_lead)?,
            None => None,
        };
        let Some(mut shape) = lead else {
            ctx.set_output(0, dtype, None);
            return Ok(());
        };
        shape.extend([queries.clone(), size.clone()]);
        let out = self.permutation(3, shape.len())?;
        let shape = out.into_iter().map(|axis| shape[axis].clone()).collect();
        ctx.set_output(0, dtype, Some(shape));
        Ok(())
    }

    fn cpu(&self, ctx: &CpuLowering<'_>) -> Result<CpuKernel> {
        let inputs = [ctx.input(0)?, ctx.input(1)?, ctx.input(2)?];
        if let Some(index) = inputs.iter().position(|input| input.dtype != DType::F32) {
            return Err(ctx.unsupported_type(index));
        }
        let plan = self.plan(inputs, ctx.output(0)?.shape.len())?;
        let scores = plan.scores();
        let rows = Rows {
            shape: &scores,
            split: scores.len() - 1,
            bias_by_channel: false,
        };
        let own = OwnSteps {
            alpha: self.scale,
            ..OwnSteps::NONE
        };
        let epilogue = CpuEpilogue::new(ctx, &rows, own)?;
        let epilogue_len = epilogue.scratch_len().next_multiple_of(4);
        let scratch_bytes = (epilogue_len + plan.scratch_len(ctx.threads)) * 4;
        Ok(CpuKernel::compute_with_scratch(
            "attention_f32",
            scratch_bytes,
            move |io| {
                let operands = Operands {
                    q: io.inputs.get(0)?,
                    k: io.inputs.get(1)?,
                    v: io.inputs.get(2)?,
                };
                let out = io.outputs.take::<f32>(0)?;
                let (own, scratch) = scratch_as_f32(io.scratch).split_at_mut(epilogue_len);
                epilogue.with(&io.inputs, OwnValues::default(), own, &mut |epilogue| {
                    plan.run(operands, out, scratch, epilogue, io.threads);
                })
            },
        ))
    }

    fn gpu(&self, ctx: &GpuLowering<'_>) -> Result<Option<GpuKernel>> {
        let inputs = [ctx.input(0)?, ctx.input(1)?, ctx.input(2)?];
        if !ALL_OPERATORS || inputs.iter().any(|input| input.dtype != DType::F32) {
            return Ok(None);
        }
        let plan = self.plan(inputs, ctx.output(0)?.shape.len())?;
        let GpuEpilogue::Takes(epilogue) = gpu_epilogue_of(ctx, &plan.scores())? else {
            return Ok(None);
        };
        let [queries, keys, head_size, value_size] = plan.sizes();
        let [q, k, v, out] = plan.matrices();
        let heads = gpu::Heads {
            queries,
            keys,
            head_size,
            value_size,
            axes: plan.axes().to_vec(),
            bindings: [
                Binding::Input(0),
                Binding::Input(1),
                Binding::Input(2),
                Binding::Output(0),
            ],
            starts: [0; 4],
            // Keys are columns of K.
            rows: [q.row, k.column, v.row, out.row],
            columns: [q.column, k.row, v.column, out.column],
        };
        let attention = gpu::DotAttention {
            scale: self.scale,
            epilogue: epilogue.as_ref(),
            zero_nan: self.on_nan == OnNan::Zero,
        };
        Ok(heads.attention(&attention, ctx.caps))
    }

    fn is_heavy(&self) -> bool {
        true
    }

    fn operations(&self, inputs: &[Vec<usize>], outputs: u64) -> u64 {
        let axes = self.permutation(2, inputs[2].len()).unwrap_or_default();
        let keys = axes.iter().rev().nth(1).map_or(1, |&axis| inputs[2][axis] as u64);
        2 * keys * (outputs + inputs[0].iter().product::<usize>() as u64)
    }
}
