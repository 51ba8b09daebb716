//! Matrix products: MatMul with its batches, Gemm, and the product that convolutions are built on. On hardware they
//! run on tiles in workgroup memory, or straight from storage where there are few rows; on software adapters, where
//! barriers are slow and compiling takes longer than running, on lanes: one text for all shapes.

use super::super::epilogue::Epilogue;
use super::super::kernel::{AdapterKind, Binding, GpuCaps, GpuKernel};
use super::super::wgsl::{DispatchBuilder, shader_text};
use super::{Grid, HALVES, MAX_RANK, Operand, Precision, dense_strides, elements, laid_out, single};
use crate::pointwise::access::broadcast_strides;

const DIRECT: &str = shader_text!("../../../shaders/matmul_direct.wgsl");
const LANES: &str = shader_text!("../../../shaders/matmul_lanes.wgsl");
const TILED: &str = shader_text!("../../../shaders/matmul_tiled.wgsl");
const STORE: &str = shader_text!("../../../shaders/matmul_store.wgsl");
/// [`STORE`] for one element.
pub(super) const STORE_ONE: &str = shader_text!("../../../shaders/matmul_store_one.wgsl");

/// A matrix in a buffer: where it starts follows from the batch, then elements are `row` and `column` apart.
#[derive(Debug, Clone)]
pub(super) struct Matrix {
    pub(super) binding: Binding,
    /// Half precision wants whole vectors along the rows.
    pub(super) precision: Precision,
    pub(super) row: usize,
    pub(super) column: usize,
    /// Step in elements per batch dimension.
    pub(super) batch: Vec<usize>,
}

/// Added to the product before the epilogue: `beta * value[batch, row, column]`.
#[derive(Debug, Clone)]
pub(super) struct Addend {
    pub(super) binding: Binding,
    pub(super) beta: f32,
    pub(super) row: usize,
    /// `None` when all columns of a row share one value.
    pub(super) column: Option<usize>,
    /// Batches after which the addend starts over, and its step per batch.
    pub(super) batches: usize,
    pub(super) batch: usize,
}

/// `output[batch] = epilogue(alpha * a[batch] (m x k) x b[batch] (k x n) + addend)`.
pub(super) struct Product<'a> {
    pub(super) m: usize,
    pub(super) n: usize,
    pub(super) k: usize,
    pub(super) batch_dims: Vec<usize>,
    pub(super) a: Matrix,
    pub(super) b: Matrix,
    pub(super) alpha: f32,
    pub(super) addend: Option<Addend>,
    pub(super) epilogue: Option<&'a Epilogue>,
    /// Where an output stands that is not dense.
    pub(super) to: Option<Steps>,
}

/// The output's steps in elements.
#[derive(Debug, Clone)]
pub(super) struct Steps {
    pub(super) row: usize,
    pub(super) column: usize,
    /// Per batch dimension.
    pub(super) batch: Vec<usize>,
}

/// MatMul (opset 1 and later) with NumPy's rules: batch dimensions broadcast, vectors lose the dimension they were
/// given. The epilogue sees the dense output. `None` when the shapes do not fit or exceed the GPU.
pub fn matmul(a: &Operand, b: &Operand, epilogue: Option<&Epilogue>, caps: &GpuCaps) -> Option<GpuKernel> {
    let plain = GemmAttributes {
        alpha: 1.0,
        beta: 0.0,
        transpose_a: false,
        transpose_b: false,
    };
    fused_matmul(a, b, &plain, epilogue, caps)
}

/// The same with a factor `alpha`, and operands whose last two dimensions may be stored the other way round.
pub fn fused_matmul(
    a: &Operand,
    b: &Operand,
    attributes: &GemmAttributes,
    epilogue: Option<&Epilogue>,
    caps: &GpuCaps,
) -> Option<GpuKernel> {
    elements(a.shape, caps)?;
    elements(b.shape, caps)?;
    let (a_batch, m, k) = match (a.shape, attributes.transpose_a) {
        ([], _) => return None,
        ([k], _) => (&[][..], 1, *k),
        ([batch @ .., m, k], false) | ([batch @ .., k, m], true) => (batch, *m, *k),
    };
    let (b_batch, b_k, n) = match (b.shape, attributes.transpose_b) {
        ([], _) => return None,
        ([k], _) => (&[][..], *k, 1),
        ([batch @ .., k, n], false) | ([batch @ .., n, k], true) => (batch, *k, *n),
    };
    // A vector is stored the same either way.
    let transpose_a = attributes.transpose_a && a.shape.len() > 1;
    let transpose_b = attributes.transpose_b && b.shape.len() > 1;
    if k != b_k {
        return None;
    }
    let rank = a_batch.len().max(b_batch.len());
    let dim = |shape: &[usize], axis: usize| (axis + shape.len()).checked_sub(rank).map_or(1, |axis| shape[axis]);
    let mut batch_dims = Vec::with_capacity(rank);
    for axis in 0..rank {
        batch_dims.push(match (dim(a_batch, axis), dim(b_batch, axis)) {
            (1, other) | (other, 1) => other,
            (same, other) if same == other => same,
            _ => return None,
        });
    }
    let strides = |shape: &[usize], size: usize| -> Option<Vec<usize>> {
        Some(
            broadcast_strides(&batch_dims, shape)?
                .into_iter()
                .map(|stride| stride * size)
                .collect(),
        )
    };
    let a_matrix = Matrix {
        binding: a.binding.clone(),
        precision: Precision::Single,
        row: if transpose_a { 1 } else { k },
        column: if transpose_a { m } else { 1 },
        batch: strides(a_batch, m * k)?,
    };
    let b_matrix = constant_b(b, k, n, transpose_b, b_batch.iter().product(), caps).map_or_else(
        || {
            let batch = strides(b_batch, k * n)?;
            Some(Matrix {
                binding: b.binding.clone(),
                precision: Precision::Single,
                row: if transpose_b { 1 } else { n },
                column: if transpose_b { k } else { 1 },
                batch,
            })
        },
        |(binding, precision, row)| {
            Some(Matrix {
                binding,
                precision,
                row,
                column: 1,
                batch: strides(b_batch, k * row)?,
            })
        },
    )?;
    let product = Product {
        m,
        n,
        k,
        batch_dims,
        a: a_matrix,
        b: b_matrix,
        alpha: attributes.alpha,
        addend: None,
        epilogue,
        to: None,
    };
    product.folded().kernel(caps)
}

/// What [`gemm`] computes besides the product.
#[derive(Debug, Clone)]
pub struct GemmAttributes {
    pub alpha: f32,
    pub beta: f32,
    pub transpose_a: bool,
    pub transpose_b: bool,
}

/// Gemm (opset 7 and later): `alpha * a' x b' + beta * c`, where `c` broadcasts to the m x n output.
pub fn gemm(
    a: &Operand,
    b: &Operand,
    c: Option<&Operand>,
    attributes: &GemmAttributes,
    epilogue: Option<&Epilogue>,
    caps: &GpuCaps,
) -> Option<GpuKernel> {
    let ([a0, a1], [b0, b1]) = (a.shape, b.shape) else {
        return None;
    };
    elements(a.shape, caps)?;
    elements(b.shape, caps)?;
    let (m, k) = if attributes.transpose_a { (*a1, *a0) } else { (*a0, *a1) };
    let (b_k, n) = if attributes.transpose_b { (*b1, *b0) } else { (*b0, *b1) };
    if k != b_k {
        return None;
    }
    let strides = |transposed, width| if transposed { (1, width) } else { (width, 1) };
    let (a_row, a_column) = strides(attributes.transpose_a, *a1);
    let a_matrix = Matrix {
        binding: a.binding.clone(),
        precision: Precision::Single,
        row: a_row,
        column: a_column,
        batch: Vec::new(),
    };
    let b_matrix = match constant_b(b, k, n, attributes.transpose_b, 1, caps) {
        Some((binding, precision, row)) => Matrix {
            binding,
            precision,
            row,
            column: 1,
            batch: Vec::new(),
        },
        None => {
            let (row, column) = strides(attributes.transpose_b, *b1);
            Matrix {
                binding: b.binding.clone(),
                precision: Precision::Single,
                row,
                column,
                batch: Vec::new(),
            }
        }
    };
    let addend = match c {
        Some(c) if attributes.beta != 0.0 => {
            let strides = broadcast_strides(&[m, n], c.shape)?;
            let binding = c.binding.clone();
            let column = (strides[1] != 0).then_some(strides[1]);
            Some(Addend {
                binding,
                beta: attributes.beta,
                row: strides[0],
                column,
                batches: 1,
                batch: 0,
            })
        }
        _ => None,
    };
    let alpha = attributes.alpha;
    Product {
        m,
        n,
        k,
        batch_dims: Vec::new(),
        a: a_matrix,
        b: b_matrix,
        alpha,
        addend,
        epilogue,
        to: None,
    }
    .kernel(caps)
}

/// A constant right operand as rows, of whole vectors for hardware, its precision and its row length; `None` when it is no constant or
/// already is laid out so.
fn constant_b(
    b: &Operand,
    k: usize,
    n: usize,
    transposed: bool,
    batches: usize,
    caps: &GpuCaps,
) -> Option<(Binding, Precision, usize)> {
    let constant = b.constant?;
    let precision = constant.precision(caps);
    let row = match caps.kind {
        AdapterKind::Hardware => n.next_multiple_of(4),
        AdapterKind::Software => n,
    };
    if !transposed && row == n && precision == Precision::Single {
        return None;
    }
    let count = batches.checked_mul(k)?.checked_mul(row)?;
    let layout = format!(
        "matmul_b:{batches}x{k}x{row}:{}",
        if transposed { "transposed" } else { "padded" }
    );
    let binding = laid_out(
        constant,
        layout,
        count,
        precision,
        Box::new(move |from, to| {
            for (from, to) in from
                .chunks_exact((k * n).max(1))
                .zip(to.chunks_exact_mut((k * row).max(1)))
            {
                for (i, to) in to.chunks_exact_mut(row).enumerate() {
                    for (j, to) in to[..n].iter_mut().enumerate() {
                        *to = if transposed { from[j * k + i] } else { from[i * n + j] };
                    }
                }
            }
        }),
    );
    Some((binding, precision, row))
}

impl Product<'_> {
    /// Batches of `a` that share one `b` are rows of one larger product.
    fn folded(mut self) -> Self {
        let dense = dense_strides(&self.batch_dims);
        let size = self.m * self.k;
        let folds = self.b.batch.iter().all(|&stride| stride == 0)
            && self.addend.is_none()
            && self.a.row == self.k
            && self.a.column == 1
            && (0..dense.len()).all(|axis| self.batch_dims[axis] == 1 || self.a.batch[axis] == dense[axis] * size);
        if folds {
            self.m *= self.batch_dims.iter().product::<usize>();
            self.batch_dims.clear();
            self.a.batch.clear();
            self.b.batch.clear();
        }
        self
    }

    /// Batch dimensions without ones and with neighbours joined, innermost first: size, steps of a, b and the output (0 where
    /// that is dense).
    fn batches(&self) -> Vec<(usize, [usize; 3])> {
        let mut joined: Vec<(usize, [usize; 3])> = Vec::new();
        for axis in (0..self.batch_dims.len()).rev() {
            let to = self.to.as_ref().map_or(0, |to| to.batch[axis]);
            let (dim, steps) = (self.batch_dims[axis], [self.a.batch[axis], self.b.batch[axis], to]);
            match joined.last_mut() {
                _ if dim == 1 => {}
                Some((last, inner)) if inner.map(|step| step * *last) == steps => *last *= dim,
                _ => joined.push((dim, steps)),
            }
        }
        joined
    }

    /// The kernel, by the adapter's kind and the product's shape.
    pub(super) fn kernel(self, caps: &GpuCaps) -> Option<GpuKernel> {
        let batches = self
            .batch_dims
            .iter()
            .try_fold(1usize, |count, &dim| count.checked_mul(dim))?;
        if elements(&[batches, self.m, self.n], caps)? == 0 {
            return Some(GpuKernel::default());
        }
        if self.batches().len() > MAX_RANK {
            return None;
        }
        if caps.kind == AdapterKind::Software {
            self.turned().lanes(batches, caps)
        } else if self.m >= 16 && self.n >= 16 && self.k >= 8 {
            self.tiled(batches, caps)
        } else {
            self.direct(batches, caps)
        }
    }

    /// A product with one column as one with a row, which is computed faster.
    fn turned(mut self) -> Self {
        if self.n != 1 || self.m == 1 {
            return self;
        }
        let turn = |matrix: &mut Matrix| std::mem::swap(&mut matrix.row, &mut matrix.column);
        turn(&mut self.a);
        turn(&mut self.b);
        std::mem::swap(&mut self.a, &mut self.b);
        std::mem::swap(&mut self.m, &mut self.n);
        if let Some(to) = &mut self.to {
            std::mem::swap(&mut to.row, &mut to.column);
        }
        if let Some(addend) = &mut self.addend {
            (addend.row, addend.column) = (addend.column.unwrap_or(0), Some(addend.row));
        }
        self
    }

    /// For software adapters.
    fn lanes(&self, batches: usize, caps: &GpuCaps) -> Option<GpuKernel> {
        // A text of its own is worth it for single rows only.
        let rows = if self.m == 1 { 1 } else { 8 };
        let grid = Grid::new(self.n.div_ceil(8), self.m.div_ceil(rows), caps);
        let workgroups = grid.workgroups(batches, caps)?;
        let mut joined = self.batches();
        joined.resize(joined.len().max(2), (1, [0; 3]));
        let dispatch = DispatchBuilder::new("matmul_lanes", LANES)
            .functions(STORE_ONE)
            .define("ROWS", rows)
            .define("QUADS", rows * 2)
            .storage("a", "f32", self.a.binding.clone())
            .storage("b", "f32", self.b.binding.clone());
        let dispatch = self.bind_reads(grid.bind(dispatch), &joined);
        single(
            bind_store(dispatch, &self.store(batches, Stored::One)),
            workgroups,
            caps,
        )
    }

    fn tiled(&self, batches: usize, caps: &GpuCaps) -> Option<GpuKernel> {
        let workgroups = [
            u32::try_from(self.n.div_ceil(64)).ok()?,
            u32::try_from(self.m.div_ceil(64)).ok()?,
            batches.min(caps.max_workgroups as usize) as u32,
        ];
        let dispatch = DispatchBuilder::new("matmul_tiled", TILED).functions(STORE);
        single(self.bind(dispatch, batches), workgroups, caps)
    }

    fn direct(&self, batches: usize, caps: &GpuCaps) -> Option<GpuKernel> {
        let quads = self.n.div_ceil(4);
        let split = self.m <= 4 && self.k >= 256;
        let rows = match self.m {
            0..=1 => 1,
            2..=3 => 2,
            4..=7 => 4,
            _ => 8,
        };
        let (column_threads, row_threads) = if split {
            (16, 8)
        } else {
            // Square blocks of threads where there are rows to fill them.
            let columns = quads.next_power_of_two().min(if self.m <= rows { 64 } else { 8 });
            (columns, self.m.div_ceil(rows).next_power_of_two().min(64 / columns))
        };
        let rows_per_group = if split { rows } else { rows * row_threads };
        let workgroups = [
            u32::try_from(quads.div_ceil(column_threads)).ok()?,
            u32::try_from(self.m.div_ceil(rows_per_group)).ok()?,
            batches.min(caps.max_workgroups as usize) as u32,
        ];
        let dispatch = DispatchBuilder::new("matmul_direct", DIRECT)
            .functions(STORE)
            .define("ROWS", rows)
            .define("COLUMNTHREADS", column_threads)
            .define("ROWTHREADS", row_threads)
            .define("PARTIALS", column_threads * row_threads * rows)
            .flag("SPLIT", split)
            .flag("KTAIL", !self.k.is_multiple_of(4));
        single(self.bind(dispatch, batches), workgroups, caps)
    }

    /// Declares operands, output, addend and parameters, and how each is read.
    fn bind(&self, mut dispatch: DispatchBuilder, batches: usize) -> DispatchBuilder {
        let whole = |matrix: &Matrix, run: usize| {
            run.is_multiple_of(4) && matrix.batch.iter().all(|stride| stride.is_multiple_of(4))
        };
        let k_whole = self.k.is_multiple_of(4);
        let a_vector = self.a.column == 1 && k_whole && whole(&self.a, self.a.row);
        // A row of padding may stand for missing columns, so n itself need not be whole.
        let b_rows = self.b.column == 1 && whole(&self.b, self.b.row);
        let b_columns = !b_rows && self.b.row == 1 && k_whole && whole(&self.b, self.b.column);
        let element = |vector: bool, matrix: &Matrix| if vector { matrix.precision.wgsl4() } else { "f32" };
        let joined = self.batches();
        let half = |matrix: &Matrix| matrix.precision == Precision::Half;
        if half(&self.a) || half(&self.b) {
            dispatch = dispatch.functions(HALVES);
        }
        let dispatch = dispatch
            .flag("AHALF", half(&self.a))
            .flag("BHALF", half(&self.b))
            .flag("AVECTOR", a_vector)
            .flag("BROWS", b_rows)
            .flag("BCOLUMNS", b_columns)
            .storage("a", element(a_vector, &self.a), self.a.binding.clone())
            .storage("b", element(b_rows || b_columns, &self.b), self.b.binding.clone());
        let dispatch = self.bind_reads(dispatch, &joined);
        let stored = if self.n.is_multiple_of(4) && self.to.is_none() {
            Stored::Vectors
        } else {
            Stored::Elements
        };
        bind_store(dispatch, &self.store(batches, stored))
    }

    /// Declares the depth, steps and batches.
    fn bind_reads(&self, mut dispatch: DispatchBuilder, joined: &[(usize, [usize; 3])]) -> DispatchBuilder {
        let steps = |of: usize| joined.iter().map(move |(_, steps)| steps[of] as u32);
        if let Some(to) = &self.to {
            dispatch = dispatch
                .flag("STRIDED", true)
                .param("to_row", to.row as u32)
                .param("to_column", to.column as u32)
                .param_list("to_batch", steps(2));
        }
        dispatch
            .define("BATCHRANK", joined.len())
            .param("k", self.k as u32)
            .param("a_row", self.a.row as u32)
            .param("a_column", self.a.column as u32)
            .param("b_row", self.b.row as u32)
            .param("b_column", self.b.column as u32)
            .param_list("batch_dim", joined.iter().map(|&(dim, _)| dim as u32))
            .param_list("a_batch", steps(0))
            .param_list("b_batch", steps(1))
    }

    fn store(&self, batches: usize, stored: Stored) -> Store<'_> {
        Store {
            m: self.m,
            n: self.n,
            batches,
            alpha: self.alpha,
            addend: self.addend.as_ref(),
            epilogue: self.epilogue,
            stored,
        }
    }
}

/// How results are stored.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Stored {
    /// One at a time, by [`STORE_ONE`].
    One,
    /// Four of a row at a time, by `matmul_store.wgsl`.
    Elements,
    /// The same where rows of the output are whole vectors.
    Vectors,
}

/// What the functions that store need.
pub(super) struct Store<'a> {
    pub(super) m: usize,
    pub(super) n: usize,
    pub(super) batches: usize,
    pub(super) alpha: f32,
    pub(super) addend: Option<&'a Addend>,
    pub(super) epilogue: Option<&'a Epilogue>,
    pub(super) stored: Stored,
}

/// Declares the output and what the product is finished with.
pub(super) fn bind_store(mut dispatch: DispatchBuilder, store: &Store) -> DispatchBuilder {
    dispatch = dispatch
        .flag("STOREVECTOR", store.stored == Stored::Vectors)
        .flag("FOUR", store.stored != Stored::One)
        .storage(
            "output",
            if store.stored == Stored::Vectors {
                "vec4<f32>"
            } else {
                "f32"
            },
            Binding::Output(0),
        )
        .param("m", store.m as u32)
        .param("n", store.n as u32)
        .param("batches", store.batches as u32);
    if store.alpha != 1.0 {
        dispatch = dispatch.flag("SCALED", true).param_f32("alpha", store.alpha);
    }
    if let Some(addend) = store.addend {
        dispatch = dispatch
            .flag("ADDEND", true)
            .flag("ADDENDCOLUMNS", addend.column.is_some())
            .storage("addend", "f32", addend.binding.clone())
            .param_f32("beta", addend.beta)
            .param("addend_row", addend.row as u32)
            .param("addend_column", addend.column.unwrap_or(0) as u32)
            .param("addend_batches", addend.batches.max(1) as u32)
            .param("addend_batch", addend.batch as u32);
    }
    dispatch.epilogue(store.epilogue)
}

#[cfg(all(test, feature = "gpu", not(target_arch = "wasm32")))]
mod tests {
    use super::super::super::kernel::GpuType;
    use super::super::super::testing::{self, Data, Random};
    use super::super::Constant;
    use super::*;
    use crate::tensor::DType;

    /// `max(value, 0) + residual[index]`.
    fn epilogue() -> Epilogue {
        Epilogue {
            functions: "fn epilogue(value: f32, index: u32) -> f32 {
    return max(value, 0.0) + residual[index] * params.residual_factor;
}"
            .into(),
            storages: vec![("residual".into(), "f32".into(), Binding::Input(2))],
            params: vec![("residual_factor".into(), "f32", 2.0f32.to_bits())],
        }
    }

    /// One product of row-major matrices with given steps.
    fn reference(
        a: &[f32],
        b: &[f32],
        [m, n, k]: [usize; 3],
        a_steps: (usize, usize),
        b_steps: (usize, usize),
    ) -> Vec<f32> {
        let mut output = Vec::with_capacity(m * n);
        for i in 0..m {
            for j in 0..n {
                let product = |l: usize| {
                    f64::from(a[i * a_steps.0 + l * a_steps.1]) * f64::from(b[l * b_steps.0 + j * b_steps.1])
                };
                output.push((0..k).map(product).sum::<f64>() as f32);
            }
        }
        output
    }

    #[test]
    fn matmul_matches_its_reference_for_odd_and_whole_sizes_constant_or_not() {
        let Some(device) = testing::device() else { return };
        let mut random = Random(10);
        let mut cases = vec![
            [1, 1, 1],
            [1, 9, 300],
            [3, 64, 512],
            [64, 64, 64],
            [65, 67, 33],
            [130, 128, 20],
            [8, 4, 0],
        ];
        cases.extend((0..6).map(|_| [random.between(1, 40), random.between(1, 40), random.between(1, 40)]));
        for [m, n, k] in cases {
            let (a, b) = (random.floats(m * k), testing::halves(random.floats(k * n)));
            let expected = reference(&a, &b, [m, n, k], (k, 1), (n, 1));
            let [single, half] = testing::in_both_precisions(&[k, n], &b);
            for caps in testing::both_kinds() {
                for constant in [None, Some(&single), Some(&half)] {
                    let b_shape = [k, n];
                    let b_operand = match constant {
                        Some(tensor) => Operand::constant(&b_shape, 1, Constant { source: 1, tensor }),
                        None => Operand::input(&b_shape, 1),
                    };
                    let kernel = matmul(&Operand::input(&[m, k], 0), &b_operand, None, &caps).unwrap();
                    kernel.dispatches.iter().for_each(testing::validate);
                    let is_half = constant.is_some_and(|tensor| tensor.dtype() == DType::F16);
                    let as_it_is = (n % 4 == 0 && !is_half) || caps.kind == AdapterKind::Software;
                    assert_eq!(kernel.binds_input(1), constant.is_none() || as_it_is);
                    if is_half && caps.kind == AdapterKind::Hardware {
                        assert_eq!(testing::constant_bytes(&kernel), k * n.next_multiple_of(4) * 2);
                    }
                    let inputs = [Data::F32(a.clone()), Data::F32(b.clone())];
                    let found = testing::run(&device, kernel, &inputs, &[(GpuType::F32, m * n)]).unwrap();
                    let what = format!("{m}x{n}x{k}, constant {constant:?}, {:?}", caps.kind);
                    testing::assert_close(found[0].f32s(), &expected, 1e-4, &what);
                }
            }
        }
    }

    #[test]
    fn batches_broadcast_fold_and_take_an_epilogue() {
        let Some(device) = testing::device() else { return };
        let mut random = Random(11);
        let cases: [(&[usize], &[usize], &[usize]); 7] = [
            (&[3, 5, 6], &[6, 7], &[3, 5, 7]),
            (&[2, 1, 5, 8], &[3, 8, 4], &[2, 3, 5, 4]),
            (&[4, 3], &[2, 3, 9], &[2, 4, 9]),
            (&[2, 3, 20, 16], &[2, 3, 16, 24], &[2, 3, 20, 24]),
            (&[6], &[6], &[]),
            (&[6], &[2, 6, 3], &[2, 3]),
            (&[2, 4, 6], &[6], &[2, 4]),
        ];
        for (a_shape, b_shape, output_shape) in cases {
            let count = |shape: &[usize]| shape.iter().product::<usize>();
            let (a, b) = (random.floats(count(a_shape)), random.floats(count(b_shape)));
            let residual = random.floats(count(output_shape));
            let k = *a_shape.last().unwrap();
            let m = if a_shape.len() > 1 {
                a_shape[a_shape.len() - 2]
            } else {
                1
            };
            let n = if b_shape.len() > 1 {
                b_shape[b_shape.len() - 1]
            } else {
                1
            };
            let batch = |shape: &[usize]| shape[..shape.len().saturating_sub(2)].to_vec();
            let rank = batch(a_shape).len().max(batch(b_shape).len());
            let full = |shape: Vec<usize>| [vec![1; rank - shape.len()], shape].concat();
            let (a_batch, b_batch) = (full(batch(a_shape)), full(batch(b_shape)));
            let dims: Vec<usize> = a_batch.iter().zip(&b_batch).map(|(a, b)| *a.max(b)).collect();
            let mut expected = Vec::new();
            for index in 0..count(&dims) {
                let of = |batch: &[usize]| {
                    let strides = dense_strides(&dims);
                    (0..rank).fold(0, |at, axis| {
                        at * batch[axis] + index / strides[axis] % dims[axis] % batch[axis]
                    })
                };
                let (a, b) = (&a[of(&a_batch) * m * k..], &b[of(&b_batch) * k * n..]);
                expected.extend(reference(a, b, [m, n, k], (k, 1), (n, 1)));
            }
            expected
                .iter_mut()
                .zip(&residual)
                .for_each(|(value, residual)| *value = value.max(0.0) + residual * 2.0);
            for caps in testing::both_kinds() {
                let (a_operand, b_operand) = (Operand::input(a_shape, 0), Operand::input(b_shape, 1));
                let kernel = matmul(&a_operand, &b_operand, Some(&epilogue()), &caps).unwrap();
                kernel.dispatches.iter().for_each(testing::validate);
                let inputs = [Data::F32(a.clone()), Data::F32(b.clone()), Data::F32(residual.clone())];
                let found = testing::run(&device, kernel, &inputs, &[(GpuType::F32, expected.len())]).unwrap();
                let what = format!("{a_shape:?} x {b_shape:?} on {:?}", caps.kind);
                testing::assert_close(found[0].f32s(), &expected, 1e-5, &what);
            }
        }
        let caps = &testing::both_kinds()[0];
        assert!(matmul(&Operand::input(&[2, 3], 0), &Operand::input(&[4, 2], 1), None, caps).is_none());
        assert!(
            matmul(
                &Operand::input(&[2, 2, 3], 0),
                &Operand::input(&[3, 3, 2], 1),
                None,
                caps
            )
            .is_none()
        );
        let empty = matmul(&Operand::input(&[0, 3], 0), &Operand::input(&[3, 2], 1), None, caps).unwrap();
        assert!(empty.dispatches.is_empty());
    }

    #[test]
    fn gemm_matches_its_reference_for_every_transposition_and_addend() {
        let Some(device) = testing::device() else { return };
        let mut random = Random(12);
        for [m, n, k] in [[5, 7, 9], [32, 20, 24], [1, 10, 64], [70, 66, 40]] {
            for flags in 0..12 {
                let (transpose_a, transpose_b, constant) = (flags & 1 != 0, flags & 2 != 0, flags / 4);
                let attributes = GemmAttributes {
                    alpha: 0.5,
                    beta: 2.0,
                    transpose_a,
                    transpose_b,
                };
                let (a, b) = (random.floats(m * k), testing::halves(random.floats(k * n)));
                let a_shape = if transpose_a { [k, m] } else { [m, k] };
                let b_shape = if transpose_b { [n, k] } else { [k, n] };
                let steps = |transposed, width| if transposed { (1, width) } else { (width, 1) };
                let product = reference(
                    &a,
                    &b,
                    [m, n, k],
                    steps(transpose_a, a_shape[1]),
                    steps(transpose_b, b_shape[1]),
                );
                let c_shapes: [&[usize]; 4] = [&[n], &[m, 1], &[], &[m, n]];
                let c_shape = c_shapes[(flags + m) % 4];
                let c = random.floats(c_shape.iter().product());
                let c_at = |i: usize, j: usize| match (flags + m) % 4 {
                    0 => c[j],
                    1 => c[i],
                    2 => c[0],
                    _ => c[i * n + j],
                };
                let expected: Vec<f32> = product
                    .iter()
                    .enumerate()
                    .map(|(at, value)| value * 0.5 + 2.0 * c_at(at / n, at % n))
                    .collect();
                let tensors = testing::in_both_precisions(&b_shape, &b);
                let b_operand = match tensors.get(constant) {
                    Some(tensor) => Operand::constant(&b_shape, 1, Constant { source: 1, tensor }),
                    None => Operand::input(&b_shape, 1),
                };
                let c_operand = Operand::input(c_shape, 2);
                for caps in testing::both_kinds() {
                    let a_operand = Operand::input(&a_shape, 0);
                    let kernel = gemm(&a_operand, &b_operand, Some(&c_operand), &attributes, None, &caps).unwrap();
                    kernel.dispatches.iter().for_each(testing::validate);
                    let inputs = [Data::F32(a.clone()), Data::F32(b.clone()), Data::F32(c.clone())];
                    let found = testing::run(&device, kernel, &inputs, &[(GpuType::F32, m * n)]).unwrap();
                    let what = format!("{m}x{n}x{k} {attributes:?} c {c_shape:?} {:?}", caps.kind);
                    testing::assert_close(found[0].f32s(), &expected, 1e-5, &what);
                }
            }
        }
    }

    #[test]
    fn texts_match_their_snapshots() {
        for caps in testing::both_kinds() {
            let kind = if caps.kind == AdapterKind::Hardware {
                "hardware"
            } else {
                "software"
            };
            let with = epilogue();
            let texts: [(&str, [usize; 3], Option<&Epilogue>); 3] = [
                ("whole", [64, 64, 64], None),
                ("odd_epilogue", [33, 35, 37], Some(&with)),
                ("row", [1, 512, 512], None),
            ];
            for (name, [m, n, k], epilogue) in texts {
                let kernel = matmul(
                    &Operand::input(&[m, k], 0),
                    &Operand::input(&[k, n], 1),
                    epilogue,
                    &caps,
                );
                testing::assert_snapshot(&format!("matmul_{name}_{kind}"), &kernel.unwrap());
            }
            let attributes = GemmAttributes {
                alpha: 1.0,
                beta: 1.0,
                transpose_a: false,
                transpose_b: true,
            };
            let c = Operand::input(&[64], 2);
            let (a, b) = (Operand::input(&[32, 64], 0), Operand::input(&[64, 64], 1));
            let kernel = gemm(&a, &b, Some(&c), &attributes, None, &caps).unwrap();
            testing::assert_snapshot(&format!("gemm_transposed_{kind}"), &kernel);
        }
    }
}
