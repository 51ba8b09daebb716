//! The one error type of the crate. An [`Error`] has a stable code, a sentence that a person understands, and the place
//! in the model that it is about.

use std::fmt;

/// What kind of failure an [`Error`] is. The text of a code ([`ErrorCode::as_str`]) is stable and the same in Rust and
/// TypeScript.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorCode {
    /// The bytes are not a model in a known format, or are damaged.
    InvalidModel,
    /// The model is well-formed bytes but not a valid graph (cycle, undefined value, missing attribute, …).
    InvalidGraph,
    /// The model uses operators, versions of operators, or element types that are not supported.
    UnsupportedOperator,
    /// The model uses a feature of its format that is not supported.
    UnsupportedModel,
    /// External data of a model is missing, too short or does not match its checksum.
    ExternalData,
    /// An input that the model needs was not fed.
    MissingInput,
    /// A feed or fetch names a value that the model does not have.
    UnknownName,
    /// A feed has another element type than the model's input.
    WrongType,
    /// A feed has another number of dimensions than the model's input.
    WrongRank,
    /// A feed has another size in a fixed dimension than the model's input.
    WrongDimension,
    /// Two feeds disagree about the size of one symbolic dimension.
    InconsistentDimension,
    /// A tensor's data does not fit its type and shape.
    InvalidTensor,
    /// Shapes, types or values do not fit an operator's rules.
    ShapeMismatch,
    /// An operator failed on the data of this run.
    RunFailed,
    /// A limit on memory, time or iterations was exceeded.
    LimitExceeded,
    /// Memory could not be had.
    OutOfMemory,
    /// No device of the wanted kind is available, or it failed.
    Device,
    /// The GPU device was lost while in use.
    DeviceLost,
    /// The session was used after its release.
    Released,
    /// An argument of the API is outside what it accepts.
    InvalidArgument,
    /// A defect of modelet itself.
    Internal,
}

impl ErrorCode {
    /// The stable text of this code.
    pub fn as_str(self) -> &'static str {
        match self {
            ErrorCode::InvalidModel => "invalid-model",
            ErrorCode::InvalidGraph => "invalid-graph",
            ErrorCode::UnsupportedOperator => "unsupported-operator",
            ErrorCode::UnsupportedModel => "unsupported-model",
            ErrorCode::ExternalData => "external-data",
            ErrorCode::MissingInput => "missing-input",
            ErrorCode::UnknownName => "unknown-name",
            ErrorCode::WrongType => "wrong-type",
            ErrorCode::WrongRank => "wrong-rank",
            ErrorCode::WrongDimension => "wrong-dimension",
            ErrorCode::InconsistentDimension => "inconsistent-dimension",
            ErrorCode::InvalidTensor => "invalid-tensor",
            ErrorCode::ShapeMismatch => "shape-mismatch",
            ErrorCode::RunFailed => "run-failed",
            ErrorCode::LimitExceeded => "limit-exceeded",
            ErrorCode::OutOfMemory => "out-of-memory",
            ErrorCode::Device => "device",
            ErrorCode::DeviceLost => "device-lost",
            ErrorCode::Released => "released",
            ErrorCode::InvalidArgument => "invalid-argument",
            ErrorCode::Internal => "internal",
        }
    }
}

/// Where in a model an [`Error`] applies. Every field that applies is filled.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// Name of the node (or its position when it has no name).
    pub node: Option<String>,
    /// Operator type, with its domain when that is not ONNX's default.
    pub operator: Option<String>,
    /// Name of the input, output or value.
    pub input: Option<String>,
    /// What was expected there.
    pub expected: Option<String>,
    /// What was found there.
    pub actual: Option<String>,
    /// Further lines, such as every unsupported operator of a model.
    pub details: Vec<String>,
}

/// A failure, with its code, a sentence and its place. One pointer, so that a `Result` of nothing is one too.
#[derive(Clone, PartialEq, Eq)]
pub struct Error(Box<Failure>);

#[derive(Clone, PartialEq, Eq)]
struct Failure {
    code: ErrorCode,
    message: String,
    place: Place,
}

/// The result of everything in this crate that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error with a code and a sentence.
    #[cold]
    #[inline(never)]
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Error {
        Error(Box::new(Failure {
            code,
            message: message.into(),
            place: Place::default(),
        }))
    }

    /// A defect of modelet itself.
    #[cold]
    #[inline(never)]
    pub fn internal(message: impl Into<String>) -> Error {
        Error::new(ErrorCode::Internal, message)
    }

    /// The error's code.
    pub fn code(&self) -> ErrorCode {
        self.0.code
    }

    /// The error's sentence, without its place.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// Where the error applies.
    pub fn place(&self) -> &Place {
        &self.0.place
    }

    /// Adds the node's name, unless a deeper place already did.
    #[cold]
    #[inline(never)]
    pub fn at_node(mut self, node: impl Into<String>) -> Error {
        self.0.place.node.get_or_insert_with(|| node.into());
        self
    }

    /// Adds the operator type, unless a deeper place already did.
    #[cold]
    #[inline(never)]
    pub fn at_operator(mut self, operator: impl Into<String>) -> Error {
        self.0.place.operator.get_or_insert_with(|| operator.into());
        self
    }

    /// Adds the name of the input, output or value, unless a deeper place already did.
    #[cold]
    #[inline(never)]
    pub fn at_input(mut self, input: impl Into<String>) -> Error {
        self.0.place.input.get_or_insert_with(|| input.into());
        self
    }

    /// Adds what was expected.
    #[cold]
    #[inline(never)]
    pub fn expected(mut self, expected: impl Into<String>) -> Error {
        self.0.place.expected = Some(expected.into());
        self
    }

    /// Adds what was found.
    #[cold]
    #[inline(never)]
    pub fn actual(mut self, actual: impl Into<String>) -> Error {
        self.0.place.actual = Some(actual.into());
        self
    }

    /// Adds a further line.
    #[cold]
    #[inline(never)]
    pub fn detail(mut self, line: impl Into<String>) -> Error {
        self.0.place.details.push(line.into());
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)?;
        let place = &self.0.place;
        let parts = [
            ("node", &place.node),
            ("operator", &place.operator),
            ("value", &place.input),
            ("expected", &place.expected),
            ("actual", &place.actual),
        ];
        let mut separator = " (";
        for (label, text) in parts {
            if let Some(text) = text {
                write!(f, "{separator}{label}: {text}")?;
                separator = ", ";
            }
        }
        if separator == ", " {
            f.write_str(")")?;
        }
        for line in &place.details {
            write!(f, "\n  {line}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}] {self}", self.0.code.as_str())
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn display_names_every_part_of_the_place_once() {
        let error = Error::new(ErrorCode::WrongRank, "the feed has the wrong rank")
            .at_input("x")
            .expected("2")
            .actual("3")
            .at_input("outer");
        assert_eq!(
            error.to_string(),
            "the feed has the wrong rank (value: x, expected: 2, actual: 3)"
        );
        assert_eq!(format!("{error:?}"), format!("[wrong-rank] {error}"));
    }
}
