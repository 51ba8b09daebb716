// conv_tiled [2, 2, 1] [180, 180, 1, 1, 1, 12600, 0, 2200, 2200, 10, 11, 10, 11, 110, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 70, 110, 1]
struct Params {
    k: u32,
    a_row: u32,
    a_column: u32,
    batch_dim0: u32,
    batch_dim1: u32,
    a_batch0: u32,
    a_batch1: u32,
    b_batch0: u32,
    b_batch1: u32,
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
@group(0) @binding(1) var<storage, read> a: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> b: array<f32>;
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


var<workgroup> tile_a: array<vec4<f32>, 256>;
var<workgroup> tile_b: array<vec4<f32>, 256>;

fn load_a(base: u32, row: u32, k: u32) -> vec4<f32> {
    if (row >= params.m || k >= params.k) {
        return vec4<f32>();
    }
    return a[(base + row * params.a_row + k) / 4u];
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
    let load_column = tile_column + (thread % 16u) * 4u;
    let y0 = i32((load_column + 0u) / params.out_width * params.stride_y) - params.pad_top;
    let x0 = i32((load_column + 0u) % params.out_width * params.stride_x) - params.pad_left;
    let y1 = i32((load_column + 1u) / params.out_width * params.stride_y) - params.pad_top;
    let x1 = i32((load_column + 1u) % params.out_width * params.stride_x) - params.pad_left;
    let y2 = i32((load_column + 2u) / params.out_width * params.stride_y) - params.pad_top;
    let x2 = i32((load_column + 2u) % params.out_width * params.stride_x) - params.pad_left;
    let y3 = i32((load_column + 3u) / params.out_width * params.stride_y) - params.pad_top;
    let x3 = i32((load_column + 3u) % params.out_width * params.stride_x) - params.pad_left;
    for (var batch = group.z; batch < params.batches; batch += groups.z) {
        var rest = batch;
        var a_base = 0u;
        var b_base = 0u;
        a_base += (rest % params.batch_dim0) * params.a_batch0;
        b_base += (rest % params.batch_dim0) * params.b_batch0;
        rest = rest / params.batch_dim0;
        a_base += (rest % params.batch_dim1) * params.a_batch1;
        b_base += (rest % params.batch_dim1) * params.b_batch1;
        rest = rest / params.batch_dim1;
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
                let k = k_tile + slot / 16u;
                let kernel_x = i32(k % params.kernel_width * params.dilation_x);
                let kernel_row = k / params.kernel_width;
                let kernel_y = i32(kernel_row % params.kernel_height * params.dilation_y);
                let plane = b_base + kernel_row / params.kernel_height * params.plane;
                var value = vec4<f32>();
                {
                    let y = y0 + kernel_y;
                    let x = x0 + kernel_x;
                    let inside = y >= 0 && y < params.in_height && x >= 0 && x < params.in_width;
                    if (inside && k < params.k && load_column + 0u < params.n) {
                        value[0] = b[plane + u32(y * params.in_width + x)];
                    }
                }
                {
                    let y = y1 + kernel_y;
                    let x = x1 + kernel_x;
                    let inside = y >= 0 && y < params.in_height && x >= 0 && x < params.in_width;
                    if (inside && k < params.k && load_column + 1u < params.n) {
                        value[1] = b[plane + u32(y * params.in_width + x)];
                    }
                }
                {
                    let y = y2 + kernel_y;
                    let x = x2 + kernel_x;
                    let inside = y >= 0 && y < params.in_height && x >= 0 && x < params.in_width;
                    if (inside && k < params.k && load_column + 2u < params.n) {
                        value[2] = b[plane + u32(y * params.in_width + x)];
                    }
                }
                {
                    let y = y3 + kernel_y;
                    let x = x3 + kernel_x;
                    let inside = y >= 0 && y < params.in_height && x >= 0 && x < params.in_width;
                    if (inside && k < params.k && load_column + 3u < params.n) {
                        value[3] = b[plane + u32(y * params.in_width + x)];
                    }
                }
                tile_b[slot] = value;
            }
            {
                let slot = thread + 1u * 64u;
                tile_a[slot] = load_a(a_base, tile_row + slot / 4u, k_tile + (slot % 4u) * 4u);
                let k = k_tile + slot / 16u;
                let kernel_x = i32(k % params.kernel_width * params.dilation_x);
                let kernel_row = k / params.kernel_width;
                let kernel_y = i32(kernel_row % params.kernel_height * params.dilation_y);
                let plane = b_base + kernel_row / params.kernel_height * params.plane;
                var value = vec4<f32>();
                {
                    let y = y0 + kernel_y;
                    let x = x0 + kernel_x;
                    let inside = y >= 0 && y < params.in_height && x >= 0 && x < params.in_width;
                    if (inside && k < params.k && load_column + 0u < params.n) {
                        value[0] = b[plane + u32(y * params.in_width + x)];
                    }
                }
                {
                    let y = y1 + kernel_y;
                    let x = x1 + kernel_x;
                    let inside = y >= 0 && y < params.in_height && x >= 0 && x < params.in_width;
                    if (inside && k < params.k && load_column + 1u < params.n) {
                        value[1] = b[plane + u32(y * params.in_width + x)];
                    }
                }
                {
                    let y = y2 + kernel_y;
                    let x = x2 + kernel_x;
                    let inside = y >= 0 && y < params.in_height && x >= 0 && x < params.in_width;
                    if (inside && k < params.k && load_column + 2u < params.n) {
                        value[2] = b[plane + u32(y * params.in_width + x)];
                    }
                }
                {
                    let y = y3 + kernel_y;
                    let x = x3 + kernel_x;
                    let inside = y >= 0 && y < params.in_height && x >= 0 && x < params.in_width;
                    if (inside && k < params.k && load_column + 3u < params.n) {
                        value[3] = b[plane + u32(y * params.in_width + x)];
                    }
                }
                tile_b[slot] = value;
            }
            {
                let slot = thread + 2u * 64u;
                tile_a[slot] = load_a(a_base, tile_row + slot / 4u, k_tile + (slot % 4u) * 4u);
                let k = k_tile + slot / 16u;
                let kernel_x = i32(k % params.kernel_width * params.dilation_x);
                let kernel_row = k / params.kernel_width;
                let kernel_y = i32(kernel_row % params.kernel_height * params.dilation_y);
                let plane = b_base + kernel_row / params.kernel_height * params.plane;
                var value = vec4<f32>();
                {
                    let y = y0 + kernel_y;
                    let x = x0 + kernel_x;
                    let inside = y >= 0 && y < params.in_height && x >= 0 && x < params.in_width;
                    if (inside && k < params.k && load_column + 0u < params.n) {
                        value[0] = b[plane + u32(y * params.in_width + x)];
                    }
                }
                {
                    let y = y1 + kernel_y;
                    let x = x1 + kernel_x;
                    let inside = y >= 0 && y < params.in_height && x >= 0 && x < params.in_width;
                    if (inside && k < params.k && load_column + 1u < params.n) {
                        value[1] = b[plane + u32(y * params.in_width + x)];
                    }
                }
                {
                    let y = y2 + kernel_y;
                    let x = x2 + kernel_x;
                    let inside = y >= 0 && y < params.in_height && x >= 0 && x < params.in_width;
                    if (inside && k < params.k && load_column + 2u < params.n) {
                        value[2] = b[plane + u32(y * params.in_width + x)];
                    }
                }
                {
                    let y = y3 + kernel_y;
                    let x = x3 + kernel_x;
                    let inside = y >= 0 && y < params.in_height && x >= 0 && x < params.in_width;
                    if (inside && k < params.k && load_column + 3u < params.n) {
                        value[3] = b[plane + u32(y * params.in_width + x)];
                    }
                }
                tile_b[slot] = value;
            }
            {
                let slot = thread + 3u * 64u;
                tile_a[slot] = load_a(a_base, tile_row + slot / 4u, k_tile + (slot % 4u) * 4u);
                let k = k_tile + slot / 16u;
                let kernel_x = i32(k % params.kernel_width * params.dilation_x);
                let kernel_row = k / params.kernel_width;
                let kernel_y = i32(kernel_row % params.kernel_height * params.dilation_y);
                let plane = b_base + kernel_row / params.kernel_height * params.plane;
                var value = vec4<f32>();
                {
                    let y = y0 + kernel_y;
                    let x = x0 + kernel_x;
                    let inside = y >= 0 && y < params.in_height && x >= 0 && x < params.in_width;
                    if (inside && k < params.k && load_column + 0u < params.n) {
                        value[0] = b[plane + u32(y * params.in_width + x)];
                    }
                }
                {
                    let y = y1 + kernel_y;
                    let x = x1 + kernel_x;
                    let inside = y >= 0 && y < params.in_height && x >= 0 && x < params.in_width;
                    if (inside && k < params.k && load_column + 1u < params.n) {
                        value[1] = b[plane + u32(y * params.in_width + x)];
                    }
                }
                {
                    let y = y2 + kernel_y;
                    let x = x2 + kernel_x;
                    let inside = y >= 0 && y < params.in_height && x >= 0 && x < params.in_width;
                    if (inside && k < params.k && load_column + 2u < params.n) {
                        value[2] = b[plane + u32(y * params.in_width + x)];
                    }
                }
                {
                    let y = y3 + kernel_y;
                    let x = x3 + kernel_x;
                    let inside = y >= 0 && y < params.in_height && x >= 0 && x < params.in_width;
                    if (inside && k < params.k && load_column + 3u < params.n) {
                        value[3] = b[plane + u32(y * params.in_width + x)];
                    }
                }
                tile_b[slot] = value;
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
