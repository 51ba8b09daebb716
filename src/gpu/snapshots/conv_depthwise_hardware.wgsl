// conv_depthwise [2, 6, 1] [12, 6, 6, 1, 32, 7, 8, 7, 8, 56, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1]
struct Params {
    planes: u32,
    channels: u32,
    in_channels: u32,
    multiplier: u32,
    width: u32,
    out_height: u32,
    out_width: u32,
    in_height: i32,
    in_width: i32,
    plane: u32,
    kernel_height: u32,
    kernel_width: u32,
    stride_y: u32,
    stride_x: u32,
    dilation_y: u32,
    dilation_x: u32,
    pad_top: i32,
    pad_left: i32,
    pad_bottom: i32,
    pad_right: i32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> input: array<f32>;
@group(0) @binding(2) var<storage, read> weights: array<f32>;
@group(0) @binding(3) var<storage, read_write> output: array<f32>;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let width = params.width;
    let positions = params.out_height * params.out_width;
    let position = group.x * width * 1u + local % width;
    if (position >= positions) {
        return;
    }
    let in_height = u32(params.in_height);
    let in_width = u32(params.in_width);
    let y0 = (position + 0u * width) / params.out_width * params.stride_y - u32(params.pad_top);
    let x0 = (position + 0u * width) % params.out_width * params.stride_x - u32(params.pad_left);
    let step = 64u / width;
    for (var to = group.y * step + local / width; to < params.planes; to += groups.y * step) {
        let channel = to % params.channels;
        let plane = (to / params.channels * params.in_channels + channel / params.multiplier) * params.plane;
        var weight = channel * params.kernel_height * params.kernel_width;
        let start = 0.0;
        var value0 = start;
        for (var kernel_y = 0u; kernel_y < params.kernel_height; kernel_y += 1u) {
            let tap_y = kernel_y * params.dilation_y;
            for (var kernel_x = 0u; kernel_x < params.kernel_width; kernel_x += 1u) {
                let tap_x = kernel_x * params.dilation_x;
                let w = weights[weight];
                let inside0 = (y0 + tap_y < in_height) & (x0 + tap_x < in_width);
                let at0 = select(0u, (y0 + tap_y) * in_width + x0 + tap_x, inside0);
                value0 += select(0.0, input[plane + at0], inside0) * w;
                weight += 1u;
            }
        }
        var values = array<f32, 1>(
            value0,
        );
        for (var i = 0u; i < 1u; i += 1u) {
            if (position + i * width < positions) {
                let index = to * positions + position + i * width;
                var value = values[i];
                output[index] = value;
            }
        }
    }
}
