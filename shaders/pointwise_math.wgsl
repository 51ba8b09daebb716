// What WGSL's own functions leave open for NaN, negative bases and large arguments, or compute too roughly.
// PwF is f32 or vec4<f32>, with PwU, PwI and PwB to match. Comparisons are written so that NaN falls through to the
// branch that keeps it; implementations that assume away NaN may still lose it.

//: if IS_NAN
fn pw_is_nan(x: PwF) -> PwB {
    return (bitcast<PwU>(x) & PwU(0x7fffffffu)) > PwU(0x7f800000u);
}
//: end

//: if IS_INF
fn pw_is_positive_inf(x: PwF) -> PwB {
    return bitcast<PwU>(x) == PwU(0x7f800000u);
}

fn pw_is_negative_inf(x: PwF) -> PwB {
    return bitcast<PwU>(x) == PwU(0xff800000u);
}
//: end

//: if COPYSIGN
fn pw_copysign(magnitude: PwF, sign: PwF) -> PwF {
    let bits = (bitcast<PwU>(magnitude) & PwU(0x7fffffffu)) | (bitcast<PwU>(sign) & PwU(0x80000000u));
    return bitcast<PwF>(bits);
}
//: end

//: if MIN_MAX
fn pw_min(a: PwF, b: PwF) -> PwF {
    return select(min(a, b), a + b, pw_is_nan(a) | pw_is_nan(b));
}

fn pw_max(a: PwF, b: PwF) -> PwF {
    return select(max(a, b), a + b, pw_is_nan(a) | pw_is_nan(b));
}
//: end

//: if LOG
// Some implementations ignore the sign of x, and give a number for zero and infinity.
fn pw_log(x: PwF) -> PwF {
    let endless = (bitcast<PwU>(x) & PwU(0x7fffffffu)) >= PwU(0x7f800000u);
    let none = bitcast<PwF>(select(PwU(0x7fc00000u), PwU(0xff800000u), x == PwF(0.0f)));
    return select(select(log(x), x, endless), none, x <= PwF(0.0f));
}
//: end

//: if LOG1P
// log(1 + x): the low bits of x that the sum loses are put back by the quotient.
fn pw_log1p(x: PwF) -> PwF {
    let sum = x + PwF(1.0f);
    let rounded = sum - PwF(1.0f);
    let quotient = select(x / rounded, PwF(1.0f), rounded == x);
    return select(pw_log(sum) * quotient, x, rounded == PwF(0.0f));
}
//: end

//: if TANH
fn pw_tanh(x: PwF) -> PwF {
    let s = x * x;
    let p = PwF(-0.33333284f) + s * (PwF(0.1333149f) + s * (PwF(-0.053743497f)
        + s * (PwF(0.020650588f) + s * PwF(-0.0057170456f))));
    let small = x * s * p + x;
    let doubled = abs(x) + abs(x);
    let e = exp(select(doubled, PwF(20.0f), doubled > PwF(20.0f)));
    let large = pw_copysign(PwF(1.0f) - PwF(2.0f) / (e + PwF(1.0f)), x);
    return select(large, small, abs(x) < PwF(0.625f));
}
//: end

//: if ERF
fn pw_erf(x: PwF) -> PwF {
    let s = x * x;
    let small = x * (PwF(1.1283791f) + s * (PwF(-0.37612626f) + s * (PwF(0.11283603f) + s * (PwF(-0.026854444f)
        + s * (PwF(0.0051895357f) + s * (PwF(-0.0008020842f) + s * PwF(7.889123e-5f)))))));
    let m = select(abs(x), PwF(4.0f), abs(x) > PwF(4.0f));
    let g = PwF(-0.00018344483f) + m * (PwF(1.1295568f) + m * (PwF(0.63326263f) + m * (PwF(0.10837249f)
        + m * (PwF(-0.02517897f) + m * (PwF(0.0041936124f) + m * (PwF(-0.00043910657f) + m * PwF(2.1496127e-5f)))))));
    let large = pw_copysign(PwF(1.0f) - exp(-g), x);
    return select(large, small, abs(x) < PwF(1.0f));
}
//: end

//: if SIGMOID
fn pw_sigmoid(x: PwF) -> PwF {
    let e = exp(-abs(x));
    return select(PwF(1.0f), e, x < PwF(0.0f)) / (PwF(1.0f) + e);
}
//: end

//: if SOFTPLUS
fn pw_softplus(x: PwF) -> PwF {
    return select(x, PwF(0.0f), x < PwF(0.0f)) + pw_log1p(exp(-abs(x)));
}
//: end

//: if SINE
// sin(x + quarter * pi / 2). The quarter turns are taken off in three parts, whose products are exact up to 8192.
fn pw_sine(x: PwF, quarter: i32) -> PwF {
    let n = round(x * PwF(0.63661977f));
    let r = ((x - n * PwF(1.5703125f)) - n * PwF(0.0004837513f)) - n * PwF(7.54979e-8f);
    let s = r * r;
    let sine = r + r * s * (PwF(-0.16666667f) + s * (PwF(0.008333329f) + s * (PwF(-0.00019839256f)
        + s * PwF(2.7175645e-6f))));
    let cosine = PwF(1.0f) - PwF(0.5f) * s
        + s * s * (PwF(0.041666646f) + s * (PwF(-0.0013887306f) + s * PwF(2.4431205e-5f)));
    let quadrant = PwI(n) + PwI(quarter);
    let value = select(sine, cosine, (quadrant & PwI(1)) != PwI(0));
    return select(value, -value, (quadrant & PwI(2)) != PwI(0));
}

fn pw_sin(x: PwF) -> PwF {
    return select(pw_sine(x, 0), sin(x), abs(x) > PwF(8192.0f));
}

fn pw_cos(x: PwF) -> PwF {
    return select(pw_sine(x, 1), cos(x), abs(x) > PwF(8192.0f));
}

fn pw_tan(x: PwF) -> PwF {
    return pw_sin(x) / pw_cos(x);
}
//: end

//: if ARC
fn pw_asin_half(x: PwF) -> PwF {
    let s = x * x;
    return x * (PwF(1.0f) + s * (PwF(0.16666786f) + s * (PwF(0.074945346f) + s * (PwF(0.04553901f)
        + s * (PwF(0.023909364f) + s * PwF(0.0425536f))))));
}

fn pw_asin(x: PwF) -> PwF {
    let far = PwF(1.5707964f) - PwF(2.0f) * pw_asin_half(sqrt((PwF(1.0f) - abs(x)) * PwF(0.5f)));
    return pw_copysign(select(far, pw_asin_half(abs(x)), abs(x) <= PwF(0.5f)), x);
}

fn pw_acos(x: PwF) -> PwF {
    let far = PwF(2.0f) * pw_asin_half(sqrt((PwF(1.0f) - abs(x)) * PwF(0.5f)));
    let near = PwF(1.5707964f) - pw_asin_half(x);
    return select(select(far, PwF(3.1415927f) - far, x < PwF(0.0f)), near, abs(x) <= PwF(0.5f));
}

fn pw_atan(x: PwF) -> PwF {
    let far = abs(x) > PwF(1.0f);
    let y = select(abs(x), PwF(1.0f) / abs(x), far);
    let s = y * y;
    let p = y * (PwF(1.0f) + s * (PwF(-0.33333066f) + s * (PwF(0.19992484f) + s * (PwF(-0.14202571f)
        + s * (PwF(0.10636754f) + s * (PwF(-0.07495446f) + s * (PwF(0.042587608f) + s * (PwF(-0.01600503f)
        + s * PwF(0.0028340642f)))))))));
    return pw_copysign(select(p, PwF(1.5707964f) - p, far), x);
}
//: end

//: if HYPERBOLIC
// e^x / 2 without overflow before the half does.
fn pw_half_exp(x: PwF) -> PwF {
    return exp(x - PwF(0.6931472f));
}

fn pw_sinh(x: PwF) -> PwF {
    let s = x * x;
    let small = x * (PwF(1.0f) + s * (PwF(0.16666666f) + s * (PwF(0.008333353f) + s * (PwF(0.00019835711f)
        + s * PwF(2.819029e-6f)))));
    let large = pw_copysign(pw_half_exp(abs(x)) - pw_half_exp(-abs(x)), x);
    return select(large, small, abs(x) < PwF(1.0f));
}

fn pw_cosh(x: PwF) -> PwF {
    return pw_half_exp(abs(x)) + pw_half_exp(-abs(x));
}
//: end

//: if AREA
fn pw_asinh(x: PwF) -> PwF {
    let m = abs(x);
    let near = pw_log1p(m + m * m / (PwF(1.0f) + sqrt(m * m + PwF(1.0f))));
    return pw_copysign(select(near, pw_log(m) + PwF(0.6931472f), m > PwF(1e9f)), x);
}

fn pw_acosh(x: PwF) -> PwF {
    let t = x - PwF(1.0f);
    let near = pw_log1p(t + sqrt(t * (t + PwF(2.0f))));
    return select(near, pw_log(x) + PwF(0.6931472f), x > PwF(1e9f));
}

fn pw_atanh(x: PwF) -> PwF {
    let m = abs(x);
    return pw_copysign(PwF(0.5f) * pw_log1p(PwF(2.0f) * m / (PwF(1.0f) - m)), x);
}
//: end

//: if POW
// WGSL's pow takes no negative base. `nan` and `inf` come from outside because WGSL has no such constants.
fn pw_pow(a: PwF, b: PwF, nan: f32, inf: f32) -> PwF {
    let whole = b == floor(b);
    let half = b * PwF(0.5f);
    let odd = whole & (half != floor(half));
    let magnitude = pow(abs(a), b);
    let negative = a < PwF(0.0f);
    var result = select(magnitude, -magnitude, negative & odd);
    result = select(result, PwF(nan), negative & !whole & (a >= PwF(-3.4028234e38f)));
    let at_zero = select(PwF(0.0f), PwF(inf), b < PwF(0.0f));
    result = select(result, select(at_zero, pw_copysign(at_zero, a), odd), a == PwF(0.0f));
    result = select(result, a + b, pw_is_nan(a) | pw_is_nan(b));
    return select(result, PwF(1.0f), (b == PwF(0.0f)) | (a == PwF(1.0f)));
}
//: end

//: if FMOD
fn pw_fmod(a: PwF, b: PwF) -> PwF {
    let rest = a - b * trunc(a / b);
    // Where the quotient was rounded to the next whole number, the rest is off by one divisor.
    let over = select(rest, rest - pw_copysign(b, a), abs(rest) >= abs(b));
    let back = select(over, over + pw_copysign(b, a), (over != PwF(0.0f)) & ((over < PwF(0.0f)) != (a < PwF(0.0f))));
    return select(back, a, (abs(b) > PwF(3.4028234e38f)) & (abs(a) <= PwF(3.4028234e38f)));
}
//: end
