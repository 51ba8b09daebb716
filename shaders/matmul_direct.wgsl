// output[batch] = epilogue(alpha * a[batch] x b[batch] + beta * addend), each thread ROWS rows by four columns, straight
// from storage buffers. With SPLIT the second dimension of the workgroup shares the sum over k instead of rows, for
// products with few rows.
//
// How a is read: AVECTOR four values along k at once, otherwise any strides.
// How b is read: BROWS four columns at once, BCOLUMNS four values along k at once, otherwise any strides.
// AHALF, BHALF: the four are halves in two words.

//: if SPLIT
var<workgroup> partial_sums: array<vec4<f32>, $PARTIALS>;
//: end

@compute @workgroup_size($COLUMNTHREADS, $ROWTHREADS)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_id) local: vec3<u32>,
) {
    let column = (group.x * $COLUMNTHREADSu + local.x) * 4u;
    //: if SPLIT
    let row = group.y * $ROWSu;
    //: else
    let row = (group.y * $ROWTHREADSu + local.y) * $ROWSu;
    if (column >= params.n || row >= params.m) {
        return;
    }
    //: end
    // Rows and columns beyond the matrix repeat the last one; they are computed and not stored.
    let last_row = params.m - 1u;
    let last_column = params.n - 1u;
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
        //: for r in 0..ROWS
        var sum$r = vec4<f32>();
        //: if AVECTOR
        let a$r = (a_base + min(row + $ru, last_row) * params.a_row) / 4u;
        //: else
        let a$r = a_base + min(row + $ru, last_row) * params.a_row;
        //: end
        //: end
        //: if BROWS
        let b_at = (b_base + min(column, last_column)) / 4u;
        let b_row = params.b_row / 4u;
        //: else
        //: for c in 0..4
        //: if BCOLUMNS
        let b_at$c = (b_base + min(column + $cu, last_column) * params.b_column) / 4u;
        //: else
        let b_at$c = b_base + min(column + $cu, last_column) * params.b_column;
        //: end
        //: end
        //: end

        let whole = params.k - params.k % 4u;
        //: if SPLIT
        for (var k = local.y * 4u; k < whole; k += 4u * $ROWTHREADSu) {
        //: else
        for (var k = 0u; k < whole; k += 4u) {
        //: end
            //: if BROWS
            //: for i in 0..4
            //: if BHALF
            let b$i = halves(b[b_at + (k + $iu) * b_row]);
            //: else
            let b$i = b[b_at + (k + $iu) * b_row];
            //: end
            //: end
            //: else
            //: if BCOLUMNS
            //: for i in 0..4
            let b$i = b[b_at$i + k / 4u];
            //: end
            //: else
            //: for i in 0..4
            let k$i = (k + $iu) * params.b_row;
            let b$i = vec4<f32>(b[b_at0 + k$i], b[b_at1 + k$i], b[b_at2 + k$i], b[b_at3 + k$i]);
            //: end
            //: end
            //: end
            //: for r in 0..ROWS
            {
                //: if AVECTOR
                //: if AHALF
                let value = halves(a[a$r + k / 4u]);
                //: else
                let value = a[a$r + k / 4u];
                //: end
                //: else
                let at = a$r + k * params.a_column;
                let value = vec4<f32>(
                    a[at],
                    a[at + params.a_column],
                    a[at + 2u * params.a_column],
                    a[at + 3u * params.a_column],
                );
                //: end
                //: if BCOLUMNS
                sum$r += vec4<f32>(dot(value, b0), dot(value, b1), dot(value, b2), dot(value, b3));
                //: else
                sum$r += value.x * b0;
                sum$r += value.y * b1;
                sum$r += value.z * b2;
                sum$r += value.w * b3;
                //: end
            }
            //: end
        }
        //: if KTAIL
        //: if SPLIT
        for (var k = whole + local.y; k < params.k; k += $ROWTHREADSu) {
        //: else
        for (var k = whole; k < params.k; k += 1u) {
        //: end
            //: if BROWS
            //: if BHALF
            let b0 = halves(b[b_at + k * b_row]);
            //: else
            let b0 = b[b_at + k * b_row];
            //: end
            //: else
            let k0 = k * params.b_row;
            let b0 = vec4<f32>(b[b_at0 + k0], b[b_at1 + k0], b[b_at2 + k0], b[b_at3 + k0]);
            //: end
            //: for r in 0..ROWS
            sum$r += a[a$r + k * params.a_column] * b0;
            //: end
        }
        //: end

        //: if SPLIT
        //: for r in 0..ROWS
        partial_sums[(local.y * $COLUMNTHREADSu + local.x) * $ROWSu + $ru] = sum$r;
        //: end
        workgroupBarrier();
        for (var half = $ROWTHREADSu / 2u; half > 0u; half = half / 2u) {
            if (local.y < half) {
                //: for r in 0..ROWS
                partial_sums[(local.y * $COLUMNTHREADSu + local.x) * $ROWSu + $ru] +=
                    partial_sums[((local.y + half) * $COLUMNTHREADSu + local.x) * $ROWSu + $ru];
                //: end
            }
            workgroupBarrier();
        }
        if (local.y == 0u && column < params.n) {
            //: for r in 0..ROWS
            if (row + $ru < params.m) {
                store(batch, row + $ru, column, partial_sums[local.x * $ROWSu + $ru]);
            }
            //: end
        }
        workgroupBarrier();
        //: else
        //: for r in 0..ROWS
        if (row + $ru < params.m) {
            store(batch, row + $ru, column, sum$r);
        }
        //: end
        //: end
    }
}
