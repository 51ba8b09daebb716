// Convolution with one input channel per group, each thread one output position of one output channel.

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
    var rest = index / params.out_width;
    let out_y = rest % params.out_height;
    rest = rest / params.out_height;
    let channel = rest % params.channels;
    let image = rest / params.channels;
    let plane = (image * params.in_channels + channel / params.multiplier) * params.plane;
    let kernel = channel * params.kernel_height * params.kernel_width;
    let first_y = i32(out_y * params.stride_y) - params.pad_top;
    let first_x = i32(out_x * params.stride_x) - params.pad_left;
    //: if ADDEND
    var value = addend[channel];
    //: else
    var value = 0.0;
    //: end
    for (var kernel_y = 0u; kernel_y < params.kernel_height; kernel_y += 1u) {
        let y = first_y + i32(kernel_y * params.dilation_y);
        if (y < 0 || y >= params.in_height) {
            continue;
        }
        let row = plane + u32(y * params.in_width);
        for (var kernel_x = 0u; kernel_x < params.kernel_width; kernel_x += 1u) {
            let x = first_x + i32(kernel_x * params.dilation_x);
            if (x >= 0 && x < params.in_width) {
                value += input[row + u32(x)] * weights[kernel + kernel_y * params.kernel_width + kernel_x];
            }
        }
    }
    //: if EPILOGUE
    value = epilogue(value, index);
    //: end
    output[index] = value;
}
