//! Layers with a state that take the place of attention: `LinearAttention` and `CausalConvWithState`, of ONNX (opset 27) and,
//! with more attributes, of `com.microsoft`.

use super::{
    super::{
        CpuLowering, InferContext, Operator,
        lower::{invalid, unsupported},
    },
    tensors::{count_attribute, dims, expect_shape, floats, given, optional_f32s, shape_error, zeros},
};
use crate::{
    cpu::kernel::CpuKernel,
    error::Result,
    graph::Node,
    tensor::{DType, Dim, Tensor, element_count},
};

/// A causal convolution that looks further back than this is refused: its state would take memory that nothing justifies.
const MAX_PAST: usize = 1 << 16;

/// Attribute `state_window`: how many states are kept; 0 for one, without an axis of its own.
fn state_window(node: &Node) -> Result<usize> {
    let window = node.attributes.int("state_window")?.unwrap_or(0);
    usize::try_from(window)
        .ok()
        .filter(|&window| window <= 8)
        .ok_or_else(|| {
            invalid("attribute state_window is out of range")
                .expected("0 to 8")
                .actual(window.to_string())
        })
}

/// `LinearAttention`: queries `[b, t, hq * dk]`, keys `[b, t, hk * dk]` and values `[b, t, hk * dv]` go through a state
/// `[b, hk, dk, dv]` for each head of keys: `S = exp(g) S + β k ⊗ (v - Sᵀ k)` with `gated_delta`, without the decay g (`delta`), the
/// correction (`gated`) or both (`linear`). Outputs: `scale * Sᵀ q`, `[b, t, max(hq, hk) * dv]`, and the last state. Floats.
#[derive(Debug)]
struct LinearAttention(Linear);

#[derive(Clone, Copy, Debug)]
struct Linear {
    q_heads: usize,
    kv_heads: usize,
    scale: f32,
    gated: bool,
    delta: bool,
    window: usize,
}

/// Makes [`LinearAttention`].
pub fn make_linear_attention(node: &Node) -> Result<Box<dyn Operator>> {
    let (q_heads, kv_heads) = (
        count_attribute(node, "q_num_heads")?,
        count_attribute(node, "kv_num_heads")?,
    );
    if q_heads % kv_heads != 0 && kv_heads % q_heads != 0 {
        return Err(
            invalid("of q_num_heads and kv_num_heads neither is a multiple of the other")
                .actual(format!("{q_heads} and {kv_heads}")),
        );
    }
    let (gated, delta) = match node.attributes.string("update_rule")?.unwrap_or("gated_delta") {
        "linear" => (false, false),
        "gated" => (true, false),
        "delta" => (false, true),
        "gated_delta" => (true, true),
        other => return Err(invalid("attribute update_rule has an unknown value").actual(other)),
    };
    Ok(Box::new(LinearAttention(Linear {
        q_heads,
        kv_heads,
        scale: node.attributes.float("scale")?.unwrap_or(0.0),
        gated,
        delta,
        window: state_window(node)?,
    })))
}

impl Operator for LinearAttention {
    fn infer(&self, ctx: &mut InferContext<'_>) -> Result<()> {
        let Linear {
            q_heads,
            kv_heads,
            window,
            ..
        } = self.0;
        let dtype = ctx.dtype(0)?;
        let state = if ctx.has_input(3) { ctx.dtype(3)? } else { dtype };
        let (q_count, kv_count) = (Dim::from(q_heads), Dim::from(kv_heads));
        let (output, present) = match (ctx.shape(0), ctx.shape(2)) {
            (Some([batch, time, q_hidden]), Some([_, _, hidden])) => {
                let (key, value) = (q_hidden.floor_div(&q_count), hidden.floor_div(&kv_count));
                let heads = Dim::from(q_heads.max(kv_heads));
                let output = vec![batch.clone(), time.clone(), heads * value.clone()];
                let mut present = vec![batch.clone(), kv_count, key, value];
                if window > 0 {
                    present.insert(0, Dim::from(window));
                }
                (Some(output), Some(present))
            }
            _ => (None, None),
        };
        ctx.set_output(0, dtype, output);
        ctx.set_output(1, state, present);
        Ok(())
    }

    fn cpu(&self, ctx: &CpuLowering<'_>) -> Result<CpuKernel> {
        let dtype = ctx.input(0)?.dtype;
        if !dtype.is_float() {
            return Err(ctx.unsupported_type(0));
        }
        let state = ctx.optional_input(3).map_or(dtype, |state| state.dtype);
        let settings = self.0;
        Ok(CpuKernel::dynamic("linear_attention", move |inputs| {
            run_linear(settings, state, inputs)
        }))
    }
}

fn run_linear(settings: Linear, state_type: DType, inputs: &[Option<Tensor>]) -> Result<Vec<Tensor>> {
    let Linear {
        q_heads,
        kv_heads,
        window,
        ..
    } = settings;
    let (query, key, value) = (given(inputs, 0)?, given(inputs, 1)?, given(inputs, 2)?);
    let [batch, time, q_hidden] = dims::<3>(0, query)?;
    let [_, _, v_hidden] = dims::<3>(2, value)?;
    if q_hidden % q_heads != 0 || v_hidden % kv_heads != 0 {
        return Err(shape_error(
            0,
            format!("a multiple of {q_heads} in the last axis"),
            query.shape(),
        ));
    }
    let (dk, dv) = (q_hidden / q_heads, v_hidden / kv_heads);
    expect_shape(1, key, &[batch, time, kv_heads * dk])?;
    expect_shape(2, value, &[batch, time, v_hidden])?;
    let mut state_shape = vec![batch, kv_heads, dk, dv];
    if window > 0 {
        state_shape.insert(0, window);
    }
    let state_len = element_count(&[batch, kv_heads, dk, dv])?;
    let mut state = zeros(&[state_len])?;
    if let Some(past) = optional_f32s(inputs, 3)? {
        expect_shape(3, given(inputs, 3)?, &state_shape)?;
        state.copy_from_slice(&past[past.len() - state_len..]);
    }
    let per_head = |index: usize, needed: bool, widths: &[usize]| -> Result<Option<(Vec<f32>, usize)>> {
        if !needed {
            return Ok(None);
        }
        let tensor = given(inputs, index)?;
        let [b, t, width] = dims::<3>(index, tensor)?;
        if (b, t) != (batch, time) || !widths.contains(&width) {
            return Err(shape_error(
                index,
                format!("[{batch}, {time}, one of {widths:?}]"),
                tensor.shape(),
            ));
        }
        Ok(Some((tensor.to_f32s()?.into_owned(), width)))
    };
    let decay = per_head(4, settings.gated, &[kv_heads, kv_heads * dk])?;
    let beta = per_head(5, settings.delta, &[kv_heads, 1])?;
    let scale = if settings.scale == 0.0 {
        1.0 / (dk.max(1) as f32).sqrt()
    } else {
        settings.scale
    };
    let (q, k, v) = (query.to_f32s()?, key.to_f32s()?, value.to_f32s()?);
    let heads = q_heads.max(kv_heads);
    let mut out = zeros(&[batch, time, heads * dv])?;
    let mut present = zeros(&state_shape)?;
    let mut change = vec![0.0f32; dv];
    let matrix = dk * dv;
    for step in 0..time {
        for sequence in 0..batch {
            let row = sequence * time + step;
            for head in 0..kv_heads {
                let state = &mut state[(sequence * kv_heads + head) * matrix..][..matrix];
                let (k, v) = (
                    &k[(row * kv_heads + head) * dk..][..dk],
                    &v[(row * kv_heads + head) * dv..][..dv],
                );
                if let Some((decay, width)) = &decay {
                    let per_element = *width != kv_heads || dk == 1;
                    for (index, state) in state.chunks_exact_mut(dv.max(1)).enumerate() {
                        let place = if per_element { head * dk + index } else { head };
                        let factor = decay[row * width + place].exp();
                        state.iter_mut().for_each(|value| *value *= factor);
                    }
                }
                change.copy_from_slice(v);
                if let Some((beta, width)) = &beta {
                    for (&k, state) in k.iter().zip(state.chunks_exact(dv.max(1))) {
                        change
                            .iter_mut()
                            .zip(state)
                            .for_each(|(change, state)| *change -= k * state);
                    }
                    let beta = beta[row * width + if *width == 1 { 0 } else { head }];
                    change.iter_mut().for_each(|change| *change *= beta);
                }
                for (&k, state) in k.iter().zip(state.chunks_exact_mut(dv.max(1))) {
                    state
                        .iter_mut()
                        .zip(&change)
                        .for_each(|(state, change)| *state += k * change);
                }
                // The heads of the output that read this state, and the queries that they read it with.
                let readers = heads / kv_heads;
                for reader in head * readers..(head + 1) * readers {
                    let query = reader / (heads / q_heads);
                    let q = &q[(row * q_heads + query) * dk..][..dk];
                    let out = &mut out[(row * heads + reader) * dv..][..dv];
                    for (&q, state) in q.iter().zip(state.chunks_exact(dv.max(1))) {
                        out.iter_mut()
                            .zip(state)
                            .for_each(|(out, state)| *out += scale * q * state);
                    }
                }
            }
        }
        // The states after the last tokens, the newest at the end.
        if let Some(slot) = (step + window).checked_sub(time)
            && window > 0
        {
            present[slot * state_len..(slot + 1) * state_len].copy_from_slice(&state);
        }
    }
    if window == 0 {
        present = state;
    } else if time == 0 {
        present[(window - 1) * state_len..].copy_from_slice(&state);
    }
    Ok(vec![
        floats(query.dtype(), &[batch, time, heads * dv], out)?,
        floats(state_type, &state_shape, present)?,
    ])
}

/// `CausalConvWithState`: each channel of X `[b, c, t]` (`[b, t, ..]` with `channels_last`) convolved with its own kernel `[c, 1, k]` over
/// the present and past elements; those before X come from a state `[b, c, (k - 1) * dilation]`. Outputs: the result and the new
/// state. Floats, one spatial axis.
#[derive(Debug)]
struct CausalConv(Causal);

#[derive(Clone, Copy, Debug)]
struct Causal {
    silu: bool,
    dilation: usize,
    channels_last: bool,
    window: usize,
}

/// Makes [`CausalConv`].
pub fn make_causal_conv(node: &Node) -> Result<Box<dyn Operator>> {
    let attributes = &node.attributes;
    let silu = match attributes.string("activation")?.unwrap_or("none") {
        "none" => false,
        "silu" | "swish" => true,
        other => return Err(invalid("attribute activation has an unknown value").actual(other)),
    };
    let axes = attributes.int("ndim")?.unwrap_or(1);
    if axes != 1 {
        return Err(
            unsupported("a causal convolution over this number of axes is not supported")
                .expected("1")
                .actual(axes.to_string()),
        );
    }
    let dilation = match attributes.int("dilation")? {
        Some(_) => count_attribute(node, "dilation")?,
        None => 1,
    };
    Ok(Box::new(CausalConv(Causal {
        silu,
        dilation,
        channels_last: attributes.flag("channels_last", false)?,
        window: state_window(node)?,
    })))
}

impl Operator for CausalConv {
    fn infer(&self, ctx: &mut InferContext<'_>) -> Result<()> {
        ctx.copy_type(0, 0)?;
        let dtype = ctx.dtype(0)?;
        let present = match (ctx.shape(0), ctx.shape(1)) {
            (Some(x), Some([_, _, kernel])) if x.len() >= 3 => {
                let length = (kernel.clone() - Dim::from(1)) * Dim::from(self.0.dilation);
                let mut shape = x.to_vec();
                shape[if self.0.channels_last { 1 } else { 2 }] = length;
                if self.0.window > 0 {
                    shape.insert(0, Dim::from(self.0.window));
                }
                Some(shape)
            }
            _ => None,
        };
        ctx.set_output(1, dtype, present);
        Ok(())
    }

    fn cpu(&self, ctx: &CpuLowering<'_>) -> Result<CpuKernel> {
        if !ctx.input(0)?.dtype.is_float() {
            return Err(ctx.unsupported_type(0));
        }
        let settings = self.0;
        Ok(CpuKernel::dynamic("causal_conv", move |inputs| {
            run_causal(settings, inputs)
        }))
    }
}

fn run_causal(settings: Causal, inputs: &[Option<Tensor>]) -> Result<Vec<Tensor>> {
    let Causal {
        dilation,
        channels_last,
        window,
        ..
    } = settings;
    let (x, weights) = (given(inputs, 0)?, given(inputs, 1)?);
    let [channels, one, kernel] = dims::<3>(1, weights)?;
    let (batch, time) = match *x.shape() {
        [batch, found, time] if !channels_last && found == channels => (batch, time),
        [batch, time, ref rest @ ..] if channels_last && element_count(rest)? == channels => (batch, time),
        ref shape => return Err(shape_error(0, format!("{channels} channels"), shape)),
    };
    if one != 1 || kernel == 0 {
        return Err(shape_error(1, "[channels, 1, kernel]", weights.shape()));
    }
    let past = (kernel - 1)
        .checked_mul(dilation)
        .filter(|&past| past <= MAX_PAST)
        .ok_or_else(|| invalid("attribute dilation is out of range"))?;
    let mut state_shape = x.shape().to_vec();
    state_shape[if channels_last { 1 } else { 2 }] = past;
    let slot = element_count(&state_shape)?;
    if window > 0 {
        state_shape.insert(0, window);
    }
    let state = optional_f32s(inputs, 3)?;
    if state.is_some() {
        expect_shape(3, given(inputs, 3)?, &state_shape)?;
    }
    let state = state.as_deref().map(|state| &state[state.len() - slot..]);
    let bias = optional_f32s(inputs, 2)?;
    if bias.is_some() {
        expect_shape(2, given(inputs, 2)?, &[channels])?;
    }
    let (values, weights) = (x.to_f32s()?, weights.to_f32s()?);
    // Where an element stands in a tensor of `length` steps.
    let at = |sequence: usize, channel: usize, step: usize, length: usize| match channels_last {
        true => (sequence * length + step) * channels + channel,
        false => (sequence * channels + channel) * length + step,
    };
    let mut out = zeros(x.shape())?;
    let mut present = zeros(&state_shape)?;
    let mut line = zeros(&[past + time])?;
    for sequence in 0..batch {
        for channel in 0..channels {
            for (step, to) in line.iter_mut().enumerate() {
                *to = match (step.checked_sub(past), state) {
                    (Some(step), _) => values[at(sequence, channel, step, time)],
                    (None, Some(state)) => state[at(sequence, channel, step, past)],
                    (None, None) => 0.0,
                };
            }
            let taps = &weights[channel * kernel..(channel + 1) * kernel];
            for step in 0..time {
                let start = bias.as_ref().map_or(0.0, |bias| bias[channel]);
                let sum = taps
                    .iter()
                    .enumerate()
                    .fold(start, |sum, (tap, weight)| sum + weight * line[step + tap * dilation]);
                out[at(sequence, channel, step, time)] = if settings.silu { sum / (1.0 + (-sum).exp()) } else { sum };
            }
            for number in 0..window.max(1) {
                // The state after this many steps.
                let Some(steps) = (time + number + 1).checked_sub(window.max(1)) else {
                    continue;
                };
                if steps == 0 && window > 0 && time > 0 {
                    continue;
                }
                for index in 0..past {
                    present[number * slot + at(sequence, channel, index, past)] = line[steps + index];
                }
            }
        }
    }
    Ok(vec![
        floats(x.dtype(), x.shape(), out)?,
        floats(x.dtype(), &state_shape, present)?,
    ])
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::{TestNode, f32s};
    use crate::{error::ErrorCode, graph::OperatorId};

    fn node(name: &str) -> TestNode {
        TestNode::of(OperatorId::new("com.microsoft", name, 1))
    }

    #[test]
    fn a_window_of_states_holds_the_last_ones_and_zeros_before_the_first() {
        let linear = |window: i64, past: &[f32]| {
            let node = node("LinearAttention")
                .attr("q_num_heads", 1i64)
                .attr("kv_num_heads", 1i64)
                .attr("update_rule", "linear")
                .attr("state_window", window)
                .input(f32s(&[1, 2, 1], &[1.0, 1.0]))
                .input(f32s(&[1, 2, 1], &[1.0, 2.0]))
                .input(f32s(&[1, 2, 1], &[3.0, 5.0]));
            let node = node.input(f32s(&[past.len(), 1, 1, 1, 1], past));
            node.outputs(2).run().unwrap()
        };
        // From 10 to 13 to 23.
        let results = linear(3, &[7.0, 8.0, 10.0]);
        assert_eq!(results[0], f32s(&[1, 2, 1], &[13.0, 23.0]));
        assert_eq!(results[1], f32s(&[3, 1, 1, 1, 1], &[0.0, 13.0, 23.0]));
        assert_eq!(linear(1, &[10.0])[1], f32s(&[1, 1, 1, 1, 1], &[23.0]));
    }

    #[test]
    fn a_convolution_goes_on_where_its_state_ends() {
        let conv = |x: &[f32], state: Option<&[f32]>| {
            let node = node("CausalConvWithState")
                .input(f32s(&[1, 1, x.len()], x))
                .input(f32s(&[1, 1, 3], &[1.0, 10.0, 100.0]));
            let node = match state {
                Some(state) => node.no_input().input(f32s(&[1, 1, 2], state)),
                None => node,
            };
            node.outputs(2).run().unwrap()
        };
        let whole = conv(&[1.0, 2.0, 3.0], None);
        assert_eq!(whole[0], f32s(&[1, 1, 3], &[100.0, 210.0, 321.0]));
        let first = conv(&[1.0, 2.0], None);
        assert_eq!(first[1], f32s(&[1, 1, 2], &[1.0, 2.0]));
        let second = conv(&[3.0], Some(&[1.0, 2.0]));
        assert_eq!((&second[0], &second[1]), (&f32s(&[1, 1, 1], &[321.0]), &whole[1]));
        let windowed = node("CausalConvWithState")
            .attr("state_window", 2i64)
            .input(f32s(&[1, 1, 1], &[4.0]))
            .input(f32s(&[1, 1, 2], &[1.0, 1.0]))
            .outputs(2)
            .run()
            .unwrap();
        assert_eq!(windowed[1], f32s(&[2, 1, 1, 1], &[0.0, 4.0]));
    }

    #[test]
    fn heads_and_rules_that_do_not_fit_are_errors() {
        let node = |heads: i64, rule: &str| {
            let x = || f32s(&[1, 1, 6], &[0.0; 6]);
            node("LinearAttention")
                .attr("q_num_heads", heads)
                .attr("kv_num_heads", 2i64)
                .attr("update_rule", rule)
                .input(x())
                .input(x())
                .input(x())
                .outputs(2)
        };
        let code = |node: TestNode| node.run().unwrap_err().code();
        assert_eq!(code(node(3, "linear")), ErrorCode::InvalidGraph);
        assert_eq!(code(node(2, "cubic")), ErrorCode::InvalidGraph);
        assert_eq!(code(node(2, "gated")), ErrorCode::InvalidGraph);
    }
}
