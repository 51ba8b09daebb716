//! `com.microsoft.GroupQueryAttention`: the attention of decoders, with a cache of keys and values.

use super::{
    super::{
        CpuLowering, GpuLowering, InferContext, Operator,
        lower::{invalid, mismatch, unsupported},
    },
    attention::{AddedBias, Past, Rest, added_on_gpu, append, attend},
    rotary::Rotation,
    tensors::{count_attribute, dims, expect_shape, floats, given, optional, optional_f32s, shape_error, zeros},
};
use crate::{
    cpu::{
        attention::{Attention, AttentionShape, Heads, ScoreRow, soft_cap},
        kernel::CpuKernel,
        norm::rms_norm,
    },
    error::Result,
    gpu::{
        kernel::{Access, Binding, Check, GpuKernel},
        kernels::attention::{self as gpu, Before, Lengths, Positions, Preparation, Rows, Turn},
    },
    graph::Node,
    tensor::{DType, Dim, Tensor},
};

/// `GroupQueryAttention`: a query `[b, s, n * h]` with key and value `[b, s, m * h]`, or all packed as
/// `[b, s, (n + 2 * m) * h]`; n is a multiple of m. Past keys and values are `[b, m, p, h]`; `seqlens_k` says how long each sequence
/// is with its new tokens, less one, and `total_sequence_length` how long the longest.
///
/// Outputs: the result `[b, s, n * h]`, present keys and values `[b, m, max(p, total), h]`, and scores or weights
/// `[b, n, s, total]` as `qk_output` says. Floats; caches of other types are not supported.
#[derive(Debug)]
struct GroupQueryAttention(Settings);

#[derive(Clone, Copy, Debug)]
struct Settings {
    heads: usize,
    kv_heads: usize,
    scale: Option<f32>,
    softcap: f32,
    causal: bool,
    window: Option<usize>,
    rotates: bool,
    interleaved: bool,
    smooth: bool,
    scores: Scores,
    norm_epsilon: f32,
}

/// What the fourth output holds.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Scores {
    None,
    BeforeSoftmax,
    AfterSoftmax,
}

const QUERY: usize = 0;
const KEY: usize = 1;
const VALUE: usize = 2;
const PAST_KEY: usize = 3;
const PAST_VALUE: usize = 4;
const LENGTHS: usize = 5;
const TOTAL: usize = 6;
const COS: usize = 7;
const SIN: usize = 8;
const POSITIONS: usize = 9;
const ATTENTION_BIAS: usize = 10;
const SINK: usize = 11;
const KEY_SCALE: usize = 12;
const VALUE_SCALE: usize = 13;
const QUERY_NORM: usize = 14;
const KEY_NORM: usize = 15;

/// Makes [`GroupQueryAttention`].
pub fn make(node: &Node) -> Result<Box<dyn Operator>> {
    let attributes = &node.attributes;
    let heads = count_attribute(node, "num_heads")?;
    let kv_heads = count_attribute(node, "kv_num_heads")?;
    if heads % kv_heads != 0 {
        return Err(invalid("attribute num_heads is not a multiple of kv_num_heads")
            .expected(format!("a multiple of {kv_heads}"))
            .actual(heads.to_string()));
    }
    if attributes.flag("sliding_window_cache", false)? {
        return Err(unsupported("a cache that is a sliding window is not supported"));
    }
    let scores = match attributes.int("qk_output")?.unwrap_or(0) {
        0 => Scores::None,
        1 => Scores::BeforeSoftmax,
        2 => Scores::AfterSoftmax,
        other => {
            return Err(invalid("attribute qk_output has an unknown value")
                .expected("0, 1 or 2")
                .actual(other.to_string()));
        }
    };
    Ok(Box::new(GroupQueryAttention(Settings {
        heads,
        kv_heads,
        scale: attributes.float("scale")?.filter(|&scale| scale != 0.0),
        softcap: attributes.float("softcap")?.unwrap_or(0.0),
        causal: attributes.flag("causal", true)?,
        window: attributes
            .int("local_window_size")?
            .and_then(|size| usize::try_from(size).ok()),
        rotates: attributes.flag("do_rotary", false)?,
        interleaved: attributes.flag("rotary_interleaved", false)?,
        smooth: attributes.int("smooth_softmax")?.unwrap_or(-1) > 0,
        scores,
        norm_epsilon: attributes.float("qk_norm_epsilon")?.unwrap_or(1e-6),
    })))
}

impl Operator for GroupQueryAttention {
    fn infer(&self, ctx: &mut InferContext<'_>) -> Result<()> {
        let dtype = ctx.dtype(QUERY)?;
        let (heads, kv_heads) = (Dim::from(self.0.heads), Dim::from(self.0.kv_heads));
        let total = ctx.elements(TOTAL).and_then(|list| list.first().cloned());
        let query = match ctx.shape(QUERY) {
            Some([batch, rows, hidden]) => Some((batch.clone(), rows.clone(), hidden.clone())),
            _ => None,
        };
        let is_packed = !ctx.has_input(KEY);
        let size = query.as_ref().map(|(_, _, hidden)| match is_packed {
            true => hidden.floor_div(&(heads.clone() + kv_heads.clone() + kv_heads.clone())),
            false => hidden.floor_div(&heads),
        });
        let output = query.as_ref().zip(size.as_ref()).map(|((batch, rows, hidden), size)| {
            let hidden = if is_packed {
                heads.clone() * size.clone()
            } else {
                hidden.clone()
            };
            vec![batch.clone(), rows.clone(), hidden]
        });
        ctx.set_output(0, dtype, output);
        let past = match (ctx.has_input(PAST_KEY), ctx.shape(PAST_KEY)) {
            (false, _) => Some(Dim::from(0)),
            (true, Some([_, _, past, _])) => Some(past.clone()),
            (true, _) => None,
        };
        // Symbols are positive sizes: a past of unknown size may be empty, which the maximum must not forget.
        let rows = match (past, total.clone()) {
            (Some(past), Some(total)) if past.known() == Some(0) => Some(total),
            (Some(past), Some(total)) if past.known().is_some() && total.known().is_some() => {
                Some(past.maximum(&total))
            }
            _ => None,
        };
        for index in [1, 2] {
            let shape = match (&query, &size) {
                (Some((batch, _, _)), Some(size)) => {
                    let rows = rows.clone().unwrap_or_else(|| ctx.fresh_dim());
                    Some(vec![batch.clone(), kv_heads.clone(), rows, size.clone()])
                }
                _ => None,
            };
            ctx.set_output(index, dtype, shape);
        }
        let scores = match (query, total) {
            (Some((batch, rows, _)), Some(total)) => Some(vec![batch, heads, rows, total]),
            _ => None,
        };
        ctx.set_output(3, dtype, scores);
        Ok(())
    }

    fn cpu(&self, ctx: &CpuLowering<'_>) -> Result<CpuKernel> {
        let dtype = ctx.input(QUERY)?.dtype;
        if !dtype.is_float() {
            return Err(ctx.unsupported_type(QUERY));
        }
        for index in [PAST_KEY, PAST_VALUE] {
            if ctx.optional_input(index).is_some_and(|past| past.dtype != dtype) {
                return Err(ctx.unsupported_type(index));
            }
        }
        if ctx.optional_output(3).is_some() && self.0.scores == Scores::None {
            return Err(invalid(
                "the fourth output is wanted, but attribute qk_output does not say what it holds",
            ));
        }
        if ctx.optional_input(KEY_SCALE).is_some() || ctx.optional_input(VALUE_SCALE).is_some() {
            return Err(unsupported("a quantised cache of keys and values is not supported"));
        }
        let settings = self.0;
        Ok(CpuKernel::dynamic("group_query_attention", move |inputs| {
            run(settings, inputs)
        }))
    }

    fn gpu(&self, ctx: &GpuLowering<'_>) -> Result<Option<GpuKernel>> {
        Ok(on_gpu(self.0, ctx))
    }

    fn takes_narrowed(&self) -> bool {
        true
    }
}

/// The GPU kernel, when everything is f32 and the total length is known.
fn on_gpu(settings: Settings, ctx: &GpuLowering<'_>) -> Option<GpuKernel> {
    let shape = |index: usize| Some(&ctx.optional_input(index)?.shape[..]);
    let floats = [
        QUERY,
        KEY,
        VALUE,
        PAST_KEY,
        PAST_VALUE,
        COS,
        SIN,
        ATTENTION_BIAS,
        SINK,
        QUERY_NORM,
        KEY_NORM,
    ];
    let floats = floats.iter().filter_map(|&index| ctx.optional_input(index));
    let quantised = [KEY_SCALE, VALUE_SCALE].map(|index| ctx.optional_input(index).is_some());
    if { floats }.any(|desc| desc.dtype != DType::F32) || quantised != [false; 2] || settings.window == Some(0) {
        return None;
    }
    let (n, m) = (settings.heads, settings.kv_heads);
    let &[batch, rows, hidden] = shape(QUERY)? else {
        return None;
    };
    let is_packed = shape(KEY).is_none();
    let parts = if is_packed { n + 2 * m } else { n };
    let size = (hidden % parts == 0).then_some(hidden / parts)?;
    let of_packed = |start: usize| Rows {
        binding: Binding::Input(QUERY),
        start,
        steps: [rows * hidden, size, hidden],
    };
    let [q, k, v] = match is_packed {
        true => [of_packed(0), of_packed(n * size), of_packed((n + m) * size)],
        false => {
            let expected = [batch, rows, m * size];
            if shape(KEY)? != expected || shape(VALUE)? != expected {
                return None;
            }
            let rows_of = |index: usize, heads: usize| Rows::row_by_row(Binding::Input(index), rows, heads, size);
            [rows_of(QUERY, n), rows_of(KEY, m), rows_of(VALUE, m)]
        }
    };
    let capacity = match (shape(PAST_KEY), shape(PAST_VALUE)) {
        (Some(&[b, h, capacity, s]), Some(other)) => {
            let fits = [b, h, s] == [batch, m, size] && other == [b, h, capacity, s];
            fits.then_some(capacity)?
        }
        (None, None) => 0,
        _ => return None,
    };
    let total = usize::try_from(*ctx.ints(TOTAL)?.first()?).ok()?;
    if total < rows || total - rows > capacity || shape(LENGTHS)? != [batch] || [batch, rows, size].contains(&0) {
        return None;
    }
    let is_prompt = rows == total;
    let least = if is_prompt { 0 } else { rows as i64 - 1 };
    let mut kernel = GpuKernel {
        checks: ctx.checked(LENGTHS, Check::Between(least, total as i64 - 1))?,
        ..GpuKernel::default()
    };
    let before = Before::Lengths(Lengths {
        binding: Binding::Input(LENGTHS),
        offset: 1,
        is_prompt,
    });
    let turn = match (settings.rotates, shape(COS)) {
        (false, _) => None,
        (true, Some(&[table, half])) if shape(SIN)? == [table, half] && total <= table => {
            let given = shape(POSITIONS).filter(|list| !is_prompt && list.iter().product::<usize>() == batch * rows);
            let positions = match given {
                Some(_) => {
                    kernel
                        .checks
                        .extend(ctx.checked(POSITIONS, Check::Between(0, table as i64 - 1))?);
                    Positions::Given {
                        binding: Binding::Input(POSITIONS),
                        steps: [rows, 1],
                        run: 0,
                    }
                }
                None => Positions::Past(before.clone()),
            };
            Some(Turn {
                cosines: Binding::Input(COS),
                sines: Binding::Input(SIN),
                half,
                table,
                interleaved: settings.interleaved,
                positions,
            })
        }
        _ => return None,
    };
    let mut scratch = |elements: usize| {
        kernel.scratch.push((elements * 4) as u64);
        let index = kernel.scratch.len() - 1;
        move |access| Binding::Scratch(index, access)
    };
    let (mut q, mut k) = (q, k);
    for (part, heads, index) in [(&mut q, n, QUERY_NORM), (&mut k, m, KEY_NORM)] {
        let norm = match shape(index) {
            Some(norm) => Some((norm == [size]).then_some((Binding::Input(index), settings.norm_epsilon))?),
            None => None,
        };
        let preparation = Preparation {
            bias: None,
            norm,
            turn: turn.clone(),
        };
        if preparation.is_empty() {
            continue;
        }
        let to = scratch(batch * rows * heads * size);
        let target = Rows::row_by_row(to(Access::ReadWrite), rows, heads, size);
        kernel
            .dispatches
            .push(preparation.dispatch(part, [batch, heads, rows, size], &target, ctx.caps)?);
        *part = Rows::row_by_row(to(Access::Read), rows, heads, size);
    }
    let present_rows = capacity.max(total);
    let mut cached = |index: usize, new: &Rows| {
        let (to, from) = match ctx.optional_output(index) {
            Some(_) => (Binding::Output(index), Binding::Output(index)),
            None => {
                let to = scratch(batch * m * present_rows * size);
                (to(Access::ReadWrite), to(Access::Read))
            }
        };
        let (past, sizes) = (PAST_KEY + index - 1, [batch, m, rows, size]);
        // What stands behind the new rows is nobody's: it is left there when the cache stays where it is.
        kernel.dispatches.push(if ctx.takes_over(past, index) {
            kernel.in_place.push((past, index));
            gpu::write_rows(&before, new, sizes, (present_rows, false), to, ctx.caps)?
        } else {
            let past = (capacity > 0).then_some((Binding::Input(past), capacity));
            let rest = (present_rows, gpu::Rest::Zero);
            gpu::append(past, &before, new, sizes, rest, to, ctx.caps)?
        });
        Some(Rows::head_by_head(from, m, present_rows, size))
    };
    let (k, v) = (cached(1, &k)?, cached(2, &v)?);
    let bias = match shape(ATTENTION_BIAS) {
        Some(bias) => Some(added_on_gpu(ATTENTION_BIAS, bias, [batch, n, rows, total])?),
        None => None,
    };
    let sinks = match (shape(SINK), settings.smooth) {
        (Some(sink), _) => Some((sink == [n]).then_some(gpu::Sinks::Each(Binding::Input(SINK)))?),
        (None, true) => Some(gpu::Sinks::Zero),
        (None, false) => None,
    };
    let record = match (ctx.optional_output(3), settings.scores) {
        (None, _) => None,
        (Some(_), Scores::None) => return None,
        (Some(_), scores) => Some(gpu::Record {
            binding: Binding::Output(3),
            what: match scores {
                Scores::AfterSoftmax => gpu::Recorded::Weights,
                _ => gpu::Recorded::Biased,
            },
            zero_outside: true,
        }),
    };
    ctx.optional_output(0)?;
    let attention = gpu::Attention {
        batch,
        heads: n,
        kv_heads: m,
        queries: rows,
        keys: total,
        head_size: size,
        value_size: size,
        q,
        k,
        v,
        to: Rows::row_by_row(Binding::Output(0), rows, n, size),
        scale: settings.scale.unwrap_or(1.0 / (size as f32).sqrt()),
        soft_cap: settings.softcap,
        causal: settings.causal,
        // A window of one is the own position.
        window: [settings.window.map(|window| window as i64 - 1), None],
        before,
        bias,
        filter: None,
        sinks,
        record,
    };
    kernel.dispatches.push(attention.dispatch(ctx.caps)?);
    Some(kernel)
}

fn run(settings: Settings, inputs: &[Option<Tensor>]) -> Result<Vec<Tensor>> {
    let (n, m) = (settings.heads, settings.kv_heads);
    let query = given(inputs, QUERY)?;
    let [batch, rows, hidden] = dims::<3>(QUERY, query)?;
    let parts = if optional(inputs, KEY).is_some() { n } else { n + 2 * m };
    if hidden % parts != 0 {
        return Err(shape_error(
            QUERY,
            format!("a multiple of {parts} in the last axis"),
            query.shape(),
        ));
    }
    let size = hidden / parts;
    let values = query.to_f32s()?;
    let (key, value);
    let [q, k, v] = match optional(inputs, KEY) {
        Some(tensor) => {
            let other = given(inputs, VALUE)?;
            expect_shape(KEY, tensor, &[batch, rows, m * size])?;
            expect_shape(VALUE, other, &[batch, rows, m * size])?;
            (key, value) = (tensor.to_f32s()?, other.to_f32s()?);
            [
                Heads::row_by_row(&values, rows, n, size),
                Heads::row_by_row(&key, rows, m, size),
                Heads::row_by_row(&value, rows, m, size),
            ]
        }
        None => [0, n * size, (n + m) * size].map(|start| Heads {
            data: values.get(start..).unwrap_or(&[]),
            batch: rows * hidden,
            head: size,
            row: hidden,
        }),
    };
    // Lengths.
    let capacity = match (optional(inputs, PAST_KEY), optional(inputs, PAST_VALUE)) {
        (Some(keys), Some(values)) => {
            let [_, _, capacity, _] = dims::<4>(PAST_KEY, keys)?;
            expect_shape(PAST_KEY, keys, &[batch, m, capacity, size])?;
            expect_shape(PAST_VALUE, values, &[batch, m, capacity, size])?;
            capacity
        }
        (None, None) => 0,
        _ => return Err(mismatch("past keys and values are not equally many")),
    };
    let total = given(inputs, TOTAL)?.to_i64s()?.first().copied().unwrap_or(-1);
    let total = usize::try_from(total)
        .ok()
        .filter(|&total| total >= rows && total - rows <= capacity)
        .ok_or_else(|| {
            mismatch("total_sequence_length does not fit the past and the new keys")
                .expected(format!("{rows} to {}", capacity.saturating_add(rows)))
                .actual(total.to_string())
        })?;
    let lengths = given(inputs, LENGTHS)?.to_i64s()?;
    if lengths.len() != batch {
        return Err(shape_error(
            LENGTHS,
            format!("[{batch}]"),
            given(inputs, LENGTHS)?.shape(),
        ));
    }
    let is_prompt = rows == total;
    let ends = lengths
        .iter()
        .map(|&length| {
            let end = length.checked_add(1).and_then(|end| usize::try_from(end).ok());
            let fits = |&end: &usize| end <= total && (is_prompt || end >= rows);
            end.filter(fits).ok_or_else(|| {
                mismatch("a sequence is longer than total_sequence_length or shorter than its new tokens")
                    .expected(format!("at most {}", total.saturating_sub(1)))
                    .actual(length.to_string())
            })
        })
        .collect::<Result<Vec<usize>>>()?;
    let past_of = |sequence: usize| if is_prompt { 0 } else { ends[sequence] - rows };
    // Normalised and rotated queries and keys.
    let (norms, rotation_tables) = (
        [QUERY_NORM, KEY_NORM].map(|index| optional_f32s(inputs, index)),
        [COS, SIN].map(|index| optional_f32s(inputs, index)),
    );
    let ([q_norm, k_norm], [cos, sin]) = (norms, rotation_tables);
    let (q_norm, k_norm, cos, sin) = (q_norm?, k_norm?, cos?, sin?);
    for (index, norm) in [(QUERY_NORM, &q_norm), (KEY_NORM, &k_norm)] {
        if norm.as_ref().is_some_and(|norm| norm.len() != size) {
            return Err(shape_error(index, format!("[{size}]"), &[0]));
        }
    }
    let rotation = match (settings.rotates, &cos, &sin) {
        (false, ..) => None,
        (true, Some(cos), Some(sin)) => {
            let [_, pairs] = dims::<2>(COS, given(inputs, COS)?)?;
            expect_shape(SIN, given(inputs, SIN)?, given(inputs, COS)?.shape())?;
            if 2 * pairs > size {
                return Err(shape_error(
                    COS,
                    format!("up to {} angles", size / 2),
                    given(inputs, COS)?.shape(),
                ));
            }
            Some(Rotation {
                cos,
                sin,
                pairs,
                interleaved: settings.interleaved,
            })
        }
        _ => return Err(mismatch("a rotary embedding without its cosines and sines")),
    };
    let positions = optional(inputs, POSITIONS).map(Tensor::to_i64s).transpose()?;
    let positions = positions.filter(|list| !is_prompt && list.len() == batch * rows);
    let position = |sequence: usize, row: usize| -> Result<usize> {
        let limit = rotation.as_ref().map_or(usize::MAX, Rotation::positions);
        let place = match &positions {
            Some(list) => usize::try_from(list[sequence * rows + row]).ok(),
            None => Some(past_of(sequence) + row),
        };
        place
            .filter(|&place| place < limit)
            .ok_or_else(|| mismatch("a position has no angles").expected(format!("below {limit}")))
    };
    let prepare = |of: Heads<'_>, heads: usize, norm: Option<&[f32]>| -> Result<Vec<f32>> {
        let mut copy = zeros(&[batch, rows, heads, size])?;
        let mut normal = vec![0.0; size];
        for (index, target) in copy.chunks_exact_mut(size.max(1)).enumerate() {
            let (head, row, sequence) = (index % heads, index / heads % rows, index / heads / rows);
            let start = sequence * of.batch + head * of.head + row * of.row;
            target.copy_from_slice(&of.data[start..start + size]);
            if let Some(norm) = norm {
                rms_norm(target, &mut normal, size, Some(norm), settings.norm_epsilon);
                target.copy_from_slice(&normal);
            }
            if let Some(rotation) = &rotation {
                rotation.apply(position(sequence, row)?, target);
            }
        }
        Ok(copy)
    };
    let (new_q, new_k);
    let changes = |norm: bool| norm || rotation.is_some();
    let (mut q, mut k) = (q, k);
    if changes(q_norm.is_some()) {
        new_q = prepare(q, n, q_norm.as_deref())?;
        q = Heads::row_by_row(&new_q, rows, n, size);
    }
    if changes(k_norm.is_some()) {
        new_k = prepare(k, m, k_norm.as_deref())?;
        k = Heads::row_by_row(&new_k, rows, m, size);
    }
    // The cache.
    let present_rows = capacity.max(total);
    let present = |past: usize, new: Heads<'_>| -> Result<Vec<f32>> {
        let elements = optional_f32s(inputs, past)?;
        let past = elements.as_deref().map(|values| Past { values, capacity });
        append(past, &past_of, new, [batch, m, rows, size], (present_rows, Rest::Zero))
    };
    let (keys, values) = (present(PAST_KEY, k)?, present(PAST_VALUE, v)?);
    let bias = optional(inputs, ATTENTION_BIAS)
        .map(|bias| AddedBias::new(ATTENTION_BIAS, bias, [batch, n, rows, total]))
        .transpose()?;
    let sink = match (optional_f32s(inputs, SINK)?, settings.smooth) {
        (Some(sink), _) if sink.len() == n => Some(sink.into_owned()),
        (Some(sink), _) => return Err(shape_error(SINK, format!("[{n}]"), &[sink.len()])),
        (None, true) => Some(vec![0.0; n]),
        (None, false) => None,
    };
    let scores_shape = [batch, n, rows, total];
    let mut scores = match settings.scores {
        Scores::None => Vec::new(),
        _ => zeros(&scores_shape)?,
    };
    let keep = std::cell::RefCell::new(&mut scores);
    let record = |row: ScoreRow, values: &[f32]| {
        let start = ((row.batch * n + row.head) * rows + row.query) * total + row.first_key;
        if let Some(target) = keep.borrow_mut().get_mut(start..start + values.len()) {
            target.copy_from_slice(values);
        }
    };
    let mut on_scores = |row: ScoreRow, values: &mut [f32]| {
        soft_cap(values, settings.softcap);
        if let Some(bias) = &bias {
            bias.add(row, values);
        }
        if settings.scores == Scores::BeforeSoftmax {
            record(row, values);
        }
    };
    let mut on_weights = |row: ScoreRow, values: &mut [f32]| record(row, values);
    let visible = |sequence: usize, row: usize| {
        let here = past_of(sequence) + row + 1;
        let end = if settings.causal {
            here.min(ends[sequence])
        } else {
            ends[sequence]
        };
        let start = settings.window.map_or(0, |window| here.saturating_sub(window));
        start.min(end)..end
    };
    let attention = Attention {
        shape: AttentionShape {
            batch,
            heads: n,
            kv_heads: m,
            queries: rows,
            keys: total,
            head_size: size,
            value_size: size,
        },
        q,
        k: Heads::head_by_head(&keys, m, present_rows, size),
        v: Heads::head_by_head(&values, m, present_rows, size),
        scale: settings.scale.unwrap_or(1.0 / (size.max(1) as f32).sqrt()),
        visible: &visible,
        sink: sink.as_deref(),
        on_scores: Some(&mut on_scores),
        on_weights: match settings.scores {
            Scores::AfterSoftmax => Some(&mut on_weights),
            _ => None,
        },
    };
    let out = attend(attention)?;
    let dtype = query.dtype();
    let shape: &[usize] = if scores.is_empty() { &[0] } else { &scores_shape };
    Ok(vec![
        floats(dtype, &[batch, rows, n * size], out)?,
        floats(dtype, &[batch, m, present_rows, size], keys)?,
        floats(dtype, &[batch, m, present_rows, size], values)?,
        floats(dtype, shape, scores)?,
    ])
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::{TestNode, f32s, tensor};
    use crate::{error::ErrorCode, graph::OperatorId, tensor::Tensor};

    fn ones(shape: &[usize]) -> Tensor {
        f32s(shape, &vec![1.0; shape.iter().product()])
    }

    /// One new token of two heads that share keys, after a past of `past` tokens.
    fn token(past: usize, length: i32, total: i32) -> TestNode {
        TestNode::of(OperatorId::new("com.microsoft", "GroupQueryAttention", 1))
            .attr("num_heads", 2i64)
            .attr("kv_num_heads", 1i64)
            .input(ones(&[1, 1, 4]))
            .input(ones(&[1, 1, 2]))
            .input(f32s(&[1, 1, 2], &[5.0, 7.0]))
            .input(ones(&[1, 1, past, 2]))
            .input(f32s(&[1, 1, past, 2], &vec![3.0; past * 2]))
            .input(tensor(&[1], &[length]))
            .input(tensor(&[], &[total]))
            .outputs(3)
    }

    #[test]
    fn heads_share_keys_and_the_cache_grows_by_the_new_token() {
        let results = token(1, 1, 2).run().unwrap();
        assert_eq!(results[0], f32s(&[1, 1, 4], &[4.0, 5.0, 4.0, 5.0]));
        assert_eq!(results[2], f32s(&[1, 1, 2, 2], &[3.0, 3.0, 5.0, 7.0]));
        // A cache with room keeps its size.
        let results = token(3, 1, 2).run().unwrap();
        assert_eq!(results[2], f32s(&[1, 1, 3, 2], &[3.0, 3.0, 5.0, 7.0, 0.0, 0.0]));
        let window = token(3, 3, 4).attr("local_window_size", 1i64).run().unwrap();
        assert_eq!(window[0], f32s(&[1, 1, 4], &[5.0, 7.0, 5.0, 7.0]));
    }

    #[test]
    fn lengths_that_do_not_fit_are_errors() {
        for (past, length, total) in [
            (1, 1, 5),
            (1, 5, 2),
            (1, -2, 2),
            (1, 1, -1),
            (1, 1, 0),
            (1, i32::MAX, 2),
        ] {
            let error = token(past, length, total).run().unwrap_err();
            assert_eq!(error.code(), ErrorCode::ShapeMismatch, "{past} {length} {total}");
        }
        let rotates = token(1, 1, 2).attr("do_rotary", 1i64);
        assert!(rotates.clone().run().is_err());
        // Angles for one position, but the new token is at the second.
        let short = rotates.input(ones(&[1, 1])).input(ones(&[1, 1]));
        assert_eq!(short.run().unwrap_err().code(), ErrorCode::ShapeMismatch);
        let unsaid = token(1, 1, 2).outputs(4);
        assert_eq!(unsaid.run().unwrap_err().code(), ErrorCode::InvalidGraph);
        let uneven = token(1, 1, 2).attr("kv_num_heads", 3i64);
        assert_eq!(uneven.run().unwrap_err().code(), ErrorCode::InvalidGraph);
    }
}
