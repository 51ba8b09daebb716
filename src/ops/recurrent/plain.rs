//! Recurrent layers in f64 as ONNX's equations read, unit by unit: what f64 models run, and what the fast kernels are
//! tested against.

use crate::cpu::rnn::{Activation, ForgetGate, Layout, ResetGate, RnnKind, RnnParams, Walk};

/// The inputs of one run, as in the model.
pub struct Inputs<'a> {
    pub x: &'a [f64],
    pub w: &'a [f64],
    pub r: &'a [f64],
    pub b: Option<&'a [f64]>,
    pub sequence_lens: Option<&'a [i32]>,
    pub initial_h: Option<&'a [f64]>,
    pub initial_c: Option<&'a [f64]>,
    pub peepholes: Option<&'a [f64]>,
}

/// The outputs that are wanted.
pub struct Outputs<'a> {
    pub y: Option<&'a mut [f64]>,
    pub y_h: Option<&'a mut [f64]>,
    pub y_c: Option<&'a mut [f64]>,
}

/// Runs the layer.
pub fn run(params: &RnnParams, inputs: &Inputs<'_>, outputs: &mut Outputs<'_>) {
    if let Some(y) = &mut outputs.y {
        y.fill(0.0);
    }
    let (directions, hidden) = (params.directions.len(), params.hidden);
    for direction in 0..directions {
        for batch in 0..params.batch {
            let row = match params.layout {
                Layout::TimeFirst => direction * params.batch + batch,
                Layout::BatchFirst => batch * directions + direction,
            };
            let state = row * hidden..(row + 1) * hidden;
            let initial = |states: Option<&[f64]>| match states {
                Some(states) => states[state.clone()].to_vec(),
                None => vec![0.0; hidden],
            };
            let (mut h, mut c) = (initial(inputs.initial_h), initial(inputs.initial_c));
            let len = inputs
                .sequence_lens
                .map_or(params.time, |lens| usize::try_from(lens[batch]).unwrap_or(0))
                .min(params.time);
            for step in 0..len {
                let time = match params.directions[direction].walk {
                    Walk::Forward => step,
                    Walk::Reverse => len - 1 - step,
                };
                let (x_row, y_row) = match params.layout {
                    Layout::TimeFirst => (
                        time * params.batch + batch,
                        (time * directions + direction) * params.batch + batch,
                    ),
                    Layout::BatchFirst => (
                        batch * params.time + time,
                        (batch * params.time + time) * directions + direction,
                    ),
                };
                let x = &inputs.x[x_row * params.input..(x_row + 1) * params.input];
                let cell = Cell {
                    params,
                    inputs,
                    direction,
                    x,
                };
                cell.step(&mut h, &mut c);
                if let Some(y) = &mut outputs.y {
                    y[y_row * hidden..(y_row + 1) * hidden].copy_from_slice(&h);
                }
            }
            if let Some(y_h) = &mut outputs.y_h {
                y_h[state.clone()].copy_from_slice(&h);
            }
            if let Some(y_c) = &mut outputs.y_c {
                y_c[state.clone()].copy_from_slice(&c);
            }
        }
    }
}

/// One step of one batch entry in one direction.
struct Cell<'a> {
    params: &'a RnnParams,
    inputs: &'a Inputs<'a>,
    direction: usize,
    x: &'a [f64],
}

impl Cell<'_> {
    /// What reaches a gate from the input, and from the hidden state, biases included.
    fn gate(&self, gate: usize, unit: usize, h: &[f64]) -> (f64, f64) {
        let (hidden, rows) = (self.params.hidden, self.params.kind.gates() * self.params.hidden);
        let row = gate * hidden + unit;
        let weights = self.direction * rows + row;
        let dot = |weights: &[f64], values: &[f64]| weights.iter().zip(values).map(|(w, v)| w * v).sum::<f64>();
        let len = self.params.input;
        let from_x = dot(&self.inputs.w[weights * len..(weights + 1) * len], self.x);
        let from_h = dot(&self.inputs.r[weights * hidden..(weights + 1) * hidden], h);
        let bias = |part: usize| {
            let place = (self.direction * 2 + part) * rows + row;
            self.inputs.b.map_or(0.0, |b| b[place])
        };
        (from_x + bias(0), from_h + bias(1))
    }

    /// An activation of what the clip leaves.
    fn activate(&self, index: usize, value: f64) -> f64 {
        let clipped = match self.params.clip.map(f64::from) {
            Some(clip) => value.max(-clip).min(clip),
            None => value,
        };
        activate(self.params.directions[self.direction].activations[index], clipped)
    }

    fn step(&self, h: &mut [f64], c: &mut [f64]) {
        let before = h.to_vec();
        let sum = |gate: usize, unit: usize| {
            let (from_x, from_h) = self.gate(gate, unit, &before);
            from_x + from_h
        };
        match self.params.kind {
            RnnKind::Rnn => {
                for (unit, h) in h.iter_mut().enumerate() {
                    *h = self.activate(0, sum(0, unit));
                }
            }
            RnnKind::Lstm(forget) => {
                let peephole = |gate: usize, unit: usize, c: f64| {
                    let place = (self.direction * 3 + gate) * self.params.hidden + unit;
                    self.inputs.peepholes.map_or(0.0, |p| p[place] * c)
                };
                for unit in 0..h.len() {
                    let old = c[unit];
                    let i = self.activate(0, sum(0, unit) + peephole(0, unit, old));
                    let f = match forget {
                        ForgetGate::Own => self.activate(0, sum(2, unit) + peephole(2, unit, old)),
                        ForgetGate::FromInput => 1.0 - i,
                    };
                    c[unit] = f * old + i * self.activate(1, sum(3, unit));
                    let o = self.activate(0, sum(1, unit) + peephole(1, unit, c[unit]));
                    // The clip bounds the gates only.
                    h[unit] = o * activate(self.params.directions[self.direction].activations[2], c[unit]);
                }
            }
            RnnKind::Gru(reset) => {
                let r: Vec<f64> = (0..h.len()).map(|unit| self.activate(0, sum(1, unit))).collect();
                let reset_h: Vec<f64> = r.iter().zip(&before).map(|(r, h)| r * h).collect();
                for (unit, h) in h.iter_mut().enumerate() {
                    let z = self.activate(0, sum(0, unit));
                    let candidate = match reset {
                        ResetGate::BeforeProduct => {
                            let (from_x, from_h) = self.gate(2, unit, &reset_h);
                            from_x + from_h
                        }
                        ResetGate::AfterProduct => {
                            let (from_x, from_h) = self.gate(2, unit, &before);
                            from_x + r[unit] * from_h
                        }
                    };
                    *h = (1.0 - z) * self.activate(1, candidate) + z * before[unit];
                }
            }
        }
    }
}

fn activate(activation: Activation, x: f64) -> f64 {
    let wide = f64::from;
    match activation {
        Activation::Sigmoid => 1.0 / (1.0 + (-x).exp()),
        Activation::Tanh => x.tanh(),
        Activation::Relu => x.max(0.0),
        Activation::Softsign => x / (1.0 + x.abs()),
        Activation::Softplus => x.max(0.0) + (-x.abs()).exp().ln_1p(),
        Activation::Affine { alpha, beta } => wide(alpha) * x + wide(beta),
        Activation::LeakyRelu { alpha } => {
            if x < 0.0 {
                wide(alpha) * x
            } else {
                x
            }
        }
        Activation::ThresholdedRelu { alpha } => {
            if x < wide(alpha) {
                0.0
            } else {
                x
            }
        }
        Activation::ScaledTanh { alpha, beta } => wide(alpha) * (wide(beta) * x).tanh(),
        Activation::HardSigmoid { alpha, beta } => (wide(alpha) * x + wide(beta)).clamp(0.0, 1.0),
        Activation::Elu { alpha } => {
            if x < 0.0 {
                wide(alpha) * x.exp_m1()
            } else {
                x
            }
        }
    }
}
