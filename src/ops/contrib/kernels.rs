//! Rare operators of `com.microsoft` that have kernels of their own: `Inverse`, `MurmurHash3` and `CropAndResize`.

use super::{
    super::{
        CpuLowering, InferContext, Operator,
        context::rank_error,
        lower::{invalid, mismatch},
    },
    tensors::{dims, expect_shape, given, shape_error},
};
use crate::{
    cpu::kernel::CpuKernel,
    error::{Error, ErrorCode, Result},
    graph::Node,
    tensor::{DType, Dim, Tensor, element_count},
};

/// `Inverse`: of each matrix `[.., n, n]`. Floats; a singular matrix is a run-time error.
#[derive(Debug)]
struct Inverse;

/// Makes [`Inverse`].
pub fn make_inverse(_: &Node) -> Result<Box<dyn Operator>> {
    Ok(Box::new(Inverse))
}

impl Operator for Inverse {
    fn infer(&self, ctx: &mut InferContext<'_>) -> Result<()> {
        if let Some(rank) = ctx.rank(0)
            && rank < 2
        {
            return Err(rank_error(0, "at least 2", rank));
        }
        ctx.copy_type(0, 0)
    }

    fn cpu(&self, ctx: &CpuLowering<'_>) -> Result<CpuKernel> {
        if !ctx.input(0)?.dtype.is_float() {
            return Err(ctx.unsupported_type(0));
        }
        Ok(CpuKernel::dynamic("inverse", |inputs| {
            let x = given(inputs, 0)?;
            let &[.., n, columns] = x.shape() else {
                return Err(shape_error(0, "square matrices", x.shape()));
            };
            if n != columns {
                return Err(shape_error(0, "square matrices", x.shape()));
            }
            let mut values = x.to_f64s()?;
            for matrix in values.chunks_exact_mut((n * n).max(1)) {
                invert(matrix, n)?;
            }
            Ok(vec![Tensor::from_f64s(x.dtype(), x.shape(), &values)?])
        }))
    }
}

/// Gauss-Jordan elimination with the largest pivot of a column.
fn invert(matrix: &mut [f64], n: usize) -> Result<()> {
    let mut inverse: Vec<f64> = (0..n * n).map(|i| f64::from(i / n == i % n)).collect();
    for column in 0..n {
        let size = |&row: &usize| matrix[row * n + column].abs();
        let pivot = (column..n).max_by(|a, b| size(a).total_cmp(&size(b))).unwrap_or(column);
        let divisor = matrix[pivot * n + column];
        if divisor == 0.0 || !divisor.is_finite() {
            return Err(Error::new(ErrorCode::RunFailed, "a matrix has no inverse"));
        }
        for of in [&mut *matrix, &mut inverse] {
            for index in 0..n {
                of.swap(pivot * n + index, column * n + index);
                of[column * n + index] /= divisor;
            }
        }
        for row in (0..n).filter(|&row| row != column) {
            let factor = matrix[row * n + column];
            for of in [&mut *matrix, &mut inverse] {
                for index in 0..n {
                    of[row * n + index] -= factor * of[column * n + index];
                }
            }
        }
    }
    matrix.copy_from_slice(&inverse);
    Ok(())
}

/// `MurmurHash3`: the 32-bit hash of each element's bytes, or of each string's; uint32, or int32 with `positive` 0.
#[derive(Debug)]
struct MurmurHash3 {
    seed: u32,
    output: DType,
}

/// Makes [`MurmurHash3`].
pub fn make_murmur_hash(node: &Node) -> Result<Box<dyn Operator>> {
    let seed = node.attributes.int("seed")?.unwrap_or(0);
    Ok(Box::new(MurmurHash3 {
        // A seed is 32 bits, of whatever sign.
        seed: seed as u32,
        output: match node.attributes.flag("positive", true)? {
            true => DType::U32,
            false => DType::I32,
        },
    }))
}

impl Operator for MurmurHash3 {
    fn infer(&self, ctx: &mut InferContext<'_>) -> Result<()> {
        let shape = ctx.shape(0).map(<[Dim]>::to_vec);
        ctx.set_output(0, self.output, shape);
        Ok(())
    }

    fn cpu(&self, ctx: &CpuLowering<'_>) -> Result<CpuKernel> {
        let dtype = ctx.input(0)?.dtype;
        if dtype != DType::String && !matches!(dtype.bits(), Some(32 | 64)) {
            return Err(ctx.unsupported_type(0));
        }
        let (seed, output) = (self.seed, self.output);
        Ok(CpuKernel::dynamic("murmur_hash", move |inputs| {
            let x = given(inputs, 0)?;
            let hashes: Vec<u32> = match x.dtype().bits() {
                Some(bits) => {
                    let elements = x.bytes().chunks_exact(bits / 8);
                    elements.map(|bytes| hash(bytes, seed)).collect()
                }
                None => x.strings()?.iter().map(|text| hash(text.as_bytes(), seed)).collect(),
            };
            Ok(vec![match output {
                DType::U32 => Tensor::new(x.shape(), hashes)?,
                _ => Tensor::new(x.shape(), hashes.into_iter().map(|hash| hash as i32).collect())?,
            }])
        }))
    }
}

/// MurmurHash3_x86_32.
fn hash(bytes: &[u8], seed: u32) -> u32 {
    let scramble = |word: u32| word.wrapping_mul(0xcc9e_2d51).rotate_left(15).wrapping_mul(0x1b87_3593);
    let (words, tail) = bytes.as_chunks::<4>();
    let mut state = seed;
    for &word in words {
        state ^= scramble(u32::from_le_bytes(word));
        state = state.rotate_left(13).wrapping_mul(5).wrapping_add(0xe654_6b64);
    }
    let mut last = [0; 4];
    last[..tail.len()].copy_from_slice(tail);
    state ^= scramble(u32::from_le_bytes(last));
    state ^= bytes.len() as u32;
    state = (state ^ state >> 16).wrapping_mul(0x85eb_ca6b);
    state = (state ^ state >> 13).wrapping_mul(0xc2b2_ae35);
    state ^ state >> 16
}

/// `CropAndResize`: the boxes `[r, 4]` (y1, x1, y2, x2, of 0 to 1) of images `[n, c, h, w]`, each of the image that the third
/// input numbers, resized to the size that the fourth holds, corners on corners. Floats.
#[derive(Debug)]
struct CropAndResize {
    nearest: bool,
    extrapolation: f64,
}

/// Makes [`CropAndResize`].
pub fn make_crop_and_resize(node: &Node) -> Result<Box<dyn Operator>> {
    let nearest = match node.attributes.string("mode")?.unwrap_or("bilinear") {
        "bilinear" => false,
        "nearest" => true,
        other => return Err(invalid("attribute mode is neither \"bilinear\" nor \"nearest\"").actual(other)),
    };
    let extrapolation = node.attributes.float("extrapolation_value")?.unwrap_or(0.0);
    Ok(Box::new(CropAndResize {
        nearest,
        extrapolation: extrapolation.into(),
    }))
}

impl Operator for CropAndResize {
    fn infer(&self, ctx: &mut InferContext<'_>) -> Result<()> {
        let size = ctx.elements(3).filter(|size| size.len() == 2);
        let size = match size {
            Some(size) => size,
            None => ctx.fresh_shape(2),
        };
        let shape = match (ctx.shape(0), ctx.shape(1)) {
            (Some([_, channels, _, _]), Some([boxes, _])) => {
                Some([boxes.clone(), channels.clone()].into_iter().chain(size).collect())
            }
            _ => None,
        };
        let dtype = ctx.dtype(0)?;
        ctx.set_output(0, dtype, shape);
        Ok(())
    }

    fn cpu(&self, ctx: &CpuLowering<'_>) -> Result<CpuKernel> {
        if !ctx.input(0)?.dtype.is_float() {
            return Err(ctx.unsupported_type(0));
        }
        let (nearest, extrapolation) = (self.nearest, self.extrapolation);
        Ok(CpuKernel::dynamic("crop_and_resize", move |inputs| {
            crop(inputs, nearest, extrapolation).map(|result| vec![result])
        }))
    }
}

fn crop(inputs: &[Option<Tensor>], nearest: bool, extrapolation: f64) -> Result<Tensor> {
    let (x, boxes) = (given(inputs, 0)?, given(inputs, 1)?);
    let [images, channels, height, width] = dims::<4>(0, x)?;
    let [count, _] = dims::<2>(1, boxes)?;
    expect_shape(1, boxes, &[count, 4])?;
    let which = given(inputs, 2)?;
    expect_shape(2, which, &[count])?;
    let sizes = given(inputs, 3)?.to_i64s()?;
    let size = |index: usize| {
        let size = sizes.get(index).and_then(|&size| usize::try_from(size).ok());
        size.filter(|&size| size > 0 && sizes.len() == 2)
            .ok_or_else(|| mismatch("the size of the crops is not two positive numbers").actual(format!("{sizes:?}")))
    };
    let out_shape = [count, channels, size(0)?, size(1)?];
    let (x_values, corners, which) = (x.to_f64s()?, boxes.to_f32s()?, which.to_i64s()?);
    let mut out = Vec::new();
    out.try_reserve_exact(element_count(&out_shape)?)
        .map_err(|_| Error::new(ErrorCode::OutOfMemory, "memory for a result could not be had"))?;
    for (corners, &image) in corners.chunks_exact(4).zip(&which) {
        let image = usize::try_from(image)
            .ok()
            .filter(|&image| image < images)
            .ok_or_else(|| {
                mismatch("a box is of an image that there is not")
                    .expected(format!("below {images}"))
                    .actual(image.to_string())
            })?;
        // In f32, which decides what is nearest.
        let place = |low: f32, high: f32, length: usize, index: usize, of: usize| {
            let last = length.saturating_sub(1) as f32;
            f64::from(match of {
                1 => 0.5 * (low + high) * last,
                _ => low * last + index as f32 * ((high - low) * last / (of - 1) as f32),
            })
        };
        for channel in 0..channels {
            let plane = &x_values[(image * channels + channel) * height * width..][..height * width];
            for row in 0..out_shape[2] {
                let y = place(corners[0], corners[2], height, row, out_shape[2]);
                for column in 0..out_shape[3] {
                    let x = place(corners[1], corners[3], width, column, out_shape[3]);
                    let inside = |at: f64, length: usize| at >= 0.0 && at < length as f64 && at <= (length - 1) as f64;
                    out.push(if height * width == 0 || !inside(y, height) || !inside(x, width) {
                        extrapolation
                    } else if nearest {
                        plane[y.round() as usize * width + x.round() as usize]
                    } else {
                        let (top, left) = (y.floor() as usize, x.floor() as usize);
                        let (bottom, right) = (y.ceil() as usize, x.ceil() as usize);
                        let (down, across) = (y - top as f64, x - left as f64);
                        let at = |row: usize, column: usize| plane[row * width + column];
                        let above = at(top, left) + (at(top, right) - at(top, left)) * across;
                        let below = at(bottom, left) + (at(bottom, right) - at(bottom, left)) * across;
                        above + (below - above) * down
                    });
                }
            }
        }
    }
    Tensor::from_f64s(x.dtype(), &out_shape, &out)
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::{TestNode, assert_tensor_close, f32s, tensor};
    use crate::{error::ErrorCode, graph::OperatorId};

    fn node(name: &str) -> TestNode {
        TestNode::of(OperatorId::new("com.microsoft", name, 1))
    }

    #[test]
    fn inverses_need_a_pivot_somewhere_in_the_column() {
        let x = f32s(&[1, 2, 2], &[0.0, 2.0, 4.0, 1.0]);
        let inverse = node("Inverse").input(x).run1().unwrap();
        assert_tensor_close(&inverse, &f32s(&[1, 2, 2], &[-0.125, 0.25, 0.5, 0.0]), 1e-6);
        let singular = node("Inverse").input(f32s(&[2, 2], &[1.0, 2.0, 2.0, 4.0])).run1();
        assert_eq!(singular.unwrap_err().code(), ErrorCode::RunFailed);
        assert_eq!(node("Inverse").input(f32s(&[0, 2, 2], &[])).run1().unwrap().len(), 0);
    }

    #[test]
    fn a_box_of_an_image_that_is_missing_is_an_error() {
        let crop = |image: i32| {
            node("CropAndResize")
                .input(f32s(&[1, 1, 2, 2], &[1.0, 2.0, 3.0, 4.0]))
                .input(f32s(&[1, 4], &[0.0, 0.0, 1.0, 1.0]))
                .input(tensor(&[1], &[image]))
                .constant(tensor(&[2], &[1i32, 3]))
                .run1()
        };
        assert_eq!(crop(0).unwrap(), f32s(&[1, 1, 1, 3], &[2.0, 2.5, 3.0]));
        assert!(crop(1).is_err() && crop(-1).is_err());
    }
}
