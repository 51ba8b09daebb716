//! Convolution of 8-bit integers over one to three spatial axes, NCHW. A 1×1 convolution is a product with the image as it
//! is; others gather the im2col matrix in the packing step from a copy of the image that is padded with its zero point;
//! depthwise convolution has its own kernel.

use std::ops::Range;

use super::{
    ByteMatrix, PackRight, Weights, Zeros,
    depthwise::Depthwise,
    pack::{Columns, MatrixColumns, Side, pack_columns},
    product, product_scratch_len,
    store::Store,
    tile::NR,
};
use crate::cpu::{
    conv::{ConvParams, Spatial, volume},
    simd::{
        I32x4,
        bytes::{ByteDot, byte_dot},
    },
    threads::Threads,
};

/// Bytes behind the padded image that may be read.
const SPARE: usize = 16;

/// A convolution planned for concrete sizes.
#[derive(Clone, Debug)]
pub struct IntegerConv {
    params: ConvParams,
    output: Spatial,
    method: Method,
}

#[derive(Clone, Debug)]
enum Method {
    /// 1×1, stride 1, no pads.
    Pointwise,
    Im2col(Gather),
    /// One input channel per group, two-dimensional at most.
    Depthwise(Depthwise),
}

/// Weights in the layout of a plan.
#[derive(Clone, Debug)]
pub struct PackedWeights(Packed);

#[derive(Clone, Debug)]
enum Packed {
    /// One left factor per group.
    Groups(Box<[Weights]>),
    /// For each output channel its taps as 16-bit integers, two to a word.
    Taps(Box<[i32]>),
}

impl PackedWeights {
    /// Bytes of memory held.
    pub fn byte_len(&self) -> usize {
        match &self.0 {
            Packed::Groups(groups) => groups.iter().map(Weights::byte_len).sum(),
            Packed::Taps(taps) => taps.len() * 4,
        }
    }
}

impl IntegerConv {
    /// Chooses the method. Strides, dilations and groups are at least 1, and groups divide both channel counts. `None` when
    /// the sizes are beyond what can be addressed.
    pub fn new(params: ConvParams) -> Option<IntegerConv> {
        // What fits as f32 fits as bytes.
        if !params.fits() {
            return None;
        }
        let plain = params.kernel == [1; 3]
            && params.strides == [1; 3]
            && params.pads_begin == [0; 3]
            && params.pads_end == [0; 3];
        let method = if params.in_channels == params.groups && Depthwise::supports(&params) {
            Method::Depthwise(Depthwise::new(&params))
        } else if plain {
            Method::Pointwise
        } else {
            Method::Im2col(Gather::new(&params))
        };
        Some(IntegerConv {
            output: params.output(),
            params,
            method,
        })
    }

    /// Channels, depth and positions of each group's product.
    fn sizes(&self) -> (usize, usize, usize) {
        let params = &self.params;
        let depth = params.in_channels / params.groups * volume(params.kernel);
        (params.out_channels / params.groups, depth, volume(self.output))
    }

    /// Packs weights `[out_channels, in_channels / groups, ..kernel]`, whose zero points are one or one for each output
    /// channel.
    ///
    /// # Panics
    /// When there are too few weights or zero points.
    pub fn pack(&self, weights: ByteMatrix<'_>) -> PackedWeights {
        self.pack_for(byte_dot(), weights)
    }

    pub(super) fn pack_for(&self, dot: Option<ByteDot>, weights: ByteMatrix<'_>) -> PackedWeights {
        let (channels, depth, _) = self.sizes();
        if let Method::Depthwise(_) = self.method {
            return PackedWeights(Packed::Taps(Depthwise::pack(weights, self.params.out_channels, depth)));
        }
        let group = |group: usize| {
            let zeros = match weights.zeros {
                Zeros::Each(zeros) => Zeros::Each(&zeros[group * channels..]),
                one => one,
            };
            let data = &weights.data[group * channels * depth..][..channels * depth];
            Weights::left_for(dot, ByteMatrix { data, zeros, ..weights }, channels, depth)
        };
        PackedWeights(Packed::Groups((0..self.params.groups).map(group).collect()))
    }

    /// Whether weights of this operator that another plan packed fit this one.
    pub fn accepts(&self, weights: &PackedWeights) -> bool {
        matches!(
            (&self.method, &weights.0),
            (Method::Depthwise(_), Packed::Taps(_)) | (Method::Pointwise | Method::Im2col(_), Packed::Groups(_))
        )
    }

    /// How much scratch memory [`IntegerConv::run`] needs on so many threads, in i32.
    pub fn scratch_len(&self, threads: usize) -> usize {
        let (channels, depth, positions) = self.sizes();
        let product = product_scratch_len(channels, depth, positions);
        match &self.method {
            Method::Pointwise => threads * product,
            Method::Im2col(gather) => gather.image_words() + threads * product,
            Method::Depthwise(depthwise) => threads * depthwise.scratch_len(),
        }
    }

    /// Convolves `input` `[batch, in_channels, ..]`, of bytes with one zero point, into what `store` writes, rows being images
    /// × channels.
    ///
    /// # Panics
    /// When a slice is too short or the weights were packed for another kind of plan.
    pub fn run(
        &self,
        input: &[u8],
        (is_signed, zero): (bool, i32),
        weights: &PackedWeights,
        scratch: &mut [i32],
        store: &Store<'_>,
        threads: &Threads,
    ) {
        let params = &self.params;
        let (channels, _, positions) = self.sizes();
        if positions == 0 || params.out_channels == 0 {
            return;
        }
        let groups = match (&self.method, &weights.0) {
            (Method::Depthwise(depthwise), Packed::Taps(taps)) => {
                return depthwise.run(params, input, (is_signed, zero), taps, scratch, store, threads);
            }
            (Method::Pointwise | Method::Im2col(_), Packed::Groups(groups)) => groups,
            _ => panic!("the weights were packed for another kind of convolution"),
        };
        let in_channels = params.in_channels / params.groups;
        let image_len = in_channels * volume(params.input);
        for image in 0..params.batch {
            for (group, weights) in groups.iter().enumerate() {
                let input = &input[(image * params.groups + group) * image_len..][..image_len];
                let channel = group * channels;
                let store = store.part(image * params.out_channels + channel, channel);
                let number = (is_signed, zero);
                match &self.method {
                    Method::Im2col(gather) => {
                        let (image, scratch) = scratch.split_at_mut(gather.image_words());
                        let matrix = gather.matrix(input, zero as u8, bytemuck::cast_slice_mut(image));
                        product(weights, positions, number, &matrix, scratch, &store, threads);
                    }
                    _ => {
                        let matrix = Plain {
                            data: input,
                            depth: in_channels,
                            stride: positions,
                        };
                        product(weights, positions, number, &matrix, scratch, &store, threads);
                    }
                }
            }
        }
    }
}

/// The image itself as the right factor.
struct Plain<'a> {
    data: &'a [u8],
    depth: usize,
    stride: usize,
}

impl PackRight for Plain<'_> {
    fn pack(&self, side: Side<'_>, columns: Range<usize>, out: &mut [i32]) {
        if self.depth == 0 {
            return;
        }
        let panels = out.len() / columns.len().div_ceil(NR).max(1);
        for (first, out) in columns.clone().step_by(NR).zip(out.chunks_exact_mut(panels.max(1))) {
            let source = MatrixColumns {
                data: self.data,
                stride: self.stride,
                first,
                count: columns.end - first,
            };
            pack_columns(side, self.depth, first, &source, out);
        }
    }
}

/// How the im2col matrix is gathered.
#[derive(Clone, Debug)]
struct Gather {
    padded: Spatial,
    pads_begin: Spatial,
    input: Spatial,
    output: Spatial,
    strides: Spatial,
    channels: usize,
    /// Where each row of the matrix begins in the padded image.
    rows: Box<[usize]>,
}

impl Gather {
    fn new(params: &ConvParams) -> Gather {
        let padded: Spatial =
            std::array::from_fn(|axis| params.input[axis] + params.pads_begin[axis] + params.pads_end[axis]);
        let channels = params.in_channels / params.groups;
        let [kernel_d, kernel_h, kernel_w] = params.kernel;
        let [dz, dy, dx] = params.dilations;
        let window = volume(params.kernel);
        let row = |index: usize| {
            let (channel, tap) = (index / window, index % window);
            let (z, y, x) = (tap / kernel_w / kernel_h, tap / kernel_w % kernel_h, tap % kernel_w);
            debug_assert!(z < kernel_d);
            ((channel * padded[0] + z * dz) * padded[1] + y * dy) * padded[2] + x * dx
        };
        Gather {
            padded,
            pads_begin: params.pads_begin,
            input: params.input,
            output: params.output(),
            strides: params.strides,
            channels,
            rows: (0..channels * window).map(row).collect(),
        }
    }

    fn image_words(&self) -> usize {
        (self.channels * volume(self.padded) + SPARE).div_ceil(4)
    }

    /// Copies one group of one image into its padding.
    fn matrix<'a>(&'a self, input: &[u8], zero: u8, image: &'a mut [u8]) -> Im2col<'a> {
        let [in_d, in_h, in_w] = self.input;
        let [padded_d, padded_h, padded_w] = self.padded;
        let [pad_d, pad_h, pad_w] = self.pads_begin;
        if self.padded == self.input {
            image[..input.len()].copy_from_slice(input);
        } else {
            image.fill(zero);
            for (line, from) in input.chunks_exact(in_w.max(1)).enumerate() {
                let (plane, y) = (line / in_h, line % in_h);
                let (channel, z) = (plane / in_d, plane % in_d);
                let to = ((channel * padded_d + z + pad_d) * padded_h + y + pad_h) * padded_w + pad_w;
                image[to..to + in_w].copy_from_slice(from);
            }
        }
        Im2col { gather: self, image }
    }
}

struct Im2col<'a> {
    gather: &'a Gather,
    image: &'a [u8],
}

/// The bytes of eight neighbouring columns, from where a row of the matrix begins.
struct Run<'a>(&'a [u8], &'a [usize], usize);
/// Two runs: the bytes of the mask from the first place on, the others such that the last column is at the second's end.
struct TwoRuns<'a>(&'a [u8], &'a [usize], [usize; 2], I32x4);
/// Every second byte.
struct EverySecond<'a>(&'a [u8], &'a [usize], usize);
struct Anywhere<'a>(&'a [u8], &'a [usize], [usize; NR]);

impl Columns for Run<'_> {
    #[inline(always)]
    fn row(&self, depth: usize) -> I32x4 {
        let bytes = &self.0[self.1[depth] + self.2..][..NR];
        // SAFETY: eight bytes lie there.
        unsafe { I32x4::load_low(bytes.as_ptr()) }
    }
}

impl Columns for TwoRuns<'_> {
    #[inline(always)]
    fn row(&self, depth: usize) -> I32x4 {
        let [first, last] = self.2.map(|offset| &self.0[self.1[depth] + offset..][..NR]);
        // SAFETY: eight bytes lie at each place.
        let (first, last) = unsafe { (I32x4::load_low(first.as_ptr()), I32x4::load_low(last.as_ptr())) };
        last ^ ((first ^ last) & self.3)
    }
}

impl Columns for EverySecond<'_> {
    #[inline(always)]
    fn row(&self, depth: usize) -> I32x4 {
        let bytes = &self.0[self.1[depth] + self.2..][..2 * NR];
        // SAFETY: 16 bytes lie there.
        unsafe { I32x4::load_ptr(bytes.as_ptr()) }.even_bytes()
    }
}

impl Columns for Anywhere<'_> {
    #[inline(always)]
    fn row(&self, depth: usize) -> I32x4 {
        let image = &self.0[self.1[depth]..];
        let bytes = self.2.map(|offset| image[offset]);
        // SAFETY: the array holds eight bytes.
        unsafe { I32x4::load_low(bytes.as_ptr()) }
    }
}

impl PackRight for Im2col<'_> {
    fn pack(&self, side: Side<'_>, columns: Range<usize>, out: &mut [i32]) {
        let gather = self.gather;
        let (image, rows) = (self.image, &*gather.rows);
        if rows.is_empty() || columns.is_empty() {
            return;
        }
        let [_, out_h, out_w] = gather.output;
        let [_, padded_h, padded_w] = gather.padded;
        let panel_len = out.len() / columns.len().div_ceil(NR);
        let (mut x, mut y, mut z) = (
            columns.start % out_w,
            columns.start / out_w % out_h,
            columns.start / out_w / out_h,
        );
        let mut left = columns.len();
        let mut next = || {
            let at = |axis: usize, o: usize| o * gather.strides[axis];
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
        let depth = rows.len();
        for out in out.chunks_exact_mut(panel_len) {
            let offsets: [usize; NR] = std::array::from_fn(|_| next());
            let (first, last) = (offsets[0], offsets[NR - 1]);
            let follow = |stride: usize| (0..NR).all(|i| offsets[i] == first + i * stride);
            let in_first = |i: usize| offsets[i] == first + i;
            let in_last = |i: usize| offsets[i] + (NR - 1 - i) == last;
            if follow(1) {
                pack_columns(side, depth, 0, &Run(image, rows, first), out);
            } else if follow(2) {
                pack_columns(side, depth, 0, &EverySecond(image, rows, first), out);
            } else if last >= first + NR - 1 && (0..NR).all(|i| in_first(i) || in_last(i)) {
                let mut mask = [0u8; 16];
                (0..NR).for_each(|i| mask[i] = if in_first(i) { 255 } else { 0 });
                // SAFETY: the array holds 16 bytes.
                let mask = unsafe { I32x4::load_ptr(mask.as_ptr()) };
                pack_columns(
                    side,
                    depth,
                    0,
                    &TwoRuns(image, rows, [first, last - (NR - 1)], mask),
                    out,
                );
            } else {
                pack_columns(side, depth, 0, &Anywhere(image, rows, offsets), out);
            }
        }
    }
}

/// Sums of the whole convolution, for tests.
#[cfg(test)]
pub(super) fn run_with(
    conv: &IntegerConv,
    input: ByteMatrix<'_>,
    weights: &PackedWeights,
    out: &mut [i32],
    threads: &Threads,
) {
    use super::store::{Per, Target};
    let mut scratch = vec![i32::MAX; conv.scratch_len(threads.count())];
    let epilogue = crate::cpu::epilogue::Epilogue::none();
    let row_len = volume(conv.output);
    let store = Store::new(Target::Sums(out), row_len, Per::One(0), Per::One(1.0), &epilogue);
    conv.run(
        input.data,
        (input.is_signed, input.zeros.at(0)),
        weights,
        &mut scratch,
        &store,
        threads,
    );
}
