// matmul_direct [2, 1, 1] [64, 64, 1, 1, 64, 32, 64, 1, 1065353216, 0, 1, 0]
struct Params {
    k: u32,
    a_row: u32,
    a_column: u32,
    b_row: u32,
    b_column: u32,
    m: u32,
    n: u32,
    batches: u32,
    beta: f32,
    addend_row: u32,
    addend_batches: u32,
    addend_batch: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> a: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> b: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> output: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read> addend: array<f32>;

fn store(batch: u32, row: u32, column: u32, sum: vec4<f32>) {
    var value = sum;
    let addend_at = batch % params.addend_batches * params.addend_batch + row * params.addend_row;
    let last_column = params.n - 1u;
    value += params.beta * vec4<f32>(
        addend[addend_at + min(column + 0u, last_column)],
        addend[addend_at + min(column + 1u, last_column)],
        addend[addend_at + min(column + 2u, last_column)],
        addend[addend_at + min(column + 3u, last_column)],
    );
    let at = (batch * params.m + row) * params.n + column;
    output[at / 4u] = value;
}



@compute @workgroup_size(8, 4)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_id) local: vec3<u32>,
) {
    let column = (group.x * 8u + local.x) * 4u;
    let row = (group.y * 4u + local.y) * 8u;
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
        let b_at0 = (b_base + min(column + 0u, last_column) * params.b_column) / 4u;
        let b_at1 = (b_base + min(column + 1u, last_column) * params.b_column) / 4u;
        let b_at2 = (b_base + min(column + 2u, last_column) * params.b_column) / 4u;
        let b_at3 = (b_base + min(column + 3u, last_column) * params.b_column) / 4u;

        let whole = params.k - params.k % 4u;
        for (var k = 0u; k < whole; k += 4u) {
            let b0 = b[b_at0 + k / 4u];
            let b1 = b[b_at1 + k / 4u];
            let b2 = b[b_at2 + k / 4u];
            let b3 = b[b_at3 + k / 4u];
            {
                let value = a[a0 + k / 4u];
                sum0 += vec4<f32>(dot(value, b0), dot(value, b1), dot(value, b2), dot(value, b3));
            }
            {
                let value = a[a1 + k / 4u];
                sum1 += vec4<f32>(dot(value, b0), dot(value, b1), dot(value, b2), dot(value, b3));
            }
            {
                let value = a[a2 + k / 4u];
                sum2 += vec4<f32>(dot(value, b0), dot(value, b1), dot(value, b2), dot(value, b3));
            }
            {
                let value = a[a3 + k / 4u];
                sum3 += vec4<f32>(dot(value, b0), dot(value, b1), dot(value, b2), dot(value, b3));
            }
            {
                let value = a[a4 + k / 4u];
                sum4 += vec4<f32>(dot(value, b0), dot(value, b1), dot(value, b2), dot(value, b3));
            }
            {
                let value = a[a5 + k / 4u];
                sum5 += vec4<f32>(dot(value, b0), dot(value, b1), dot(value, b2), dot(value, b3));
            }
            {
                let value = a[a6 + k / 4u];
                sum6 += vec4<f32>(dot(value, b0), dot(value, b1), dot(value, b2), dot(value, b3));
            }
            {
                let value = a[a7 + k / 4u];
                sum7 += vec4<f32>(dot(value, b0), dot(value, b1), dot(value, b2), dot(value, b3));
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
