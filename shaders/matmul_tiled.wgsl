// output[batch] = epilogue(alpha * a[batch] x b[batch] + beta * addend) on tiles of 64 x 64 in workgroup memory, for
// adapters where barriers are cheap. 8 x 8 threads compute 8 rows by two times four columns each.
//
// a and b are read as in matmul_direct.wgsl. With CONVOLUTION, b is a column matrix that is never stored: row k stands
// for a channel and a kernel position, a column for an output position of the image.

var<workgroup> tile_a: array<vec4<f32>, 256>;
var<workgroup> tile_b: array<vec4<f32>, 256>;

fn load_a(base: u32, row: u32, k: u32) -> vec4<f32> {
    if (row >= params.m || k >= params.k) {
        return vec4<f32>();
    }
    //: if AVECTOR
    //: if AHALF
    return halves(a[(base + row * params.a_row + k) / 4u]);
    //: else
    return a[(base + row * params.a_row + k) / 4u];
    //: end
    //: else
    let at = base + row * params.a_row + k * params.a_column;
    var value = vec4<f32>(a[at], 0.0, 0.0, 0.0);
    //: for i in 1..4
    if (k + $iu < params.k) {
        value[$i] = a[at + $iu * params.a_column];
    }
    //: end
    return value;
    //: end
}

//: if !CONVOLUTION
fn load_b(base: u32, k: u32, column: u32) -> vec4<f32> {
    //: if BCOLUMNS
    if (k >= params.k || column >= params.n) {
        return vec4<f32>();
    }
    return b[(base + column * params.b_column + k) / 4u];
    //: else
    if (k >= params.k || column >= params.n) {
        return vec4<f32>();
    }
    //: if BROWS
    //: if BHALF
    return halves(b[(base + k * params.b_row + column) / 4u]);
    //: else
    return b[(base + k * params.b_row + column) / 4u];
    //: end
    //: else
    let at = base + k * params.b_row + column * params.b_column;
    var value = vec4<f32>(b[at], 0.0, 0.0, 0.0);
    //: for i in 1..4
    if (column + $iu < params.n) {
        value[$i] = b[at + $iu * params.b_column];
    }
    //: end
    return value;
    //: end
    //: end
}
//: end

@compute @workgroup_size(8, 8)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_id) local: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let tile_row = group.y * 64u;
    let tile_column = group.x * 64u;
    //: if CONVOLUTION
    // The four output positions that this thread gathers, as the input position of the kernel's first element.
    let load_column = tile_column + (thread % 16u) * 4u;
    //: for c in 0..4
    let y$c = i32((load_column + $cu) / params.out_width * params.stride_y) - params.pad_top;
    let x$c = i32((load_column + $cu) % params.out_width * params.stride_x) - params.pad_left;
    //: end
    //: end
    for (var batch = group.z; batch < params.batches; batch += groups.z) {
        var rest = batch;
        //: if STRIDED
        place = 0u;
        //: end
        var a_base = 0u;
        var b_base = 0u;
        //: for d in 0..BATCHRANK
        a_base += (rest % params.batch_dim$d) * params.a_batch$d;
        b_base += (rest % params.batch_dim$d) * params.b_batch$d;
        //: if STRIDED
        place += (rest % params.batch_dim$d) * params.to_batch$d;
        //: end
        rest = rest / params.batch_dim$d;
        //: end
        //: for r in 0..8
        var sum$r_0 = vec4<f32>();
        var sum$r_1 = vec4<f32>();
        //: end
        for (var k_tile = 0u; k_tile < params.k; k_tile += 16u) {
            //: for i in 0..4
            {
                let slot = thread + $iu * 64u;
                tile_a[slot] = load_a(a_base, tile_row + slot / 4u, k_tile + (slot % 4u) * 4u);
                //: if CONVOLUTION
                let k = k_tile + slot / 16u;
                let kernel_x = i32(k % params.kernel_width * params.dilation_x);
                let kernel_row = k / params.kernel_width;
                let kernel_y = i32(kernel_row % params.kernel_height * params.dilation_y);
                let plane = b_base + kernel_row / params.kernel_height * params.plane;
                var value = vec4<f32>();
                //: for c in 0..4
                {
                    let y = y$c + kernel_y;
                    let x = x$c + kernel_x;
                    let inside = y >= 0 && y < params.in_height && x >= 0 && x < params.in_width;
                    if (inside && k < params.k && load_column + $cu < params.n) {
                        value[$c] = b[plane + u32(y * params.in_width + x)];
                    }
                }
                //: end
                tile_b[slot] = value;
                //: else
                //: if BCOLUMNS
                // By column first, so that the threads of a row of loads read one column's run of k.
                tile_b[(slot % 4u) * 64u + slot / 4u] =
                    load_b(b_base, k_tile + (slot % 4u) * 4u, tile_column + slot / 4u);
                //: else
                tile_b[slot] = load_b(b_base, k_tile + slot / 16u, tile_column + (slot % 16u) * 4u);
                //: end
                //: end
            }
            //: end
            workgroupBarrier();
            for (var k = 0u; k < 4u; k += 1u) {
                //: for q in 0..2
                //: for i in 0..4
                //: if BCOLUMNS
                let b$i_$q = tile_b[k * 64u + (local.x + $qu * 8u) * 4u + $iu];
                //: else
                let b$i_$q = tile_b[(k * 4u + $iu) * 16u + local.x + $qu * 8u];
                //: end
                //: end
                //: end
                //: for r in 0..8
                {
                    let value = tile_a[(local.y * 8u + $ru) * 4u + k];
                    //: for q in 0..2
                    //: if BCOLUMNS
                    sum$r_$q += vec4<f32>(
                        dot(value, b0_$q),
                        dot(value, b1_$q),
                        dot(value, b2_$q),
                        dot(value, b3_$q),
                    );
                    //: else
                    sum$r_$q += value.x * b0_$q;
                    sum$r_$q += value.y * b1_$q;
                    sum$r_$q += value.z * b2_$q;
                    sum$r_$q += value.w * b3_$q;
                    //: end
                    //: end
                }
                //: end
            }
            workgroupBarrier();
        }
        //: for r in 0..8
        if (tile_row + local.y * 8u + $ru < params.m) {
            //: for q in 0..2
            if (tile_column + (local.x + $qu * 8u) * 4u < params.n) {
                store(batch, tile_row + local.y * 8u + $ru, tile_column + (local.x + $qu * 8u) * 4u, sum$r_$q);
            }
            //: end
        }
        //: end
    }
}
