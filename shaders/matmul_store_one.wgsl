// Finishes and stores one element of a product; the kernels that store in a loop share it.

//: if STRIDED
// Where the batch begins.
var<private> place: u32;
//: end

fn store(batch: u32, row: u32, column: u32, sum: f32) {
    var value = sum;
    //: if SCALED
    value *= params.alpha;
    //: end
    //: if ADDEND
    value += params.beta * addend[
        batch % params.addend_batches * params.addend_batch + row * params.addend_row + column * params.addend_column
    ];
    //: end
    let at = (batch * params.m + row) * params.n + column;
    //: if EPILOGUE
    value = epilogue(value, at);
    //: end
    //: if STRIDED
    output[place + row * params.to_row + column * params.to_column] = value;
    //: else
    output[at] = value;
    //: end
}
