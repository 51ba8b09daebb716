// Windows over up to three spatial dimensions, of which dimension 0 is the innermost: pooling, convolution and transposed
// convolution. A thread makes one element. One of the flags POOL, CONV and TRANSPOSED is set.

//: if POWER
fn powered(value: f32) -> f32 {
    //: if ONE
    return abs(value);
    //: else
    //: if TWO
    return value * value;
    //: else
    return select(pow(abs(value), params.power), 0.0, value == 0.0);
    //: end
    //: end
}

fn rooted(sum: f32) -> f32 {
    //: if ONE
    return sum;
    //: else
    //: if TWO
    return sqrt(sum);
    //: else
    return select(pow(sum, 1.0 / params.power), 0.0, sum == 0.0);
    //: end
    //: end
}
//: end

fn element(index: u32) {
    var rest = index;
    //: for d in 0..3
    let out$d = i32(rest % params.out$d);
    rest = rest / params.out$d;
    //: end
    let volume = params.in0 * params.in1 * params.in2;
    let taps = params.kernel0 * params.kernel1 * params.kernel2;

    //: if POOL
    let plane = rest * u32(volume);
    //: if MAX
    var value = params.lowest;
    //: else
    var value = 0.0;
    var counted = 0u;
    //: end
    //: else
    let image = rest / params.channels;
    let channel = rest % params.channels;
    let group = channel / params.group_out;
    //: if INTEGER
    var value = 0;
    //: if XZERO
    let x_zero = i32(x_zeros[0]);
    //: else
    let x_zero = 0;
    //: end
    //: if WZERO
    let w_zero = i32(w_zeros[min(channel, params.w_zero_count - 1u)]);
    //: else
    let w_zero = 0;
    //: end
    //: else
    var value = 0.0;
    //: end
    //: end

    for (var tap = 0u; tap < taps; tap++) {
        var part = tap;
        var inside = true;
        //: if COUNTPADDING
        var padded = true;
        //: end
        //: for d in 0..3
        let k$d = i32(part % params.kernel$d);
        part = part / params.kernel$d;
        //: if TRANSPOSED
        let reach$d = out$d + params.pad$d - k$d * params.dilation$d;
        let at$d = reach$d / params.stride$d;
        inside = inside && reach$d >= 0 && reach$d % params.stride$d == 0 && at$d < params.in$d;
        //: else
        let at$d = out$d * params.stride$d + k$d * params.dilation$d - params.pad$d;
        inside = inside && at$d >= 0 && at$d < params.in$d;
        //: end
        //: if COUNTPADDING
        padded = padded && at$d < params.in$d + params.end$d;
        //: end
        //: end
        //: if COUNTPADDING
        // Padding counts, what lies beyond it (from rounding the output size up) does not.
        counted += select(0u, 1u, padded);
        //: end
        if (!inside) {
            continue;
        }
        let place = (at2 * params.in1 + at1) * params.in0 + at0;
        //: if POOL
        let element = input[plane + u32(place)];
        //: if MAX
        // NaN is passed over, as on the CPU.
        value = select(value, element, element > value);
        //: else
        //: if POWER
        value += powered(element);
        //: else
        value += element;
        //: if !COUNTPADDING
        counted += 1u;
        //: end
        //: end
        //: end
        //: else
        for (var c = 0u; c < params.group_in; c++) {
            let channel_in = group * params.group_in + c;
            let x = input[(image * params.channels_in + channel_in) * u32(volume) + u32(place)];
            //: if INTEGER
            value += (i32(x) - x_zero) * (i32(weights[(channel * params.group_in + c) * taps + tap]) - w_zero);
            //: else
            //: if TRANSPOSED
            value += x * weights[(channel_in * params.group_out + channel % params.group_out) * taps + tap];
            //: else
            value += x * weights[(channel * params.group_in + c) * taps + tap];
            //: end
            //: end
        }
        //: end
    }

    //: if POOL
    //: if POWER
    value = rooted(value);
    //: else
    //: if !MAX
    value = value / f32(max(counted, 1u));
    //: end
    //: end
    //: else
    //: if BIAS
    value += bias[channel];
    //: end
    //: if INTEGER
    output[index] = stored(value, channel, index);
    //: else
    //: if EPILOGUE
    value = epilogue(value, index);
    //: end
    output[index] = value;
    //: end
    //: end
    //: if POOL
    output[index] = value;
    //: end
}
