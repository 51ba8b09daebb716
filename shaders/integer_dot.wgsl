// Products of 8-bit integers, four to a word, by the packed dot product; what was unsigned is less 128. A thread makes ROWS
// rows of four columns. One of the flags FIRST and SECOND says which of the factors the weights are: those lie with their
// sums behind them, and the sums of the other are made here where a zero point of the weights (WEIGHTSHIFT) asks for them.

const ONES = 0x01010101u;

fn dots(word: u32, words: vec4<u32>) -> vec4<i32> {
    return vec4<i32>(
        dot4I8Packed(word, words.x),
        dot4I8Packed(word, words.y),
        dot4I8Packed(word, words.z),
        dot4I8Packed(word, words.w),
    );
}

fn element(index: u32) {
    let column4 = index % params.columns4;
    let rest = index / params.columns4;
    let row = (rest % params.tiles) * $ROWSu;
    let part = rest / params.tiles;
    //: if FIRST
    let group = part % params.groups;
    //: else
    let group = part;
    //: end
    //: for r in 0..ROWS
    let at$r = (group * params.rows + min(row + $ru, params.rows - 1u)) * params.depth16;
    var sum$r = vec4<i32>();
    //: end
    //: if WEIGHTSHIFT
    //: if FIRST
    var total = vec4<i32>();
    //: else
    //: for r in 0..ROWS
    var total$r = 0;
    //: end
    //: end
    //: end
    var at = column4;
    //: if FIRST
    at += part * params.depth16 * 4u * params.columns4;
    //: end
    for (var k = 0u; k < params.depth16; k++) {
        //: for r in 0..ROWS
        let a$r = first[at$r + k];
        //: if WEIGHTSHIFT
        //: if !FIRST
        total$r += dot4I8Packed(a$r.x, ONES) + dot4I8Packed(a$r.y, ONES);
        total$r += dot4I8Packed(a$r.z, ONES) + dot4I8Packed(a$r.w, ONES);
        //: end
        //: end
        //: end
        //: for j in 0..4
        let b$j = second[at];
        at += params.columns4;
        //: if WEIGHTSHIFT
        //: if FIRST
        total += dots(ONES, b$j);
        //: end
        //: end
        //: for r in 0..ROWS
        sum$r += dots(a$r[$j], b$j);
        //: end
        //: end
    }
    //: if !FIRST
    let weight_sums = vec4<i32>(second[params.depth16 * 4u * params.columns4 + column4]);
    //: end
    //: for r in 0..ROWS
    if (row + $ru < params.rows) {
        let here = row + $ru;
        let start = (part * params.rows + here) * params.columns;
        //: if FIRST
        let channel = group * params.rows + here;
        let weight_sum = i32(first[params.sums_at + channel / 4u][channel % 4u]);
        //: end
        for (var c = 0u; c < min(4u, params.columns - column4 * 4u); c++) {
            let column = column4 * 4u + c;
            //: if FIRST
            let x_row = 0u;
            //: else
            let x_row = here;
            let channel = column;
            let weight_sum = weight_sums[c];
            //: end
            //: if XZERO
            let x_zero = i32(x_zeros[x_row % params.x_zero_count]) - $XSHIFT;
            //: else
            let x_zero = -$XSHIFT;
            //: end
            var sum = sum$r[c] - x_zero * weight_sum;
            //: if WEIGHTSHIFT
            //: if WZERO
            let w_zero = i32(w_zeros[channel % params.w_zero_count]) - $WSHIFT;
            //: else
            let w_zero = -$WSHIFT;
            //: end
            //: if FIRST
            let own = total[c];
            //: else
            let own = total$r;
            //: end
            sum += w_zero * (i32(params.depth) * x_zero - own);
            //: end
            output[start + column] = stored(sum, channel, start + column);
        }
    }
    //: end
}
