//! SHA-1 (FIPS 180-4), which ONNX uses as the checksum of external data files. It guards against mixed-up and damaged
//! files, not against an attacker.

/// A digest under way.
pub struct Sha1 {
    state: [u32; 5],
    /// The bytes since the last full block.
    rest: Vec<u8>,
    length: u64,
}

impl Default for Sha1 {
    fn default() -> Sha1 {
        Sha1 {
            state: [0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476, 0xc3d2e1f0],
            rest: Vec::new(),
            length: 0,
        }
    }
}

impl Sha1 {
    /// Takes in what comes next.
    pub fn update(&mut self, mut bytes: &[u8]) {
        self.length = self.length.wrapping_add(bytes.len() as u64);
        if !self.rest.is_empty() {
            let (head, tail) = bytes.split_at(bytes.len().min(64 - self.rest.len()));
            self.rest.extend_from_slice(head);
            bytes = tail;
            if self.rest.len() < 64 {
                return;
            }
            compress(&mut self.state, &self.rest);
            self.rest.clear();
        }
        let mut blocks = bytes.chunks_exact(64);
        for block in &mut blocks {
            compress(&mut self.state, block);
        }
        self.rest.extend_from_slice(blocks.remainder());
    }

    /// The digest in lower-case hexadecimal.
    pub fn hex_digest(mut self) -> String {
        let mut tail = [0u8; 128];
        tail[..self.rest.len()].copy_from_slice(&self.rest);
        tail[self.rest.len()] = 0x80;
        let end = if self.rest.len() < 56 { 64 } else { 128 };
        tail[end - 8..end].copy_from_slice(&self.length.wrapping_mul(8).to_be_bytes());
        for block in tail[..end].chunks_exact(64) {
            compress(&mut self.state, block);
        }
        self.state.iter().map(|word| format!("{word:08x}")).collect()
    }
}

fn compress(state: &mut [u32; 5], block: &[u8]) {
    let mut schedule = [0u32; 80];
    for (word, bytes) in schedule.iter_mut().zip(block.as_chunks().0) {
        *word = u32::from_be_bytes(*bytes);
    }
    for i in 16..80 {
        schedule[i] = (schedule[i - 3] ^ schedule[i - 8] ^ schedule[i - 14] ^ schedule[i - 16]).rotate_left(1);
    }
    let [mut a, mut b, mut c, mut d, mut e] = *state;
    for (i, &word) in schedule.iter().enumerate() {
        let (mix, constant) = match i / 20 {
            0 => (b & c | !b & d, 0x5a827999),
            1 => (b ^ c ^ d, 0x6ed9eba1),
            2 => (b & c | b & d | c & d, 0x8f1bbcdc),
            _ => (b ^ c ^ d, 0xca62c1d6u32),
        };
        let next = a
            .rotate_left(5)
            .wrapping_add(mix)
            .wrapping_add(e)
            .wrapping_add(constant)
            .wrapping_add(word);
        (e, d, c, b, a) = (d, c, b.rotate_left(30), a, next);
    }
    for (word, add) in state.iter_mut().zip([a, b, c, d, e]) {
        *word = word.wrapping_add(add);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex_digest(bytes: &[u8]) -> String {
        let mut digest = Sha1::default();
        digest.update(bytes);
        digest.hex_digest()
    }

    #[test]
    fn pieces_give_the_digest_of_the_whole() {
        let bytes: Vec<u8> = (0..1000u32).map(|i| i as u8).collect();
        for length in [1, 3, 63, 64, 65, 200] {
            let mut digest = Sha1::default();
            bytes.chunks(length).for_each(|piece| digest.update(piece));
            assert_eq!(digest.hex_digest(), hex_digest(&bytes), "pieces of {length}");
        }
    }

    #[test]
    fn digests_are_those_of_the_standard() {
        assert_eq!(hex_digest(b""), "da39a3ee5e6b4b0d3255bfef95601890afd80709");
        assert_eq!(hex_digest(b"abc"), "a9993e364706816aba3e25717850c26c9cd0d89d");
        let two_blocks = b"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq";
        assert_eq!(hex_digest(two_blocks), "84983e441c3bd26ebaae4aa1f95129e5e54670f1");
        assert_eq!(
            hex_digest(&[b'a'; 1_000_000]),
            "34aa973cd4c4daa4f61eeb2bdbad27316534016f"
        );
    }
}
