//! Max, average and Lp pooling over one to three spatial axes, and their global forms. For f32 maxima, the
//! lines under a line of the output become one line of column results, which is then folded across, four outputs at a
//! time. The others add kernel positions to whole lines of the output. Either way, no inner loop checks borders.

use std::ops::Range;

use crate::cpu::conv::{Spatial, inside, volume};
use crate::cpu::simd::{F32x4, LANES};
use crate::cpu::threads::{Disjoint, PerThread, Threads};

/// The concrete sizes of a pooling.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolParams {
    /// Images × channels.
    pub planes: usize,
    pub input: Spatial,
    pub output: Spatial,
    pub kernel: Spatial,
    pub strides: Spatial,
    pub dilations: Spatial,
    pub pads_begin: Spatial,
    pub pads_end: Spatial,
}

/// How the last window of an axis is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rounding {
    /// Only windows that fit.
    Floor,
    /// Also a window that begins within the input or the front padding but reaches beyond the end (`ceil_mode`).
    Ceil,
}

/// The number of windows along one axis (ONNX pooling with explicit pads).
pub fn pooled_len(
    input: usize,
    kernel: usize,
    stride: usize,
    dilation: usize,
    pads: (usize, usize),
    rounding: Rounding,
) -> usize {
    let padded = input.saturating_add(pads.0).saturating_add(pads.1);
    let extent = dilation.saturating_mul(kernel.max(1) - 1).saturating_add(1);
    if padded < extent || stride == 0 {
        return 0;
    }
    match rounding {
        Rounding::Floor => (padded - extent) / stride + 1,
        Rounding::Ceil => {
            let windows = (padded - extent).div_ceil(stride) + 1;
            // A window that would begin in the padding behind the input is left out.
            if (windows - 1) * stride >= input + pads.0 {
                windows - 1
            } else {
                windows
            }
        }
    }
}

/// Which positions an average divides by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AverageCount {
    /// Only positions within the input.
    Inside,
    /// Also positions in the padding (`count_include_pad`), though not those beyond it.
    WithPadding,
}

/// Element types of max pooling.
pub trait PoolElement: Copy + PartialOrd + Send + Sync + 'static {
    /// What a window that lies wholly in the padding gives.
    const LOWEST: Self;
}

macro_rules! pool_elements {
    ($($type:ty: $lowest:expr),*) => {$(impl PoolElement for $type { const LOWEST: Self = $lowest; })*};
}

pool_elements!(f32: f32::NEG_INFINITY, f64: f64::NEG_INFINITY);

impl PoolParams {
    fn input_place(&self, axis: usize, output: usize, tap: usize) -> usize {
        output * self.strides[axis] + tap * self.dilations[axis] - self.pads_begin[axis]
    }

    /// The outputs along `axis` for which kernel position `tap` lies within the input.
    fn inside(&self, axis: usize, tap: usize) -> Range<usize> {
        let offset = tap * self.dilations[axis];
        inside(
            self.input[axis],
            self.strides[axis],
            offset,
            self.pads_begin[axis],
            self.output[axis],
        )
    }

    /// The kernel positions along `axis` that output `output` finds within the input.
    fn taps(&self, axis: usize, output: usize) -> Range<usize> {
        let (pad, dilation) = (self.pads_begin[axis], self.dilations[axis].max(1));
        let place = output * self.strides[axis];
        let end = (pad + self.input[axis])
            .saturating_sub(place)
            .div_ceil(dilation)
            .min(self.kernel[axis]);
        pad.saturating_sub(place).div_ceil(dilation).min(end)..end
    }

    /// How many positions of the window of output `output` count along `axis`.
    fn count(&self, axis: usize, output: usize, count: AverageCount) -> usize {
        match count {
            AverageCount::Inside => self.taps(axis, output).len(),
            AverageCount::WithPadding => {
                let end = self.pads_begin[axis] + self.input[axis] + self.pads_end[axis];
                let place = output * self.strides[axis];
                end.saturating_sub(place)
                    .div_ceil(self.dilations[axis].max(1))
                    .min(self.kernel[axis])
            }
        }
    }

    /// Calls `step(place of the output line, outputs along the line, place of the first input)` for every line of the
    /// output and every kernel position that lies inside for some of its outputs.
    fn for_lines(&self, mut step: impl FnMut(usize, Range<usize>, usize)) {
        let [out_d, out_h, out_w] = self.output;
        let [_, in_h, in_w] = self.input;
        for z in 0..out_d {
            for y in 0..out_h {
                for kz in self.taps(0, z) {
                    for ky in self.taps(1, y) {
                        let line = (self.input_place(0, z, kz) * in_h + self.input_place(1, y, ky)) * in_w;
                        for kx in 0..self.taps(2, 0).end {
                            let outputs = self.inside(2, kx);
                            if !outputs.is_empty() {
                                let first = line + self.input_place(2, outputs.start, kx);
                                step((z * out_h + y) * out_w, outputs, first);
                            }
                        }
                    }
                }
            }
        }
    }

    fn for_planes<T, U>(&self, input: &[T], out: &mut [U], mut plane: impl FnMut(usize, &[T], &mut [U])) {
        let (from, to) = (volume(self.input), volume(self.output));
        if to == 0 {
            return;
        }
        let input = &input[..self.planes * from];
        for (index, out) in out[..self.planes * to].chunks_exact_mut(to).enumerate() {
            plane(index, &input[index * from..(index + 1) * from], out);
        }
    }
}

/// Folds `step` over the inputs of each output of a line.
#[inline(always)]
fn fold_line<T: Copy, U>(out: &mut [U], input: &[T], stride: usize, step: impl Fn(&mut U, T)) {
    if stride == 1 {
        out.iter_mut().zip(input).for_each(|(sum, &value)| step(sum, value));
    } else {
        out.iter_mut()
            .zip(input.iter().step_by(stride))
            .for_each(|(sum, &value)| step(sum, value));
    }
}

/// How much scratch memory [`max_pool`] needs, in f32: a line of the padded input.
pub fn pool_scratch_len(params: &PoolParams) -> usize {
    let reach = (params.kernel[2].max(1) - 1).saturating_mul(params.dilations[2]);
    let columns = (params.output[2].max(1) - 1).saturating_mul(params.strides[2]);
    // The last step of four outputs reads beyond its last window.
    columns.saturating_add(reach).saturating_add(1 + 4 * LANES)
}

/// The largest values of windows, lines first.
struct Largest;

impl Largest {
    /// Folds all windows of all planes. `scratch` has [`pool_scratch_len`] places for each thread.
    #[inline(never)]
    fn windows(params: &PoolParams, input: &[f32], out: &mut [f32], scratch: &mut [f32], threads: &Threads) {
        let (from, to) = (volume(params.input), volume(params.output));
        if to == 0 {
            return;
        }
        let input = &input[..params.planes * from];
        let out = Disjoint::new(&mut out[..params.planes * to]);
        let lines = PerThread::new(scratch, pool_scratch_len(params));
        let split = threads.split(params.planes, from + to * params.kernel[2]);
        threads.run(split.parts, &|part| {
            // SAFETY: the piece of the thread that runs this part.
            let line = unsafe { lines.of(part) };
            line.fill(f32::NEG_INFINITY);
            for plane in split.range(part.index) {
                // SAFETY: each plane belongs to one part.
                let out = unsafe { out.slice(plane * to..(plane + 1) * to) };
                Largest::plane(params, &input[plane * from..(plane + 1) * from], out, line);
            }
        });
    }

    /// One plane. The borders of `line` hold the lowest value.
    fn plane(params: &PoolParams, input: &[f32], out: &mut [f32], line: &mut [f32]) {
        let [_, in_h, in_w] = params.input;
        let [_, out_h, out_w] = params.output;
        let pad = params.pads_begin[2].min(line.len());
        let width = in_w.min(line.len() - pad);
        let across = match (params.kernel[2], params.strides[2]) {
            (2, 1) => Largest::across::<2, 1>,
            (2, 2) => Largest::across::<2, 2>,
            (3, 1) => Largest::across::<3, 1>,
            (3, 2) => Largest::across::<3, 2>,
            (_, 1) => Largest::across::<0, 1>,
            (_, 2) => Largest::across::<0, 2>,
            _ => Largest::across::<0, 0>,
        };
        for (index, out) in out.chunks_exact_mut(out_w).enumerate() {
            let (depths, rows) = (params.taps(0, index / out_h), params.taps(1, index % out_h));
            let column = &mut line[pad..pad + width];
            if depths.is_empty() || rows.is_empty() {
                column.fill(f32::NEG_INFINITY);
            }
            for z in depths.clone() {
                let z_first = z == depths.start;
                let z = params.input_place(0, index / out_h, z) * in_h;
                // Three lines at a time; those that are not there are read again.
                for first in rows.clone().step_by(3) {
                    let at = |tap: usize| {
                        let y = params.input_place(1, index % out_h, (first + tap).min(rows.end - 1));
                        &input[(z + y) * in_w..][..width]
                    };
                    Largest::down(column, [at(0), at(1), at(2)], z_first && first == rows.start);
                }
            }
            across(params, line, out);
        }
    }

    /// The largest of three lines, and of what stands in `column` unless it is fresh.
    #[inline(never)]
    fn down(column: &mut [f32], lines: [&[f32]; 3], fresh: bool) {
        let [a, b, c] = lines.map(|line| &line[..column.len()]);
        let mut x = 0;
        while x < column.len() {
            if column.len() < LANES {
                let mut largest = max_of(a[x], max_of(b[x], c[x]));
                if !fresh {
                    largest = max_of(column[x], largest);
                }
                column[x] = largest;
                x += 1;
                continue;
            }
            // The last vector begins early enough to end with the lines.
            let at = x.min(column.len() - LANES);
            let load = |line: &[f32]| F32x4::load(&line[at..]);
            let mut largest = load(a).at_least(load(b)).at_least(load(c));
            if !fresh {
                largest = largest.at_least(load(column));
            }
            largest.store(&mut column[at..]);
            x += LANES;
        }
    }

    /// Folds the windows along a line of column results; `K` and `S` are the kernel's size and stride where not 0.
    #[inline(never)]
    fn across<const K: usize, const S: usize>(params: &PoolParams, line: &[f32], out: &mut [f32]) {
        let stride = params.strides[2];
        let (kernel, dilation) = (if K > 0 { K } else { params.kernel[2].max(1) }, params.dilations[2]);
        let reach = (kernel - 1) * dilation;
        // What the last vectors read, see `pool_scratch_len`.
        assert!((out.len() - 1) * stride + reach + 2 * LANES <= line.len());
        // SAFETY: called below for places whose windows end within the line, as was asserted.
        let windows = |first: usize| unsafe {
            let at = line.as_ptr().add(first);
            let mut largest = F32x4::load_ptr(at);
            for tap in 1..kernel {
                largest = largest.at_least(F32x4::load_ptr(at.add(tap * dilation)));
            }
            largest
        };
        for (step, out) in out.chunks_mut(LANES).enumerate() {
            let first = step * LANES * stride;
            let result = match S {
                1 => windows(first),
                // Every other of two vectors, of which the second begins where the first one's last window does.
                2 => F32x4::even_odd(windows(first), windows(first + LANES - 1)),
                _ => F32x4::from_array(std::array::from_fn(|lane| {
                    let taps = line
                        .get(first + lane * stride..)
                        .unwrap_or(&[])
                        .iter()
                        .step_by(dilation);
                    taps.take(kernel)
                        .fold(f32::NEG_INFINITY, |largest, &value| max_of(largest, value))
                })),
            };
            match out.as_chunks_mut::<LANES>().0 {
                [out] => result.store(out),
                _ => result.store_partial(out),
            }
        }
    }
}

/// As [`F32x4::at_least`].
#[inline(always)]
fn max_of(a: f32, b: f32) -> f32 {
    if a < b { b } else { a }
}

/// The largest value of each window. A NaN in a window may or may not be seen, as in ONNX Runtime. `scratch` has
/// [`pool_scratch_len`] places for each thread.
///
/// # Panics
/// When a slice is too short.
pub fn max_pool(params: &PoolParams, input: &[f32], out: &mut [f32], scratch: &mut [f32], threads: &Threads) {
    Largest::windows(params, input, out, scratch, threads);
}

/// In which order [`max_pool_indices`] numbers the places of a plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StorageOrder {
    RowMajor,
    ColumnMajor,
}

/// As [`max_pool`], with the place of each maximum (the first of equals) in the whole input.
/// A window without input has index -1.
///
/// # Panics
/// When a slice is too short.
pub fn max_pool_indices<T: PoolElement>(
    params: &PoolParams,
    input: &[T],
    out: &mut [T],
    indices: &mut [i64],
    order: StorageOrder,
) {
    let (positions, volume_in) = (volume(params.output), volume(params.input));
    let [in_d, in_h, in_w] = params.input;
    params.for_planes(input, out, |plane, input, out| {
        out.fill(T::LOWEST);
        let indices = &mut indices[plane * positions..(plane + 1) * positions];
        indices.fill(-1);
        params.for_lines(|line, outputs, first| {
            for (step, x) in outputs.enumerate() {
                let place = first + step * params.strides[2];
                let seen = indices[line + x] >= 0;
                if !seen || input[place] > out[line + x] {
                    out[line + x] = input[place];
                    indices[line + x] = place as i64;
                }
            }
        });
        for index in indices.iter_mut().filter(|index| **index >= 0) {
            let place = *index as usize;
            let place = match order {
                StorageOrder::RowMajor => place,
                StorageOrder::ColumnMajor => {
                    let (z, y, x) = (place / in_w / in_h, place / in_w % in_h, place % in_w);
                    (x * in_h + y) * in_d + z
                }
            };
            *index = (plane * volume_in + place) as i64;
        }
    });
}

/// An average pooling with its divisors.
#[derive(Clone, Debug)]
pub struct AveragePool {
    params: PoolParams,
    /// Per axis and output, 1 / the positions that count.
    factors: [Box<[f32]>; 3],
    /// The outputs of a line whose windows do not reach beyond the input's sides; none where that is not worth knowing.
    whole: Range<usize>,
}

impl AveragePool {
    pub fn new(params: PoolParams, count: AverageCount) -> Self {
        let factors = std::array::from_fn(|axis| {
            let factor = |output| 1.0 / params.count(axis, output, count).max(1) as f32;
            (0..params.output[axis]).map(factor).collect()
        });
        let (first, last) = (params.inside(2, 0), params.inside(2, params.kernel[2].max(1) - 1));
        let mut whole = first.start.max(last.start)..first.end.min(last.end);
        if params.strides[2] > 2 || params.kernel[2] == 0 || whole.end < whole.start + LANES {
            whole = 0..0;
        }
        Self { params, factors, whole }
    }

    /// The average of each window; 0 where no position counts. Values are added in the order of the definition: a
    /// quantised average that lies half-way between two steps is rounded as by others.
    ///
    /// # Panics
    /// When a slice is too short.
    pub fn run(&self, input: &[f32], out: &mut [f32], threads: &Threads) {
        let params = &self.params;
        let (from, to) = (volume(params.input), volume(params.output));
        let out_w = params.output[2];
        let out = &mut out[..params.planes * to];
        threads.rows_mut(out, to, to * volume(params.kernel), |first, out| {
            for (plane, out) in out.chunks_exact_mut(to).enumerate() {
                let input = &input[(first + plane) * from..][..from];
                for (line, out) in out.chunks_exact_mut(out_w).enumerate() {
                    self.line(input, line, out);
                }
            }
        });
    }

    /// One line of the output, four windows at a time where they do not reach beyond the input's sides.
    #[inline(never)]
    fn line(&self, input: &[f32], line: usize, out: &mut [f32]) {
        let params = &self.params;
        let ([_, in_h, in_w], stride, dilation) = (params.input, params.strides[2], params.dilations[2]);
        let (z, y) = (line / params.output[1], line % params.output[1]);
        let (depths, rows) = (params.taps(0, z), params.taps(1, y));
        let factor = self.factors[0][z] * self.factors[1][y];
        let factors = &self.factors[2][..out.len()];
        let line_at = |kz, ky| (params.input_place(0, z, kz) * in_h + params.input_place(1, y, ky)) * in_w;
        let (mut x, whole) = (0, &self.whole);
        while x < out.len() {
            if whole.contains(&x) {
                // The last vector begins early enough to end with those windows.
                let at = x.min(whole.end - LANES);
                let first = at * stride - params.pads_begin[2];
                let last = first + (params.kernel[2] - 1) * dilation + (LANES - 1) * stride;
                assert!(last < in_w, "the windows reach beyond the line");
                let mut sums = F32x4::zero();
                for kz in depths.clone() {
                    for ky in rows.clone() {
                        let line = &input[line_at(kz, ky)..][..in_w];
                        for tap in 0..params.kernel[2] {
                            // SAFETY: the last place that is read, of the last tap, lies in the line, as was asserted.
                            sums += unsafe {
                                let from = line.as_ptr().add(first + tap * dilation);
                                match stride {
                                    1 => F32x4::load_ptr(from),
                                    _ => F32x4::even_odd(F32x4::load_ptr(from), F32x4::load_ptr(from.add(LANES - 1))),
                                }
                            };
                        }
                    }
                }
                (sums * (F32x4::splat(factor) * F32x4::load(&factors[at..]))).store(&mut out[at..]);
                x = at + LANES;
                continue;
            }
            let (taps, mut sum) = (params.taps(2, x), 0.0);
            for kz in depths.clone() {
                for ky in rows.clone() {
                    let line = line_at(kz, ky);
                    for kx in taps.clone() {
                        sum += input[line + params.input_place(2, x, kx)];
                    }
                }
            }
            out[x] = sum * (factor * factors[x]);
            x += 1;
        }
    }
}

/// The p-norm of each window: `(Σ |x|^p)^(1/p)`.
///
/// # Panics
/// When a slice is too short.
pub fn lp_pool(params: &PoolParams, p: u32, input: &[f32], out: &mut [f32]) {
    params.for_planes(input, out, |_, input, out| {
        out.fill(0.0);
        params.for_lines(|line, outputs, first| {
            let out = &mut out[line + outputs.start..line + outputs.end];
            let (input, stride) = (&input[first..], params.strides[2]);
            match p {
                1 => fold_line(out, input, stride, |sum, value| *sum += value.abs()),
                2 => fold_line(out, input, stride, |sum, value| *sum += value * value),
                _ => fold_line(out, input, stride, |sum, value| *sum += value.abs().powf(p as f32)),
            }
        });
        match p {
            1 => {}
            2 => out.iter_mut().for_each(|value| *value = value.sqrt()),
            _ => out.iter_mut().for_each(|value| *value = value.powf(1.0 / p as f32)),
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::testing::{Rng, assert_close};

    /// The inputs of a window: (place in the plane, value), and the number of positions within the padded input.
    fn window(params: &PoolParams, input: &[f32], plane: usize, output: usize) -> (Vec<(usize, f32)>, usize) {
        let unravel = |i: usize, size: Spatial| [i / size[2] / size[1], i / size[2] % size[1], i % size[2]];
        let o = unravel(output, params.output);
        let (mut values, mut padded) = (Vec::new(), 0);
        for tap in 0..volume(params.kernel) {
            let k = unravel(tap, params.kernel);
            let at: [isize; 3] = std::array::from_fn(|axis| {
                (o[axis] * params.strides[axis] + k[axis] * params.dilations[axis]) as isize
                    - params.pads_begin[axis] as isize
            });
            if (0..3).all(|axis| at[axis] < (params.input[axis] + params.pads_end[axis]) as isize) {
                padded += 1;
            }
            if (0..3).all(|axis| (0..params.input[axis] as isize).contains(&at[axis])) {
                let [z, y, x] = at.map(|i| i as usize);
                let place = (z * params.input[1] + y) * params.input[2] + x;
                values.push((place, input[plane * volume(params.input) + place]));
            }
        }
        (values, padded)
    }

    #[test]
    fn random_poolings_match_the_definition() {
        let (mut rng, threads) = (Rng::new(10), Threads::eager(3));
        for round in 0..300 {
            let axes = round % 3;
            let mut pick = |low, high, missing| -> Spatial {
                std::array::from_fn(|axis| if axis < 2 - axes { missing } else { rng.size(low, high) })
            };
            let (input, kernel, strides, dilations) = (pick(1, 19, 1), pick(1, 4, 1), pick(1, 3, 1), pick(1, 2, 1));
            let (pads_begin, pads_end) = (pick(0, 1, 0), pick(0, 1, 0));
            let rounding = if rng.bool() { Rounding::Ceil } else { Rounding::Floor };
            let output = std::array::from_fn(|a| {
                let pads = (pads_begin[a], pads_end[a]);
                pooled_len(input[a], kernel[a], strides[a], dilations[a], pads, rounding)
            });
            let planes = rng.size(0, 3);
            let params = PoolParams {
                planes,
                input,
                output,
                kernel,
                strides,
                dilations,
                pads_begin,
                pads_end,
            };
            let data = rng.vec(planes * volume(input));
            let positions = volume(output);
            let windows: Vec<_> = (0..planes * positions)
                .map(|i| (i / positions, window(&params, &data, i / positions, i % positions)))
                .collect();
            let what = format!("{params:?}");
            type OfWindow<'a> = &'a dyn Fn(&[(usize, f32)], usize) -> f32;
            let expected =
                |f: OfWindow| -> Vec<f32> { windows.iter().map(|(_, (values, padded))| f(values, *padded)).collect() };
            let mut out = vec![f32::NAN; windows.len()];

            let max = expected(&|values, _| values.iter().fold(f32::NEG_INFINITY, |max, v| max.max(v.1)));
            let mut scratch = vec![f32::NAN; 3 * pool_scratch_len(&params)];
            for threads in [&Threads::SINGLE, &threads] {
                max_pool(&params, &data, &mut out, &mut scratch, threads);
                assert_eq!(out, max, "max {what}");
            }

            let mut indices = vec![7; windows.len()];
            max_pool_indices(&params, &data, &mut out, &mut indices, StorageOrder::RowMajor);
            assert_eq!(out, max, "max {what}");
            for ((plane, (values, _)), (&index, &max)) in windows.iter().zip(indices.iter().zip(&max)) {
                let place = values
                    .iter()
                    .find(|v| v.1 == max)
                    .map(|v| (plane * volume(input) + v.0) as i64);
                assert_eq!(index, place.unwrap_or(-1), "indices {what}");
            }

            for (count, padded_too) in [(AverageCount::Inside, false), (AverageCount::WithPadding, true)] {
                let average = expected(&|values, padded| {
                    let count = if padded_too { padded } else { values.len() };
                    values.iter().map(|v| v.1).sum::<f32>() / count.max(1) as f32
                });
                AveragePool::new(params.clone(), count).run(&data, &mut out, &threads);
                assert_close(&out, &average, 1e-5, &format!("average {count:?} {what}"));
            }

            for p in 1..4u32 {
                let norm = expected(&|values, _| {
                    values
                        .iter()
                        .map(|v| v.1.abs().powi(p as i32))
                        .sum::<f32>()
                        .powf(1.0 / p as f32)
                });
                lp_pool(&params, p, &data, &mut out);
                assert_close(&out, &norm, 1e-5, &format!("l{p} {what}"));
            }
        }
    }

    #[test]
    fn ceil_mode_leaves_out_windows_in_the_end_padding() {
        assert_eq!(pooled_len(4, 3, 2, 1, (0, 0), Rounding::Floor), 1);
        assert_eq!(pooled_len(4, 3, 2, 1, (0, 0), Rounding::Ceil), 2);
        assert_eq!(pooled_len(2, 1, 3, 1, (0, 2), Rounding::Ceil), 1);
        assert_eq!(pooled_len(2, 5, 1, 1, (1, 1), Rounding::Floor), 0);
    }

    #[test]
    fn column_major_indices_number_columns_first() {
        let params = PoolParams {
            planes: 2,
            input: [1, 2, 3],
            output: [1, 1, 1],
            kernel: [1, 2, 3],
            strides: [1; 3],
            dilations: [1; 3],
            pads_begin: [0; 3],
            pads_end: [0; 3],
        };
        let (mut out, mut indices) = ([0f32; 2], [0; 2]);
        let input = [1, 2, 9, 3, 4, 5, 0, 0, 0, 0, 7, 0].map(|value: u8| f32::from(value));
        max_pool_indices(&params, &input, &mut out, &mut indices, StorageOrder::ColumnMajor);
        assert_eq!((out, indices), ([9.0, 7.0], [4, 6 + 3]));
    }
}
