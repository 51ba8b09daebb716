//! Features made ready for a model: ArrayFeatureExtractor, Binarizer, FeatureVectorizer, Imputer, Normalizer, Scaler.

use super::{
    super::{
        CpuLowering, InferContext, Operator,
        context::rank_error,
        lower::{invalid, mismatch},
    },
    scores::{features_f32, features_type, first, reserve, rows_of},
};
use crate::{
    cpu::kernel::CpuKernel,
    error::{Error, ErrorCode, Result},
    graph::Node,
    tensor::{DType, Dim, Tensor, element_count},
};

/// The value of a list that has one for each feature, or one for all.
fn for_feature<T: Copy>(list: &[T], feature: usize) -> T {
    list[if list.len() == 1 { 0 } else { feature }]
}

/// Checks that a list has one value for each of the last dimension's features, or one for all; gives the number of
/// features.
fn check_features(name: &str, length: usize, shape: &[usize]) -> Result<usize> {
    let features = shape.last().copied().unwrap_or(1);
    if length != 1 && length != features {
        return Err(
            mismatch(format!("attribute {name} does not fit the number of features"))
                .expected(format!("1 or {features}"))
                .actual(length.to_string()),
        );
    }
    Ok(features.max(1))
}

/// ONNX-ML `Scaler`: `(x - offset) * scale` by the features of the last dimension, f32.
#[derive(Debug)]
struct Scaler {
    offset: Vec<f32>,
    scale: Vec<f32>,
}

/// Makes [`Scaler`].
pub fn make_scaler(node: &Node) -> Result<Box<dyn Operator>> {
    let list = |name: &str, default: f32| {
        let list = node.attributes.floats(name)?.unwrap_or_default();
        Ok::<_, Error>(if list.is_empty() { vec![default] } else { list.to_vec() })
    };
    Ok(Box::new(Scaler {
        offset: list("offset", 0.0)?,
        scale: list("scale", 1.0)?,
    }))
}

impl Operator for Scaler {
    fn infer(&self, ctx: &mut InferContext<'_>) -> Result<()> {
        features_type(ctx)?;
        let shape = ctx.shape(0).map(<[Dim]>::to_vec);
        ctx.set_output(0, DType::F32, shape);
        Ok(())
    }

    fn cpu(&self, _: &CpuLowering<'_>) -> Result<CpuKernel> {
        let (offset, scale) = (self.offset.clone(), self.scale.clone());
        Ok(CpuKernel::dynamic("scaler", move |inputs| {
            let x = first(inputs)?;
            let features = check_features("offset", offset.len(), x.shape())?;
            check_features("scale", scale.len(), x.shape())?;
            let values = features_f32(x)?;
            let scaled = values.iter().enumerate().map(|(index, value)| {
                let feature = index % features;
                (value - for_feature(&offset, feature)) * for_feature(&scale, feature)
            });
            Ok(vec![Tensor::new(x.shape(), scaled.collect())?])
        }))
    }
}

/// ONNX-ML `Normalizer`: the rows of `[n, c]`, or the one row of `[c]`, divided by their largest element, by the sum of their
/// magnitudes, or by their length; f32. A row whose divisor is 0 stays.
#[derive(Debug)]
struct Normalizer {
    norm: Norm,
}

#[derive(Clone, Copy, Debug)]
enum Norm {
    Max,
    L1,
    L2,
}

/// Makes [`Normalizer`].
pub fn make_normalizer(node: &Node) -> Result<Box<dyn Operator>> {
    let norm = match node.attributes.string("norm")?.unwrap_or("MAX") {
        "MAX" => Norm::Max,
        "L1" => Norm::L1,
        "L2" => Norm::L2,
        other => return Err(invalid("attribute norm names no norm").actual(other)),
    };
    Ok(Box::new(Normalizer { norm }))
}

impl Operator for Normalizer {
    fn infer(&self, ctx: &mut InferContext<'_>) -> Result<()> {
        features_type(ctx)?;
        if let Some(rank) = ctx.rank(0).filter(|rank| !(1..=2).contains(rank)) {
            return Err(rank_error(0, "1 or 2", rank));
        }
        let shape = ctx.shape(0).map(<[Dim]>::to_vec);
        ctx.set_output(0, DType::F32, shape);
        Ok(())
    }

    fn cpu(&self, _: &CpuLowering<'_>) -> Result<CpuKernel> {
        let norm = self.norm;
        Ok(CpuKernel::dynamic("normalizer", move |inputs| {
            let x = first(inputs)?;
            let (_, columns) = rows_of(x.shape())?;
            let mut values = features_f32(x)?.into_owned();
            for row in values.chunks_mut(columns.max(1)) {
                let wide = row.iter().map(|&value| f64::from(value));
                let divisor = match norm {
                    Norm::Max => wide.fold(f64::NEG_INFINITY, f64::max),
                    Norm::L1 => wide.map(f64::abs).sum(),
                    Norm::L2 => wide.map(|value| value * value).sum::<f64>().sqrt(),
                };
                if divisor != 0.0 {
                    row.iter_mut()
                        .for_each(|value| *value = (f64::from(*value) / divisor) as f32);
                }
            }
            Ok(vec![Tensor::new(x.shape(), values)?])
        }))
    }
}

/// ONNX-ML `Imputer`: elements that equal one value (NaN equals NaN) become the value imputed for their feature in the last
/// dimension. Floats have their own attributes, and so have integers.
#[derive(Debug)]
struct Imputer {
    floats: (f32, Vec<f32>),
    ints: (i64, Vec<i64>),
}

/// Makes [`Imputer`].
pub fn make_imputer(node: &Node) -> Result<Box<dyn Operator>> {
    let attributes = &node.attributes;
    let floats = attributes.floats("imputed_value_floats")?.unwrap_or_default().to_vec();
    let ints = attributes.ints("imputed_value_int64s")?.unwrap_or_default().to_vec();
    if floats.is_empty() && ints.is_empty() {
        return Err(invalid(
            "neither attribute imputed_value_floats nor imputed_value_int64s is given",
        ));
    }
    Ok(Box::new(Imputer {
        floats: (attributes.float("replaced_value_float")?.unwrap_or(0.0), floats),
        ints: (attributes.int("replaced_value_int64")?.unwrap_or(0), ints),
    }))
}

impl Operator for Imputer {
    fn infer(&self, ctx: &mut InferContext<'_>) -> Result<()> {
        features_type(ctx)?;
        ctx.copy_type(0, 0)
    }

    fn cpu(&self, ctx: &CpuLowering<'_>) -> Result<CpuKernel> {
        let dtype = ctx.input(0)?.dtype;
        let given = if dtype.is_float() {
            self.floats.1.len()
        } else {
            self.ints.1.len()
        };
        if given == 0 {
            return Err(invalid("the imputed values are of another type than the input").actual(dtype.name()));
        }
        let ((replaced, floats), (replaced_int, ints)) = (self.floats.clone(), self.ints.clone());
        Ok(CpuKernel::dynamic("imputer", move |inputs| {
            let x = first(inputs)?;
            let features = check_features("imputed_values", given, x.shape())?;
            let made = if dtype.is_float() {
                let mut values = x.to_f64s()?;
                for (index, value) in values.iter_mut().enumerate() {
                    if *value == f64::from(replaced) || (replaced.is_nan() && value.is_nan()) {
                        *value = for_feature(&floats, index % features).into();
                    }
                }
                Tensor::from_f64s(dtype, x.shape(), &values)?
            } else {
                let mut values = x.to_i64s()?;
                for (index, value) in values.iter_mut().enumerate() {
                    if *value == replaced_int {
                        *value = for_feature(&ints, index % features);
                    }
                }
                Tensor::from_i64s(dtype, x.shape(), &values)?
            };
            Ok(vec![made])
        }))
    }
}

/// ONNX-ML `Binarizer`: 1 for elements above the threshold, else 0, in the input's type.
#[derive(Debug)]
struct Binarizer {
    threshold: f32,
}

/// Makes [`Binarizer`].
pub fn make_binarizer(node: &Node) -> Result<Box<dyn Operator>> {
    Ok(Box::new(Binarizer {
        threshold: node.attributes.float("threshold")?.unwrap_or(0.0),
    }))
}

impl Operator for Binarizer {
    fn infer(&self, ctx: &mut InferContext<'_>) -> Result<()> {
        features_type(ctx)?;
        ctx.copy_type(0, 0)
    }

    fn cpu(&self, _: &CpuLowering<'_>) -> Result<CpuKernel> {
        let threshold = f64::from(self.threshold);
        Ok(CpuKernel::dynamic("binarizer", move |inputs| {
            let x = first(inputs)?;
            let bits = x
                .to_f64s()?
                .into_iter()
                .map(|value| f64::from(u8::from(value > threshold)));
            Ok(vec![Tensor::from_f64s(
                x.dtype(),
                x.shape(),
                &bits.collect::<Vec<_>>(),
            )?])
        }))
    }
}

/// ONNX-ML `ArrayFeatureExtractor`: the elements of the last dimension of `X` at the indices `Y`: `[..., n]` of `[..., c]`, and `[1, n]`
/// of `[c]`. Any element type.
#[derive(Debug)]
struct ArrayFeatureExtractor;

/// Makes [`ArrayFeatureExtractor`].
pub fn make_extractor(_: &Node) -> Result<Box<dyn Operator>> {
    Ok(Box::new(ArrayFeatureExtractor))
}

impl Operator for ArrayFeatureExtractor {
    fn infer(&self, ctx: &mut InferContext<'_>) -> Result<()> {
        let dtype = ctx.dtype(0)?;
        let count = ctx
            .shape(1)
            .map(|shape| shape.iter().cloned().fold(Dim::from(1), |a, b| a * b));
        let shape = match (ctx.shape(0), count) {
            (Some([]), _) => return Err(rank_error(0, "1 or more", 0)),
            (Some([_]), Some(count)) => Some(vec![Dim::from(1), count]),
            (Some([outer @ .., _]), Some(count)) => Some(outer.iter().cloned().chain([count]).collect()),
            _ => None,
        };
        ctx.set_output(0, dtype, shape);
        Ok(())
    }

    fn cpu(&self, _: &CpuLowering<'_>) -> Result<CpuKernel> {
        Ok(CpuKernel::dynamic("array_feature_extractor", |inputs| {
            let (Some(Some(x)), Some(Some(y))) = (inputs.first(), inputs.get(1)) else {
                return Err(invalid("a required input is missing"));
            };
            let (&features, outer) = x.shape().split_last().ok_or_else(|| rank_error(0, "1 or more", 0))?;
            let mut positions = Vec::with_capacity(y.len());
            for index in y.to_i64s()? {
                let position = usize::try_from(index).ok().filter(|&position| position < features);
                positions.push(position.ok_or_else(|| {
                    Error::new(ErrorCode::RunFailed, "an index is outside the last dimension")
                        .expected(format!("0 to {}", features.saturating_sub(1)))
                        .actual(index.to_string())
                })?);
            }
            let mut shape = if outer.is_empty() { vec![1] } else { outer.to_vec() };
            shape.push(positions.len());
            let rows = if features == 0 { 0 } else { x.len() / features };
            let picked = (0..rows).flat_map(|row| positions.iter().map(move |position| row * features + position));
            Ok(vec![take(x, &shape, picked)?])
        }))
    }
}

/// The elements of a tensor at these positions, which must be inside, under another shape.
fn take(x: &Tensor, shape: &[usize], positions: impl Iterator<Item = usize>) -> Result<Tensor> {
    if let Ok(strings) = x.strings() {
        return Tensor::from_strings(shape, positions.map(|position| strings[position].clone()).collect());
    }
    match x.dtype().bits() {
        Some(bits @ 8..) => {
            let width = bits / 8;
            let mut bytes = reserve(&[element_count(shape)?, width])?;
            positions
                .for_each(|position| bytes.extend_from_slice(&x.bytes()[position * width..(position + 1) * width]));
            Tensor::from_bytes(x.dtype(), shape, bytes)
        }
        _ => {
            let values = x.to_i64s()?;
            let picked: Vec<i64> = positions.map(|position| values[position]).collect();
            Tensor::from_i64s(x.dtype(), shape, &picked)
        }
    }
}

/// ONNX-ML `FeatureVectorizer`: the rows of all inputs beside each other, f32 `[n, sum of inputdimensions]`. An input `[c]` is one
/// row. Of each input as many columns are taken as `inputdimensions` says, with zeros for those that it lacks.
#[derive(Debug)]
struct FeatureVectorizer {
    widths: Vec<usize>,
}

/// Makes [`FeatureVectorizer`].
pub fn make_vectorizer(node: &Node) -> Result<Box<dyn Operator>> {
    let list = node.attributes.ints("inputdimensions")?.unwrap_or_default();
    let widths = list
        .iter()
        .map(|&width| usize::try_from(width).ok())
        .collect::<Option<Vec<_>>>();
    let widths = widths.ok_or_else(|| invalid("attribute inputdimensions has a negative size"))?;
    if widths.len() != node.operator_inputs().len() {
        return Err(invalid("attribute inputdimensions has not one size for each input")
            .expected(node.operator_inputs().len().to_string())
            .actual(widths.len().to_string()));
    }
    element_count(&[widths
        .iter()
        .try_fold(0usize, |sum, &width| sum.checked_add(width))
        .unwrap_or(usize::MAX)])?;
    Ok(Box::new(FeatureVectorizer { widths }))
}

impl Operator for FeatureVectorizer {
    fn infer(&self, ctx: &mut InferContext<'_>) -> Result<()> {
        features_type(ctx)?;
        let rows = super::scores::infer_rows(ctx)?;
        let width: usize = self.widths.iter().sum();
        ctx.set_output(0, DType::F32, Some(vec![rows, Dim::from(width)]));
        Ok(())
    }

    fn cpu(&self, _: &CpuLowering<'_>) -> Result<CpuKernel> {
        let widths = self.widths.clone();
        Ok(CpuKernel::dynamic("feature_vectorizer", move |inputs| {
            let (rows, _) = rows_of(first(inputs)?.shape())?;
            let mut parts = Vec::with_capacity(widths.len());
            for (index, _) in widths.iter().enumerate() {
                let input = inputs.get(index).and_then(Option::as_ref);
                let input = input.ok_or_else(|| invalid(format!("required input {index} is missing")))?;
                let (own_rows, columns) = rows_of(input.shape())?;
                if own_rows != rows {
                    return Err(mismatch("the inputs have different numbers of rows")
                        .expected(rows.to_string())
                        .actual(own_rows.to_string()));
                }
                parts.push((features_f32(input)?, columns));
            }
            let shape = [rows, widths.iter().sum()];
            let mut values = reserve(&shape)?;
            for row in 0..rows {
                for ((part, columns), &width) in parts.iter().zip(&widths) {
                    let taken = width.min(*columns);
                    values.extend_from_slice(&part[row * columns..row * columns + taken]);
                    values.resize(values.len() + width - taken, 0.0);
                }
            }
            Ok(vec![Tensor::new(&shape, values)?])
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        graph::OperatorId,
        ops::testing::{TestNode, f32s, i64s, tensor},
    };

    fn node(name: &str) -> TestNode {
        TestNode::of(OperatorId::new("ai.onnx.ml", name, 1))
    }

    #[test]
    fn lists_apply_to_the_features_of_the_last_dimension() {
        let x = || f32s(&[2, 1, 2], &[1.0, 2.0, f32::NAN, 4.0]);
        let scaler = node("Scaler")
            .attr("offset", [1.0f32, 2.0])
            .attr("scale", [10.0f32, 0.5]);
        let scaled = scaler.clone().input(f32s(&[1, 1, 2], &[3.0, 4.0])).run1().unwrap();
        assert_eq!(scaled, f32s(&[1, 1, 2], &[20.0, 1.0]));
        assert!(scaler.input(f32s(&[1, 3], &[0.0; 3])).run().is_err());
        let imputer = node("Imputer")
            .attr("imputed_value_floats", [7.0f32, 8.0])
            .attr("replaced_value_float", f32::NAN);
        assert_eq!(
            imputer.clone().input(x()).run1().unwrap(),
            f32s(&[2, 1, 2], &[1.0, 2.0, 7.0, 4.0])
        );
        assert!(imputer.input(i64s(&[1], &[0])).run().is_err());
        let ints = node("Imputer")
            .attr("imputed_value_int64s", [9i64])
            .input(tensor(&[2], &[0i32, 5]));
        assert_eq!(ints.run1().unwrap(), tensor(&[2], &[9i32, 5]));
    }

    #[test]
    fn columns_are_picked_and_put_beside_each_other() {
        let picked = |x: Tensor, y: &[i64]| {
            node("ArrayFeatureExtractor")
                .input(x)
                .input(i64s(&[1, y.len()], y))
                .run1()
        };
        let strings = Tensor::from_strings(&[3], ["a", "b", "c"].map(String::from).to_vec()).unwrap();
        assert_eq!(picked(strings, &[2, 0]).unwrap().strings().unwrap(), ["c", "a"]);
        assert_eq!(picked(f32s(&[0, 3], &[]), &[1]).unwrap(), f32s(&[0, 1], &[]));
        assert_eq!(
            picked(i64s(&[2], &[1, 2]), &[-1]).unwrap_err().code(),
            ErrorCode::RunFailed
        );
        let beside = |second: Tensor| {
            let node = node("FeatureVectorizer").attr("inputdimensions", [1i64, 2]);
            node.input(i64s(&[2, 1], &[1, 2])).input(second).run1()
        };
        assert_eq!(
            beside(i64s(&[2, 1], &[3, 4])).unwrap(),
            f32s(&[2, 3], &[1.0, 3.0, 0.0, 2.0, 4.0, 0.0])
        );
        assert!(beside(i64s(&[3, 1], &[3, 4, 5])).is_err());
    }
}
