// conv_direct [2, 2, 1] [20, 1, 18, 10, 11, 10, 11, 110, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 70, 110, 1]
struct Params {
    k: u32,
    groups: u32,
    blocks: u32,
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

fn store(batch: u32, row: u32, column: u32, sum: vec4<f32>) {
    var value = sum;
    let at = (batch * params.m + row) * params.n + column;
    if (column + 0u < params.n) {
        output[at + 0u] = value[0];
    }
    if (column + 1u < params.n) {
        output[at + 1u] = value[1];
    }
    if (column + 2u < params.n) {
        output[at + 2u] = value[2];
    }
    if (column + 3u < params.n) {
        output[at + 3u] = value[3];
    }
}


@compute @workgroup_size(16, 4)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_id) local: vec3<u32>,
) {
    let column = (workgroup.x * 16u + local.x) * 4u;
    let block = (workgroup.y * 4u + local.y) * 4u;
    if (column >= params.n || block >= params.blocks) {
        return;
    }
    let position0 = min(column + 0u, params.n - 1u);
    let y0 = i32(position0 / params.out_width * params.stride_y) - params.pad_top;
    let x0 = i32(position0 % params.out_width * params.stride_x) - params.pad_left;
    let position1 = min(column + 1u, params.n - 1u);
    let y1 = i32(position1 / params.out_width * params.stride_y) - params.pad_top;
    let x1 = i32(position1 % params.out_width * params.stride_x) - params.pad_left;
    let position2 = min(column + 2u, params.n - 1u);
    let y2 = i32(position2 / params.out_width * params.stride_y) - params.pad_top;
    let x2 = i32(position2 % params.out_width * params.stride_x) - params.pad_left;
    let position3 = min(column + 3u, params.n - 1u);
    let y3 = i32(position3 / params.out_width * params.stride_y) - params.pad_top;
    let x3 = i32(position3 % params.out_width * params.stride_x) - params.pad_left;
    for (var batch = workgroup.z; batch < params.batches; batch += workgroups.z) {
        let group = batch % params.groups;
        let image = batch * params.k * params.plane;
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
        let taps = params.kernel_height * params.kernel_width;
        var weight = group * taps * params.k * params.blocks + block;
        for (var kernel_y = 0u; kernel_y < params.kernel_height; kernel_y += 1u) {
            for (var kernel_x = 0u; kernel_x < params.kernel_width; kernel_x += 1u) {
                let in_y0 = y0 + i32(kernel_y * params.dilation_y);
                let in_x0 = x0 + i32(kernel_x * params.dilation_x);
                let inside0 = in_y0 >= 0 && in_y0 < params.in_height && in_x0 >= 0 && in_x0 < params.in_width;
                var at0 = image + select(0u, u32(in_y0 * params.in_width + in_x0), inside0);
                let in_y1 = y1 + i32(kernel_y * params.dilation_y);
                let in_x1 = x1 + i32(kernel_x * params.dilation_x);
                let inside1 = in_y1 >= 0 && in_y1 < params.in_height && in_x1 >= 0 && in_x1 < params.in_width;
                var at1 = image + select(0u, u32(in_y1 * params.in_width + in_x1), inside1);
                let in_y2 = y2 + i32(kernel_y * params.dilation_y);
                let in_x2 = x2 + i32(kernel_x * params.dilation_x);
                let inside2 = in_y2 >= 0 && in_y2 < params.in_height && in_x2 >= 0 && in_x2 < params.in_width;
                var at2 = image + select(0u, u32(in_y2 * params.in_width + in_x2), inside2);
                let in_y3 = y3 + i32(kernel_y * params.dilation_y);
                let in_x3 = x3 + i32(kernel_x * params.dilation_x);
                let inside3 = in_y3 >= 0 && in_y3 < params.in_height && in_x3 >= 0 && in_x3 < params.in_width;
                var at3 = image + select(0u, u32(in_y3 * params.in_width + in_x3), inside3);
                let inside = vec4<bool>(inside0, inside1, inside2, inside3);
                for (var channel = 0u; channel < params.k; channel += 1u) {
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
                    at0 += params.plane;
                    at1 += params.plane;
                    at2 += params.plane;
                    at3 += params.plane;
                    weight += params.blocks;
                }
            }
        }
        if ((block + 0u) * 4u + 0u < params.m) {
            store(batch, (block + 0u) * 4u + 0u, column, sum0_0);
        }
        if ((block + 0u) * 4u + 1u < params.m) {
            store(batch, (block + 0u) * 4u + 1u, column, sum0_1);
        }
        if ((block + 0u) * 4u + 2u < params.m) {
            store(batch, (block + 0u) * 4u + 2u, column, sum0_2);
        }
        if ((block + 0u) * 4u + 3u < params.m) {
            store(batch, (block + 0u) * 4u + 3u, column, sum0_3);
        }
        if ((block + 1u) * 4u + 0u < params.m) {
            store(batch, (block + 1u) * 4u + 0u, column, sum1_0);
        }
        if ((block + 1u) * 4u + 1u < params.m) {
            store(batch, (block + 1u) * 4u + 1u, column, sum1_1);
        }
        if ((block + 1u) * 4u + 2u < params.m) {
            store(batch, (block + 1u) * 4u + 2u, column, sum1_2);
        }
        if ((block + 1u) * 4u + 3u < params.m) {
            store(batch, (block + 1u) * 4u + 3u, column, sum1_3);
        }
        if ((block + 2u) * 4u + 0u < params.m) {
            store(batch, (block + 2u) * 4u + 0u, column, sum2_0);
        }
        if ((block + 2u) * 4u + 1u < params.m) {
            store(batch, (block + 2u) * 4u + 1u, column, sum2_1);
        }
        if ((block + 2u) * 4u + 2u < params.m) {
            store(batch, (block + 2u) * 4u + 2u, column, sum2_2);
        }
        if ((block + 2u) * 4u + 3u < params.m) {
            store(batch, (block + 2u) * 4u + 3u, column, sum2_3);
        }
        if ((block + 3u) * 4u + 0u < params.m) {
            store(batch, (block + 3u) * 4u + 0u, column, sum3_0);
        }
        if ((block + 3u) * 4u + 1u < params.m) {
            store(batch, (block + 3u) * 4u + 1u, column, sum3_1);
        }
        if ((block + 3u) * 4u + 2u < params.m) {
            store(batch, (block + 3u) * 4u + 2u, column, sum3_2);
        }
        if ((block + 3u) * 4u + 3u < params.m) {
            store(batch, (block + 3u) * 4u + 3u, column, sum3_3);
        }
    }
}
