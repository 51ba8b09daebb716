//! Elements smaller than a byte, packed from the lowest bits up.

/// The lowest `bits` bits, of which there are at most 8.
fn mask(bits: usize) -> u8 {
    0xff >> (8 - bits)
}

/// Element `index` of elements of `bits` bits (1, 2, 4 or 8); 0 beyond the end.
pub fn packed_get(bits: usize, bytes: &[u8], index: usize) -> u8 {
    let per_byte = 8 / bits;
    let byte = bytes.get(index / per_byte).copied().unwrap_or(0);
    byte >> (index % per_byte * bits) & mask(bits)
}

/// `count` elements with a byte for each.
pub fn unpack(bits: usize, bytes: &[u8], count: usize) -> Vec<u8> {
    (0..count).map(|index| packed_get(bits, bytes, index)).collect()
}

/// The opposite of [`unpack`]: the lowest `bits` bits of each value, into `bytes`, which are overwritten.
pub fn pack_into(bits: usize, values: impl IntoIterator<Item = u8>, bytes: &mut [u8]) {
    let per_byte = 8 / bits;
    bytes.fill(0);
    for (index, value) in values.into_iter().enumerate() {
        if let Some(byte) = bytes.get_mut(index / per_byte) {
            *byte |= (value & mask(bits)) << (index % per_byte * bits);
        }
    }
}

/// The opposite of [`unpack`], for as many values as there are.
pub fn pack(bits: usize, values: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; values.len().div_ceil(8 / bits)];
    pack_into(bits, values.iter().copied(), &mut bytes);
    bytes
}

/// The lowest `bits` bits of `value` as a signed number.
pub fn sign_extend(bits: usize, value: u8) -> i8 {
    let shift = 8 - bits;
    ((value << shift) as i8) >> shift
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packing_and_unpacking_are_inverse() {
        for bits in [2, 4] {
            let values: Vec<u8> = (0..11u8).map(|value| value % (1 << bits)).collect();
            let packed = pack(bits, &values);
            assert_eq!(packed.len(), (11 * bits).div_ceil(8));
            assert_eq!(unpack(bits, &packed, 11), values);
        }
        assert_eq!(pack(4, &[1, 2, 3]), [0x21, 0x03]);
        assert_eq!(pack(2, &[1, 2, 3, 0, 1]), [0b00_11_10_01, 1]);
        assert_eq!([sign_extend(4, 0xf), sign_extend(2, 2), sign_extend(2, 1)], [-1, -2, 1]);
    }
}
