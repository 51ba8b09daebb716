// test [1, 1, 1] [24]
struct Params {
    pw_dim0_0: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read_write> output: array<f32>;
@group(0) @binding(2) var<storage, read> pw_x1: array<f32>;
@group(0) @binding(3) var<storage, read> pw_x2: array<f32>;
alias PwF = f32;
alias PwU = u32;
alias PwI = i32;
alias PwB = bool;
fn pw_sigmoid(x: PwF) -> PwF {
    let e = exp(-abs(x));
    return select(PwF(1.0f), e, x < PwF(0.0f)) / (PwF(1.0f) + e);
}

fn epilogue(value: f32, index: u32) -> f32 {
    let pw_at0 = index % params.pw_dim0_0;
    let pw_r0 = value;
    let pw_r1 = pw_x1[pw_at0];
    let pw_r2 = pw_x2[index];
    let pw_r3 = pw_r0 + pw_r1;
    let pw_r4 = pw_sigmoid(pw_r3);
    let pw_r5 = pw_r3 * pw_r4;
    let pw_r6 = pw_r2 + pw_r5;
    return pw_r6;
}


fn epilogue4(value: vec4<f32>, index: u32) -> vec4<f32> {
    return vec4<f32>(
        epilogue(value.x, index),
        epilogue(value.y, index + 1u),
        epilogue(value.z, index + 2u),
        epilogue(value.w, index + 3u),
    );
}
@compute @workgroup_size(1)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
let at = id.x * 4u;
let v = epilogue4(vec4<f32>(output[at]), at);
output[at] = epilogue(v.x, at);
}
