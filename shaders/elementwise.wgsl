// One element per thread of operators that are no expressions over f32: $LOADS reads x0, x1, … and $VALUE says what
// becomes of them.

//: if POWER
fn int_power(base: $T, exponent: $E) -> $T {
    //: if SIGNEDEXPONENT
    //: if !FLOAT
    if (exponent < 0) {
        // What is left of the fraction.
        if (base == $T(1)) {
            return base;
        }
        //: if SIGNED
        if (base == -1) {
            return 1 - 2 * (exponent & 1);
        }
        //: end
        return $T(0);
    }
    //: end
    //: end
    var result = $T(1);
    var factor = base;
    for (var rest = u32(exponent); rest > 0u; rest = rest >> 1u) {
        if ((rest & 1u) == 1u) {
            result = result * factor;
        }
        factor = factor * factor;
    }
    return result;
}

//: if FLOAT
fn float_power(base: f32, exponent: $E) -> f32 {
    //: if SIGNEDEXPONENT
    let power = int_power(base, abs(exponent));
    return select(power, 1.0 / power, exponent < 0);
    //: else
    return int_power(base, exponent);
    //: end
}
//: end
//: end

//: if MODULO
fn modulo(a: i32, b: i32) -> i32 {
    let rest = a % b;
    return select(rest, rest + b, rest != 0 && (rest < 0) != (b < 0));
}
//: end

//: if TRUNCATE
fn is_nan(x: f32) -> bool {
    return (bitcast<u32>(x) & 0x7fffffffu) > 0x7f800000u;
}

// To the nearest integer towards zero; to the nearest of the type from outside it.
fn float_int(x: f32) -> i32 {
    let inside = i32(clamp(x, -2147483648.0, 2147483520.0));
    return select(select(inside, 2147483647, x >= 2147483648.0), 0, is_nan(x));
}

// The lowest bits of the integer of 64 bits that is nearest towards zero.
fn float_bits(x: f32) -> u32 {
    let size = min(abs(x), 9223372036854775808.0);
    let low = u32(clamp(size - floor(size / 4294967296.0) * 4294967296.0, 0.0, 4294967040.0));
    let whole = select(low, 0u - low, x < 0.0);
    return select(select(whole, 0xffffffffu, x >= 9223372036854775808.0), 0u, is_nan(x));
}
//: end

fn element(index: u32) {
$LOADS
    output[index] = $VALUE;
}
