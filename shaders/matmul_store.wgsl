// Finishes and stores four columns of a product; the matrix kernels share it.

//: if STRIDED
// Where the batch begins.
var<private> place: u32;
//: end

fn store(batch: u32, row: u32, column: u32, sum: vec4<f32>) {
    var value = sum;
    //: if SCALED
    value *= params.alpha;
    //: end
    //: if ADDEND
    let addend_at = batch % params.addend_batches * params.addend_batch + row * params.addend_row;
    //: if ADDENDCOLUMNS
    let last_column = params.n - 1u;
    value += params.beta * vec4<f32>(
        //: for c in 0..4
        addend[addend_at + min(column + $cu, last_column)],
        //: end
    );
    //: else
    value += params.beta * addend[addend_at];
    //: end
    //: end
    let at = (batch * params.m + row) * params.n + column;
    //: if EPILOGUE
    value = epilogue4(value, at);
    //: end
    //: if STOREVECTOR
    output[at / 4u] = value;
    //: else
    //: for c in 0..4
    if (column + $cu < params.n) {
        //: if STRIDED
        output[place + row * params.to_row + (column + $cu) * params.to_column] = value[$c];
        //: else
        output[at + $cu] = value[$c];
        //: end
    }
    //: end
    //: end
}
