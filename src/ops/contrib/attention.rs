//! `com.microsoft.MultiHeadAttention`, and `Attention` and `QAttention`, which are it behind a projection.

use std::borrow::Cow;

use super::{
    super::{
        CpuLowering, GpuLowering, InferContext, Operator,
        lower::{invalid, mismatch, unsupported},
    },
    composite::Body,
    tensors::{count_attribute, dims, expect_shape, floats, given, optional, optional_f32s, shape_error, zeros},
};
use crate::{
    cpu::{
        attention::{Attention, AttentionShape, Heads, ScoreRow, Strides},
        kernel::CpuKernel,
    },
    error::Result,
    gpu::{
        kernel::{Access, Binding, Check, GpuKernel},
        kernels::attention as gpu,
    },
    graph::{Attribute, Node, OperatorId, ValueId},
    tensor::{DType, Dim, Tensor},
};

/// `MultiHeadAttention`: query `[b, s, n * h]` with key and value `[b, l, n * h]` or `[b, n, l, h]`, or packed as
/// `[b, l, n, 2, h]` with the query apart and `[b, s, n, 3, h]` with it; a bias for all three; a mask of lengths `[b]`, of keys
/// `[b, t]` or of queries and keys `[b, s, t]`; an additive bias `[b or 1, n or 1, s, t]`; past keys and values `[b, n, p, h]`.
///
/// Outputs: the result `[b, s, n * hv]`, present keys and values `[b, n, p + l, h]`, and the scores `[b, n, s, p + l]`. Floats.
#[derive(Debug)]
struct MultiHeadAttention(Settings);

#[derive(Clone, Copy, Debug)]
struct Settings {
    heads: usize,
    scale: Option<f32>,
    filter: f32,
    causal: bool,
}

/// Makes [`MultiHeadAttention`].
pub fn make_multi_head(node: &Node) -> Result<Box<dyn Operator>> {
    let attributes = &node.attributes;
    Ok(Box::new(MultiHeadAttention(Settings {
        heads: count_attribute(node, "num_heads")?,
        scale: attributes.float("scale")?.filter(|&scale| scale != 0.0),
        filter: attributes.float("mask_filter_value")?.unwrap_or(-10000.0),
        causal: attributes.flag("unidirectional", false)?,
    })))
}

const QUERY: usize = 0;
const KEY: usize = 1;
const VALUE: usize = 2;
const BIAS: usize = 3;
const MASK: usize = 4;
const ATTENTION_BIAS: usize = 5;
const PAST_KEY: usize = 6;
const PAST_VALUE: usize = 7;
const PAST_LENGTH: usize = 8;
const CACHE_INDIRECTION: usize = 9;

impl Operator for MultiHeadAttention {
    fn infer(&self, ctx: &mut InferContext<'_>) -> Result<()> {
        let dtype = ctx.dtype(QUERY)?;
        let heads = Dim::from(self.0.heads);
        let (query, key, value) = (ctx.shape(QUERY), ctx.shape(KEY), ctx.shape(VALUE));
        let packed = |shape: &[Dim]| heads.clone() * shape[4].clone();
        let hidden = match (query, key, value) {
            (_, _, Some([_, _, hidden])) => Some(hidden.clone()),
            (_, _, Some([_, _, _, size])) => Some(heads.clone() * size.clone()),
            (_, Some(key @ [_, _, _, _, _]), _) => Some(packed(key)),
            (Some(query @ [_, _, _, _, _]), ..) if !ctx.has_input(KEY) => Some(packed(query)),
            _ => None,
        };
        let shape = match (query, hidden) {
            (Some([batch, rows, ..]), Some(hidden)) => Some(vec![batch.clone(), rows.clone(), hidden]),
            _ => None,
        };
        ctx.set_output(0, dtype, shape);
        let sizes = |input: usize| match (ctx.shape(input), query) {
            (Some([_, rows, hidden]), _) => Some((rows.clone(), hidden.floor_div(&heads))),
            (Some([_, _, rows, size]), _) => Some((rows.clone(), size.clone())),
            (Some([_, rows, _, _, size]), _) => Some((rows.clone(), size.clone())),
            (None, Some([_, rows, _, _, size])) if !ctx.has_input(KEY) => Some((rows.clone(), size.clone())),
            _ => None,
        };
        // A packed key holds the values, too.
        let value_of = if ctx.has_input(VALUE) { VALUE } else { KEY };
        let present: Vec<Option<Vec<Dim>>> = [(KEY, PAST_KEY), (value_of, PAST_VALUE)]
            .into_iter()
            .map(|(input, past)| {
                let (rows, size) = sizes(input)?;
                let batch = query?.first()?.clone();
                let rows = match (ctx.has_input(past), ctx.shape(past)) {
                    _ if ctx.has_input(PAST_LENGTH) => return Some(ctx.shape(past)?.to_vec()),
                    (false, _) => rows,
                    (true, Some([_, _, past, _])) => past.clone() + rows,
                    (true, _) => return None,
                };
                Some(vec![batch, heads.clone(), rows, size])
            })
            .collect();
        let scores = match (query, &present[0]) {
            (Some([batch, rows, ..]), Some(present)) if !ctx.has_input(PAST_LENGTH) => {
                Some(vec![batch.clone(), heads.clone(), rows.clone(), present[2].clone()])
            }
            _ => None,
        };
        for (index, shape) in present.into_iter().chain([scores]).enumerate() {
            ctx.set_output(index + 1, dtype, shape);
        }
        Ok(())
    }

    fn cpu(&self, ctx: &CpuLowering<'_>) -> Result<CpuKernel> {
        if !ctx.input(QUERY)?.dtype.is_float() {
            return Err(ctx.unsupported_type(QUERY));
        }
        if ctx.optional_input(CACHE_INDIRECTION).is_some() {
            return Err(unsupported(
                "an attention with the input cache_indirection is not supported",
            ));
        }
        let settings = self.0;
        let wanted: [bool; 4] = std::array::from_fn(|index| ctx.optional_output(index).is_some());
        Ok(CpuKernel::dynamic("multi_head_attention", move |inputs| {
            run(settings, wanted, inputs)
        }))
    }

    fn gpu(&self, ctx: &GpuLowering<'_>) -> Result<Option<GpuKernel>> {
        Ok(on_gpu(self.0, ctx))
    }

    fn takes_narrowed(&self) -> bool {
        true
    }
}

/// The GPU kernel, when everything is f32 and the shapes fit together.
fn on_gpu(settings: Settings, ctx: &GpuLowering<'_>) -> Option<GpuKernel> {
    let shape = |index: usize| Some(&ctx.optional_input(index)?.shape[..]);
    let floats = [QUERY, KEY, VALUE, BIAS, ATTENTION_BIAS, PAST_KEY, PAST_VALUE];
    let floats = floats.iter().filter_map(|&index| ctx.optional_input(index));
    let refused = [PAST_LENGTH, CACHE_INDIRECTION].map(|index| ctx.optional_input(index).is_some());
    if { floats }.any(|desc| desc.dtype != DType::F32) || refused != [false; 2] {
        return None;
    }
    let (n, q_shape) = (settings.heads, shape(QUERY)?);
    let &[batch, queries, ..] = q_shape else { return None };
    let packed = |index: usize, rows: usize, size: usize, (part, parts): (usize, usize)| {
        let rows_of = gpu::Rows {
            binding: Binding::Input(index),
            start: part * size,
            steps: [rows * n * parts * size, parts * size, n * parts * size],
        };
        (rows_of, rows, size)
    };
    let rows_of = |index: usize| match *shape(index)? {
        [b, rows, hidden] if b == batch && hidden % n == 0 => {
            let rows_of = gpu::Rows::row_by_row(Binding::Input(index), rows, n, hidden / n);
            Some((rows_of, rows, hidden / n))
        }
        [b, heads, rows, size] if (b, heads) == (batch, n) => Some((
            gpu::Rows::head_by_head(Binding::Input(index), n, rows, size),
            rows,
            size,
        )),
        _ => None,
    };
    let [(q, _, head_size), (k, new_keys, k_size), (v, v_rows, value_size)] = match (q_shape, shape(KEY), shape(VALUE))
    {
        (&[_, _, count, 3, size], None, None) if count == n => {
            [0, 1, 2].map(|part| packed(QUERY, queries, size, (part, 3)))
        }
        (&[_, _, _], Some(&[b, rows, heads, 2, size]), None) if (b, heads) == (batch, n) => [
            rows_of(QUERY)?,
            packed(KEY, rows, size, (0, 2)),
            packed(KEY, rows, size, (1, 2)),
        ],
        (&[_, _, _], Some(_), Some(_)) => [rows_of(QUERY)?, rows_of(KEY)?, rows_of(VALUE)?],
        _ => return None,
    };
    let past = match (shape(PAST_KEY), shape(PAST_VALUE)) {
        (Some(&[b, h, past, size]), Some(other)) => {
            let fits = [b, h, size] == [batch, n, head_size] && other == [batch, n, past, value_size];
            fits.then_some(Some(past))?
        }
        (None, None) => None,
        _ => return None,
    };
    let (before, keys) = (past.unwrap_or(0), past.unwrap_or(0) + new_keys);
    let sizes = [batch, n, queries, new_keys, head_size, value_size];
    if k_size != head_size || v_rows != new_keys || sizes.contains(&0) || past == Some(0) {
        return None;
    }
    let mut kernel = GpuKernel::default();
    let mut scratch = |elements: usize| {
        kernel.scratch.push((elements * 4) as u64);
        let index = kernel.scratch.len() - 1;
        move |access| Binding::Scratch(index, access)
    };
    // With their bias; keys and values that stand head by head come from a cache, which has it.
    let mut parts = [
        (q, queries, head_size),
        (k, new_keys, head_size),
        (v, new_keys, value_size),
    ];
    if let Some(bias) = shape(BIAS) {
        if *bias != [n * (2 * head_size + value_size)] {
            return None;
        }
        let cached = shape(KEY).is_some_and(|key| key.len() == 4);
        for (index, (part, rows, size)) in parts.iter_mut().enumerate().take(if cached { 1 } else { 3 }) {
            let to = scratch(batch * *rows * n * *size);
            let preparation = gpu::Preparation {
                bias: Some((Binding::Input(BIAS), index * n * head_size)),
                ..gpu::Preparation::default()
            };
            let target = gpu::Rows::row_by_row(to(Access::ReadWrite), *rows, n, *size);
            kernel
                .dispatches
                .push(preparation.dispatch(part, [batch, n, *rows, *size], &target, ctx.caps)?);
            *part = gpu::Rows::row_by_row(to(Access::Read), *rows, n, *size);
        }
    }
    for (index, (part, rows, size)) in parts.iter_mut().enumerate().skip(1) {
        let wanted = ctx.optional_output(index).is_some();
        if past.is_none() && !wanted {
            continue;
        }
        let (to, from) = match wanted {
            true => (Binding::Output(index), Binding::Output(index)),
            false => {
                let to = scratch(batch * n * keys * *size);
                (to(Access::ReadWrite), to(Access::Read))
            }
        };
        let cache = past.map(|past| (Binding::Input(PAST_KEY + index - 1), past));
        kernel.dispatches.push(gpu::append(
            cache,
            &gpu::Before::Same(before),
            part,
            [batch, n, *rows, *size],
            (keys, gpu::Rest::Past),
            to,
            ctx.caps,
        )?);
        *part = gpu::Rows::head_by_head(from, n, keys, *size);
    }
    let filter = match ctx.optional_input(MASK) {
        Some(mask) => {
            let kind = match mask.shape[..] {
                [count] if count == batch || count == 3 * batch + 2 => gpu::FilterKind::Range { has_starts: false },
                [count] if count == 2 * batch => gpu::FilterKind::Range { has_starts: true },
                [b, columns] if (b, columns) == (batch, keys) => gpu::FilterKind::Each {
                    start: 0,
                    steps: [keys, 0],
                },
                [b, rows, columns] if (b, rows, columns) == (batch, queries, keys) => gpu::FilterKind::Each {
                    start: 0,
                    steps: [queries * keys, keys],
                },
                [b, 1, rows, size] if b == batch && rows == size && size >= keys && size >= before + queries => {
                    gpu::FilterKind::Each {
                        start: before * size,
                        steps: [size * size, size],
                    }
                }
                _ => return None,
            };
            kernel.checks = ctx.checked(MASK, Check::Between(i64::from(i32::MIN), i64::from(i32::MAX)))?;
            Some(gpu::Filter {
                binding: Binding::Input(MASK),
                value: settings.filter,
                kind,
            })
        }
        None => None,
    };
    let bias = match shape(ATTENTION_BIAS) {
        Some(bias) => Some(added_on_gpu(ATTENTION_BIAS, bias, [batch, n, queries, keys])?),
        None => None,
    };
    let [(q, ..), (k, ..), (v, ..)] = parts;
    ctx.optional_output(0)?;
    let attention = gpu::Attention {
        batch,
        heads: n,
        kv_heads: n,
        queries,
        keys,
        head_size,
        value_size,
        q,
        k,
        v,
        to: gpu::Rows::row_by_row(Binding::Output(0), queries, n, value_size),
        scale: settings.scale.unwrap_or(1.0 / (head_size as f32).sqrt()),
        soft_cap: 0.0,
        causal: settings.causal,
        window: [None; 2],
        before: gpu::Before::Same(before),
        bias,
        filter,
        sinks: None,
        record: ctx.optional_output(3).map(|_| gpu::Record {
            binding: Binding::Output(3),
            what: gpu::Recorded::Biased,
            zero_outside: true,
        }),
    };
    kernel.dispatches.push(attention.dispatch(ctx.caps)?);
    Some(kernel)
}

/// A bias `[b or 1, n or 1, s, t]` on the scores as the GPU takes it.
pub(super) fn added_on_gpu(
    index: usize,
    bias: &[usize],
    [batch, heads, queries, keys]: [usize; 4],
) -> Option<gpu::Bias> {
    let &[b, n, rows, columns] = bias else { return None };
    let fits = (b == batch || b == 1) && (n == heads || n == 1) && rows == queries && columns >= keys;
    fits.then(|| gpu::Bias {
        binding: Binding::Input(index),
        steps: [
            if b == 1 { 0 } else { n * rows * columns },
            if n == 1 { 0 } else { rows * columns },
            columns,
        ],
        keys,
        is_truth: false,
    })
}

/// Rows of heads, borrowed or with their bias added.
struct Rows<'a> {
    values: Cow<'a, [f32]>,
    start: usize,
    strides: Strides,
    rows: usize,
    size: usize,
}

impl<'a> Rows<'a> {
    fn row_by_row(values: Cow<'a, [f32]>, rows: usize, heads: usize, size: usize) -> Self {
        Rows {
            values,
            start: 0,
            strides: Strides::row_by_row(rows, heads, size),
            rows,
            size,
        }
    }

    /// Part `part` of `parts` of a tensor `[b, rows, n, parts, size]`.
    fn packed(values: Cow<'a, [f32]>, rows: usize, heads: usize, size: usize, (part, parts): (usize, usize)) -> Self {
        let head = parts * size;
        Rows {
            values,
            start: part * size,
            strides: Strides {
                batch: rows * heads * head,
                head,
                row: heads * head,
            },
            rows,
            size,
        }
    }

    fn heads(&self) -> Heads<'_> {
        Heads {
            data: self.values.get(self.start..).unwrap_or(&[]),
            batch: self.strides.batch,
            head: self.strides.head,
            row: self.strides.row,
        }
    }

    /// With a bias for each head and element.
    fn biased(self, batch: usize, heads: usize, bias: Option<&[f32]>) -> Result<Rows<'static>> {
        let (rows, size) = (self.rows, self.size);
        let mut values = zeros(&[batch, rows, heads, size])?;
        let source = self.heads();
        for (index, target) in values.chunks_exact_mut(size.max(1)).enumerate() {
            let (head, row) = (index % heads, index / heads);
            let start = row / rows * source.batch + head * source.head + row % rows * source.row;
            target.copy_from_slice(&source.data[start..start + size]);
            if let Some(bias) = bias {
                target
                    .iter_mut()
                    .zip(&bias[head * size..])
                    .for_each(|(to, by)| *to += by);
            }
        }
        Ok(Rows::row_by_row(Cow::Owned(values), rows, heads, size))
    }
}

/// A tensor `[b, rows, n * size]` or `[b, n, rows, size]`.
fn rows_of(index: usize, tensor: &Tensor, batch: usize, heads: usize) -> Result<Rows<'_>> {
    let (rows, size, strides) = match *tensor.shape() {
        [b, rows, hidden] if b == batch && hidden % heads == 0 => {
            (rows, hidden / heads, Strides::row_by_row(rows, heads, hidden / heads))
        }
        [b, n, rows, size] if (b, n) == (batch, heads) => (rows, size, Strides::head_by_head(heads, rows, size)),
        ref shape => {
            let expected = format!("[{batch}, rows, a multiple of {heads}] or [{batch}, {heads}, rows, size]");
            return Err(shape_error(index, expected, shape));
        }
    };
    Ok(Rows {
        values: tensor.to_f32s()?,
        start: 0,
        strides,
        rows,
        size,
    })
}

/// Past rows `[b, n, capacity, size]`, of which the first `used` count.
#[derive(Clone, Copy)]
pub(super) struct Past<'a> {
    /// The elements.
    pub values: &'a [f32],
    /// Rows that there is memory for.
    pub capacity: usize,
}

/// What stands behind the new rows of a cache that has room for more.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Rest {
    /// What the past has there.
    Past,
    /// Zeros.
    Zero,
}

/// The rows of each sequence behind its past ones, as `[b, n, total, size]`. `used` says how many past rows of a sequence
/// count.
pub(super) fn append(
    past: Option<Past<'_>>,
    used: &dyn Fn(usize) -> usize,
    new: Heads<'_>,
    [batch, heads, rows, size]: [usize; 4],
    (total, rest): (usize, Rest),
) -> Result<Vec<f32>> {
    let mut values = zeros(&[batch, heads, total, size])?;
    for (index, target) in values.chunks_exact_mut((total * size).max(1)).enumerate() {
        let (sequence, head) = (index / heads, index % heads);
        let first = used(sequence).min(total);
        if let Some(past) = past {
            let kept = if rest == Rest::Zero { first } else { total };
            let kept = kept.min(past.capacity) * size;
            let start = index * past.capacity * size;
            target[..kept].copy_from_slice(&past.values[start..start + kept]);
        }
        for (row, target) in target[first * size..]
            .chunks_exact_mut(size.max(1))
            .take(rows)
            .enumerate()
        {
            let start = sequence * new.batch + head * new.head + row * new.row;
            target.copy_from_slice(&new.data[start..start + size]);
        }
    }
    Ok(values)
}

fn run(settings: Settings, wanted: [bool; 4], inputs: &[Option<Tensor>]) -> Result<Vec<Tensor>> {
    let query = given(inputs, QUERY)?;
    let n = settings.heads;
    let &[batch, queries, ..] = query.shape() else {
        return Err(shape_error(QUERY, "3 or 5 dimensions", query.shape()));
    };
    let (key, value) = (optional(inputs, KEY), optional(inputs, VALUE));
    let [q, k, v]: [Result<Rows<'_>>; 3] = match (query.shape(), key, value) {
        (&[_, _, count, 3, size], None, None) if count == n => [0, 1, 2].map(|part| {
            let values = query.to_f32s()?;
            Ok(Rows::packed(values, queries, n, size, (part, 3)))
        }),
        (&[_, _, _], Some(key), value) => {
            let q = rows_of(QUERY, query, batch, n)?;
            match (key.shape(), value) {
                (&[b, rows, heads, 2, key_size], None) if (b, heads, key_size) == (batch, n, q.size) => {
                    let part = |part| Ok(Rows::packed(key.to_f32s()?, rows, n, key_size, (part, 2)));
                    [Ok(q), part(0), part(1)]
                }
                (_, Some(value)) => {
                    let (k, v) = (rows_of(KEY, key, batch, n)?, rows_of(VALUE, value, batch, n)?);
                    if k.size != q.size {
                        return Err(shape_error(KEY, format!("{n} heads of {}", q.size), key.shape()));
                    }
                    if k.rows != v.rows {
                        return Err(shape_error(VALUE, format!("{} values", k.rows), value.shape()));
                    }
                    [Ok(q), Ok(k), Ok(v)]
                }
                _ => return Err(shape_error(KEY, "packed keys and values", key.shape())),
            }
        }
        _ => {
            return Err(shape_error(
                QUERY,
                "a query, or query, key and value packed",
                query.shape(),
            ));
        }
    };
    let (mut q, mut k, mut v) = (q?, k?, v?);
    if let Some(bias) = optional_f32s(inputs, BIAS)? {
        let (of_q, of_v) = (n * q.size, n * v.size);
        if bias.len() != 2 * of_q + of_v {
            return Err(shape_error(BIAS, format!("[{}]", 2 * of_q + of_v), &[bias.len()]));
        }
        q = q.biased(batch, n, Some(&bias[..of_q]))?;
        // Keys and values that stand head by head come from a cache, with their bias.
        if key.is_none_or(|key| key.shape().len() != 4) {
            k = k.biased(batch, n, Some(&bias[of_q..2 * of_q]))?;
            v = v.biased(batch, n, Some(&bias[2 * of_q..]))?;
        }
    }
    // Past and present.
    let (past_key, past_value) = (optional(inputs, PAST_KEY), optional(inputs, PAST_VALUE));
    let shares = optional(inputs, PAST_LENGTH);
    let mut past = [0, 0];
    for (slot, (index, tensor, size)) in past
        .iter_mut()
        .zip([(PAST_KEY, past_key, k.size), (PAST_VALUE, past_value, v.size)])
    {
        if let Some(tensor) = tensor {
            let [_, _, rows, _] = dims::<4>(index, tensor)?;
            expect_shape(index, tensor, &[batch, n, rows, size])?;
            *slot = rows;
        }
    }
    if past[0] != past[1] || past_key.is_some() != past_value.is_some() {
        return Err(mismatch("past keys and values are not equally many"));
    }
    let [capacity, _] = past;
    let past_rows = match shares {
        Some(length) => {
            let length = length.to_i64s()?.first().copied().unwrap_or(0);
            let fits = |&rows: &usize| rows <= capacity && k.rows <= capacity - rows;
            usize::try_from(length).ok().filter(fits).ok_or_else(|| {
                mismatch("the past length does not fit the past keys")
                    .expected(format!("at most {}", capacity.saturating_sub(k.rows)))
                    .actual(length.to_string())
            })?
        }
        None => capacity,
    };
    let total = past_rows + k.rows;
    let present_rows = if shares.is_some() { capacity } else { total };
    let needs_copy = past_key.is_some() || wanted[1] || wanted[2];
    let mut present = Vec::new();
    if needs_copy {
        for (new, past) in [(&k, past_key), (&v, past_value)] {
            let elements = past.map(Tensor::to_f32s).transpose()?;
            let past = elements.as_deref().map(|values| Past { values, capacity });
            let sizes = [batch, n, new.rows, new.size];
            present.push(append(
                past,
                &|_| past_rows,
                new.heads(),
                sizes,
                (present_rows, Rest::Past),
            )?);
        }
    }
    let (keys, values) = match &present[..] {
        [keys, values] => (
            Heads::head_by_head(keys, n, present_rows, k.size),
            Heads::head_by_head(values, n, present_rows, v.size),
        ),
        _ => (k.heads(), v.heads()),
    };
    let mask = optional(inputs, MASK)
        .map(|mask| Mask::new(mask, batch, queries, total, settings.filter))
        .transpose()?;
    let bias = optional(inputs, ATTENTION_BIAS)
        .map(|bias| AddedBias::new(ATTENTION_BIAS, bias, [batch, n, queries, total]))
        .transpose()?;
    let mut scores = if wanted[3] {
        zeros(&[batch, n, queries, total])?
    } else {
        Vec::new()
    };
    let mut on_scores = |row: ScoreRow, values: &mut [f32]| {
        if let Some(mask) = &mask {
            mask.add(row, past_rows, values);
        }
        if let Some(bias) = &bias {
            bias.add(row, values);
        }
        if !scores.is_empty() {
            let start = ((row.batch * n + row.head) * queries + row.query) * total + row.first_key;
            scores[start..start + values.len()].copy_from_slice(values);
        }
    };
    let causal = settings.causal;
    let visible = |_: usize, query: usize| {
        0..if causal {
            (past_rows + query + 1).min(total)
        } else {
            total
        }
    };
    let shape = AttentionShape {
        batch,
        heads: n,
        kv_heads: n,
        queries,
        keys: total,
        head_size: q.size,
        value_size: v.size,
    };
    let attention = Attention {
        shape,
        q: q.heads(),
        k: keys,
        v: values,
        scale: settings.scale.unwrap_or(1.0 / (q.size.max(1) as f32).sqrt()),
        visible: &visible,
        sink: None,
        on_scores: Some(&mut on_scores),
        on_weights: None,
    };
    let out = attend(attention)?;
    let dtype = query.dtype();
    let mut results = vec![floats(dtype, &[batch, queries, n * v.size], out)?];
    let mut present = present.into_iter();
    for size in [k.size, v.size] {
        results.push(match present.next() {
            Some(values) => floats(dtype, &[batch, n, present_rows, size], values)?,
            None => Tensor::zeros(dtype, &[0])?,
        });
    }
    let shape: &[usize] = if wanted[3] { &[batch, n, queries, total] } else { &[0] };
    results.push(floats(dtype, shape, scores)?);
    Ok(results)
}

/// Runs an attention; the output is `[b, s, n * hv]`.
pub(super) fn attend(attention: Attention<'_>) -> Result<Vec<f32>> {
    let shape = attention.shape;
    let mut out = zeros(&[shape.batch, shape.queries, shape.heads, shape.value_size])?;
    // One block's scores are the largest part, and the keys are there already.
    let mut scratch = zeros(&[shape.scratch_len()])?;
    let place = Strides::row_by_row(shape.queries, shape.heads, shape.value_size);
    attention.run(&mut out, place, &mut scratch);
    Ok(out)
}

/// A mask as ONNX Runtime takes it: 1 or more is visible, 0 is masked by adding a large negative number.
struct Mask {
    values: Vec<i64>,
    kind: MaskKind,
    filter: f32,
}

enum MaskKind {
    /// Ends of the visible keys of each sequence, and perhaps their starts.
    Range { has_starts: bool },
    /// One for each key.
    Keys { total: usize },
    /// One for each query and key.
    Queries { queries: usize, total: usize },
    /// One for each pair of positions, past ones included.
    Positions { size: usize },
}

impl Mask {
    fn new(mask: &Tensor, batch: usize, queries: usize, total: usize, filter: f32) -> Result<Mask> {
        let kind = match *mask.shape() {
            [count] if count == batch || Some(count) == batch.checked_mul(3).map(|count| count + 2) => {
                MaskKind::Range { has_starts: false }
            }
            [count] if Some(count) == batch.checked_mul(2) => MaskKind::Range { has_starts: true },
            [b, keys] if b == batch && keys == total => MaskKind::Keys { total },
            [b, rows, keys] if (b, rows, keys) == (batch, queries, total) => MaskKind::Queries { queries, total },
            [b, 1, rows, keys] if b == batch && rows == keys && keys >= total => MaskKind::Positions { size: keys },
            ref shape => {
                return Err(shape_error(
                    MASK,
                    format!("[{batch}], [{batch}, {total}] or [{batch}, {queries}, {total}]"),
                    shape,
                ));
            }
        };
        Ok(Mask {
            values: mask.to_i64s()?,
            kind,
            filter,
        })
    }

    fn add(&self, row: ScoreRow, past: usize, scores: &mut [f32]) {
        let (batch, first) = (row.batch, row.first_key);
        let start = match self.kind {
            MaskKind::Range { has_starts } => {
                let sequences = self.values.len() / 2;
                let end = self.values[batch];
                let start = if has_starts { self.values[sequences + batch] } else { 0 };
                for (key, score) in scores.iter_mut().enumerate() {
                    let key = (first + key) as i64;
                    if key >= end || key < start {
                        *score += self.filter;
                    }
                }
                return;
            }
            MaskKind::Keys { total } => batch * total,
            MaskKind::Queries { queries, total } => (batch * queries + row.query) * total,
            MaskKind::Positions { size } => (batch * size + past + row.query) * size,
        };
        let values = self.values.get(start + first..).unwrap_or(&[]);
        for (score, &value) in scores.iter_mut().zip(values) {
            if value <= 0 {
                *score += self.filter;
            }
        }
    }
}

/// A bias on the scores that broadcasts over sequences and heads.
pub(super) struct AddedBias<'a> {
    values: Cow<'a, [f32]>,
    batch: usize,
    head: usize,
    row: usize,
}

impl<'a> AddedBias<'a> {
    /// A tensor `[b or 1, n or 1, s, t]`; t may be larger than the keys.
    pub fn new(index: usize, bias: &'a Tensor, [batch, heads, queries, keys]: [usize; 4]) -> Result<Self> {
        let [b, n, rows, columns] = dims::<4>(index, bias)?;
        if !(b == batch || b == 1) || !(n == heads || n == 1) || rows != queries || columns < keys {
            let expected = format!("[{batch} or 1, {heads} or 1, {queries}, {keys}]");
            return Err(shape_error(index, expected, bias.shape()));
        }
        let matrix = rows * columns;
        Ok(AddedBias {
            values: bias.to_f32s()?,
            batch: if b == 1 { 0 } else { n * matrix },
            head: if n == 1 { 0 } else { matrix },
            row: columns,
        })
    }

    /// Adds it to the scores of a row.
    pub fn add(&self, row: ScoreRow, scores: &mut [f32]) {
        let start = row.batch * self.batch + row.head * self.head + row.query * self.row + row.first_key;
        let values = self.values.get(start..).unwrap_or(&[]);
        scores.iter_mut().zip(values).for_each(|(score, bias)| *score += bias);
    }
}

/// `com.microsoft.Attention`: X `[b, s, i]` times weights `[i, 2 * d + dv]` plus a bias are query, key and value of a
/// [`MultiHeadAttention`]. Past and present are `[2, b, n, p, h]`.
pub fn make_attention(node: &Node) -> Result<Box<dyn Operator>> {
    let body = Body::new(node);
    let (x, weights) = (body.input(0)?, body.input(1)?);
    let inputs = [2, 3, 4, 5, 6].map(|index| body.optional(index));
    project(node, body, x, weights, inputs)
}

/// `com.microsoft.QAttention`: an `Attention` of 8-bit input and weights; the weights have one scale or one for each column.
pub fn make_quantized(node: &Node) -> Result<Box<dyn Operator>> {
    let mut body = Body::new(node);
    let (x, weights) = (body.input(0)?, body.input(1)?);
    let (x_scale, w_scale) = (body.input(3)?, body.input(4)?);
    let x = body.dequantize(x, x_scale, body.optional(6), 1);
    let weights = body.dequantize(weights, w_scale, body.optional(7), 1);
    let inputs = [body.optional(2), body.optional(5), body.optional(8), None, None];
    project(node, body, x, weights, inputs)
}

/// The attention behind a projection. `inputs`: bias, mask, past, bias on the scores, past length.
fn project(
    node: &Node,
    mut body: Body<'_>,
    x: ValueId,
    weights: ValueId,
    [bias, mask, past, added, past_length]: [Option<ValueId>; 5],
) -> Result<Box<dyn Operator>> {
    let attributes = &node.attributes;
    if attributes.flag("do_rotary", false)? {
        return Err(unsupported("Attention with do_rotary is not supported"));
    }
    let mut projected = body.op("MatMul", &[x, weights]);
    if let Some(bias) = bias {
        projected = body.op("Add", &[projected, bias]);
    }
    let axis = ("axis".to_string(), Attribute::Int(-1));
    let parts = match attributes.ints("qkv_hidden_sizes")? {
        Some(sizes) if sizes.len() == 3 => {
            let sizes = body.ints(sizes)?;
            let inputs = vec![Some(projected), Some(sizes)];
            body.node(OperatorId::new("", "Split", 13), inputs, [axis], 3)
        }
        Some(_) => return Err(invalid("attribute qkv_hidden_sizes does not hold three sizes")),
        None => {
            let count = ("num_outputs".to_string(), Attribute::Int(3));
            body.node(
                OperatorId::new("", "Split", 18),
                vec![Some(projected)],
                [axis, count],
                3,
            )
        }
    };
    let mut pasts = [None; 2];
    if let Some(past) = past {
        for (index, slot) in pasts.iter_mut().enumerate() {
            let index = body.scalar(index as i64);
            *slot = Some(body.op_with("Gather", &[past, index], &[("axis", Attribute::Int(0))]));
        }
    }
    let kept = ["num_heads", "scale", "mask_filter_value", "unidirectional"];
    let kept: Vec<(String, Attribute)> = attributes
        .iter()
        .filter(|(name, _)| kept.contains(name))
        .map(|(name, attribute)| (name.to_string(), attribute.clone()))
        .collect();
    // Without a shared buffer, the past length is that of the past.
    let past_length = past_length.filter(|_| matches!(attributes.flag("past_present_share_buffer", false), Ok(true)));
    let mut inputs: Vec<_> = parts.iter().copied().map(Some).collect();
    inputs.extend([None, mask, added, pasts[0], pasts[1], past_length]);
    let has_present = node.output(1).is_some();
    let count = if has_present { 3 } else { 1 };
    let operator = OperatorId::new("com.microsoft", "MultiHeadAttention", 1);
    let results = body.node(operator, inputs, kept, count);
    let mut present = None;
    if let &[_, keys, values] = &results[..] {
        let first = body.ints(&[0])?;
        let (keys, values) = (
            body.op("Unsqueeze", &[keys, first]),
            body.op("Unsqueeze", &[values, first]),
        );
        present = Some(body.op_with("Concat", &[keys, values], &[("axis", Attribute::Int(0))]));
    }
    body.finish(&[Some(results[0]), present])
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::{TestNode, f32s, tensor};
    use crate::{error::ErrorCode, graph::OperatorId, tensor::Tensor};

    fn multi_head(heads: i64) -> TestNode {
        TestNode::of(OperatorId::new("com.microsoft", "MultiHeadAttention", 1)).attr("num_heads", heads)
    }

    fn ones(shape: &[usize]) -> Tensor {
        f32s(shape, &vec![1.0; shape.iter().product()])
    }

    #[test]
    fn equal_keys_average_the_visible_values() {
        let values = f32s(&[1, 3, 2], &[1.0, 10.0, 2.0, 20.0, 6.0, 60.0]);
        let node = multi_head(2)
            .input(ones(&[1, 3, 2]))
            .input(ones(&[1, 3, 2]))
            .input(values);
        let all = node.clone().run1().unwrap();
        assert_eq!(all, f32s(&[1, 3, 2], &[3.0, 30.0, 3.0, 30.0, 3.0, 30.0]));
        let causal = node.clone().attr("unidirectional", 1i64).outputs(3).run().unwrap();
        assert_eq!(causal[0], f32s(&[1, 3, 2], &[1.0, 10.0, 1.5, 15.0, 3.0, 30.0]));
        assert_eq!(causal[2], f32s(&[1, 2, 3, 1], &[1.0, 2.0, 6.0, 10.0, 20.0, 60.0]));
        let masked = node.no_input().input(tensor(&[1], &[2i32])).run1().unwrap();
        assert_eq!(masked, f32s(&[1, 3, 2], &[1.5, 15.0, 1.5, 15.0, 1.5, 15.0]));
    }

    #[test]
    fn no_queries_and_no_keys_are_fine() {
        let none = multi_head(1)
            .input(ones(&[1, 0, 2]))
            .input(ones(&[1, 4, 2]))
            .input(ones(&[1, 4, 2]));
        assert_eq!(none.run1().unwrap().shape(), [1, 0, 2]);
        let empty = multi_head(1)
            .input(ones(&[1, 1, 2]))
            .input(ones(&[1, 0, 2]))
            .input(ones(&[1, 0, 2]));
        assert_eq!(empty.run1().unwrap(), f32s(&[1, 1, 2], &[0.0, 0.0]));
    }

    #[test]
    fn shapes_that_do_not_fit_are_errors() {
        let x = || ones(&[1, 2, 6]);
        let code = |node: TestNode| node.run().unwrap_err().code();
        assert_eq!(
            code(multi_head(4).input(x()).input(x()).input(x())),
            ErrorCode::ShapeMismatch
        );
        assert_eq!(
            code(multi_head(0).input(x()).input(x()).input(x())),
            ErrorCode::InvalidGraph
        );
        assert_eq!(
            code(multi_head(2).input(x()).input(x()).input(ones(&[1, 3, 6]))),
            ErrorCode::ShapeMismatch
        );
        let masked = multi_head(2).input(x()).input(x()).input(x()).no_input();
        assert_eq!(
            code(masked.input(tensor(&[1, 5], &[1i32; 5]))),
            ErrorCode::ShapeMismatch
        );
        let biased = multi_head(2).input(x()).input(x()).input(x()).input(ones(&[17]));
        assert_eq!(code(biased), ErrorCode::ShapeMismatch);
    }
}
