// matmul_direct [2, 1, 1] [37, 37, 1, 35, 1, 33, 35, 1, 1073741824]
struct Params {
    k: u32,
    a_row: u32,
    a_column: u32,
    b_row: u32,
    b_column: u32,
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

fn store(batch: u32, row: u32, column: u32, sum: vec4<f32>) {
    var value = sum;
    let at = (batch * params.m + row) * params.n + column;
    value = epilogue4(value, at);
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

fn epilogue(value: f32, index: u32) -> f32 {
    return max(value, 0.0) + residual[index] * params.residual_factor;
}

fn epilogue4(value: vec4<f32>, index: u32) -> vec4<f32> {
    return vec4<f32>(
        epilogue(value.x, index),
        epilogue(value.y, index + 1u),
        epilogue(value.z, index + 2u),
        epilogue(value.w, index + 3u),
    );
}


@compute @workgroup_size(8, 8)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_id) local: vec3<u32>,
) {
    let column = (group.x * 8u + local.x) * 4u;
    let row = (group.y * 8u + local.y) * 8u;
    if (column >= params.n || row >= params.m) {
        return;
    }
    let last_row = params.m - 1u;
    let last_column = params.n - 1u;
    for (var batch = group.z; batch < params.batches; batch += groups.z) {
        var rest = batch;
        var a_base = 0u;
        var b_base = 0u;
        var sum0 = vec4<f32>();
        let a0 = a_base + min(row + 0u, last_row) * params.a_row;
        var sum1 = vec4<f32>();
        let a1 = a_base + min(row + 1u, last_row) * params.a_row;
        var sum2 = vec4<f32>();
        let a2 = a_base + min(row + 2u, last_row) * params.a_row;
        var sum3 = vec4<f32>();
        let a3 = a_base + min(row + 3u, last_row) * params.a_row;
        var sum4 = vec4<f32>();
        let a4 = a_base + min(row + 4u, last_row) * params.a_row;
        var sum5 = vec4<f32>();
        let a5 = a_base + min(row + 5u, last_row) * params.a_row;
        var sum6 = vec4<f32>();
        let a6 = a_base + min(row + 6u, last_row) * params.a_row;
        var sum7 = vec4<f32>();
        let a7 = a_base + min(row + 7u, last_row) * params.a_row;
        let b_at0 = b_base + min(column + 0u, last_column) * params.b_column;
        let b_at1 = b_base + min(column + 1u, last_column) * params.b_column;
        let b_at2 = b_base + min(column + 2u, last_column) * params.b_column;
        let b_at3 = b_base + min(column + 3u, last_column) * params.b_column;

        let whole = params.k - params.k % 4u;
        for (var k = 0u; k < whole; k += 4u) {
            let k0 = (k + 0u) * params.b_row;
            let b0 = vec4<f32>(b[b_at0 + k0], b[b_at1 + k0], b[b_at2 + k0], b[b_at3 + k0]);
            let k1 = (k + 1u) * params.b_row;
            let b1 = vec4<f32>(b[b_at0 + k1], b[b_at1 + k1], b[b_at2 + k1], b[b_at3 + k1]);
            let k2 = (k + 2u) * params.b_row;
            let b2 = vec4<f32>(b[b_at0 + k2], b[b_at1 + k2], b[b_at2 + k2], b[b_at3 + k2]);
            let k3 = (k + 3u) * params.b_row;
            let b3 = vec4<f32>(b[b_at0 + k3], b[b_at1 + k3], b[b_at2 + k3], b[b_at3 + k3]);
            {
                let at = a0 + k * params.a_column;
                let value = vec4<f32>(
                    a[at],
                    a[at + params.a_column],
                    a[at + 2u * params.a_column],
                    a[at + 3u * params.a_column],
                );
                sum0 += value.x * b0;
                sum0 += value.y * b1;
                sum0 += value.z * b2;
                sum0 += value.w * b3;
            }
            {
                let at = a1 + k * params.a_column;
                let value = vec4<f32>(
                    a[at],
                    a[at + params.a_column],
                    a[at + 2u * params.a_column],
                    a[at + 3u * params.a_column],
                );
                sum1 += value.x * b0;
                sum1 += value.y * b1;
                sum1 += value.z * b2;
                sum1 += value.w * b3;
            }
            {
                let at = a2 + k * params.a_column;
                let value = vec4<f32>(
                    a[at],
                    a[at + params.a_column],
                    a[at + 2u * params.a_column],
                    a[at + 3u * params.a_column],
                );
                sum2 += value.x * b0;
                sum2 += value.y * b1;
                sum2 += value.z * b2;
                sum2 += value.w * b3;
            }
            {
                let at = a3 + k * params.a_column;
                let value = vec4<f32>(
                    a[at],
                    a[at + params.a_column],
                    a[at + 2u * params.a_column],
                    a[at + 3u * params.a_column],
                );
                sum3 += value.x * b0;
                sum3 += value.y * b1;
                sum3 += value.z * b2;
                sum3 += value.w * b3;
            }
            {
                let at = a4 + k * params.a_column;
                let value = vec4<f32>(
                    a[at],
                    a[at + params.a_column],
                    a[at + 2u * params.a_column],
                    a[at + 3u * params.a_column],
                );
                sum4 += value.x * b0;
                sum4 += value.y * b1;
                sum4 += value.z * b2;
                sum4 += value.w * b3;
            }
            {
                let at = a5 + k * params.a_column;
                let value = vec4<f32>(
                    a[at],
                    a[at + params.a_column],
                    a[at + 2u * params.a_column],
                    a[at + 3u * params.a_column],
                );
                sum5 += value.x * b0;
                sum5 += value.y * b1;
                sum5 += value.z * b2;
                sum5 += value.w * b3;
            }
            {
                let at = a6 + k * params.a_column;
                let value = vec4<f32>(
                    a[at],
                    a[at + params.a_column],
                    a[at + 2u * params.a_column],
                    a[at + 3u * params.a_column],
                );
                sum6 += value.x * b0;
                sum6 += value.y * b1;
                sum6 += value.z * b2;
                sum6 += value.w * b3;
            }
            {
                let at = a7 + k * params.a_column;
                let value = vec4<f32>(
                    a[at],
                    a[at + params.a_column],
                    a[at + 2u * params.a_column],
                    a[at + 3u * params.a_column],
                );
                sum7 += value.x * b0;
                sum7 += value.y * b1;
                sum7 += value.z * b2;
                sum7 += value.w * b3;
            }
        }
        for (var k = whole; k < params.k; k += 1u) {
            let k0 = k * params.b_row;
            let b0 = vec4<f32>(b[b_at0 + k0], b[b_at1 + k0], b[b_at2 + k0], b[b_at3 + k0]);
            sum0 += a[a0 + k * params.a_column] * b0;
            sum1 += a[a1 + k * params.a_column] * b0;
            sum2 += a[a2 + k * params.a_column] * b0;
            sum3 += a[a3 + k * params.a_column] * b0;
            sum4 += a[a4 + k * params.a_column] * b0;
            sum5 += a[a5 + k * params.a_column] * b0;
            sum6 += a[a6 + k * params.a_column] * b0;
            sum7 += a[a7 + k * params.a_column] * b0;
        }

        if (row + 0u < params.m) {
            store(batch, row + 0u, column, sum0);
        }
        if (row + 1u < params.m) {
            store(batch, row + 1u, column, sum1);
        }
        if (row + 2u < params.m) {
            store(batch, row + 2u, column, sum2);
        }
        if (row + 3u < params.m) {
            store(batch, row + 3u, column, sum3);
        }
        if (row + 4u < params.m) {
            store(batch, row + 4u, column, sum4);
        }
        if (row + 5u < params.m) {
            store(batch, row + 5u, column, sum5);
        }
        if (row + 6u < params.m) {
            store(batch, row + 6u, column, sum6);
        }
        if (row + 7u < params.m) {
            store(batch, row + 7u, column, sum7);
        }
    }
}
