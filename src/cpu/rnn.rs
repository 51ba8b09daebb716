//! LSTM, GRU and plain RNN layers in f32, with ONNX's semantics. The input's part of all gates is one matrix product
//! over all time steps; each step then adds the recurrent product and runs the gates. Constant weights are packed at
//! plan time.

mod activation;
mod cells;

pub use activation::Activation;

use std::ops::Range;

use crate::cpu::epilogue::{Bias, Epilogue};
use crate::cpu::gemm::{GemmShape, Lhs, MatrixRef, PackedB, Rhs, gemm, gemm_scratch_len};
use crate::cpu::threads::Threads;
use cells::{GruStep, LstmStep, finish_gru, gru_gates, lstm, simple};

/// Which layer it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RnnKind {
    /// Gates in the order i, o, f, c; three activations f, g, h.
    Lstm(ForgetGate),
    /// Gates in the order z, r, h; two activations f, g.
    Gru(ResetGate),
    /// One gate and one activation.
    Rnn,
}

/// Where an LSTM's forget gate comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForgetGate {
    Own,
    /// 1 - the input gate (`input_forget`).
    FromInput,
}

/// Where a GRU's reset gate is applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResetGate {
    /// To the hidden state, before the recurrent product.
    BeforeProduct,
    /// To the recurrent product and its bias (`linear_before_reset`).
    AfterProduct,
}

impl RnnKind {
    /// The number of gates: how many times `hidden` rows W and R have per direction.
    pub fn gates(self) -> usize {
        match self {
            RnnKind::Lstm(_) => 4,
            RnnKind::Gru(_) => 3,
            RnnKind::Rnn => 1,
        }
    }

    /// The number of activations per direction.
    pub fn activations(self) -> usize {
        match self {
            RnnKind::Lstm(_) => 3,
            RnnKind::Gru(_) => 2,
            RnnKind::Rnn => 1,
        }
    }
}

/// The order in which one direction walks through time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Walk {
    Forward,
    Reverse,
}

/// One direction of a layer.
#[derive(Clone, Debug, PartialEq)]
pub struct Direction {
    pub walk: Walk,
    /// [`RnnKind::activations`] of them.
    pub activations: Vec<Activation>,
}

/// How X, Y and the states are laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// X `[time, batch, input]`, Y `[time, direction, batch, hidden]`, states `[direction, batch, hidden]`.
    TimeFirst,
    /// X `[batch, time, input]`, Y `[batch, time, direction, hidden]`, states `[batch, direction, hidden]`.
    BatchFirst,
}

/// The concrete sizes and attributes of a layer.
#[derive(Clone, Debug, PartialEq)]
pub struct RnnParams {
    pub kind: RnnKind,
    pub time: usize,
    pub batch: usize,
    pub input: usize,
    pub hidden: usize,
    pub directions: Vec<Direction>,
    pub layout: Layout,
    /// Bounds of what goes into the activations of the gates.
    pub clip: Option<f32>,
}

/// Constant weights, packed. Plans that differ only in time and batch may share them.
#[derive(Clone, Debug)]
pub struct PackedRnn(Box<[PackedDirection]>);

#[derive(Clone, Debug)]
struct PackedDirection {
    input: PackedB,
    /// All gates; of a GRU the z and r gates, and then the h gate.
    recurrent: Box<[PackedB]>,
}

/// The weights of one run.
#[derive(Clone, Copy)]
pub enum RnnWeights<'a> {
    Packed(&'a PackedRnn),
    /// W `[direction, gates * hidden, input]` and R `[direction, gates * hidden, hidden]` as in the model.
    Raw {
        input: &'a [f32],
        recurrent: &'a [f32],
    },
}

/// The inputs of one run.
#[derive(Clone, Copy)]
pub struct RnnInputs<'a> {
    pub x: &'a [f32],
    pub weights: RnnWeights<'a>,
    /// `[direction, 2 * gates * hidden]`: of the input's product, then of the recurrent one.
    pub bias: Option<&'a [f32]>,
    /// How many steps each batch entry has; at most `time`, which longer ones are cut to.
    pub sequence_lens: Option<&'a [i32]>,
    pub initial_h: Option<&'a [f32]>,
    /// LSTM only.
    pub initial_c: Option<&'a [f32]>,
    /// LSTM only: `[direction, 3 * hidden]`, gates i, o, f.
    pub peepholes: Option<&'a [f32]>,
    /// The threads that share large products.
    pub threads: &'a Threads,
}

/// The outputs that are wanted.
#[derive(Default)]
pub struct RnnOutputs<'a> {
    pub y: Option<&'a mut [f32]>,
    pub y_h: Option<&'a mut [f32]>,
    /// LSTM only.
    pub y_c: Option<&'a mut [f32]>,
}

/// A layer planned for concrete sizes.
#[derive(Clone, Debug)]
pub struct RnnPlan {
    params: RnnParams,
}

/// The scratch memory of a run, cut up.
struct Scratch<'a> {
    /// The input's part of the gates, one row per row of X.
    inputs: &'a mut [f32],
    /// The recurrent part of the gates of one step.
    recurrent: &'a mut [f32],
    h: &'a mut [f32],
    /// LSTM: the cell state. GRU: the reset hidden state.
    c: &'a mut [f32],
    /// The gates of one batch entry.
    gates: &'a mut [f32],
    /// What is added to the input's part, and to the recurrent part, of the gates.
    biases: &'a mut [f32],
    gemm: &'a mut [f32],
}

impl RnnPlan {
    pub fn new(params: RnnParams) -> Self {
        Self { params }
    }

    /// The sizes that this plan was made for.
    pub fn params(&self) -> &RnnParams {
        &self.params
    }

    fn gates_len(&self) -> usize {
        self.params.kind.gates() * self.params.hidden
    }

    /// The rows of R that are multiplied together.
    fn recurrent_parts(&self) -> Vec<Range<usize>> {
        recurrent_parts(self.params.kind, self.params.hidden)
            .into_iter()
            .flatten()
            .collect()
    }

    fn input_shape(&self) -> GemmShape {
        GemmShape {
            m: self.params.time * self.params.batch,
            k: self.params.input,
            n: self.gates_len(),
        }
    }

    fn recurrent_shape(&self, part: &Range<usize>) -> GemmShape {
        GemmShape {
            m: self.params.batch,
            k: self.params.hidden,
            n: part.len(),
        }
    }

    /// Packs constant weights: W `[direction, gates * hidden, input]`, R `[direction, gates * hidden, hidden]`.
    ///
    /// # Panics
    /// When a slice is too short.
    pub fn pack(&self, input: &[f32], recurrent: &[f32]) -> PackedRnn {
        let (rows, k, hidden) = (self.gates_len(), self.params.input, self.params.hidden);
        let pack = |direction: usize| PackedDirection {
            input: PackedB::new(MatrixRef::transposed(&input[direction * rows * k..], k), k, rows),
            recurrent: self
                .recurrent_parts()
                .into_iter()
                .map(|part| {
                    let weights = &recurrent[(direction * rows + part.start) * hidden..];
                    PackedB::new(MatrixRef::transposed(weights, hidden), hidden, part.len())
                })
                .collect(),
        };
        PackedRnn((0..self.params.directions.len()).map(pack).collect())
    }

    /// How much scratch memory [`RnnPlan::run`] needs on so many threads, in f32.
    pub fn scratch_len(&self, threads: usize) -> usize {
        let (rows, batch) = (self.gates_len(), self.params.batch);
        let products = self
            .recurrent_parts()
            .into_iter()
            .map(|part| self.recurrent_shape(&part));
        let gemm = products
            .chain([self.input_shape()])
            .map(|shape| gemm_scratch_len(shape, false, false))
            .max();
        self.input_shape().m * rows
            + batch * rows
            + 2 * batch * self.params.hidden
            + 3 * rows
            + threads * gemm.unwrap_or(0)
    }

    /// Runs the layer.
    ///
    /// # Panics
    /// When a slice is too short, or the weights were packed for other sizes.
    pub fn run(&self, inputs: &RnnInputs, outputs: &mut RnnOutputs, scratch: &mut [f32]) {
        let params = &self.params;
        if let Some(y) = &mut outputs.y {
            y[..params.time * params.directions.len() * params.batch * params.hidden].fill(0.0);
        }
        let mut rest = scratch;
        let mut take = |len: usize| {
            let (taken, left) = std::mem::take(&mut rest).split_at_mut(len);
            rest = left;
            taken
        };
        let (rows, states) = (self.gates_len(), params.batch * params.hidden);
        let mut scratch = Scratch {
            inputs: take(self.input_shape().m * rows),
            recurrent: take(params.batch * rows),
            h: take(states),
            c: take(states),
            gates: take(rows),
            biases: take(2 * rows),
            gemm: rest,
        };
        for direction in 0..params.directions.len() {
            self.run_direction(direction, inputs, outputs, &mut scratch);
        }
    }

    /// The row of X of one step of one batch entry.
    fn x_row(&self, time: usize, batch: usize) -> usize {
        match self.params.layout {
            Layout::TimeFirst => time * self.params.batch + batch,
            Layout::BatchFirst => batch * self.params.time + time,
        }
    }

    /// The row of Y of one step of one batch entry.
    fn y_row(&self, time: usize, direction: usize, batch: usize) -> usize {
        let directions = self.params.directions.len();
        match self.params.layout {
            Layout::TimeFirst => (time * directions + direction) * self.params.batch + batch,
            Layout::BatchFirst => (batch * self.params.time + time) * directions + direction,
        }
    }

    /// The row of a state of one batch entry.
    fn state_row(&self, direction: usize, batch: usize) -> usize {
        match self.params.layout {
            Layout::TimeFirst => direction * self.params.batch + batch,
            Layout::BatchFirst => batch * self.params.directions.len() + direction,
        }
    }

    fn load_state(&self, direction: usize, initial: Option<&[f32]>, state: &mut [f32]) {
        let hidden = self.params.hidden;
        match initial {
            None => state.fill(0.0),
            Some(initial) => {
                for batch in 0..self.params.batch {
                    let from = self.state_row(direction, batch) * hidden;
                    state[batch * hidden..(batch + 1) * hidden].copy_from_slice(&initial[from..from + hidden]);
                }
            }
        }
    }

    fn store_state(&self, direction: usize, state: &[f32], out: &mut [f32]) {
        let hidden = self.params.hidden;
        for batch in 0..self.params.batch {
            let to = self.state_row(direction, batch) * hidden;
            out[to..to + hidden].copy_from_slice(&state[batch * hidden..(batch + 1) * hidden]);
        }
    }

    fn run_direction(&self, direction: usize, inputs: &RnnInputs, outputs: &mut RnnOutputs, scratch: &mut Scratch) {
        let params = &self.params;
        let (rows, hidden) = (self.gates_len(), params.hidden);
        self.load_state(direction, inputs.initial_h, scratch.h);
        self.load_state(
            direction,
            if matches!(params.kind, RnnKind::Lstm(_)) {
                inputs.initial_c
            } else {
                None
            },
            scratch.c,
        );
        self.combine_biases(direction, inputs.bias, scratch.biases);
        let (input_bias, recurrent_bias) = scratch.biases.split_at(rows);

        let rhs = match inputs.weights {
            RnnWeights::Packed(packed) => Rhs::Packed(&packed.0[direction].input),
            RnnWeights::Raw { input, .. } => {
                let start = direction * rows * params.input;
                Rhs::Matrix(MatrixRef::transposed(&input[start..], params.input))
            }
        };
        let epilogue = Epilogue {
            bias: Bias::PerColumn(input_bias),
            ..Epilogue::none()
        };
        let x = Lhs::Matrix(MatrixRef::row_major(inputs.x, params.input));
        gemm(
            self.input_shape(),
            x,
            rhs,
            scratch.inputs,
            scratch.gemm,
            &epilogue,
            inputs.threads,
        );

        let steps_of = |batch: usize| {
            let len = inputs
                .sequence_lens
                .map_or(params.time, |lens| usize::try_from(lens[batch]).unwrap_or(0));
            len.min(params.time)
        };
        let steps = (0..params.batch).map(steps_of).max().unwrap_or(0);
        let Direction { walk, activations } = &params.directions[direction];
        let peepholes = inputs
            .peepholes
            .map(|all| &all[direction * 3 * hidden..(direction + 1) * 3 * hidden]);
        let parts = recurrent_parts(params.kind, hidden);
        for step in 0..steps {
            let time = |batch: usize| match walk {
                Walk::Forward => step,
                Walk::Reverse => steps_of(batch) - 1 - step,
            };
            let active = |batch: &usize| step < steps_of(*batch);
            let split_reset = params.kind == RnnKind::Gru(ResetGate::BeforeProduct);
            for (index, part) in parts.iter().flatten().enumerate() {
                let second_of_split = split_reset && index == 1;
                if second_of_split {
                    for batch in (0..params.batch).filter(active) {
                        let start = self.x_row(time(batch), batch) * rows;
                        let state = batch * hidden..(batch + 1) * hidden;
                        gru_gates(GruStep {
                            gates: &mut scratch.inputs[start..start + rows],
                            recurrent: &scratch.recurrent[batch * rows..(batch + 1) * rows],
                            h: &scratch.h[state.clone()],
                            reset_h: &mut scratch.c[state],
                            activations,
                            clip: params.clip,
                        });
                    }
                }
                let lhs = if second_of_split { &*scratch.c } else { &*scratch.h };
                self.recurrent_product(direction, index, part, inputs, lhs, scratch.recurrent, scratch.gemm);
            }
            for batch in (0..params.batch).filter(active) {
                let start = self.x_row(time(batch), batch) * rows;
                let from_input = &mut scratch.inputs[start..start + rows];
                let recurrent = &scratch.recurrent[batch * rows..(batch + 1) * rows];
                let state = batch * hidden..(batch + 1) * hidden;
                let h = &mut scratch.h[state.clone()];
                match params.kind {
                    RnnKind::Lstm(forget) => {
                        scratch
                            .gates
                            .iter_mut()
                            .zip(&*from_input)
                            .zip(recurrent)
                            .for_each(|((g, a), b)| *g = a + b);
                        lstm(LstmStep {
                            gates: scratch.gates,
                            h,
                            c: &mut scratch.c[state],
                            peepholes,
                            forget,
                            activations,
                            clip: params.clip,
                        });
                    }
                    RnnKind::Gru(reset) => {
                        finish_gru(
                            from_input,
                            recurrent,
                            recurrent_bias,
                            h,
                            reset,
                            activations,
                            params.clip,
                        );
                    }
                    RnnKind::Rnn => simple(from_input, recurrent, h, &activations[0], params.clip),
                }
                if let Some(y) = &mut outputs.y {
                    let to = self.y_row(time(batch), direction, batch) * hidden;
                    y[to..to + hidden].copy_from_slice(h);
                }
            }
        }
        if let Some(y_h) = &mut outputs.y_h {
            self.store_state(direction, scratch.h, y_h);
        }
        if let Some(y_c) = &mut outputs.y_c {
            self.store_state(direction, scratch.c, y_c);
        }
    }

    /// Rows `part` of R times the state, at their columns of `out`, whose rows hold all gates.
    #[allow(clippy::too_many_arguments)]
    fn recurrent_product(
        &self,
        direction: usize,
        index: usize,
        part: &Range<usize>,
        inputs: &RnnInputs,
        state: &[f32],
        out: &mut [f32],
        scratch: &mut [f32],
    ) {
        let (rows, hidden) = (self.gates_len(), self.params.hidden);
        let (weights, threads) = (inputs.weights, inputs.threads);
        let rhs = match weights {
            RnnWeights::Packed(packed) => Rhs::Packed(&packed.0[direction].recurrent[index]),
            RnnWeights::Raw { recurrent, .. } => {
                let weights = &recurrent[(direction * rows + part.start) * hidden..];
                Rhs::Matrix(MatrixRef::transposed(weights, hidden))
            }
        };
        let shape = self.recurrent_shape(part);
        if part.len() == rows {
            let lhs = Lhs::Matrix(MatrixRef::row_major(state, hidden));
            return gemm(shape, lhs, rhs, out, scratch, &Epilogue::none(), threads);
        }
        // Parts of the gates stand side by side in rows that are longer than the product's.
        for batch in 0..self.params.batch {
            let lhs = Lhs::Matrix(MatrixRef::row_major(
                &state[batch * hidden..(batch + 1) * hidden],
                hidden,
            ));
            let out = &mut out[batch * rows..(batch + 1) * rows][part.clone()];
            gemm(
                GemmShape { m: 1, ..shape },
                lhs,
                rhs,
                out,
                scratch,
                &Epilogue::none(),
                threads,
            );
        }
    }

    /// Both biases are added to the input's part, except that of a GRU's h gate where the reset gate multiplies it.
    fn combine_biases(&self, direction: usize, bias: Option<&[f32]>, out: &mut [f32]) {
        let rows = self.gates_len();
        out.fill(0.0);
        let Some(bias) = bias else { return };
        let (input, recurrent) = bias[direction * 2 * rows..(direction + 1) * 2 * rows].split_at(rows);
        let (to_input, to_recurrent) = out.split_at_mut(rows);
        let separate = match self.params.kind {
            RnnKind::Gru(ResetGate::AfterProduct) => 2 * self.params.hidden..rows,
            _ => rows..rows,
        };
        for row in 0..rows {
            to_input[row] = input[row];
            if separate.contains(&row) {
                to_recurrent[row] = recurrent[row];
            } else {
                to_input[row] += recurrent[row];
            }
        }
    }
}

/// A GRU that resets before the product multiplies the z and r gates first and the h gate after them.
fn recurrent_parts(kind: RnnKind, hidden: usize) -> [Option<Range<usize>>; 2] {
    let rows = kind.gates() * hidden;
    match kind {
        RnnKind::Gru(_) => [Some(0..2 * hidden), Some(2 * hidden..rows)],
        _ => [Some(0..rows), None],
    }
}

#[cfg(test)]
mod tests;
