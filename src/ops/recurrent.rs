//! ONNX's recurrent layers: `LSTM`, `GRU` and `RNN`.

mod plain;

use super::{
    ALL_OPERATORS, CpuLowering, GpuLowering, InferContext, Operator, TensorDesc, context::rank_error, of_larger_build,
    widen::widened,
};
use crate::{
    cpu::{
        kernel::{CpuKernel, KernelIo, scratch_as_f32},
        rnn::{
            Activation, Direction, ForgetGate, Layout, ResetGate, RnnInputs, RnnKind, RnnOutputs, RnnParams, RnnPlan,
            RnnWeights, Walk,
        },
    },
    error::{Error, ErrorCode, Result},
    gpu::{kernel::GpuKernel, kernels::recurrent},
    graph::Node,
    tensor::{DType, Dim, display_shape},
};

/// A layer over sequences: X `[time, batch, input]`, W, R, and optionally B, sequence_lens, initial_h, and for an LSTM
/// initial_c and the peepholes P; gives Y `[time, direction, batch, hidden]`, Y_h and (LSTM) Y_c, each if wanted.
///
/// Since opset 1; `layout` (batch first) since 14. Floats.
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
            // The default that ONNX notes for RNN names both directions, and files may hold it for one.
            Some(mut names) if names.len() >= per_direction * walks.len() => {
                names.truncate(per_direction * walks.len());
                names
            }
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

    fn params(&self, inputs: &[Option<TensorDesc>], count: usize) -> Result<RnnParams> {
        let given = |index: usize| inputs.get(index)?.as_ref();
        let shape = |index: usize| {
            let missing = || Error::new(ErrorCode::InvalidGraph, format!("required input {index} is missing"));
            given(index).map(|desc| &desc.shape).ok_or_else(missing)
        };
        let x = shape(X)?;
        let &[first, second, input] = &x[..] else {
            return Err(rank_error(X, 3, x.len()));
        };
        let (time, batch) = match self.layout {
            Layout::TimeFirst => (first, second),
            Layout::BatchFirst => (second, first),
        };
        let r = shape(R)?;
        let &[_, _, hidden] = &r[..] else {
            return Err(rank_error(R, 3, r.len()));
        };
        let directions = self.directions.len();
        let rows = self.kind.gates() * hidden;
        let check = |index: usize, expected: &[usize]| match given(index) {
            Some(desc) if index < count && desc.shape != expected => Err(Error::new(
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
        let plan = RnnPlan::new(self.params(ctx.inputs, ctx.input_count())?);
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
        let is_lstm = matches!(self.kind, RnnKind::Lstm(_));
        let has = self.given(ctx.inputs, ctx.input_count());
        let name = match self.kind {
            RnnKind::Lstm(_) => "lstm_f32",
            RnnKind::Gru(_) => "gru_f32",
            RnnKind::Rnn => "rnn_f32",
        };
        let mut kernel = CpuKernel::compute_with_scratch(name, plan.scratch_len(ctx.threads) * 4, move |io| {
            let KernelIo {
                inputs,
                outputs,
                scratch,
                threads,
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
                threads,
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

    fn cpu_f64(&self, ctx: &CpuLowering<'_>) -> Result<CpuKernel> {
        let params = self.params(ctx.inputs, ctx.input_count())?;
        let has = self.given(ctx.inputs, ctx.input_count());
        let is_lstm = matches!(self.kind, RnnKind::Lstm(_));
        Ok(CpuKernel::compute("recurrent_f64", move |io| {
            let KernelIo { inputs, outputs, .. } = io;
            let floats = |wanted: bool, index: usize| -> Result<Option<&[f64]>> {
                if wanted { inputs.get(index).map(Some) } else { Ok(None) }
            };
            let fed = plain::Inputs {
                x: inputs.get(X)?,
                w: inputs.get(W)?,
                r: inputs.get(R)?,
                b: floats(has[0], B)?,
                sequence_lens: if has[1] { Some(inputs.get(SEQUENCE_LENS)?) } else { None },
                initial_h: floats(has[2], INITIAL_H)?,
                initial_c: floats(has[3], INITIAL_C)?,
                peepholes: floats(has[4], P)?,
            };
            let mut wanted = |index: usize| -> Result<Option<&mut [f64]>> {
                if outputs.has(index) {
                    outputs.take(index).map(Some)
                } else {
                    Ok(None)
                }
            };
            let mut results = plain::Outputs {
                y: wanted(0)?,
                y_h: wanted(1)?,
                y_c: if is_lstm { wanted(2)? } else { None },
            };
            plain::run(&params, &fed, &mut results);
            Ok(())
        }))
    }

    /// Which optional inputs are given: B, sequence_lens, initial_h, and of an LSTM initial_c and P.
    fn given(&self, inputs: &[Option<TensorDesc>], count: usize) -> [bool; 5] {
        let is_lstm = matches!(self.kind, RnnKind::Lstm(_));
        [B, SEQUENCE_LENS, INITIAL_H, INITIAL_C, P].map(|index| {
            let given = index < count && inputs.get(index).is_some_and(Option::is_some);
            given && (is_lstm || index < INITIAL_C)
        })
    }
}

/// An activation as the GPU's shader takes it.
fn in_wgsl(activation: Activation) -> recurrent::Activation {
    match activation {
        Activation::Sigmoid => ("1.0 / (1.0 + exp(-x))", [0.0; 2]),
        Activation::Tanh => ("bounded_tanh(x)", [0.0; 2]),
        Activation::Relu => ("max(x, 0.0)", [0.0; 2]),
        Activation::Softsign => ("x / (1.0 + abs(x))", [0.0; 2]),
        Activation::Softplus => ("max(x, 0.0) + log(1.0 + exp(-abs(x)))", [0.0; 2]),
        Activation::Affine { alpha, beta } => ("alpha * x + beta", [alpha, beta]),
        Activation::LeakyRelu { alpha } => ("select(x, alpha * x, x < 0.0)", [alpha, 0.0]),
        Activation::ThresholdedRelu { alpha } => ("select(x, 0.0, x < alpha)", [alpha, 0.0]),
        Activation::ScaledTanh { alpha, beta } => ("alpha * bounded_tanh(beta * x)", [alpha, beta]),
        Activation::HardSigmoid { alpha, beta } => ("clamp(alpha * x + beta, 0.0, 1.0)", [alpha, beta]),
        Activation::Elu { alpha } => ("select(x, alpha * (exp(x) - 1.0), x < 0.0)", [alpha, 0.0]),
    }
}

impl Operator for Recurrent {
    fn operations(&self, inputs: &[Vec<usize>], _: u64) -> u64 {
        let count = |index: usize| inputs[index].iter().product::<usize>();
        let steps: usize = inputs[X].iter().take(2).product();
        2 * (steps * (count(W) + count(R))) as u64
    }

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
            DType::F64 if !ALL_OPERATORS => Err(of_larger_build("float64")),
            DType::F64 => self.cpu_f64(ctx),
            _ => Err(ctx.unsupported_type(X)),
        }
    }

    fn gpu(&self, ctx: &GpuLowering<'_>) -> Result<Option<GpuKernel>> {
        if !ALL_OPERATORS {
            return Ok(None);
        }
        let count = ctx.input_count();
        let has = self.given(ctx.inputs, count);
        let used = [
            Some(X),
            Some(W),
            Some(R),
            has[0].then_some(B),
            has[2].then_some(INITIAL_H),
        ];
        let used = used
            .into_iter()
            .chain([has[3].then_some(INITIAL_C), has[4].then_some(P)])
            .flatten();
        let floats = { used }.all(|index| ctx.optional_input(index).is_some_and(|desc| desc.dtype == DType::F32));
        let lengths = !has[1]
            || ctx
                .optional_input(SEQUENCE_LENS)
                .is_some_and(|desc| desc.dtype == DType::I32);
        if !floats || !lengths {
            return Ok(None);
        }
        let given = recurrent::Given {
            inputs: has,
            outputs: [0, 1, 2].map(|index| ctx.optional_output(index).is_some()),
        };
        let params = self.params(ctx.inputs, count)?;
        // One text serves all directions.
        let activations = &params.directions[0].activations;
        if params.directions.iter().any(|other| other.activations != *activations) {
            return Ok(None);
        }
        let activation = |index: usize| activations.get(index).map_or(("x", [0.0; 2]), |&each| in_wgsl(each));
        let params = recurrent::Params {
            kind: match params.kind {
                RnnKind::Lstm(forget) => recurrent::Kind::Lstm {
                    coupled: forget == ForgetGate::FromInput,
                },
                RnnKind::Gru(reset) => recurrent::Kind::Gru {
                    resets_state: reset == ResetGate::BeforeProduct,
                },
                RnnKind::Rnn => recurrent::Kind::Rnn,
            },
            time: params.time,
            batch: params.batch,
            input: params.input,
            hidden: params.hidden,
            backwards: params
                .directions
                .iter()
                .map(|each| each.walk == Walk::Reverse)
                .collect(),
            batch_first: params.layout == Layout::BatchFirst,
            clip: params.clip,
            activations: [activation(0), activation(1), activation(2)],
        };
        Ok(recurrent::recurrent(&params, given, ctx.caps))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{TestNode, assert_tensor_close, f32s, tensor};
    use super::*;
    use crate::{cpu::testing::Rng, tensor::Tensor};

    fn wide(t: &Tensor) -> Tensor {
        let values: Vec<f64> = t.to_f32s().unwrap().iter().map(|&v| v.into()).collect();
        tensor(t.shape(), &values)
    }

    #[test]
    fn f32_agrees_with_f64_in_every_direction_layout_and_form() {
        let mut rng = Rng::new(71);
        let activations = [
            "Affine",
            "Elu",
            "HardSigmoid",
            "LeakyRelu",
            "Relu",
            "ScaledTanh",
            "Sigmoid",
            "Softplus",
            "Softsign",
            "Tanh",
            "ThresholdedRelu",
        ];
        for operator in ["LSTM", "GRU", "RNN"] {
            let (gates, functions) = match operator {
                "LSTM" => (4, 3),
                "GRU" => (3, 2),
                _ => (1, 1),
            };
            for round in 0..36 {
                let direction = ["forward", "reverse", "bidirectional"][round % 3];
                let directions = if direction == "bidirectional" { 2 } else { 1 };
                let batch_first = round % 4 == 3;
                let (time, batch) = (rng.size(1, 5), rng.size(1, 3));
                let (input, hidden) = (rng.size(1, 5), rng.size(1, 6));
                let names: Vec<&str> = (0..functions * directions)
                    .map(|_| activations[rng.size(0, activations.len() - 1)])
                    .collect();
                let mut random = |shape: &[usize]| f32s(shape, &rng.vec(shape.iter().product()));
                let x = random(&if batch_first {
                    [batch, time, input]
                } else {
                    [time, batch, input]
                });
                let state = if batch_first {
                    [batch, directions, hidden]
                } else {
                    [directions, batch, hidden]
                };
                let w = random(&[directions, gates * hidden, input]);
                let r = random(&[directions, gates * hidden, hidden]);
                let further = [
                    random(&[directions, 2 * gates * hidden]),
                    random(&state),
                    random(&state),
                ];
                let peepholes = random(&[directions, 3 * hidden]);
                let lens: Vec<i32> = (0..batch).map(|_| rng.size(0, time) as i32).collect();
                let mut node = TestNode::new(operator, 14)
                    .attr("direction", direction)
                    .attr("hidden_size", hidden as i64)
                    .attr("layout", i64::from(batch_first))
                    .attr("linear_before_reset", i64::from(round % 2 == 1))
                    .attr("input_forget", i64::from(round % 5 == 1))
                    .outputs(if operator == "LSTM" { 3 } else { 2 });
                if round >= 12 {
                    node = node.attr("activations", &names[..]).attr("clip", 0.75f32);
                }
                let feed = |node: TestNode, form: fn(&Tensor) -> Tensor, constant: bool| {
                    let node = node.input(form(&x));
                    let node = match constant {
                        true => node.constant(form(&w)).constant(form(&r)),
                        false => node.input(form(&w)).input(form(&r)),
                    };
                    if round % 6 == 0 {
                        return node;
                    }
                    let node = node
                        .input(form(&further[0]))
                        .input(tensor(&[batch], &lens))
                        .input(form(&further[1]));
                    match operator {
                        "LSTM" => node.input(form(&further[2])).input(form(&peepholes)),
                        _ => node,
                    }
                };
                let expected = feed(node.clone(), wide, false).run().unwrap();
                for constant in [false, true] {
                    let results = feed(node.clone(), Tensor::clone, constant).run().unwrap();
                    for (result, expected) in results.iter().zip(&expected) {
                        let expected = f32s(expected.shape(), &expected.to_f32s().unwrap());
                        assert_tensor_close(result, &expected, 1e-4);
                    }
                }
            }
        }
    }

    #[test]
    fn one_step_of_each_layer_by_hand() {
        let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
        let (x, h) = (0.5f64, -0.25f64);
        let run = |operator: &str, gates: usize| {
            let weights: Vec<f64> = (1..=gates).map(|gate| gate as f64 * 0.1).collect();
            TestNode::new(operator, 14)
                .input(tensor(&[1, 1, 1], &[x]))
                .input(tensor(&[1, gates, 1], &weights))
                .input(tensor(&[1, gates, 1], &weights))
                .no_input()
                .no_input()
                .input(tensor(&[1, 1, 1], &[h]))
                .run1()
                .unwrap()
                .view::<f64>()
                .unwrap()[0]
        };
        let gate = |gate: f64| gate * 0.1 * (x + h);
        let c = sigmoid(gate(1.0)) * gate(4.0).tanh();
        let lstm = sigmoid(gate(2.0)) * c.tanh();
        let z = sigmoid(gate(1.0));
        let gru = (1.0 - z) * (0.3 * (x + sigmoid(gate(2.0)) * h)).tanh() + z * h;
        for (operator, gates, expected) in [("LSTM", 4, lstm), ("GRU", 3, gru), ("RNN", 1, gate(1.0).tanh())] {
            let result = run(operator, gates);
            assert!(
                (result - expected).abs() < 1e-12,
                "{operator}: {result} instead of {expected}"
            );
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
        let both = ["Sigmoid", "Tanh", "Tanh"].repeat(2);
        assert!(good.clone().attr("activations", &both[..]).run().is_ok());
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
