// matmul_direct [8, 1, 1] [512, 512, 1, 512, 1, 1, 512, 1]
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


var<workgroup> partial_sums: array<vec4<f32>, 128>;

@compute @workgroup_size(16, 8)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_id) local: vec3<u32>,
) {
    let column = (group.x * 16u + local.x) * 4u;
    let row = group.y * 1u;
    let last_row = params.m - 1u;
    let last_column = params.n - 1u;
    for (var batch = group.z; batch < params.batches; batch += groups.z) {
        var rest = batch;
        var a_base = 0u;
        var b_base = 0u;
        var sum0 = vec4<f32>();
        let a0 = (a_base + min(row + 0u, last_row) * params.a_row) / 4u;
        let b_at = (b_base + min(column, last_column)) / 4u;
        let b_row = params.b_row / 4u;

        let whole = params.k - params.k % 4u;
        for (var k = local.y * 4u; k < whole; k += 4u * 8u) {
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
        }

        partial_sums[(local.y * 16u + local.x) * 1u + 0u] = sum0;
        workgroupBarrier();
        for (var half = 8u / 2u; half > 0u; half = half / 2u) {
            if (local.y < half) {
                partial_sums[(local.y * 16u + local.x) * 1u + 0u] +=
                    partial_sums[((local.y + half) * 16u + local.x) * 1u + 0u];
            }
            workgroupBarrier();
        }
        if (local.y == 0u && column < params.n) {
            if (row + 0u < params.m) {
                store(batch, row + 0u, column, partial_sums[local.x * 1u + 0u]);
            }
        }
        workgroupBarrier();
    }
}
