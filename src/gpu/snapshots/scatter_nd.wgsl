// scatter_nd [1, 1, 1] [4]
struct Params {
    count: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read_write> winners: array<atomic<u32>>;

fn place(index: i32, size: u32) -> u32 {
    let at = select(index, index + i32(size), index < 0);
    return u32(clamp(at, 0, i32(size) - 1));
}



fn element(index: u32) {




    atomicStore(&winners[index], 0u);



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
// scatter_nd [1, 1, 1] [4, 3, 3, 2]
struct Params {
    size0: u32,
    stride0: u32,
    inner: u32,
    count: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read_write> winners: array<atomic<u32>>;
@group(0) @binding(2) var<storage, read> indices: array<i32>;

fn place(index: i32, size: u32) -> u32 {
    let at = select(index, index + i32(size), index < 0);
    return u32(clamp(at, 0, i32(size) - 1));
}


fn tuple_place(row: u32) -> u32 {
    var at = 0u;
    at += place(indices[row * 1u + 0u], params.size0) * params.stride0;
    return at;
}

fn element(index: u32) {




    atomicMax(&winners[tuple_place(index) / params.inner], index + 1u);



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
// scatter_nd [1, 1, 1] [3, 12]
struct Params {
    inner: u32,
    count: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read_write> winners: array<atomic<u32>>;
@group(0) @binding(2) var<storage, read> input: array<u32>;
@group(0) @binding(3) var<storage, read> updates: array<u32>;
@group(0) @binding(4) var<storage, read_write> output: array<u32>;

fn place(index: i32, size: u32) -> u32 {
    let at = select(index, index + i32(size), index < 0);
    return u32(clamp(at, 0, i32(size) - 1));
}



fn element(index: u32) {




    let winner = atomicLoad(&winners[index / params.inner]);
    if (winner == 0u) {
        output[index] = input[index];
    } else {
        output[index] = updates[(winner - 1u) * params.inner + index % params.inner];
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
