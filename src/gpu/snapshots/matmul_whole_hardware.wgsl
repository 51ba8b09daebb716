// matmul_tiled [1, 1, 1] [64, 64, 1, 64, 1, 64, 64, 1]
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


var<workgroup> tile_a: array<vec4<f32>, 256>;
var<workgroup> tile_b: array<vec4<f32>, 256>;

fn load_a(base: u32, row: u32, k: u32) -> vec4<f32> {
    if (row >= params.m || k >= params.k) {
        return vec4<f32>();
    }
    return a[(base + row * params.a_row + k) / 4u];
}

fn load_b(base: u32, k: u32, column: u32) -> vec4<f32> {
    if (k >= params.k || column >= params.n) {
        return vec4<f32>();
    }
    return b[(base + k * params.b_row + column) / 4u];
}

@compute @workgroup_size(8, 8)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_id) local: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let tile_row = group.y * 64u;
    let tile_column = group.x * 64u;
    for (var batch = group.z; batch < params.batches; batch += groups.z) {
        var rest = batch;
        var a_base = 0u;
        var b_base = 0u;
        var sum0_0 = vec4<f32>();
        var sum0_1 = vec4<f32>();
        var sum1_0 = vec4<f32>();
        var sum1_1 = vec4<f32>();
        var sum2_0 = vec4<f32>();
        var sum2_1 = vec4<f32>();
        var sum3_0 = vec4<f32>();
        var sum3_1 = vec4<f32>();
        var sum4_0 = vec4<f32>();
        var sum4_1 = vec4<f32>();
        var sum5_0 = vec4<f32>();
        var sum5_1 = vec4<f32>();
        var sum6_0 = vec4<f32>();
        var sum6_1 = vec4<f32>();
        var sum7_0 = vec4<f32>();
        var sum7_1 = vec4<f32>();
        for (var k_tile = 0u; k_tile < params.k; k_tile += 16u) {
            {
                let slot = thread + 0u * 64u;
                tile_a[slot] = load_a(a_base, tile_row + slot / 4u, k_tile + (slot % 4u) * 4u);
                tile_b[slot] = load_b(b_base, k_tile + slot / 16u, tile_column + (slot % 16u) * 4u);
            }
            {
                let slot = thread + 1u * 64u;
                tile_a[slot] = load_a(a_base, tile_row + slot / 4u, k_tile + (slot % 4u) * 4u);
                tile_b[slot] = load_b(b_base, k_tile + slot / 16u, tile_column + (slot % 16u) * 4u);
            }
            {
                let slot = thread + 2u * 64u;
                tile_a[slot] = load_a(a_base, tile_row + slot / 4u, k_tile + (slot % 4u) * 4u);
                tile_b[slot] = load_b(b_base, k_tile + slot / 16u, tile_column + (slot % 16u) * 4u);
            }
            {
                let slot = thread + 3u * 64u;
                tile_a[slot] = load_a(a_base, tile_row + slot / 4u, k_tile + (slot % 4u) * 4u);
                tile_b[slot] = load_b(b_base, k_tile + slot / 16u, tile_column + (slot % 16u) * 4u);
            }
            workgroupBarrier();
            for (var k = 0u; k < 4u; k += 1u) {
                let b0_0 = tile_b[(k * 4u + 0u) * 16u + local.x + 0u * 8u];
                let b1_0 = tile_b[(k * 4u + 1u) * 16u + local.x + 0u * 8u];
                let b2_0 = tile_b[(k * 4u + 2u) * 16u + local.x + 0u * 8u];
                let b3_0 = tile_b[(k * 4u + 3u) * 16u + local.x + 0u * 8u];
                let b0_1 = tile_b[(k * 4u + 0u) * 16u + local.x + 1u * 8u];
                let b1_1 = tile_b[(k * 4u + 1u) * 16u + local.x + 1u * 8u];
                let b2_1 = tile_b[(k * 4u + 2u) * 16u + local.x + 1u * 8u];
                let b3_1 = tile_b[(k * 4u + 3u) * 16u + local.x + 1u * 8u];
                {
                    let value = tile_a[(local.y * 8u + 0u) * 4u + k];
                    sum0_0 += value.x * b0_0;
                    sum0_0 += value.y * b1_0;
                    sum0_0 += value.z * b2_0;
                    sum0_0 += value.w * b3_0;
                    sum0_1 += value.x * b0_1;
                    sum0_1 += value.y * b1_1;
                    sum0_1 += value.z * b2_1;
                    sum0_1 += value.w * b3_1;
                }
                {
                    let value = tile_a[(local.y * 8u + 1u) * 4u + k];
                    sum1_0 += value.x * b0_0;
                    sum1_0 += value.y * b1_0;
                    sum1_0 += value.z * b2_0;
                    sum1_0 += value.w * b3_0;
                    sum1_1 += value.x * b0_1;
                    sum1_1 += value.y * b1_1;
                    sum1_1 += value.z * b2_1;
                    sum1_1 += value.w * b3_1;
                }
                {
                    let value = tile_a[(local.y * 8u + 2u) * 4u + k];
                    sum2_0 += value.x * b0_0;
                    sum2_0 += value.y * b1_0;
                    sum2_0 += value.z * b2_0;
                    sum2_0 += value.w * b3_0;
                    sum2_1 += value.x * b0_1;
                    sum2_1 += value.y * b1_1;
                    sum2_1 += value.z * b2_1;
                    sum2_1 += value.w * b3_1;
                }
                {
                    let value = tile_a[(local.y * 8u + 3u) * 4u + k];
                    sum3_0 += value.x * b0_0;
                    sum3_0 += value.y * b1_0;
                    sum3_0 += value.z * b2_0;
                    sum3_0 += value.w * b3_0;
                    sum3_1 += value.x * b0_1;
                    sum3_1 += value.y * b1_1;
                    sum3_1 += value.z * b2_1;
                    sum3_1 += value.w * b3_1;
                }
                {
                    let value = tile_a[(local.y * 8u + 4u) * 4u + k];
                    sum4_0 += value.x * b0_0;
                    sum4_0 += value.y * b1_0;
                    sum4_0 += value.z * b2_0;
                    sum4_0 += value.w * b3_0;
                    sum4_1 += value.x * b0_1;
                    sum4_1 += value.y * b1_1;
                    sum4_1 += value.z * b2_1;
                    sum4_1 += value.w * b3_1;
                }
                {
                    let value = tile_a[(local.y * 8u + 5u) * 4u + k];
                    sum5_0 += value.x * b0_0;
                    sum5_0 += value.y * b1_0;
                    sum5_0 += value.z * b2_0;
                    sum5_0 += value.w * b3_0;
                    sum5_1 += value.x * b0_1;
                    sum5_1 += value.y * b1_1;
                    sum5_1 += value.z * b2_1;
                    sum5_1 += value.w * b3_1;
                }
                {
                    let value = tile_a[(local.y * 8u + 6u) * 4u + k];
                    sum6_0 += value.x * b0_0;
                    sum6_0 += value.y * b1_0;
                    sum6_0 += value.z * b2_0;
                    sum6_0 += value.w * b3_0;
                    sum6_1 += value.x * b0_1;
                    sum6_1 += value.y * b1_1;
                    sum6_1 += value.z * b2_1;
                    sum6_1 += value.w * b3_1;
                }
                {
                    let value = tile_a[(local.y * 8u + 7u) * 4u + k];
                    sum7_0 += value.x * b0_0;
                    sum7_0 += value.y * b1_0;
                    sum7_0 += value.z * b2_0;
                    sum7_0 += value.w * b3_0;
                    sum7_1 += value.x * b0_1;
                    sum7_1 += value.y * b1_1;
                    sum7_1 += value.z * b2_1;
                    sum7_1 += value.w * b3_1;
                }
            }
            workgroupBarrier();
        }
        if (tile_row + local.y * 8u + 0u < params.m) {
            if (tile_column + (local.x + 0u * 8u) * 4u < params.n) {
                store(batch, tile_row + local.y * 8u + 0u, tile_column + (local.x + 0u * 8u) * 4u, sum0_0);
            }
            if (tile_column + (local.x + 1u * 8u) * 4u < params.n) {
                store(batch, tile_row + local.y * 8u + 0u, tile_column + (local.x + 1u * 8u) * 4u, sum0_1);
            }
        }
        if (tile_row + local.y * 8u + 1u < params.m) {
            if (tile_column + (local.x + 0u * 8u) * 4u < params.n) {
                store(batch, tile_row + local.y * 8u + 1u, tile_column + (local.x + 0u * 8u) * 4u, sum1_0);
            }
            if (tile_column + (local.x + 1u * 8u) * 4u < params.n) {
                store(batch, tile_row + local.y * 8u + 1u, tile_column + (local.x + 1u * 8u) * 4u, sum1_1);
            }
        }
        if (tile_row + local.y * 8u + 2u < params.m) {
            if (tile_column + (local.x + 0u * 8u) * 4u < params.n) {
                store(batch, tile_row + local.y * 8u + 2u, tile_column + (local.x + 0u * 8u) * 4u, sum2_0);
            }
            if (tile_column + (local.x + 1u * 8u) * 4u < params.n) {
                store(batch, tile_row + local.y * 8u + 2u, tile_column + (local.x + 1u * 8u) * 4u, sum2_1);
            }
        }
        if (tile_row + local.y * 8u + 3u < params.m) {
            if (tile_column + (local.x + 0u * 8u) * 4u < params.n) {
                store(batch, tile_row + local.y * 8u + 3u, tile_column + (local.x + 0u * 8u) * 4u, sum3_0);
            }
            if (tile_column + (local.x + 1u * 8u) * 4u < params.n) {
                store(batch, tile_row + local.y * 8u + 3u, tile_column + (local.x + 1u * 8u) * 4u, sum3_1);
            }
        }
        if (tile_row + local.y * 8u + 4u < params.m) {
            if (tile_column + (local.x + 0u * 8u) * 4u < params.n) {
                store(batch, tile_row + local.y * 8u + 4u, tile_column + (local.x + 0u * 8u) * 4u, sum4_0);
            }
            if (tile_column + (local.x + 1u * 8u) * 4u < params.n) {
                store(batch, tile_row + local.y * 8u + 4u, tile_column + (local.x + 1u * 8u) * 4u, sum4_1);
            }
        }
        if (tile_row + local.y * 8u + 5u < params.m) {
            if (tile_column + (local.x + 0u * 8u) * 4u < params.n) {
                store(batch, tile_row + local.y * 8u + 5u, tile_column + (local.x + 0u * 8u) * 4u, sum5_0);
            }
            if (tile_column + (local.x + 1u * 8u) * 4u < params.n) {
                store(batch, tile_row + local.y * 8u + 5u, tile_column + (local.x + 1u * 8u) * 4u, sum5_1);
            }
        }
        if (tile_row + local.y * 8u + 6u < params.m) {
            if (tile_column + (local.x + 0u * 8u) * 4u < params.n) {
                store(batch, tile_row + local.y * 8u + 6u, tile_column + (local.x + 0u * 8u) * 4u, sum6_0);
            }
            if (tile_column + (local.x + 1u * 8u) * 4u < params.n) {
                store(batch, tile_row + local.y * 8u + 6u, tile_column + (local.x + 1u * 8u) * 4u, sum6_1);
            }
        }
        if (tile_row + local.y * 8u + 7u < params.m) {
            if (tile_column + (local.x + 0u * 8u) * 4u < params.n) {
                store(batch, tile_row + local.y * 8u + 7u, tile_column + (local.x + 0u * 8u) * 4u, sum7_0);
            }
            if (tile_column + (local.x + 1u * 8u) * 4u < params.n) {
                store(batch, tile_row + local.y * 8u + 7u, tile_column + (local.x + 1u * 8u) * 4u, sum7_1);
            }
        }
    }
}
