// WGSL's division may be wrong in its last bits, and where a quotient is rounded to an integer, a tie decides by those. This
// one is right: what the quotient leaves of x, of which each product is exact, is divided once more.

fn upper(value: f32) -> f32 {
    return bitcast<f32>(bitcast<u32>(value) & 0xfffff000u);
}

fn divided(x: f32, by: f32) -> f32 {
    let quotient = x / by;
    let high = upper(quotient);
    let low = quotient - high;
    let by_high = upper(by);
    let by_low = by - by_high;
    let rest = (((x - high * by_high) - high * by_low) - low * by_high) - low * by_low;
    let better = quotient + rest / by;
    // Infinities and NaN are no better than they are.
    return select(quotient, better, abs(better) < 1e38);
}
