//! Deflate (RFC 1951) in the wrapping of zlib (RFC 1950), unpacked. Checksums are not looked at.

use super::{Decoded, Failure};

/// Lengths and distances that codes stand for: the smallest, and how many bits are added to it.
const LENGTHS: [(u16, u8); 29] = table::<29>(3, 4, &[(28, 258, 0)]);
const DISTANCES: [(u16, u8); 30] = table::<30>(1, 2, &[]);

/// The order in which the lengths of the codes of code lengths come.
const ORDER: [usize; 19] = [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15];

/// Values that grow by powers of two: after twice `group` codes, each `group` more have one more bit.
const fn table<const N: usize>(first: u16, group: usize, odd: &[(usize, u16, u8)]) -> [(u16, u8); N] {
    let mut codes = [(0, 0); N];
    let (mut value, mut index) = (first, 0);
    while index < N {
        let bits = if index < 2 * group { 0 } else { index / group - 1 };
        codes[index] = (value, bits as u8);
        value = value.wrapping_add(1 << bits);
        index += 1;
    }
    let mut index = 0;
    while index < odd.len() {
        codes[odd[index].0] = (odd[index].1, odd[index].2);
        index += 1;
    }
    codes
}

struct Bits<'a> {
    data: &'a [u8],
    at: usize,
    held: u32,
    count: u32,
}

impl Bits<'_> {
    fn take(&mut self, count: u32) -> Decoded<usize> {
        while self.count < count {
            let byte = *self.data.get(self.at).ok_or(Failure::Damaged)?;
            self.held |= u32::from(byte) << self.count;
            self.at += 1;
            self.count += 8;
        }
        let value = self.held & ((1 << count) - 1);
        self.held >>= count;
        self.count -= count;
        Ok(value as usize)
    }
}

/// A canonical prefix code: how many codes have each length, and the symbols in the order of their codes.
struct Code {
    counts: [u16; 16],
    symbols: Vec<u16>,
}

impl Code {
    fn new(lengths: &[u8]) -> Code {
        let mut counts = [0; 16];
        lengths.iter().for_each(|&length| counts[usize::from(length & 15)] += 1);
        counts[0] = 0;
        let mut symbols: Vec<u16> = (0..lengths.len() as u16)
            .filter(|&symbol| lengths[usize::from(symbol)] > 0)
            .collect();
        symbols.sort_by_key(|&symbol| lengths[usize::from(symbol)]);
        Code { counts, symbols }
    }

    fn symbol(&self, bits: &mut Bits<'_>) -> Decoded<usize> {
        let (mut code, mut first, mut index) = (0usize, 0usize, 0usize);
        for &count in &self.counts[1..] {
            let count = usize::from(count);
            code |= bits.take(1)?;
            if code < first + count {
                let symbol = code
                    .checked_sub(first)
                    .and_then(|offset| self.symbols.get(index + offset));
                return symbol.map(|&symbol| symbol.into()).ok_or(Failure::Damaged);
            }
            index += count;
            first = (first + count) << 1;
            code <<= 1;
        }
        Err(Failure::Damaged)
    }
}

/// Unpacks a zlib stream of at most `limit` bytes.
pub fn zlib(data: &[u8], limit: usize) -> Decoded<Vec<u8>> {
    let data = match data {
        [method, flags, rest @ ..] if method & 15 == 8 && flags & 32 == 0 => rest,
        _ => return Err(Failure::Damaged),
    };
    let mut bits = Bits {
        data,
        at: 0,
        held: 0,
        count: 0,
    };
    let mut out = Vec::new();
    loop {
        let last = bits.take(1)? == 1;
        match bits.take(2)? {
            0 => {
                (bits.held, bits.count) = (0, 0);
                let length = bits.take(16)?;
                bits.take(16)?;
                let end = bits.at + length;
                let stored = data.get(bits.at..end).ok_or(Failure::Damaged)?;
                if length > limit - out.len() {
                    return Err(Failure::Damaged);
                }
                out.extend_from_slice(stored);
                bits.at = end;
            }
            1 => {
                let lengths: Vec<u8> = (0..288)
                    .map(|symbol| match symbol {
                        0..144 => 8,
                        144..256 => 9,
                        256..280 => 7,
                        _ => 8,
                    })
                    .collect();
                block(&mut bits, &Code::new(&lengths), &Code::new(&[5; 30]), &mut out, limit)?;
            }
            2 => {
                let (literals, distances) = codes(&mut bits)?;
                block(&mut bits, &literals, &distances, &mut out, limit)?;
            }
            _ => return Err(Failure::Damaged),
        }
        if last {
            return Ok(out);
        }
    }
}

/// The codes at the head of a block that brings its own.
fn codes(bits: &mut Bits<'_>) -> Decoded<(Code, Code)> {
    let (literals, distances, count) = (bits.take(5)? + 257, bits.take(5)? + 1, bits.take(4)? + 4);
    let mut lengths = [0; 19];
    for &place in &ORDER[..count] {
        lengths[place] = bits.take(3)? as u8;
    }
    let code = Code::new(&lengths);
    let mut lengths: Vec<u8> = Vec::with_capacity(literals + distances);
    while lengths.len() < literals + distances {
        let (length, times) = match code.symbol(bits)? {
            16 => (*lengths.last().ok_or(Failure::Damaged)?, bits.take(2)? + 3),
            17 => (0, bits.take(3)? + 3),
            18 => (0, bits.take(7)? + 11),
            length => (length as u8, 1),
        };
        lengths.resize(lengths.len() + times, length);
    }
    if lengths.len() > literals + distances {
        return Err(Failure::Damaged);
    }
    Ok((Code::new(&lengths[..literals]), Code::new(&lengths[literals..])))
}

fn block(bits: &mut Bits<'_>, literals: &Code, distances: &Code, out: &mut Vec<u8>, limit: usize) -> Decoded<()> {
    loop {
        let symbol = literals.symbol(bits)?;
        if symbol == 256 {
            return Ok(());
        }
        let length = match symbol {
            0..256 => 1,
            _ => {
                let &(length, more) = LENGTHS.get(symbol - 257).ok_or(Failure::Damaged)?;
                usize::from(length) + bits.take(more.into())?
            }
        };
        if length > limit - out.len() {
            return Err(Failure::Damaged);
        }
        if symbol < 256 {
            out.push(symbol as u8);
            continue;
        }
        let &(distance, more) = DISTANCES.get(distances.symbol(bits)?).ok_or(Failure::Damaged)?;
        let distance = usize::from(distance) + bits.take(more.into())?;
        let start = out.len().checked_sub(distance).ok_or(Failure::Damaged)?;
        (start..start + length).for_each(|at| out.push(out[at]));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_of_every_kind_unpack() {
        // What Python's zlib makes of "hello hello hello", with the fixed code and stored.
        let fixed = [
            0x78, 0xda, 0xcb, 0x48, 0xcd, 0xc9, 0xc9, 0x57, 0xc8, 0x40, 0x90, 0x00, 0x3a, 0x2e, 0x06, 0x7d,
        ];
        assert_eq!(zlib(&fixed, 17).unwrap(), b"hello hello hello");
        assert_eq!(zlib(&fixed, 16), Err(Failure::Damaged));
        assert_eq!(zlib(&fixed[..8], 17), Err(Failure::Damaged));
        let stored = [0x78, 0x01, 0x01, 0x02, 0x00, 0xfd, 0xff, b'h', b'i', 0, 0, 0, 0];
        assert_eq!(zlib(&stored, 100).unwrap(), b"hi");
        assert_eq!(LENGTHS[27], (227, 5));
        assert_eq!((DISTANCES[0], DISTANCES[29]), ((1, 0), (24577, 13)));
    }
}
