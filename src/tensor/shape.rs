//! Arithmetic on concrete shapes: element counts, strides, broadcasting, axes.

use crate::error::{Error, ErrorCode, Result};

/// Number of elements of a shape; an error when it does not fit the address space.
pub fn element_count(shape: &[usize]) -> Result<usize> {
    // A zero dimension makes the tensor empty however large the others are.
    if shape.contains(&0) {
        return Ok(0);
    }
    shape
        .iter()
        .try_fold(1usize, |count, &dim| count.checked_mul(dim))
        .filter(|&count| count <= isize::MAX as usize / 8)
        .ok_or_else(|| {
            Error::new(
                ErrorCode::LimitExceeded,
                format!("a tensor of shape {} is too large", display_shape(shape)),
            )
        })
}

/// A shape as `[2, 3]`.
pub fn display_shape<D: std::fmt::Display>(shape: &[D]) -> String {
    let dims: Vec<String> = shape.iter().map(|dim| dim.to_string()).collect();
    format!("[{}]", dims.join(", "))
}

/// Row-major strides of a shape, in elements.
pub fn strides_of(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1usize; shape.len()];
    for axis in (1..shape.len()).rev() {
        strides[axis - 1] = strides[axis].saturating_mul(shape[axis].max(1));
    }
    strides
}

/// The shape that all `shapes` broadcast to, by numpy's rule.
pub fn broadcast_shapes<S: AsRef<[usize]>>(shapes: &[S]) -> Result<Vec<usize>> {
    let rank = shapes.iter().map(|shape| shape.as_ref().len()).max().unwrap_or(0);
    let mut result = vec![1; rank];
    for shape in shapes {
        let shape = shape.as_ref();
        let offset = rank - shape.len();
        for (axis, &dim) in shape.iter().enumerate() {
            let target = &mut result[offset + axis];
            if *target == 1 {
                *target = dim;
            } else if dim != 1 && dim != *target {
                let list: Vec<String> = shapes.iter().map(|shape| display_shape(shape.as_ref())).collect();
                return Err(Error::new(
                    ErrorCode::ShapeMismatch,
                    format!("shapes {} do not broadcast together", list.join(" and ")),
                ));
            }
        }
    }
    Ok(result)
}

/// An axis counted from the end when negative, as an index below `rank`.
pub fn resolve_axis(axis: i64, rank: usize) -> Result<usize> {
    let resolved = if axis < 0 {
        axis.checked_add(rank as i64)
    } else {
        Some(axis)
    };
    match resolved {
        Some(index) if (0..rank as i64).contains(&index) => Ok(index as usize),
        _ => Err(
            Error::new(ErrorCode::ShapeMismatch, "the axis is outside the tensor's rank")
                .expected(format!("an axis in -{rank}..{rank}"))
                .actual(axis.to_string()),
        ),
    }
}

/// Several axes, sorted, each given at most once.
pub fn resolve_axes(axes: &[i64], rank: usize) -> Result<Vec<usize>> {
    let mut resolved = axes
        .iter()
        .map(|&axis| resolve_axis(axis, rank))
        .collect::<Result<Vec<_>>>()?;
    resolved.sort_unstable();
    if resolved.windows(2).any(|pair| pair[0] == pair[1]) {
        return Err(Error::new(ErrorCode::ShapeMismatch, "an axis is given twice").actual(format!("{axes:?}")));
    }
    Ok(resolved)
}

/// The positions 0 to `count - 1` in the order that `compare` gives them, equal ones by position. One body of code for
/// every sort that is not worth its own.
pub fn sorted_positions(count: usize, compare: &dyn Fn(usize, usize) -> std::cmp::Ordering) -> Vec<usize> {
    let mut order: Vec<usize> = (0..count).collect();
    order.sort_unstable_by(|&a, &b| compare(a, b).then(a.cmp(&b)));
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn broadcasting_follows_numpy() {
        assert_eq!(broadcast_shapes(&[vec![2, 1, 3], vec![4, 1]]).unwrap(), [2, 4, 3]);
        assert_eq!(broadcast_shapes(&[vec![0], vec![1]]).unwrap(), [0]);
        assert_eq!(broadcast_shapes::<Vec<usize>>(&[]).unwrap(), [0usize; 0]);
        assert!(broadcast_shapes(&[vec![2], vec![3]]).is_err());
    }

    #[test]
    fn hostile_shapes_are_errors_and_zero_wins() {
        const HUGE: usize = usize::MAX / 2;
        assert!(element_count(&[HUGE, HUGE]).is_err());
        assert_eq!(element_count(&[HUGE, 0, HUGE]).unwrap(), 0);
    }

    #[test]
    fn axes_count_from_the_end_and_do_not_repeat() {
        assert_eq!(resolve_axes(&[-1, 0], 3).unwrap(), [0, 2]);
        assert!(resolve_axes(&[-1, 2], 3).is_err());
        assert!(resolve_axis(3, 3).is_err());
        assert!(resolve_axis(i64::MIN, 3).is_err());
    }
}
