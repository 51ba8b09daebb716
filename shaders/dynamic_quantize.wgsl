// Quantises a tensor to bytes by its own range, zero included: PARTS finds the ranges of parts, WHOLE the scale and the
// zero point, BYTES quantises.

fn element(index: u32) {
    //: if PARTS
    // NaN is passed over.
    var range = vec2<f32>(0.0, 0.0);
    for (var at = index; at < params.size; at += $COUNTu) {
        let value = input[at];
        range = vec2<f32>(select(range.x, value, value < range.x), select(range.y, value, value > range.y));
    }
    ranges[index] = range;
    //: end
    //: if WHOLE
    var low = 0.0;
    var high = 0.0;
    for (var part = 0u; part < $COUNTu; part++) {
        low = min(low, ranges[part].x);
        high = max(high, ranges[part].y);
    }
    let step = select(divided(high - low, 255.0), 1.0, high == low);
    let zero = round(clamp(0.0 - divided(low, step), 0.0, 255.0));
    found[0] = step;
    found[1] = zero;
    //: if SCALE
    scale[0] = step;
    //: end
    //: if ZERO
    zero_point[0] = u32(zero);
    //: end
    //: end
    //: if BYTES
    output[index] = u32(clamp(round(divided(input[index], found[0])) + found[1], 0.0, 255.0));
    //: end
}
