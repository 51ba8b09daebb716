// matmul_direct [2, 1, 1] [64, 64, 1, 64, 1, 64, 64, 1]
struct Params {
    k: u32,
    a_row: u32,
    a_column: u32,
    b_row: u32,
    b_column: u32,
    m: u32,
    n: u32,
    batches: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> a: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> b: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> output: array<vec4<f32>>;

fn store(batch: u32, row: u32, column: u32, sum: vec4<f32>) {
    var value = sum;
    let at = (batch * params.m + row) * params.n + column;
    output[at / 4u] = value;
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
        let a0 = (a_base + min(row + 0u, last_row) * params.a_row) / 4u;
        var sum1 = vec4<f32>();
        let a1 = (a_base + min(row + 1u, last_row) * params.a_row) / 4u;
        var sum2 = vec4<f32>();
        let a2 = (a_base + min(row + 2u, last_row) * params.a_row) / 4u;
        var sum3 = vec4<f32>();
        let a3 = (a_base + min(row + 3u, last_row) * params.a_row) / 4u;
        var sum4 = vec4<f32>();
        let a4 = (a_base + min(row + 4u, last_row) * params.a_row) / 4u;
        var sum5 = vec4<f32>();
        let a5 = (a_base + min(row + 5u, last_row) * params.a_row) / 4u;
        var sum6 = vec4<f32>();
        let a6 = (a_base + min(row + 6u, last_row) * params.a_row) / 4u;
        var sum7 = vec4<f32>();
        let a7 = (a_base + min(row + 7u, last_row) * params.a_row) / 4u;
        let b_at = (b_base + min(column, last_column)) / 4u;
        let b_row = params.b_row / 4u;

        let whole = params.k - params.k % 4u;
        for (var k = 0u; k < whole; k += 4u) {
            let b0 = b[b_at + (k + 0u) * b_row];
            let b1 = b[b_at + (k + 1u) * b_row];
            let b2 = b[b_at + (k + 2u) * b_row];
            let b3 = b[b_at + (k + 3u) * b_row];
            {
                let value = a[a0 + k / 4u];
                sum0 += value.x * b0;
                sum0 += value.y * b1;
                sum0 += value.z * b2;
                sum0 += value.w * b3;
            }
            {
                let value = a[a1 + k / 4u];
                sum1 += value.x * b0;
                sum1 += value.y * b1;
                sum1 += value.z * b2;
                sum1 += value.w * b3;
            }
            {
                let value = a[a2 + k / 4u];
                sum2 += value.x * b0;
                sum2 += value.y * b1;
                sum2 += value.z * b2;
                sum2 += value.w * b3;
            }
            {
                let value = a[a3 + k / 4u];
                sum3 += value.x * b0;
                sum3 += value.y * b1;
                sum3 += value.z * b2;
                sum3 += value.w * b3;
            }
            {
                let value = a[a4 + k / 4u];
                sum4 += value.x * b0;
                sum4 += value.y * b1;
                sum4 += value.z * b2;
                sum4 += value.w * b3;
            }
            {
                let value = a[a5 + k / 4u];
                sum5 += value.x * b0;
                sum5 += value.y * b1;
                sum5 += value.z * b2;
                sum5 += value.w * b3;
            }
            {
                let value = a[a6 + k / 4u];
                sum6 += value.x * b0;
                sum6 += value.y * b1;
                sum6 += value.z * b2;
                sum6 += value.w * b3;
            }
            {
                let value = a[a7 + k / 4u];
                sum7 += value.x * b0;
                sum7 += value.y * b1;
                sum7 += value.z * b2;
                sum7 += value.w * b3;
            }
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
