// Max or average pooling, each thread one output position of one channel.

@compute @workgroup_size($THREADS)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let index = (group.y * groups.x + group.x) * $THREADSu + local;
    if (index >= params.count) {
        return;
    }
    let out_x = index % params.out_width;
    let rest = index / params.out_width;
    let out_y = rest % params.out_height;
    let plane = rest / params.out_height * params.plane;
    let first_y = i32(out_y * params.stride_y) - params.pad_top;
    let first_x = i32(out_x * params.stride_x) - params.pad_left;
    //: if MAX
    var value = params.lowest;
    //: else
    var value = 0.0;
    var counted = 0u;
    //: end
    for (var kernel_y = 0u; kernel_y < params.kernel_height; kernel_y += 1u) {
        let y = first_y + i32(kernel_y * params.dilation_y);
        for (var kernel_x = 0u; kernel_x < params.kernel_width; kernel_x += 1u) {
            let x = first_x + i32(kernel_x * params.dilation_x);
            //: if COUNTPADDING
            // Padding counts, what lies beyond it (from rounding the output size up) does not.
            if (y < params.in_height + params.pad_bottom && x < params.in_width + params.pad_right) {
                counted += 1u;
            }
            //: end
            if (y >= 0 && y < params.in_height && x >= 0 && x < params.in_width) {
                let element = input[plane + u32(y * params.in_width + x)];
                //: if MAX
                // NaN is passed over, as on the CPU.
                value = select(value, element, element > value);
                //: else
                value += element;
                //: if !COUNTPADDING
                counted += 1u;
                //: end
                //: end
            }
        }
    }
    //: if MAX
    output[index] = value;
    //: else
    output[index] = value / f32(max(counted, 1u));
    //: end
}
