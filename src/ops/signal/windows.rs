//! Windows and filters made from sizes: HannWindow, HammingWindow, BlackmanWindow, MelWeightMatrix.

use std::f64::consts::PI;

use super::{
    super::{
        CpuLowering, InferContext, Operator,
        lower::{invalid, unsupported},
    },
    scalar_int, zeros,
};
use crate::{
    cpu::kernel::CpuKernel,
    error::{Error, ErrorCode, Result},
    graph::Node,
    tensor::{DType, Dim, Tensor},
};

/// The numeric type that attribute `output_datatype` numbers; f32 by default.
fn output_type(node: &Node) -> Result<DType> {
    let number = node.attributes.int("output_datatype")?.unwrap_or(1);
    let dtype = i32::try_from(number).ok().and_then(DType::from_onnx);
    let numeric = dtype.filter(|dtype| dtype.is_float() || dtype.is_integer());
    numeric.ok_or_else(|| unsupported("attribute output_datatype is no supported type").actual(number.to_string()))
}

/// ONNX `HannWindow`, `HammingWindow` and `BlackmanWindow` (opset 17): a sum of cosines over `size` elements; a symmetric one is
/// shorter by one than its period.
#[derive(Debug)]
struct Window {
    /// The weights of cosines of no, one and two periods.
    cosines: [f64; 3],
    periodic: bool,
    dtype: DType,
}

/// Makes [`Window`].
pub fn make_window(node: &Node) -> Result<Box<dyn Operator>> {
    let cosines = match &*node.operator.name {
        "HannWindow" => [0.5, -0.5, 0.0],
        "HammingWindow" => [25.0 / 46.0, -21.0 / 46.0, 0.0],
        _ => [0.42, -0.5, 0.08],
    };
    Ok(Box::new(Window {
        cosines,
        periodic: node.attributes.flag("periodic", true)?,
        dtype: output_type(node)?,
    }))
}

impl Operator for Window {
    fn infer(&self, ctx: &mut InferContext<'_>) -> Result<()> {
        let size = ctx.elements(0).and_then(|list| list.first().cloned());
        let size = size.unwrap_or_else(|| ctx.fresh_dim());
        if size.known().is_some_and(|size| size < 0) {
            return Err(invalid("the size of a window is negative").actual(size.to_string()));
        }
        ctx.set_output(0, self.dtype, Some(vec![size]));
        Ok(())
    }

    fn cpu(&self, _: &CpuLowering<'_>) -> Result<CpuKernel> {
        let (cosines, periodic, dtype) = (self.cosines, self.periodic, self.dtype);
        Ok(CpuKernel::dynamic("window", move |inputs| {
            let size = scalar_int(inputs, 0)?.ok_or_else(|| invalid("required input 0 is missing"))?;
            let size = usize::try_from(size).map_err(|_| {
                Error::new(ErrorCode::RunFailed, "the size of a window is negative").actual(size.to_string())
            })?;
            let mut values = zeros(&[size])?;
            // A symmetric window of one element is its middle.
            let period = if periodic { size } else { size - size.min(1) };
            for (index, value) in values.iter_mut().enumerate() {
                let turn = if period == 0 { 0.5 } else { index as f64 / period as f64 };
                let terms = cosines.iter().zip([0.0, 2.0 * PI, 4.0 * PI]);
                *value = terms.map(|(weight, angle)| weight * (angle * turn).cos()).sum();
            }
            Ok(vec![Tensor::from_f64s(dtype, &[size], &values)?])
        }))
    }
}

/// ONNX `MelWeightMatrix` (opset 17): `[dft_length / 2 + 1, num_mel_bins]` triangular filters, evenly spaced on the mel scale between
/// two frequencies.
#[derive(Debug)]
struct MelWeightMatrix {
    dtype: DType,
}

/// Makes [`MelWeightMatrix`].
pub fn make_mel(node: &Node) -> Result<Box<dyn Operator>> {
    Ok(Box::new(MelWeightMatrix {
        dtype: output_type(node)?,
    }))
}

impl Operator for MelWeightMatrix {
    fn infer(&self, ctx: &mut InferContext<'_>) -> Result<()> {
        let mut first = |index: usize| ctx.elements(index).and_then(|list| list.first().cloned());
        let (bins, length) = (first(0), first(1));
        let rows = length.map(|length| length.floor_div(&Dim::from(2)) + Dim::from(1));
        let rows = rows.unwrap_or_else(|| ctx.fresh_dim());
        let bins = bins.unwrap_or_else(|| ctx.fresh_dim());
        ctx.set_output(0, self.dtype, Some(vec![rows, bins]));
        Ok(())
    }

    fn cpu(&self, _: &CpuLowering<'_>) -> Result<CpuKernel> {
        let dtype = self.dtype;
        Ok(CpuKernel::dynamic("mel_weight_matrix", move |inputs| {
            let size = |index: usize| -> Result<usize> {
                let value =
                    scalar_int(inputs, index)?.ok_or_else(|| invalid(format!("required input {index} is missing")))?;
                let size = usize::try_from(value).ok().filter(|&size| size > 0);
                size.ok_or_else(|| {
                    Error::new(ErrorCode::RunFailed, format!("input {index} is not positive")).actual(value.to_string())
                })
            };
            let hertz = |index: usize| -> Result<f64> {
                let input = inputs.get(index).and_then(Option::as_ref);
                let input = input.ok_or_else(|| invalid(format!("required input {index} is missing")))?;
                input
                    .to_f64s()?
                    .first()
                    .copied()
                    .ok_or_else(|| invalid(format!("input {index} has no element")))
            };
            let (bins, length, rate) = (size(0)?, size(1)?, size(2)?);
            let shape = [length / 2 + 1, bins];
            let values = mel_filters(shape, length, rate, hertz(3)?, hertz(4)?)?;
            Ok(vec![Tensor::from_f64s(dtype, &shape, &values)?])
        }))
    }
}

fn mel_filters([rows, bins]: [usize; 2], length: usize, rate: usize, low: f64, high: f64) -> Result<Vec<f64>> {
    let mel = |hertz: f64| 2595.0 * (1.0 + hertz / 700.0).log10();
    let step = (mel(high) - mel(low)) / (bins as f64 + 2.0);
    // The row of the spectrum where a filter begins, peaks or ends.
    let row = |index: usize| {
        let hertz = 700.0 * (10f64.powf((index as f64 * step + mel(low)) / 2595.0) - 1.0);
        ((length as f64 + 1.0) * hertz / rate as f64).floor()
    };
    let mut values = zeros(&[rows, bins])?;
    for bin in 0..bins {
        let (left, center, right) = (row(bin), row(bin + 1), row(bin + 2));
        if !(left >= 0.0 && left <= center && center <= right && right <= rows as f64) {
            return Err(
                Error::new(ErrorCode::RunFailed, "a mel filter lies outside the spectrum")
                    .expected(format!("rows 0 to {rows} in ascending order"))
                    .actual(format!("{left}, {center}, {right}")),
            );
        }
        let (left, center, right) = (left as usize, center as usize, right as usize);
        let mut set = |row: usize, value: f64| {
            if row < rows {
                values[row * bins + bin] = value;
            }
        };
        for row in left..=center {
            let rise = (center - left) as f64;
            set(row, if rise == 0.0 { 1.0 } else { (row - left) as f64 / rise });
        }
        for row in center..right {
            set(row, (right - row) as f64 / (right - center) as f64);
        }
    }
    Ok(values)
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::{TestNode, assert_tensor_close, f32s, i64s, tensor};

    #[test]
    fn windows_are_periodic_or_symmetric() {
        let node = |name: &str, size: i64, periodic: i64| {
            let node = TestNode::new(name, 17).attr("periodic", periodic);
            node.input(i64s(&[], &[size])).run1().unwrap()
        };
        assert_tensor_close(&node("HannWindow", 4, 1), &f32s(&[4], &[0.0, 0.5, 1.0, 0.5]), 1e-6);
        assert_tensor_close(&node("HannWindow", 3, 0), &f32s(&[3], &[0.0, 1.0, 0.0]), 1e-6);
        assert_tensor_close(&node("HammingWindow", 2, 1), &f32s(&[2], &[4.0 / 46.0, 1.0]), 1e-6);
        assert_tensor_close(&node("BlackmanWindow", 3, 0), &f32s(&[3], &[0.0, 1.0, 0.0]), 1e-6);
        assert_eq!(node("HannWindow", 1, 0), f32s(&[1], &[1.0]));
        assert_eq!(node("HannWindow", 0, 0).shape(), [0]);
        let double = TestNode::new("HannWindow", 17)
            .attr("output_datatype", 11)
            .constant(i64s(&[], &[2]));
        assert_eq!(double.run1().unwrap(), tensor(&[2], &[0.0f64, 1.0]));
        assert!(TestNode::new("HannWindow", 17).input(i64s(&[], &[-1])).run().is_err());
        assert!(
            TestNode::new("HannWindow", 17)
                .attr("output_datatype", 8)
                .input(i64s(&[], &[1]))
                .run()
                .is_err()
        );
    }

    #[test]
    fn mel_filters_are_triangles() {
        let node = |bins: i64, high: f32| {
            let node = TestNode::new("MelWeightMatrix", 17)
                .constant(i64s(&[], &[bins]))
                .input(i64s(&[], &[16]));
            node.input(i64s(&[], &[8192]))
                .input(f32s(&[], &[0.0]))
                .input(f32s(&[], &[high]))
                .run1()
        };
        let matrix = node(8, 4096.0).unwrap();
        assert_eq!(matrix.shape(), [9, 8]);
        let row: Vec<f32> = matrix.to_f32s().unwrap()[..16].to_vec();
        assert_eq!(
            row,
            [
                1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0
            ]
        );
        assert!(node(0, 4096.0).is_err());
        assert!(node(8, 1e9).is_err());
    }
}
