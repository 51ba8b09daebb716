// The discrete Fourier transform of lines of $P parts each, element by element. A thread makes one number of a line of
// [outer, made, inner]; what lies behind `size` elements is zero.

fn element(index: u32) {
    let inner = index % params.inner;
    let k = index / params.inner % params.made;
    let outer = index / params.inner / params.made;
    var real = 0.0;
    var imaginary = 0.0;
    // Sums of blocks, so that rounding errors of long sums stay small.
    var at = 0u;
    while (at < params.given) {
        let end = min(params.given, at + 32u);
        var block = vec2<f32>(0.0, 0.0);
        for (; at < end; at++) {
            let from_index = ((outer * params.size + at) * params.inner + inner) * $Pu;
            let x = input[from_index];
            //: if COMPLEX
            let y = input[from_index + 1u];
            //: else
            let y = 0.0;
            //: end
            // The table holds the cosine and sine of each whole part of a turn.
            let turn = (at * k) % params.length;
            let c = turns[turn * 2u];
            //: if INVERSE
            let s = turns[turn * 2u + 1u];
            //: else
            let s = -turns[turn * 2u + 1u];
            //: end
            //: if HALF
            // Of half a transform, the rest mirrors it.
            let is_single = at == 0u || at * 2u == params.length;
            block.x += select(2.0 * (x * c - y * s), x * c, is_single);
            //: else
            block += vec2<f32>(x * c - y * s, x * s + y * c);
            //: end
        }
        real += block.x;
        imaginary += block.y;
    }
    //: if INVERSE
    real = real / f32(params.length);
    imaginary = imaginary / f32(params.length);
    //: end
    //: if HALF
    output[index] = real;
    //: else
    output[index * 2u] = real;
    output[index * 2u + 1u] = imaginary;
    //: end
}
