// Rows of heads before an attention: PREPARE adds a bias, normalises and rotates them, APPEND puts them behind those of a
// cache, and WRITE writes them into one. A thread makes one element of [batch, heads, rows, size].

//: if LENGTHS
// Rows of a sequence that were there before.
fn past_of(batch: u32) -> u32 {
    //: if PROMPT
    return 0u;
    //: else
    return u32(max(lengths[batch] + params.length_offset - i32(params.rows), 0));
    //: end
}
//: else
fn past_of(batch: u32) -> u32 {
    return params.past;
}
//: end

//: if PREPARE
fn value_at(at: u32, head: u32, i: u32, scale: f32) -> f32 {
    var value = input[at + i];
    //: if BIAS
    value += bias[params.bias_start + head * params.size + i];
    //: end
    //: if NORM
    value = value * scale * norm[i];
    //: end
    return value;
}
//: end

fn element(index: u32) {
    let i = index % params.size;
    var rest = index / params.size;
    //: if PREPARE
    let row = rest % params.rows;
    rest = rest / params.rows;
    let head = rest % params.heads;
    let batch = rest / params.heads;
    let at = params.start + batch * params.from0 + head * params.from1 + row * params.from2;
    var scale = 1.0;
    //: if NORM
    var sum = 0.0;
    for (var k = 0u; k < params.size; k++) {
        let value = input[at + k];
        sum += value * value;
    }
    scale = 1.0 / sqrt(sum / f32(params.size) + params.epsilon);
    //: end
    var value = value_at(at, head, i, scale);
    //: if ROTATE
    if (i < params.half * 2u) {
        //: if INTERLEAVED
        let pair = i / 2u;
        let is_second = (i & 1u) == 1u;
        let partner = select(i + 1u, i - 1u, is_second);
        //: else
        let pair = i % params.half;
        let is_second = i >= params.half;
        let partner = select(i + params.half, i - params.half, is_second);
        //: end
        //: if POSITIONS
        let position = u32(max(positions[batch * params.position_step + row * params.position_row], 0)) + row * params.position_run;
        //: else
        //: if OWN
        let position = batch * params.rows + row;
        //: else
        let position = past_of(batch) + row;
        //: end
        //: end
        let angle = min(position, params.table - 1u) * params.half + pair;
        let turned = sines[angle] * value_at(at, head, partner, scale);
        value = value * cosines[angle] + select(-turned, turned, is_second);
    }
    //: end
    output[batch * params.to0 + head * params.to1 + row * params.to2 + i] = value;
    //: else
    //: if WRITE
    let row = rest % params.rows;
    rest = rest / params.rows;
    let head = rest % params.heads;
    let batch = rest / params.heads;
    //: if WRAPS
    let total = i32(params.total);
    let place = u32((lengths[batch] % total + total + i32(row)) % total);
    //: else
    let place = past_of(batch) + row;
    //: end
    if (place < params.total) {
        output[(rest * params.total + place) * params.size + i] = input[params.start + batch * params.from0 + head * params.from1 + row * params.from2 + i];
    }
    //: else
    let row = rest % params.total;
    rest = rest / params.total;
    let head = rest % params.heads;
    let batch = rest / params.heads;
    let past = past_of(batch);
    var value = 0.0;
    //: if PAST
    if (row < params.capacity) {
        //: if REST
        value = pasts[(rest * params.capacity + row) * params.size + i];
        //: else
        value = select(0.0, pasts[(rest * params.capacity + row) * params.size + i], row < past);
        //: end
    }
    //: end
    if (row >= past && row < past + params.rows) {
        value = input[params.start + batch * params.from0 + head * params.from1 + (row - past) * params.from2 + i];
    }
    output[index] = value;
    //: end
    //: end
}
