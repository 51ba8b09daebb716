//! Depthwise convolution by 3×3 filters, of stride 1 or 2 and padded by at most one, as most networks for small devices
//! have them. The filter stays in registers over whole lines; lines of the image are read where they lie, each value once
//! for all lines of outputs that are computed together. What would lie outside comes from a line of zeros, or is shifted in.

use super::Filter;
use crate::cpu::conv::ConvParams;
use crate::cpu::simd::{F32x4, LANES};

/// How many lines of outputs are computed together.
const LINES: usize = 4;
/// The lines of the image that they read, at stride 2.
const MOST_LINES: usize = 2 * LINES + 1;

/// A plan for the planes of one convolution.
#[derive(Clone, Copy, Debug)]
pub(super) struct Three {
    stride: usize,
    /// Height and width of the image and of the output.
    input: [usize; 2],
    output: [usize; 2],
    /// How many lines and columns are outside before the first.
    pads: [usize; 2],
    /// Whether the last column of the outputs reads one column behind the image.
    reads_behind: bool,
}

impl Three {
    /// `None` unless the filters are of this kind, and the planes of outputs large enough.
    pub fn new(params: &ConvParams) -> Option<Self> {
        let [_, height, width] = params.output();
        let [_, stride, stride_w] = params.strides;
        let fits = params.in_channels == params.groups
            && params.kernel == [1, 3, 3]
            && params.dilations[1..] == [1, 1]
            && stride == stride_w
            && matches!(stride, 1 | 2)
            && params.pads_begin[1..]
                .iter()
                .chain(&params.pads_end[1..])
                .all(|&pad| pad <= 1)
            && height >= LINES
            && width > LANES;
        let [_, in_h, in_w] = params.input;
        let reach = (width.max(1) - 1) * stride + 3;
        fits.then(|| Self {
            stride,
            input: [in_h, in_w],
            output: [height, width],
            pads: [params.pads_begin[1], params.pads_begin[2]],
            reads_behind: reach > in_w + params.pads_begin[2],
        })
    }

    /// How many zeros [`Self::run`] is given.
    pub fn zeros_len(&self) -> usize {
        self.input[1]
    }

    /// Convolves a plane; `zeros` is a line of them.
    pub fn run(&self, image: &[f32], zeros: &[f32], filter: &Filter, output: &mut [f32]) {
        let image = &image[..self.input[0] * self.input[1]];
        let zeros = &zeros[..self.input[1]];
        let output = &mut output[..self.output[0] * self.output[1]];
        match self.stride {
            1 => self.lines::<1>(image, zeros, filter, output),
            _ => self.lines::<2>(image, zeros, filter, output),
        }
    }

    /// All lines, at stride `S`. The last ones begin early enough to end with the plane.
    #[inline(never)]
    fn lines<const S: usize>(&self, image: &[f32], zeros: &[f32], filter: &Filter, output: &mut [f32]) {
        let [height, width] = self.output;
        let weights = std::array::from_fn(|tap| F32x4::splat(filter.weights[tap]));
        let mut row = 0;
        loop {
            let mut lines = [zeros.as_ptr(); MOST_LINES];
            for (line, pointer) in lines[..(LINES - 1) * S + 3].iter_mut().enumerate() {
                let y = (row * S + line).wrapping_sub(self.pads[0]);
                if y < self.input[0] {
                    *pointer = image[y * self.input[1]..].as_ptr();
                }
            }
            let mut x = 0;
            loop {
                let (first, last) = (x == 0 && self.pads[1] == 1, x == width - LANES);
                let from = x * S - if first { 0 } else { self.pads[1] };
                // SAFETY: every line has the image's width, and only the first and last vectors reach beyond it, or to its end.
                let mut sums = unsafe {
                    match (first, last) {
                        (true, _) => sums::<S, true, false>(&lines, from, &weights, filter.bias, self.reads_behind),
                        (_, true) => sums::<S, false, true>(&lines, from, &weights, filter.bias, self.reads_behind),
                        _ => sums::<S, false, false>(&lines, from, &weights, filter.bias, self.reads_behind),
                    }
                };
                if let Some(clamp) = filter.clamp {
                    let (min, max) = (F32x4::splat(clamp.min), F32x4::splat(clamp.max));
                    sums = sums.map(|sum| sum.at_least(min).at_most(max));
                }
                for (r, sum) in sums.iter().enumerate() {
                    // SAFETY: so many lines from `row` on, and a vector's columns from `x` on, are in the output.
                    unsafe { sum.store_ptr(output.as_mut_ptr().add((row + r) * width + x)) };
                }
                if x == width - LANES {
                    break;
                }
                x = (x + LANES).min(width - LANES);
            }
            if row == height - LINES {
                break;
            }
            row = (row + LINES).min(height - LINES);
        }
    }
}

/// A vector of each line of outputs, whose windows begin at column `from` of the image, or one before (`FIRST`). The
/// windows of the `LAST` one may end with the image, or one column `behind` it.
///
/// # Safety
/// What the windows take in of the first `(LINES - 1) * S + 3` lines is readable, but for what is said to be outside.
#[inline(always)]
unsafe fn sums<const S: usize, const FIRST: bool, const LAST: bool>(
    lines: &[*const f32; MOST_LINES],
    from: usize,
    weights: &[F32x4; 9],
    bias: f32,
    behind: bool,
) -> [F32x4; LINES] {
    let mut sums = [F32x4::splat(bias); LINES];
    // SAFETY: the caller's promise.
    let columns = |line: usize| unsafe { columns::<S, FIRST, LAST>(lines[line].add(from), behind) };
    let add = |sum: &mut F32x4, columns: [F32x4; 3], row: usize| {
        *sum = columns[0].mul_add(weights[3 * row], *sum);
        *sum = columns[1].mul_add(weights[3 * row + 1], *sum);
        *sum = columns[2].mul_add(weights[3 * row + 2], *sum);
    };
    if S == 2 {
        let mut shared = columns(0);
        for (r, sum) in sums.iter_mut().enumerate() {
            add(sum, shared, 0);
            add(sum, columns(2 * r + 1), 1);
            shared = columns(2 * r + 2);
            add(sum, shared, 2);
        }
    } else {
        for line in 0..LINES + 2 {
            let columns = columns(line);
            for (r, sum) in sums.iter_mut().enumerate() {
                if line >= r && line < r + 3 {
                    add(sum, columns, line - r);
                }
            }
        }
    }
    sums
}

/// What four windows see of a line: their first, second and third columns.
///
/// # Safety
/// As of [`sums`].
#[inline(always)]
unsafe fn columns<const S: usize, const FIRST: bool, const LAST: bool>(at: *const f32, behind: bool) -> [F32x4; 3] {
    let zero = F32x4::zero();
    // SAFETY: the caller's promise; at the edges nothing outside is read.
    unsafe {
        if S == 1 {
            let second = F32x4::load_ptr(at.add(usize::from(!FIRST)));
            let first = if FIRST { second.after(zero) } else { F32x4::load_ptr(at) };
            let third = if LAST && behind {
                second.before(zero)
            } else {
                F32x4::load_ptr(at.add(2 - usize::from(FIRST)))
            };
            return [first, second, third];
        }
        // Eight columns, every other one of which is a window's first, and the one behind them.
        let back = usize::from(FIRST);
        let head = F32x4::load_ptr(at);
        let head = if FIRST { head.after(zero) } else { head };
        let [first, second] = F32x4::unzip(head, F32x4::load_ptr(at.add(LANES - back)));
        // Reading both vectors of the third columns would go one further than the last window does.
        let third = if LAST {
            first.before(if behind {
                zero
            } else {
                F32x4::load_ptr(at.add(LANES + 1))
            })
        } else {
            F32x4::unzip(F32x4::load_ptr(at.add(2 - back)), F32x4::load_ptr(at.add(6 - back)))[0]
        };
        [first, second, third]
    }
}
