// Elements and slices read or written by index. One of the flags says which operator it is. Dimension 0 is the
// innermost of lists of dimensions; the components of a tuple are in the order of the tensor's axes.

// Where an index, which may count from the end, points. Indices outside the dimension are moved into it.
fn place(index: i32, size: u32) -> u32 {
    let at = select(index, index + i32(size), index < 0);
    return u32(clamp(at, 0, i32(size) - 1));
}

//: if REDUCED
//: if FLOAT
fn is_nan(value: f32) -> bool {
    return (bitcast<u32>(value) & 0x7fffffffu) > 0x7f800000u;
}
//: else
fn is_nan(value: $T) -> bool {
    return false;
}
//: end

fn combine(a: $T, b: $T) -> $T {
    //: if ADD
    return a + b;
    //: end
    //: if MUL
    return a * b;
    //: end
    //: if MIN
    return select(b, a, a < b || is_nan(a));
    //: end
    //: if MAX
    return select(b, a, a > b || is_nan(a));
    //: end
}
//: end

//: if TUPLES
fn tuple_place(row: u32) -> u32 {
    var at = 0u;
    //: for d in 0..DEPTH
    at += place(indices[row * $DEPTHu + $du], params.size$d) * params.stride$d;
    //: end
    return at;
}
//: end

fn element(index: u32) {
    //: if GATHER_ELEMENTS
    var rest = index;
    var from_index = 0u;
    //: for d in 0..RANK
    from_index += rest % params.dim$d * params.from_stride$d;
    rest = rest / params.dim$d;
    //: end
    output[index] = input[from_index + place(indices[index], params.axis) * params.axis_stride];
    //: end

    //: if GATHER_ND
    let row = index / params.inner;
    output[index] = input[row / params.rows * params.batch + tuple_place(row) + index % params.inner];
    //: end

    //: if SCATTER_ELEMENTS
    // A thread takes all updates of one line along the axis, in order.
    var rest = index;
    var to_index = 0u;
    var from_index = 0u;
    //: for d in 0..RANK
    to_index += rest % params.dim$d * params.to_stride$d;
    from_index += rest % params.dim$d * params.from_stride$d;
    rest = rest / params.dim$d;
    //: end
    for (var i = 0u; i < params.length; i++) {
        let update = from_index + i * params.step;
        let to = to_index + place(indices[update], params.axis) * params.axis_stride;
        //: if REDUCED
        output[to] = combine(output[to], updates[update]);
        //: else
        output[to] = updates[update];
        //: end
    }
    //: end

    //: if SCATTER_ND
    // A thread takes one element of all rows, in order.
    for (var row = 0u; row < params.rows; row++) {
        let to = tuple_place(row) + index;
        output[to] = combine(output[to], updates[row * params.inner + index]);
    }
    //: end

    // Without a reduction, the last update of a slice is found first: the slice's number among the winners.
    //: if CLEAR
    atomicStore(&winners[index], 0u);
    //: end
    //: if VOTE
    atomicMax(&winners[tuple_place(index) / params.inner], index + 1u);
    //: end
    //: if CHOOSE
    let winner = atomicLoad(&winners[index / params.inner]);
    if (winner == 0u) {
        output[index] = input[index];
    } else {
        output[index] = updates[(winner - 1u) * params.inner + index % params.inner];
    }
    //: end

    //: if CHOOSE_IN_PLACE
    let row = index / params.inner;
    let to = tuple_place(row);
    if (atomicLoad(&winners[to / params.inner]) == row + 1u) {
        output[to + index % params.inner] = updates[index];
    }
    //: end

    //: if ONE_HOT
    var at = i32(indices[index / params.step * params.inner + index % params.inner]);
    at = select(at, at + i32(params.depth), at < 0);
    let is_on = at == i32(index / params.inner % params.depth);
    output[index] = values[select(0u, 1u, is_on)];
    //: end

    //: if REVERSE
    let time = index / params.time_step % params.times;
    let length = clamp(lengths[index / params.batch_step % params.batches], 0, i32(params.times));
    var from_index = index;
    if (i32(time) < length) {
        from_index = index - time * params.time_step + (u32(length) - 1u - time) * params.time_step;
    }
    output[index] = input[from_index];
    //: end
}
