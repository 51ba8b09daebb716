//! ONNX `NonMaxSuppression`.

use super::{Call, Whole, whole};
use crate::{
    error::Result,
    graph::Node,
    ops::{InferContext, Operator, context::rank_error, lower::mismatch},
    tensor::{DType, Dim, Tensor, display_shape},
};

/// ONNX `NonMaxSuppression` (opsets 10, 11): of each image's boxes `[N, boxes, 4]`, for each class of the scores
/// `[N, classes, boxes]` those with the best scores that do not overlap a better one by more than the threshold, as rows
/// of image, class and box.
#[derive(Debug)]
struct NonMaxSuppression {
    /// Whether boxes are centre and size, rather than two corners.
    centered: bool,
}

/// Makes [`NonMaxSuppression`].
pub fn make_non_max_suppression(node: &Node) -> Result<Box<dyn Operator>> {
    whole(NonMaxSuppression {
        centered: node.attributes.flag("center_point_box", false)?,
    })
}

/// A box by its lower and upper corner, and its area.
#[derive(Clone, Copy)]
struct Rectangle {
    low: [f32; 2],
    high: [f32; 2],
    area: f32,
}

impl Rectangle {
    fn of(values: &[f32], centered: bool) -> Rectangle {
        let side = |axis: usize| match centered {
            true => {
                let half = values[axis + 2] / 2.0;
                (values[axis] - half, values[axis] + half)
            }
            false => (values[axis].min(values[axis + 2]), values[axis].max(values[axis + 2])),
        };
        let (a, b) = (side(0), side(1));
        Rectangle {
            low: [a.0, b.0],
            high: [a.1, b.1],
            area: (a.1 - a.0) * (b.1 - b.0),
        }
    }

    fn overlaps(&self, other: &Rectangle, threshold: f32) -> bool {
        let side = |axis: usize| (self.high[axis].min(other.high[axis]) - self.low[axis].max(other.low[axis])).max(0.0);
        let common = side(0) * side(1);
        let union = self.area + other.area - common;
        common > 0.0 && self.area > 0.0 && other.area > 0.0 && union > 0.0 && common / union > threshold
    }
}

impl Whole for NonMaxSuppression {
    fn kernel_name(&self) -> &'static str {
        "non_max_suppression"
    }

    fn infer(&self, ctx: &mut InferContext<'_>) -> Result<()> {
        for index in [0, 1] {
            if let Some(rank) = ctx.rank(index).filter(|&rank| rank != 3) {
                return Err(rank_error(index, 3, rank));
            }
        }
        let count = ctx.fresh_dim();
        ctx.set_output(0, DType::I64, Some(vec![count, Dim::from(3)]));
        Ok(())
    }

    fn run(&self, call: &Call<'_>) -> Result<Vec<Tensor>> {
        let (boxes, scores) = (call.input(0)?, call.input(1)?);
        let (&[batch, count, 4], &[score_batch, classes, score_count]) = (boxes.shape(), scores.shape()) else {
            return Err(mismatch("the inputs are not boxes and scores")
                .expected("[N, boxes, 4] and [N, classes, boxes]")
                .actual(format!(
                    "{} and {}",
                    display_shape(boxes.shape()),
                    display_shape(scores.shape())
                )));
        };
        if (batch, count) != (score_batch, score_count) {
            return Err(mismatch("the scores are not one for each box")
                .expected(display_shape(&[batch, classes, count]))
                .actual(display_shape(scores.shape())));
        }
        let most = match call.optional(2) {
            Some(most) => most.to_i64s()?.first().copied().unwrap_or(0),
            None => 0,
        };
        let most = usize::try_from(most).unwrap_or(0);
        let number = |index: usize| -> Result<Option<f32>> {
            let tensor = call.optional(index);
            tensor.map_or(Ok(None), |tensor| Ok(tensor.to_f32s()?.first().copied()))
        };
        let (overlap, least) = (number(3)?.unwrap_or(0.0), number(4)?);
        let (values, scores) = (boxes.to_f32s()?, scores.to_f32s()?);
        let mut rows = Vec::new();
        for (row, scores) in scores.chunks_exact(count.max(1)).enumerate() {
            let (image, class) = (row / classes, row % classes);
            let values = &values[image * count * 4..];
            let wanted = |score: f32| !score.is_nan() && least.is_none_or(|least| score > least);
            let mut order: Vec<usize> = (0..count).filter(|&index| wanted(scores[index])).collect();
            // Stable: of equal scores the first comes first. Adding 0 makes the two zeros equal.
            order.sort_by(|&a, &b| (scores[b] + 0.0).total_cmp(&(scores[a] + 0.0)));
            let mut chosen: Vec<Rectangle> = Vec::new();
            for index in order {
                if chosen.len() >= most {
                    break;
                }
                let rectangle = Rectangle::of(&values[index * 4..index * 4 + 4], self.centered);
                if !chosen.iter().any(|other| other.overlaps(&rectangle, overlap)) {
                    chosen.push(rectangle);
                    rows.extend([image as i64, class as i64, index as i64]);
                }
            }
        }
        Ok(vec![Tensor::new(&[rows.len() / 3, 3], rows)?])
    }
}

#[cfg(test)]
mod tests {
    use crate::ops::testing::{TestNode, f32s, i64s};

    #[test]
    fn overlapping_boxes_are_dropped() {
        let node = |centered: i64, most: i64, least: f32| {
            TestNode::new("NonMaxSuppression", 11)
                .attr("center_point_box", centered)
                // Corners in any order; as centres and sizes these have other overlaps.
                .input(f32s(
                    &[1, 3, 4],
                    &[0.0, 0.0, 1.0, 1.0, 1.1, 1.0, 0.1, 0.0, 5.0, 5.0, 6.0, 6.0],
                ))
                .input(f32s(&[1, 1, 3], &[0.9, 0.95, f32::NAN]))
                .input(i64s(&[], &[most]))
                .input(f32s(&[], &[0.5]))
                .input(f32s(&[1], &[least]))
                .run1()
                .unwrap()
        };
        assert_eq!(node(0, 5, 0.0), i64s(&[1, 3], &[0, 0, 1]));
        assert_eq!(node(1, 5, 0.0), i64s(&[2, 3], &[0, 0, 1, 0, 0, 0]));
        assert_eq!(node(1, 5, 0.9), i64s(&[1, 3], &[0, 0, 1]));
        assert_eq!(node(0, 0, 0.0), i64s(&[0, 3], &[]));
    }
}
