//! Operators about shapes alone: reading them (Shape, Size) and giving elements another one (Reshape, Squeeze,
//! Unsqueeze, Flatten, Identity). The latter are views: no element moves.

use super::{
    CpuLowering, InferContext, Operator,
    context::MAX_TRACKED_ELEMENTS,
    lower::{invalid, mismatch},
};
use crate::{
    cpu::kernel::CpuKernel,
    error::{Error, Result},
    graph::Node,
    tensor::{DType, Dim, Value, display_shape, element_count, resolve_axes, resolve_axis},
};

/// ONNX `Shape`: the input's dimensions from `start` to `end` (opset 15) as i64.
#[derive(Debug)]
struct Shape {
    start: i64,
    end: Option<i64>,
}

/// Makes [`Shape`].
pub fn make_shape(node: &Node) -> Result<Box<dyn Operator>> {
    Ok(Box::new(Shape {
        start: node.attributes.int("start")?.unwrap_or(0),
        end: node.attributes.int("end")?,
    }))
}

impl Shape {
    fn slice<'a, D>(&self, shape: &'a [D]) -> &'a [D] {
        let rank = shape.len() as i64;
        let clamp = |axis: i64| (if axis < 0 { axis.saturating_add(rank) } else { axis }).clamp(0, rank) as usize;
        let (start, end) = (clamp(self.start), clamp(self.end.unwrap_or(rank)));
        &shape[start..end.max(start)]
    }
}

impl Operator for Shape {
    fn infer(&self, ctx: &mut InferContext<'_>) -> Result<()> {
        match ctx.shape(0) {
            Some(shape) => {
                let dims = self.slice(shape).to_vec();
                ctx.set_output(0, DType::I64, Some(vec![Dim::from(dims.len())]));
                ctx.set_elements(0, dims);
            }
            None => {
                let len = ctx.fresh_dim();
                ctx.set_output(0, DType::I64, Some(vec![len]));
            }
        }
        Ok(())
    }

    fn cpu(&self, ctx: &CpuLowering<'_>) -> Result<CpuKernel> {
        let dims: Vec<i64> = self.slice(&ctx.input(0)?.shape).iter().map(|&dim| dim as i64).collect();
        Ok(write_ints("shape", dims))
    }
}

fn write_ints(name: &'static str, values: Vec<i64>) -> CpuKernel {
    CpuKernel::compute(name, move |io| {
        let output = io.outputs.take::<i64>(0)?;
        if output.len() != values.len() {
            return Err(Error::internal("an output has the wrong length"));
        }
        output.copy_from_slice(&values);
        Ok(())
    })
}

/// ONNX `Size`: the number of the input's elements as an i64 scalar.
#[derive(Debug)]
struct Size;

/// Makes [`Size`].
pub fn make_size(_: &Node) -> Result<Box<dyn Operator>> {
    Ok(Box::new(Size))
}

impl Operator for Size {
    fn infer(&self, ctx: &mut InferContext<'_>) -> Result<()> {
        ctx.set_output(0, DType::I64, Some(Vec::new()));
        if let Some(shape) = ctx.shape(0) {
            ctx.set_elements(0, vec![Dim::product(shape)]);
        }
        Ok(())
    }

    fn cpu(&self, ctx: &CpuLowering<'_>) -> Result<CpuKernel> {
        Ok(write_ints("size", vec![element_count(&ctx.input(0)?.shape)? as i64]))
    }
}

/// ONNX `Reshape`: the input's elements under the shape that attribute `shape` (before opset 5) or the second input
/// names. One -1 stands for whatever is left; 0 copies the input's dimension unless `allowzero` is set.
#[derive(Debug)]
struct Reshape {
    shape: Option<Vec<i64>>,
    allow_zero: bool,
}

/// Makes [`Reshape`].
pub fn make_reshape(node: &Node) -> Result<Box<dyn Operator>> {
    let legacy = node.operator.version < 5;
    Ok(Box::new(Reshape {
        shape: if legacy {
            node.attributes.ints("shape")?.map(<[i64]>::to_vec)
        } else {
            None
        },
        allow_zero: node.attributes.flag("allowzero", false)?,
    }))
}

impl Reshape {
    /// The output's dimensions, when the input's are known.
    fn resolve(&self, input: &[Dim], target: &[Dim]) -> Result<Vec<Dim>> {
        let error = |message: &str| {
            mismatch(message)
                .expected(display_shape(target))
                .actual(display_shape(input))
        };
        let mut result = Vec::with_capacity(target.len());
        let mut open = None;
        // What is neither copied nor open must match; copied dimensions cancel, even where they are zero.
        let mut rest: Vec<Dim> = input.to_vec();
        let mut named = Vec::new();
        for (axis, dim) in target.iter().enumerate() {
            match dim.known() {
                Some(0) if !self.allow_zero => {
                    let copied = input.get(axis);
                    let copied =
                        copied.ok_or_else(|| error("the new shape copies a dimension that the input lacks"))?;
                    result.push(copied.clone());
                    rest[axis] = Dim::from(1);
                }
                Some(-1) if open.is_some() => return Err(error("the new shape leaves two dimensions open")),
                Some(-1) => {
                    open = Some(axis);
                    result.push(Dim::from(1));
                }
                Some(size) if size < 0 => return Err(error("the new shape has a negative dimension")),
                _ => {
                    result.push(dim.clone());
                    named.push(dim.clone());
                }
            }
        }
        let (rest, named) = (Dim::product(&rest), Dim::product(&named));
        match (open, rest.known(), named.known()) {
            (Some(axis), Some(rest), Some(0)) => {
                if rest != 0 {
                    return Err(error("the new shape has another number of elements"));
                }
                result[axis] = Dim::from(0);
            }
            (Some(_), Some(rest), Some(named)) if rest % named != 0 => {
                return Err(error("the elements do not divide into the new shape"));
            }
            (Some(axis), _, _) => result[axis] = rest.floor_div(&named),
            (None, Some(rest), Some(named)) if rest != named => {
                return Err(error("the new shape has another number of elements"));
            }
            _ => {}
        }
        Ok(result)
    }
}

impl Operator for Reshape {
    fn infer(&self, ctx: &mut InferContext<'_>) -> Result<()> {
        let dtype = ctx.dtype(0)?;
        let target = match &self.shape {
            Some(shape) => Some(shape.iter().map(|&dim| Dim::from(dim)).collect()),
            None if !ctx.has_input(1) => return Err(invalid("the new shape is missing")),
            None => ctx.elements(1),
        };
        let shape = match (target, ctx.shape(0)) {
            (Some(target), Some(input)) => Some(self.resolve(input, &target)?),
            (Some(target), None) => Some(
                target
                    .into_iter()
                    .map(|dim| match dim.known() {
                        Some(-1) => ctx.fresh_dim(),
                        Some(0) if !self.allow_zero => ctx.fresh_dim(),
                        _ => dim,
                    })
                    .collect(),
            ),
            (None, _) => {
                let rank = ctx.shape(1).and_then(|shape| shape.first()?.size());
                rank.filter(|&rank| rank <= MAX_TRACKED_ELEMENTS)
                    .map(|rank| ctx.fresh_shape(rank))
            }
        };
        ctx.set_output(0, dtype, shape);
        copy_elements(ctx);
        Ok(())
    }

    fn cpu(&self, ctx: &CpuLowering<'_>) -> Result<CpuKernel> {
        view(ctx)
    }
}

/// The first output's elements are the first input's.
fn copy_elements(ctx: &mut InferContext<'_>) {
    if let Some(elements) = ctx.input(0).and_then(|facts| facts.elements.as_ref()) {
        let elements = elements.to_vec();
        ctx.set_elements(0, elements);
    }
}

/// The view that the first output is of the first input.
fn view(ctx: &CpuLowering<'_>) -> Result<CpuKernel> {
    if !ctx.outputs_known {
        return Err(mismatch("the inputs do not tell the output's shape"));
    }
    let (input, output) = (&ctx.input(0)?.shape, &ctx.output(0)?.shape);
    if element_count(input)? != element_count(output)? {
        return Err(mismatch("the new shape has another number of elements")
            .expected(display_shape(output))
            .actual(display_shape(input)));
    }
    Ok(CpuKernel::View { input: 0 })
}

/// ONNX `Squeeze` and `Unsqueeze`: dimensions of one taken out or put in. The axes are an attribute before opset 13 and
/// an input from then on.
#[derive(Debug)]
struct Squeeze {
    axes: Option<Vec<i64>>,
    is_unsqueeze: bool,
}

/// Makes [`Squeeze`].
pub fn make_squeeze(node: &Node) -> Result<Box<dyn Operator>> {
    let legacy = node.operator.version < 13;
    Ok(Box::new(Squeeze {
        axes: if legacy {
            node.attributes.ints("axes")?.map(<[i64]>::to_vec)
        } else {
            None
        },
        is_unsqueeze: &*node.operator.name == "Unsqueeze",
    }))
}

impl Operator for Squeeze {
    fn infer(&self, ctx: &mut InferContext<'_>) -> Result<()> {
        let dtype = ctx.dtype(0)?;
        let has_axes = self.axes.is_some() || ctx.has_input(1);
        let axes = match &self.axes {
            Some(axes) => Some(axes.clone()),
            None => ctx.ints(1),
        };
        let shape = match (self.is_unsqueeze, ctx.shape(0), axes) {
            (true, _, _) if !has_axes => return Err(invalid("the axes are missing")),
            (true, Some(input), Some(axes)) => {
                let axes = resolve_axes(&axes, input.len() + axes.len())?;
                let mut shape = input.to_vec();
                axes.iter().for_each(|&axis| shape.insert(axis, Dim::from(1)));
                Some(shape)
            }
            (false, Some(input), Some(axes)) => {
                let axes = resolve_axes(&axes, input.len())?;
                if let Some(&axis) = axes
                    .iter()
                    .find(|&&axis| input[axis].known().is_some_and(|dim| dim != 1))
                {
                    return Err(mismatch("a squeezed dimension is not one")
                        .expected(format!("1 in dimension {axis}"))
                        .actual(display_shape(input)));
                }
                let kept = input.iter().enumerate().filter(|(axis, _)| !axes.contains(axis));
                Some(kept.map(|(_, dim)| dim.clone()).collect())
            }
            // Without axes, every dimension of one goes: which those are must be known.
            (false, Some(input), None) if !has_axes && input.iter().all(|dim| dim.known().is_some()) => {
                Some(input.iter().filter(|dim| dim.known() != Some(1)).cloned().collect())
            }
            _ => None,
        };
        ctx.set_output(0, dtype, shape);
        copy_elements(ctx);
        Ok(())
    }

    fn cpu(&self, ctx: &CpuLowering<'_>) -> Result<CpuKernel> {
        view(ctx)
    }
}

/// ONNX `Flatten`: two dimensions, of which the first holds those before `axis`.
#[derive(Debug)]
struct Flatten {
    axis: i64,
}

/// Makes [`Flatten`].
pub fn make_flatten(node: &Node) -> Result<Box<dyn Operator>> {
    Ok(Box::new(Flatten {
        axis: node.attributes.int("axis")?.unwrap_or(1),
    }))
}

impl Operator for Flatten {
    fn infer(&self, ctx: &mut InferContext<'_>) -> Result<()> {
        let dtype = ctx.dtype(0)?;
        let shape = match ctx.shape(0) {
            Some(input) => {
                let axis = if self.axis == input.len() as i64 {
                    input.len()
                } else {
                    resolve_axis(self.axis, input.len())?
                };
                vec![Dim::product(&input[..axis]), Dim::product(&input[axis..])]
            }
            None => ctx.fresh_shape(2),
        };
        ctx.set_output(0, dtype, Some(shape));
        copy_elements(ctx);
        Ok(())
    }

    fn cpu(&self, ctx: &CpuLowering<'_>) -> Result<CpuKernel> {
        view(ctx)
    }
}

/// ONNX `Identity`, for values of every type.
#[derive(Debug)]
struct Identity;

/// Makes [`Identity`].
pub fn make_identity(_: &Node) -> Result<Box<dyn Operator>> {
    Ok(Box::new(Identity))
}

impl Operator for Identity {
    fn infer(&self, ctx: &mut InferContext<'_>) -> Result<()> {
        let facts = ctx
            .input(0)
            .ok_or_else(|| invalid("required input 0 is missing"))?
            .clone();
        if let Some(output) = ctx.outputs.first_mut() {
            *output = facts;
        }
        Ok(())
    }

    fn cpu(&self, ctx: &CpuLowering<'_>) -> Result<CpuKernel> {
        view(ctx)
    }

    fn on_values(&self, inputs: &[Option<Value>]) -> Result<Vec<Value>> {
        Ok(inputs.iter().flatten().cloned().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::super::{
        infer::{BoundGraph, infer_graph},
        testing::{TestNode, f32s, i64s},
    };
    use super::*;
    use crate::{
        graph::{Attribute, GraphBuilder},
        tensor::Tensor,
    };

    fn zeros(shape: &[usize]) -> Tensor {
        Tensor::zeros(DType::F32, shape).unwrap()
    }

    fn reshape(shape: &[usize], target: &[i64]) -> Result<Vec<usize>> {
        let node = TestNode::new("Reshape", 14)
            .input(zeros(shape))
            .constant(i64s(&[target.len()], target));
        Ok(node.run1()?.shape().to_vec())
    }

    #[test]
    fn reshape_copies_and_infers_dimensions() {
        assert_eq!(reshape(&[2, 3, 4], &[0, -1]).unwrap(), [2, 12]);
        assert_eq!(reshape(&[2, 3, 4], &[4, 0, -1]).unwrap(), [4, 3, 2]);
        assert_eq!(reshape(&[0, 3], &[0, -1]).unwrap(), [0, 3]);
        assert_eq!(reshape(&[1], &[]).unwrap(), [0usize; 0]);
        for (shape, target) in [
            (&[2, 3][..], &[4][..]),
            (&[2, 3], &[4, -1]),
            (&[6], &[-1, -1]),
            (&[6], &[-2, 3]),
            (&[6], &[6, 0]),
        ] {
            assert!(reshape(shape, target).is_err(), "{shape:?} to {target:?}");
        }
        let node = TestNode::new("Reshape", 14)
            .attr("allowzero", 1)
            .input(zeros(&[0, 3]))
            .constant(i64s(&[2], &[3, 0]));
        assert_eq!(node.run1().unwrap().shape(), [3, 0]);
    }

    #[test]
    fn views_keep_elements() {
        let x = || f32s(&[1, 2, 1, 2], &[1.0, 2.0, 3.0, 4.0]);
        let shape = |node: TestNode| node.run1().unwrap().shape().to_vec();
        assert_eq!(shape(TestNode::new("Squeeze", 13).input(x())), [2, 2]);
        assert_eq!(
            shape(TestNode::new("Squeeze", 11).attr("axes", [-2]).input(x())),
            [1, 2, 2]
        );
        assert_eq!(
            shape(TestNode::new("Squeeze", 13).input(x()).constant(i64s(&[2], &[0, 2]))),
            [2, 2]
        );
        assert_eq!(
            shape(TestNode::new("Unsqueeze", 13).input(x()).constant(i64s(&[2], &[-1, 0]))),
            [1, 1, 2, 1, 2, 1]
        );
        assert_eq!(shape(TestNode::new("Flatten", 13).attr("axis", -1).input(x())), [2, 2]);
        assert_eq!(shape(TestNode::new("Flatten", 13).attr("axis", 0).input(x())), [1, 4]);
        assert!(TestNode::new("Squeeze", 11).attr("axes", [1]).input(x()).run().is_err());
        assert!(
            TestNode::new("Unsqueeze", 11)
                .attr("axes", [0, 0])
                .input(x())
                .run()
                .is_err()
        );
        assert_eq!(TestNode::new("Identity", 16).input(x()).run1().unwrap(), x());
    }

    #[test]
    fn shape_takes_part_of_the_dimensions() {
        let shape = |start: i64, end: Option<i64>| {
            let node = TestNode::new("Shape", 15).attr("start", start).input(zeros(&[2, 3, 4]));
            let node = match end {
                Some(end) => node.attr("end", end),
                None => node,
            };
            node.run1().unwrap().to_i64s().unwrap()
        };
        assert_eq!(shape(0, None), [2, 3, 4]);
        assert_eq!(shape(-2, None), [3, 4]);
        assert_eq!(shape(1, Some(-1)), [3]);
        assert_eq!(shape(2, Some(1)), [0i64; 0]);
        assert_eq!(shape(-9, Some(9)), [2, 3, 4]);
        assert_eq!(
            TestNode::new("Size", 13).input(zeros(&[2, 0])).run1().unwrap(),
            i64s(&[], &[0])
        );
    }

    #[test]
    fn chains_of_shape_arithmetic_vanish() {
        // How exporters split the heads of attention: reshape(x, [batch, seq, 12, hidden / 12]).
        let mut b = GraphBuilder::new(17);
        let x = b.input(
            "x",
            DType::F32,
            vec![Dim::symbol("batch"), Dim::symbol("seq"), Dim::from(384)],
        );
        let shape = b.node("Shape", &[x]);
        let pick = |b: &mut GraphBuilder, index: i64| {
            let index = b.constant("index", Tensor::scalar(index));
            b.node("Gather", &[shape, index])
        };
        let (batch, seq, hidden) = (pick(&mut b, 0), pick(&mut b, 1), pick(&mut b, -1));
        let twelve = b.constant("twelve", Tensor::scalar(12i64));
        let head = b.node("Div", &[hidden, twelve]);
        let axes = b.constant("axes", i64s(&[1], &[0]));
        let parts: Vec<_> = [batch, seq, twelve, head]
            .iter()
            .map(|&part| b.node("Unsqueeze", &[part, axes]))
            .collect();
        let target = b.node_with("Concat", &parts, &[("axis", Attribute::Int(0))]);
        let y = b.node("Reshape", &[x, target]);
        // And a mask: where(equal(shape, -1), ones, shape) as the shape to expand to.
        let minus_one = b.constant("minus_one", i64s(&[1], &[-1]));
        let ones = b.constant("ones", i64s(&[1], &[1]));
        let is_open = b.node("Equal", &[target, minus_one]);
        let full = b.node("Where", &[is_open, ones, target]);
        let scalar = b.constant("scalar", f32s(&[1], &[0.0]));
        let z = b.node("Expand", &[scalar, full]);
        b.output("y", y);
        let graph = b.output("z", z).finish().unwrap();
        let facts = infer_graph(&BoundGraph::new(graph).unwrap(), &[], &mut 0).unwrap();
        let expected = vec![Dim::symbol("batch"), Dim::symbol("seq"), Dim::from(12), Dim::from(32)];
        assert_eq!(facts[y.index()].shape.as_ref(), Some(&expected));
        assert_eq!(facts[z.index()].shape.as_ref(), Some(&expected));
    }
}
