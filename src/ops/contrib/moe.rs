//! Mixtures of experts: `com.microsoft.MoE`, and `QMoE` with weights of 2, 4 or 8 bits.

use super::{
    super::{
        CpuLowering, InferContext, Operator,
        lower::{invalid, unsupported},
    },
    blocks::{PackedBlocks, WeightRows},
    matmul::{product, unpack},
    tensors::{count_attribute, dims, expect_shape, floats, given, optional, optional_f32s, shape_error, zeros},
};
use crate::{
    cpu::{gemm::GemmShape, kernel::CpuKernel},
    error::Result,
    graph::Node,
    tensor::{DType, Tensor, display_shape, element_count},
};

/// `MoE` and `QMoE`: each row of X `[rows, h]` or `[b, s, h]` goes through the `k` experts that its row of router logits
/// `[rows, experts]` ranks highest; their results are added with the weights of the softmax. An expert is
/// `fc2 · activation(fc1 · x)`, with `fc3` as the gate of SwiGLU where that is not part of `fc1`. Weights are
/// `[experts, outputs, inputs]`. Floats.
#[derive(Debug)]
struct MixtureOfExperts(Settings);

#[derive(Clone, Copy, Debug)]
struct Settings {
    top: usize,
    normalize: bool,
    activation: Activation,
    alpha: f32,
    beta: f32,
    limit: f32,
    fusion: Fusion,
    packing: Option<Packing>,
}

/// How the weights of each layer are packed.
#[derive(Clone, Copy, Debug)]
struct Packing {
    bits: [usize; 3],
    /// Elements that share a scale; all of a row's when 0.
    block: usize,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Activation {
    Relu,
    Gelu,
    Silu,
    SwiGlu,
    Identity,
}

/// Where the gate and the linear part of SwiGLU are.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fusion {
    /// In the first and in the third layer.
    None,
    /// In the first layer, by turns.
    Interleaved,
    /// In the first layer, one behind the other.
    Halves,
}

/// Makes [`MixtureOfExperts`].
pub fn make(node: &Node) -> Result<Box<dyn Operator>> {
    let attributes = &node.attributes;
    let unknown = |name: &str, actual: String| invalid(format!("attribute {name} has an unknown value")).actual(actual);
    if attributes.flag("use_sparse_mixer", false)? {
        return Err(unsupported("the sparse mixer of a mixture of experts is not supported"));
    }
    let activation = match attributes.string("activation_type")?.unwrap_or("relu") {
        "relu" => Activation::Relu,
        "gelu" => Activation::Gelu,
        "silu" => Activation::Silu,
        "swiglu" => Activation::SwiGlu,
        "identity" => Activation::Identity,
        other => return Err(unknown("activation_type", other.into())),
    };
    let fusion = match attributes.int("swiglu_fusion")?.unwrap_or(0) {
        0 => Fusion::None,
        1 => Fusion::Interleaved,
        2 => Fusion::Halves,
        other => return Err(unknown("swiglu_fusion", other.to_string())),
    };
    let packing = match &*node.operator.name {
        "QMoE" => {
            let kind = attributes.string("quant_type")?.unwrap_or("int");
            if kind != "int" {
                return Err(unsupported("this quantisation of experts is not supported")
                    .expected("int")
                    .actual(kind));
            }
            let common = attributes.int("expert_weight_bits")?.unwrap_or(4);
            let mut bits = [0; 3];
            let names = [
                "fc1_expert_weight_bits",
                "fc2_expert_weight_bits",
                "fc3_expert_weight_bits",
            ];
            for (slot, name) in bits.iter_mut().zip(names) {
                let value = attributes.int(name)?.unwrap_or(common);
                if !matches!(value, 2 | 4 | 8) {
                    return Err(unknown(name, value.to_string()));
                }
                *slot = value as usize;
            }
            let block = match attributes.int("block_size")?.unwrap_or(0) {
                ..=0 => 0,
                _ => count_attribute(node, "block_size")?,
            };
            Some(Packing { bits, block })
        }
        _ => None,
    };
    let top = match attributes.int("k")? {
        Some(_) => count_attribute(node, "k")?,
        None => 1,
    };
    Ok(Box::new(MixtureOfExperts(Settings {
        top,
        normalize: attributes.flag("normalize_routing_weights", false)?,
        activation,
        alpha: attributes.float("activation_alpha")?.unwrap_or(1.0),
        beta: attributes.float("activation_beta")?.unwrap_or(0.0),
        limit: attributes.float("swiglu_limit")?.unwrap_or(f32::INFINITY),
        fusion,
        packing,
    })))
}

impl Operator for MixtureOfExperts {
    fn infer(&self, ctx: &mut InferContext<'_>) -> Result<()> {
        ctx.copy_type(0, 0)
    }

    fn cpu(&self, ctx: &CpuLowering<'_>) -> Result<CpuKernel> {
        if !ctx.input(0)?.dtype.is_float() {
            return Err(ctx.unsupported_type(0));
        }
        let settings = self.0;
        Ok(CpuKernel::dynamic("mixture_of_experts", move |inputs| {
            run(&settings, inputs).map(|result| vec![result])
        }))
    }

    fn is_heavy(&self) -> bool {
        true
    }
}

/// The weights of one layer of all experts.
struct Layer<'a> {
    outputs: usize,
    inputs: usize,
    weights: Weights<'a>,
    bias: Option<Vec<f32>>,
}

enum Weights<'a> {
    Floats(std::borrow::Cow<'a, [f32]>),
    Packed {
        bits: usize,
        block: usize,
        data: &'a [u8],
        scales: std::borrow::Cow<'a, [f32]>,
        zeros: Option<Vec<f32>>,
    },
}

/// Rows of a matrix of floats.
struct FloatRows<'a> {
    values: &'a [f32],
    depth: usize,
}

impl WeightRows for FloatRows<'_> {
    fn dequantize(&self, row: usize, depth: std::ops::Range<usize>, out: &mut [f32]) {
        let row = &self.values[row * self.depth..(row + 1) * self.depth];
        out.copy_from_slice(&row[depth]);
    }
}

impl<'a> Layer<'a> {
    /// Layer `number` of 0 to 2, whose inputs the operator places here; `None` when its weights are left out.
    fn new(
        inputs: &'a [Option<Tensor>],
        packing: Option<Packing>,
        number: usize,
        experts: usize,
        depth: usize,
    ) -> Result<Option<Layer<'a>>> {
        // MoE has weights and bias of each layer, QMoE weights, scales and bias, and later the zero points.
        let (weights, bias) = match packing {
            None => (2 + 2 * number, 3 + 2 * number),
            Some(_) => (2 + 3 * number, 4 + 3 * number),
        };
        let Some(tensor) = optional(inputs, weights) else {
            return Ok(None);
        };
        let [found, outputs, last] = dims::<3>(weights, tensor)?;
        let misfit = || {
            shape_error(
                weights,
                format!("[{experts}, outputs, {depth} elements]"),
                tensor.shape(),
            )
        };
        if found != experts {
            return Err(misfit());
        }
        let rows = element_count(&[experts, outputs])?;
        let made = match packing {
            None if last == depth => Weights::Floats(tensor.to_f32s()?),
            Some(Packing { bits, block }) => {
                let bits = bits[number];
                if tensor.dtype() != DType::U8
                    || depth
                        .checked_mul(bits)
                        .is_none_or(|all| all % 8 != 0 || last != all / 8)
                {
                    return Err(misfit());
                }
                let block = if block == 0 { depth.max(1) } else { block };
                if !depth.is_multiple_of(block) {
                    return Err(misfit());
                }
                let blocks = depth / block;
                let scales = given(inputs, weights + 1)?;
                if scales.len() != element_count(&[rows, blocks])? {
                    let expected = display_shape(&[experts, outputs, blocks]);
                    return Err(shape_error(weights + 1, expected, scales.shape()));
                }
                let zeros = match optional(inputs, 11 + number) {
                    Some(zeros) => {
                        // Without blocks, the zero points of the rows are packed together.
                        let is_blocked = zeros.shape().len() == 3;
                        let count = if is_blocked { blocks } else { outputs };
                        let lines = if is_blocked { rows } else { experts };
                        let row_bytes = (count * bits).div_ceil(8);
                        let counts_fit = is_blocked || blocks == 1;
                        if !counts_fit
                            || zeros.dtype() != DType::U8
                            || zeros.len() != element_count(&[lines, row_bytes])?
                        {
                            let expected = display_shape(&[lines, row_bytes]);
                            return Err(shape_error(11 + number, expected, zeros.shape()));
                        }
                        Some(unpack(zeros.bytes(), bits, count))
                    }
                    None => None,
                };
                Weights::Packed {
                    bits,
                    block,
                    data: tensor.bytes(),
                    scales: scales.to_f32s()?,
                    zeros,
                }
            }
            None => return Err(misfit()),
        };
        let bias_values = optional_f32s(inputs, bias)?.map(std::borrow::Cow::into_owned);
        if bias_values.is_some() {
            expect_shape(bias, given(inputs, bias)?, &[experts, outputs])?;
        }
        Ok(Some(Layer {
            outputs,
            inputs: depth,
            weights: made,
            bias: bias_values,
        }))
    }

    /// The layer of one expert on `rows` rows.
    fn apply(&self, expert: usize, x: &[f32], rows: usize) -> Result<Vec<f32>> {
        let (n, k) = (self.outputs, self.inputs);
        let shape = GemmShape { m: rows, k, n };
        let bias = self.bias.as_ref().map(|bias| &bias[expert * n..(expert + 1) * n]);
        match &self.weights {
            Weights::Floats(values) => {
                let weights = FloatRows {
                    values: &values[expert * n * k..(expert + 1) * n * k],
                    depth: k,
                };
                product(shape, x, &weights, bias)
            }
            Weights::Packed {
                bits,
                block,
                data,
                scales,
                zeros,
            } => {
                let (blocks, row_bytes) = (k / block, k * bits / 8);
                let part = |values: &'_ [f32]| expert * n * blocks..((expert + 1) * n * blocks).min(values.len());
                let weights = PackedBlocks {
                    bits: *bits,
                    block: *block,
                    blocks,
                    data: &data[expert * n * row_bytes..(expert + 1) * n * row_bytes],
                    scales: &scales[part(scales)],
                    zeros: zeros.as_ref().map(|zeros| &zeros[part(zeros)]),
                    groups: None,
                };
                product(shape, x, &weights, bias)
            }
        }
    }
}

fn run(settings: &Settings, inputs: &[Option<Tensor>]) -> Result<Tensor> {
    let x = given(inputs, 0)?;
    let Some((&hidden, lead)) = x.shape().split_last().filter(|(_, lead)| matches!(lead.len(), 1 | 2)) else {
        return Err(shape_error(0, "2 or 3 dimensions", x.shape()));
    };
    let rows = element_count(lead)?;
    let router = given(inputs, 1)?;
    let [_, experts] = dims::<2>(1, router)?;
    expect_shape(1, router, &[rows, experts])?;
    if settings.top > experts {
        return Err(invalid("attribute k is larger than the number of experts")
            .expected(format!("at most {experts}"))
            .actual(settings.top.to_string()));
    }
    let first = Layer::new(inputs, settings.packing, 0, experts, hidden)?;
    let first = first.ok_or_else(|| invalid("the weights of the first layer are missing"))?;
    let is_fused = settings.activation == Activation::SwiGlu && settings.fusion != Fusion::None;
    let inner = if is_fused { first.outputs / 2 } else { first.outputs };
    let second = Layer::new(inputs, settings.packing, 1, experts, inner)?;
    let second = second.ok_or_else(|| invalid("the weights of the second layer are missing"))?;
    let third = Layer::new(inputs, settings.packing, 2, experts, hidden)?;
    let gated_apart = settings.activation == Activation::SwiGlu && !is_fused;
    if second.outputs != hidden
        || third.as_ref().is_some_and(|third| third.outputs != inner)
        || (gated_apart && third.is_none())
    {
        return Err(invalid("the layers of the experts do not fit together"));
    }
    let logits = router.to_f32s()?;
    let mixing = match (settings.packing, optional_f32s(inputs, 14)?) {
        (Some(_), Some(weights)) => {
            expect_shape(14, given(inputs, 14)?, &[rows, experts])?;
            Some(weights)
        }
        _ => None,
    };
    // For each expert, its rows and their weights.
    let mut assigned: Vec<Vec<(usize, f32)>> = vec![Vec::new(); experts];
    for row in 0..rows {
        let logits = &logits[row * experts..(row + 1) * experts];
        let mixing = mixing
            .as_ref()
            .map(|mixing| &mixing[row * experts..(row + 1) * experts]);
        for (expert, weight) in route(settings, logits, mixing) {
            assigned[expert].push((row, weight));
        }
    }
    let values = x.to_f32s()?;
    let mut out = zeros(&[rows, hidden])?;
    for (expert, assigned) in assigned.iter().enumerate().filter(|(_, assigned)| !assigned.is_empty()) {
        let mut picked = zeros(&[assigned.len(), hidden])?;
        for (target, (row, _)) in picked.chunks_exact_mut(hidden.max(1)).zip(assigned) {
            target.copy_from_slice(&values[row * hidden..(row + 1) * hidden]);
        }
        let count = assigned.len();
        let layer = first.apply(expert, &picked, count)?;
        let gate = match &third {
            Some(third) => Some(third.apply(expert, &picked, count)?),
            None => None,
        };
        let active = settings.activate(&layer, gate.as_deref(), inner);
        let result = second.apply(expert, &active, count)?;
        for (result, &(row, weight)) in result.chunks_exact(hidden.max(1)).zip(assigned) {
            let target = &mut out[row * hidden..(row + 1) * hidden];
            target
                .iter_mut()
                .zip(result)
                .for_each(|(to, from)| *to += weight * from);
        }
    }
    floats(x.dtype(), x.shape(), out)
}

/// The experts of a row, and the weights of their results.
fn route(settings: &Settings, logits: &[f32], mixing: Option<&[f32]>) -> Vec<(usize, f32)> {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let exponentials: Vec<f32> = logits.iter().map(|logit| (logit - max).exp()).collect();
    let sum: f32 = exponentials.iter().sum();
    let mut order: Vec<usize> = (0..logits.len()).collect();
    order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]));
    order.truncate(settings.top);
    let mut chosen: Vec<(usize, f32)> = order
        .into_iter()
        .map(|expert| {
            (
                expert,
                mixing.map_or(exponentials[expert] / sum, |mixing| mixing[expert]),
            )
        })
        .collect();
    if settings.normalize {
        let sum: f32 = chosen.iter().map(|(_, weight)| weight).sum();
        if sum != 0.0 {
            chosen.iter_mut().for_each(|(_, weight)| *weight /= sum);
        }
    }
    chosen
}

impl Settings {
    /// The activation of the first layer's result, and of the third's where there is one.
    fn activate(&self, layer: &[f32], gate: Option<&[f32]>, inner: usize) -> Vec<f32> {
        let sigmoid = |x: f32| 1.0 / (1.0 + (-x).exp());
        if self.activation == Activation::SwiGlu {
            let swiglu = |gate: f32, linear: f32| {
                let gate = gate.min(self.limit);
                // Not a clamp, which a negative limit would break.
                let linear = linear.min(self.limit).max(-self.limit);
                gate * sigmoid(self.alpha * gate) * (linear + self.beta)
            };
            return match (self.fusion, gate) {
                (Fusion::Interleaved, _) => {
                    let (pairs, _) = layer.as_chunks::<2>();
                    pairs.iter().map(|&[gate, linear]| swiglu(gate, linear)).collect()
                }
                (Fusion::Halves, _) => layer
                    .chunks_exact((2 * inner).max(1))
                    .flat_map(|row| {
                        row[..inner]
                            .iter()
                            .zip(&row[inner..])
                            .map(|(&gate, &linear)| swiglu(gate, linear))
                    })
                    .collect(),
                (Fusion::None, Some(linear)) => layer
                    .iter()
                    .zip(linear)
                    .map(|(&gate, &linear)| swiglu(gate, linear))
                    .collect(),
                (Fusion::None, None) => layer.to_vec(),
            };
        }
        let apply = |x: f32| match self.activation {
            Activation::Relu => x.max(0.0),
            Activation::Silu => x * sigmoid(x),
            Activation::Gelu => {
                // By the hyperbolic tangent.
                let inner = (2.0 / std::f32::consts::PI).sqrt() * (x + 0.044_715 * x * x * x);
                0.5 * x * (1.0 + inner.tanh())
            }
            Activation::SwiGlu | Activation::Identity => x,
        };
        match gate {
            // The third layer multiplies.
            Some(gate) => layer.iter().zip(gate).map(|(&x, by)| apply(x) * by).collect(),
            None => layer.iter().map(|&x| apply(x)).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::{TestNode, assert_tensor_close, f32s, tensor};
    use crate::{error::ErrorCode, graph::OperatorId};

    fn node(name: &str) -> TestNode {
        TestNode::of(OperatorId::new("com.microsoft", name, 1))
    }

    /// Two experts that multiply by 2 and by 3.
    fn experts(k: i64) -> TestNode {
        node("MoE")
            .attr("k", k)
            .attr("activation_type", "identity")
            .input(f32s(&[2, 1], &[1.0, 10.0]))
            .input(f32s(&[2, 2], &[0.0, 1.0, 5.0, 5.0]))
            .input(f32s(&[2, 1, 1], &[2.0, 3.0]))
            .no_input()
            .input(f32s(&[2, 1, 1], &[1.0, 1.0]))
    }

    #[test]
    fn rows_go_to_the_experts_that_rank_highest() {
        let one = experts(1).attr("normalize_routing_weights", 1i64).run1().unwrap();
        assert_tensor_close(&one, &f32s(&[2, 1], &[3.0, 20.0]), 1e-6);
        let both = experts(2).run1().unwrap();
        let e = std::f32::consts::E;
        let first = (2.0 + 3.0 * e) / (1.0 + e);
        assert_tensor_close(&both, &f32s(&[2, 1], &[first, 25.0]), 1e-6);
    }

    #[test]
    fn limits_hold_the_parts_of_swiglu() {
        let gated = |limit: f32| {
            node("MoE")
                .attr("activation_type", "swiglu")
                .attr("swiglu_fusion", 2i64)
                .attr("swiglu_limit", limit)
                .attr("activation_beta", 1.0f32)
                .input(f32s(&[1, 1], &[10.0]))
                .input(f32s(&[1, 1], &[0.0]))
                .input(f32s(&[1, 2, 1], &[1.0, -1.0]))
                .no_input()
                .input(f32s(&[1, 1, 1], &[1.0]))
                .run1()
                .unwrap()
        };
        let swish = |x: f32| x / (1.0 + (-x).exp());
        assert_tensor_close(&gated(2.0), &f32s(&[1, 1], &[-swish(2.0)]), 1e-6);
        assert_tensor_close(&gated(f32::INFINITY), &f32s(&[1, 1], &[-9.0 * swish(10.0)]), 1e-5);
        // Not meant by anyone, but no panic.
        assert_eq!(gated(-1.0).shape(), [1, 1]);
        assert_eq!(gated(f32::NAN).shape(), [1, 1]);
    }

    #[test]
    fn experts_that_do_not_fit_are_errors() {
        assert_eq!(experts(3).run().unwrap_err().code(), ErrorCode::InvalidGraph);
        let packed = node("QMoE")
            .input(f32s(&[1, 2], &[1.0, 2.0]))
            .input(f32s(&[1, 1], &[0.0]))
            .input(tensor(&[1, 1, 2], &[0u8; 2]))
            .input(f32s(&[1, 1], &[1.0]))
            .no_input()
            .input(tensor(&[1, 2, 1], &[0u8; 2]))
            .input(f32s(&[1, 2], &[1.0; 2]));
        assert_eq!(packed.run().unwrap_err().code(), ErrorCode::ShapeMismatch);
    }
}
