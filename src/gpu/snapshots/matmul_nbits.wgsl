// matmul_nbits [1, 1, 1] [5, 6, 32, 2, 16, 2, 1090519040, 12]
struct Params {
    rows: u32,
    columns: u32,
    depth: u32,
    blocks: u32,
    block: u32,
    block_words: u32,
    zero: f32,
    count: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> a: array<f32>;
@group(0) @binding(2) var<storage, read> weights: array<u32>;
@group(0) @binding(3) var<storage, read> scales: array<f32>;
@group(0) @binding(4) var<storage, read_write> output: array<f32>;

fn element(index: u32) {
    let column = index % params.columns;
    let first = index / params.columns * 4u;
    let at0 = min(first + 0u, params.rows - 1u) * params.depth;
    var total0 = 0.0;
    let at1 = min(first + 1u, params.rows - 1u) * params.depth;
    var total1 = 0.0;
    let at2 = min(first + 2u, params.rows - 1u) * params.depth;
    var total2 = 0.0;
    let at3 = min(first + 3u, params.rows - 1u) * params.depth;
    var total3 = 0.0;
    for (var block = 0u; block < params.blocks; block++) {
        let number = column * params.blocks + block;
        let scale = scales[number];
        let zero = params.zero;
        var sum0 = 0.0;
        var sum1 = 0.0;
        var sum2 = 0.0;
        var sum3 = 0.0;
        for (var w = 0u; w < params.block_words; w++) {
            var word = weights[number * params.block_words + w];
            let k = block * params.block + w * 8u;
            for (var lane = 0u; lane < 8u; lane++) {
                if (k + lane < params.depth) {
                    let weight = f32(word & 15u) - zero;
                    sum0 += a[at0 + k + lane] * weight;
                    sum1 += a[at1 + k + lane] * weight;
                    sum2 += a[at2 + k + lane] * weight;
                    sum3 += a[at3 + k + lane] * weight;
                }
                word = word >> 4u;
            }
        }
        total0 += sum0 * scale;
        total1 += sum1 * scale;
        total2 += sum2 * scale;
        total3 += sum3 * scale;
    }
    let added = 0.0;
    if (first + 0u < params.rows) {
        output[(first + 0u) * params.columns + column] = total0 + added;
    }
    if (first + 1u < params.rows) {
        output[(first + 1u) * params.columns + column] = total1 + added;
    }
    if (first + 2u < params.rows) {
        output[(first + 2u) * params.columns + column] = total2 + added;
    }
    if (first + 3u < params.rows) {
        output[(first + 3u) * params.columns + column] = total3 + added;
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
