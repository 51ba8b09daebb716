//! LSTM, GRU and plain recurrent layers: the input's part of all gates in one dispatch, then one or two for each step.

use super::super::kernel::{Access, Binding, Dispatch, GpuCaps, GpuKernel, GpuType};
use super::super::wgsl::{DispatchBuilder, shader_text};
use super::{elements, finish_flat, flat};

const RECURRENT: &str = shader_text!("../../../shaders/recurrent.wgsl");

/// Steps beyond which so many dispatches take longer than the CPU.
const MAX_STEPS: usize = 1024;

/// Which optional inputs the node has: bias (3), sequence lengths (4), initial states (5, 6), peepholes (7); which outputs
/// are wanted: all states, the last states, the last cells.
#[derive(Debug, Clone, Copy)]
pub struct Given {
    pub inputs: [bool; 5],
    pub outputs: [bool; 3],
}

/// Which layer it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Gates i, o, f, c; the forget gate may be what the input gate leaves.
    Lstm {
        coupled: bool,
    },
    /// Gates z, r, h; the reset applies to the state, or to its product.
    Gru {
        resets_state: bool,
    },
    Rnn,
}

impl Kind {
    fn gates(self) -> usize {
        match self {
            Kind::Lstm { .. } => 4,
            Kind::Gru { .. } => 3,
            Kind::Rnn => 1,
        }
    }
}

/// An activation as WGSL of `x`, `alpha` and `beta`, and those parameters.
pub type Activation = (&'static str, [f32; 2]);

/// A layer's sizes and attributes.
#[derive(Debug, Clone)]
pub struct Params {
    pub kind: Kind,
    pub time: usize,
    pub batch: usize,
    pub input: usize,
    pub hidden: usize,
    /// For each direction, whether it walks backwards.
    pub backwards: Vec<bool>,
    pub batch_first: bool,
    pub clip: Option<f32>,
    /// Of all directions; those that the kind does not have are not used.
    pub activations: [Activation; 3],
}

struct Layer<'a> {
    params: &'a Params,
    given: Given,
    caps: &'a GpuCaps,
    /// Units of all sequences in all directions.
    units: usize,
}

// Scratch memory by position.
const GATES: usize = 0;
const STATES: usize = 1;
const CELLS: usize = 2;
const RESETS: usize = 3;

fn scratch(index: usize, access: Access) -> Binding {
    Binding::Scratch(index, access)
}

impl Layer<'_> {
    fn start(&self) -> DispatchBuilder {
        let p = self.params;
        let directions = p.backwards.len();
        let (state, y, x) = match p.batch_first {
            false => (
                [p.batch, 1],
                [directions * p.batch, p.batch, 1],
                [p.batch * p.input, p.input],
            ),
            true => (
                [1, directions],
                [directions, 1, p.time * directions],
                [p.input, p.time * p.input],
            ),
        };
        flat("recurrent", RECURRENT)
            .define("GATES", p.kind.gates())
            .param("time", p.time as u32)
            .param("batch", p.batch as u32)
            .param("input", p.input as u32)
            .param("hidden", p.hidden as u32)
            .param("units", self.units as u32)
            .param("state_direction", state[0] as u32)
            .param("state_batch", state[1] as u32)
            .param("y_time", y[0] as u32)
            .param("y_direction", y[1] as u32)
            .param("y_batch", y[2] as u32)
            .param("x_time", x[0] as u32)
            .param("x_batch", x[1] as u32)
    }

    /// What reaches the gates from the input, with the biases; of a product that is reset, its bias is apart.
    fn input(&self, count: usize) -> Option<Dispatch> {
        let p = self.params;
        let rows = p.kind.gates() * p.hidden;
        let own_rows = match p.kind {
            Kind::Gru { resets_state: false } => 2 * p.hidden,
            _ => rows,
        };
        let mut dispatch = self
            .start()
            .flag("INPUT", true)
            .storage("x", "f32", Binding::Input(0))
            .storage("weights", "f32", Binding::Input(1))
            .storage("gates", "f32", scratch(GATES, Access::ReadWrite))
            .param("own_rows", own_rows as u32);
        if self.given.inputs[0] {
            dispatch = dispatch.flag("BIAS", true).storage("bias", "f32", Binding::Input(3));
        }
        finish_flat(dispatch, count, self.caps)
    }

    fn set(&self, target: usize, initial: Option<usize>) -> Option<Dispatch> {
        let mut dispatch = self
            .start()
            .flag("START", true)
            .storage("kept", "f32", scratch(target, Access::ReadWrite));
        if let Some(index) = initial {
            dispatch = dispatch
                .flag("INITIAL", true)
                .storage("initial", "f32", Binding::Input(index));
        }
        finish_flat(dispatch, self.units, self.caps)
    }

    fn copy_out(&self, from: usize, base: usize, output: usize) -> Option<Dispatch> {
        let dispatch = self
            .start()
            .flag("END", true)
            .storage("kept", "f32", scratch(from, Access::Read))
            .storage("result", "f32", Binding::Output(output))
            .param("from_base", base as u32);
        finish_flat(dispatch, self.units, self.caps)
    }

    fn step(&self, step: usize, is_reset: bool) -> Option<Dispatch> {
        let p = self.params;
        let is_lstm = matches!(p.kind, Kind::Lstm { .. });
        let resets = p.kind == (Kind::Gru { resets_state: true });
        let reverse = (p.backwards.iter().rev()).fold(0, |mask, &backward| mask << 1 | u32::from(backward));
        let mut dispatch = self
            .start()
            .flag("CELL", true)
            .flag("RESET", is_reset)
            .flag("STEP", !is_reset)
            .flag("RESETS", resets && !is_reset)
            .flag("RNN", p.kind == Kind::Rnn)
            .flag("LSTM", is_lstm)
            .flag("COUPLED", p.kind == (Kind::Lstm { coupled: true }))
            .flag("GRU", matches!(p.kind, Kind::Gru { .. }))
            .flag("CLIP", p.clip.is_some())
            .storage("gates", "f32", scratch(GATES, Access::Read))
            .storage("weights", "f32", Binding::Input(2))
            .storage("states", "f32", scratch(STATES, Access::ReadWrite))
            .param("step", step as u32)
            .param("reverse", reverse)
            .param_f32("clip", p.clip.unwrap_or(0.0));
        for (index, name) in ["F", "G", "H"].into_iter().enumerate() {
            let (text, [alpha, beta]) = p.activations[index];
            dispatch = dispatch
                .define(name, text)
                .param_f32(format!("alpha{index}"), alpha)
                .param_f32(format!("beta{index}"), beta);
        }
        if resets {
            let access = if is_reset { Access::ReadWrite } else { Access::Read };
            dispatch = dispatch.storage("resets", "f32", scratch(RESETS, access));
        }
        if self.given.inputs[1] {
            dispatch = dispatch
                .flag("LENGTHS", true)
                .storage("lengths", "i32", Binding::Input(4));
        }
        if !is_reset {
            if is_lstm {
                dispatch = dispatch.storage("cells", "f32", scratch(CELLS, Access::ReadWrite));
            }
            if is_lstm && self.given.inputs[4] {
                dispatch = dispatch
                    .flag("PEEPHOLES", true)
                    .storage("peepholes", "f32", Binding::Input(7));
            }
            if self.given.inputs[0] && p.kind == (Kind::Gru { resets_state: false }) {
                dispatch = dispatch.flag("BIAS", true).storage("bias", "f32", Binding::Input(3));
            }
            if self.given.outputs[0] {
                dispatch = dispatch.flag("Y", true).storage("y", "f32", Binding::Output(0));
            }
        }
        finish_flat(dispatch, self.units, self.caps)
    }
}

/// The layer's kernel; `None` for long sequences and sizes of zero.
pub fn recurrent(params: &Params, given: Given, caps: &GpuCaps) -> Option<GpuKernel> {
    let (p, directions) = (params, params.backwards.len());
    let units = elements(&[directions, p.batch, p.hidden], caps)?;
    let gates = elements(&[units, p.time, p.kind.gates()], caps)?;
    if p.time > MAX_STEPS || gates == 0 || p.input == 0 {
        return None;
    }
    let layer = Layer {
        params,
        given,
        caps,
        units,
    };
    let is_lstm = matches!(p.kind, Kind::Lstm { .. });
    let mut dispatches = vec![layer.input(gates)?, layer.set(STATES, given.inputs[2].then_some(5))?];
    if is_lstm {
        dispatches.push(layer.set(CELLS, given.inputs[3].then_some(6))?);
    }
    for step in 0..p.time {
        if p.kind == (Kind::Gru { resets_state: true }) {
            dispatches.push(layer.step(step, true)?);
        }
        dispatches.push(layer.step(step, false)?);
    }
    if given.outputs[1] {
        dispatches.push(layer.copy_out(STATES, p.time % 2 * units, 1)?);
    }
    if given.outputs[2] && is_lstm {
        dispatches.push(layer.copy_out(CELLS, 0, 2)?);
    }
    let bytes = |count: usize| count as u64 * GpuType::SIZE;
    Some(GpuKernel {
        dispatches,
        scratch: vec![bytes(gates), bytes(2 * units), bytes(units), bytes(units)],
        ..GpuKernel::default()
    })
}
