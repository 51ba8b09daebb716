// top_k [1, 1, 1] [9, 1, 3, 18]
struct Params {
    length: u32,
    inner: u32,
    picks: u32,
    count: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> input: array<f32>;
@group(0) @binding(2) var<storage, read_write> values: array<f32>;
@group(0) @binding(3) var<storage, read_write> indices: array<i32>;

fn key(value: f32) -> i32 {
    let bits = bitcast<i32>(select(value, 0.0, value == 0.0));
    return select(bits ^ ((bits >> 31u) & 0x7fffffff), 0x7fffffff, (bits & 0x7fffffff) > 0x7f800000);
}

fn element(index: u32) {
    let inner = index % params.inner;
    let own = index / params.inner % params.length;
    let base = index - own * params.inner;
    let outer = index / params.inner / params.length;
    let value = key(input[index]);
    var rank = 0u;
    for (var i = 0u; i < params.length; i++) {
        let other = key(input[base + i * params.inner]);
        let before = other > value;
        rank += select(0u, 1u, before || (other == value && i < own));
    }
    if (rank < params.picks) {
        let to = (outer * params.picks + rank) * params.inner + inner;
        values[to] = input[index];
        indices[to] = i32(own);
    }




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
