// Reduces up to REDUCED dimensions of the input for each of up to KEPT others; dimension 0 is the innermost of each.
// Without SHARED one thread makes one output; with it a workgroup does, which needs fewer passes over memory where
// barriers are cheap. Exactly one operation flag is set.

//: if SHARED
var<workgroup> shared_values: array<$T, $THREADS>;
//: end

fn reduced_offset(index: u32) -> u32 {
    var rest = index;
    var offset = 0u;
    //: for d in 0..REDUCED
    offset += (rest % params.reduced_dim$d) * params.reduced_stride$d;
    rest = rest / params.reduced_dim$d;
    //: end
    return offset;
}

fn kept_offset(index: u32) -> u32 {
    var rest = index;
    var offset = 0u;
    //: for d in 0..KEPT
    offset += (rest % params.kept_dim$d) * params.kept_stride$d;
    rest = rest / params.kept_dim$d;
    //: end
    return offset;
}

//: if FLOAT
// Of what is NaN or infinite, min, max and exp leave the result open; comparisons do not.
fn is_nan(value: f32) -> bool {
    return (bitcast<u32>(value) & 0x7fffffffu) > 0x7f800000u;
}

fn larger(a: f32, b: f32) -> f32 {
    return select(b, a, a > b || is_nan(a));
}

fn smaller(a: f32, b: f32) -> f32 {
    return select(b, a, a < b || is_nan(a));
}
//: else
fn larger(a: $T, b: $T) -> $T {
    return max(a, b);
}

fn smaller(a: $T, b: $T) -> $T {
    return min(a, b);
}
//: end

fn combine(a: $T, b: $T) -> $T {
    //: if MAX
    return larger(a, b);
    //: end
    //: if MIN
    return smaller(a, b);
    //: end
    //: if PRODUCT
    return a * b;
    //: end
    //: if ADD
    return a + b;
    //: end
}

fn element(value: $T, shift: $T) -> $T {
    //: if ABSOLUTE
    return abs(value);
    //: end
    //: if SQUARE
    return value * value;
    //: end
    //: if EXPONENTIAL
    return select(exp(value - shift), 1.0, value == shift);
    //: end
    //: if PLAIN
    return value;
    //: end
}

//: if LOGARITHM
// Some implementations ignore the sign of the value, and give a number for zero and infinity.
fn logarithm(value: f32) -> f32 {
    let endless = (bitcast<u32>(value) & 0x7fffffffu) >= 0x7f800000u;
    let none = bitcast<f32>(select(0x7fc00000u, 0xff800000u, value == 0.0));
    return select(select(log(value), value, endless), none, value <= 0.0);
}
//: end

fn finish(value: $T, shift: $T) -> $T {
    //: if MEAN
    return value / $T(params.length);
    //: end
    //: if ROOT
    return sqrt(value);
    //: end
    //: if LOGARITHM
    return logarithm(value) + shift;
    //: end
    //: if ASIS
    return value;
    //: end
}

// What a reduction starts from: of the largest and smallest an element, since there are no constants for infinities.
fn initial(base: u32, at: u32) -> $T {
    //: if EXTREME
    return input[base + reduced_offset(min(at, params.length - 1u))];
    //: else
    //: if PRODUCT
    return $T(1);
    //: else
    return $T(0);
    //: end
    //: end
}

// Reduces the elements first, first + step, … in blocks, so that rounding errors of long sums stay small.
fn partial(base: u32, first: u32, step: u32, shift: $T) -> $T {
    var total = initial(base, first);
    var at = first;
    while (at < params.length) {
        let end = min(params.length, at + 64u * step);
        var block = initial(base, at);
        for (; at < end; at += step) {
            block = combine(block, element(input[base + reduced_offset(at)], shift));
        }
        total = combine(total, block);
    }
    return total;
}

//: if EXPONENTIAL
fn partial_largest(base: u32, first: u32, step: u32) -> $T {
    var largest = input[base + reduced_offset(min(first, params.length - 1u))];
    for (var at = first; at < params.length; at += step) {
        largest = larger(largest, input[base + reduced_offset(at)]);
    }
    return largest;
}
//: end

@compute @workgroup_size($THREADS)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    //: if SHARED
    let index = group.y * groups.x + group.x;
    let base = kept_offset(min(index, params.count - 1u));
    var shift = $T(0);
    //: if EXPONENTIAL
    shared_values[local] = partial_largest(base, local, $THREADSu);
    workgroupBarrier();
    for (var half = $THREADSu / 2u; half > 0u; half = half / 2u) {
        if (local < half) {
            shared_values[local] = larger(shared_values[local], shared_values[local + half]);
        }
        workgroupBarrier();
    }
    shift = shared_values[0];
    workgroupBarrier();
    //: end
    shared_values[local] = partial(base, local, $THREADSu, shift);
    workgroupBarrier();
    for (var half = $THREADSu / 2u; half > 0u; half = half / 2u) {
        if (local < half) {
            shared_values[local] = combine(shared_values[local], shared_values[local + half]);
        }
        workgroupBarrier();
    }
    if (local == 0u && index < params.count) {
        output[index] = finish(shared_values[0], shift);
    }
    //: else
    let index = (group.y * groups.x + group.x) * $THREADSu + local;
    if (index >= params.count) {
        return;
    }
    let base = kept_offset(index);
    var shift = $T(0);
    //: if EXPONENTIAL
    shift = partial_largest(base, 0u, 1u);
    //: end
    output[index] = finish(partial(base, 0u, 1u, shift), shift);
    //: end
}
