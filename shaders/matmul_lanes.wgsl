// output[batch] = epilogue(alpha * a[batch] x b[batch] + beta * addend) for adapters in software. Each thread makes ROWS
// rows by eight columns, `width` apart, so that threads side by side read side by side. Such adapters take as long to
// compile a text as it has instructions, with all functions inlined: one text serves all strides, and the loop at the end
// has the epilogue stand there once.

@compute @workgroup_size($THREADS)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let width = params.width;
    let column = group.x * width * 8u + local % width;
    let row = (group.y * ($THREADSu / width) + local / width) * $ROWSu;
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
        //: if STRIDED
        place = 0u;
        //: end
        var a_at = row * a_row;
        var b_at = column * params.b_column;
        //: for d in 0..BATCHRANK
        a_at += (rest % params.batch_dim$d) * params.a_batch$d;
        b_at += (rest % params.batch_dim$d) * params.b_batch$d;
        //: if STRIDED
        place += (rest % params.batch_dim$d) * params.to_batch$d;
        //: end
        rest = rest / params.batch_dim$d;
        //: end
        //: for r in 0..ROWS
        var low$r = vec4<f32>();
        var high$r = vec4<f32>();
        //: end
        // What lies beyond the last row and column is some other element; it is computed and not stored.
        for (var k = 0u; k < k_end; k += 1u) {
            let b_low = vec4<f32>(b[b_at], b[b_at + b_step], b[b_at + 2u * b_step], b[b_at + 3u * b_step]);
            let b_high = vec4<f32>(
                b[b_at + 4u * b_step],
                b[b_at + 5u * b_step],
                b[b_at + 6u * b_step],
                b[b_at + 7u * b_step],
            );
            //: for r in 0..ROWS
            {
                let value = a[a_at + $ru * a_row];
                low$r += value * b_low;
                high$r += value * b_high;
            }
            //: end
            a_at += a_column;
            b_at += b_row;
        }
        var sums = array<vec4<f32>, $QUADS>(
            //: for r in 0..ROWS
            low$r,
            high$r,
            //: end
        );
        for (var i = 0u; i < $QUADSu * 4u; i += 1u) {
            let to_row = row + i / 8u;
            let to_column = column + i % 8u * width;
            if ((to_row < params.m) & (to_column < params.n)) {
                store(batch, to_row, to_column, sums[i / 4u][i % 4u]);
            }
        }
    }
}
