// attention_tiled [2, 1, 3] [50, 0, 0, 0, 0, 16, 1, 36, 108, 1, 50, 1, 1, 3, 640, 800, 1800, 36, 3, 40, 50, 16, 36, 1048576000, 4286578688, 0]
struct Params {
    mask_keys: u32,
    start0: u32,
    start1: u32,
    start2: u32,
    start3: u32,
    row0: u32,
    row1: u32,
    row2: u32,
    row3: u32,
    column0: u32,
    column1: u32,
    column2: u32,
    column3: u32,
    dim0: u32,
    step0_0: u32,
    step0_1: u32,
    step0_2: u32,
    step0_3: u32,
    count: u32,
    queries: u32,
    keys: u32,
    head_size: u32,
    value_size: u32,
    scale: f32,
    lowest: f32,
    empty: f32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> mask: array<f32>;
@group(0) @binding(2) var<storage, read> x0: array<f32>;
@group(0) @binding(3) var<storage, read> x1: array<f32>;
@group(0) @binding(4) var<storage, read> x2: array<f32>;
@group(0) @binding(5) var<storage, read_write> output: array<f32>;

fn span(index: u32, first: u32, last: u32) -> vec2<u32> {
    return vec2<u32>(0u, params.keys);
}

fn finish(score: f32, index: u32, query: u32, key: u32) -> f32 {
    if (key >= params.keys) {
        return params.lowest;
    }
    return epilogue(score, (index * params.queries + query) * params.keys + key);
}
fn epilogue(value: f32, index: u32) -> f32 {
    return value + mask[index % params.mask_keys];
}


var<workgroup> tile: array<vec4<f32>, 260>;
var<workgroup> weights: array<vec4<f32>, 256>;
var<workgroup> parts: array<vec4<f32>, 64>;

fn load0(base: u32, row: u32, rows: u32, column: u32, columns: u32) -> vec4<f32> {
    if (row >= rows || column >= columns) {
        return vec4<f32>();
    }
    let at = base + row * params.row0 + column * params.column0;
    var value = vec4<f32>(x0[at], 0.0, 0.0, 0.0);
    if (column + 1u < columns) {
        value[1] = x0[at + 1u * params.column0];
    }
    if (column + 2u < columns) {
        value[2] = x0[at + 2u * params.column0];
    }
    if (column + 3u < columns) {
        value[3] = x0[at + 3u * params.column0];
    }
    return value;
}
fn load1(base: u32, row: u32, rows: u32, column: u32, columns: u32) -> vec4<f32> {
    if (row >= rows || column >= columns) {
        return vec4<f32>();
    }
    let at = base + row * params.row1 + column * params.column1;
    var value = vec4<f32>(x1[at], 0.0, 0.0, 0.0);
    if (column + 1u < columns) {
        value[1] = x1[at + 1u * params.column1];
    }
    if (column + 2u < columns) {
        value[2] = x1[at + 2u * params.column1];
    }
    if (column + 3u < columns) {
        value[3] = x1[at + 3u * params.column1];
    }
    return value;
}
fn load2(base: u32, row: u32, rows: u32, column: u32, columns: u32) -> vec4<f32> {
    if (row >= rows || column >= columns) {
        return vec4<f32>();
    }
    let at = base + row * params.row2 + column * params.column2;
    var value = vec4<f32>(x2[at], 0.0, 0.0, 0.0);
    if (column + 1u < columns) {
        value[1] = x2[at + 1u * params.column2];
    }
    if (column + 2u < columns) {
        value[2] = x2[at + 2u * params.column2];
    }
    if (column + 3u < columns) {
        value[3] = x2[at + 3u * params.column2];
    }
    return value;
}

@compute @workgroup_size(8, 8)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_id) local: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let first_row = group.x * 32u;
    let first_column = group.y * 16u * 4u;
    for (var index = group.z; index < params.count; index += groups.z) {
        var rest = index;
        var at0 = params.start0;
        var at1 = params.start1;
        var at2 = params.start2;
        var at3 = params.start3;
        at0 += rest % params.dim0 * params.step0_0;
        at1 += rest % params.dim0 * params.step0_1;
        at2 += rest % params.dim0 * params.step0_2;
        at3 += rest % params.dim0 * params.step0_3;
        rest = rest / params.dim0;
        let seen = span(index, first_row, min(first_row + 31u, params.queries - 1u));
        var largest = vec4<f32>(-3.4028234e38);
        var sums = vec4<f32>();
        var sum0_0 = vec4<f32>();
        var sum1_0 = vec4<f32>();
        var sum2_0 = vec4<f32>();
        var sum3_0 = vec4<f32>();
        var sum0_1 = vec4<f32>();
        var sum1_1 = vec4<f32>();
        var sum2_1 = vec4<f32>();
        var sum3_1 = vec4<f32>();
        for (var first_key = seen.x; first_key < seen.y; first_key += 32u) {
            var score0 = vec4<f32>();
            var score1 = vec4<f32>();
            var score2 = vec4<f32>();
            var score3 = vec4<f32>();
            for (var depth = 0u; depth < params.head_size; depth += 16u) {
                {
                    let row = thread / 4u + 0u * 16u;
                    let quad = thread % 4u;
                    let column = depth + quad * 4u;
                    tile[row * 4u + quad] = load0(at0, first_row + row, params.queries, column, params.head_size);
                    tile[128u + quad * 33u + row] = load1(at1, first_key + row, seen.y, column, params.head_size);
                }
                {
                    let row = thread / 4u + 1u * 16u;
                    let quad = thread % 4u;
                    let column = depth + quad * 4u;
                    tile[row * 4u + quad] = load0(at0, first_row + row, params.queries, column, params.head_size);
                    tile[128u + quad * 33u + row] = load1(at1, first_key + row, seen.y, column, params.head_size);
                }
                workgroupBarrier();
                for (var i = 0u; i < 4u; i += 1u) {
                    let key0 = tile[128u + i * 33u + local.x + 0u * 8u];
                    let key1 = tile[128u + i * 33u + local.x + 1u * 8u];
                    let key2 = tile[128u + i * 33u + local.x + 2u * 8u];
                    let key3 = tile[128u + i * 33u + local.x + 3u * 8u];
                    {
                        let row = tile[(local.y * 4u + 0u) * 4u + i];
                        score0[0] += dot(row, key0);
                        score1[0] += dot(row, key1);
                        score2[0] += dot(row, key2);
                        score3[0] += dot(row, key3);
                    }
                    {
                        let row = tile[(local.y * 4u + 1u) * 4u + i];
                        score0[1] += dot(row, key0);
                        score1[1] += dot(row, key1);
                        score2[1] += dot(row, key2);
                        score3[1] += dot(row, key3);
                    }
                    {
                        let row = tile[(local.y * 4u + 2u) * 4u + i];
                        score0[2] += dot(row, key0);
                        score1[2] += dot(row, key1);
                        score2[2] += dot(row, key2);
                        score3[2] += dot(row, key3);
                    }
                    {
                        let row = tile[(local.y * 4u + 3u) * 4u + i];
                        score0[3] += dot(row, key0);
                        score1[3] += dot(row, key1);
                        score2[3] += dot(row, key2);
                        score3[3] += dot(row, key3);
                    }
                }
                workgroupBarrier();
            }
            {
                let query = min(first_row + local.y * 4u + 0u, params.queries - 1u);
                score0[0] = finish(score0[0] * params.scale, index, query, first_key + local.x + 0u * 8u);
                score1[0] = finish(score1[0] * params.scale, index, query, first_key + local.x + 1u * 8u);
                score2[0] = finish(score2[0] * params.scale, index, query, first_key + local.x + 2u * 8u);
                score3[0] = finish(score3[0] * params.scale, index, query, first_key + local.x + 3u * 8u);
            }
            {
                let query = min(first_row + local.y * 4u + 1u, params.queries - 1u);
                score0[1] = finish(score0[1] * params.scale, index, query, first_key + local.x + 0u * 8u);
                score1[1] = finish(score1[1] * params.scale, index, query, first_key + local.x + 1u * 8u);
                score2[1] = finish(score2[1] * params.scale, index, query, first_key + local.x + 2u * 8u);
                score3[1] = finish(score3[1] * params.scale, index, query, first_key + local.x + 3u * 8u);
            }
            {
                let query = min(first_row + local.y * 4u + 2u, params.queries - 1u);
                score0[2] = finish(score0[2] * params.scale, index, query, first_key + local.x + 0u * 8u);
                score1[2] = finish(score1[2] * params.scale, index, query, first_key + local.x + 1u * 8u);
                score2[2] = finish(score2[2] * params.scale, index, query, first_key + local.x + 2u * 8u);
                score3[2] = finish(score3[2] * params.scale, index, query, first_key + local.x + 3u * 8u);
            }
            {
                let query = min(first_row + local.y * 4u + 3u, params.queries - 1u);
                score0[3] = finish(score0[3] * params.scale, index, query, first_key + local.x + 0u * 8u);
                score1[3] = finish(score1[3] * params.scale, index, query, first_key + local.x + 1u * 8u);
                score2[3] = finish(score2[3] * params.scale, index, query, first_key + local.x + 2u * 8u);
                score3[3] = finish(score3[3] * params.scale, index, query, first_key + local.x + 3u * 8u);
            }
            var most = max(max(score0, score1), max(score2, score3));
            parts[thread] = most;
            workgroupBarrier();
            for (var x = 0u; x < 8u; x += 1u) {
                most = max(most, parts[local.y * 8u + x]);
            }
            most = max(most, largest);
            let factor = exp(largest - most);
            largest = most;
            sums *= factor;
            {
                let masked = bitcast<vec4<u32>>(score0) == vec4<u32>(0xff800000u);
                let weight = select(exp(score0 - most), vec4<f32>(), masked);
                weights[local.y * 32u + local.x + 0u * 8u] = weight;
                sums += weight;
            }
            {
                let masked = bitcast<vec4<u32>>(score1) == vec4<u32>(0xff800000u);
                let weight = select(exp(score1 - most), vec4<f32>(), masked);
                weights[local.y * 32u + local.x + 1u * 8u] = weight;
                sums += weight;
            }
            {
                let masked = bitcast<vec4<u32>>(score2) == vec4<u32>(0xff800000u);
                let weight = select(exp(score2 - most), vec4<f32>(), masked);
                weights[local.y * 32u + local.x + 2u * 8u] = weight;
                sums += weight;
            }
            {
                let masked = bitcast<vec4<u32>>(score3) == vec4<u32>(0xff800000u);
                let weight = select(exp(score3 - most), vec4<f32>(), masked);
                weights[local.y * 32u + local.x + 3u * 8u] = weight;
                sums += weight;
            }
            sum0_0 *= factor[0];
            sum1_0 *= factor[1];
            sum2_0 *= factor[2];
            sum3_0 *= factor[3];
            sum0_1 *= factor[0];
            sum1_1 *= factor[1];
            sum2_1 *= factor[2];
            sum3_1 *= factor[3];
            for (var part = 0u; part < min(32u, seen.y - first_key); part += 8u) {
                {
                    let row = first_key + part + (thread + 0u * 64u) / 16u;
                    let column = first_column + (thread + 0u * 64u) % 16u * 4u;
                    tile[thread + 0u * 64u] = load2(at2, row, seen.y, column, params.value_size);
                }
                {
                    let row = first_key + part + (thread + 1u * 64u) / 16u;
                    let column = first_column + (thread + 1u * 64u) % 16u * 4u;
                    tile[thread + 1u * 64u] = load2(at2, row, seen.y, column, params.value_size);
                }
                workgroupBarrier();
                for (var key = 0u; key < 8u; key += 1u) {
                    let weight = weights[local.y * 32u + part + key];
                    {
                        let value = tile[key * 16u + local.x + 0u * 8u];
                        sum0_0 += weight[0] * value;
                        sum1_0 += weight[1] * value;
                        sum2_0 += weight[2] * value;
                        sum3_0 += weight[3] * value;
                    }
                    {
                        let value = tile[key * 16u + local.x + 1u * 8u];
                        sum0_1 += weight[0] * value;
                        sum1_1 += weight[1] * value;
                        sum2_1 += weight[2] * value;
                        sum3_1 += weight[3] * value;
                    }
                }
                workgroupBarrier();
            }
        }
        parts[thread] = sums;
        workgroupBarrier();
        sums = vec4<f32>();
        for (var x = 0u; x < 8u; x += 1u) {
            sums += parts[local.y * 8u + x];
        }
        workgroupBarrier();
        {
            let row = first_row + local.y * 4u + 0u;
            let whole = sums[0] > 0.0;
            {
                let column = first_column + (local.x + 0u * 8u) * 4u;
                let value = select(vec4<f32>(params.empty), sum0_0 / sums[0], whole);
                let at = at3 + row * params.row3 + column * params.column3;
                if (row < params.queries && column < params.value_size) {
                    if (column + 0u < params.value_size) {
                        output[at + 0u * params.column3] = value[0];
                    }
                    if (column + 1u < params.value_size) {
                        output[at + 1u * params.column3] = value[1];
                    }
                    if (column + 2u < params.value_size) {
                        output[at + 2u * params.column3] = value[2];
                    }
                    if (column + 3u < params.value_size) {
                        output[at + 3u * params.column3] = value[3];
                    }
                }
            }
            {
                let column = first_column + (local.x + 1u * 8u) * 4u;
                let value = select(vec4<f32>(params.empty), sum0_1 / sums[0], whole);
                let at = at3 + row * params.row3 + column * params.column3;
                if (row < params.queries && column < params.value_size) {
                    if (column + 0u < params.value_size) {
                        output[at + 0u * params.column3] = value[0];
                    }
                    if (column + 1u < params.value_size) {
                        output[at + 1u * params.column3] = value[1];
                    }
                    if (column + 2u < params.value_size) {
                        output[at + 2u * params.column3] = value[2];
                    }
                    if (column + 3u < params.value_size) {
                        output[at + 3u * params.column3] = value[3];
                    }
                }
            }
        }
        {
            let row = first_row + local.y * 4u + 1u;
            let whole = sums[1] > 0.0;
            {
                let column = first_column + (local.x + 0u * 8u) * 4u;
                let value = select(vec4<f32>(params.empty), sum1_0 / sums[1], whole);
                let at = at3 + row * params.row3 + column * params.column3;
                if (row < params.queries && column < params.value_size) {
                    if (column + 0u < params.value_size) {
                        output[at + 0u * params.column3] = value[0];
                    }
                    if (column + 1u < params.value_size) {
                        output[at + 1u * params.column3] = value[1];
                    }
                    if (column + 2u < params.value_size) {
                        output[at + 2u * params.column3] = value[2];
                    }
                    if (column + 3u < params.value_size) {
                        output[at + 3u * params.column3] = value[3];
                    }
                }
            }
            {
                let column = first_column + (local.x + 1u * 8u) * 4u;
                let value = select(vec4<f32>(params.empty), sum1_1 / sums[1], whole);
                let at = at3 + row * params.row3 + column * params.column3;
                if (row < params.queries && column < params.value_size) {
                    if (column + 0u < params.value_size) {
                        output[at + 0u * params.column3] = value[0];
                    }
                    if (column + 1u < params.value_size) {
                        output[at + 1u * params.column3] = value[1];
                    }
                    if (column + 2u < params.value_size) {
                        output[at + 2u * params.column3] = value[2];
                    }
                    if (column + 3u < params.value_size) {
                        output[at + 3u * params.column3] = value[3];
                    }
                }
            }
        }
        {
            let row = first_row + local.y * 4u + 2u;
            let whole = sums[2] > 0.0;
            {
                let column = first_column + (local.x + 0u * 8u) * 4u;
                let value = select(vec4<f32>(params.empty), sum2_0 / sums[2], whole);
                let at = at3 + row * params.row3 + column * params.column3;
                if (row < params.queries && column < params.value_size) {
                    if (column + 0u < params.value_size) {
                        output[at + 0u * params.column3] = value[0];
                    }
                    if (column + 1u < params.value_size) {
                        output[at + 1u * params.column3] = value[1];
                    }
                    if (column + 2u < params.value_size) {
                        output[at + 2u * params.column3] = value[2];
                    }
                    if (column + 3u < params.value_size) {
                        output[at + 3u * params.column3] = value[3];
                    }
                }
            }
            {
                let column = first_column + (local.x + 1u * 8u) * 4u;
                let value = select(vec4<f32>(params.empty), sum2_1 / sums[2], whole);
                let at = at3 + row * params.row3 + column * params.column3;
                if (row < params.queries && column < params.value_size) {
                    if (column + 0u < params.value_size) {
                        output[at + 0u * params.column3] = value[0];
                    }
                    if (column + 1u < params.value_size) {
                        output[at + 1u * params.column3] = value[1];
                    }
                    if (column + 2u < params.value_size) {
                        output[at + 2u * params.column3] = value[2];
                    }
                    if (column + 3u < params.value_size) {
                        output[at + 3u * params.column3] = value[3];
                    }
                }
            }
        }
        {
            let row = first_row + local.y * 4u + 3u;
            let whole = sums[3] > 0.0;
            {
                let column = first_column + (local.x + 0u * 8u) * 4u;
                let value = select(vec4<f32>(params.empty), sum3_0 / sums[3], whole);
                let at = at3 + row * params.row3 + column * params.column3;
                if (row < params.queries && column < params.value_size) {
                    if (column + 0u < params.value_size) {
                        output[at + 0u * params.column3] = value[0];
                    }
                    if (column + 1u < params.value_size) {
                        output[at + 1u * params.column3] = value[1];
                    }
                    if (column + 2u < params.value_size) {
                        output[at + 2u * params.column3] = value[2];
                    }
                    if (column + 3u < params.value_size) {
                        output[at + 3u * params.column3] = value[3];
                    }
                }
            }
            {
                let column = first_column + (local.x + 1u * 8u) * 4u;
                let value = select(vec4<f32>(params.empty), sum3_1 / sums[3], whole);
                let at = at3 + row * params.row3 + column * params.column3;
                if (row < params.queries && column < params.value_size) {
                    if (column + 0u < params.value_size) {
                        output[at + 0u * params.column3] = value[0];
                    }
                    if (column + 1u < params.value_size) {
                        output[at + 1u * params.column3] = value[1];
                    }
                    if (column + 2u < params.value_size) {
                        output[at + 2u * params.column3] = value[2];
                    }
                    if (column + 3u < params.value_size) {
                        output[at + 3u * params.column3] = value[3];
                    }
                }
            }
        }
    }
}
