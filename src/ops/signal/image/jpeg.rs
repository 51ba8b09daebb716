//! JPEG (ITU-T T.81): sequential and progressive images of 8 bits with Huffman codes; gray, YCbCr, RGB, CMYK and YCCK. The
//! inverse transform is that of Loeffler, Ligtenberg and Moschytz ("Practical fast 1-D DCT algorithms with 11
//! multiplications", ICASSP 1989) in integers, and chroma is interpolated as ONNX prescribes.

use super::{Bytes, Decoded, Failure, Image, MAX_PIXELS};

/// Scans that a file has at most.
const MAX_SCANS: usize = 500;

/// Where the coefficients of a block stand in the order in which they are coded.
const ZIGZAG: [u8; 64] = [
    0, 1, 8, 16, 9, 2, 3, 10, 17, 24, 32, 25, 18, 11, 4, 5, 12, 19, 26, 33, 40, 48, 41, 34, 27, 20, 13, 6, 7, 14, 21,
    28, 35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51, 58, 59, 52, 45, 38, 31, 39, 46, 53, 60, 61, 54,
    47, 55, 62, 63,
];

/// A Huffman code: how many codes have each length, and the symbols in the order of their codes.
#[derive(Clone, Default)]
struct Code {
    counts: [u8; 16],
    symbols: Vec<u8>,
}

/// One color of the image.
struct Component {
    id: u8,
    across: usize,
    down: usize,
    quantization: usize,
    /// Blocks in a row and in a column, whole units counted.
    blocks: (usize, usize),
    /// Samples in a row and in a column that belong to the image.
    size: (usize, usize),
    coefficients: Vec<i16>,
    /// The last coefficient of frequency 0.
    predicted: i32,
    codes: (usize, usize),
}

#[derive(Default)]
struct Decoder {
    width: usize,
    height: usize,
    progressive: bool,
    /// The largest sampling factors.
    most: (usize, usize),
    components: Vec<Component>,
    /// Tables of 64 steps, where they are given.
    quantization: [Vec<u16>; 4],
    /// Codes of coefficients of frequency 0, and of the others.
    codes: [[Code; 4]; 2],
    restart: usize,
    adobe: Option<u8>,
}

/// The coefficients that a scan holds, and how exactly.
struct Scan {
    first: usize,
    last: usize,
    refines: bool,
    shift: u32,
}

struct Bits<'a> {
    data: &'a [u8],
    at: usize,
    held: u32,
    count: u32,
}

impl Bits<'_> {
    fn bit(&mut self) -> Decoded<i32> {
        if self.count == 0 {
            let byte = *self.data.get(self.at).ok_or(Failure::Damaged)?;
            self.at += 1;
            if byte == 0xff {
                // A marker ends the data; a zero says that there is none.
                if self.data.get(self.at) != Some(&0) {
                    return Err(Failure::Damaged);
                }
                self.at += 1;
            }
            (self.held, self.count) = (byte.into(), 8);
        }
        self.count -= 1;
        Ok((self.held >> self.count & 1) as i32)
    }

    fn take(&mut self, count: u32) -> Decoded<i32> {
        let mut value = 0;
        for _ in 0..count {
            value = value << 1 | self.bit()?;
        }
        Ok(value)
    }

    /// A number of `count` bits, whose first says its sign.
    fn signed(&mut self, count: u32) -> Decoded<i32> {
        if count == 0 {
            return Ok(0);
        }
        let value = self.take(count)?;
        Ok(if value < 1 << (count - 1) {
            value - (1 << count) + 1
        } else {
            value
        })
    }

    fn symbol(&mut self, code: &Code) -> Decoded<u8> {
        let (mut value, mut first, mut index) = (0i32, 0i32, 0usize);
        for &count in &code.counts {
            let count = i32::from(count);
            value |= self.bit()?;
            if value < first + count {
                let offset = usize::try_from(value - first).map_err(|_| Failure::Damaged)?;
                return code.symbols.get(index + offset).copied().ok_or(Failure::Damaged);
            }
            index += count as usize;
            first = (first + count) << 1;
            value <<= 1;
        }
        Err(Failure::Damaged)
    }

    /// Goes behind the next restart marker.
    fn restart(&mut self) -> Decoded<()> {
        self.count = 0;
        match self.data.get(self.at..self.at + 2) {
            Some([0xff, 0xd0..=0xd7]) => self.at += 2,
            _ => return Err(Failure::Damaged),
        }
        Ok(())
    }
}

/// Decodes a file.
pub fn decode(data: &[u8]) -> Decoded<Image> {
    let bytes = Bytes { data, big_endian: true };
    let mut decoder = Decoder::default();
    let (mut at, mut scans) = (2, 0);
    loop {
        // Bytes between segments, and fill bytes before a marker, are read over.
        let skipped = data
            .get(at..)
            .ok_or(Failure::Damaged)?
            .windows(2)
            .position(|pair| pair[0] == 0xff && !matches!(pair[1], 0 | 0xff));
        at += skipped.ok_or(Failure::Damaged)?;
        let marker = bytes.byte(at + 1)?;
        at += 2;
        match marker {
            0xd9 => break,
            0x01 | 0xd0..=0xd8 => continue,
            _ => {}
        }
        let length = bytes.u16(at)?;
        let segment = at
            .checked_add(length)
            .and_then(|end| data.get(at + 2..end))
            .ok_or(Failure::Damaged)?;
        at += length;
        match marker {
            0xc0..=0xc2 => decoder.frame(segment, marker == 0xc2)?,
            0xc4 => decoder.code_tables(segment)?,
            0xc3 | 0xc5..=0xcf => {
                return Err(Failure::Unsupported(
                    "JPEG with arithmetic coding, lossless or hierarchical",
                ));
            }
            0xdb => decoder.quantization_tables(segment)?,
            0xdd => decoder.restart = bytes.u16(at - length + 2)?,
            0xee if segment.starts_with(b"Adobe") => decoder.adobe = segment.get(11).copied(),
            0xda => {
                scans += 1;
                if scans > MAX_SCANS {
                    return Err(Failure::Damaged);
                }
                at = decoder.scan(segment, data, at)?;
            }
            _ => {}
        }
    }
    if scans == 0 {
        return Err(Failure::Damaged);
    }
    decoder.image()
}

impl Decoder {
    fn quantization_tables(&mut self, mut segment: &[u8]) -> Decoded<()> {
        while let Some((&head, rest)) = segment.split_first() {
            let wide = usize::from(head >> 4 & 1);
            let (values, behind) = rest.split_at_checked(64 << wide).ok_or(Failure::Damaged)?;
            let table = self
                .quantization
                .get_mut(usize::from(head & 15))
                .ok_or(Failure::Damaged)?;
            table.resize(64, 0);
            for (index, &place) in ZIGZAG.iter().enumerate() {
                table[usize::from(place)] = match wide {
                    0 => values[index].into(),
                    _ => u16::from_be_bytes([values[index * 2], values[index * 2 + 1]]),
                };
            }
            segment = behind;
        }
        Ok(())
    }

    fn code_tables(&mut self, mut segment: &[u8]) -> Decoded<()> {
        while let Some((&head, rest)) = segment.split_first() {
            let (counts, rest) = rest.split_first_chunk::<16>().ok_or(Failure::Damaged)?;
            let total = counts.iter().map(|&count| usize::from(count)).sum();
            let (symbols, behind) = rest.split_at_checked(total).ok_or(Failure::Damaged)?;
            let table = self
                .codes
                .get_mut(usize::from(head >> 4))
                .and_then(|codes| codes.get_mut(usize::from(head & 15)));
            *table.ok_or(Failure::Damaged)? = Code {
                counts: *counts,
                symbols: symbols.to_vec(),
            };
            segment = behind;
        }
        Ok(())
    }

    fn frame(&mut self, segment: &[u8], progressive: bool) -> Decoded<()> {
        let bytes = Bytes {
            data: segment,
            big_endian: true,
        };
        if !self.components.is_empty() {
            return Err(Failure::Damaged);
        }
        if bytes.byte(0)? != 8 {
            return Err(Failure::Unsupported("JPEG of other than 8 bits"));
        }
        (self.height, self.width, self.progressive) = (bytes.u16(1)?, bytes.u16(3)?, progressive);
        let count = usize::from(bytes.byte(5)?);
        if !matches!(count, 1 | 3 | 4) {
            return Err(Failure::Unsupported("JPEG of other than 1, 3 or 4 components"));
        }
        if self.width == 0 || self.height == 0 {
            return Err(Failure::Damaged);
        }
        if self.width * self.height > MAX_PIXELS {
            return Err(Failure::TooLarge);
        }
        for index in 0..count {
            let factors = bytes.byte(7 + index * 3)?;
            let (across, down) = (usize::from(factors >> 4), usize::from(factors & 15));
            let quantization = usize::from(bytes.byte(8 + index * 3)?);
            if !(1..=4).contains(&across) || !(1..=4).contains(&down) || quantization > 3 {
                return Err(Failure::Damaged);
            }
            self.most = (self.most.0.max(across), self.most.1.max(down));
            self.components.push(Component {
                id: bytes.byte(6 + index * 3)?,
                across,
                down,
                quantization,
                blocks: (0, 0),
                size: (0, 0),
                coefficients: Vec::new(),
                predicted: 0,
                codes: (0, 0),
            });
        }
        let units = self.units();
        for component in &mut self.components {
            component.blocks = (units.0 * component.across, units.1 * component.down);
            component.size = (
                (self.width * component.across).div_ceil(self.most.0),
                (self.height * component.down).div_ceil(self.most.1),
            );
            component.coefficients = vec![0; component.blocks.0 * component.blocks.1 * 64];
        }
        Ok(())
    }

    /// Units of interleaved blocks in a row and in a column.
    fn units(&self) -> (usize, usize) {
        (
            self.width.div_ceil(8 * self.most.0),
            self.height.div_ceil(8 * self.most.1),
        )
    }

    /// Reads a scan whose data begins at `at`; gives where it ends.
    fn scan(&mut self, segment: &[u8], data: &[u8], at: usize) -> Decoded<usize> {
        let bytes = Bytes {
            data: segment,
            big_endian: true,
        };
        let count = usize::from(bytes.byte(0)?);
        let mut chosen = Vec::new();
        for index in 0..count {
            let (id, codes) = (bytes.byte(1 + index * 2)?, bytes.byte(2 + index * 2)?);
            let found = self.components.iter().position(|component| component.id == id);
            let found = found.filter(|found| !chosen.contains(found)).ok_or(Failure::Damaged)?;
            self.components[found].codes = (usize::from(codes >> 4 & 3), usize::from(codes & 3));
            chosen.push(found);
        }
        let exactness = bytes.byte(3 + count * 2)?;
        let scan = match self.progressive {
            true => Scan {
                first: bytes.byte(1 + count * 2)?.into(),
                last: bytes.byte(2 + count * 2)?.into(),
                refines: exactness >> 4 != 0,
                shift: (exactness & 15).into(),
            },
            false => Scan {
                first: 0,
                last: 63,
                refines: false,
                shift: 0,
            },
        };
        let mixed = self.progressive && scan.first == 0 && scan.last != 0;
        if chosen.is_empty() || scan.first > scan.last || scan.last > 63 || scan.shift > 13 || mixed {
            return Err(Failure::Damaged);
        }
        if self.progressive && scan.first > 0 && chosen.len() > 1 {
            return Err(Failure::Damaged);
        }
        let mut bits = Bits {
            data,
            at,
            held: 0,
            count: 0,
        };
        // A single component is not padded to whole units.
        let (across, down) = match chosen[..] {
            [only] => {
                let (width, height) = self.components[only].size;
                (width.div_ceil(8), height.div_ceil(8))
            }
            _ => self.units(),
        };
        let mut run = 0;
        self.components.iter_mut().for_each(|component| component.predicted = 0);
        for unit in 0..across * down {
            if self.restart > 0 && unit > 0 && unit % self.restart == 0 {
                bits.restart()?;
                run = 0;
                self.components.iter_mut().for_each(|component| component.predicted = 0);
            }
            let (x, y) = (unit % across, unit / across);
            for &index in &chosen {
                let component = &mut self.components[index];
                let (wide, high) = if chosen.len() == 1 {
                    (1, 1)
                } else {
                    (component.across, component.down)
                };
                for block in 0..wide * high {
                    let (column, row) = (x * wide + block % wide, y * high + block / wide);
                    let start = (row * component.blocks.0 + column) * 64;
                    let codes = (&self.codes[0][component.codes.0], &self.codes[1][component.codes.1]);
                    let block = &mut component.coefficients[start..start + 64];
                    read_block(
                        &mut bits,
                        &scan,
                        self.progressive,
                        codes,
                        &mut component.predicted,
                        &mut run,
                        block,
                    )?;
                }
            }
        }
        Ok(bits.at)
    }

    /// The image of all coefficients that were read.
    fn image(mut self) -> Decoded<Image> {
        let (width, height, most) = (self.width, self.height, self.most);
        let mut planes = Vec::new();
        for component in &mut self.components {
            let coefficients = std::mem::take(&mut component.coefficients);
            let samples = inverse(
                &coefficients,
                component.blocks,
                &self.quantization[component.quantization],
            );
            planes.push(upsample(&samples, component, most, width, height));
        }
        let ids: Vec<u8> = self.components.iter().map(|component| component.id).collect();
        let transformed = match self.adobe {
            Some(transform) => transform != 0,
            None => planes.len() == 3 && ids != *b"RGB",
        };
        let inverted = self.adobe.is_some();
        Image::of(width, height, |index| {
            if let [gray] = &planes[..] {
                return Ok([gray[index]; 3]);
            }
            let mut pixel = [planes[0][index], planes[1][index], planes[2][index]];
            if transformed {
                pixel = to_rgb(pixel);
            }
            if let Some(black) = planes.get(3) {
                let light = |value: u8| u32::from(if inverted { value } else { 255 - value });
                pixel = pixel.map(|part| (light(part) * light(black[index]) / 255) as u8);
            }
            Ok(pixel)
        })
    }
}

fn read_block(
    bits: &mut Bits<'_>,
    scan: &Scan,
    progressive: bool,
    (of_first, of_others): (&Code, &Code),
    predicted: &mut i32,
    run: &mut u32,
    block: &mut [i16],
) -> Decoded<()> {
    let mut at = scan.first;
    if at == 0 {
        if scan.refines {
            block[0] |= (bits.bit()? << scan.shift) as i16;
            return Ok(());
        }
        let length = bits.symbol(of_first)?;
        if length > 15 {
            return Err(Failure::Damaged);
        }
        *predicted = predicted.wrapping_add(bits.signed(length.into())?);
        block[0] = (*predicted << scan.shift) as i16;
        if progressive {
            return Ok(());
        }
        at = 1;
    }
    if scan.refines {
        return refine(bits, scan, of_others, run, block);
    }
    if *run > 0 {
        *run -= 1;
        return Ok(());
    }
    while at <= scan.last {
        let symbol = bits.symbol(of_others)?;
        let (zeros, length) = (usize::from(symbol >> 4), u32::from(symbol & 15));
        match (zeros, length) {
            (15, 0) => at += 16,
            (0, 0) if !progressive => break,
            (zeros, 0) if progressive => {
                *run = (1 << zeros) - 1 + bits.take(zeros as u32)? as u32;
                break;
            }
            (_, 0) => return Err(Failure::Damaged),
            _ => {
                at += zeros;
                let place = *ZIGZAG.get(at).ok_or(Failure::Damaged)?;
                block[usize::from(place)] = (bits.signed(length)? << scan.shift) as i16;
                at += 1;
            }
        }
    }
    Ok(())
}

/// Makes coefficients more exact by one bit, and adds some that were zero.
fn refine(bits: &mut Bits<'_>, scan: &Scan, code: &Code, run: &mut u32, block: &mut [i16]) -> Decoded<()> {
    let step = 1i16 << scan.shift;
    let correct = |bits: &mut Bits<'_>, value: &mut i16| -> Decoded<()> {
        if bits.bit()? == 1 && *value & step == 0 {
            *value = value.wrapping_add(if *value < 0 { -step } else { step });
        }
        Ok(())
    };
    let mut at = scan.first;
    while *run == 0 && at <= scan.last {
        let symbol = bits.symbol(code)?;
        let (mut zeros, mut new) = (symbol >> 4, 0);
        match symbol & 15 {
            0 if zeros < 15 => {
                *run = (1 << zeros) + bits.take(zeros.into())? as u32;
                break;
            }
            0 => {}
            1 => new = if bits.bit()? == 1 { step } else { -step },
            _ => return Err(Failure::Damaged),
        }
        while at <= scan.last {
            let value = &mut block[usize::from(ZIGZAG[at])];
            at += 1;
            if *value != 0 {
                correct(bits, value)?;
            } else if zeros == 0 {
                *value = new;
                break;
            } else {
                zeros -= 1;
            }
        }
    }
    if *run > 0 {
        for &place in &ZIGZAG[at.min(scan.last + 1)..=scan.last] {
            let value = &mut block[usize::from(place)];
            if *value != 0 {
                correct(bits, value)?;
            }
        }
        *run -= 1;
    }
    Ok(())
}

/// Multiplies with a constant in units of 2^-13.
const fn scaled(constant: f64) -> i64 {
    (constant * 8192.0 + 0.5) as i64
}

/// The inverse transform of eight numbers in one dimension, in units of 2^-13.
fn inverse_line(line: [i64; 8]) -> [i64; 8] {
    let [a, h, c, f, b, g, d, e] = [line[0], line[1], line[2], line[3], line[4], line[5], line[6], line[7]];
    let turned = (c + d) * scaled(0.541196100);
    let (low, high) = (turned - d * scaled(1.847759065), turned + c * scaled(0.765366865));
    let (sum, difference) = ((a + b) << 13, (a - b) << 13);
    let even = [sum + high, difference + low, difference - low, sum - high];
    let crossed = (e + f + g + h) * scaled(1.175875602);
    let (outer, inner) = (-(e + h) * scaled(0.899976223), -(g + f) * scaled(2.562915447));
    let (first, second) = (
        crossed - (e + f) * scaled(1.961570560),
        crossed - (g + h) * scaled(0.390180644),
    );
    let odd = [
        h * scaled(1.501321110) + outer + second,
        f * scaled(3.072711026) + inner + first,
        g * scaled(2.053119869) + inner + second,
        e * scaled(0.298631336) + outer + first,
    ];
    let mut result = [0; 8];
    for index in 0..4 {
        result[index] = even[index] + odd[index];
        result[7 - index] = even[index] - odd[index];
    }
    result
}

/// The samples of all blocks of a component.
fn inverse(coefficients: &[i16], blocks: (usize, usize), quantization: &[u16]) -> Vec<u8> {
    let stride = blocks.0 * 8;
    let mut samples = vec![0; stride * blocks.1 * 8];
    for (index, block) in coefficients.chunks_exact(64).enumerate() {
        let mut values = [0i64; 64];
        for (value, (&coefficient, &step)) in values.iter_mut().zip(block.iter().zip(quantization)) {
            *value = i64::from(coefficient) * i64::from(step);
        }
        let round = |value: i64, bits: u32| (value + (1 << (bits - 1))) >> bits;
        for column in 0..8 {
            let line = inverse_line(std::array::from_fn(|row| values[row * 8 + column]));
            // Two more bits than samples have are kept between the passes.
            (0..8).for_each(|row| values[row * 8 + column] = round(line[row], 11));
        }
        let start = index / blocks.0 * 8 * stride + index % blocks.0 * 8;
        for row in 0..8 {
            let line = inverse_line(std::array::from_fn(|column| values[row * 8 + column]));
            for (column, &value) in line.iter().enumerate() {
                samples[start + row * stride + column] = (round(value, 18) + 128).clamp(0, 255) as u8;
            }
        }
    }
    samples
}

/// A component's samples for every pixel of the image. Where a dimension has half as many, they are interpolated.
fn upsample(samples: &[u8], component: &Component, most: (usize, usize), width: usize, height: usize) -> Vec<u8> {
    let (stride, size) = (component.blocks.0 * 8, component.size);
    let row = |y: usize| &samples[y * stride..y * stride + size.0];
    let halves = |all: usize, own: usize| all == 2 * own;
    let wide = halves(most.0, component.across) && size.0 > 2;
    let high = halves(most.1, component.down) && (wide || most.0 == component.across);
    let smooth = high || (wide && most.1 == component.down);
    let mut pixels = Vec::with_capacity(width * height);
    for y in 0..height {
        if !smooth {
            let line = row(y * component.down / most.1);
            pixels.extend((0..width).map(|x| line[x * component.across / most.0]));
            continue;
        }
        // A line between two rows, times 4, or one row.
        let line: Vec<u32> = if high {
            let near = y / 2;
            let other = if y % 2 == 0 {
                near.saturating_sub(1)
            } else {
                (near + 1).min(size.1 - 1)
            };
            row(near)
                .iter()
                .zip(row(other))
                .map(|(&near, &other)| u32::from(near) * 3 + u32::from(other))
                .collect()
        } else {
            row(y).iter().map(|&value| value.into()).collect()
        };
        if !wide {
            let bias = 1 + y as u32 % 2;
            pixels.extend(line[..width].iter().map(|value| ((value + bias) >> 2) as u8));
            continue;
        }
        let (bits, left, right) = if high { (4, 8, 7) } else { (2, 1, 2) };
        for x in 0..width {
            let near = line[x / 2];
            let (other, bias) = match x % 2 {
                0 => (x / 2).checked_sub(1).map_or((near, left), |at| (line[at], left)),
                _ => (line.get(x / 2 + 1).copied().unwrap_or(near), right),
            };
            pixels.push(((near * 3 + other + bias) >> bits) as u8);
        }
    }
    pixels
}

/// From luma and the differences of blue and red from it, in units of 2^-16.
fn to_rgb([luma, blue, red]: [u8; 3]) -> [u8; 3] {
    let (y, cb, cr) = (i32::from(luma), i32::from(blue) - 128, i32::from(red) - 128);
    let half = 1 << 15;
    let r = y + ((91881 * cr + half) >> 16);
    let g = y + ((-22554 * cb - 46802 * cr + half) >> 16);
    let b = y + ((116130 * cb + half) >> 16);
    [r, g, b].map(|part| part.clamp(0, 255) as u8)
}
