// What becomes of a sum of products of integers: a bias, a scale, an epilogue, and bytes again.

fn stored(sum: i32, channel: u32, index: u32) -> $Y {
    var whole = sum;
    //: if SUMBIAS
    whole += sum_bias[min(channel, params.sum_biases - 1u)];
    //: end
    //: if SCALED
    var value = f32(whole) * scales[min(channel, params.scales - 1u)];
    //: if ADDED
    value += added[channel];
    //: end
    //: if EPILOGUE
    value = epilogue(value, index);
    //: end
    //: if QUANTIZED
    //: if YZERO
    let zero = f32(y_zero[0]);
    //: else
    let zero = 0.0;
    //: end
    return $Y(clamp(round(divided(value, y_scale[0])) + zero, $LOW, $HIGH));
    //: else
    return value;
    //: end
    //: else
    return whole;
    //: end
}
