//! Steps of training: Adagrad, Adam and Momentum of the `ai.onnx.preview.training` domain. Each takes the learning rate, the
//! number of steps done, and then groups of as many tensors as are trained: the tensors, their gradients, and what the
//! step keeps of earlier gradients. It makes the new tensors and what is kept of them. Everything is computed in f64.

use super::{
    super::{
        CpuLowering, InferContext, Operator,
        lower::{invalid, mismatch},
    },
    float_type,
};
use crate::{
    cpu::kernel::CpuKernel,
    error::Result,
    graph::Node,
    tensor::{Dim, Tensor, display_shape},
};

/// A rule, with its attributes.
#[derive(Clone, Copy, Debug)]
enum Rule {
    Adagrad {
        decay: f64,
        epsilon: f64,
    },
    Adam {
        alpha: f64,
        beta: f64,
        epsilon: f64,
        shrink: f64,
    },
    Momentum {
        alpha: f64,
        beta: f64,
        nesterov: bool,
    },
}

/// A step of training.
#[derive(Clone, Debug)]
struct Step {
    rule: Rule,
    /// The coefficient of the regularisation that is added to gradients.
    norm: f64,
}

/// Makes [`Step`].
pub fn make(node: &Node) -> Result<Box<dyn Operator>> {
    let attributes = &node.attributes;
    let float = |name: &str, default: f32| Ok::<_, crate::Error>(f64::from(attributes.float(name)?.unwrap_or(default)));
    let required = |name: &str| -> Result<f64> {
        let value = attributes.float(name)?;
        Ok(value
            .ok_or_else(|| invalid(format!("attribute {name} is missing")))?
            .into())
    };
    let rule = match &*node.operator.name {
        "Adagrad" => Rule::Adagrad {
            decay: float("decay_factor", 0.0)?,
            epsilon: float("epsilon", 1e-6)?,
        },
        "Adam" => Rule::Adam {
            alpha: float("alpha", 0.9)?,
            beta: float("beta", 0.999)?,
            epsilon: float("epsilon", 1e-6)?,
            shrink: float("norm_coefficient_post", 0.0)?,
        },
        _ => Rule::Momentum {
            alpha: required("alpha")?,
            beta: required("beta")?,
            nesterov: match attributes.string("mode")? {
                Some("nesterov") => true,
                Some("standard") => false,
                other => {
                    return Err(invalid("attribute mode is neither \"nesterov\" nor \"standard\"")
                        .actual(other.unwrap_or("nothing")));
                }
            },
        },
    };
    let step = Step {
        rule,
        norm: float("norm_coefficient", 0.0)?,
    };
    let (inputs, groups) = (node.operator_inputs().len(), 2 + step.kept());
    if inputs < 2 || !(inputs - 2).is_multiple_of(groups) {
        return Err(invalid("the inputs do not divide into groups of one length")
            .expected(format!("2 and a multiple of {groups}"))
            .actual(inputs.to_string()));
    }
    Ok(Box::new(step))
}

impl Step {
    /// How many tensors are kept for each that is trained.
    fn kept(&self) -> usize {
        match self.rule {
            Rule::Adam { .. } => 2,
            _ => 1,
        }
    }

    /// Steps one element: its value, its gradient and what is kept become what they are after the step.
    fn element(&self, rate: f64, step: f64, x: f64, gradient: f64, kept: [f64; 2]) -> (f64, [f64; 2]) {
        let gradient = self.norm * x + gradient;
        match self.rule {
            Rule::Adagrad { decay, epsilon } => {
                let squares = kept[0] + gradient * gradient;
                let rate = rate / (1.0 + step * decay);
                (x - rate * gradient / (squares.sqrt() + epsilon), [squares, 0.0])
            }
            Rule::Adam {
                alpha,
                beta,
                epsilon,
                shrink,
            } => {
                let average = alpha * kept[0] + (1.0 - alpha) * gradient;
                let squares = beta * kept[1] + (1.0 - beta) * gradient * gradient;
                let rate = match step > 0.0 {
                    true => rate * (1.0 - beta.powf(step)).sqrt() / (1.0 - alpha.powf(step)),
                    false => rate,
                };
                let x = x - rate * average / (squares.sqrt() + epsilon);
                ((1.0 - shrink) * x, [average, squares])
            }
            Rule::Momentum { alpha, beta, nesterov } => {
                let momentum = alpha * kept[0] + if step > 0.0 { beta } else { 1.0 } * gradient;
                let direction = if nesterov {
                    gradient + alpha * momentum
                } else {
                    momentum
                };
                (x - rate * direction, [momentum, 0.0])
            }
        }
    }

    fn run(&self, inputs: &[Option<Tensor>]) -> Result<Vec<Tensor>> {
        let input = |index: usize| {
            let input = inputs.get(index).and_then(Option::as_ref);
            input.ok_or_else(|| invalid(format!("required input {index} is missing")))
        };
        let scalar = |index: usize| -> Result<f64> {
            let value = input(index)?.to_f64s()?.first().copied();
            value.ok_or_else(|| invalid(format!("input {index} has no element")))
        };
        let (rate, step, kept) = (scalar(0)?, scalar(1)?, self.kept());
        let count = (inputs.len() - 2) / (2 + kept);
        let mut groups: Vec<Vec<Tensor>> = vec![Vec::new(); 1 + kept];
        for index in 0..count {
            let x = input(2 + index)?;
            let mut values = Vec::with_capacity(2 + kept);
            for group in 0..2 + kept {
                let tensor = input(2 + group * count + index)?;
                if tensor.shape() != x.shape() {
                    return Err(
                        mismatch("a gradient or what is kept of it has another shape than its tensor")
                            .expected(display_shape(x.shape()))
                            .actual(display_shape(tensor.shape())),
                    );
                }
                values.push(tensor.to_f64s()?);
            }
            for at in 0..x.len() {
                let before = [values[2][at], if kept == 2 { values[3][at] } else { 0.0 }];
                let (new, after) = self.element(rate, step, values[0][at], values[1][at], before);
                values[0][at] = new;
                (0..kept).for_each(|index| values[2 + index][at] = after[index]);
            }
            values.remove(1);
            for (group, values) in groups.iter_mut().zip(&values) {
                group.push(Tensor::from_f64s(x.dtype(), x.shape(), values)?);
            }
        }
        Ok(groups.concat())
    }
}

impl Operator for Step {
    fn infer(&self, ctx: &mut InferContext<'_>) -> Result<()> {
        let count = (ctx.input_count() - 2) / (2 + self.kept());
        for output in 0..count * (1 + self.kept()) {
            let dtype = float_type(ctx, 2 + output % count)?;
            let shape = ctx.shape(2 + output % count).map(<[Dim]>::to_vec);
            ctx.set_output(output, dtype, shape);
        }
        Ok(())
    }

    fn cpu(&self, _: &CpuLowering<'_>) -> Result<CpuKernel> {
        let step = self.clone();
        Ok(CpuKernel::dynamic("training_step", move |inputs| step.run(inputs)))
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::{TestNode, assert_tensor_close, f32s, i64s};
    use crate::graph::OperatorId;

    #[test]
    fn two_tensors_are_stepped_at_once() {
        let node = |t: i64| {
            let node = TestNode::of(OperatorId::new("ai.onnx.preview.training", "Momentum", 1));
            let node = node
                .attr("alpha", 0.5f32)
                .attr("beta", 0.25f32)
                .attr("mode", "standard")
                .attr("norm_coefficient", 1.0f32);
            let node = node.input(f32s(&[], &[0.5])).input(i64s(&[], &[t]));
            let node = node.input(f32s(&[1], &[1.0])).input(f32s(&[2], &[2.0, 4.0]));
            let node = node.input(f32s(&[1], &[3.0])).input(f32s(&[2], &[0.0, 4.0]));
            node.input(f32s(&[1], &[8.0]))
                .input(f32s(&[2], &[0.0, -2.0]))
                .outputs(4)
        };
        let first = node(0).run().unwrap();
        assert_tensor_close(&first[0], &f32s(&[1], &[-3.0]), 1e-6);
        assert_tensor_close(&first[1], &f32s(&[2], &[1.0, 0.5]), 1e-6);
        assert_tensor_close(&first[2], &f32s(&[1], &[8.0]), 1e-6);
        let later = node(1).attr("mode", "nesterov").run().unwrap();
        assert_tensor_close(&later[2], &f32s(&[1], &[5.0]), 1e-6);
        assert_tensor_close(&later[0], &f32s(&[1], &[1.0 - 0.5 * (4.0 + 2.5)]), 1e-6);
        assert!(node(0).attr("mode", "other").run().is_err());
        assert!(node(0).input(f32s(&[1], &[0.0])).run().is_err());
    }
}
