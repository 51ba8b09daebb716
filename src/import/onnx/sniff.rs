//! Says what a file that is not an ONNX model looks like, so that the error helps someone who fetched the wrong thing.

/// A short description of a well-known kind of file that is not a protobuf message.
pub fn looks_like(bytes: &[u8]) -> Option<&'static str> {
    const SIGNATURES: &[(&[u8], &str)] = &[
        (b"\x89PNG\r\n\x1a\n", "a PNG image"),
        (b"\xff\xd8\xff", "a JPEG image"),
        (b"GIF8", "a GIF image"),
        (b"PK\x03\x04", "a zip archive (a .npz, .pt, .keras or .zip file)"),
        (b"\x1f\x8b", "a gzip archive"),
        (b"BZh", "a bzip2 archive"),
        (b"\xfd7zXZ\x00", "an xz archive"),
        (b"\x28\xb5\x2f\xfd", "a zstd archive"),
        (b"\x89HDF\r\n\x1a\n", "an HDF5 file (a Keras .h5 model)"),
        (b"%PDF", "a PDF document"),
        (b"GGUF", "a GGUF model"),
        (b"\x93NUMPY", "a NumPy .npy array"),
        (b"\x80\x02", "a Python pickle"),
        (b"\x80\x03", "a Python pickle"),
        (b"\x80\x04", "a Python pickle"),
        (b"\x80\x05", "a Python pickle"),
        (
            b"version https://git-lfs",
            "a Git LFS pointer, not the file it points to",
        ),
        (b"\x00asm", "a WebAssembly module"),
        (b"\x7fELF", "a program (ELF)"),
    ];
    if let Some((_, name)) = SIGNATURES.iter().find(|(signature, _)| bytes.starts_with(signature)) {
        return Some(name);
    }
    if bytes.get(4..8) == Some(b"TFL3") {
        return Some("a TensorFlow Lite model");
    }
    // A safetensors file is a 64-bit length and then JSON.
    if bytes.get(8..10) == Some(b"{\"") {
        return Some("a safetensors file");
    }
    text_kind(bytes)
}

/// Texts have no signature; the first words tell.
fn text_kind(bytes: &[u8]) -> Option<&'static str> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let start = &bytes[..bytes.len().min(512)];
    let trimmed = start.trim_ascii_start();
    let begins = |word: &str| {
        trimmed
            .get(..word.len())
            .is_some_and(|head| head.eq_ignore_ascii_case(word.as_bytes()))
    };
    if begins("<!doctype html") || begins("<html") || begins("<head") || begins("<body") {
        return Some("an HTML page (perhaps an error page or a login page)");
    }
    if begins("<?xml") || begins("<svg") {
        return Some("an XML document");
    }
    let printable = |&byte: &u8| byte >= 0x20 && byte != 0x7f || matches!(byte, b'\n' | b'\r' | b'\t');
    // The last character may have been cut in half.
    let utf8 = std::str::from_utf8(start).map_or_else(|error| error.error_len().is_none(), |_| true);
    if start.is_empty() || !utf8 || !start.iter().all(printable) {
        return None;
    }
    Some(if matches!(trimmed.first(), Some(b'{' | b'[')) {
        "a JSON text"
    } else {
        "a text file"
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn common_mistakes_are_recognised() {
        let cases: [(&[u8], &str); 9] = [
            (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "PNG"),
            (b"PK\x03\x04\x14\0", "zip"),
            (b"\n  <!DOCTYPE html><html></html>", "HTML"),
            (b"<HTML><body>404 Not Found</body>", "HTML"),
            (b"{\"error\": \"not found\"}", "JSON"),
            (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
            (b"\x1c\0\0\0TFL3\x14\0", "TensorFlow Lite"),
            (b"\x40\0\0\0\0\0\0\0{\"__metadata__\":", "safetensors"),
            (b"Not found", "text"),
        ];
        for (bytes, expected) in cases {
            let found = looks_like(bytes).unwrap_or("nothing known");
            assert!(found.contains(expected), "{found} should mention {expected}");
        }
    }

    #[test]
    fn a_model_is_none_of_them() {
        assert_eq!(
            looks_like(&[0x08, 0x08, 0x12, 0x07, b'p', b'y', b't', b'o', b'r', b'c', b'h']),
            None
        );
        assert_eq!(looks_like(&[]), None);
        assert_eq!(looks_like(&[0xff; 64]), None);
    }
}
