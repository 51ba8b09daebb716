// matmul_lanes [2, 2, 1] [4, 37, 37, 1, 35, 1, 1, 1, 0, 0, 0, 0, 33, 35, 1, 1073741824]
struct Params {
    width: u32,
    k: u32,
    a_row: u32,
    a_column: u32,
    b_row: u32,
    b_column: u32,
    batch_dim0: u32,
    batch_dim1: u32,
    a_batch0: u32,
    a_batch1: u32,
    b_batch0: u32,
    b_batch1: u32,
    m: u32,
    n: u32,
    batches: u32,
    residual_factor: f32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> a: array<f32>;
@group(0) @binding(2) var<storage, read> b: array<f32>;
@group(0) @binding(3) var<storage, read_write> output: array<f32>;
@group(0) @binding(4) var<storage, read> residual: array<f32>;


fn store(batch: u32, row: u32, column: u32, sum: f32) {
    var value = sum;
    let at = (batch * params.m + row) * params.n + column;
    value = epilogue(value, at);
    output[at] = value;
}

fn epilogue(value: f32, index: u32) -> f32 {
    return max(value, 0.0) + residual[index] * params.residual_factor;
}


@compute @workgroup_size(16)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let width = params.width;
    let column = group.x * width * 8u + local % width;
    let row = (group.y * (16u / width) + local / width) * 8u;
    if (column >= params.n || row >= params.m) {
        return;
    }
    let k_end = params.k;
    let a_row = params.a_row;
    let a_column = params.a_column;
    let b_row = params.b_row;
    let b_step = width * params.b_column;
    for (var batch = group.z; batch < params.batches; batch += groups.z) {
        var rest = batch;
        var a_at = row * a_row;
        var b_at = column * params.b_column;
        a_at += (rest % params.batch_dim0) * params.a_batch0;
        b_at += (rest % params.batch_dim0) * params.b_batch0;
        rest = rest / params.batch_dim0;
        a_at += (rest % params.batch_dim1) * params.a_batch1;
        b_at += (rest % params.batch_dim1) * params.b_batch1;
        rest = rest / params.batch_dim1;
        var low0 = vec4<f32>();
        var high0 = vec4<f32>();
        var low1 = vec4<f32>();
        var high1 = vec4<f32>();
        var low2 = vec4<f32>();
        var high2 = vec4<f32>();
        var low3 = vec4<f32>();
        var high3 = vec4<f32>();
        var low4 = vec4<f32>();
        var high4 = vec4<f32>();
        var low5 = vec4<f32>();
        var high5 = vec4<f32>();
        var low6 = vec4<f32>();
        var high6 = vec4<f32>();
        var low7 = vec4<f32>();
        var high7 = vec4<f32>();
        for (var k = 0u; k < k_end; k += 1u) {
            let b_low = vec4<f32>(b[b_at], b[b_at + b_step], b[b_at + 2u * b_step], b[b_at + 3u * b_step]);
            let b_high = vec4<f32>(
                b[b_at + 4u * b_step],
                b[b_at + 5u * b_step],
                b[b_at + 6u * b_step],
                b[b_at + 7u * b_step],
            );
            {
                let value = a[a_at + 0u * a_row];
                low0 += value * b_low;
                high0 += value * b_high;
            }
            {
                let value = a[a_at + 1u * a_row];
                low1 += value * b_low;
                high1 += value * b_high;
            }
            {
                let value = a[a_at + 2u * a_row];
                low2 += value * b_low;
                high2 += value * b_high;
            }
            {
                let value = a[a_at + 3u * a_row];
                low3 += value * b_low;
                high3 += value * b_high;
            }
            {
                let value = a[a_at + 4u * a_row];
                low4 += value * b_low;
                high4 += value * b_high;
            }
            {
                let value = a[a_at + 5u * a_row];
                low5 += value * b_low;
                high5 += value * b_high;
            }
            {
                let value = a[a_at + 6u * a_row];
                low6 += value * b_low;
                high6 += value * b_high;
            }
            {
                let value = a[a_at + 7u * a_row];
                low7 += value * b_low;
                high7 += value * b_high;
            }
            a_at += a_column;
            b_at += b_row;
        }
        var sums = array<vec4<f32>, 16>(
            low0,
            high0,
            low1,
            high1,
            low2,
            high2,
            low3,
            high3,
            low4,
            high4,
            low5,
            high5,
            low6,
            high6,
            low7,
            high7,
        );
        for (var i = 0u; i < 16u * 4u; i += 1u) {
            let to_row = row + i / 8u;
            let to_column = column + i % 8u * width;
            if ((to_row < params.m) & (to_column < params.n)) {
                store(batch, to_row, to_column, sums[i / 4u][i % 4u]);
            }
        }
    }
}
