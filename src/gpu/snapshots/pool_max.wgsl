// pool [1, 1, 1] [2, 4286578688, 2, 1, 5, 1, 9, 9, 1, 3, 1, 2, 1, 1, 0, 1, 0, 1]
struct Params {
    planes: u32,
    lowest: f32,
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
@group(0) @binding(2) var<storage, read_write> output: array<f32>;

@compute @workgroup_size(16)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let width = params.width;
    let positions = params.out_height * params.out_width;
    let position = group.x * width * 4u + local % width;
    if (position >= positions) {
        return;
    }
    let in_height = u32(params.in_height);
    let in_width = u32(params.in_width);
    let y0 = (position + 0u * width) / params.out_width * params.stride_y - u32(params.pad_top);
    let x0 = (position + 0u * width) % params.out_width * params.stride_x - u32(params.pad_left);
    let y1 = (position + 1u * width) / params.out_width * params.stride_y - u32(params.pad_top);
    let x1 = (position + 1u * width) % params.out_width * params.stride_x - u32(params.pad_left);
    let y2 = (position + 2u * width) / params.out_width * params.stride_y - u32(params.pad_top);
    let x2 = (position + 2u * width) % params.out_width * params.stride_x - u32(params.pad_left);
    let y3 = (position + 3u * width) / params.out_width * params.stride_y - u32(params.pad_top);
    let x3 = (position + 3u * width) % params.out_width * params.stride_x - u32(params.pad_left);
    let step = 16u / width;
    for (var to = group.y * step + local / width; to < params.planes; to += groups.y * step) {
        let plane = to * params.plane;
        var value0 = params.lowest;
        var value1 = params.lowest;
        var value2 = params.lowest;
        var value3 = params.lowest;
        for (var kernel_y = 0u; kernel_y < params.kernel_height; kernel_y += 1u) {
            let tap_y = kernel_y * params.dilation_y;
            for (var kernel_x = 0u; kernel_x < params.kernel_width; kernel_x += 1u) {
                let tap_x = kernel_x * params.dilation_x;
                let inside0 = (y0 + tap_y < in_height) & (x0 + tap_x < in_width);
                let at0 = select(0u, (y0 + tap_y) * in_width + x0 + tap_x, inside0);
                let element0 = input[plane + at0];
                value0 = select(value0, element0, inside0 & (element0 > value0));
                let inside1 = (y1 + tap_y < in_height) & (x1 + tap_x < in_width);
                let at1 = select(0u, (y1 + tap_y) * in_width + x1 + tap_x, inside1);
                let element1 = input[plane + at1];
                value1 = select(value1, element1, inside1 & (element1 > value1));
                let inside2 = (y2 + tap_y < in_height) & (x2 + tap_x < in_width);
                let at2 = select(0u, (y2 + tap_y) * in_width + x2 + tap_x, inside2);
                let element2 = input[plane + at2];
                value2 = select(value2, element2, inside2 & (element2 > value2));
                let inside3 = (y3 + tap_y < in_height) & (x3 + tap_x < in_width);
                let at3 = select(0u, (y3 + tap_y) * in_width + x3 + tap_x, inside3);
                let element3 = input[plane + at3];
                value3 = select(value3, element3, inside3 & (element3 > value3));
            }
        }
        var values = array<f32, 4>(
            value0,
            value1,
            value2,
            value3,
        );
        for (var i = 0u; i < 4u; i += 1u) {
            if (position + i * width < positions) {
                output[to * positions + position + i * width] = values[i];
            }
        }
    }
}
