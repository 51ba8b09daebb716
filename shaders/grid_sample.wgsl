// Pixels of [batch, channels, spatial…] at the positions of a grid; axis 0 is the outermost. A sample is made of $T pixels
// along each of $RANK axes. One of the flags NEAREST, LINEAR and CUBIC, and of ZEROS, BORDER and REFLECTION is set.

// A position mirrored at the borders until it is between them.
fn reflect_position(x: f32, low: f32, high: f32) -> f32 {
    let range = high - low;
    if (range <= 0.0) {
        return low;
    }
    if (x >= low && x <= high) {
        return x;
    }
    let below = x < low;
    let distance = select(x - high, low - x, below);
    let times = floor(distance / range);
    let rest = distance - times * range;
    let inward = select(range - rest, rest, times - 2.0 * floor(times / 2.0) == 0.0);
    return select(high - inward, low + inward, below);
}

// Where a normalised position is among `size` pixels.
fn position(n: f32, size: f32) -> f32 {
    //: if ALIGN
    var x = ((n + 1.0) / 2.0) * (size - 1.0);
    let low = 0.0;
    let high = size - 1.0;
    //: else
    var x = ((n + 1.0) * size - 1.0) / 2.0;
    let low = -0.5;
    let high = size - 0.5;
    //: end
    //: if NEAREST
    x = round(x);
    //: end
    if (x < low || x > high) {
        //: if BORDER
        //: if !CUBIC
        x = clamp(x, 0.0, max(size - 1.0, 0.0));
        //: end
        //: end
        //: if REFLECTION
        x = reflect_position(x, low, high);
        //: end
    }
    return x;
}

// The pixel that is read for one along an axis; -1 for none.
fn pixel(index: i32, size: i32) -> i32 {
    //: if ZEROS
    return select(-1, index, index >= 0 && index < size);
    //: end
    //: if BORDER
    return clamp(index, 0, size - 1);
    //: end
    //: if REFLECTION
    //: if ALIGN
    let at = reflect_position(f32(index), 0.0, f32(size) - 1.0);
    //: else
    let at = reflect_position(f32(index), -0.5, f32(size) - 0.5);
    //: end
    return clamp(i32(at), 0, size - 1);
    //: end
}

fn tap_weight(part: f32, tap: i32) -> f32 {
    //: if NEAREST
    return 1.0;
    //: end
    //: if LINEAR
    return select(1.0 - part, part, tap == 1);
    //: end
    //: if CUBIC
    let a = -0.75;
    let x = abs(part + 1.0 - f32(tap));
    let near = ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0;
    let far = ((a * x - 5.0 * a) * x + 8.0 * a) * x - 4.0 * a;
    return select(far, near, tap == 1 || tap == 2);
    //: end
}

fn element(index: u32) {
    let spot = index % params.spots;
    let plane = index / params.spots;
    let item = plane / params.channels;
    var volume = 1;
    //: for d in 0..RANK
    let x$d = position(grid[(item * params.spots + spot) * $RANKu + $RANKu - 1u - $du], f32(params.size$d));
    let is_nan$d = (bitcast<u32>(x$d) & 0x7fffffffu) > 0x7f800000u;
    let first$d = select(i32(clamp(floor(x$d), -1e9, 1e9)), 0, is_nan$d) - $BEFORE;
    let part$d = x$d - floor(x$d);
    volume *= params.size$d;
    //: end
    var total = 0.0;
    for (var tap = 0; tap < $TAPS; tap++) {
        var rest = tap;
        var weight = 1.0;
        var place = 0;
        var inside = true;
        //: for d in 0..RANK
        let at$d = pixel(first$d + rest % $T, params.size$d);
        weight *= tap_weight(part$d, rest % $T);
        rest = rest / $T;
        inside = inside && at$d >= 0;
        place = place * params.size$d + at$d;
        //: end
        if (inside) {
            total += weight * input[plane * u32(volume) + u32(place)];
        }
    }
    output[index] = total;
}
