// Max or average pooling, each thread POSITIONS output positions of one channel, `width` apart, so that threads side by
// side read side by side.

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
        let plane = to * params.plane;
        //: for c in 0..POSITIONS
        //: if MAX
        var value$c = params.lowest;
        //: else
        var value$c = 0.0;
        var counted$c = 0.0;
        //: end
        //: end
        for (var kernel_y = 0u; kernel_y < params.kernel_height; kernel_y += 1u) {
            let tap_y = kernel_y * params.dilation_y;
            for (var kernel_x = 0u; kernel_x < params.kernel_width; kernel_x += 1u) {
                let tap_x = kernel_x * params.dilation_x;
                //: for c in 0..POSITIONS
                let inside$c = (y$c + tap_y < in_height) & (x$c + tap_x < in_width);
                let at$c = select(0u, (y$c + tap_y) * in_width + x$c + tap_x, inside$c);
                let element$c = input[plane + at$c];
                //: if MAX
                // NaN is passed over, as on the CPU.
                value$c = select(value$c, element$c, inside$c & (element$c > value$c));
                //: else
                value$c += select(0.0, element$c, inside$c);
                //: if COUNTPADDING
                // Padding counts, what lies beyond it (from rounding the output size up) does not.
                let counts$c = (i32(y$c + tap_y) < params.in_height + params.pad_bottom)
                    & (i32(x$c + tap_x) < params.in_width + params.pad_right);
                counted$c += select(0.0, 1.0, counts$c);
                //: else
                counted$c += select(0.0, 1.0, inside$c);
                //: end
                //: end
                //: end
            }
        }
        var values = array<f32, $POSITIONS>(
            //: for c in 0..POSITIONS
            //: if MAX
            value$c,
            //: else
            value$c / max(counted$c, 1.0),
            //: end
            //: end
        );
        for (var i = 0u; i < $POSITIONSu; i += 1u) {
            if (position + i * width < positions) {
                output[to * positions + position + i * width] = values[i];
            }
        }
    }
}
