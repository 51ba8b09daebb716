//! The im2col matrix of an image, one row per (input channel, kernel position), one column per output position. It is
//! never stored: the packing step of the matrix product gathers it block by block. With padding, the image is copied
//! once into a zero-padded one, so that every element of the matrix is `image[row offset + column offset]`: row offsets
//! are a table made at plan time, and four neighbouring columns are mostly one or two vector loads.

use std::ops::Range;

use super::{ConvParams, Spatial, volume};
use crate::cpu::gemm::{LEAST_LINE, Lines, NR, PackColumns};
use crate::cpu::simd::{F32x4, I32x4, LANES, copy_short};
use crate::cpu::threads::Threads;

/// What is known at plan time.
#[derive(Clone, Debug)]
pub(super) struct Im2colPlan {
    /// The image with its padding.
    padded: Spatial,
    pads_begin: Spatial,
    input: Spatial,
    output: Spatial,
    strides: Spatial,
    /// Channels of one group.
    channels: usize,
    /// Where each row of the matrix begins in the padded image.
    rows: Box<[usize]>,
}

impl Im2colPlan {
    pub fn new(params: &ConvParams) -> Self {
        let padded: Spatial =
            std::array::from_fn(|axis| params.input[axis] + params.pads_begin[axis] + params.pads_end[axis]);
        let channels = params.in_channels / params.groups;
        let [kernel_d, kernel_h, kernel_w] = params.kernel;
        let mut rows = Vec::with_capacity(channels * volume(params.kernel));
        for channel in 0..channels {
            for z in 0..kernel_d {
                for y in 0..kernel_h {
                    let [dz, dy, dx] = params.dilations;
                    let line = ((channel * padded[0] + z * dz) * padded[1] + y * dy) * padded[2];
                    rows.extend((0..kernel_w).map(|x| line + x * dx));
                }
            }
        }
        Self {
            padded,
            pads_begin: params.pads_begin,
            input: params.input,
            output: params.output(),
            strides: params.strides,
            channels,
            rows: rows.into(),
        }
    }

    /// The length of the padded image of one group; 0 when the input itself serves.
    pub fn image_len(&self) -> usize {
        if self.padded == self.input {
            0
        } else {
            self.channels * volume(self.padded)
        }
    }

    /// The matrix of one group of one image. `image` holds [`Im2colPlan::image_len`] values.
    pub fn matrix<'a>(&'a self, input: &'a [f32], image: &'a mut [f32], threads: &Threads) -> Im2col<'a> {
        if image.is_empty() {
            return Im2col {
                plan: self,
                image: input,
            };
        }
        let [in_d, in_h, in_w] = self.input;
        let [_, padded_h, padded_w] = self.padded;
        let [pad_d, pad_h, pad_w] = self.pads_begin;
        let (len, padded_len) = (volume(self.input), volume(self.padded));
        threads.rows_mut(image, padded_len, padded_len / 2, |first, planes| {
            planes.fill(0.0);
            if len == 0 {
                return;
            }
            let inputs = input[first * len..].chunks_exact(len);
            for (input, plane) in inputs.zip(planes.chunks_exact_mut(padded_len)) {
                for (line, from) in input.chunks_exact(in_w).enumerate() {
                    let (z, y) = (line / in_h % in_d, line % in_h);
                    let to = ((z + pad_d) * padded_h + y + pad_h) * padded_w + pad_w;
                    copy_short(from, &mut plane[to..to + in_w]);
                }
            }
        });
        Im2col { plan: self, image }
    }
}

/// The im2col matrix of one group of one image.
pub(super) struct Im2col<'a> {
    plan: &'a Im2colPlan,
    image: &'a [f32],
}

impl<'a> Im2col<'a> {
    /// The same matrix for [`gemm_lines`](crate::cpu::gemm::gemm_lines), if that can read it.
    pub fn lines(&self) -> Option<Lines<'a>> {
        let plan = self.plan;
        let [depth, height, width] = plan.output;
        let [stride_d, stride_h, stride] = plan.strides;
        let fits = width >= LEAST_LINE && matches!(stride, 1 | 2);
        fits.then(|| Lines {
            image: self.image,
            rows: &plan.rows,
            lines: [depth, height],
            line_steps: [stride_d * plan.padded[1] * plan.padded[2], stride_h * plan.padded[2]],
            line_len: width,
            stride,
        })
    }
}

/// How four neighbouring columns are read, given the place of their row.
enum Columns {
    /// One run from this column offset.
    Run(usize),
    /// Two runs: the lanes of the mask from the first offset on, the others such that the last lane is at the second.
    TwoRuns(usize, usize, I32x4),
    /// Every second value from this offset.
    EverySecond(usize),
    Anywhere([usize; LANES]),
}

impl Columns {
    fn new(offsets: [usize; LANES]) -> Self {
        let [first, .., last] = offsets;
        let follow = |stride: usize| (0..LANES).all(|i| offsets[i] == first + i * stride);
        let in_first = |i: usize| offsets[i] == first + i;
        let in_last = |i: usize| offsets[i] + (LANES - 1 - i) == last;
        if follow(1) {
            Self::Run(first)
        } else if follow(2) {
            Self::EverySecond(first)
        } else if last >= first + (LANES - 1) && (0..LANES).all(|i| in_first(i) || in_last(i)) {
            let mask = std::array::from_fn(|i| if in_first(i) { u32::MAX } else { 0 });
            Self::TwoRuns(
                first,
                last - (LANES - 1),
                F32x4::from_array(mask.map(f32::from_bits)).to_bits(),
            )
        } else {
            Self::Anywhere(offsets)
        }
    }

    /// The furthest place that is read.
    fn reach(&self) -> usize {
        match self {
            Self::Run(first) => first + LANES - 1,
            Self::TwoRuns(first, last, _) => first.max(last) + LANES - 1,
            Self::EverySecond(first) => first + 2 * (LANES - 1),
            Self::Anywhere(offsets) => offsets.iter().copied().max().unwrap_or(0),
        }
    }

    /// Writes the columns of all `rows` to `out`, at every `NR`th place from `lane` on.
    fn gather(&self, image: &[f32], rows: &[usize], out: &mut [f32]) {
        let furthest = rows.iter().copied().max().unwrap_or(0) + self.reach();
        assert!(
            furthest < image.len(),
            "the image holds {} values, {furthest} is read",
            image.len()
        );
        // SAFETY: no row reads beyond `furthest`, which lies in the image.
        unsafe {
            let image = image.as_ptr();
            match *self {
                Self::Run(first) => {
                    for (place, row) in out.chunks_mut(NR).zip(rows) {
                        F32x4::load_ptr(image.add(row + first)).store(place);
                    }
                }
                Self::TwoRuns(first, last, mask) => {
                    for (place, row) in out.chunks_mut(NR).zip(rows) {
                        let (first, last) = (image.add(row + first), image.add(row + last));
                        mask.select(F32x4::load_ptr(first), F32x4::load_ptr(last)).store(place);
                    }
                }
                Self::EverySecond(first) => {
                    for (place, row) in out.chunks_mut(NR).zip(rows) {
                        // The second vector begins one early, so that it ends with the last value that is wanted.
                        let (a, b) = (image.add(row + first), image.add(row + first + LANES - 1));
                        F32x4::even_odd(F32x4::load_ptr(a), F32x4::load_ptr(b)).store(place);
                    }
                }
                Self::Anywhere(offsets) => {
                    let mut row = 0;
                    while row < rows.len() {
                        let out = &mut out[row * NR..];
                        let at = |lane: usize| image.add(rows[row] + offsets[lane]);
                        // Rows that follow each other in the image, as those along a kernel do, are transposed.
                        if (1..LANES).all(|next| rows.get(row + next) == Some(&(rows[row] + next))) {
                            let columns = std::array::from_fn(|lane| F32x4::load_ptr(at(lane)));
                            for (i, values) in F32x4::transpose(columns).into_iter().enumerate() {
                                values.store(&mut out[i * NR..]);
                            }
                            row += LANES;
                        } else {
                            for lane in 0..LANES {
                                out[lane] = *at(lane);
                            }
                            row += 1;
                        }
                    }
                }
            }
        }
    }
}

impl PackColumns for Im2col<'_> {
    fn pack(&self, depth: Range<usize>, cols: Range<usize>, out: &mut [f32]) {
        let plan = self.plan;
        let [_, out_h, out_w] = plan.output;
        let [_, padded_h, padded_w] = plan.padded;
        let panel_len = depth.len() * NR;
        let rows = &plan.rows[depth];
        if panel_len == 0 || cols.is_empty() {
            return;
        }
        let (mut x, mut y, mut z) = (
            cols.start % out_w,
            cols.start / out_w % out_h,
            cols.start / out_w / out_h,
        );
        let mut left = cols.len();
        let mut next = || {
            let at = |axis: usize, o: usize| o * plan.strides[axis];
            let offset = (at(0, z) * padded_h + at(1, y)) * padded_w + at(2, x);
            // Columns past the end repeat the last one: their results are dropped.
            if left > 1 {
                left -= 1;
                x += 1;
                if x == out_w {
                    (x, y) = (0, y + 1);
                }
                if y == out_h {
                    (y, z) = (0, z + 1);
                }
            }
            offset
        };
        for panel in out.chunks_exact_mut(panel_len) {
            for lane in (0..NR).step_by(LANES) {
                let offsets = std::array::from_fn(|_| next());
                Columns::new(offsets).gather(self.image, rows, &mut panel[lane..]);
            }
        }
    }
}
