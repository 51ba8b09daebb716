//! Operators that carry a state from step to step: LinearAttention and CausalConvWithState.

use super::{Call, Whole, singles, whole, zeros};
use crate::{
    error::Result,
    graph::Node,
    ops::{
        InferContext, Operator,
        context::rank_error,
        lower::{invalid, mismatch},
    },
    tensor::{Dim, Tensor, display_shape},
};

/// ONNX `LinearAttention` (opset 27): for each head a matrix `[dk, dv]` to which every step adds the product of its key
/// and value, and which its query reads. Queries `[B, T, Hq * dk]`, keys `[B, T, Hkv * dk]`, values `[B, T, Hkv * dv]`;
/// Hkv divides Hq. Computed in f32.
#[derive(Debug)]
struct LinearAttention {
    heads: usize,
    kv_heads: usize,
    scale: f32,
    /// Whether the state decays before a step.
    gated: bool,
    /// Whether a step adds only what its key does not recall already.
    delta: bool,
}

/// Makes [`LinearAttention`].
pub fn make_linear_attention(node: &Node) -> Result<Box<dyn Operator>> {
    let attributes = &node.attributes;
    let count = |name: &str| -> Result<usize> {
        let value = attributes.int(name)?.unwrap_or(0);
        match usize::try_from(value)
            .ok()
            .filter(|&value| (1..=1 << 20).contains(&value))
        {
            Some(count) => Ok(count),
            None => Err(invalid(format!("attribute {name} is not a number of heads")).actual(value.to_string())),
        }
    };
    let (heads, kv_heads) = (count("q_num_heads")?, count("kv_num_heads")?);
    if heads % kv_heads != 0 {
        return Err(invalid("attribute kv_num_heads does not divide q_num_heads"));
    }
    let (gated, delta) = match attributes.string("update_rule")?.unwrap_or("gated_delta") {
        "linear" => (false, false),
        "gated" => (true, false),
        "delta" => (false, true),
        "gated_delta" => (true, true),
        other => return Err(invalid("attribute update_rule is none of ONNX's").actual(other)),
    };
    whole(LinearAttention {
        heads,
        kv_heads,
        scale: attributes.float("scale")?.unwrap_or(0.0),
        gated,
        delta,
    })
}

impl Whole for LinearAttention {
    fn kernel_name(&self) -> &'static str {
        "linear_attention"
    }

    fn infer(&self, ctx: &mut InferContext<'_>) -> Result<()> {
        let dtype = ctx.dtype(0)?;
        let state_dtype = if ctx.has_input(3) { ctx.dtype(3)? } else { dtype };
        for index in 0..3 {
            if let Some(rank) = ctx.rank(index).filter(|&rank| rank != 3) {
                return Err(rank_error(index, 3, rank));
            }
        }
        let (heads, kv_heads) = (Dim::from(self.heads), Dim::from(self.kv_heads));
        let (output, state) = match (ctx.shape(0), ctx.shape(2)) {
            (Some([batch, steps, width]), Some([_, _, value_width])) => {
                let value_size = value_width.floor_div(&kv_heads);
                (
                    Some(vec![batch.clone(), steps.clone(), heads.clone() * value_size.clone()]),
                    Some(vec![batch.clone(), kv_heads, width.floor_div(&heads), value_size]),
                )
            }
            _ => (None, None),
        };
        ctx.set_output(0, dtype, output);
        ctx.set_output(1, state_dtype, state);
        Ok(())
    }

    fn run(&self, call: &Call<'_>) -> Result<Vec<Tensor>> {
        let (q, k, v) = (call.input(0)?, call.input(1)?, call.input(2)?);
        let (heads, kv_heads) = (self.heads, self.kv_heads);
        let (&[batch, steps, width], &[_, _, key_width], &[_, _, value_width]) = (q.shape(), k.shape(), v.shape())
        else {
            return Err(mismatch("queries, keys and values are not of three dimensions"));
        };
        let (key_size, value_size) = (width / heads, value_width / kv_heads);
        let expect = |tensor: &Tensor, what: &str, shape: &[usize]| match tensor.shape() == shape {
            true => Ok(()),
            false => Err(mismatch(format!("the {what} do not fit the queries and heads"))
                .expected(display_shape(shape))
                .actual(display_shape(tensor.shape()))),
        };
        expect(q, "queries", &[batch, steps, heads * key_size])?;
        expect(k, "keys", &[batch, steps, kv_heads * key_size])?;
        expect(v, "values", &[batch, steps, kv_heads * value_size])?;
        debug_assert_eq!(key_width, kv_heads * key_size);
        let state_shape = [batch, kv_heads, key_size, value_size];
        let mut state: Vec<f32> = zeros(&state_shape)?;
        if let Some(past) = call.optional(3) {
            expect(past, "past states", &state_shape)?;
            state.copy_from_slice(&past.to_f32s()?);
        }
        let gate = |index: usize, used: bool, what: &str| match (call.optional(index), used) {
            (Some(gate), true) => Ok(Some(gate)),
            (None, false) => Ok(None),
            (None, true) => Err(invalid(format!("this update rule wants input {index} ({what})"))),
            (Some(_), false) => Err(invalid(format!("this update rule has no input {index} ({what})"))),
        };
        // Gates are for each head or finer (decay for each element of a key) or coarser (one rate for all heads).
        let decay = gate(4, self.gated, "decay")?;
        let decay_size = match decay {
            Some(decay) if decay.shape() == [batch, steps, kv_heads] => 1,
            Some(decay) => {
                expect(decay, "decays", &[batch, steps, kv_heads * key_size])?;
                key_size
            }
            None => 0,
        };
        let rate = gate(5, self.delta, "beta")?;
        let rate_heads = match rate {
            Some(rate) if rate.shape() == [batch, steps, 1] => 1,
            Some(rate) => {
                expect(rate, "rates", &[batch, steps, kv_heads])?;
                kv_heads
            }
            None => 0,
        };
        let floats = |tensor: Option<&Tensor>| -> Result<Vec<f32>> {
            tensor.map_or(Ok(Vec::new()), |tensor| Ok(tensor.to_f32s()?.into_owned()))
        };
        let (decay, rate) = (floats(decay)?, floats(rate)?);
        let (q_data, k_data, v_data) = (q.to_f32s()?, k.to_f32s()?, v.to_f32s()?);
        let scale = match self.scale {
            0.0 => 1.0 / (key_size as f32).sqrt(),
            scale => scale,
        };
        let shape = [batch, steps, heads * value_size];
        let mut result: Vec<f32> = zeros(&shape)?;
        let mut added = vec![0f32; value_size];
        let group = heads / kv_heads;
        for number in 0..batch * kv_heads {
            let (item, head) = (number / kv_heads, number % kv_heads);
            let state = &mut state[number * key_size * value_size..][..key_size * value_size];
            for step in item * steps..(item + 1) * steps {
                let place = step * kv_heads + head;
                let key = &k_data[place * key_size..][..key_size];
                added.copy_from_slice(&v_data[place * value_size..][..value_size]);
                if self.gated {
                    for (index, row) in state.chunks_exact_mut(value_size.max(1)).enumerate() {
                        let factor = decay[place * decay_size + index % decay_size.max(1)].exp();
                        row.iter_mut().for_each(|value| *value *= factor);
                    }
                }
                if self.delta {
                    for (row, &key) in state.chunks_exact(value_size.max(1)).zip(key) {
                        added.iter_mut().zip(row).for_each(|(to, &value)| *to -= value * key);
                    }
                    let rate = rate[step * rate_heads + head % rate_heads.max(1)];
                    added.iter_mut().for_each(|value| *value *= rate);
                }
                for (row, &key) in state.chunks_exact_mut(value_size.max(1)).zip(key) {
                    row.iter_mut().zip(&added).for_each(|(to, &value)| *to += key * value);
                }
                for reader in head * group..(head + 1) * group {
                    let query = &q_data[(step * heads + reader) * key_size..][..key_size];
                    let target = &mut result[(step * heads + reader) * value_size..][..value_size];
                    for (row, &query) in state.chunks_exact(value_size.max(1)).zip(query) {
                        let factor = query * scale;
                        target
                            .iter_mut()
                            .zip(row)
                            .for_each(|(to, &value)| *to += factor * value);
                    }
                }
            }
        }
        let state_dtype = call.optional(3).map_or(q.dtype(), Tensor::dtype);
        Ok(vec![
            singles(q.dtype(), &shape, result)?,
            singles(state_dtype, &state_shape, state)?,
        ])
    }
}

/// ONNX `CausalConvWithState` (opset 27): each channel of `[B, C, T]` convolved with its own kernel `[C, 1, K]` over the
/// current and the `K - 1` steps before, which come from a state `[B, C, K - 1]`; then, if so named, SiLU. Computed in
/// f32.
#[derive(Debug)]
struct CausalConv {
    silu: bool,
}

/// Makes [`CausalConv`].
pub fn make_causal_conv(node: &Node) -> Result<Box<dyn Operator>> {
    let silu = match node.attributes.string("activation")?.unwrap_or("none") {
        "none" => false,
        "silu" | "swish" => true,
        other => return Err(invalid("attribute activation is neither none, silu nor swish").actual(other)),
    };
    whole(CausalConv { silu })
}

impl Whole for CausalConv {
    fn kernel_name(&self) -> &'static str {
        "causal_conv"
    }

    fn infer(&self, ctx: &mut InferContext<'_>) -> Result<()> {
        for index in [0, 1, 3] {
            if let Some(rank) = ctx.rank(index).filter(|&rank| rank != 3) {
                return Err(rank_error(index, 3, rank));
            }
        }
        ctx.copy_type(0, 0)?;
        let state = match (ctx.shape(0), ctx.shape(1)) {
            (Some([batch, channels, _]), Some([_, _, kernel])) => {
                Some(vec![batch.clone(), channels.clone(), kernel.clone() - Dim::from(1)])
            }
            _ => None,
        };
        let dtype = ctx.dtype(0)?;
        ctx.set_output(1, dtype, state);
        Ok(())
    }

    fn run(&self, call: &Call<'_>) -> Result<Vec<Tensor>> {
        let (tensor, weights) = (call.input(0)?, call.input(1)?);
        let (&[batch, channels, steps], &[_, _, kernel]) = (tensor.shape(), weights.shape()) else {
            return Err(mismatch("the input or the weights are not of three dimensions"));
        };
        let before = kernel.checked_sub(1).ok_or_else(|| mismatch("the kernel is empty"))?;
        let state_shape = [batch, channels, before];
        let bias = call.optional(2);
        for (what, tensor, shape) in [
            ("weights", Some(weights), &[channels, 1, kernel][..]),
            ("bias", bias, &[channels][..]),
            ("past state", call.optional(3), &state_shape[..]),
        ] {
            if let Some(tensor) = tensor.filter(|tensor| tensor.shape() != shape) {
                return Err(mismatch(format!("the {what} do not fit the input"))
                    .expected(display_shape(shape))
                    .actual(display_shape(tensor.shape())));
            }
        }
        let bias = bias.map(Tensor::to_f32s).transpose()?;
        let past = call.optional(3).map(Tensor::to_f32s).transpose()?;
        let (data, weights) = (tensor.to_f32s()?, weights.to_f32s()?);
        let mut result: Vec<f32> = zeros(tensor.shape())?;
        let mut state: Vec<f32> = zeros(&state_shape)?;
        let mut line: Vec<f32> = zeros(&[steps + before])?;
        for row in 0..batch * channels {
            let channel = row % channels;
            let (old, new) = line.split_at_mut(before);
            match &past {
                Some(past) => old.copy_from_slice(&past[row * before..][..before]),
                None => old.fill(0.0),
            }
            new.copy_from_slice(&data[row * steps..][..steps]);
            let weights = &weights[channel * kernel..][..kernel];
            let start = bias.as_ref().map_or(0.0, |bias| bias[channel]);
            for (window, to) in line.windows(kernel).zip(&mut result[row * steps..][..steps]) {
                let sum = window.iter().zip(weights).fold(start, |sum, (x, w)| sum + x * w);
                *to = if self.silu { sum / (1.0 + (-sum).exp()) } else { sum };
            }
            state[row * before..][..before].copy_from_slice(&line[steps..]);
        }
        Ok(vec![
            singles(tensor.dtype(), tensor.shape(), result)?,
            singles(tensor.dtype(), &state_shape, state)?,
        ])
    }
}

#[cfg(test)]
mod tests {
    use crate::{
        ops::testing::{TestNode, assert_tensor_close, f32s},
        tensor::{DType, Tensor},
    };

    fn linear(rule: &str, gates: usize) -> TestNode {
        let node = TestNode::new("LinearAttention", 27)
            .attr("update_rule", rule)
            .attr("q_num_heads", 2)
            .attr("kv_num_heads", 1)
            .attr("scale", 1.0)
            .input(f32s(&[1, 2, 2], &[1.0, 2.0, 1.0, 2.0]))
            .input(f32s(&[1, 2, 1], &[1.0, 2.0]))
            .input(f32s(&[1, 2, 1], &[3.0, 4.0]))
            .no_input();
        let node = match gates & 1 {
            0 => node.no_input(),
            _ => node.input(f32s(&[1, 2, 1], &[0.0, 2f32.ln()])),
        };
        let node = match gates & 2 {
            0 => node,
            _ => node.input(f32s(&[1, 2, 1], &[1.0, 0.5])),
        };
        node.outputs(2)
    }

    #[test]
    fn states_add_up_decay_and_are_corrected() {
        // States after each step: 3, then by rule.
        for (rule, gates, last) in [
            ("linear", 0, 11.0),
            ("gated", 1, 14.0),
            ("delta", 2, 1.0),
            ("gated_delta", 3, -2.0),
        ] {
            let outputs = linear(rule, gates).run().unwrap();
            assert_tensor_close(&outputs[0], &f32s(&[1, 2, 2], &[3.0, 6.0, last, 2.0 * last]), 1e-5);
            assert_tensor_close(&outputs[1], &f32s(&[1, 1, 1, 1], &[last]), 1e-5);
        }
        assert!(linear("gated", 0).run().is_err());
        assert!(linear("linear", 2).run().is_err());
    }

    #[test]
    fn convolutions_look_back_into_their_state() {
        let node = |past: Option<Tensor>| {
            let node = TestNode::new("CausalConvWithState", 27)
                .input(f32s(&[1, 1, 2], &[1.0, 2.0]))
                .input(f32s(&[1, 1, 4], &[1.0, 10.0, 100.0, 1000.0]))
                .input(f32s(&[1], &[0.5]));
            match past {
                Some(past) => node.input(past),
                None => node,
            }
        };
        let fresh = node(None).outputs(2).run().unwrap();
        assert_eq!(
            fresh,
            [f32s(&[1, 1, 2], &[1000.5, 2100.5]), f32s(&[1, 1, 3], &[0.0, 1.0, 2.0])]
        );
        let further = node(Some(f32s(&[1, 1, 3], &[7.0, 8.0, 9.0]))).outputs(2).run().unwrap();
        assert_eq!(
            further,
            [f32s(&[1, 1, 2], &[1987.5, 2198.5]), f32s(&[1, 1, 3], &[9.0, 1.0, 2.0])]
        );
        assert!(node(Some(f32s(&[1, 1, 2], &[0.0; 2]))).run().is_err());
        let silu = TestNode::new("CausalConvWithState", 27)
            .attr("activation", "silu")
            .input(Tensor::zeros(DType::F16, &[1, 3, 0]).unwrap())
            .input(Tensor::zeros(DType::F16, &[3, 1, 1]).unwrap());
        assert_eq!(silu.outputs(2).run().unwrap()[1].shape(), [1, 3, 0]);
    }
}
