// pointwise [4, 1, 1] [240, 15, 8, 15, 4286578688]
struct Params {
    count: u32,
    pw_divisor0_0: u32,
    pw_dim0_0: u32,
    pw_dim1_0: u32,
    pw_negative_inf: f32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> pw_x0: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> pw_x1: array<f32>;
@group(0) @binding(3) var<storage, read> pw_x2: array<f32>;
@group(0) @binding(4) var<storage, read> pw_x3: array<vec4<u32>>;
@group(0) @binding(5) var<storage, read_write> pw_y0: array<vec4<f32>>;
@group(0) @binding(6) var<storage, read_write> pw_y1: array<vec4<u32>>;
alias PwF = vec4<f32>;
alias PwU = vec4<u32>;
alias PwI = vec4<i32>;
alias PwB = vec4<bool>;
fn pw_is_positive_inf(x: PwF) -> PwB {
    return bitcast<PwU>(x) == PwU(0x7f800000u);
}

fn pw_is_negative_inf(x: PwF) -> PwB {
    return bitcast<PwU>(x) == PwU(0xff800000u);
}

fn pw_copysign(magnitude: PwF, sign: PwF) -> PwF {
    let bits = (bitcast<PwU>(magnitude) & PwU(0x7fffffffu)) | (bitcast<PwU>(sign) & PwU(0x80000000u));
    return bitcast<PwF>(bits);
}

fn pw_erf(x: PwF) -> PwF {
    let s = x * x;
    let small = x * (PwF(1.1283791f) + s * (PwF(-0.37612626f) + s * (PwF(0.11283603f) + s * (PwF(-0.026854444f)
        + s * (PwF(0.0051895357f) + s * (PwF(-0.0008020842f) + s * PwF(7.889123e-5f)))))));
    let m = select(abs(x), PwF(4.0f), abs(x) > PwF(4.0f));
    let g = PwF(-0.00018344483f) + m * (PwF(1.1295568f) + m * (PwF(0.63326263f) + m * (PwF(0.10837249f)
        + m * (PwF(-0.02517897f) + m * (PwF(0.0041936124f) + m * (PwF(-0.00043910657f) + m * PwF(2.1496127e-5f)))))));
    let large = pw_copysign(PwF(1.0f) - exp(-g), x);
    return select(large, small, abs(x) < PwF(1.0f));
}



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
    let pw_at0 = index / params.pw_divisor0_0 % params.pw_dim0_0;
    let pw_at1 = index % params.pw_dim1_0;
    let pw_r0 = pw_x0[index];
    let pw_r1 = PwF(pw_x1[pw_at0]);
    let pw_r2 = PwF(pw_x2[0]);
    let pw_r3 = pw_x3[pw_at1] != PwU(0u);
    let pw_r4 = pw_r0 * pw_r1;
    let pw_r5 = pw_r2 + pw_r4;
    let pw_r6 = PwF(0.70710677f);
    let pw_r7 = pw_r5 * pw_r6;
    let pw_r8 = pw_erf(pw_r7);
    let pw_r9 = PwF(1.0f);
    let pw_r10 = PwF(0.5f);
    let pw_r11 = pw_r5 * pw_r10;
    let pw_r12 = pw_r8 + pw_r9;
    let pw_r13 = pw_r11 * pw_r12;
    let pw_r14 = PwF(params.pw_negative_inf);
    let pw_r15 = select(pw_r14, pw_r13, pw_r3);
    let pw_r16 = pw_is_negative_inf(pw_r15);
    pw_y0[index] = pw_r15;
    pw_y1[index] = select(PwU(0u), PwU(1u), pw_r16);
}
