// softmax(scale * Q · Kᵀ + …) · V in one pass over the keys, which keeps the largest score so far. A thread makes $CHUNK
// elements of one row of the result. $K and $V are the types of elements of keys and values, f32 or vectors of four.

fn is_lowest(score: f32) -> bool {
    return bitcast<u32>(score) == 0xff800000u;
}

fn element(index: u32) {
    let chunk = index % params.chunks * $CHUNKu;
    var rest = index / params.chunks;
    let query = rest % params.queries;
    rest = rest / params.queries;
    let head = rest % params.heads;
    let batch = rest / params.heads;
    let kv_head = head / params.group;

    // The keys that the query sees.
    var end = i32(params.keys);
    //: if LENGTHS
    let length = lengths[batch] + params.length_offset;
    end = min(end, length);
    //: if PROMPT
    let position = i32(query);
    //: else
    let position = length - i32(params.queries) + i32(query);
    //: end
    //: else
    let position = params.past + i32(query);
    //: end
    //: if CAUSAL
    end = min(end, position + 1);
    //: end
    //: if RIGHT
    end = min(end, position + params.right + 1);
    //: end
    //: if BIAS
    end = min(end, params.bias_keys);
    //: end
    end = max(end, 0);
    var start = 0;
    //: if LEFT
    start = clamp(position - params.left, 0, end);
    //: end

    let q_at = params.q_start + batch * params.q0 + head * params.q1 + query * params.q2;
    let k_at = params.k_start + batch * params.k0 + kv_head * params.k1;
    let v_at = params.v_start + batch * params.v0 + kv_head * params.v1 + chunk;
    //: if BIAS
    let bias_at = batch * params.bias0 + head * params.bias1 + query * params.bias2;
    //: end
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
        let bent = exp(-2.0 * min(abs(score / params.soft_cap), 20.0));
        let capped = (1.0 - bent) / (1.0 + bent) * params.soft_cap;
        score = select(capped, -capped, score < 0.0);
        //: end
        //: if CAPPED
        record[record_at + u32(key)] = score;
        //: end
        //: if RECORD
        let seen = key >= start && key < end;
        //: else
        let seen = true;
        //: end
        //: if BIAS
        if (seen) {
            // A masked score stays masked whatever it was.
            let added = bias[bias_at + u32(key)];
            //: if TRUTH
            score = select(score, params.lowest, added == 0u);
            //: else
            score = select(score + added, params.lowest, is_lowest(added));
            //: end
        }
        //: end
        //: if RANGE
        //: if STARTS
        let filtered = key >= filters[batch] || key < filters[params.sequences + batch];
        //: else
        let filtered = key >= filters[batch];
        //: end
        score += select(0.0, params.filter_value, filtered);
        //: end
        //: if FILTER
        let kept = filters[params.filter_start + batch * params.filter0 + query * params.filter2 + u32(key)];
        score += select(0.0, params.filter_value, kept <= 0);
        //: end
        //: if RECORD
        score = select(params.lowest, score, seen);
        //: end
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
