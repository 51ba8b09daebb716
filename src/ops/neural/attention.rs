//! ONNX `Attention`.

use std::ops::Range;

use super::{Call, Whole, singles, whole, zeros};
use crate::{
    cpu::attention::{Attention as Core, AttentionShape, Heads, ScoreRow, Strides, soft_cap},
    error::Result,
    gpu::{
        kernel::{Access, Binding, Check, GpuKernel},
        kernels::attention::{self as gpu, Before, Lengths, Rest, Rows},
    },
    graph::Node,
    ops::{
        GpuLowering, InferContext, Operator, TensorDesc,
        context::{equal_dims, rank_error},
        lower::{invalid, mismatch, unsupported},
    },
    tensor::{AlignedBytes, DType, Dim, Tensor, broadcast_shapes, display_shape, element_count, strides_of},
};

/// ONNX `Attention` (opsets 23, 24, 25): `softmax(scale * Q · Kᵀ + mask) · V` for queries `[B, Hq, S, D]` and keys and
/// values `[B, Hkv, T, D]`, or `[B, S, H * D]` with the numbers of heads as attributes. Hkv divides Hq. Masks are bool
/// (true takes part) or numbers that are added, and broadcast. Outputs: the result; the keys and the values with the
/// past ones in front; the scores at the step that `qk_matmul_output_mode` names. Computed in f32.
#[derive(Debug)]
struct Attention {
    causal: bool,
    scale: Option<f32>,
    soft_cap: f32,
    heads: Option<usize>,
    kv_heads: Option<usize>,
    recorded: Recorded,
    /// Keys that a query sees before and behind its own position, when that is bounded.
    window: [Option<i64>; 2],
}

/// Which scores the fourth output holds.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Recorded {
    Raw,
    Capped,
    Biased,
    Weights,
}

/// Makes [`Attention`].
pub fn make(node: &Node) -> Result<Box<dyn Operator>> {
    let attributes = &node.attributes;
    let count = |name: &str| -> Result<Option<usize>> {
        match attributes.int(name)? {
            None | Some(0) => Ok(None),
            Some(value) => match usize::try_from(value).ok().filter(|&value| value <= 1 << 20) {
                Some(count) => Ok(Some(count)),
                None => Err(invalid(format!("attribute {name} is not a number of heads")).actual(value.to_string())),
            },
        }
    };
    let window = |name: &str| match attributes.int(name)?.unwrap_or(-1) {
        -1 => Ok(None),
        size if size >= 0 => Ok(Some(size)),
        size => Err(invalid(format!("attribute {name} is neither a size nor -1")).actual(size.to_string())),
    };
    let recorded = match attributes.int("qk_matmul_output_mode")?.unwrap_or(0) {
        0 => Recorded::Raw,
        1 => Recorded::Capped,
        2 => Recorded::Biased,
        3 => Recorded::Weights,
        mode => return Err(invalid("attribute qk_matmul_output_mode is not one of 0 to 3").actual(mode.to_string())),
    };
    if let Some(precision) = attributes.int("softmax_precision")?
        && !matches!(precision, 1 | 10 | 11 | 16)
    {
        return Err(invalid("attribute softmax_precision is not a floating-point type").actual(precision.to_string()));
    }
    whole(Attention {
        causal: attributes.flag("is_causal", false)?,
        scale: attributes.float("scale")?,
        soft_cap: attributes.float("softcap")?.unwrap_or(0.0),
        heads: count("q_num_heads")?,
        kv_heads: count("kv_num_heads")?,
        recorded,
        window: [window("left_window_size")?, window("right_window_size")?],
    })
}

impl Attention {
    /// The numbers of heads of `[B, S, H * D]` inputs.
    fn packed_heads(&self) -> Result<(usize, usize)> {
        match (self.heads, self.kv_heads) {
            (Some(heads), Some(kv_heads)) => Ok((heads, kv_heads)),
            _ => Err(invalid(
                "inputs of three dimensions want attributes q_num_heads and kv_num_heads",
            )),
        }
    }

    /// Heads, rows and size of an input, whose batch size comes first.
    fn parts(tensor: &Tensor, heads: usize) -> Result<[usize; 4]> {
        match *tensor.shape() {
            [batch, heads, rows, size] => Ok([batch, heads, rows, size]),
            [batch, rows, width] if heads > 0 && width % heads == 0 => Ok([batch, heads, rows, width / heads]),
            _ => Err(mismatch("an input does not divide into heads")
                .expected(format!("[B, H, S, D], or [B, S, {heads} * D]"))
                .actual(display_shape(tensor.shape()))),
        }
    }
}

impl Attention {
    /// The GPU kernel, when everything is f32 and the shapes fit together.
    fn on_gpu(&self, ctx: &GpuLowering<'_>) -> Option<GpuKernel> {
        let shape = |index: usize| Some(&ctx.optional_input(index)?.shape[..]);
        let floats = [0, 1, 2, 4, 5]
            .into_iter()
            .filter_map(|index| ctx.optional_input(index));
        if { floats }.any(|desc| desc.dtype != DType::F32) {
            return None;
        }
        let (q_shape, k_shape, v_shape) = (shape(0)?, shape(1)?, shape(2)?);
        let is_packed = q_shape.len() == 3;
        let parts = |shape: &[usize], heads: Option<usize>| match (shape, heads) {
            (&[batch, heads, rows, size], _) if !is_packed => Some([batch, heads, rows, size]),
            (&[batch, rows, width], Some(heads)) if is_packed && width % heads == 0 => {
                Some([batch, heads, rows, width / heads])
            }
            _ => None,
        };
        let [batch, heads, queries, head_size] = parts(q_shape, self.heads)?;
        let k_parts @ [_, kv_heads, new_keys, _] = parts(k_shape, self.kv_heads)?;
        let v_parts @ [.., value_size] = parts(v_shape, self.kv_heads)?;
        if k_parts != [batch, kv_heads, new_keys, head_size]
            || v_parts != [batch, kv_heads, new_keys, value_size]
            || kv_heads == 0
            || heads % kv_heads != 0
        {
            return None;
        }
        let past = match (shape(4), shape(5)) {
            (Some(&[b, h, past, size]), Some(other)) => {
                let fits = [b, h, size] == [batch, kv_heads, head_size] && other == [batch, kv_heads, past, value_size];
                fits.then_some(Some(past))?
            }
            (None, None) => None,
            _ => return None,
        };
        let keys = past.unwrap_or(0) + new_keys;
        if [batch, heads, queries, keys, head_size, value_size].contains(&0) || past == Some(0) {
            return None;
        }
        let mut checks = Vec::new();
        let before = match shape(6) {
            Some(lengths) if lengths == [batch] && past.is_none() => {
                checks = ctx.checked(6, Check::Between(i64::from(i32::MIN), i64::from(i32::MAX)))?;
                Before::Lengths(Lengths {
                    binding: Binding::Input(6),
                    offset: 0,
                    is_prompt: false,
                })
            }
            Some(_) => return None,
            None => Before::Same(past.unwrap_or(0)),
        };
        let bias = match ctx.optional_input(3) {
            Some(mask) => Some(self.bias_on_gpu(mask, [batch, heads, queries, keys])?),
            None => None,
        };
        let rows = |binding: Binding, rows: usize, heads: usize, size: usize| match is_packed {
            true => Rows::row_by_row(binding, rows, heads, size),
            false => Rows::head_by_head(binding, heads, rows, size),
        };
        let mut kernel = GpuKernel {
            checks,
            ..GpuKernel::default()
        };
        let mut cached = |index: usize, size: usize| {
            let new = rows(Binding::Input(index), new_keys, kv_heads, size);
            let wanted = ctx.optional_output(index).is_some();
            if past.is_none() && !wanted {
                return Some(new);
            }
            let (to, from) = match wanted {
                true => (Binding::Output(index), Binding::Output(index)),
                false => {
                    kernel.scratch.push((batch * kv_heads * keys * size * 4) as u64);
                    let scratch = |access| Binding::Scratch(kernel.scratch.len() - 1, access);
                    (scratch(Access::ReadWrite), scratch(Access::Read))
                }
            };
            let cache = past.map(|past| (Binding::Input(index + 3), past));
            let sizes = [batch, kv_heads, new_keys, size];
            let before = Before::Same(past.unwrap_or(0));
            kernel.dispatches.push(gpu::append(
                cache,
                &before,
                &new,
                sizes,
                (keys, Rest::Past),
                to,
                ctx.caps,
            )?);
            Some(Rows::head_by_head(from, kv_heads, keys, size))
        };
        let (k, v) = (cached(1, head_size)?, cached(2, value_size)?);
        let record = ctx.optional_output(3).map(|_| gpu::Record {
            binding: Binding::Output(3),
            what: match self.recorded {
                Recorded::Raw => gpu::Recorded::Raw,
                Recorded::Capped => gpu::Recorded::Capped,
                Recorded::Biased => gpu::Recorded::Biased,
                Recorded::Weights => gpu::Recorded::Weights,
            },
            zero_outside: false,
        });
        let attention = gpu::Attention {
            batch,
            heads,
            kv_heads,
            queries,
            keys,
            head_size,
            value_size,
            q: rows(Binding::Input(0), queries, heads, head_size),
            k,
            v,
            to: rows(Binding::Output(0), queries, heads, value_size),
            scale: self.scale.unwrap_or(1.0 / (head_size as f32).sqrt()),
            soft_cap: self.soft_cap,
            causal: self.causal,
            window: self.window,
            before,
            bias,
            filter: None,
            sinks: None,
            record,
        };
        ctx.optional_output(0)?;
        kernel.dispatches.push(attention.dispatch(ctx.caps)?);
        Some(kernel)
    }

    fn bias_on_gpu(&self, mask: &TensorDesc, [batch, heads, queries, keys]: [usize; 4]) -> Option<gpu::Bias> {
        let given = *mask.shape.last()?;
        if mask.shape.len() > 4 || given > keys || given == 0 || !matches!(mask.dtype, DType::F32 | DType::Bool) {
            return None;
        }
        let mut padded = vec![1; 4 - mask.shape.len()];
        padded.extend_from_slice(&mask.shape);
        let strides = strides_of(&padded);
        let step = |axis: usize, size: usize| match padded[axis] {
            1 => Some(0),
            other => (other == size).then_some(strides[axis]),
        };
        Some(gpu::Bias {
            binding: Binding::Input(3),
            steps: [step(0, batch)?, step(1, heads)?, step(2, queries)?],
            keys: given,
            is_truth: mask.dtype == DType::Bool,
        })
    }
}

/// A mask as numbers to add, of which the last axis is as long as it was given.
struct Bias {
    values: Vec<f32>,
    /// Steps for batch, head and query; 0 where the mask is broadcast.
    steps: [usize; 3],
    keys: usize,
}

impl Bias {
    fn of(mask: &Tensor, [batch, heads, queries, keys]: [usize; 4]) -> Result<Bias> {
        let fits = || {
            let given = *mask.shape().last()?;
            if mask.shape().len() > 4 || given > keys {
                return None;
            }
            let mut padded = vec![1; 4 - mask.shape().len()];
            padded.extend_from_slice(mask.shape());
            let full = [batch, heads, queries, given];
            let broadcast = broadcast_shapes(&[padded.as_slice(), &full]).ok()?;
            (broadcast == full).then_some((padded, given))
        };
        let (shape, given) = fits().ok_or_else(|| {
            mismatch("the mask does not fit the scores")
                .expected(format!(
                    "a shape that broadcasts to {}",
                    display_shape(&[batch, heads, queries, keys])
                ))
                .actual(display_shape(mask.shape()))
        })?;
        let values = match mask.dtype() {
            DType::Bool => {
                let number = |allowed| if allowed != 0 { 0.0 } else { f32::NEG_INFINITY };
                mask.to_i64s()?.into_iter().map(number).collect()
            }
            dtype if dtype.is_float() => mask.to_f32s()?.into_owned(),
            _ => mask.to_f64s()?.into_iter().map(|value| value as f32).collect(),
        };
        let strides = strides_of(&shape);
        let step = |axis: usize| if shape[axis] == 1 { 0 } else { strides[axis] };
        Ok(Bias {
            values,
            steps: [step(0), step(1), step(2)],
            keys: given,
        })
    }

    fn row(&self, place: &ScoreRow) -> &[f32] {
        let start = place.batch * self.steps[0] + place.head * self.steps[1] + place.query * self.steps[2];
        self.values.get(start..start + self.keys).unwrap_or(&[])
    }
}

/// The past and new rows of a cache as one tensor `[B, H, past + new, D]`; `new` may be `[B, rows, H * D]`.
fn join(past: Option<&Tensor>, new: &Tensor, [batch, heads, rows, size]: [usize; 4]) -> Result<Tensor> {
    if past.is_none() && new.shape().len() == 4 {
        return Ok(new.clone());
    }
    let before = past.map_or(0, |past| past.shape()[2]);
    let shape = [batch, heads, before + rows, size];
    let width = new.dtype().byte_len(1).unwrap_or(0);
    let len = element_count(&shape)? * width;
    let mut memory = AlignedBytes::zeroed(len)?;
    let (old_len, row_len) = (before * size * width, size * width);
    if row_len > 0 {
        let source = new.bytes();
        let blocks = memory.as_mut().chunks_exact_mut((before + rows).max(1) * row_len);
        for (block, target) in blocks.enumerate() {
            let (old, fresh) = target.split_at_mut(old_len);
            if let Some(past) = past {
                old.copy_from_slice(&past.bytes()[block * old_len..(block + 1) * old_len]);
            }
            for (row, target) in fresh.chunks_exact_mut(row_len).enumerate() {
                let number = match new.shape().len() {
                    4 => block * rows + row,
                    _ => (block / heads * rows + row) * heads + block % heads,
                };
                target.copy_from_slice(&source[number * row_len..(number + 1) * row_len]);
            }
        }
    }
    Tensor::from_bytes(new.dtype(), &shape, memory)
}

fn heads_of<'a>(data: &'a [f32], tensor: &Tensor, [_, heads, rows, size]: [usize; 4]) -> Heads<'a> {
    match tensor.shape().len() {
        4 => Heads::head_by_head(data, heads, rows, size),
        _ => Heads::row_by_row(data, rows, heads, size),
    }
}

impl Whole for Attention {
    fn kernel_name(&self) -> &'static str {
        "attention"
    }

    fn infer(&self, ctx: &mut InferContext<'_>) -> Result<()> {
        let (dtype, value_dtype) = (ctx.dtype(0)?, ctx.dtype(2)?);
        let (Some(q), Some(k), Some(v)) = (ctx.shape(0), ctx.shape(1), ctx.shape(2)) else {
            for (index, dtype) in [dtype, dtype, value_dtype, dtype].into_iter().enumerate() {
                ctx.set_output(index, dtype, None);
            }
            return Ok(());
        };
        let ([batch, heads, queries, _], [_, kv_heads, keys, size], [_, _, _, value_size]) = match (q, k, v) {
            ([b, h, s, d], [kb, kh, t, kd], [vb, vh, vt, vd]) => (
                [b.clone(), h.clone(), s.clone(), d.clone()],
                [kb.clone(), kh.clone(), t.clone(), equal_dims(d, kd, "head size")?],
                [vb.clone(), vh.clone(), vt.clone(), vd.clone()],
            ),
            ([b, s, qw], [kb, t, kw], [vb, vt, vw]) => {
                let (heads, kv_heads) = self.packed_heads()?;
                let (heads, kv_heads) = (Dim::from(heads), Dim::from(kv_heads));
                (
                    [b.clone(), heads.clone(), s.clone(), qw.floor_div(&heads)],
                    [kb.clone(), kv_heads.clone(), t.clone(), kw.floor_div(&kv_heads)],
                    [vb.clone(), kv_heads.clone(), vt.clone(), vw.floor_div(&kv_heads)],
                )
            }
            _ => return Err(rank_error(0, "3 or 4, as inputs 1 and 2 have", q.len())),
        };
        let past = match ctx.shape(4) {
            Some([_, _, past, _]) => past.clone(),
            Some(shape) => return Err(rank_error(4, 4, shape.len())),
            None if ctx.has_input(4) => ctx.fresh_dim(),
            None => Dim::from(0),
        };
        let total = past + keys;
        let result = if q.len() == 4 {
            vec![batch.clone(), heads.clone(), queries.clone(), value_size.clone()]
        } else {
            vec![batch.clone(), queries.clone(), heads.clone() * value_size.clone()]
        };
        ctx.set_output(0, dtype, Some(result));
        let cache = |size| Some(vec![batch.clone(), kv_heads.clone(), total.clone(), size]);
        ctx.set_output(1, dtype, cache(size));
        ctx.set_output(2, value_dtype, cache(value_size));
        ctx.set_output(3, dtype, Some(vec![batch, heads, queries, total]));
        Ok(())
    }

    fn gpu(&self, ctx: &GpuLowering<'_>) -> Result<Option<GpuKernel>> {
        Ok(self.on_gpu(ctx))
    }

    fn takes_narrowed(&self) -> bool {
        true
    }

    fn run(&self, call: &Call<'_>) -> Result<Vec<Tensor>> {
        let (q, k, v) = (call.input(0)?, call.input(1)?, call.input(2)?);
        let rank = q.shape().len();
        if k.shape().len() != rank || v.shape().len() != rank {
            return Err(mismatch("queries, keys and values differ in rank"));
        }
        let (heads, kv_heads) = if rank == 3 { self.packed_heads()? } else { (0, 0) };
        let q_parts @ [batch, heads, queries, head_size] = Attention::parts(q, heads)?;
        let k_parts @ [_, kv_heads, new_keys, _] = Attention::parts(k, kv_heads)?;
        let v_parts @ [.., value_size] = Attention::parts(v, kv_heads)?;
        if k_parts != [batch, kv_heads, new_keys, head_size] || v_parts != [batch, kv_heads, new_keys, value_size] {
            return Err(mismatch("keys and values do not fit the queries")
                .expected(format!(
                    "as many keys as values, of {head_size} elements each, and {batch} sequences"
                ))
                .actual(format!("{} and {}", display_shape(k.shape()), display_shape(v.shape()))));
        }
        if kv_heads == 0 || heads % kv_heads != 0 {
            return Err(mismatch("the heads of keys do not divide those of queries")
                .expected(format!("a divisor of {heads}"))
                .actual(kv_heads.to_string()));
        }
        let (past_k, past_v) = (call.optional(4), call.optional(5));
        let before = past_k.map_or(0, |past| past.shape().get(2).copied().unwrap_or(0));
        for (past, new, size) in [(past_k, k, head_size), (past_v, v, value_size)] {
            if past.is_some() != past_k.is_some() {
                return Err(invalid("past keys and past values are not given together"));
            }
            if let Some(past) = past
                && (past.shape() != [batch, kv_heads, before, size] || past.dtype() != new.dtype())
            {
                return Err(mismatch("a past cache does not fit its new rows")
                    .expected(display_shape(&[batch, kv_heads, before, size]))
                    .actual(display_shape(past.shape())));
            }
        }
        let lengths = match call.optional(6) {
            Some(lengths) if lengths.shape() != [batch] => {
                return Err(
                    mismatch("the lengths are not one for each sequence").actual(display_shape(lengths.shape()))
                );
            }
            Some(_) if past_k.is_some() => {
                return Err(unsupported("Attention takes past keys or nonpad_kv_seqlen, not both"));
            }
            Some(lengths) => Some(lengths.to_i64s()?),
            None => None,
        };
        let keys = before + new_keys;
        let bias = match call.optional(3) {
            Some(mask) => Some(Bias::of(mask, [batch, heads, queries, keys])?),
            None => None,
        };
        let joins = past_k.is_some() || call.wants(1) || call.wants(2);
        let (k, v) = match joins {
            true => (join(past_k, k, k_parts)?, join(past_v, v, v_parts)?),
            false => (k.clone(), v.clone()),
        };
        let allowed = |batch: usize, query: usize| -> Range<usize> {
            let position = match &lengths {
                Some(lengths) => lengths[batch].saturating_sub(queries as i64),
                None => before as i64,
            };
            let position = position.saturating_add(query as i64);
            let mut end = keys as i64;
            if let Some(lengths) = &lengths {
                end = end.min(lengths[batch]);
            }
            if self.causal {
                end = end.min(position.saturating_add(1));
            }
            if let Some(right) = self.window[1] {
                end = end.min(position.saturating_add(right).saturating_add(1));
            }
            if let Some(bias) = &bias {
                end = end.min(bias.keys as i64);
            }
            let end = end.max(0);
            let start = self.window[0]
                .map_or(0, |left| position.saturating_sub(left))
                .clamp(0, end);
            start as usize..end as usize
        };
        let records = call.wants(3);
        let record_shape = [batch, heads, queries, keys];
        let mut record: Vec<f32> = if records { zeros(&record_shape)? } else { Vec::new() };
        let row_of = |place: &ScoreRow| ((place.batch * heads + place.head) * queries + place.query) * keys;
        let recorded = self.recorded;
        let record_cell = std::cell::RefCell::new(&mut record);
        let write = |step: Recorded, place: &ScoreRow, scores: &[f32]| {
            if records && step == recorded {
                let start = row_of(place) + place.first_key;
                record_cell.borrow_mut()[start..start + scores.len()].copy_from_slice(scores);
            }
        };
        let mut on_scores = |place: ScoreRow, scores: &mut [f32]| {
            write(Recorded::Raw, &place, scores);
            soft_cap(scores, self.soft_cap);
            write(Recorded::Capped, &place, scores);
            if let Some(bias) = &bias {
                let row = &bias.row(&place)[place.first_key.min(bias.keys)..];
                for (score, &bias) in scores.iter_mut().zip(row) {
                    // A masked score stays masked whatever it was.
                    *score = if bias == f32::NEG_INFINITY { bias } else { *score + bias };
                }
            }
            if records {
                let seen = allowed(place.batch, place.query);
                scores[..seen.start].fill(f32::NEG_INFINITY);
                scores[seen.end..].fill(f32::NEG_INFINITY);
            }
            write(Recorded::Biased, &place, scores);
        };
        let mut on_weights = |place: ScoreRow, weights: &mut [f32]| write(Recorded::Weights, &place, weights);
        let all = |_: usize, _: usize| 0..keys;
        let visible: &dyn Fn(usize, usize) -> Range<usize> = if records { &all } else { &allowed };
        let shape = AttentionShape {
            batch,
            heads,
            kv_heads,
            queries,
            keys,
            head_size,
            value_size,
        };
        let (q_data, k_data, v_data) = (q.to_f32s()?, k.to_f32s()?, v.to_f32s()?);
        let k_parts = [batch, kv_heads, keys, head_size];
        let v_parts = [batch, kv_heads, keys, value_size];
        let (result_shape, place) = match rank {
            4 => (
                vec![batch, heads, queries, value_size],
                Strides::head_by_head(heads, queries, value_size),
            ),
            _ => (
                vec![batch, queries, heads * value_size],
                Strides::row_by_row(queries, heads, value_size),
            ),
        };
        let mut result: Vec<f32> = zeros(&result_shape)?;
        let mut scratch: Vec<f32> = zeros(&[shape.scratch_len()])?;
        Core {
            shape,
            q: heads_of(&q_data, q, q_parts),
            k: heads_of(&k_data, &k, k_parts),
            v: heads_of(&v_data, &v, v_parts),
            scale: self.scale.unwrap_or(1.0 / (head_size as f32).sqrt()),
            visible,
            sink: None,
            on_scores: Some(&mut on_scores),
            on_weights: Some(&mut on_weights),
        }
        .run(&mut result, place, &mut scratch);
        drop((q_data, k_data, v_data));
        let scores = match records {
            true => singles(q.dtype(), &record_shape, record)?,
            false => q.clone(),
        };
        Ok(vec![singles(q.dtype(), &result_shape, result)?, k, v, scores])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        cpu::testing::Rng,
        ops::testing::{TestNode, assert_tensor_close, f32s, i64s, tensor},
        tensor::Bool8,
    };

    fn random(rng: &mut Rng, shape: &[usize]) -> Tensor {
        f32s(shape, &rng.vec(shape.iter().product()))
    }

    /// One head of two queries and two keys whose scores are all equal: the values' mean.
    fn means() -> TestNode {
        TestNode::new("Attention", 24)
            .input(f32s(&[1, 1, 2, 1], &[0.0, 0.0]))
            .input(f32s(&[1, 1, 2, 1], &[1.0, 2.0]))
            .input(f32s(&[1, 1, 2, 1], &[2.0, 4.0]))
    }

    #[test]
    fn masks_say_what_takes_part() {
        assert_eq!(means().run1().unwrap(), f32s(&[1, 1, 2, 1], &[3.0, 3.0]));
        let causal = means().attr("is_causal", 1).run1().unwrap();
        assert_eq!(causal, f32s(&[1, 1, 2, 1], &[2.0, 3.0]));
        let mask = tensor(&[2, 2], &[false, false, false, true].map(Bool8::from));
        assert_eq!(means().input(mask).run1().unwrap(), f32s(&[1, 1, 2, 1], &[0.0, 4.0]));
        // A mask that is too short hides the keys behind it.
        assert_eq!(
            means().input(f32s(&[2, 1], &[0.0; 2])).run1().unwrap(),
            f32s(&[1, 1, 2, 1], &[2.0, 2.0])
        );
        assert!(means().input(f32s(&[3, 2], &[0.0; 6])).run().is_err());
    }

    #[test]
    fn recorded_scores_follow_their_mode() {
        for (mode, expected) in [
            (0, [0.0; 4]),
            (2, [0.0, f32::NEG_INFINITY, 0.0, 0.0]),
            (3, [1.0, 0.0, 0.5, 0.5]),
        ] {
            let node = means().attr("is_causal", 1).attr("qk_matmul_output_mode", mode);
            let outputs = node.wanted(&[true, false, false, true]).run().unwrap();
            assert_eq!(outputs[0], f32s(&[1, 1, 2, 1], &[2.0, 3.0]));
            assert_eq!(outputs[1], f32s(&[1, 1, 2, 2], &expected), "mode {mode}");
        }
    }

    #[test]
    fn packed_heads_with_a_past_are_the_same_as_separate_ones_without() {
        let mut rng = Rng::new(3);
        let (b, s, hq, hk, d, dv) = (2, 3, 4, 2, 5, 2);
        let q = random(&mut rng, &[b, s, hq * d]);
        let (k, v) = (random(&mut rng, &[b, s, hk * d]), random(&mut rng, &[b, s, hk * dv]));
        let (past_k, past_v) = (random(&mut rng, &[b, hk, 2, d]), random(&mut rng, &[b, hk, 2, dv]));
        let outputs = TestNode::new("Attention", 23)
            .attr("q_num_heads", hq as i64)
            .attr("kv_num_heads", hk as i64)
            .attr("is_causal", 1)
            .input(q.clone())
            .input(k)
            .input(v)
            .no_input()
            .input(past_k)
            .input(past_v)
            .outputs(3)
            .run()
            .unwrap();
        let apart = TestNode::new("Transpose", 13)
            .attr("perm", [0, 2, 1, 3])
            .input(q.reshaped(&[b, s, hq, d]).unwrap())
            .run1()
            .unwrap();
        let again = TestNode::new("Attention", 24)
            .attr("is_causal", 1)
            .input(apart)
            .input(outputs[1].clone())
            .input(outputs[2].clone())
            .no_input()
            .no_input()
            .no_input()
            .input(i64s(&[b], &[5, 5]))
            .run1()
            .unwrap();
        let together = TestNode::new("Transpose", 13)
            .attr("perm", [0, 2, 1, 3])
            .input(again)
            .run1()
            .unwrap();
        assert_tensor_close(&outputs[0], &together.reshaped(&[b, s, hq * dv]).unwrap(), 1e-5);
    }

    #[test]
    fn shapes_that_do_not_fit_are_errors() {
        let node = |k: &[usize], v: &[usize]| {
            let zeros = |shape: &[usize]| Tensor::zeros(DType::F16, shape).unwrap();
            let node = TestNode::new("Attention", 24).input(zeros(&[1, 4, 2, 3]));
            node.input(zeros(k)).input(zeros(v)).run()
        };
        assert!(node(&[1, 2, 5, 3], &[1, 2, 5, 7]).is_ok());
        assert!(node(&[1, 2, 0, 3], &[1, 2, 0, 7]).is_ok());
        assert!(node(&[1, 3, 5, 3], &[1, 3, 5, 7]).is_err());
        assert!(node(&[1, 2, 5, 4], &[1, 2, 5, 7]).is_err());
        assert!(node(&[1, 2, 5, 3], &[1, 2, 4, 7]).is_err());
    }
}
