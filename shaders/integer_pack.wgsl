// Packs 8-bit integers, each in a word, four to a word, less 128 what is unsigned: the rows of a matrix, or with the flag
// PATCHES the elements under the window of a convolution, of which column by column.

fn byte(value: u32) -> u32 {
    return (value ^ $FLIPu) & 255u;
}

//: if PATCHES
fn element(index: u32) {
    let column = index % params.columns;
    var rest = index / params.columns;
    let word_at = (rest % params.words) * 4u;
    let part = rest / params.words;
    //: for d in 0..3
    let out$d = i32(column / params.step$d % params.out$d);
    //: end
    let taps = params.kernel0 * params.kernel1 * params.kernel2;
    let depth = params.group_in * taps;
    let volume = u32(params.in0 * params.in1 * params.in2);
    //: if XZERO
    let zero = byte(u32(x_zeros[0]));
    //: else
    let zero = byte(0u);
    //: end
    var word = 0u;
    for (var b = 0u; b < 4u && word_at + b < depth; b++) {
        var tap = (word_at + b) % taps;
        let channel = part * params.group_in + (word_at + b) / taps;
        var inside = true;
        //: for d in 0..3
        let at$d = out$d * params.stride$d + i32(tap % params.kernel$d) * params.dilation$d - params.pad$d;
        tap = tap / params.kernel$d;
        inside = inside && at$d >= 0 && at$d < params.in$d;
        //: end
        var value = zero;
        if (inside) {
            value = byte(u32(input[channel * volume + u32((at2 * params.in1 + at1) * params.in0 + at0)]));
        }
        word |= value << (8u * b);
    }
    packed[index] = word;
}
//: else
fn element(index: u32) {
    let row = index / params.words;
    let word_at = index % params.words * 4u;
    var word = 0u;
    for (var b = 0u; b < 4u && word_at + b < params.depth; b++) {
        word |= byte(u32(input[row * params.depth + word_at + b])) << (8u * b);
    }
    packed[index] = word;
}
//: end
