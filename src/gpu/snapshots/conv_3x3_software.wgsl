// conv_direct [7, 2, 1] [20, 1, 18, 4, 10, 11, 10, 11, 110, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 70, 110, 1]
struct Params {
    k: u32,
    groups: u32,
    blocks: u32,
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
    m: u32,
    n: u32,
    batches: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> input: array<f32>;
@group(0) @binding(2) var<storage, read> weights: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> output: array<f32>;

fn store(batch: u32, row: u32, column: u32, sum: f32) {
    var value = sum;
    let at = (batch * params.m + row) * params.n + column;
    output[at] = value;
}


@compute @workgroup_size(16)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let width = params.width;
    let column = workgroup.x * width * 4u + local % width;
    let block = (workgroup.y * (16u / width) + local / width) * 4u;
    if (column >= params.n || block >= params.blocks) {
        return;
    }
    let depth = params.k;
    let plane = params.plane;
    let in_height = u32(params.in_height);
    let in_width = u32(params.in_width);
    let y0 = (column + 0u * width) / params.out_width * params.stride_y - u32(params.pad_top);
    let x0 = (column + 0u * width) % params.out_width * params.stride_x - u32(params.pad_left);
    let y1 = (column + 1u * width) / params.out_width * params.stride_y - u32(params.pad_top);
    let x1 = (column + 1u * width) % params.out_width * params.stride_x - u32(params.pad_left);
    let y2 = (column + 2u * width) / params.out_width * params.stride_y - u32(params.pad_top);
    let x2 = (column + 2u * width) % params.out_width * params.stride_x - u32(params.pad_left);
    let y3 = (column + 3u * width) / params.out_width * params.stride_y - u32(params.pad_top);
    let x3 = (column + 3u * width) % params.out_width * params.stride_x - u32(params.pad_left);
    let taps = params.kernel_height * params.kernel_width;
    let weight_step = params.blocks;
    for (var batch = workgroup.z; batch < params.batches; batch += workgroups.z) {
        let group = batch % params.groups;
        let image = batch * depth * plane;
        var sum0_0 = vec4<f32>();
        var sum0_1 = vec4<f32>();
        var sum0_2 = vec4<f32>();
        var sum0_3 = vec4<f32>();
        var sum1_0 = vec4<f32>();
        var sum1_1 = vec4<f32>();
        var sum1_2 = vec4<f32>();
        var sum1_3 = vec4<f32>();
        var sum2_0 = vec4<f32>();
        var sum2_1 = vec4<f32>();
        var sum2_2 = vec4<f32>();
        var sum2_3 = vec4<f32>();
        var sum3_0 = vec4<f32>();
        var sum3_1 = vec4<f32>();
        var sum3_2 = vec4<f32>();
        var sum3_3 = vec4<f32>();
        var weight = group * taps * depth * params.blocks + block;
        for (var kernel_y = 0u; kernel_y < params.kernel_height; kernel_y += 1u) {
            for (var kernel_x = 0u; kernel_x < params.kernel_width; kernel_x += 1u) {
                let tap_y = kernel_y * params.dilation_y;
                let tap_x = kernel_x * params.dilation_x;
                let in_y0 = y0 + tap_y;
                let in_x0 = x0 + tap_x;
                let inside0 = (in_y0 < in_height) & (in_x0 < in_width);
                var at0 = image + select(0u, in_y0 * in_width + in_x0, inside0);
                let in_y1 = y1 + tap_y;
                let in_x1 = x1 + tap_x;
                let inside1 = (in_y1 < in_height) & (in_x1 < in_width);
                var at1 = image + select(0u, in_y1 * in_width + in_x1, inside1);
                let in_y2 = y2 + tap_y;
                let in_x2 = x2 + tap_x;
                let inside2 = (in_y2 < in_height) & (in_x2 < in_width);
                var at2 = image + select(0u, in_y2 * in_width + in_x2, inside2);
                let in_y3 = y3 + tap_y;
                let in_x3 = x3 + tap_x;
                let inside3 = (in_y3 < in_height) & (in_x3 < in_width);
                var at3 = image + select(0u, in_y3 * in_width + in_x3, inside3);
                let inside = vec4<bool>(inside0, inside1, inside2, inside3);
                for (var channel = 0u; channel < depth; channel += 1u) {
                    let loaded = vec4<f32>(input[at0], input[at1], input[at2], input[at3]);
                    let value = select(vec4<f32>(), loaded, inside);
                    {
                        let w = weights[weight + 0u];
                        sum0_0 += w.x * value;
                        sum0_1 += w.y * value;
                        sum0_2 += w.z * value;
                        sum0_3 += w.w * value;
                    }
                    {
                        let w = weights[weight + 1u];
                        sum1_0 += w.x * value;
                        sum1_1 += w.y * value;
                        sum1_2 += w.z * value;
                        sum1_3 += w.w * value;
                    }
                    {
                        let w = weights[weight + 2u];
                        sum2_0 += w.x * value;
                        sum2_1 += w.y * value;
                        sum2_2 += w.z * value;
                        sum2_3 += w.w * value;
                    }
                    {
                        let w = weights[weight + 3u];
                        sum3_0 += w.x * value;
                        sum3_1 += w.y * value;
                        sum3_2 += w.z * value;
                        sum3_3 += w.w * value;
                    }
                    at0 += plane;
                    at1 += plane;
                    at2 += plane;
                    at3 += plane;
                    weight += weight_step;
                }
            }
        }
        var sums = array<vec4<f32>, 16>(
            sum0_0,
            sum0_1,
            sum0_2,
            sum0_3,
            sum1_0,
            sum1_1,
            sum1_2,
            sum1_3,
            sum2_0,
            sum2_1,
            sum2_2,
            sum2_3,
            sum3_0,
            sum3_1,
            sum3_2,
            sum3_3,
        );
        for (var i = 0u; i < 16u * 4u; i += 1u) {
            let to_row = block * 4u + i / 4u;
            let to_column = column + i % 4u * width;
            if ((to_row < params.m) & (to_column < params.n)) {
                store(batch, to_row, to_column, sums[i / 4u][i % 4u]);
            }
        }
    }
}
