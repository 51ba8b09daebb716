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
    let in_height = vec4<u32>(u32(params.in_height));
    let in_width = vec4<u32>(u32(params.in_width));
    let spots = column + vec4<u32>(0u, width, 2u * width, 3u * width);
    let y = spots / params.out_width * params.stride_y - u32(params.pad_top);
    let x = spots % params.out_width * params.stride_x - u32(params.pad_left);
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
                let inside = (y + tap_y < in_height) & (x + tap_x < in_width);
                var at = image + select(vec4<u32>(), (y + tap_y) * in_width.x + x + tap_x, inside);
                for (var channel = 0u; channel < depth; channel += 1u) {
                    let loaded = vec4<f32>(input[at.x], input[at.y], input[at.z], input[at.w]);
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
                    at += plane;
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
