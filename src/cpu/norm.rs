//! Normalisations of f32: layer, RMS, instance, group and batch normalisation, and local response normalisation.
//! Means and variances are taken in two passes over a row, which is exact where the mean is large beside the spread.

use crate::cpu::math::{exp, log};
use crate::cpu::simd::{F32x4, LANES};
use crate::cpu::threads::Threads;

/// The sum of `map` of a row.
#[inline(always)]
fn sum_of(row: &[f32], map: impl Fn(F32x4) -> F32x4) -> f32 {
    let (vectors, tail) = row.as_chunks::<LANES>();
    let (mut even, mut odd) = (F32x4::zero(), F32x4::zero());
    let mut pairs = vectors.chunks_exact(2);
    for pair in &mut pairs {
        even += map(F32x4::load(&pair[0]));
        odd += map(F32x4::load(&pair[1]));
    }
    for vector in pairs.remainder() {
        even += map(F32x4::load(vector));
    }
    let tail: f32 = tail.iter().map(|&x| map(F32x4::splat(x)).to_array()[0]).sum();
    (even + odd).sum() + tail
}

/// The mean and the (biased) variance of a row.
pub fn moments(row: &[f32]) -> (f32, f32) {
    let count = row.len().max(1) as f32;
    let mean = sum_of(row, |x| x) / count;
    let center = F32x4::splat(mean);
    let variance = sum_of(row, |x| (x - center) * (x - center)) / count;
    (mean, variance)
}

/// `out = input * factor + shift` over a row.
fn affine(input: &[f32], out: &mut [f32], factor: f32, shift: f32) {
    for (value, &x) in out.iter_mut().zip(input) {
        *value = x * factor + shift;
    }
}

/// `out = (input - mean) * factor`, then `* scale + bias` element by element.
fn center_and_scale(
    input: &[f32],
    out: &mut [f32],
    mean: f32,
    factor: f32,
    scale: Option<&[f32]>,
    bias: Option<&[f32]>,
) {
    let centered = input.iter().map(|&x| (x - mean) * factor);
    match (scale, bias) {
        (None, None) => out.iter_mut().zip(centered).for_each(|(value, x)| *value = x),
        (Some(scale), None) => out
            .iter_mut()
            .zip(centered)
            .zip(scale)
            .for_each(|((value, x), s)| *value = x * s),
        (None, Some(bias)) => out
            .iter_mut()
            .zip(centered)
            .zip(bias)
            .for_each(|((value, x), b)| *value = x + b),
        (Some(scale), Some(bias)) => {
            for (((value, x), s), b) in out.iter_mut().zip(centered).zip(scale).zip(bias) {
                *value = x * s + b;
            }
        }
    }
}

/// Where [`layer_norm`] leaves its optional second and third output, one value per row.
#[derive(Default)]
pub struct RowMoments<'a> {
    pub mean: Option<&'a mut [f32]>,
    /// 1 / √(variance + epsilon).
    pub inverse_deviation: Option<&'a mut [f32]>,
}

/// Layer normalisation of `[rows, len]` along the rows (ONNX LayerNormalization): scale and bias have `len` values.
///
/// # Panics
/// When a slice is too short.
pub fn layer_norm(
    input: &[f32],
    out: &mut [f32],
    len: usize,
    scale: Option<&[f32]>,
    bias: Option<&[f32]>,
    epsilon: f32,
    mut moments_out: RowMoments,
) {
    if len == 0 {
        return;
    }
    let (scale, bias) = (scale.map(|scale| &scale[..len]), bias.map(|bias| &bias[..len]));
    let out = &mut out[..input.len()];
    for (row, (input, out)) in input.chunks_exact(len).zip(out.chunks_exact_mut(len)).enumerate() {
        let (mean, variance) = moments(input);
        let factor = 1.0 / (variance + epsilon).sqrt();
        center_and_scale(input, out, mean, factor, scale, bias);
        if let Some(means) = &mut moments_out.mean {
            means[row] = mean;
        }
        if let Some(factors) = &mut moments_out.inverse_deviation {
            factors[row] = factor;
        }
    }
}

/// RMS normalisation of `[rows, len]` along the rows (ONNX RMSNormalization): x / √(mean(x²) + epsilon) * scale.
///
/// # Panics
/// When a slice is too short.
pub fn rms_norm(input: &[f32], out: &mut [f32], len: usize, scale: Option<&[f32]>, epsilon: f32) {
    if len == 0 {
        return;
    }
    let scale = scale.map(|scale| &scale[..len]);
    let out = &mut out[..input.len()];
    for (input, out) in input.chunks_exact(len).zip(out.chunks_exact_mut(len)) {
        let square = sum_of(input, |x| x * x) / len as f32;
        center_and_scale(input, out, 0.0, 1.0 / (square + epsilon).sqrt(), scale, None);
    }
}

/// Group normalisation of `[batch, channels, volume]` (ONNX GroupNormalization from opset 21, and with one channel per
/// group InstanceNormalization): scale and bias have `channels` values; groups divide the channels.
///
/// # Panics
/// When a slice is too short or `groups` does not divide `channels`.
pub fn group_norm(
    input: &[f32],
    out: &mut [f32],
    [batch, channels, volume]: [usize; 3],
    groups: usize,
    scale: &[f32],
    bias: &[f32],
    epsilon: f32,
) {
    let len = batch * channels * volume;
    if len == 0 {
        return;
    }
    assert!(
        groups > 0 && channels.is_multiple_of(groups),
        "{groups} groups of {channels} channels"
    );
    let per_group = channels / groups;
    let (input, out) = (&input[..len], &mut out[..len]);
    let blocks = input
        .chunks_exact(per_group * volume)
        .zip(out.chunks_exact_mut(per_group * volume));
    for (group, (input, out)) in blocks.enumerate() {
        let (mean, variance) = moments(input);
        let factor = 1.0 / (variance + epsilon).sqrt();
        let first = group % groups * per_group;
        let planes = input.chunks_exact(volume).zip(out.chunks_exact_mut(volume));
        for ((input, out), (&scale, &bias)) in planes.zip(scale[first..][..per_group].iter().zip(&bias[first..])) {
            for (value, &x) in out.iter_mut().zip(input) {
                *value = (x - mean) * factor * scale + bias;
            }
        }
    }
}

/// Inference batch normalisation as one factor and shift per channel: `factor = scale / √(variance + epsilon)`,
/// `shift = bias - mean * factor`. All slices have one value per channel.
pub fn batch_norm_affine(
    scale: &[f32],
    bias: &[f32],
    mean: &[f32],
    variance: &[f32],
    epsilon: f32,
    factor: &mut [f32],
    shift: &mut [f32],
) {
    let outs = factor.iter_mut().zip(shift);
    let statistics = mean.iter().zip(variance);
    for ((factor, shift), ((scale, bias), (mean, variance))) in outs.zip(scale.iter().zip(bias).zip(statistics)) {
        *factor = scale / (variance + epsilon).sqrt();
        *shift = bias - mean * *factor;
    }
}

/// `out[n, c, i] = input[n, c, i] * factor[c] + shift[c]` over `[batch, channels, volume]`.
///
/// # Panics
/// When a slice is too short.
pub fn channel_affine(
    input: &[f32],
    out: &mut [f32],
    [batch, channels, volume]: [usize; 3],
    factor: &[f32],
    shift: &[f32],
) {
    let len = batch * channels * volume;
    if len == 0 {
        return;
    }
    let (factor, shift) = (&factor[..channels], &shift[..channels]);
    let planes = input[..len]
        .chunks_exact(volume)
        .zip(out[..len].chunks_exact_mut(volume));
    for (plane, (input, out)) in planes.enumerate() {
        affine(input, out, factor[plane % channels], shift[plane % channels]);
    }
}

/// The constants of [`local_response_norm`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LocalResponse {
    /// How many neighbouring channels are summed.
    pub size: usize,
    pub alpha: f32,
    pub beta: f32,
    pub bias: f32,
}

/// Local response normalisation across channels (ONNX LRN) of `[batch, channels, volume]`.
///
/// # Panics
/// When a slice is too short.
pub fn local_response_norm(
    input: &[f32],
    out: &mut [f32],
    [batch, channels, volume]: [usize; 3],
    parameters: LocalResponse,
    threads: &Threads,
) {
    let LocalResponse {
        size,
        alpha,
        beta,
        bias,
    } = parameters;
    let before = size.saturating_sub(1) / 2;
    let after = size.saturating_sub(1) - before;
    let factor = F32x4::splat(alpha / size.max(1) as f32);
    let one = F32x4::splat(1.0);
    // Three quarters, the usual exponent, are two roots.
    let scaled = |x: F32x4, sum: F32x4| {
        let base = sum.mul_add(factor, F32x4::splat(bias));
        let root = base.sqrt();
        x * if beta == 0.75 {
            one / (root * root.sqrt())
        } else if beta == 0.5 {
            one / root
        } else {
            exp(log(base) * F32x4::splat(-beta))
        }
    };
    let len = batch * channels * volume;
    let (input, out) = (&input[..len], &mut out[..len]);
    let plane = |index: usize| &input[index * volume..(index + 1) * volume];
    threads.rows_mut(out, volume, volume * (8 + size.min(channels)), |first, out| {
        for (index, out) in out.chunks_exact_mut(volume).enumerate() {
            let index = first + index;
            let channel = index % channels;
            out.fill(0.0);
            for near in channel.saturating_sub(before)..channels.min(channel + after + 1) {
                for (sum, &x) in out.iter_mut().zip(plane(index - channel + near)) {
                    *sum += x * x;
                }
            }
            for (sums, x) in out.chunks_mut(LANES).zip(plane(index).chunks(LANES)) {
                if sums.len() == LANES {
                    scaled(F32x4::load(x), F32x4::load(sums)).store(sums);
                } else {
                    scaled(F32x4::load_partial(x, 0.0), F32x4::load_partial(sums, 0.0)).store_partial(sums);
                }
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::testing::{Rng, assert_close};

    fn reference_moments(row: &[f32]) -> (f64, f64) {
        let mean = row.iter().map(|&x| f64::from(x)).sum::<f64>() / row.len() as f64;
        let variance = row.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / row.len() as f64;
        (mean, variance)
    }

    #[test]
    fn layer_and_rms_norm_match_the_definition() {
        let mut rng = Rng::new(12);
        for len in [1, 3, 4, 7, 8, 33, 384] {
            let rows = 5;
            let input: Vec<f32> = rng.vec(rows * len).iter().map(|x| x + 100.0).collect();
            let (scale, bias) = (rng.vec(len), rng.vec(len));
            for with in 0..4 {
                let scale = (with & 1 != 0).then_some(&scale[..]);
                let bias = (with & 2 != 0).then_some(&bias[..]);
                let mut expected = Vec::new();
                let mut expected_rms = Vec::new();
                for row in input.chunks(len) {
                    let (mean, variance) = reference_moments(row);
                    let square = row.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() / len as f64;
                    for (i, &x) in row.iter().enumerate() {
                        let s = scale.map_or(1.0, |s| f64::from(s[i]));
                        let b = bias.map_or(0.0, |b| f64::from(b[i]));
                        expected.push(((f64::from(x) - mean) / (variance + 1e-3).sqrt() * s + b) as f32);
                        expected_rms.push((f64::from(x) / (square + 1e-3).sqrt() * s) as f32);
                    }
                }
                let (mut means, mut factors, mut out) = ([0.0; 5], [0.0; 5], vec![0.0; rows * len]);
                let moments_out = RowMoments {
                    mean: Some(&mut means),
                    inverse_deviation: Some(&mut factors),
                };
                layer_norm(&input, &mut out, len, scale, bias, 1e-3, moments_out);
                assert_close(&out, &expected, 2e-3, &format!("layer norm of {len}"));
                let (mean, variance) = reference_moments(&input[4 * len..]);
                assert_close(&[means[4]], &[mean as f32], 1e-6, "mean");
                assert_close(
                    &[factors[4]],
                    &[(1.0 / (variance + 1e-3).sqrt()) as f32],
                    1e-3,
                    "deviation",
                );
                rms_norm(&input, &mut out, len, scale, 1e-3);
                assert_close(&out, &expected_rms, 1e-5, &format!("rms norm of {len}"));
            }
        }
        layer_norm(&[], &mut [], 0, None, None, 1e-5, RowMoments::default());
    }

    #[test]
    fn group_norm_matches_the_definition() {
        let mut rng = Rng::new(13);
        for (shape, groups) in [
            ([2, 6, 10], 3),
            ([1, 4, 1], 4),
            ([3, 4, 7], 1),
            ([2, 4, 0], 2),
            ([0, 4, 3], 2),
        ] {
            let [batch, channels, volume] = shape;
            let input = rng.vec(batch * channels * volume);
            let (scale, bias) = (rng.vec(channels), rng.vec(channels));
            let block = channels / groups * volume;
            let mut expected = Vec::new();
            for (i, &x) in input.iter().enumerate() {
                let (mean, variance) = reference_moments(&input[i / block * block..][..block]);
                let channel = i / volume % channels;
                let y = (f64::from(x) - mean) / (variance + 1e-5).sqrt();
                expected.push((y * f64::from(scale[channel]) + f64::from(bias[channel])) as f32);
            }
            let mut out = vec![f32::NAN; input.len()];
            group_norm(&input, &mut out, shape, groups, &scale, &bias, 1e-5);
            assert_close(&out, &expected, 1e-4, &format!("{shape:?} in {groups}"));
        }
    }

    #[test]
    fn batch_norm_folds_into_an_affine_map() {
        let (mut factor, mut shift) = ([0.0; 2], [0.0; 2]);
        batch_norm_affine(
            &[2.0, 1.0],
            &[1.0, 0.0],
            &[3.0, -1.0],
            &[4.0, 0.25],
            0.0,
            &mut factor,
            &mut shift,
        );
        let mut out = [0.0; 8];
        channel_affine(
            &[3.0, 5.0, 0.0, -1.0, 1.0, 3.0, 1.0, 0.0],
            &mut out,
            [2, 2, 2],
            &factor,
            &shift,
        );
        assert_eq!(out, [1.0, 3.0, 2.0, 0.0, -1.0, 1.0, 4.0, 2.0]);
    }

    #[test]
    fn local_response_norm_matches_the_definition() {
        let mut rng = Rng::new(14);
        for (size, beta) in [(1, 0.75), (2, 0.5), (3, 0.6), (4, 1.0), (5, 0.75), (20, 2.5)] {
            let [batch, channels, volume] = [2, 7, 1 + 3 * size];
            let input = rng.vec(batch * channels * volume);
            let p = LocalResponse {
                size,
                alpha: 0.5,
                beta,
                bias: 2.0,
            };
            let mut expected = Vec::new();
            for (i, &x) in input.iter().enumerate() {
                let c = (i / volume % channels) as isize;
                let low = c - (size as isize - 1) / 2;
                let high = c + size as isize / 2;
                let sum: f32 = (low..=high)
                    .filter(|near| (0..channels as isize).contains(near))
                    .map(|near| input[(i as isize + (near - c) * volume as isize) as usize].powi(2))
                    .sum();
                expected.push(x / (2.0 + 0.5 / size as f32 * sum).powf(beta));
            }
            let mut out = vec![f32::NAN; input.len()];
            for threads in [&Threads::SINGLE, &Threads::eager(3)] {
                local_response_norm(&input, &mut out, [batch, channels, volume], p, threads);
                assert_close(&out, &expected, 1e-5, &format!("size {size}, exponent {beta}"));
            }
        }
    }
}
