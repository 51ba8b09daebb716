// softmax(finish(scale * Q · Kᵀ)) · V for adapters where barriers are cheap; the scores are never in memory. A workgroup of
// 8 x 8 threads makes 32 rows of one head and up to 128 columns. It walks over the keys, 32 at a time, with the largest
// score of each row so far and the sum of the weights, to which all that was summed is scaled when a larger one is met.
//
// Thread (x, y) has rows 4 y to 4 y + 3, in the lanes of its vectors; of the scores columns x, x + 8, …, of the result
// vectors x, x + 8, …. x0, x1, x2 are Q, K and V. Functions before say which keys a query sees and what a score becomes.

// 32 rows by 16 elements of Q, then of K by vectors of 33, one more than rows; or 8 rows of V.
var<workgroup> tile: array<vec4<f32>, 260>;
// By rows, then keys.
var<workgroup> weights: array<vec4<f32>, 256>;
var<workgroup> parts: array<vec4<f32>, 64>;

//: for o in 0..3
fn load$o(base: u32, row: u32, rows: u32, column: u32, columns: u32) -> vec4<f32> {
    if (row >= rows || column >= columns) {
        return vec4<f32>();
    }
    let at = base + row * params.row$o + column * params.column$o;
    //: if WIDE
    return x$o[at / 4u];
    //: else
    var value = vec4<f32>(x$o[at], 0.0, 0.0, 0.0);
    //: for i in 1..4
    if (column + $iu < columns) {
        value[$i] = x$o[at + $iu * params.column$o];
    }
    //: end
    return value;
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
    let first_row = group.x * 32u;
    let first_column = group.y * $COLUMNSu * 4u;
    for (var index = group.z; index < params.count; index += groups.z) {
        var rest = index;
        //: for o in 0..4
        var at$o = params.start$o;
        //: end
        //: for d in 0..RANK
        //: for o in 0..4
        at$o += rest % params.dim$d * params.step$d_$o;
        //: end
        rest = rest / params.dim$d;
        //: end
        let seen = span(index, first_row, min(first_row + 31u, params.queries - 1u));
        // Finite, so that nothing is computed with infinities.
        var largest = vec4<f32>(-3.4028234e38);
        var sums = vec4<f32>();
        //: if SINK
        largest = max(largest, vec4<f32>(sink(index)));
        sums = vec4<f32>(select(0.0, 1.0, local.x == 0u));
        //: end
        //: for j in 0..QUADS
        //: for r in 0..4
        var sum$r_$j = vec4<f32>();
        //: end
        //: end
        for (var first_key = seen.x; first_key < seen.y; first_key += 32u) {
            //: for c in 0..4
            var score$c = vec4<f32>();
            //: end
            for (var depth = 0u; depth < params.head_size; depth += 16u) {
                //: for i in 0..2
                {
                    let row = thread / 4u + $iu * 16u;
                    let quad = thread % 4u;
                    let column = depth + quad * 4u;
                    tile[row * 4u + quad] = load0(at0, first_row + row, params.queries, column, params.head_size);
                    tile[128u + quad * 33u + row] = load1(at1, first_key + row, seen.y, column, params.head_size);
                }
                //: end
                workgroupBarrier();
                for (var i = 0u; i < 4u; i += 1u) {
                    //: for c in 0..4
                    let key$c = tile[128u + i * 33u + local.x + $cu * 8u];
                    //: end
                    //: for r in 0..4
                    {
                        let row = tile[(local.y * 4u + $ru) * 4u + i];
                        //: for c in 0..4
                        score$c[$r] += dot(row, key$c);
                        //: end
                    }
                    //: end
                }
                workgroupBarrier();
            }
            //: for r in 0..4
            {
                let query = min(first_row + local.y * 4u + $ru, params.queries - 1u);
                //: for c in 0..4
                score$c[$r] = finish(score$c[$r] * params.scale, index, query, first_key + local.x + $cu * 8u);
                //: end
            }
            //: end
            var most = max(max(score0, score1), max(score2, score3));
            parts[thread] = most;
            workgroupBarrier();
            for (var x = 0u; x < 8u; x += 1u) {
                most = max(most, parts[local.y * 8u + x]);
            }
            most = max(most, largest);
            let factor = exp(largest - most);
            largest = most;
            sums *= factor;
            //: for c in 0..4
            {
                let masked = bitcast<vec4<u32>>(score$c) == vec4<u32>(0xff800000u);
                let weight = select(exp(score$c - most), vec4<f32>(), masked);
                weights[local.y * 32u + local.x + $cu * 8u] = weight;
                sums += weight;
            }
            //: end
            //: for j in 0..QUADS
            //: for r in 0..4
            sum$r_$j *= factor[$r];
            //: end
            //: end
            for (var part = 0u; part < min(32u, seen.y - first_key); part += 8u) {
                //: for j in 0..QUADS
                {
                    let row = first_key + part + (thread + $ju * 64u) / $COLUMNSu;
                    let column = first_column + (thread + $ju * 64u) % $COLUMNSu * 4u;
                    tile[thread + $ju * 64u] = load2(at2, row, seen.y, column, params.value_size);
                }
                //: end
                workgroupBarrier();
                for (var key = 0u; key < 8u; key += 1u) {
                    let weight = weights[local.y * 32u + part + key];
                    //: for j in 0..QUADS
                    {
                        let value = tile[key * $COLUMNSu + local.x + $ju * 8u];
                        //: for r in 0..4
                        sum$r_$j += weight[$r] * value;
                        //: end
                    }
                    //: end
                }
                workgroupBarrier();
            }
        }
        parts[thread] = sums;
        workgroupBarrier();
        sums = vec4<f32>();
        for (var x = 0u; x < 8u; x += 1u) {
            sums += parts[local.y * 8u + x];
        }
        workgroupBarrier();
        //: for r in 0..4
        {
            let row = first_row + local.y * 4u + $ru;
            //: if ZERONAN
            let whole = sums[$r] > 0.0;
            //: else
            let whole = sums[$r] != 0.0;
            //: end
            //: for j in 0..QUADS
            {
                let column = first_column + (local.x + $ju * 8u) * 4u;
                let value = select(vec4<f32>(params.empty), sum$r_$j / sums[$r], whole);
                let at = at3 + row * params.row3 + column * params.column3;
                if (row < params.queries && column < params.value_size) {
                    //: if WIDE
                    output[at / 4u] = value;
                    //: else
                    //: for i in 0..4
                    if (column + $iu < params.value_size) {
                        output[at + $iu * params.column3] = value[$i];
                    }
                    //: end
                    //: end
                }
            }
            //: end
        }
        //: end
    }
}
