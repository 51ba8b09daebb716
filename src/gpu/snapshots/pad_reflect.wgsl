// pad [1, 1, 1] [30, 0, 6, 5, 4, 3, 1, 4, 1, 1]
struct Params {
    count: u32,
    fill: u32,
    dim0: u32,
    dim1: u32,
    size0: i32,
    size1: i32,
    stride0: i32,
    stride1: i32,
    before0: i32,
    before1: i32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> input: array<u32>;
@group(0) @binding(2) var<storage, read_write> output: array<u32>;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let index = (group.y * groups.x + group.x) * 64u + local;
    if (index >= params.count) {
        return;
    }
    var rest = index;
    var from_index = 0i;
    var inside = true;
    {
        let size = params.size0;
        var at = i32(rest % params.dim0) - params.before0;
        rest = rest / params.dim0;
        let period = max(2 * (size - 1), 1);
        at = ((at % period) + period) % period;
        at = min(at, period - at);
        at = select(at, 0, size == 1);
        from_index += at * params.stride0;
    }
    {
        let size = params.size1;
        var at = i32(rest % params.dim1) - params.before1;
        rest = rest / params.dim1;
        let period = max(2 * (size - 1), 1);
        at = ((at % period) + period) % period;
        at = min(at, period - at);
        at = select(at, 0, size == 1);
        from_index += at * params.stride1;
    }
    output[index] = input[u32(from_index)];
}
