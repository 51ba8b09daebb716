// softmax(scale * Q · Kᵀ + …) · V in one pass over the keys, which keeps the largest score so far. A thread makes $CHUNK
// elements of one row of the result. $K and $V are the types of elements of keys and values, f32 or vectors of four.

fn element(index: u32) {
    let chunk = index % params.chunks * $CHUNKu;
    var rest = index / params.chunks;
    let query = rest % params.queries;
    rest = rest / params.queries;
    let head = rest % params.heads;
    let batch = rest / params.heads;
    let kv_head = head / params.group;

    let span = seen_by(batch, query);
    let start = span.x;
    let end = span.y;
    let q_at = params.q_start + batch * params.q0 + head * params.q1 + query * params.q2;
    let k_at = params.k_start + batch * params.k0 + kv_head * params.k1;
    let v_at = params.v_start + batch * params.v0 + kv_head * params.v1 + chunk;
    let bias_at = bias_of(batch, head, query);
    let filter_at = filter_of(batch, query);
    //: if RECORD
    let record_at = ((batch * params.heads + head) * params.queries + query) * params.keys;
    //: end

    var largest = params.lowest;
    var sum = 0.0;
    //: if SINK
    //: if ZEROSINK
    largest = 0.0;
    //: else
    largest = sinks[head];
    //: end
    sum = 1.0;
    //: end
    var result: array<$V, $CHUNK>;
    //: if RECORD
    for (var key = 0; key < i32(params.keys); key++) {
    //: else
    for (var key = start; key < end; key++) {
    //: end
        let at = k_at + u32(key) * params.k2;
        var score = 0.0;
        for (var i = 0u; i < params.head_units; i++) {
            //: if WIDE
            score += dot(q[q_at + i], k[at + i]);
            //: else
            score += q[q_at + i] * k[at + i];
            //: end
        }
        score = score * params.scale;
        //: if RAW
        record[record_at + u32(key)] = score;
        //: end
        //: if SOFTCAP
        score = soft_cap(score);
        //: end
        //: if CAPPED
        record[record_at + u32(key)] = score;
        //: end
        //: if RECORD
        let seen = key >= start && key < end;
        //: else
        let seen = true;
        //: end
        score = masked(score, batch, bias_at, filter_at, u32(key), seen);
        //: if BIASED
        //: if ZEROOUTSIDE
        record[record_at + u32(key)] = select(0.0, score, seen);
        //: else
        record[record_at + u32(key)] = score;
        //: end
        //: end
        if (is_lowest(score)) {
            continue;
        }
        if (score > largest) {
            let factor = select(exp(largest - score), 0.0, sum == 0.0);
            sum = sum * factor;
            for (var i = 0u; i < $CHUNKu; i++) {
                result[i] = result[i] * factor;
            }
            largest = score;
        }
        let weight = exp(score - largest);
        sum += weight;
        let value_at = v_at + u32(key) * params.v2;
        for (var i = 0u; i < $CHUNKu; i++) {
            if (chunk + i < params.value_units) {
                result[i] = result[i] + weight * v[value_at + i];
            }
        }
    }
    let scale = select(1.0 / sum, 0.0, sum == 0.0);
    let to = batch * params.to0 + head * params.to1 + query * params.to2 + chunk;
    for (var i = 0u; i < $CHUNKu; i++) {
        if (chunk + i < params.value_units) {
            output[to + i] = result[i] * scale;
        }
    }
    //: if WEIGHTS
    for (var key = 0; key < i32(params.keys); key++) {
        let score = record[record_at + u32(key)];
        let seen = key >= start && key < end && !is_lowest(score);
        record[record_at + u32(key)] = select(0.0, exp(score - largest) * scale, seen);
    }
    //: end
}
