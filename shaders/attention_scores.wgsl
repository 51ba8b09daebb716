// Which keys a query sees, and what is added to the score of one.

fn is_lowest(score: f32) -> bool {
    return bitcast<u32>(score) == 0xff800000u;
}

// The first key that a query sees and the one behind the last.
fn seen_by(batch: u32, query: u32) -> vec2<i32> {
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
    return vec2<i32>(start, end);
}

//: if SOFTCAP
fn soft_cap(score: f32) -> f32 {
    let bent = exp(-2.0 * min(abs(score / params.soft_cap), 20.0));
    let capped = (1.0 - bent) / (1.0 + bent) * params.soft_cap;
    return select(capped, -capped, score < 0.0);
}
//: end

// bias_at and filter_at: where the numbers of the query begin.
fn masked(raw: f32, batch: u32, bias_at: u32, filter_at: u32, key: u32, seen: bool) -> f32 {
    var score = raw;
    //: if BIAS
    if (seen) {
        // A masked score stays masked whatever it was.
        let added = bias[bias_at + key];
        //: if TRUTH
        score = select(score, params.lowest, added == 0u);
        //: else
        score = select(score + added, params.lowest, is_lowest(added));
        //: end
    }
    //: end
    //: if RANGE
    //: if STARTS
    let filtered = i32(key) >= filters[batch] || i32(key) < filters[params.sequences + batch];
    //: else
    let filtered = i32(key) >= filters[batch];
    //: end
    score += select(0.0, params.filter_value, filtered);
    //: end
    //: if FILTER
    score += select(0.0, params.filter_value, filters[filter_at + key] <= 0);
    //: end
    return select(params.lowest, score, seen);
}

fn bias_of(batch: u32, head: u32, query: u32) -> u32 {
    //: if BIAS
    return batch * params.bias0 + head * params.bias1 + query * params.bias2;
    //: else
    return 0u;
    //: end
}

fn filter_of(batch: u32, query: u32) -> u32 {
    //: if FILTER
    return params.filter_start + batch * params.filter0 + query * params.filter2;
    //: else
    return 0u;
    //: end
}

//: if TILED
//: if SINK
fn sink(index: u32) -> f32 {
    //: if ZEROSINK
    return 0.0;
    //: else
    return sinks[index % params.heads];
    //: end
}
//: end

// All keys that queries from `first` to `last` see.
fn span(index: u32, first: u32, last: u32) -> vec2<u32> {
    let batch = index / params.heads;
    return vec2<u32>(vec2<i32>(seen_by(batch, first).x, seen_by(batch, last).y));
}

fn finish(score: f32, index: u32, query: u32, key: u32) -> f32 {
    let batch = index / params.heads;
    let seen = seen_by(batch, query);
    let is_seen = i32(key) >= seen.x && i32(key) < seen.y;
    //: if SOFTCAP
    let capped = soft_cap(score);
    //: else
    let capped = score;
    //: end
    let bias_at = bias_of(batch, index % params.heads, query);
    return masked(capped, batch, bias_at, filter_of(batch, query), key, is_seen);
}
//: end
