//! How the inputs of an expression lie relative to the positions it is evaluated at.
//!
//! Both back ends walk the same collapsed iteration space: dimensions of size one are gone, and neighbours that every
//! input steps through alike are one.

use std::fmt;

/// An input does not broadcast to the output shape, or the output has more elements than can be addressed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShapeError {
    pub input: Option<usize>,
    pub input_shape: Vec<usize>,
    pub output_shape: Vec<usize>,
}

impl fmt::Display for ShapeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.input {
            Some(input) => write!(
                f,
                "input {input} of shape {:?} does not broadcast to {:?}",
                self.input_shape, self.output_shape
            ),
            None => write!(f, "shape {:?} has too many elements", self.output_shape),
        }
    }
}

impl std::error::Error for ShapeError {}

/// How one input is read.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Access {
    /// Element `i` for position `i`.
    Contiguous,
    /// Element 0 for every position.
    Scalar,
    /// A step in elements for each collapsed dimension, 0 where the input is broadcast.
    Strided(Vec<usize>),
}

/// An iteration space and each input's way through it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Collapsed {
    /// At least one; a scalar output has the one dimension 1.
    pub dims: Vec<usize>,
    pub inputs: Vec<Access>,
    /// The product of `dims`.
    pub count: usize,
}

impl Collapsed {
    /// The length of the innermost dimension.
    pub fn inner(&self) -> usize {
        self.dims.last().copied().unwrap_or(1)
    }

    /// An input's step along the innermost dimension.
    pub fn inner_stride(&self, input: usize) -> usize {
        match &self.inputs[input] {
            Access::Contiguous => 1,
            Access::Scalar => 0,
            Access::Strided(strides) => strides.last().copied().unwrap_or(0),
        }
    }
}

/// The iteration space of an expression whose inputs, dense and of these shapes, broadcast to `output_shape`.
pub fn collapse<S: AsRef<[usize]>>(output_shape: &[usize], input_shapes: &[S]) -> Result<Collapsed, ShapeError> {
    let mut strides = Vec::with_capacity(input_shapes.len());
    for (i, shape) in input_shapes.iter().enumerate() {
        let shape = shape.as_ref();
        let broadcast = broadcast_strides(output_shape, shape).ok_or_else(|| ShapeError {
            input: Some(i),
            input_shape: shape.to_vec(),
            output_shape: output_shape.to_vec(),
        })?;
        strides.push(broadcast);
    }
    let too_large = || ShapeError {
        input: None,
        input_shape: Vec::new(),
        output_shape: output_shape.to_vec(),
    };
    collapse_strides(output_shape, &strides).ok_or_else(too_large)
}

/// The same for inputs given by their step in elements for each output dimension; `None` when the product of the
/// dimensions overflows.
pub fn collapse_strides(output_shape: &[usize], strides: &[Vec<usize>]) -> Option<Collapsed> {
    let count = if output_shape.contains(&0) {
        0
    } else {
        output_shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d))?
    };
    if count == 0 {
        // Nothing is read, so the way through it does not matter.
        return Some(Collapsed {
            dims: vec![0],
            inputs: vec![Access::Contiguous; strides.len()],
            count,
        });
    }
    let mut dims: Vec<usize> = Vec::new();
    // Per input, its stride in each of `dims`.
    let mut kept: Vec<Vec<usize>> = vec![Vec::new(); strides.len()];
    for (axis, &dim) in output_shape.iter().enumerate() {
        if dim == 1 {
            continue;
        }
        // The dimension before is one with this one if each input's step there is a whole run through this one.
        let merges = !dims.is_empty()
            && strides
                .iter()
                .zip(&kept)
                .all(|(s, k)| k.last().copied() == s[axis].checked_mul(dim));
        if merges {
            if let Some(last) = dims.last_mut() {
                *last *= dim;
            }
            kept.iter_mut().zip(strides).for_each(|(k, s)| {
                if let Some(last) = k.last_mut() {
                    *last = s[axis];
                }
            });
        } else {
            dims.push(dim);
            kept.iter_mut().zip(strides).for_each(|(k, s)| k.push(s[axis]));
        }
    }
    if dims.is_empty() {
        dims.push(1);
        kept.iter_mut().for_each(|k| k.push(1));
    }
    let inputs = kept.into_iter().map(|k| access(&dims, k)).collect();
    Some(Collapsed { dims, inputs, count })
}

/// The step of a dense input in each output dimension, or `None` where it does not broadcast.
pub fn broadcast_strides(output_shape: &[usize], input_shape: &[usize]) -> Option<Vec<usize>> {
    let lead = output_shape.len().checked_sub(input_shape.len())?;
    let mut strides = vec![0; output_shape.len()];
    let mut step = 1usize;
    for axis in (lead..output_shape.len()).rev() {
        let dim = input_shape[axis - lead];
        if dim == output_shape[axis] {
            strides[axis] = step;
        } else if dim != 1 {
            return None;
        }
        if dim == 1 {
            strides[axis] = 0;
        }
        step = step.saturating_mul(dim);
    }
    Some(strides)
}

fn access(dims: &[usize], strides: Vec<usize>) -> Access {
    if strides.iter().all(|&s| s == 0) {
        return Access::Scalar;
    }
    let mut dense = 1;
    let contiguous = dims.iter().zip(&strides).rev().all(|(&dim, &stride)| {
        let is_dense = stride == dense;
        dense *= dim;
        is_dense
    });
    if contiguous {
        Access::Contiguous
    } else {
        Access::Strided(strides)
    }
}
