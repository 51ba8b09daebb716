// grid_sample [1, 1, 1] [12, 2, 5, 6, 24]
struct Params {
    spots: u32,
    channels: u32,
    size0: i32,
    size1: i32,
    count: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> input: array<f32>;
@group(0) @binding(2) var<storage, read> grid: array<f32>;
@group(0) @binding(3) var<storage, read_write> output: array<f32>;

fn reflect_position(x: f32, low: f32, high: f32) -> f32 {
    let range = high - low;
    if (range <= 0.0) {
        return low;
    }
    if (x >= low && x <= high) {
        return x;
    }
    let below = x < low;
    let distance = select(x - high, low - x, below);
    let times = floor(distance / range);
    let rest = distance - times * range;
    let inward = select(range - rest, rest, times - 2.0 * floor(times / 2.0) == 0.0);
    return select(high - inward, low + inward, below);
}

fn position(n: f32, size: f32) -> f32 {
    var x = ((n + 1.0) * size - 1.0) / 2.0;
    let low = -0.5;
    let high = size - 0.5;
    if (x < low || x > high) {
        x = reflect_position(x, low, high);
    }
    return x;
}

fn pixel(index: i32, size: i32) -> i32 {
    let at = reflect_position(f32(index), -0.5, f32(size) - 0.5);
    return clamp(i32(at), 0, size - 1);
}

fn tap_weight(part: f32, tap: i32) -> f32 {
    let a = -0.75;
    let x = abs(part + 1.0 - f32(tap));
    let near = ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0;
    let far = ((a * x - 5.0 * a) * x + 8.0 * a) * x - 4.0 * a;
    return select(far, near, tap == 1 || tap == 2);
}

fn element(index: u32) {
    let spot = index % params.spots;
    let plane = index / params.spots;
    let item = plane / params.channels;
    var volume = 1;
    let x0 = position(grid[(item * params.spots + spot) * 2u + 2u - 1u - 0u], f32(params.size0));
    let is_nan0 = (bitcast<u32>(x0) & 0x7fffffffu) > 0x7f800000u;
    let first0 = select(i32(clamp(floor(x0), -1e9, 1e9)), 0, is_nan0) - 1;
    let part0 = x0 - floor(x0);
    volume *= params.size0;
    let x1 = position(grid[(item * params.spots + spot) * 2u + 2u - 1u - 1u], f32(params.size1));
    let is_nan1 = (bitcast<u32>(x1) & 0x7fffffffu) > 0x7f800000u;
    let first1 = select(i32(clamp(floor(x1), -1e9, 1e9)), 0, is_nan1) - 1;
    let part1 = x1 - floor(x1);
    volume *= params.size1;
    var total = 0.0;
    for (var tap = 0; tap < 16; tap++) {
        var rest = tap;
        var weight = 1.0;
        var place = 0;
        var inside = true;
        let at0 = pixel(first0 + rest % 4, params.size0);
        weight *= tap_weight(part0, rest % 4);
        rest = rest / 4;
        inside = inside && at0 >= 0;
        place = place * params.size0 + at0;
        let at1 = pixel(first1 + rest % 4, params.size1);
        weight *= tap_weight(part1, rest % 4);
        rest = rest / 4;
        inside = inside && at1 >= 0;
        place = place * params.size1 + at1;
        if (inside) {
            total += weight * input[plane * u32(volume) + u32(place)];
        }
    }
    output[index] = total;
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
