//! The im2col matrix of an image, one row per (input channel, kernel position), one column per output position. It is
//! never stored: the packing step of the matrix product gathers it block by block.

use std::ops::Range;

use super::{ConvParams, Spatial, inside};
use crate::cpu::gemm::{MAX_BLOCK_COLUMNS, NR, PackColumns, scatter_row};

pub(super) struct Im2col<'a> {
    params: &'a ConvParams,
    output: Spatial,
    /// The channels of one group of one image.
    input: &'a [f32],
}

impl<'a> Im2col<'a> {
    pub fn new(params: &'a ConvParams, output: Spatial, input: &'a [f32]) -> Self {
        Self { params, output, input }
    }
}

impl PackColumns for Im2col<'_> {
    fn pack(&self, depth: Range<usize>, cols: Range<usize>, out: &mut [f32]) {
        let params = self.params;
        let [_, out_h, out_w] = self.output;
        let [in_d, in_h, in_w] = params.input;
        let [_, kernel_h, kernel_w] = params.kernel;
        let panel_len = depth.len() * NR;
        let mut buffer = [0.0; MAX_BLOCK_COLUMNS];
        let row = &mut buffer[..cols.len()];
        for (i, k) in depth.enumerate() {
            let (rest, kx) = (k / kernel_w, k % kernel_w);
            let (rest, ky) = (rest / kernel_h, rest % kernel_h);
            let (channel, kz) = (rest / params.kernel[0], rest % params.kernel[0]);
            let offset = [kz, ky, kx];
            let offset: Spatial = std::array::from_fn(|axis| offset[axis] * params.dilations[axis]);
            let valid: [Range<usize>; 3] = std::array::from_fn(|axis| {
                inside(
                    params.input[axis],
                    params.strides[axis],
                    offset[axis],
                    params.pads_begin[axis],
                    self.output[axis],
                )
            });
            let source = |axis: usize, o: usize| o * params.strides[axis] + offset[axis] - params.pads_begin[axis];
            let mut x = cols.start % out_w;
            let mut y = cols.start / out_w % out_h;
            let mut z = cols.start / out_w / out_h;
            let mut place = 0;
            while place < row.len() {
                let len = (out_w - x).min(row.len() - place);
                let target = &mut row[place..place + len];
                let first = valid[2].start.clamp(x, x + len);
                let end = valid[2].end.clamp(first, x + len);
                if valid[0].contains(&z) && valid[1].contains(&y) && first < end {
                    let line = ((channel * in_d + source(0, z)) * in_h + source(1, y)) * in_w;
                    let start = line + source(2, first);
                    target[..first - x].fill(0.0);
                    target[end - x..].fill(0.0);
                    gather(&self.input[start..], params.strides[2], &mut target[first - x..end - x]);
                } else {
                    target.fill(0.0);
                }
                place += len;
                x = 0;
                y += 1;
                if y == out_h {
                    y = 0;
                    z += 1;
                }
            }
            scatter_row(row, &mut out[i * NR..], panel_len);
        }
    }
}

#[inline(always)]
fn gather(source: &[f32], stride: usize, target: &mut [f32]) {
    if stride == 1 {
        target.copy_from_slice(&source[..target.len()]);
    } else {
        for (value, &from) in target.iter_mut().zip(source.iter().step_by(stride)) {
            *value = from;
        }
    }
}
