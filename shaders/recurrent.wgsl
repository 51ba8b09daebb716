// LSTM, GRU and plain recurrent layers. INPUT makes what reaches the gates from the input at all times, [direction, time,
// batch, gate, unit]; START sets the states; each step is a dispatch of STEP (and, of a GRU that resets before the product,
// RESET before it), in which a thread makes one unit of one sequence in one direction; END copies the last states.

//: if CELL
fn bounded_tanh(x: f32) -> f32 {
    let bent = exp(-2.0 * min(abs(x), 20.0));
    let result = (1.0 - bent) / (1.0 + bent);
    return select(result, -result, x < 0.0);
}

fn clipped(x: f32) -> f32 {
    //: if CLIP
    return clamp(x, -params.clip, params.clip);
    //: else
    return x;
    //: end
}

fn activation_f(value: f32) -> f32 {
    let x = clipped(value);
    let alpha = params.alpha0;
    let beta = params.beta0;
    return $F;
}

fn activation_g(value: f32) -> f32 {
    let x = clipped(value);
    let alpha = params.alpha1;
    let beta = params.beta1;
    return $G;
}

// The clip bounds the gates only.
fn activation_h(x: f32) -> f32 {
    let alpha = params.alpha2;
    let beta = params.beta2;
    return $H;
}

// What reaches a gate of a unit from the state that begins at `from_index` of a buffer.
fn from_state(gate: u32, unit: u32, sequence: u32) -> f32 {
    let direction = sequence / params.batch;
    let row = ((direction * $GATESu + gate) * params.hidden + unit) * params.hidden;
    let from_index = (params.step & 1u) * params.units + sequence * params.hidden;
    var sum = 0.0;
    for (var k = 0u; k < params.hidden; k++) {
        sum += weights[row + k] * states[from_index + k];
    }
    return sum;
}
//: end

//: if RESETS
fn from_reset(gate: u32, unit: u32, sequence: u32) -> f32 {
    let direction = sequence / params.batch;
    let row = ((direction * $GATESu + gate) * params.hidden + unit) * params.hidden;
    var sum = 0.0;
    for (var k = 0u; k < params.hidden; k++) {
        sum += weights[row + k] * resets[sequence * params.hidden + k];
    }
    return sum;
}
//: end

fn element(index: u32) {
    //: if INPUT
    let rows = $GATESu * params.hidden;
    let row = index % rows;
    let batch = index / rows % params.batch;
    let time = index / rows / params.batch % params.time;
    let direction = index / rows / params.batch / params.time;
    let x_at = time * params.x_time + batch * params.x_batch;
    let w_at = (direction * rows + row) * params.input;
    var sum = 0.0;
    for (var k = 0u; k < params.input; k++) {
        sum += x[x_at + k] * weights[w_at + k];
    }
    //: if BIAS
    sum += bias[direction * 2u * rows + row];
    if (row < params.own_rows) {
        sum += bias[(direction * 2u + 1u) * rows + row];
    }
    //: end
    gates[index] = sum;
    //: else
    let unit = index % params.hidden;
    let sequence = index / params.hidden;
    let batch = sequence % params.batch;
    let direction = sequence / params.batch;
    let own = (direction * params.state_direction + batch * params.state_batch) * params.hidden + unit;
    //: end

    //: if START
    //: if INITIAL
    kept[index] = initial[own];
    //: else
    kept[index] = 0.0;
    //: end
    //: end

    //: if END
    result[own] = kept[params.from_base + index];
    //: end

    //: if CELL
    var length = params.time;
    //: if LENGTHS
    length = u32(clamp(lengths[batch], 0, i32(params.time)));
    //: end
    let running = params.step < length;
    let backward = ((params.reverse >> direction) & 1u) == 1u;
    let time = select(params.step, length - 1u - params.step, running && backward);
    let now = (params.step & 1u) * params.units + index;
    let before = states[now];
    let gate_at = ((direction * params.time + time) * params.batch + batch) * $GATESu * params.hidden + unit;
    //: end

    //: if RESET
    if (running) {
        resets[index] = activation_f(gates[gate_at + params.hidden] + from_state(1u, unit, sequence)) * before;
    }
    //: end

    //: if STEP
    var state = before;
    if (running) {
        //: if RNN
        state = activation_f(gates[gate_at] + from_state(0u, unit, sequence));
        //: end
        //: if LSTM
        let old = cells[index];
        var in_sum = gates[gate_at] + from_state(0u, unit, sequence);
        //: if PEEPHOLES
        let peep = direction * 3u * params.hidden + unit;
        in_sum += peepholes[peep] * old;
        //: end
        let in_gate = activation_f(in_sum);
        //: if COUPLED
        let forget = 1.0 - in_gate;
        //: else
        var forget_sum = gates[gate_at + 2u * params.hidden] + from_state(2u, unit, sequence);
        //: if PEEPHOLES
        forget_sum += peepholes[peep + 2u * params.hidden] * old;
        //: end
        let forget = activation_f(forget_sum);
        //: end
        let candidate = activation_g(gates[gate_at + 3u * params.hidden] + from_state(3u, unit, sequence));
        let cell = forget * old + in_gate * candidate;
        var out_sum = gates[gate_at + params.hidden] + from_state(1u, unit, sequence);
        //: if PEEPHOLES
        out_sum += peepholes[peep + params.hidden] * cell;
        //: end
        cells[index] = cell;
        state = activation_f(out_sum) * activation_h(cell);
        //: end
        //: if GRU
        let update = activation_f(gates[gate_at] + from_state(0u, unit, sequence));
        //: if RESETS
        let candidate = activation_g(gates[gate_at + 2u * params.hidden] + from_reset(2u, unit, sequence));
        //: else
        let reset = activation_f(gates[gate_at + params.hidden] + from_state(1u, unit, sequence));
        var from_h = from_state(2u, unit, sequence);
        //: if BIAS
        from_h += bias[((direction * 2u + 1u) * $GATESu + 2u) * params.hidden + unit];
        //: end
        let candidate = activation_g(gates[gate_at + 2u * params.hidden] + reset * from_h);
        //: end
        state = (1.0 - update) * candidate + update * before;
        //: end
    }
    states[((params.step + 1u) & 1u) * params.units + index] = state;
    //: if Y
    let row = time * params.y_time + direction * params.y_direction + batch * params.y_batch;
    y[row * params.hidden + unit] = select(0.0, state, running);
    //: end
    //: end
}
