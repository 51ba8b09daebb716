//! ImageDecoder: image files as pixels. One file for each family of formats; here are the operator and what the decoders
//! share.

mod inflate;
mod jpeg;
mod plain;
mod png;
mod tiff;

use super::super::{
    CpuLowering, InferContext, Operator,
    context::rank_error,
    lower::{invalid, unsupported},
};
use crate::{
    cpu::kernel::CpuKernel,
    error::{Error, ErrorCode, Result},
    graph::Node,
    tensor::{DType, Dim, Tensor},
};

/// Pixels that an image has at most.
const MAX_PIXELS: usize = 1 << 26;

/// Why a file is not decoded.
#[derive(Clone, Debug, PartialEq)]
enum Failure {
    /// It is damaged, or no image at all.
    Damaged,
    /// It is in a format, or a form of one, that is not supported.
    Unsupported(&'static str),
    /// It has too many pixels.
    TooLarge,
}

type Decoded<T> = std::result::Result<T, Failure>;

/// An image of three bytes to a pixel.
#[derive(Clone, Debug, PartialEq)]
struct Image {
    width: usize,
    height: usize,
    rgb: Vec<u8>,
}

impl Image {
    /// A black image.
    fn new(width: usize, height: usize) -> Decoded<Image> {
        let pixels = width.checked_mul(height).filter(|&pixels| pixels <= MAX_PIXELS);
        let pixels = pixels.ok_or(Failure::TooLarge)?;
        Ok(Image {
            width,
            height,
            rgb: vec![0; pixels * 3],
        })
    }

    /// An image whose pixels `pixel` makes of their numbers.
    fn of(width: usize, height: usize, mut pixel: impl FnMut(usize) -> Decoded<[u8; 3]>) -> Decoded<Image> {
        let mut image = Image::new(width, height)?;
        for (index, target) in image.rgb.chunks_exact_mut(3).enumerate() {
            target.copy_from_slice(&pixel(index)?);
        }
        Ok(image)
    }
}

/// Numbers in a file; reading behind its end fails.
#[derive(Clone, Copy)]
struct Bytes<'a> {
    data: &'a [u8],
    big_endian: bool,
}

impl Bytes<'_> {
    fn byte(&self, at: usize) -> Decoded<u8> {
        self.data.get(at).copied().ok_or(Failure::Damaged)
    }

    fn number(&self, at: usize, count: usize) -> Decoded<usize> {
        let end = at.checked_add(count).ok_or(Failure::Damaged)?;
        let bytes = self.data.get(at..end).ok_or(Failure::Damaged)?;
        let add = |number: u32, &byte: &u8| number << 8 | u32::from(byte);
        let number = match self.big_endian {
            true => bytes.iter().fold(0, add),
            false => bytes.iter().rev().fold(0, add),
        };
        Ok(number as usize)
    }

    fn u16(&self, at: usize) -> Decoded<usize> {
        self.number(at, 2)
    }

    fn u32(&self, at: usize) -> Decoded<usize> {
        self.number(at, 4)
    }
}

fn decode(data: &[u8]) -> Decoded<Image> {
    match data {
        [0xff, 0xd8, ..] => jpeg::decode(data),
        [0x89, b'P', b'N', b'G', ..] => png::decode(data),
        [b'B', b'M', ..] => plain::bmp(data),
        [b'P', b'1'..=b'6', ..] => plain::pnm(data),
        [b'I', b'I', 42, 0, ..] | [b'M', b'M', 0, 42, ..] => tiff::decode(data),
        [b'P', b'7', ..] => Err(Failure::Unsupported("PAM")),
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => Err(Failure::Unsupported("WebP")),
        [0, 0, 0, 12, b'j', b'P', ..] | [0xff, 0x4f, 0xff, 0x51, ..] => Err(Failure::Unsupported("JPEG 2000")),
        _ => Err(Failure::Damaged),
    }
}

/// ONNX `ImageDecoder` (opset 20): the bytes of an image file as u8 pixels `[height, width, channels]`: red, green and blue, the
/// other way about, or gray. Files that are damaged or no images give `[0, 0, channels]`.
///
/// Decodes JPEG (sequential and progressive, with the upsampling that ONNX prescribes), PNG, BMP, PBM, PGM, PPM and TIFF
/// (uncompressed, PackBits and Deflate); other formats are errors.
#[derive(Debug)]
struct ImageDecoder {
    format: Format,
}

#[derive(Clone, Copy, Debug)]
enum Format {
    Rgb,
    Bgr,
    Gray,
}

impl Format {
    fn channels(self) -> usize {
        if matches!(self, Format::Gray) { 1 } else { 3 }
    }

    fn convert(self, mut rgb: Vec<u8>) -> Vec<u8> {
        match self {
            Format::Rgb => rgb,
            Format::Bgr => {
                rgb.chunks_exact_mut(3).for_each(|pixel| pixel.swap(0, 2));
                rgb
            }
            Format::Gray => {
                // The luma of ITU-R BT.601 in units of 2^-16.
                let gray = |pixel: &[u8]| {
                    let parts = pixel.iter().zip([19595u32, 38470, 7471]);
                    let sum: u32 = parts.map(|(&part, weight)| u32::from(part) * weight).sum();
                    ((sum + 0x8000) >> 16) as u8
                };
                rgb.chunks_exact(3).map(gray).collect()
            }
        }
    }
}

/// Makes [`ImageDecoder`].
pub fn make(node: &Node) -> Result<Box<dyn Operator>> {
    let format = match node.attributes.string("pixel_format")?.unwrap_or("RGB") {
        "RGB" => Format::Rgb,
        "BGR" => Format::Bgr,
        "Grayscale" => Format::Gray,
        other => return Err(invalid("attribute pixel_format is not RGB, BGR or Grayscale").actual(other)),
    };
    Ok(Box::new(ImageDecoder { format }))
}

impl Operator for ImageDecoder {
    fn infer(&self, ctx: &mut InferContext<'_>) -> Result<()> {
        let dtype = ctx.dtype(0)?;
        if dtype != DType::U8 {
            return Err(Error::new(ErrorCode::WrongType, "an image file is not of bytes").actual(dtype.name()));
        }
        if let Some(rank) = ctx.rank(0).filter(|&rank| rank != 1) {
            return Err(rank_error(0, "1", rank));
        }
        let shape = vec![ctx.fresh_dim(), ctx.fresh_dim(), Dim::from(self.format.channels())];
        ctx.set_output(0, DType::U8, Some(shape));
        Ok(())
    }

    fn cpu(&self, _: &CpuLowering<'_>) -> Result<CpuKernel> {
        let format = self.format;
        Ok(CpuKernel::dynamic("image_decoder", move |inputs| {
            let file = inputs.first().and_then(Option::as_ref);
            let file = file.ok_or_else(|| invalid("required input 0 is missing"))?;
            let image = match decode(file.bytes()) {
                Ok(image) => image,
                Err(Failure::Damaged) => Image {
                    width: 0,
                    height: 0,
                    rgb: Vec::new(),
                },
                Err(Failure::Unsupported(what)) => {
                    return Err(unsupported("images of this format are not decoded")
                        .expected("JPEG, PNG, BMP, PBM, PGM, PPM or TIFF")
                        .actual(what));
                }
                Err(Failure::TooLarge) => {
                    return Err(Error::new(ErrorCode::LimitExceeded, "an image has too many pixels")
                        .expected(format!("at most {MAX_PIXELS}")));
                }
            };
            let shape = [image.height, image.width, format.channels()];
            Ok(vec![Tensor::new(&shape, format.convert(image.rgb))?])
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::super::testing::{TestNode, tensor},
        *,
    };

    fn run(bytes: &[u8], format: &str) -> Result<Tensor> {
        let node = TestNode::new("ImageDecoder", 20).attr("pixel_format", format);
        node.input(tensor(&[bytes.len()], bytes)).run1()
    }

    #[test]
    fn pixels_come_in_the_asked_order() {
        let file = b"P6 2 1 255\n\x01\x02\x03\xff\x00\x00";
        assert_eq!(run(file, "RGB").unwrap(), tensor(&[1, 2, 3], &[1u8, 2, 3, 255, 0, 0]));
        assert_eq!(run(file, "BGR").unwrap(), tensor(&[1, 2, 3], &[3u8, 2, 1, 0, 0, 255]));
        assert_eq!(run(file, "Grayscale").unwrap(), tensor(&[1, 2, 1], &[2u8, 76]));
        assert!(run(file, "RGBA").is_err());
    }

    #[test]
    fn what_is_no_image_is_empty_and_other_formats_are_errors() {
        for file in [
            &b""[..],
            b"text",
            b"P6 2 1 255\n\x01",
            b"BM",
            b"\x89PNG\r\n\x1a\n",
            b"\xff\xd8\xff\xd9",
            b"II\x2a\x00\xff\xff\xff\xff",
        ] {
            assert_eq!(run(file, "RGB").unwrap().shape(), [0, 0, 3], "{file:?}");
        }
        assert_eq!(
            run(b"RIFF\0\0\0\0WEBPVP8 ", "RGB").unwrap_err().code(),
            ErrorCode::UnsupportedOperator
        );
        assert_eq!(
            run(b"P6 99999 99999 255\n", "RGB").unwrap_err().code(),
            ErrorCode::LimitExceeded
        );
    }
}
