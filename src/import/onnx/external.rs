//! Where the weights of a model come from that keeps them outside its file.

use crate::error::{Error, ErrorCode, Result};
use crate::tensor::Bytes;

/// Gives the bytes of a model's external data files.
pub trait ExternalData {
    /// The whole file at `location`, a relative path inside the model's folder with `/` or `\` between its parts.
    /// Each location is asked for once.
    fn load(&self, location: &str) -> Result<Bytes>;
}

impl<F: Fn(&str) -> Result<Bytes>> ExternalData for F {
    fn load(&self, location: &str) -> Result<Bytes> {
        self(location)
    }
}

/// For models that stand in one file: asking for another is an error.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoExternalData;

impl ExternalData for NoExternalData {
    fn load(&self, location: &str) -> Result<Bytes> {
        let message = format!("the model keeps weights in another file, {location}, which was not given");
        Err(Error::new(ErrorCode::ExternalData, message))
    }
}
