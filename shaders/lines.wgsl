// Work along the middle of [outer, length, inner]: running sums, the place of an extreme, the order of elements, norms.

//: if KEYS
// Integers in the order of the elements; NaN after everything else.
fn key(value: $T) -> i32 {
    //: if FLOAT
    let bits = bitcast<i32>(select(value, 0.0, value == 0.0));
    return select(bits ^ ((bits >> 31u) & 0x7fffffff), 0x7fffffff, (bits & 0x7fffffff) > 0x7f800000);
    //: else
    //: if UNSIGNED
    return bitcast<i32>(value ^ 0x80000000u);
    //: else
    return value;
    //: end
    //: end
}
//: end

fn element(index: u32) {
    //: if !LRN
    let inner = index % params.inner;
    //: end
    //: if TOP_K
    let own = index / params.inner % params.length;
    let base = index - own * params.inner;
    let outer = index / params.inner / params.length;
    let value = key(input[index]);
    var rank = 0u;
    for (var i = 0u; i < params.length; i++) {
        let other = key(input[base + i * params.inner]);
        //: if LARGEST
        let before = other > value;
        //: else
        let before = other < value;
        //: end
        rank += select(0u, 1u, before || (other == value && i < own));
    }
    if (rank < params.picks) {
        let to = (outer * params.picks + rank) * params.inner + inner;
        //: if VALUES
        values[to] = input[index];
        //: end
        //: if INDICES
        indices[to] = i32(own);
        //: end
    }
    //: else
    //: if !LRN
    let base = index / params.inner * params.length * params.inner + inner;
    //: end
    //: end

    //: if EXTREME
    // Comparisons with NaN are false, so it is neither found nor left.
    var best = 0u;
    var so_far = input[base];
    for (var i = 1u; i < params.length; i++) {
        let value = input[base + i * params.inner];
        //: if FLOAT
        let comparable = ((bitcast<u32>(value) & 0x7fffffffu) <= 0x7f800000u)
            && ((bitcast<u32>(so_far) & 0x7fffffffu) <= 0x7f800000u);
        //: else
        let comparable = true;
        //: end
        if (comparable && value $BETTER so_far) {
            best = i;
            so_far = value;
        }
    }
    //: if HARDMAX
    for (var i = 0u; i < params.length; i++) {
        output[base + i * params.inner] = select(0.0, 1.0, i == best);
    }
    //: else
    output[index] = i32(best);
    //: end
    //: end

    //: if CUM_SUM
    var sum = $T(0);
    for (var i = 0u; i < params.length; i++) {
        //: if REVERSE
        let at = base + (params.length - 1u - i) * params.inner;
        //: else
        let at = base + i * params.inner;
        //: end
        //: if EXCLUSIVE
        output[at] = sum;
        //: end
        sum += input[at];
        //: if !EXCLUSIVE
        output[at] = sum;
        //: end
    }
    //: end

    //: if NORM
    var sum = 0.0;
    for (var i = 0u; i < params.length; i++) {
        let value = input[base + i * params.inner];
        //: if SQUARE
        sum += value * value;
        //: else
        sum += abs(value);
        //: end
    }
    //: if SQUARE
    sum = sqrt(sum);
    //: end
    for (var i = 0u; i < params.length; i++) {
        let at = base + i * params.inner;
        output[at] = select(input[at] / sum, 0.0, sum == 0.0);
    }
    //: end

    //: if LRN
    let own = index / params.inner % params.length;
    let first = index - own * params.inner;
    var sum = 0.0;
    for (var i = own - min(own, params.before); i < min(params.length, own + params.after + 1u); i++) {
        let value = input[first + i * params.inner];
        sum += value * value;
    }
    output[index] = input[index] * pow(params.bias + params.alpha * sum, -params.beta);
    //: end
}
