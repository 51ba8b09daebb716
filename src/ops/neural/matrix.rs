//! Products along rows of numbers: Det and CumProd.

use super::{Call, Numbers, Whole, whole, zeros};
use crate::{
    error::Result,
    graph::Node,
    ops::{
        InferContext, Operator,
        context::{equal_dims, rank_error},
        lower::mismatch,
    },
    tensor::{Tensor, display_shape, resolve_axis},
};

/// ONNX `Det` (opsets 11, 22): the determinants of square matrices `[.., M, M]`. Any floating-point type.
#[derive(Debug)]
struct Det;

/// Makes [`Det`].
pub fn make_det(_: &Node) -> Result<Box<dyn Operator>> {
    whole(Det)
}

impl Whole for Det {
    fn kernel_name(&self) -> &'static str {
        "det"
    }

    fn infer(&self, ctx: &mut InferContext<'_>) -> Result<()> {
        let dtype = ctx.dtype(0)?;
        let shape = match ctx.shape(0) {
            Some([batch @ .., rows, columns]) => {
                equal_dims(rows, columns, "size of the matrices")?;
                Some(batch.to_vec())
            }
            Some(shape) => return Err(rank_error(0, "at least 2", shape.len())),
            None => None,
        };
        ctx.set_output(0, dtype, shape);
        Ok(())
    }

    fn run(&self, call: &Call<'_>) -> Result<Vec<Tensor>> {
        let tensor = call.input(0)?;
        let (batch, size) = match tensor.shape() {
            [batch @ .., rows, columns] if rows == columns => (batch, *rows),
            shape => return Err(mismatch("the matrices are not square").actual(display_shape(shape))),
        };
        let mut values = tensor.to_f64s()?;
        let mut result: Vec<f64> = zeros(batch)?;
        // An empty matrix has determinant 1.
        result.fill(1.0);
        for (matrix, result) in values.chunks_exact_mut((size * size).max(1)).zip(&mut result) {
            *result = determinant(matrix, size);
        }
        Ok(vec![Tensor::from_f64s(tensor.dtype(), batch, &result)?])
    }
}

/// The determinant by elimination with the largest pivot of each column; changes the matrix.
fn determinant(matrix: &mut [f64], size: usize) -> f64 {
    let mut product = 1.0;
    for step in 0..size {
        let column = |row: usize| matrix[row * size + step].abs();
        let pivot = (step..size).fold(step, |best, row| if column(row) > column(best) { row } else { best });
        if pivot != step {
            (step..size).for_each(|index| matrix.swap(step * size + index, pivot * size + index));
            product = -product;
        }
        let head = matrix[step * size + step];
        product *= head;
        if head == 0.0 {
            return 0.0;
        }
        for row in step + 1..size {
            let factor = matrix[row * size + step] / head;
            for index in step + 1..size {
                matrix[row * size + index] -= factor * matrix[step * size + index];
            }
        }
    }
    product
}

/// ONNX `CumProd` (opset 26): running products along the axis that input 1 names; `exclusive` leaves the own element
/// out, `reverse` runs from the end. Any floating-point type; integers wrap around.
#[derive(Debug)]
struct CumProd {
    exclusive: bool,
    reverse: bool,
}

/// Makes [`CumProd`].
pub fn make_cum_prod(node: &Node) -> Result<Box<dyn Operator>> {
    whole(CumProd {
        exclusive: node.attributes.flag("exclusive", false)?,
        reverse: node.attributes.flag("reverse", false)?,
    })
}

impl CumProd {
    /// Calls `step` with each place of each row, row after row, and whether the row begins.
    fn walk(&self, shape: &[usize], axis: usize, step: &mut dyn FnMut(usize, bool)) {
        let (len, inner) = (shape[axis], shape[axis + 1..].iter().product::<usize>());
        let outer: usize = shape[..axis].iter().product();
        for row in 0..outer * inner {
            let start = row / inner * len * inner + row % inner;
            for number in 0..len {
                let index = if self.reverse { len - 1 - number } else { number };
                step(start + index * inner, number == 0);
            }
        }
    }
}

impl Whole for CumProd {
    fn kernel_name(&self) -> &'static str {
        "cum_prod"
    }

    fn infer(&self, ctx: &mut InferContext<'_>) -> Result<()> {
        ctx.copy_type(0, 0)
    }

    fn run(&self, call: &Call<'_>) -> Result<Vec<Tensor>> {
        let (tensor, axis) = (call.input(0)?, call.input(1)?.to_i64s()?);
        let &[axis] = axis.as_slice() else {
            return Err(mismatch("input 1 is not one axis").actual(format!("{} values", axis.len())));
        };
        let (shape, dtype) = (tensor.shape(), tensor.dtype());
        let axis = resolve_axis(axis, shape.len())?;
        if dtype.is_float() {
            let source = Numbers::of(tensor)?;
            let mut result: Vec<f64> = zeros(shape)?;
            let mut product = 1.0;
            self.walk(shape, axis, &mut |place, begins| {
                let before = if begins { 1.0 } else { product };
                product = before * source.at(place);
                result[place] = if self.exclusive { before } else { product };
            });
            return Ok(vec![Tensor::from_f64s(dtype, shape, &result)?]);
        }
        let source = super::wrapping_ints(tensor)?;
        let mut result: Vec<i64> = zeros(shape)?;
        let mut product = 1i64;
        self.walk(shape, axis, &mut |place, begins| {
            let before = if begins { 1 } else { product };
            product = before.wrapping_mul(source[place]);
            result[place] = if self.exclusive { before } else { product };
        });
        Ok(vec![super::from_wrapping_ints(dtype, shape, &result)?])
    }
}

#[cfg(test)]
mod tests {
    use crate::{
        ops::testing::{TestNode, assert_tensor_close, f32s, i64s, tensor},
        tensor::{DType, Tensor},
    };

    #[test]
    fn determinants_of_batches() {
        let det = |x: Tensor| TestNode::new("Det", 22).input(x).run1();
        let two = f32s(&[2, 2, 2], &[0.0, 2.0, 3.0, 4.0, 1.0, 2.0, 2.0, 4.0]);
        assert_tensor_close(&det(two).unwrap(), &f32s(&[2], &[-6.0, 0.0]), 1e-6);
        assert_eq!(det(tensor(&[1, 1], &[7.0f64])).unwrap(), tensor(&[], &[7.0f64]));
        let empty = Tensor::zeros(DType::F32, &[3, 0, 0]).unwrap();
        assert_eq!(det(empty).unwrap(), f32s(&[3], &[1.0; 3]));
        assert!(det(f32s(&[1, 2], &[0.0; 2])).is_err());
    }

    #[test]
    fn products_run_along_an_axis() {
        let node = |exclusive: i64, reverse: i64, x: Tensor, axis: i64| {
            TestNode::new("CumProd", 26)
                .attr("exclusive", exclusive)
                .attr("reverse", reverse)
                .input(x)
                .input(i64s(&[], &[axis]))
                .run1()
        };
        let x = || tensor::<i32>(&[2, 3], &[1, 2, 3, 4, 5, 6]);
        assert_eq!(
            node(0, 0, x(), -1).unwrap(),
            tensor::<i32>(&[2, 3], &[1, 2, 6, 4, 20, 120])
        );
        assert_eq!(
            node(1, 1, x(), 1).unwrap(),
            tensor::<i32>(&[2, 3], &[6, 3, 1, 30, 6, 1])
        );
        assert_eq!(
            node(0, 0, x(), 0).unwrap(),
            tensor::<i32>(&[2, 3], &[1, 2, 3, 4, 10, 18])
        );
        let wraps = tensor::<u64>(&[2], &[u64::MAX, 2]);
        assert_eq!(
            node(0, 0, wraps, 0).unwrap(),
            tensor::<u64>(&[2], &[u64::MAX, u64::MAX - 1])
        );
        assert_eq!(node(0, 0, f32s(&[2], &[0.5, 4.0]), 0).unwrap(), f32s(&[2], &[0.5, 2.0]));
        assert!(node(0, 0, x(), 2).is_err());
        assert!(node(0, 0, i64s(&[], &[1]), 0).is_err());
    }
}
