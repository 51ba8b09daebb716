//! TIFF 6.0: bilevel, gray, palette and RGB images of 1 or 8 bits to a sample in strips, uncompressed or packed by PackBits or
//! Deflate. The first image of a file counts; transparency is left out.

use super::{Bytes, Decoded, Failure, Image, MAX_PIXELS, inflate};

/// The entries of a directory.
struct Directory<'a> {
    bytes: Bytes<'a>,
    start: usize,
    count: usize,
}

impl Directory<'_> {
    /// The values of the entry with this tag.
    fn values(&self, tag: usize) -> Decoded<Option<Vec<usize>>> {
        for index in 0..self.count {
            let at = self.start + index * 12;
            if self.bytes.u16(at)? != tag {
                continue;
            }
            let width = match self.bytes.u16(at + 2)? {
                1 => 1,
                3 => 2,
                4 => 4,
                _ => return Err(Failure::Damaged),
            };
            let count = self.bytes.u32(at + 4)?;
            let length = count
                .checked_mul(width)
                .filter(|&length| length <= self.bytes.data.len());
            let length = length.ok_or(Failure::Damaged)?;
            let values = if length <= 4 { at + 8 } else { self.bytes.u32(at + 8)? };
            let value = |index: usize| {
                self.bytes
                    .number(values.checked_add(index * width).ok_or(Failure::Damaged)?, width)
            };
            return (0..count).map(value).collect::<Decoded<_>>().map(Some);
        }
        Ok(None)
    }

    fn one(&self, tag: usize, default: usize) -> Decoded<usize> {
        Ok(self
            .values(tag)?
            .and_then(|list| list.first().copied())
            .unwrap_or(default))
    }
}

/// Decodes a file.
pub fn decode(data: &[u8]) -> Decoded<Image> {
    let bytes = Bytes {
        data,
        big_endian: data[0] == b'M',
    };
    let start = bytes.u32(4)?;
    let directory = Directory {
        bytes,
        start: start.checked_add(2).ok_or(Failure::Damaged)?,
        count: bytes.u16(start)?,
    };
    let (width, height) = (directory.one(256, 0)?, directory.one(257, 0)?);
    let depths = directory.values(258)?.unwrap_or_else(|| vec![1]);
    let (compression, photometric) = (directory.one(259, 1)?, directory.one(262, 1)?);
    let (samples, predictor) = (directory.one(277, 1)?, directory.one(317, 1)?);
    let depth = depths.first().copied().unwrap_or(1);
    let channels = if photometric == 2 { 3 } else { 1 };
    let plain = directory.one(284, 1)? == 1 && directory.values(322)?.is_none() && photometric <= 3;
    let same_depth = depths.iter().all(|&other| other == depth);
    let fits = (depth == 8 && samples >= channels && samples <= 8) || (depth == 1 && samples == 1 && photometric < 2);
    if !plain || !same_depth || !fits || predictor > 2 || (predictor == 2 && depth != 8) {
        return Err(Failure::Unsupported(
            "TIFF in tiles, planes, or of other than 1 or 8 bits",
        ));
    }
    if width.checked_mul(height).is_none_or(|pixels| pixels > MAX_PIXELS) {
        return Err(Failure::TooLarge);
    }
    let row = (width * samples * depth).div_ceil(8);
    let strip_rows = directory.one(278, height)?.clamp(1, height.max(1));
    let (starts, lengths) = (directory.values(273)?, directory.values(279)?);
    let (starts, lengths) = (starts.ok_or(Failure::Damaged)?, lengths.ok_or(Failure::Damaged)?);
    let mut pixels: Vec<u8> = Vec::new();
    for (index, (&start, &length)) in starts.iter().zip(&lengths).enumerate() {
        let rows = height.saturating_sub(index * strip_rows).min(strip_rows);
        let end = start.checked_add(length).ok_or(Failure::Damaged)?;
        let packed = data.get(start..end).ok_or(Failure::Damaged)?;
        let wanted = rows * row;
        let strip = match compression {
            1 => packed.to_vec(),
            8 | 32946 => inflate::zlib(packed, wanted)?,
            32773 => unpack_bits(packed, wanted)?,
            _ => return Err(Failure::Unsupported("TIFF packed by other than PackBits or Deflate")),
        };
        pixels.extend_from_slice(strip.get(..wanted).ok_or(Failure::Damaged)?);
    }
    if pixels.len() != row * height {
        return Err(Failure::Damaged);
    }
    if predictor == 2 && row > 0 {
        for line in pixels.chunks_exact_mut(row) {
            (samples..row).for_each(|at| line[at] = line[at].wrapping_add(line[at - samples]));
        }
    }
    let palette = if photometric == 3 {
        directory.values(320)?.ok_or(Failure::Damaged)?
    } else {
        Vec::new()
    };
    Image::of(width, height, |index| {
        let (x, y) = (index % width, index / width);
        let gray = |value: u8| if photometric == 0 { [255 - value; 3] } else { [value; 3] };
        if depth == 1 {
            return Ok(gray((pixels[y * row + x / 8] >> (7 - x % 8) & 1) * 255));
        }
        let at = y * row + x * samples;
        Ok(match photometric {
            2 => [pixels[at], pixels[at + 1], pixels[at + 2]],
            3 => {
                // All reds come first, then all greens and blues, of 16 bits.
                let color = |part: usize| {
                    palette
                        .get(part * 256 + usize::from(pixels[at]))
                        .map(|value| (value >> 8) as u8)
                };
                let (Some(red), Some(green), Some(blue)) = (color(0), color(1), color(2)) else {
                    return Err(Failure::Damaged);
                };
                [red, green, blue]
            }
            _ => gray(pixels[at]),
        })
    })
}

/// Unpacks runs of bytes.
fn unpack_bits(packed: &[u8], limit: usize) -> Decoded<Vec<u8>> {
    let (mut out, mut rest) = (Vec::new(), packed);
    while let ([head, behind @ ..], true) = (rest, out.len() < limit) {
        rest = match *head as i8 {
            -128 => behind,
            count @ 0.. => {
                let (bytes, behind) = behind.split_at_checked(count as usize + 1).ok_or(Failure::Damaged)?;
                out.extend_from_slice(bytes);
                behind
            }
            count => {
                let (byte, behind) = behind.split_first().ok_or(Failure::Damaged)?;
                out.resize(out.len() + 1 + usize::from(count.unsigned_abs()), *byte);
                behind
            }
        };
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_unpacked() {
        assert_eq!(unpack_bits(&[0xfe, 7, 0x80, 1, 1, 2], 5).unwrap(), [7, 7, 7, 1, 2]);
        assert_eq!(unpack_bits(&[3, 1], 5), Err(Failure::Damaged));
    }
}
