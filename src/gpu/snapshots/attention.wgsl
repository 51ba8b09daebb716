// attention [1, 1, 1] [1, 1, 5, 5, 2, 2, 1056964608, 4286578688, 20, 10, 2, 0, 20, 10, 2, 0, 20, 10, 2, 0, 20, 10, 2, 2, 0, 0, 0, 0, 0, 0, 5, 5, 10]
struct Params {
    chunks: u32,
    group: u32,
    queries: u32,
    keys: u32,
    head_units: u32,
    value_units: u32,
    scale: f32,
    lowest: f32,
    to0: u32,
    to1: u32,
    to2: u32,
    q_start: u32,
    q0: u32,
    q1: u32,
    q2: u32,
    k_start: u32,
    k0: u32,
    k1: u32,
    k2: u32,
    v_start: u32,
    v0: u32,
    v1: u32,
    v2: u32,
    heads: u32,
    left: i32,
    right: i32,
    soft_cap: f32,
    past: i32,
    bias0: u32,
    bias1: u32,
    bias2: u32,
    bias_keys: i32,
    count: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> q: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> k: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> v: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read_write> output: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read> bias: array<f32>;

fn element(index: u32) {
    let chunk = index % params.chunks * 2u;
    var rest = index / params.chunks;
    let query = rest % params.queries;
    rest = rest / params.queries;
    let head = rest % params.heads;
    let batch = rest / params.heads;
    let kv_head = head / params.group;

    let span = seen_by(batch, query);
    let start = span.x;
    let end = span.y;
    let q_at = params.q_start + batch * params.q0 + head * params.q1 + query * params.q2;
    let k_at = params.k_start + batch * params.k0 + kv_head * params.k1;
    let v_at = params.v_start + batch * params.v0 + kv_head * params.v1 + chunk;
    let bias_at = bias_of(batch, head, query);
    let filter_at = filter_of(batch, query);

    var largest = params.lowest;
    var sum = 0.0;
    var result: array<vec4<f32>, 2>;
    for (var key = start; key < end; key++) {
        let at = k_at + u32(key) * params.k2;
        var score = 0.0;
        for (var i = 0u; i < params.head_units; i++) {
            score += dot(q[q_at + i], k[at + i]);
        }
        score = score * params.scale;
        let seen = true;
        score = masked(score, batch, bias_at, filter_at, u32(key), seen);
        if (is_lowest(score)) {
            continue;
        }
        if (score > largest) {
            let factor = select(exp(largest - score), 0.0, sum == 0.0);
            sum = sum * factor;
            for (var i = 0u; i < 2u; i++) {
                result[i] = result[i] * factor;
            }
            largest = score;
        }
        let weight = exp(score - largest);
        sum += weight;
        let value_at = v_at + u32(key) * params.v2;
        for (var i = 0u; i < 2u; i++) {
            if (chunk + i < params.value_units) {
                result[i] = result[i] + weight * v[value_at + i];
            }
        }
    }
    let scale = select(1.0 / sum, 0.0, sum == 0.0);
    let to = batch * params.to0 + head * params.to1 + query * params.to2 + chunk;
    for (var i = 0u; i < 2u; i++) {
        if (chunk + i < params.value_units) {
            output[to + i] = result[i] * scale;
        }
    }
}


fn is_lowest(score: f32) -> bool {
    return bitcast<u32>(score) == 0xff800000u;
}

fn seen_by(batch: u32, query: u32) -> vec2<i32> {
    var end = i32(params.keys);
    let position = params.past + i32(query);
    end = min(end, position + 1);
    end = min(end, params.bias_keys);
    end = max(end, 0);
    var start = 0;
    return vec2<i32>(start, end);
}


fn masked(raw: f32, batch: u32, bias_at: u32, filter_at: u32, key: u32, seen: bool) -> f32 {
    var score = raw;
    if (seen) {
        let added = bias[bias_at + key];
        score = select(score + added, params.lowest, is_lowest(added));
    }
    return select(params.lowest, score, seen);
}

fn bias_of(batch: u32, head: u32, query: u32) -> u32 {
    return batch * params.bias0 + head * params.bias1 + query * params.bias2;
}

fn filter_of(batch: u32, query: u32) -> u32 {
    return 0u;
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
