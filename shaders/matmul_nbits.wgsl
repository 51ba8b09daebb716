// Rows of f32 times the transpose of weights of $BITS bits in blocks with a scale and a zero point each. A thread makes one
// column of up to $ROWS rows; a word holds $LANES weights.

fn element(index: u32) {
    let column = index % params.columns;
    let first = index / params.columns * $ROWSu;
    //: for r in 0..ROWS
    let at$r = min(first + $ru, params.rows - 1u) * params.depth;
    var total$r = 0.0;
    //: end
    for (var block = 0u; block < params.blocks; block++) {
        let number = column * params.blocks + block;
        let scale = scales[number];
        //: if ZEROS
        let zero = zeros[number];
        //: else
        let zero = params.zero;
        //: end
        //: for r in 0..ROWS
        var sum$r = 0.0;
        //: end
        for (var w = 0u; w < params.block_words; w++) {
            var word = weights[number * params.block_words + w];
            let k = block * params.block + w * $LANESu;
            for (var lane = 0u; lane < $LANESu; lane++) {
                if (k + lane < params.depth) {
                    let weight = f32(word & $MASKu) - zero;
                    //: for r in 0..ROWS
                    sum$r += a[at$r + k + lane] * weight;
                    //: end
                }
                word = word >> $BITSu;
            }
        }
        //: for r in 0..ROWS
        total$r += sum$r * scale;
        //: end
    }
    //: if BIAS
    let added = bias[column];
    //: else
    let added = 0.0;
    //: end
    //: for r in 0..ROWS
    if (first + $ru < params.rows) {
        output[(first + $ru) * params.columns + column] = total$r + added;
    }
    //: end
}
