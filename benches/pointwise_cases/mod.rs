//! The expressions that the pointwise benchmark runs, each beside a loop written by hand.

use modelet::Threads;
use modelet::cpu::math;
use modelet::cpu::pointwise::{InputSlice, OutputSlice, PointwisePlan};
use modelet::cpu::simd::F32x4;
use modelet::pointwise::{Builder, Expr, Storage, UnaryOp};

pub const CASES: [&str; 6] = [
    "x + y",
    "relu(x + row bias)",
    "hard_swish(x)",
    "x * sigmoid(x)",
    "gelu(x + bias) + y",
    "layer norm tail",
];

/// The length of a row.
const ROW: usize = 384;

/// One expression over `rows` rows, and its data.
pub struct Bench {
    case: usize,
    rows: usize,
    plan: PointwisePlan,
    x: Vec<f32>,
    y: Vec<f32>,
    rows_a: Vec<f32>,
    rows_b: Vec<f32>,
    columns_a: Vec<f32>,
    columns_b: Vec<f32>,
    out: Vec<f32>,
    scratch: Vec<f32>,
}

fn expr(case: usize) -> (Expr, &'static [Kind]) {
    let mut b = Builder::new();
    let [x, p, q, r, s] = [0; 5].map(|_| b.input(Storage::F32));
    let (y, kinds): (_, &[Kind]) = match case {
        0 => (b.add(x, p), &[Kind::Full]),
        1 => {
            let sum = b.add(x, p);
            (b.relu(sum), &[Kind::Rows])
        }
        2 => (b.hard_swish(x), &[]),
        3 => (b.swish(x, 1.0), &[]),
        4 => {
            let sum = b.add(x, p);
            let gelu = b.gelu(sum);
            (b.add(gelu, q), &[Kind::Columns, Kind::Full])
        }
        _ => {
            // (x - mean) / sqrt(variance + e) * scale + bias
            let centred = b.sub(x, p);
            let shifted = b.affine(q, 1.0, 1e-5);
            let root = b.unary(UnaryOp::Sqrt, shifted);
            let normal = b.div(centred, root);
            let scaled = b.mul(normal, r);
            (
                b.add(scaled, s),
                &[Kind::Rows, Kind::Rows, Kind::Columns, Kind::Columns],
            )
        }
    };
    b.output(y, Storage::F32);
    (
        b.finish()
            .expect("the expression is well typed")
            .without_unused_inputs()
            .0,
        kinds,
    )
}

/// What an input after the first is.
#[derive(Clone, Copy)]
enum Kind {
    Full,
    Rows,
    Columns,
}

impl Bench {
    pub fn new(case: usize, rows: usize) -> Bench {
        let (expr, kinds) = expr(case);
        let mut shapes = vec![vec![rows, ROW]];
        shapes.extend(kinds.iter().map(|kind| match kind {
            Kind::Full => vec![rows, ROW],
            Kind::Rows => vec![rows, 1],
            Kind::Columns => vec![ROW],
        }));
        let plan = PointwisePlan::new(&expr, &[rows, ROW], &shapes).expect("the shapes broadcast");
        let data = |len: usize, seed: usize| {
            (0..len)
                .map(|i| ((i * 7919 + seed) % 1000) as f32 * 0.01 - 4.0)
                .collect()
        };
        let positive = |len: usize| (0..len).map(|i| 0.5 + (i % 10) as f32).collect();
        Bench {
            case,
            rows,
            x: data(rows * ROW, 1),
            y: data(rows * ROW, 2),
            rows_a: data(rows, 3),
            rows_b: positive(rows),
            columns_a: data(ROW, 5),
            columns_b: data(ROW, 6),
            out: vec![0.0; rows * ROW],
            scratch: vec![0.0; plan.scratch_len()],
            plan,
        }
    }

    pub fn elements(&self) -> usize {
        self.rows * ROW
    }

    pub fn tiles(&mut self) {
        let x = InputSlice::F32(&self.x);
        let [y, rows_a, rows_b, columns_a, columns_b] =
            [&self.y, &self.rows_a, &self.rows_b, &self.columns_a, &self.columns_b].map(|v| InputSlice::F32(v));
        let (all, used): ([InputSlice; 5], usize) = match self.case {
            0 => ([x, y, x, x, x], 2),
            1 => ([x, rows_a, x, x, x], 2),
            2 | 3 => ([x; 5], 1),
            4 => ([x, columns_a, y, x, x], 3),
            _ => ([x, rows_a, rows_b, columns_a, columns_b], 5),
        };
        self.plan.run(
            &all[..used],
            &mut [OutputSlice::f32(&mut self.out)],
            &mut self.scratch,
            &Threads::SINGLE,
        );
        std::hint::black_box(&mut self.out);
    }

    pub fn by_hand(&mut self) {
        let splat = F32x4::splat;
        for row in 0..self.rows {
            let range = row * ROW..(row + 1) * ROW;
            let out = self.out[range.clone()].chunks_exact_mut(4);
            let x = self.x[range.clone()].chunks_exact(4).map(F32x4::load);
            let y = self.y[range].chunks_exact(4).map(F32x4::load);
            let columns = self.columns_a.chunks_exact(4).map(F32x4::load);
            match self.case {
                0 => out.zip(x.zip(y)).for_each(|(o, (x, y))| (x + y).store(o)),
                1 => {
                    let bias = splat(self.rows_a[row]);
                    out.zip(x)
                        .for_each(|(o, x)| (x + bias).at_least(F32x4::zero()).store(o));
                }
                2 => out.zip(x).for_each(|(o, x)| {
                    let gate = x * splat(1.0 / 6.0) + splat(0.5);
                    (x * gate.at_least(F32x4::zero()).at_most(splat(1.0))).store(o);
                }),
                3 => out.zip(x).for_each(|(o, x)| (x * math::sigmoid(x)).store(o)),
                4 => out.zip(x.zip(y).zip(columns)).for_each(|(o, ((x, y), bias))| {
                    let x = x + bias;
                    let erf = math::erf(x * splat(std::f32::consts::FRAC_1_SQRT_2));
                    (x * splat(0.5) * (erf + splat(1.0)) + y).store(o);
                }),
                _ => {
                    let mean = splat(self.rows_a[row]);
                    let root = splat((self.rows_b[row] + 1e-5).sqrt());
                    let shift = self.columns_b.chunks_exact(4).map(F32x4::load);
                    out.zip(x.zip(columns).zip(shift)).for_each(|(o, ((x, scale), shift))| {
                        ((x - mean) / root * scale + shift).store(o);
                    });
                }
            }
        }
        std::hint::black_box(&mut self.out);
    }
}
