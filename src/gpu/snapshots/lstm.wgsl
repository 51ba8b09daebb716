// recurrent [1, 1, 1] [1, 2, 3, 4, 8, 2, 1, 2, 2, 1, 6, 3, 16, 32]
struct Params {
    time: u32,
    batch: u32,
    input: u32,
    hidden: u32,
    units: u32,
    state_direction: u32,
    state_batch: u32,
    y_time: u32,
    y_direction: u32,
    y_batch: u32,
    x_time: u32,
    x_batch: u32,
    own_rows: u32,
    count: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> weights: array<f32>;
@group(0) @binding(3) var<storage, read_write> gates: array<f32>;
@group(0) @binding(4) var<storage, read> bias: array<f32>;



fn element(index: u32) {
    let rows = 4u * params.hidden;
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
    sum += bias[direction * 2u * rows + row];
    if (row < params.own_rows) {
        sum += bias[(direction * 2u + 1u) * rows + row];
    }
    gates[index] = sum;





}


@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let index = (group.y * groups.x + group.x) * 64u + local;
    if (index < params.count) {
        element(index);
    }
}
// recurrent [1, 1, 1] [1, 2, 3, 4, 8, 2, 1, 2, 2, 1, 6, 3, 8]
struct Params {
    time: u32,
    batch: u32,
    input: u32,
    hidden: u32,
    units: u32,
    state_direction: u32,
    state_batch: u32,
    y_time: u32,
    y_direction: u32,
    y_batch: u32,
    x_time: u32,
    x_batch: u32,
    count: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read_write> kept: array<f32>;



fn element(index: u32) {
    let unit = index % params.hidden;
    let sequence = index / params.hidden;
    let batch = sequence % params.batch;
    let direction = sequence / params.batch;
    let own = (direction * params.state_direction + batch * params.state_batch) * params.hidden + unit;

    kept[index] = 0.0;




}


@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let index = (group.y * groups.x + group.x) * 64u + local;
    if (index < params.count) {
        element(index);
    }
}
// recurrent [1, 1, 1] [1, 2, 3, 4, 8, 2, 1, 2, 2, 1, 6, 3, 8]
struct Params {
    time: u32,
    batch: u32,
    input: u32,
    hidden: u32,
    units: u32,
    state_direction: u32,
    state_batch: u32,
    y_time: u32,
    y_direction: u32,
    y_batch: u32,
    x_time: u32,
    x_batch: u32,
    count: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read_write> kept: array<f32>;



fn element(index: u32) {
    let unit = index % params.hidden;
    let sequence = index / params.hidden;
    let batch = sequence % params.batch;
    let direction = sequence / params.batch;
    let own = (direction * params.state_direction + batch * params.state_batch) * params.hidden + unit;

    kept[index] = 0.0;




}


@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let index = (group.y * groups.x + group.x) * 64u + local;
    if (index < params.count) {
        element(index);
    }
}
// recurrent [1, 1, 1] [1, 2, 3, 4, 8, 2, 1, 2, 2, 1, 6, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 8]
struct Params {
    time: u32,
    batch: u32,
    input: u32,
    hidden: u32,
    units: u32,
    state_direction: u32,
    state_batch: u32,
    y_time: u32,
    y_direction: u32,
    y_batch: u32,
    x_time: u32,
    x_batch: u32,
    step: u32,
    reverse: u32,
    clip: f32,
    alpha0: f32,
    beta0: f32,
    alpha1: f32,
    beta1: f32,
    alpha2: f32,
    beta2: f32,
    count: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> gates: array<f32>;
@group(0) @binding(2) var<storage, read> weights: array<f32>;
@group(0) @binding(3) var<storage, read_write> states: array<f32>;
@group(0) @binding(4) var<storage, read_write> cells: array<f32>;
@group(0) @binding(5) var<storage, read_write> y: array<f32>;

fn bounded_tanh(x: f32) -> f32 {
    let bent = exp(-2.0 * min(abs(x), 20.0));
    let result = (1.0 - bent) / (1.0 + bent);
    return select(result, -result, x < 0.0);
}

fn clipped(x: f32) -> f32 {
    return x;
}

fn activation_f(value: f32) -> f32 {
    let x = clipped(value);
    let alpha = params.alpha0;
    let beta = params.beta0;
    return 1.0 / (1.0 + exp(-x));
}

fn activation_g(value: f32) -> f32 {
    let x = clipped(value);
    let alpha = params.alpha1;
    let beta = params.beta1;
    return bounded_tanh(x);
}

fn activation_h(x: f32) -> f32 {
    let alpha = params.alpha2;
    let beta = params.beta2;
    return bounded_tanh(x);
}

fn from_state(gate: u32, unit: u32, sequence: u32) -> f32 {
    let direction = sequence / params.batch;
    let row = ((direction * 4u + gate) * params.hidden + unit) * params.hidden;
    let from_index = (params.step & 1u) * params.units + sequence * params.hidden;
    var sum = 0.0;
    for (var k = 0u; k < params.hidden; k++) {
        sum += weights[row + k] * states[from_index + k];
    }
    return sum;
}


fn element(index: u32) {
    let unit = index % params.hidden;
    let sequence = index / params.hidden;
    let batch = sequence % params.batch;
    let direction = sequence / params.batch;
    let own = (direction * params.state_direction + batch * params.state_batch) * params.hidden + unit;



    var length = params.time;
    let running = params.step < length;
    let backward = ((params.reverse >> direction) & 1u) == 1u;
    let time = select(params.step, length - 1u - params.step, running && backward);
    let now = (params.step & 1u) * params.units + index;
    let before = states[now];
    let gate_at = ((direction * params.time + time) * params.batch + batch) * 4u * params.hidden + unit;


    var state = before;
    if (running) {
        let old = cells[index];
        var in_sum = gates[gate_at] + from_state(0u, unit, sequence);
        let in_gate = activation_f(in_sum);
        var forget_sum = gates[gate_at + 2u * params.hidden] + from_state(2u, unit, sequence);
        let forget = activation_f(forget_sum);
        let candidate = activation_g(gates[gate_at + 3u * params.hidden] + from_state(3u, unit, sequence));
        let cell = forget * old + in_gate * candidate;
        var out_sum = gates[gate_at + params.hidden] + from_state(1u, unit, sequence);
        cells[index] = cell;
        state = activation_f(out_sum) * activation_h(cell);
    }
    states[((params.step + 1u) & 1u) * params.units + index] = state;
    let row = time * params.y_time + direction * params.y_direction + batch * params.y_batch;
    y[row * params.hidden + unit] = select(0.0, state, running);
}


@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let index = (group.y * groups.x + group.x) * 64u + local;
    if (index < params.count) {
        element(index);
    }
}
// recurrent [1, 1, 1] [1, 2, 3, 4, 8, 2, 1, 2, 2, 1, 6, 3, 8, 8]
struct Params {
    time: u32,
    batch: u32,
    input: u32,
    hidden: u32,
    units: u32,
    state_direction: u32,
    state_batch: u32,
    y_time: u32,
    y_direction: u32,
    y_batch: u32,
    x_time: u32,
    x_batch: u32,
    from_base: u32,
    count: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> kept: array<f32>;
@group(0) @binding(2) var<storage, read_write> result: array<f32>;



fn element(index: u32) {
    let unit = index % params.hidden;
    let sequence = index / params.hidden;
    let batch = sequence % params.batch;
    let direction = sequence / params.batch;
    let own = (direction * params.state_direction + batch * params.state_batch) * params.hidden + unit;


    result[own] = kept[params.from_base + index];



}


@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let index = (group.y * groups.x + group.x) * 64u + local;
    if (index < params.count) {
        element(index);
    }
}
