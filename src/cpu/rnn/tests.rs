//! Recurrent layers against ONNX's formulas, written out value by value.

use super::*;
use crate::cpu::testing::{Rng, assert_close};

struct Case {
    params: RnnParams,
    x: Vec<f32>,
    w: Vec<f32>,
    r: Vec<f32>,
    bias: Option<Vec<f32>>,
    lens: Option<Vec<i32>>,
    h: Option<Vec<f32>>,
    c: Option<Vec<f32>>,
    peepholes: Option<Vec<f32>>,
}

impl Case {
    fn random(rng: &mut Rng, kind: RnnKind) -> Self {
        let names = ["Sigmoid", "Tanh", "Relu", "Softsign", "HardSigmoid", "Elu"];
        let directions = (0..rng.size(1, 2))
            .map(|index| Direction {
                walk: if index == 1 || rng.bool() {
                    Walk::Reverse
                } else {
                    Walk::Forward
                },
                activations: (0..kind.activations())
                    .map(|_| Activation::from_onnx(names[rng.size(0, 5)], None, None).unwrap())
                    .collect(),
            })
            .collect::<Vec<_>>();
        let params = RnnParams {
            kind,
            time: rng.size(0, 5),
            batch: rng.size(1, 6),
            input: rng.size(1, 9),
            hidden: rng.size(1, 11),
            layout: if rng.bool() {
                Layout::TimeFirst
            } else {
                Layout::BatchFirst
            },
            clip: rng.bool().then_some(0.4),
            directions,
        };
        let (d, rows, batch) = (params.directions.len(), kind.gates() * params.hidden, params.batch);
        let states = d * batch * params.hidden;
        let is_lstm = matches!(kind, RnnKind::Lstm(_));
        Self {
            x: rng.vec(params.time * batch * params.input),
            w: rng.vec(d * rows * params.input),
            r: rng.vec(d * rows * params.hidden),
            bias: rng.bool().then(|| rng.vec(d * 2 * rows)),
            lens: rng
                .bool()
                .then(|| (0..batch).map(|_| rng.size(0, params.time) as i32).collect()),
            h: rng.bool().then(|| rng.vec(states)),
            c: (is_lstm && rng.bool()).then(|| rng.vec(states)),
            peepholes: (is_lstm && rng.bool()).then(|| rng.vec(d * 3 * params.hidden)),
            params,
        }
    }

    /// Y, Y_h and Y_c by the formulas.
    fn reference(&self) -> [Vec<f32>; 3] {
        let p = &self.params;
        let (d, hidden, rows) = (p.directions.len(), p.hidden, p.kind.gates() * p.hidden);
        let plan = RnnPlan::new(p.clone());
        let mut y = vec![0.0; p.time * d * p.batch * hidden];
        let (mut y_h, mut y_c) = (vec![0.0; d * p.batch * hidden], vec![0.0; d * p.batch * hidden]);
        for (index, direction) in p.directions.iter().enumerate() {
            let act = |i: usize, x: f32| {
                let clip = p.clip.filter(|_| i < 2);
                let x = clip.map_or(x, |clip| x.clamp(-clip, clip));
                let mut value = [x];
                direction.activations[i].apply(&mut value);
                value[0]
            };
            for batch in 0..p.batch {
                let at = plan.state_row(index, batch) * hidden;
                let state =
                    |s: &Option<Vec<f32>>| s.as_ref().map_or(vec![0.0; hidden], |s| s[at..at + hidden].to_vec());
                let (mut h, mut c) = (state(&self.h), state(&self.c));
                let len = self.lens.as_ref().map_or(p.time, |lens| lens[batch] as usize);
                for step in 0..len {
                    let time = if direction.walk == Walk::Forward {
                        step
                    } else {
                        len - 1 - step
                    };
                    let x = &self.x[plan.x_row(time, batch) * p.input..][..p.input];
                    let wx = |row: usize| -> f32 {
                        let bias = self.bias.as_ref().map_or(0.0, |b| b[index * 2 * rows + row]);
                        bias + (0..p.input)
                            .map(|i| x[i] * self.w[(index * rows + row) * p.input + i])
                            .sum::<f32>()
                    };
                    let rh = |row: usize, h: &[f32]| -> f32 {
                        let bias = self.bias.as_ref().map_or(0.0, |b| b[(index * 2 + 1) * rows + row]);
                        bias + (0..hidden)
                            .map(|i| h[i] * self.r[(index * rows + row) * hidden + i])
                            .sum::<f32>()
                    };
                    let peep = |gate: usize, j: usize, c: &[f32]| {
                        self.peepholes
                            .as_ref()
                            .map_or(0.0, |p| p[(index * 3 + gate) * hidden + j] * c[j])
                    };
                    let before = h.clone();
                    match p.kind {
                        RnnKind::Rnn => (0..hidden).for_each(|j| h[j] = act(0, wx(j) + rh(j, &before))),
                        RnnKind::Lstm(forget) => {
                            let old = c.clone();
                            for j in 0..hidden {
                                let gate = |g: usize| wx(g * hidden + j) + rh(g * hidden + j, &before);
                                let i = act(0, gate(0) + peep(0, j, &old));
                                let f = match forget {
                                    ForgetGate::Own => act(0, gate(2) + peep(2, j, &old)),
                                    ForgetGate::FromInput => 1.0 - i,
                                };
                                c[j] = f * old[j] + i * act(1, gate(3));
                                let o = act(0, gate(1) + peep(1, j, &c));
                                h[j] = o * act(2, c[j]);
                            }
                        }
                        RnnKind::Gru(reset) => {
                            let gate = |g: usize, j: usize| act(0, wx(g * hidden + j) + rh(g * hidden + j, &before));
                            let r: Vec<f32> = (0..hidden).map(|j| gate(1, j)).collect();
                            let reset_h: Vec<f32> = (0..hidden).map(|j| r[j] * before[j]).collect();
                            for j in 0..hidden {
                                let z = gate(0, j);
                                let row = 2 * hidden + j;
                                let n = match reset {
                                    ResetGate::BeforeProduct => act(1, wx(row) + rh(row, &reset_h)),
                                    ResetGate::AfterProduct => act(1, wx(row) + r[j] * rh(row, &before)),
                                };
                                h[j] = (1.0 - z) * n + z * before[j];
                            }
                        }
                    }
                    y[plan.y_row(time, index, batch) * hidden..][..hidden].copy_from_slice(&h);
                }
                y_h[at..at + hidden].copy_from_slice(&h);
                y_c[at..at + hidden].copy_from_slice(&c);
            }
        }
        [y, y_h, y_c]
    }

    fn check(&self) {
        let expected = self.reference();
        let plan = RnnPlan::new(self.params.clone());
        let packed = plan.pack(&self.w, &self.r);
        for weights in [
            RnnWeights::Packed(&packed),
            RnnWeights::Raw {
                input: &self.w,
                recurrent: &self.r,
            },
        ] {
            let inputs = RnnInputs {
                x: &self.x,
                weights,
                bias: self.bias.as_deref(),
                sequence_lens: self.lens.as_deref(),
                initial_h: self.h.as_deref(),
                initial_c: self.c.as_deref(),
                peepholes: self.peepholes.as_deref(),
                threads: &Threads::SINGLE,
            };
            let mut out = expected.clone().map(|values| vec![f32::NAN; values.len()]);
            let [y, y_h, y_c] = &mut out;
            let mut outputs = RnnOutputs {
                y: Some(y),
                y_h: Some(y_h),
                y_c: Some(y_c),
            };
            plan.run(&inputs, &mut outputs, &mut vec![f32::NAN; plan.scratch_len(1)]);
            let what = format!("{:?} lens {:?}", self.params, self.lens);
            assert_close(&out[0], &expected[0], 1e-4, &format!("Y of {what}"));
            assert_close(&out[1], &expected[1], 1e-4, &format!("Y_h of {what}"));
            if matches!(self.params.kind, RnnKind::Lstm(_)) {
                assert_close(&out[2], &expected[2], 1e-4, &format!("Y_c of {what}"));
            }
        }
    }
}

#[test]
fn random_layers_match_the_formulas() {
    let mut rng = Rng::new(15);
    for _ in 0..60 {
        for kind in [
            RnnKind::Rnn,
            RnnKind::Lstm(ForgetGate::Own),
            RnnKind::Lstm(ForgetGate::FromInput),
            RnnKind::Gru(ResetGate::BeforeProduct),
            RnnKind::Gru(ResetGate::AfterProduct),
        ] {
            Case::random(&mut rng, kind).check();
        }
    }
}
