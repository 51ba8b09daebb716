//! Formats whose pixels stand as they are: BMP, and the portable formats PBM, PGM and PPM.

use super::{Bytes, Decoded, Failure, Image};

/// Decodes a Windows bitmap: 1, 4, 8, 16, 24 or 32 bits to a pixel, without run lengths.
pub fn bmp(data: &[u8]) -> Decoded<Image> {
    let bytes = Bytes {
        data,
        big_endian: false,
    };
    let (pixels, header) = (bytes.u32(10)?, bytes.u32(14)?);
    if header < 40 {
        return Err(Failure::Unsupported("BMP of OS/2"));
    }
    let (width, signed_height) = (bytes.u32(18)?, bytes.u32(22)? as u32 as i32);
    let (bits, compression, colors) = (bytes.u16(28)?, bytes.u32(30)?, bytes.u32(46)?);
    let height = signed_height.unsigned_abs() as usize;
    // Which bits of a pixel are each color's, where a pixel holds colors.
    let masks = match (bits, compression) {
        (1 | 4 | 8 | 24, 0) => [0; 3],
        (16, 0) => [0x7c00, 0x03e0, 0x001f],
        (32, 0) => [0xff_0000, 0xff00, 0xff],
        (16 | 32, 3 | 6) => [bytes.u32(54)?, bytes.u32(58)?, bytes.u32(62)?],
        _ => return Err(Failure::Unsupported("BMP with run lengths or of an unknown kind")),
    };
    let row = width
        .checked_mul(bits)
        .ok_or(Failure::TooLarge)?
        .div_ceil(32)
        .saturating_mul(4);
    let palette = 14usize.saturating_add(header);
    let colors = if colors == 0 {
        1usize.checked_shl(bits as u32).unwrap_or(0)
    } else {
        colors
    };
    if data.len() < pixels.saturating_add(row.saturating_mul(height)) {
        let enough = width.saturating_mul(height) <= super::MAX_PIXELS;
        return Err(if enough { Failure::Damaged } else { Failure::TooLarge });
    }
    Image::of(width, height, |index| {
        let (x, y) = (index % width, index / width);
        let y = if signed_height > 0 { height - 1 - y } else { y };
        let start = pixels + y * row;
        match bits {
            1 | 4 | 8 => {
                let shift = 8 - bits - x * bits % 8;
                let color = (usize::from(bytes.byte(start + x * bits / 8)?) >> shift) & ((1 << bits) - 1);
                if color >= colors {
                    return Err(Failure::Damaged);
                }
                let at = palette.saturating_add(color * 4);
                Ok([bytes.byte(at + 2)?, bytes.byte(at + 1)?, bytes.byte(at)?])
            }
            24 => {
                let at = start + x * 3;
                Ok([bytes.byte(at + 2)?, bytes.byte(at + 1)?, bytes.byte(at)?])
            }
            _ => {
                let pixel = bytes.number(start + x * bits / 8, bits / 8)?;
                Ok(masks.map(|mask| {
                    let (value, most) = ((pixel & mask) as u64, mask as u64);
                    (value * 255).checked_div(most).unwrap_or(0) as u8
                }))
            }
        }
    })
}

/// Decodes a portable bitmap, graymap or pixmap, as text or as bytes.
pub fn pnm(data: &[u8]) -> Decoded<Image> {
    let kind = data[1] - b'0';
    let mut at = 2;
    let (width, height) = (number(data, &mut at)?, number(data, &mut at)?);
    let is_bitmap = kind == 1 || kind == 4;
    let most = if is_bitmap { 1 } else { number(data, &mut at)? };
    if !(1..65536).contains(&most) {
        return Err(Failure::Damaged);
    }
    let channels = if kind == 3 || kind == 6 { 3 } else { 1 };
    let scale = |value: usize| (value.min(most) * 255 / most) as u8;
    // One space stands before bytes.
    let start = at + 1;
    Image::of(width, height, |index| {
        let mut pixel = [0; 3];
        for (channel, part) in pixel[..channels].iter_mut().enumerate() {
            let sample = index * channels + channel;
            *part = match kind {
                1 => {
                    let is_digit = |byte: &u8| byte.is_ascii_digit();
                    let skipped = data[at..].iter().position(is_digit).ok_or(Failure::Damaged)?;
                    at += skipped + 1;
                    scale(usize::from(data[at - 1] == b'0'))
                }
                2 | 3 => scale(number(data, &mut at)?),
                4 => {
                    let (x, y) = (index % width, index / width);
                    let byte = data
                        .get(start + y * width.div_ceil(8) + x / 8)
                        .ok_or(Failure::Damaged)?;
                    scale(usize::from(byte >> (7 - x % 8) & 1 == 0))
                }
                _ if most < 256 => scale((*data.get(start + sample).ok_or(Failure::Damaged)?).into()),
                _ => {
                    let bytes = data
                        .get(start + sample * 2..start + sample * 2 + 2)
                        .ok_or(Failure::Damaged)?;
                    scale(usize::from(bytes[0]) << 8 | usize::from(bytes[1]))
                }
            };
        }
        if channels == 1 {
            pixel = [pixel[0]; 3];
        }
        Ok(pixel)
    })
}

/// The next decimal number, behind space and comments.
fn number(data: &[u8], at: &mut usize) -> Decoded<usize> {
    loop {
        match data.get(*at).ok_or(Failure::Damaged)? {
            b'#' => {
                let line = data[*at..]
                    .iter()
                    .position(|&byte| byte == b'\n')
                    .ok_or(Failure::Damaged)?;
                *at += line;
            }
            byte if byte.is_ascii_whitespace() => *at += 1,
            byte if byte.is_ascii_digit() => break,
            _ => return Err(Failure::Damaged),
        }
    }
    let mut value = 0usize;
    while let Some(digit) = data.get(*at).filter(|byte| byte.is_ascii_digit()) {
        value = value
            .checked_mul(10)
            .and_then(|value| value.checked_add(usize::from(digit - b'0')))
            .ok_or(Failure::Damaged)?;
        *at += 1;
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn portable_formats_are_text_or_bytes() {
        let gray = |data: &[u8]| pnm(data).map(|image| image.rgb.chunks(3).map(|pixel| pixel[0]).collect::<Vec<_>>());
        assert_eq!(gray(b"P1 # comment\n3 1\n1 01"), Ok(vec![0, 255, 0]));
        assert_eq!(gray(b"P2\n2 1\n3\n1 3\n"), Ok(vec![85, 255]));
        assert_eq!(
            gray(b"P4\n9 1\n\x80\x80"),
            Ok(vec![0, 255, 255, 255, 255, 255, 255, 255, 0])
        );
        assert_eq!(gray(b"P5 1 2 65535\n\xff\xff\x80\x00"), Ok(vec![255, 127]));
        assert_eq!(pnm(b"P3 1 1 255 1 2 3").unwrap().rgb, [1, 2, 3]);
        assert_eq!(pnm(b"P3 1 1 255 1 2"), Err(Failure::Damaged));
        assert_eq!(pnm(b"P5 1 1 0 1"), Err(Failure::Damaged));
    }

    fn header(width: i32, height: i32, bits: u16, colors: u32) -> Vec<u8> {
        let mut file = b"BM\0\0\0\0\0\0\0\0".to_vec();
        file.extend((54 + colors * 4).to_le_bytes());
        file.extend(40u32.to_le_bytes());
        file.extend(width.to_le_bytes());
        file.extend(height.to_le_bytes());
        file.extend(1u16.to_le_bytes());
        file.extend(bits.to_le_bytes());
        file.extend([0; 16]);
        file.extend(colors.to_le_bytes());
        file.extend([0; 4]);
        file
    }

    #[test]
    fn bitmaps_of_several_depths_are_decoded() {
        let mut file = header(1, 2, 24, 0);
        file.extend([1, 2, 3, 0, 4, 5, 6, 0]);
        assert_eq!(bmp(&file).unwrap().rgb, [6, 5, 4, 3, 2, 1]);
        assert_eq!(bmp(&file[..60]), Err(Failure::Damaged));
        let mut file = header(3, -1, 4, 2);
        file.extend([1, 2, 3, 0, 4, 5, 6, 0, 0x01, 0x00, 0, 0]);
        assert_eq!(bmp(&file).unwrap().rgb, [3, 2, 1, 6, 5, 4, 3, 2, 1]);
        let mut file = header(1, 1, 16, 0);
        file.extend([0x1f, 0x7c, 0, 0]);
        assert_eq!(bmp(&file).unwrap().rgb, [255, 0, 255]);
        assert_eq!(bmp(&header(i32::MAX, i32::MAX, 24, 0)), Err(Failure::TooLarge));
    }
}
