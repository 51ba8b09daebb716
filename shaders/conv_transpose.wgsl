// Transposed convolution, each thread one output position of one output channel: it gathers the input positions that
// reach it. Weights stand as in the model: [input channel][output channel of the group][kernel y][kernel x].

@compute @workgroup_size($THREADS)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let index = (workgroup.y * workgroups.x + workgroup.x) * $THREADSu + local;
    if (index >= params.count) {
        return;
    }
    let out_x = index % params.out_width;
    var rest = index / params.out_width;
    let out_y = rest % params.out_height;
    rest = rest / params.out_height;
    let channel = rest % params.channels;
    let image = rest / params.channels;
    let group_channels = params.channels / params.groups;
    let in_group = params.in_channels / params.groups;
    let group = channel / group_channels;
    let kernel_size = params.kernel_height * params.kernel_width;
    let first_in = group * in_group;
    //: if ADDEND
    var value = addend[channel];
    //: else
    var value = 0.0;
    //: end
    for (var kernel_y = 0u; kernel_y < params.kernel_height; kernel_y += 1u) {
        let reach_y = i32(out_y) + params.pad_top - i32(kernel_y * params.dilation_y);
        let y = reach_y / i32(params.stride_y);
        if (reach_y < 0 || reach_y % i32(params.stride_y) != 0 || y >= params.in_height) {
            continue;
        }
        for (var kernel_x = 0u; kernel_x < params.kernel_width; kernel_x += 1u) {
            let reach_x = i32(out_x) + params.pad_left - i32(kernel_x * params.dilation_x);
            let x = reach_x / i32(params.stride_x);
            if (reach_x < 0 || reach_x % i32(params.stride_x) != 0 || x >= params.in_width) {
                continue;
            }
            var at = (image * params.in_channels + first_in) * params.plane + u32(y * params.in_width + x);
            var weight = (first_in * group_channels + channel % group_channels) * kernel_size
                + kernel_y * params.kernel_width + kernel_x;
            for (var i = 0u; i < in_group; i += 1u) {
                value += input[at] * weights[weight];
                at += params.plane;
                weight += group_channels * kernel_size;
            }
        }
    }
    //: if EPILOGUE
    value = epilogue(value, index);
    //: end
    output[index] = value;
}
