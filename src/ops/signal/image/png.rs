//! Portable network graphics (RFC 2083): every color type and depth, interlaced or not. Transparency is left out, samples of 16
//! bits are cut to their upper 8.

use super::{Bytes, Decoded, Failure, Image, MAX_PIXELS, inflate};

struct Header {
    width: usize,
    height: usize,
    depth: usize,
    color: u8,
}

impl Header {
    /// Samples to a pixel.
    fn channels(&self) -> usize {
        match self.color {
            2 => 3,
            4 => 2,
            6 => 4,
            _ => 1,
        }
    }

    fn row_bytes(&self, width: usize) -> usize {
        (width * self.channels() * self.depth).div_ceil(8)
    }
}

/// Decodes a file.
pub fn decode(data: &[u8]) -> Decoded<Image> {
    let bytes = Bytes { data, big_endian: true };
    let header = Header {
        width: bytes.u32(16)?,
        height: bytes.u32(20)?,
        depth: bytes.byte(24)?.into(),
        color: bytes.byte(25)?,
    };
    let fits = match header.color {
        0 => matches!(header.depth, 1 | 2 | 4 | 8 | 16),
        3 => matches!(header.depth, 1 | 2 | 4 | 8),
        2 | 4 | 6 => matches!(header.depth, 8 | 16),
        _ => false,
    };
    let interlaced = bytes.byte(28)?;
    if !fits || interlaced > 1 || header.width == 0 || header.height == 0 {
        return Err(Failure::Damaged);
    }
    if header
        .width
        .checked_mul(header.height)
        .is_none_or(|pixels| pixels > MAX_PIXELS)
    {
        return Err(Failure::TooLarge);
    }
    let (mut packed, mut palette, mut at) = (Vec::new(), &[][..], 8usize);
    loop {
        let (length, kind) = (bytes.u32(at)?, data.get(at + 4..at + 8).ok_or(Failure::Damaged)?);
        let end = (at + 8).checked_add(length).ok_or(Failure::Damaged)?;
        let content = data.get(at + 8..end).ok_or(Failure::Damaged)?;
        match kind {
            b"PLTE" => palette = content,
            b"IDAT" => packed.extend_from_slice(content),
            b"IEND" => break,
            _ => {}
        }
        at = end.checked_add(4).ok_or(Failure::Damaged)?;
    }
    // Passes: where their pixels begin and how far they stand apart, across and down.
    let passes: &[[usize; 4]] = match interlaced {
        0 => &[[0, 0, 1, 1]],
        _ => &[
            [0, 0, 8, 8],
            [4, 0, 8, 8],
            [0, 4, 4, 8],
            [2, 0, 4, 4],
            [0, 2, 2, 4],
            [1, 0, 2, 2],
            [0, 1, 1, 2],
        ],
    };
    let size = |pass: &[usize; 4]| {
        let count = |size: usize, start: usize, step: usize| size.saturating_sub(start).div_ceil(step);
        (
            count(header.width, pass[0], pass[2]),
            count(header.height, pass[1], pass[3]),
        )
    };
    let pass_bytes = |pass: &[usize; 4]| match size(pass) {
        (0, _) => 0,
        (width, height) => (header.row_bytes(width) + 1) * height,
    };
    let mut rows = inflate::zlib(&packed, passes.iter().map(pass_bytes).sum())?;
    let mut image = Image::new(header.width, header.height)?;
    let mut rest = &mut rows[..];
    for pass in passes {
        let (part, behind) = rest.split_at_mut_checked(pass_bytes(pass)).ok_or(Failure::Damaged)?;
        rest = behind;
        let (width, _) = size(pass);
        if width == 0 {
            continue;
        }
        let row_bytes = header.row_bytes(width);
        unfilter(part, row_bytes, (header.channels() * header.depth).div_ceil(8))?;
        for (row, line) in part.chunks_exact(row_bytes + 1).enumerate() {
            for column in 0..width {
                let (x, y) = (pass[0] + column * pass[2], pass[1] + row * pass[3]);
                let target = (y * header.width + x) * 3;
                image.rgb[target..target + 3].copy_from_slice(&pixel(&header, &line[1..], column, palette)?);
            }
        }
    }
    Ok(image)
}

/// Takes back the filters of rows that each begin with their filter's number. `pixel` is how many bytes the pixel to the left is
/// away.
fn unfilter(rows: &mut [u8], row_bytes: usize, pixel: usize) -> Decoded<()> {
    let mut above = vec![0u8; row_bytes];
    for row in rows.chunks_exact_mut(row_bytes + 1) {
        let (filter, row) = (row[0], &mut row[1..]);
        for index in 0..row_bytes {
            let left = if index >= pixel { row[index - pixel] } else { 0 };
            let up = above[index];
            let corner = if index >= pixel { above[index - pixel] } else { 0 };
            let predicted = match filter {
                0 => 0,
                1 => left,
                2 => up,
                3 => ((u16::from(left) + u16::from(up)) / 2) as u8,
                4 => {
                    let [a, b, c] = [left, up, corner].map(i16::from);
                    let distance = |value: i16| (a + b - c - value).abs();
                    if distance(a) <= distance(b) && distance(a) <= distance(c) {
                        left
                    } else if distance(b) <= distance(c) {
                        up
                    } else {
                        corner
                    }
                }
                _ => return Err(Failure::Damaged),
            };
            row[index] = row[index].wrapping_add(predicted);
        }
        above.copy_from_slice(row);
    }
    Ok(())
}

fn pixel(header: &Header, line: &[u8], column: usize, palette: &[u8]) -> Decoded<[u8; 3]> {
    let sample = |channel: usize| {
        let index = column * header.channels() + channel;
        match header.depth {
            8 => line[index],
            16 => line[index * 2],
            depth => line[index * depth / 8] >> (8 - depth - index * depth % 8) & ((1 << depth) - 1),
        }
    };
    Ok(match header.color {
        2 | 6 => [sample(0), sample(1), sample(2)],
        3 => {
            let start = usize::from(sample(0)) * 3;
            let color = palette.get(start..start + 3).ok_or(Failure::Damaged)?;
            [color[0], color[1], color[2]]
        }
        _ if header.depth < 8 => [(u16::from(sample(0)) * 255 / ((1 << header.depth) - 1)) as u8; 3],
        _ => [sample(0); 3],
    })
}
