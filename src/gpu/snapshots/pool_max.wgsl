// pool [1, 1, 1] [10, 4286578688, 1, 5, 1, 9, 9, 1, 3, 1, 2, 1, 1, 0, 1, 0, 1]
struct Params {
    count: u32,
    lowest: f32,
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

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let index = (group.y * groups.x + group.x) * 64u + local;
    if (index >= params.count) {
        return;
    }
    let out_x = index % params.out_width;
    let rest = index / params.out_width;
    let out_y = rest % params.out_height;
    let plane = rest / params.out_height * params.plane;
    let first_y = i32(out_y * params.stride_y) - params.pad_top;
    let first_x = i32(out_x * params.stride_x) - params.pad_left;
    var value = params.lowest;
    for (var kernel_y = 0u; kernel_y < params.kernel_height; kernel_y += 1u) {
        let y = first_y + i32(kernel_y * params.dilation_y);
        for (var kernel_x = 0u; kernel_x < params.kernel_width; kernel_x += 1u) {
            let x = first_x + i32(kernel_x * params.dilation_x);
            if (y >= 0 && y < params.in_height && x >= 0 && x < params.in_width) {
                let element = input[plane + u32(y * params.in_width + x)];
                value = select(value, element, element > value);
            }
        }
    }
    output[index] = value;
}
