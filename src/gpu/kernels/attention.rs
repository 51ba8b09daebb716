//! Attention over rows of heads, and what happens to the rows before: biases, norms, rotary embeddings, caches.

use super::super::kernel::{AdapterKind, Binding, Dispatch, GpuCaps};
use super::super::wgsl::{DispatchBuilder, shader_text};
use super::dot_attention::Heads;
use super::{elements, finish_flat, flat};

const ROWS: &str = shader_text!("../../../shaders/attention_rows.wgsl");
const ATTENTION: &str = shader_text!("../../../shaders/attention.wgsl");
const SCORES: &str = shader_text!("../../../shaders/attention_scores.wgsl");

/// Queries, keys or values: element `i` of row `r` of head `h` of sequence `b` is
/// `start + b * steps[0] + h * steps[1] + r * steps[2] + i` of a buffer of f32s.
#[derive(Debug, Clone)]
pub struct Rows {
    pub binding: Binding,
    pub start: usize,
    pub steps: [usize; 3],
}

impl Rows {
    /// A tensor `[batch, rows, heads * size]`.
    pub fn row_by_row(binding: Binding, rows: usize, heads: usize, size: usize) -> Rows {
        let row = heads * size;
        Rows {
            binding,
            start: 0,
            steps: [rows * row, size, row],
        }
    }

    /// A tensor `[batch, heads, rows, size]`.
    pub fn head_by_head(binding: Binding, heads: usize, rows: usize, size: usize) -> Rows {
        Rows {
            binding,
            start: 0,
            steps: [heads * rows * size, rows * size, size],
        }
    }

    fn bind(&self, dispatch: DispatchBuilder, start: &str, step: &str) -> DispatchBuilder {
        dispatch
            .param(start, self.start as u32)
            .param_list(step, self.steps.map(|step| step as u32))
    }

    /// Whether everything of rows of `size` elements is whole vectors of four.
    fn is_wide(&self, size: usize) -> bool {
        size.is_multiple_of(4) && self.start.is_multiple_of(4) && self.steps.iter().all(|step| step.is_multiple_of(4))
    }

    /// The same counted in vectors.
    fn widened(&self) -> Rows {
        Rows {
            binding: self.binding.clone(),
            start: self.start / 4,
            steps: self.steps.map(|step| step / 4),
        }
    }
}

/// How many rows each sequence has with its new ones: an i32 for each, and what is to be added to it.
#[derive(Debug, Clone)]
pub struct Lengths {
    pub binding: Binding,
    pub offset: i32,
    /// Whether there is no past, whatever the lengths.
    pub is_prompt: bool,
}

/// Rows that were there before the new ones.
#[derive(Debug, Clone)]
pub enum Before {
    /// As many in each sequence.
    Same(usize),
    Lengths(Lengths),
}

impl Before {
    fn bind(&self, dispatch: DispatchBuilder) -> DispatchBuilder {
        match self {
            Before::Same(past) => dispatch.param_i32("past", *past as i32),
            Before::Lengths(lengths) => dispatch
                .flag("LENGTHS", true)
                .flag("PROMPT", lengths.is_prompt)
                .storage("lengths", "i32", lengths.binding.clone())
                .param_i32("length_offset", lengths.offset),
        }
    }
}

/// Which angles a row is rotated by.
#[derive(Debug, Clone)]
pub enum Positions {
    /// Those of its own: the table has one row for each row of each sequence.
    Own,
    /// Those of its number, the past included.
    Past(Before),
    /// Those that an i32 names, one for each row, or the first row's for each sequence or for all.
    Given {
        binding: Binding,
        steps: [usize; 2],
        run: usize,
    },
}

/// A rotary embedding: cosines and sines `[table, half]`.
#[derive(Debug, Clone)]
pub struct Turn {
    pub cosines: Binding,
    pub sines: Binding,
    pub half: usize,
    pub table: usize,
    pub interleaved: bool,
    pub positions: Positions,
}

/// What is done to rows.
#[derive(Debug, Clone, Default)]
pub struct Preparation {
    /// Added to each head's elements, from this element on.
    pub bias: Option<(Binding, usize)>,
    /// Factors behind an RMS norm of each row, and its epsilon.
    pub norm: Option<(Binding, f32)>,
    pub turn: Option<Turn>,
}

impl Preparation {
    /// Whether nothing is done.
    pub fn is_empty(&self) -> bool {
        self.bias.is_none() && self.norm.is_none() && self.turn.is_none()
    }

    /// The dispatch that writes `rows`, of `[batch, heads, rows, size]`, to `to`.
    pub fn dispatch(&self, rows: &Rows, sizes: [usize; 4], to: &Rows, caps: &GpuCaps) -> Option<Dispatch> {
        let count = elements(&sizes, caps)?;
        let [_, heads, count_rows, size] = sizes;
        let mut dispatch = flat("attention_rows", ROWS)
            .flag("PREPARE", true)
            .flag("BIAS", self.bias.is_some())
            .flag("NORM", self.norm.is_some())
            .flag("ROTATE", self.turn.is_some())
            .storage("input", "f32", rows.binding.clone())
            .storage("output", "f32", to.binding.clone())
            .param("heads", heads as u32)
            .param("rows", count_rows as u32)
            .param("size", size as u32)
            .param_list("to", to.steps.map(|step| step as u32));
        dispatch = rows.bind(dispatch, "start", "from");
        if let Some((binding, start)) = &self.bias {
            dispatch = dispatch
                .storage("bias", "f32", binding.clone())
                .param("bias_start", *start as u32);
        }
        if let Some((binding, epsilon)) = &self.norm {
            dispatch = dispatch
                .storage("norm", "f32", binding.clone())
                .param_f32("epsilon", *epsilon);
        }
        let mut before = &Before::Same(0);
        if let Some(turn) = &self.turn {
            if turn.table == 0 || turn.half == 0 || 2 * turn.half > size {
                return None;
            }
            elements(&[turn.table, turn.half], caps)?;
            dispatch = dispatch
                .flag("INTERLEAVED", turn.interleaved)
                .storage("cosines", "f32", turn.cosines.clone())
                .storage("sines", "f32", turn.sines.clone())
                .param("half", turn.half as u32)
                .param("table", turn.table as u32);
            match &turn.positions {
                Positions::Own => dispatch = dispatch.flag("OWN", true),
                Positions::Past(past) => before = past,
                Positions::Given { binding, steps, run } => {
                    dispatch = dispatch
                        .flag("POSITIONS", true)
                        .storage("positions", "i32", binding.clone())
                        .param("position_step", steps[0] as u32)
                        .param("position_row", steps[1] as u32)
                        .param("position_run", *run as u32);
                }
            }
        }
        finish_flat(before.bind_rows(dispatch), count, caps)
    }
}

impl Before {
    /// As the shaders of rows take it: unsigned where it is one number.
    fn bind_rows(&self, dispatch: DispatchBuilder) -> DispatchBuilder {
        match self {
            Before::Same(past) => dispatch.param("past", *past as u32),
            Before::Lengths(_) => self.bind(dispatch),
        }
    }
}

/// What stands behind the new rows of a cache that has room for more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rest {
    Past,
    Zero,
}

/// The dispatch that writes a cache `[batch, heads, total, size]`: past rows, which have `capacity`, and behind them `rows`
/// new ones.
pub fn append(
    past: Option<(Binding, usize)>,
    before: &Before,
    rows: &Rows,
    [batch, heads, new_rows, size]: [usize; 4],
    (total, rest): (usize, Rest),
    to: Binding,
    caps: &GpuCaps,
) -> Option<Dispatch> {
    let count = elements(&[batch, heads, total, size], caps)?;
    let mut dispatch = flat("attention_cache", ROWS)
        .flag("PAST", past.is_some())
        .flag("REST", rest == Rest::Past)
        .storage("input", "f32", rows.binding.clone())
        .storage("output", "f32", to)
        .param("heads", heads as u32)
        .param("rows", new_rows as u32)
        .param("total", total as u32)
        .param("size", size as u32);
    dispatch = rows.bind(dispatch, "start", "from");
    if let Some((binding, capacity)) = past {
        elements(&[batch, heads, capacity, size], caps)?;
        dispatch = dispatch
            .storage("pasts", "f32", binding)
            .param("capacity", capacity as u32);
    }
    finish_flat(before.bind_rows(dispatch), count, caps)
}

/// The dispatch that writes `rows` new rows into a cache `[batch, heads, total, size]` of elements of four bytes, behind
/// those that were there before. With `wraps`, rows past the end begin again in front, and each sequence's first place is
/// `lengths` itself, of any sign.
pub fn write_rows(
    before: &Before,
    rows: &Rows,
    [batch, heads, new_rows, size]: [usize; 4],
    (total, wraps): (usize, bool),
    to: Binding,
    caps: &GpuCaps,
) -> Option<Dispatch> {
    elements(&[batch, heads, total, size], caps)?;
    let count = elements(&[batch, heads, new_rows, size], caps)?;
    let dispatch = flat("attention_cache", ROWS)
        .flag("WRITE", true)
        .flag("WRAPS", wraps)
        .storage("input", "u32", rows.binding.clone())
        .storage("output", "u32", to)
        .param("heads", heads as u32)
        .param("rows", new_rows as u32)
        .param("total", total as u32)
        .param("size", size as u32);
    finish_flat(before.bind_rows(rows.bind(dispatch, "start", "from")), count, caps)
}

/// A tensor that is added to the scores, or of truth values, whose steps for batch, head and query are given (0 where it
/// is broadcast); it has an element for each of the first `keys` keys.
#[derive(Debug, Clone)]
pub struct Bias {
    pub binding: Binding,
    pub steps: [usize; 3],
    pub keys: usize,
    pub is_truth: bool,
}

/// Integers that say which scores get a large negative number added.
#[derive(Debug, Clone)]
pub struct Filter {
    pub binding: Binding,
    pub value: f32,
    pub kind: FilterKind,
}

/// How [`Filter`]'s integers are meant.
#[derive(Debug, Clone, Copy)]
pub enum FilterKind {
    /// The end of each sequence, and perhaps its start.
    Range { has_starts: bool },
    /// One for each key, positive where it is seen: from `start` on with these steps for batch and query.
    Each { start: usize, steps: [usize; 2] },
}

/// One more score for each head that has no value.
#[derive(Debug, Clone)]
pub enum Sinks {
    Zero,
    Each(Binding),
}

/// Which scores are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recorded {
    Raw,
    Capped,
    Biased,
    Weights,
}

/// Scores `[batch, heads, queries, keys]` that are kept in a buffer.
#[derive(Debug, Clone)]
pub struct Record {
    pub binding: Binding,
    pub what: Recorded,
    /// Whether scores of keys that are not seen are 0, not negative infinity.
    pub zero_outside: bool,
}

/// An attention.
#[derive(Debug, Clone)]
pub struct Attention {
    pub batch: usize,
    pub heads: usize,
    /// Query head `h` attends to head `h / (heads / kv_heads)`.
    pub kv_heads: usize,
    pub queries: usize,
    pub keys: usize,
    pub head_size: usize,
    pub value_size: usize,
    pub q: Rows,
    pub k: Rows,
    pub v: Rows,
    /// Where the result goes.
    pub to: Rows,
    pub scale: f32,
    /// 0 for none.
    pub soft_cap: f32,
    pub causal: bool,
    /// Keys before and behind its own position that a query sees, when that is bounded.
    pub window: [Option<i64>; 2],
    pub before: Before,
    pub bias: Option<Bias>,
    pub filter: Option<Filter>,
    pub sinks: Option<Sinks>,
    pub record: Option<Record>,
}

/// Elements of a result that a thread makes, in vectors or single ones: more spill, fewer compute scores too often.
const CHUNK: usize = 8;

impl Attention {
    /// The dispatch. On hardware several queries share keys and values through workgroup memory. Otherwise, and where scores
    /// are recorded, a thread computes those of one query.
    pub fn dispatch(&self, caps: &GpuCaps) -> Option<Dispatch> {
        let rows = elements(&[self.batch, self.heads, self.queries], caps)?;
        elements(&[rows, self.value_size], caps)?;
        elements(
            &[
                self.batch,
                self.kv_heads,
                self.keys,
                self.head_size.max(self.value_size),
            ],
            caps,
        )?;
        if caps.kind == AdapterKind::Hardware
            && self.queries > 1
            && self.record.is_none()
            && let Some(dispatch) = self.tiled(caps)
        {
            return Some(dispatch);
        }
        let wide = self.q.is_wide(self.head_size) && self.k.is_wide(self.head_size);
        let wide_values = self.v.is_wide(self.value_size) && self.to.is_wide(self.value_size);
        let widen = |rows: &Rows, wide: bool| if wide { rows.widened() } else { rows.clone() };
        let unit = |wide: bool| if wide { 4 } else { 1 };
        let element = |wide: bool| if wide { "vec4<f32>" } else { "f32" };
        let value_units = self.value_size / unit(wide_values);
        // Scores are kept by the thread that computes them all.
        let chunk = match self.record {
            Some(_) => value_units.max(1),
            None => value_units.clamp(1, if wide_values { CHUNK } else { 4 * CHUNK }),
        };
        let chunks = value_units.div_ceil(chunk).max(1);
        if chunk > 256 {
            return None;
        }
        let mut dispatch = flat("attention", ATTENTION)
            .define("CHUNK", chunk)
            .define("V", element(wide_values))
            .flag("WIDE", wide)
            .storage("q", element(wide), self.q.binding.clone())
            .storage("k", element(wide), self.k.binding.clone())
            .storage("v", element(wide_values), self.v.binding.clone())
            .storage("output", element(wide_values), self.to.binding.clone())
            .param("chunks", chunks as u32)
            .param("group", (self.heads / self.kv_heads.max(1)) as u32)
            .param("queries", self.queries as u32)
            .param("keys", self.keys as u32)
            .param("head_units", (self.head_size / unit(wide)) as u32)
            .param("value_units", value_units as u32)
            .param_f32("scale", self.scale)
            .param_f32("lowest", f32::NEG_INFINITY)
            .param_list("to", widen(&self.to, wide_values).steps.map(|step| step as u32));
        dispatch = widen(&self.q, wide).bind(dispatch, "q_start", "q");
        dispatch = widen(&self.k, wide).bind(dispatch, "k_start", "k");
        dispatch = widen(&self.v, wide_values).bind(dispatch, "v_start", "v");
        dispatch = self.bind_scores(dispatch);
        if let Some(record) = &self.record {
            elements(&[rows, self.keys], caps)?;
            let weights = record.what == Recorded::Weights;
            dispatch = dispatch
                .flag("RECORD", true)
                .flag("RAW", record.what == Recorded::Raw)
                .flag("CAPPED", record.what == Recorded::Capped)
                .flag("BIASED", record.what == Recorded::Biased || weights)
                .flag("WEIGHTS", weights)
                .flag("ZEROOUTSIDE", record.zero_outside && !weights)
                .storage("record", "f32", record.binding.clone());
        }
        finish_flat(dispatch, rows * chunks, caps)
    }

    /// The kernel in tiles.
    fn tiled(&self, caps: &GpuCaps) -> Option<Dispatch> {
        let group = self.heads / self.kv_heads.max(1);
        let rows = [&self.q, &self.k, &self.v, &self.to];
        // Query heads are groups of those that share keys and values.
        let head = |of: usize| rows[of].steps[1];
        let outer = [head(0) * group, head(1), head(2), head(3) * group];
        let heads = Heads {
            queries: self.queries,
            keys: self.keys,
            head_size: self.head_size,
            value_size: self.value_size,
            axes: vec![
                (self.batch, rows.map(|rows| rows.steps[0])),
                (self.kv_heads, outer),
                (group, [head(0), 0, 0, head(3)]),
            ],
            bindings: rows.map(|rows| rows.binding.clone()),
            starts: rows.map(|rows| rows.start),
            rows: rows.map(|rows| rows.steps[2]),
            columns: [1; 4],
        };
        let dispatch = self.bind_scores(Heads::tiles().flag("TILED", true));
        heads.tiled(dispatch, self.scale, 0.0, caps)
    }

    /// Declares which keys are seen, and what is done to scores.
    fn bind_scores(&self, dispatch: DispatchBuilder) -> DispatchBuilder {
        let clamped = |value: i64| value.clamp(0, 1 << 30) as i32;
        let mut dispatch = dispatch
            .functions(SCORES)
            .flag("CAUSAL", self.causal)
            .flag("LEFT", self.window[0].is_some())
            .flag("RIGHT", self.window[1].is_some())
            .flag("SOFTCAP", self.soft_cap != 0.0)
            .param("heads", self.heads as u32)
            .param_i32("left", clamped(self.window[0].unwrap_or(0)))
            .param_i32("right", clamped(self.window[1].unwrap_or(0)))
            .param_f32("soft_cap", self.soft_cap);
        dispatch = self.before.bind(dispatch);
        if let Some(bias) = &self.bias {
            dispatch = dispatch
                .flag("BIAS", true)
                .flag("TRUTH", bias.is_truth)
                .storage("bias", if bias.is_truth { "u32" } else { "f32" }, bias.binding.clone())
                .param_list("bias", bias.steps.map(|step| step as u32))
                .param_i32("bias_keys", bias.keys as i32);
        }
        if let Some(filter) = &self.filter {
            dispatch = dispatch
                .storage("filters", "i32", filter.binding.clone())
                .param_f32("filter_value", filter.value);
            dispatch = match filter.kind {
                FilterKind::Range { has_starts } => dispatch
                    .flag("RANGE", true)
                    .flag("STARTS", has_starts)
                    .param("sequences", self.batch as u32),
                FilterKind::Each { start, steps } => dispatch
                    .flag("FILTER", true)
                    .param("filter_start", start as u32)
                    .param("filter0", steps[0] as u32)
                    .param("filter2", steps[1] as u32),
            };
        }
        if let Some(sinks) = &self.sinks {
            dispatch = dispatch.flag("SINK", true);
            dispatch = match sinks {
                Sinks::Zero => dispatch.flag("ZEROSINK", true),
                Sinks::Each(binding) => dispatch.storage("sinks", "f32", binding.clone()),
            };
        }
        dispatch
    }
}
