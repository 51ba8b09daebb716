//! One time step of one batch entry: what the gates do to the states.

use super::{Activation, ForgetGate, ResetGate};

/// Bounds what goes into an activation and applies it.
fn activate(values: &mut [f32], activation: Activation, clip: Option<f32>) {
    if let Some(clip) = clip {
        values.iter_mut().for_each(|value| *value = value.max(-clip).min(clip));
    }
    activation.apply(values);
}

fn add_product(values: &mut [f32], a: &[f32], b: &[f32]) {
    for ((value, a), b) in values.iter_mut().zip(a).zip(b) {
        *value += a * b;
    }
}

pub(super) struct LstmStep<'a> {
    /// The sums of both products and biases, gates i, o, f, c.
    pub gates: &'a mut [f32],
    pub h: &'a mut [f32],
    pub c: &'a mut [f32],
    /// Gates i, o, f.
    pub peepholes: Option<&'a [f32]>,
    pub forget: ForgetGate,
    pub activations: &'a [Activation],
    pub clip: Option<f32>,
}

pub(super) fn lstm(step: LstmStep) {
    let LstmStep {
        gates,
        h,
        c,
        peepholes,
        forget,
        activations,
        clip,
    } = step;
    let hidden = h.len();
    let &[f, g, last] = activations else { return };
    let (input, rest) = gates.split_at_mut(hidden);
    let (output, rest) = rest.split_at_mut(hidden);
    let (forgotten, candidate) = rest.split_at_mut(hidden);
    if let Some(peepholes) = peepholes {
        add_product(input, &peepholes[..hidden], c);
        add_product(forgotten, &peepholes[2 * hidden..], c);
    }
    activate(input, f, clip);
    match forget {
        ForgetGate::Own => activate(forgotten, f, clip),
        ForgetGate::FromInput => forgotten.iter_mut().zip(&*input).for_each(|(f, i)| *f = 1.0 - i),
    }
    activate(candidate, g, clip);
    for (((c, f), i), candidate) in c.iter_mut().zip(&*forgotten).zip(&*input).zip(&*candidate) {
        *c = f * *c + i * candidate;
    }
    if let Some(peepholes) = peepholes {
        add_product(output, &peepholes[hidden..2 * hidden], c);
    }
    activate(output, f, clip);
    h.copy_from_slice(c);
    // The clip bounds the gates only, as in ONNX Runtime.
    activate(h, last, None);
    h.iter_mut().zip(&*output).for_each(|(h, o)| *h *= o);
}

pub(super) struct GruStep<'a> {
    /// The input's part of gates z, r, h; z and r become their final values.
    pub gates: &'a mut [f32],
    /// The recurrent part of gates z, r.
    pub recurrent: &'a [f32],
    pub h: &'a [f32],
    /// Becomes r * h.
    pub reset_h: &'a mut [f32],
    pub activations: &'a [Activation],
    pub clip: Option<f32>,
}

/// The first half of a step whose reset gate comes before the product.
pub(super) fn gru_gates(step: GruStep) {
    let hidden = step.h.len();
    update_and_reset(step.gates, step.recurrent, hidden, step.activations, step.clip);
    let reset = &step.gates[hidden..2 * hidden];
    for ((place, r), h) in step.reset_h.iter_mut().zip(reset).zip(step.h) {
        *place = r * h;
    }
}

fn update_and_reset(
    gates: &mut [f32],
    recurrent: &[f32],
    hidden: usize,
    activations: &[Activation],
    clip: Option<f32>,
) {
    let gates = &mut gates[..2 * hidden];
    gates.iter_mut().zip(recurrent).for_each(|(gate, r)| *gate += r);
    if let [f, ..] = activations {
        activate(gates, *f, clip);
    }
}

/// The second half of a step, or a whole one whose reset gate comes after the product.
pub(super) fn finish_gru(
    gates: &mut [f32],
    recurrent: &[f32],
    recurrent_bias: &[f32],
    h: &mut [f32],
    reset: ResetGate,
    activations: &[Activation],
    clip: Option<f32>,
) {
    let hidden = h.len();
    let &[_, g] = activations else { return };
    if reset == ResetGate::AfterProduct {
        update_and_reset(gates, recurrent, hidden, activations, clip);
    }
    let (gates, candidate) = gates.split_at_mut(2 * hidden);
    let (update, r) = gates.split_at(hidden);
    let recurrent = &recurrent[2 * hidden..];
    match reset {
        ResetGate::BeforeProduct => candidate.iter_mut().zip(recurrent).for_each(|(c, x)| *c += x),
        ResetGate::AfterProduct => {
            let sums = recurrent.iter().zip(&recurrent_bias[2 * hidden..]).map(|(x, b)| x + b);
            candidate
                .iter_mut()
                .zip(r)
                .zip(sums)
                .for_each(|((c, r), sum)| *c += r * sum);
        }
    }
    activate(candidate, g, clip);
    for ((h, z), candidate) in h.iter_mut().zip(update).zip(&*candidate) {
        *h = (1.0 - z) * candidate + z * *h;
    }
}

pub(super) fn simple(gates: &[f32], recurrent: &[f32], h: &mut [f32], activation: &Activation, clip: Option<f32>) {
    for ((h, a), b) in h.iter_mut().zip(gates).zip(recurrent) {
        *h = a + b;
    }
    activate(h, *activation, clip);
}
