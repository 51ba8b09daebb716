// Products of 8-bit integers, each in a word, less their zero points. A thread makes one element.

fn element(index: u32) {
    let column = index % params.columns;
    let row = index / params.columns;
    let batch = row / params.rows;
    //: if XZERO
    let x_zero = i32(x_zeros[row % params.x_zero_count]);
    //: else
    let x_zero = 0;
    //: end
    //: if WZERO
    let w_zero = i32(w_zeros[(batch * params.columns + column) % params.w_zero_count]);
    //: else
    let w_zero = 0;
    //: end
    let x_at = row * params.depth;
    let w_at = batch * params.w_step + column;
    var sum = 0;
    for (var k = 0u; k < params.depth; k++) {
        sum += (i32(x[x_at + k]) - x_zero) * (i32(weights[w_at + k * params.columns]) - w_zero);
    }
    output[index] = stored(sum, column, index);
}
