// Mean and variance normalisation over up to REDUCED dimensions for each of up to KEPT others, dimension 0 the innermost
// of each: (x - mean) / (sqrt(variance) + epsilon). A thread takes a group.

fn reduced_offset(index: u32) -> u32 {
    var rest = index;
    var offset = 0u;
    //: for d in 0..REDUCED
    offset += (rest % params.reduced_dim$d) * params.reduced_stride$d;
    rest = rest / params.reduced_dim$d;
    //: end
    return offset;
}

fn element(index: u32) {
    var rest = index;
    var base = 0u;
    //: for d in 0..KEPT
    base += (rest % params.kept_dim$d) * params.kept_stride$d;
    rest = rest / params.kept_dim$d;
    //: end
    var mean = 0.0;
    var at = 0u;
    while (at < params.length) {
        let end = min(params.length, at + 64u);
        var block = 0.0;
        for (; at < end; at++) {
            block += input[base + reduced_offset(at)];
        }
        mean += block;
    }
    mean = mean / f32(params.length);
    var variance = 0.0;
    at = 0u;
    while (at < params.length) {
        let end = min(params.length, at + 64u);
        var block = 0.0;
        for (; at < end; at++) {
            let centred = input[base + reduced_offset(at)] - mean;
            block += centred * centred;
        }
        variance += block;
    }
    let spread = sqrt(variance / f32(params.length)) + params.epsilon;
    for (at = 0u; at < params.length; at++) {
        let place = base + reduced_offset(at);
        output[place] = (input[place] - mean) / spread;
    }
}
