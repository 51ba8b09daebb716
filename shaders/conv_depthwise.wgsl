// Convolution with one input channel per group, each thread POSITIONS output positions of one output channel, `width`
// apart, so that threads side by side read side by side.

@compute @workgroup_size($THREADS)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let width = params.width;
    let positions = params.out_height * params.out_width;
    let position = group.x * width * $POSITIONSu + local % width;
    if (position >= positions) {
        return;
    }
    let in_height = u32(params.in_height);
    let in_width = u32(params.in_width);
    // Positions beyond the last are computed and not stored; what lies before the image has a large number.
    //: for c in 0..POSITIONS
    let y$c = (position + $cu * width) / params.out_width * params.stride_y - u32(params.pad_top);
    let x$c = (position + $cu * width) % params.out_width * params.stride_x - u32(params.pad_left);
    //: end
    let step = $THREADSu / width;
    for (var to = group.y * step + local / width; to < params.planes; to += groups.y * step) {
        let channel = to % params.channels;
        let plane = (to / params.channels * params.in_channels + channel / params.multiplier) * params.plane;
        var weight = channel * params.kernel_height * params.kernel_width;
        //: if ADDEND
        let start = addend[channel];
        //: else
        let start = 0.0;
        //: end
        //: for c in 0..POSITIONS
        var value$c = start;
        //: end
        for (var kernel_y = 0u; kernel_y < params.kernel_height; kernel_y += 1u) {
            let tap_y = kernel_y * params.dilation_y;
            for (var kernel_x = 0u; kernel_x < params.kernel_width; kernel_x += 1u) {
                let tap_x = kernel_x * params.dilation_x;
                let w = weights[weight];
                //: for c in 0..POSITIONS
                let inside$c = (y$c + tap_y < in_height) & (x$c + tap_x < in_width);
                let at$c = select(0u, (y$c + tap_y) * in_width + x$c + tap_x, inside$c);
                value$c += select(0.0, input[plane + at$c], inside$c) * w;
                //: end
                weight += 1u;
            }
        }
        var values = array<f32, $POSITIONS>(
            //: for c in 0..POSITIONS
            value$c,
            //: end
        );
        for (var i = 0u; i < $POSITIONSu; i += 1u) {
            if (position + i * width < positions) {
                let index = to * positions + position + i * width;
                var value = values[i];
                //: if EPILOGUE
                value = epilogue(value, index);
                //: end
                output[index] = value;
            }
        }
    }
}
