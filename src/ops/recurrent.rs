//! ONNX's recurrent layers: `LSTM`, `GRU` and `RNN`.

use super::{CpuLowering, InferContext, Operator, TensorDesc, context::rank_error, widen::widened};
use crate::{
    cpu::{
        kernel::{CpuKernel, KernelIo, scratch_as_f32},
        rnn::{
            Activation, Direction, ForgetGate, Layout, ResetGate, RnnInputs, RnnKind, RnnOutputs, RnnParams, RnnPlan,
            RnnWeights, Walk,
        },
    },
    error::{Error, ErrorCode, Result},
    graph::Node,
    tensor::{DType, Dim, display_shape},
};

/// A layer over sequences: X `[time, batch, input]`, W, R, and optionally B, sequence_lens, initial_h, and for an LSTM
/// initial_c and the peepholes P; gives Y `[time, direction, batch, hidden]`, Y_h and (LSTM) Y_c, each if wanted.
///
/// Since opset 1; `layout` (batch first) since 14. f32, f16 and bf16.
#[derive(Debug)]
pub struct Recurrent {
    kind: RnnKind,
    directions: Vec<Direction>,
    hidden: Option<usize>,
    layout: Layout,
    clip: Option<f32>,
}

/// Places of the inputs.
const X: usize = 0;
const W: usize = 1;
const R: usize = 2;
const B: usize = 3;
const SEQUENCE_LENS: usize = 4;
const INITIAL_H: usize = 5;
const INITIAL_C: usize = 6;
const P: usize = 7;

impl Recurrent {
    /// ONNX `LSTM`.
    pub fn lstm(node: &Node) -> Result<Box<dyn Operator>> {
        let forget = match node.attributes.flag("input_forget", false)? {
            true => ForgetGate::FromInput,
            false => ForgetGate::Own,
        };
        Recurrent::make(node, RnnKind::Lstm(forget), &["Sigmoid", "Tanh", "Tanh"])
    }

    /// ONNX `GRU`.
    pub fn gru(node: &Node) -> Result<Box<dyn Operator>> {
        let reset = match node.attributes.flag("linear_before_reset", false)? {
            true => ResetGate::AfterProduct,
            false => ResetGate::BeforeProduct,
        };
        Recurrent::make(node, RnnKind::Gru(reset), &["Sigmoid", "Tanh"])
    }

    /// ONNX `RNN`.
    pub fn rnn(node: &Node) -> Result<Box<dyn Operator>> {
        Recurrent::make(node, RnnKind::Rnn, &["Tanh"])
    }

    fn make(node: &Node, kind: RnnKind, defaults: &[&str]) -> Result<Box<dyn Operator>> {
        let attributes = &node.attributes;
        let invalid = |name: &str, expected: String, actual: String| {
            Error::new(
                ErrorCode::InvalidGraph,
                format!("attribute {name} has an unknown value"),
            )
            .expected(expected)
            .actual(actual)
        };
        let walks: &[Walk] = match attributes.string("direction")? {
            None | Some("forward") => &[Walk::Forward],
            Some("reverse") => &[Walk::Reverse],
            Some("bidirectional") => &[Walk::Forward, Walk::Reverse],
            Some(other) => {
                let expected = "forward, reverse or bidirectional".into();
                return Err(invalid("direction", expected, other.into()));
            }
        };
        let per_direction = defaults.len();
        let names = match attributes.strings("activations")? {
            None => defaults.repeat(walks.len()),
            Some(names) if names.len() == per_direction * walks.len() => names,
            Some(names) => {
                let expected = format!("{} names", per_direction * walks.len());
                return Err(invalid("activations", expected, format!("{} names", names.len())));
            }
        };
        // Each activation takes the next values of the lists, as many as it has parameters.
        let mut alphas = attributes.floats("activation_alpha")?.unwrap_or(&[]).iter().copied();
        let mut betas = attributes.floats("activation_beta")?.unwrap_or(&[]).iter().copied();
        let mut activations = Vec::with_capacity(names.len());
        for name in names {
            let unknown = || invalid("activations", "an activation that ONNX defines".into(), name.into());
            let plain = Activation::from_onnx(name, None, None).ok_or_else(unknown)?;
            let (takes_alpha, takes_beta) = plain.parameter_counts();
            let alpha = if takes_alpha > 0 { alphas.next() } else { None };
            let beta = if takes_beta > 0 { betas.next() } else { None };
            activations.push(Activation::from_onnx(name, alpha, beta).unwrap_or(plain));
        }
        let directions = walks.iter().zip(activations.chunks(per_direction));
        let hidden = match attributes.int("hidden_size")? {
            None => None,
            Some(size) => Some(
                usize::try_from(size)
                    .map_err(|_| invalid("hidden_size", "a positive number".into(), size.to_string()))?,
            ),
        };
        let layout = match attributes.flag("layout", false)? {
            true => Layout::BatchFirst,
            false => Layout::TimeFirst,
        };
        Ok(Box::new(Recurrent {
            kind,
            directions: directions
                .map(|(&walk, activations)| Direction {
                    walk,
                    activations: activations.to_vec(),
                })
                .collect(),
            hidden,
            layout,
            clip: attributes.float("clip")?,
        }))
    }

    fn params(&self, ctx: &CpuLowering<'_>) -> Result<RnnParams> {
        let x = &ctx.input(X)?.shape;
        let &[first, second, input] = &x[..] else {
            return Err(rank_error(X, 3, x.len()));
        };
        let (time, batch) = match self.layout {
            Layout::TimeFirst => (first, second),
            Layout::BatchFirst => (second, first),
        };
        let r = &ctx.input(R)?.shape;
        let &[_, _, hidden] = &r[..] else {
            return Err(rank_error(R, 3, r.len()));
        };
        let directions = self.directions.len();
        let rows = self.kind.gates() * hidden;
        let check = |index: usize, expected: &[usize]| match ctx.optional_input(index) {
            Some(desc) if index < ctx.input_count() && desc.shape != expected => Err(Error::new(
                ErrorCode::ShapeMismatch,
                format!("input {index} has the wrong shape"),
            )
            .expected(display_shape(expected))
            .actual(display_shape(&desc.shape))),
            _ => Ok(()),
        };
        let state = match self.layout {
            Layout::TimeFirst => [directions, batch, hidden],
            Layout::BatchFirst => [batch, directions, hidden],
        };
        check(W, &[directions, rows, input])?;
        check(R, &[directions, rows, hidden])?;
        check(B, &[directions, 2 * rows])?;
        check(SEQUENCE_LENS, &[batch])?;
        check(INITIAL_H, &state)?;
        if matches!(self.kind, RnnKind::Lstm(_)) {
            check(INITIAL_C, &state)?;
            check(P, &[directions, 3 * hidden])?;
        }
        if let Some(stated) = self.hidden
            && stated != hidden
        {
            return Err(
                Error::new(ErrorCode::ShapeMismatch, "hidden_size does not fit the weights")
                    .expected(stated.to_string())
                    .actual(hidden.to_string()),
            );
        }
        Ok(RnnParams {
            kind: self.kind,
            time,
            batch,
            input,
            hidden,
            directions: self.directions.clone(),
            layout: self.layout,
            clip: self.clip,
        })
    }

    fn cpu_f32(&self, ctx: &CpuLowering<'_>) -> Result<CpuKernel> {
        let plan = RnnPlan::new(self.params(ctx)?);
        let (w, r) = (ctx.input(W)?, ctx.input(R)?);
        let packed = match (&w.constant, &r.constant) {
            (Some(w_data), Some(r_data)) => {
                let layout = format!("rnn {:?} with {}", self.kind, r.constant_id);
                Some(ctx.prepared.get(w.constant_id, &layout, || {
                    Ok(plan.pack(&w_data.to_f32s()?, &r_data.to_f32s()?))
                })?)
            }
            _ => None,
        };
        let is_packed = packed.is_some();
        let given = |index: usize| index < ctx.input_count() && ctx.optional_input(index).is_some();
        let is_lstm = matches!(self.kind, RnnKind::Lstm(_));
        let has =
            [B, SEQUENCE_LENS, INITIAL_H, INITIAL_C, P].map(|index| given(index) && (is_lstm || index < INITIAL_C));
        let name = match self.kind {
            RnnKind::Lstm(_) => "lstm_f32",
            RnnKind::Gru(_) => "gru_f32",
            RnnKind::Rnn => "rnn_f32",
        };
        let mut kernel = CpuKernel::compute_with_scratch(name, plan.scratch_len() * 4, move |io| {
            let KernelIo {
                inputs,
                outputs,
                scratch,
            } = io;
            let floats = |wanted: bool, index: usize| -> Result<Option<&[f32]>> {
                if wanted { inputs.get(index).map(Some) } else { Ok(None) }
            };
            let weights = match &packed {
                Some(packed) => RnnWeights::Packed(packed),
                None => RnnWeights::Raw {
                    input: inputs.get(W)?,
                    recurrent: inputs.get(R)?,
                },
            };
            let fed = RnnInputs {
                x: inputs.get(X)?,
                weights,
                bias: floats(has[0], B)?,
                sequence_lens: if has[1] { Some(inputs.get(SEQUENCE_LENS)?) } else { None },
                initial_h: floats(has[2], INITIAL_H)?,
                initial_c: floats(has[3], INITIAL_C)?,
                peepholes: floats(has[4], P)?,
            };
            let mut wanted = |index: usize| -> Result<Option<&mut [f32]>> {
                if outputs.has(index) {
                    outputs.take(index).map(Some)
                } else {
                    Ok(None)
                }
            };
            let mut results = RnnOutputs {
                y: wanted(0)?,
                y_h: wanted(1)?,
                y_c: if is_lstm { wanted(2)? } else { None },
            };
            plan.run(&fed, &mut results, scratch_as_f32(scratch));
            Ok(())
        });
        if is_packed {
            kernel = kernel.with_prepared_input(W).with_prepared_input(R);
        }
        Ok(kernel)
    }
}

impl Operator for Recurrent {
    fn infer(&self, ctx: &mut InferContext<'_>) -> Result<()> {
        let dtype = ctx.dtype(X)?;
        for index in [X, W, R] {
            if let Some(rank) = ctx.rank(index)
                && rank != 3
            {
                return Err(rank_error(index, 3, rank));
            }
        }
        let (first, second) = match ctx.shape(X) {
            Some(x) => (x[0].clone(), x[1].clone()),
            None => (ctx.fresh_dim(), ctx.fresh_dim()),
        };
        let from_weights = ctx.shape(R).map(|r| r[2].clone());
        let hidden = match (self.hidden, from_weights) {
            (Some(size), _) => Dim::from(size),
            (None, Some(dim)) => dim,
            (None, None) => ctx.fresh_dim(),
        };
        let directions = Dim::from(self.directions.len());
        let (all, last) = match self.layout {
            Layout::TimeFirst => (
                vec![first, directions.clone(), second.clone(), hidden.clone()],
                vec![directions, second, hidden],
            ),
            Layout::BatchFirst => (
                vec![first.clone(), second, directions.clone(), hidden.clone()],
                vec![first, directions, hidden],
            ),
        };
        ctx.set_output(0, dtype, Some(all));
        ctx.set_output(1, dtype, Some(last.clone()));
        if matches!(self.kind, RnnKind::Lstm(_)) {
            ctx.set_output(2, dtype, Some(last));
        }
        Ok(())
    }

    fn cpu(&self, ctx: &CpuLowering<'_>) -> Result<CpuKernel> {
        let dtype = ctx.input(X)?.dtype;
        let floats = |desc: &TensorDesc| desc.dtype == dtype;
        for index in [W, R, B, INITIAL_H, INITIAL_C, P] {
            if index < ctx.input_count() && ctx.optional_input(index).is_some_and(|desc| !floats(desc)) {
                return Err(ctx.unsupported_type(index));
            }
        }
        if ctx.input_count() > SEQUENCE_LENS
            && ctx
                .optional_input(SEQUENCE_LENS)
                .is_some_and(|desc| desc.dtype != DType::I32)
        {
            return Err(ctx.unsupported_type(SEQUENCE_LENS));
        }
        match dtype {
            DType::F32 => self.cpu_f32(ctx),
            DType::F16 | DType::BF16 => widened(ctx, |ctx| self.cpu_f32(ctx)),
            _ => Err(ctx.unsupported_type(X)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{TestNode, assert_tensor_close, f32s, tensor};
    use super::*;
    use crate::{cpu::testing::Rng, tensor::Tensor};

    fn sigmoid(x: f64) -> f64 {
        1.0 / (1.0 + (-x).exp())
    }

    /// One direction of an LSTM, GRU or RNN with the default activations, as ONNX's equations read. `state` holds h and
    /// c. Everything is row-major; gives the states after each step.
    struct Step<'a> {
        operator: &'a str,
        linear_before_reset: bool,
        w: &'a [f32],
        r: &'a [f32],
        b: &'a [f32],
        input: usize,
        hidden: usize,
    }

    impl Step<'_> {
        fn gate(&self, gate: usize, unit: usize, x: &[f64], h: &[f64]) -> (f64, f64) {
            let row = gate * self.hidden + unit;
            let gates = self.b.len() / 2;
            let from_x: f64 = (0..self.input)
                .map(|i| x[i] * f64::from(self.w[row * self.input + i]))
                .sum();
            let from_h: f64 = (0..self.hidden)
                .map(|i| h[i] * f64::from(self.r[row * self.hidden + i]))
                .sum();
            (from_x + f64::from(self.b[row]), from_h + f64::from(self.b[gates + row]))
        }

        fn run(&self, x: &[f64], h: &mut Vec<f64>, c: &mut [f64]) {
            let before = h.clone();
            let sum = |(a, b): (f64, f64)| a + b;
            for unit in 0..self.hidden {
                let gate = |gate| self.gate(gate, unit, x, &before);
                h[unit] = match self.operator {
                    "LSTM" => {
                        let (i, o) = (sigmoid(sum(gate(0))), sigmoid(sum(gate(1))));
                        let (f, g) = (sigmoid(sum(gate(2))), sum(gate(3)).tanh());
                        c[unit] = f * c[unit] + i * g;
                        o * c[unit].tanh()
                    }
                    "GRU" => {
                        let z = sigmoid(sum(gate(0)));
                        let new = if self.linear_before_reset {
                            let (from_x, from_h) = gate(2);
                            from_x + sigmoid(sum(gate(1))) * from_h
                        } else {
                            let reset: Vec<f64> = (0..self.hidden)
                                .map(|other| sigmoid(sum(self.gate(1, other, x, &before))) * before[other])
                                .collect();
                            sum(self.gate(2, unit, x, &reset))
                        };
                        (1.0 - z) * new.tanh() + z * before[unit]
                    }
                    _ => sum(gate(0)).tanh(),
                };
            }
        }
    }

    #[test]
    fn layers_match_the_equations_in_every_direction_layout_and_form() {
        let mut rng = Rng::new(71);
        for operator in ["LSTM", "GRU", "RNN"] {
            for round in 0..24 {
                let direction = ["forward", "reverse", "bidirectional"][round % 3];
                let directions = if direction == "bidirectional" { 2 } else { 1 };
                let batch_first = round % 4 == 3;
                let linear_before_reset = round % 2 == 1;
                let (time, batch) = (rng.size(1, 5), rng.size(1, 3));
                let (input, hidden) = (rng.size(1, 5), rng.size(1, 6));
                let gates = match operator {
                    "LSTM" => 4,
                    "GRU" => 3,
                    _ => 1,
                };
                let mut random = |shape: &[usize]| f32s(shape, &rng.vec(shape.iter().product()));
                let w = random(&[directions, gates * hidden, input]);
                let r = random(&[directions, gates * hidden, hidden]);
                let b = random(&[directions, 2 * gates * hidden]);
                let x = random(&if batch_first {
                    [batch, time, input]
                } else {
                    [time, batch, input]
                });
                let lens: Vec<i32> = (0..batch).map(|_| rng.size(0, time) as i32).collect();

                let state = if batch_first {
                    [batch, directions, hidden]
                } else {
                    [directions, batch, hidden]
                };
                let mut y = vec![0.0f32; time * directions * batch * hidden];
                let (mut y_h, mut y_c) = (
                    vec![0.0f32; directions * batch * hidden],
                    vec![0.0; directions * batch * hidden],
                );
                for d in 0..directions {
                    let slice = |t: &Tensor| {
                        let values = t.to_f32s().unwrap().into_owned();
                        let len = values.len() / directions;
                        values[d * len..(d + 1) * len].to_vec()
                    };
                    let (w, r, b) = (slice(&w), slice(&r), slice(&b));
                    let step = Step {
                        operator,
                        linear_before_reset,
                        w: &w,
                        r: &r,
                        b: &b,
                        input,
                        hidden,
                    };
                    let reverse = direction == "reverse" || d == 1;
                    for (n, &len) in lens.iter().enumerate() {
                        let (mut h, mut c) = (vec![0.0; hidden], vec![0.0; hidden]);
                        for index in 0..len as usize {
                            let t = if reverse { len as usize - 1 - index } else { index };
                            let row = if batch_first { n * time + t } else { t * batch + n };
                            let values: Vec<f64> = x.to_f32s().unwrap()[row * input..(row + 1) * input]
                                .iter()
                                .map(|&v| v.into())
                                .collect();
                            step.run(&values, &mut h, &mut c);
                            for unit in 0..hidden {
                                let place = if batch_first {
                                    ((n * time + t) * directions + d) * hidden + unit
                                } else {
                                    ((t * directions + d) * batch + n) * hidden + unit
                                };
                                y[place] = h[unit] as f32;
                            }
                        }
                        for unit in 0..hidden {
                            let place = if batch_first {
                                (n * directions + d) * hidden
                            } else {
                                (d * batch + n) * hidden
                            };
                            y_h[place + unit] = h[unit] as f32;
                            y_c[place + unit] = c[unit] as f32;
                        }
                    }
                }
                let all = if batch_first {
                    [batch, time, directions, hidden]
                } else {
                    [time, directions, batch, hidden]
                };
                let mut expected = vec![f32s(&all, &y), f32s(&state, &y_h)];
                if operator == "LSTM" {
                    expected.push(f32s(&state, &y_c));
                }
                let node = TestNode::new(operator, 14)
                    .attr("direction", direction)
                    .attr("hidden_size", hidden as i64)
                    .attr("layout", i64::from(batch_first))
                    .attr("linear_before_reset", i64::from(linear_before_reset))
                    .outputs(expected.len())
                    .input(x.clone());
                let fed = node.clone().input(w.clone()).input(r.clone()).input(b.clone());
                let constant = node.constant(w).constant(r).constant(b);
                for node in [fed, constant] {
                    let results = node.input(tensor(&[batch], &lens)).run().unwrap();
                    for (result, expected) in results.iter().zip(&expected) {
                        assert_tensor_close(result, expected, 1e-5);
                    }
                }
            }
        }
    }

    #[test]
    fn states_peepholes_clip_and_parameters_reach_the_kernel() {
        // One unit, one step: gates i, o, f, c see x = 1 with these weights.
        let node = TestNode::new("LSTM", 14)
            .attr("activations", ["HardSigmoid", "Affine", "Relu"])
            .attr("activation_alpha", [0.5f32, 2.0])
            .attr("activation_beta", [0.25f32, 1.0])
            .attr("clip", 3.0f32)
            .outputs(3)
            .input(f32s(&[1, 1, 1], &[1.0]))
            .constant(f32s(&[1, 4, 1], &[0.5, 0.1, 0.2, 50.0]))
            .constant(f32s(&[1, 4, 1], &[0.0; 4]))
            .no_input()
            .no_input()
            .input(f32s(&[1, 1, 1], &[0.0]))
            .input(f32s(&[1, 1, 1], &[2.0]))
            .input(f32s(&[1, 3], &[0.1, 0.0, 0.3]));
        let hard = |x: f32| (0.5 * x + 0.25).clamp(0.0, 1.0);
        let (i, f) = (hard(0.5 + 0.1 * 2.0), hard(0.2 + 0.3 * 2.0));
        // The cell's input is clipped to 3 before the affine function.
        let c = f * 2.0 + i * (2.0 * 3.0 + 1.0);
        let h = hard(0.1) * c.max(0.0);
        let results = node.run().unwrap();
        assert_tensor_close(&results[0], &f32s(&[1, 1, 1, 1], &[h]), 1e-6);
        assert_tensor_close(&results[1], &f32s(&[1, 1, 1], &[h]), 1e-6);
        assert_tensor_close(&results[2], &f32s(&[1, 1, 1], &[c]), 1e-6);
    }

    #[test]
    fn only_wanted_outputs_are_made() {
        let node = TestNode::new("GRU", 14)
            .wanted(&[false, true])
            .input(f32s(&[2, 1, 1], &[1.0, -1.0]))
            .input(f32s(&[1, 3, 1], &[0.1, 0.2, 0.3]))
            .input(f32s(&[1, 3, 1], &[0.3, 0.2, 0.1]));
        let last = node.run().unwrap();
        assert_eq!(last.len(), 1);
        let all = node.outputs(2).run().unwrap();
        assert_eq!(last[0], all[1]);
    }

    #[test]
    fn wrong_shapes_and_attributes_are_errors() {
        let zeros = |shape: &[usize]| Tensor::zeros(DType::F32, shape).unwrap();
        let node = |w: &[usize], r: &[usize]| {
            TestNode::new("LSTM", 14)
                .input(zeros(&[1, 1, 2]))
                .input(zeros(w))
                .input(zeros(r))
        };
        let good = node(&[1, 12, 2], &[1, 12, 3]);
        assert!(good.run().is_ok());
        for node in [
            node(&[1, 12, 3], &[1, 12, 3]),
            node(&[1, 9, 2], &[1, 12, 3]),
            node(&[1, 12, 2], &[12, 3]),
            good.clone().attr("direction", "bidirectional"),
            good.clone().input(zeros(&[1, 12])),
            good.clone().attr("hidden_size", 4i64),
        ] {
            assert_eq!(node.run().unwrap_err().code(), ErrorCode::ShapeMismatch);
        }
        for node in [
            good.clone().attr("direction", "sideways"),
            good.clone().attr("activations", ["Tanh"]),
            good.clone().attr("activations", ["Tanh", "Sigmoid", "Gelu"]),
        ] {
            assert_eq!(node.run().unwrap_err().code(), ErrorCode::InvalidGraph);
        }
    }
}
