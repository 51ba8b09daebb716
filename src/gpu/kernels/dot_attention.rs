//! Attention over operands that stay where they are, whatever the order of their axes. On hardware one kernel walks over the
//! keys in tiles with an online softmax (Milakov & Gimelshein 2018; FlashAttention, Dao et al. 2022), and the scores are
//! never in memory. On software adapters, where barriers are slow, and for few queries, which do not share enough, two
//! products and a softmax are faster: each element that they load serves eight sums.

use super::super::epilogue::Epilogue;
use super::super::kernel::{Access, AdapterKind, Binding, Dispatch, GpuCaps, GpuKernel};
use super::super::wgsl::{DispatchBuilder, shader_text};
use super::matmul::{Matrix, Product, Steps};
use super::reduce::{SoftmaxKind, softmax};
use super::{Precision, dense_strides, elements};

const TILED: &str = shader_text!("../../../shaders/attention_tiled.wgsl");

/// Every query sees every key, and scores go through the epilogue.
const WHOLE: &str = "
fn span(index: u32, first: u32, last: u32) -> vec2<u32> {
    return vec2<u32>(0u, params.keys);
}

fn finish(score: f32, index: u32, query: u32, key: u32) -> f32 {
    if (key >= params.keys) {
        return params.lowest;
    }
    //: if EPILOGUE
    return epilogue(score, (index * params.queries + query) * params.keys + key);
    //: else
    return score;
    //: end
}";

/// Rows of a tile of queries.
const ROWS: usize = 32;
/// Fewer queries than this are not worth a tile.
const MIN_QUERIES: usize = 16;

/// Queries, keys, values and the output in their buffers: element `i` of row `r` is at
/// `starts[of] + leading steps + r * rows[of] + i * columns[of]`.
#[derive(Debug, Clone)]
pub struct Heads {
    pub queries: usize,
    pub keys: usize,
    pub head_size: usize,
    pub value_size: usize,
    /// The leading axes, outermost first: their sizes, and the step of each tensor.
    pub axes: Vec<(usize, [usize; 4])>,
    pub bindings: [Binding; 4],
    pub starts: [usize; 4],
    pub rows: [usize; 4],
    pub columns: [usize; 4],
}

/// What is computed over [`Heads`].
#[derive(Debug, Clone, Copy)]
pub struct DotAttention<'a> {
    pub scale: f32,
    /// Of the scores `[.., queries, keys]`.
    pub epilogue: Option<&'a Epilogue>,
    /// Whether weights that are no numbers are 0.
    pub zero_nan: bool,
}

impl Heads {
    /// How many there are.
    fn count(&self) -> usize {
        self.axes.iter().map(|(size, _)| size).product()
    }

    /// `softmax(epilogue(scale * Q · Kᵀ)) · V`; the inputs' sizes were checked. Scratch buffers 0 and 1 are taken.
    pub fn attention(&self, attention: &DotAttention<'_>, caps: &GpuCaps) -> Option<GpuKernel> {
        let &Heads { queries, keys, .. } = self;
        let count = self.count();
        if count * queries * self.value_size == 0 {
            return Some(GpuKernel::default());
        }
        // Positions of scores, which epilogues are given, are 32-bit.
        count
            .checked_mul(queries)?
            .checked_mul(keys)
            .filter(|&scores| scores <= i32::MAX as usize)?;
        let tiled = || {
            let dispatch = Heads::tiles().functions(WHOLE).flag("ZERONAN", attention.zero_nan);
            let empty = if attention.zero_nan || keys == 0 { 0.0 } else { f32::NAN };
            let dispatch = dispatch.epilogue(attention.epilogue);
            Some(GpuKernel::of(vec![self.tiled(
                dispatch,
                attention.scale,
                empty,
                caps,
            )?]))
        };
        if caps.kind == AdapterKind::Hardware && queries >= MIN_QUERIES {
            tiled().or_else(|| self.apart(attention, caps))
        } else {
            self.apart(attention, caps).or_else(tiled)
        }
    }

    /// What [`Heads::tiled`] is begun with.
    pub(super) fn tiles() -> DispatchBuilder {
        DispatchBuilder::new("attention_tiled", TILED)
    }

    /// The kernel in tiles. `dispatch` has the functions that say which keys a query sees and what a score becomes, with
    /// all they want but the numbers of queries and keys. Rows without any weight are `empty`.
    pub(super) fn tiled(
        &self,
        mut dispatch: DispatchBuilder,
        scale: f32,
        empty: f32,
        caps: &GpuCaps,
    ) -> Option<Dispatch> {
        let vectors = self.value_size.div_ceil(4);
        let quads = vectors.div_ceil(8).clamp(1, 4);
        let steps = self.axes.iter().flat_map(|(_, steps)| steps);
        let mut steps = steps
            .chain(&self.starts)
            .chain(&self.rows)
            .chain([&self.head_size, &self.value_size]);
        let wide = self.columns == [1; 4] && steps.all(|step| step.is_multiple_of(4));
        let element = if wide { "vec4<f32>" } else { "f32" };
        for (name, binding) in ["x0", "x1", "x2", "output"].into_iter().zip(&self.bindings) {
            dispatch = dispatch.storage(name, element, binding.clone());
        }
        for (name, steps) in [("start", &self.starts), ("row", &self.rows), ("column", &self.columns)] {
            dispatch = dispatch.param_list(name, steps.map(|step| step as u32));
        }
        for (axis, (size, steps)) in self.axes.iter().rev().enumerate() {
            dispatch = dispatch
                .param(format!("dim{axis}"), *size as u32)
                .param_list(&format!("step{axis}_"), steps.map(|step| step as u32));
        }
        let groups = [
            self.queries.div_ceil(ROWS),
            vectors.div_ceil(8 * quads),
            self.count().min(caps.max_workgroups as usize),
        ];
        let fits = dispatch.storage_count() <= caps.max_storage_buffers as usize
            && groups.iter().all(|&count| count <= caps.max_workgroups as usize);
        fits.then(|| {
            dispatch
                .define("RANK", self.axes.len())
                .define("QUADS", quads)
                .define("COLUMNS", 8 * quads)
                .flag("WIDE", wide)
                .param("count", self.count() as u32)
                .param("queries", self.queries as u32)
                .param("keys", self.keys as u32)
                .param("head_size", self.head_size as u32)
                .param("value_size", self.value_size as u32)
                .param_f32("scale", scale)
                .param_f32("lowest", f32::NEG_INFINITY)
                .param_f32("empty", empty)
                .finish(groups.map(|count| count as u32))
        })
    }

    /// Two products with a softmax between them.
    fn apart(&self, attention: &DotAttention<'_>, caps: &GpuCaps) -> Option<GpuKernel> {
        let &Heads {
            queries,
            keys,
            value_size,
            ..
        } = self;
        let dims: Vec<usize> = self.axes.iter().map(|(size, _)| *size).collect();
        let rows = self.count() * queries;
        let scores = elements(&[rows, keys], caps)?;
        let batch = |of: usize| self.axes.iter().map(|(_, steps)| steps[of]).collect::<Vec<_>>();
        let matrix = |of: usize, row: usize, column: usize| Matrix {
            binding: self.bindings[of].clone(),
            precision: Precision::Single,
            row,
            column,
            batch: batch(of),
        };
        let product = |n: usize, k: usize, a: Matrix, b: Matrix| Product {
            m: queries,
            n,
            k,
            batch_dims: dims.clone(),
            a,
            b,
            alpha: 1.0,
            addend: None,
            epilogue: None,
            to: None,
        };
        let (q, k) = (
            matrix(0, self.rows[0], self.columns[0]),
            matrix(1, self.columns[1], self.rows[1]),
        );
        let mut first = product(keys, self.head_size, q, k);
        first.alpha = attention.scale;
        first.epilogue = attention.epilogue;
        let size = (scores.max(4) * 4) as u64;
        let mut kernel = GpuKernel {
            scratch: vec![size; 2],
            ..GpuKernel::default()
        };
        let kind = match attention.zero_nan {
            true => SoftmaxKind::ZeroNan,
            false => SoftmaxKind::Softmax,
        };
        for (step, made) in [first.kernel(caps)?, softmax(kind, rows, keys, 1, caps)?]
            .into_iter()
            .enumerate()
        {
            for mut dispatch in made.dispatches {
                for binding in &mut dispatch.bindings {
                    match binding {
                        Binding::Output(_) => *binding = Binding::Scratch(step, Access::ReadWrite),
                        Binding::Input(_) if step == 1 => *binding = Binding::Scratch(0, Access::Read),
                        _ => {}
                    }
                }
                kernel.dispatches.push(dispatch);
            }
        }
        let dense = dense_strides(&dims);
        let of_dense = |size: usize| dense.iter().map(|stride| stride * size).collect::<Vec<_>>();
        let weights = Matrix {
            binding: Binding::Scratch(1, Access::Read),
            precision: Precision::Single,
            row: keys,
            column: 1,
            batch: of_dense(queries * keys),
        };
        let mut second = product(value_size, keys, weights, matrix(2, self.rows[2], self.columns[2]));
        let to = Steps {
            row: self.rows[3],
            column: self.columns[3],
            batch: batch(3),
        };
        let is_dense = to.column == 1
            && to.row == value_size
            && (to.batch.iter().zip(of_dense(queries * value_size)).zip(&dims))
                .all(|((step, dense), &dim)| dim == 1 || *step == dense);
        second.to = (!is_dense).then_some(to);
        kernel.dispatches.extend(second.kernel(caps)?.dispatches);
        Some(kernel)
    }
}
