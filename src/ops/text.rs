//! Strings and text.

mod grams;
mod regex;
mod strings;

use super::{
    InferContext,
    lower::invalid,
    registry::{Entry, contrib, onnx},
};
use crate::{
    error::{Error, ErrorCode, Result},
    tensor::{DType, Tensor, element_count},
};

/// The operators of this room.
pub(super) static OPERATORS: &[Entry] = &[
    onnx("RegexFullMatch", strings::make_full_match),
    onnx("StringConcat", strings::make_concat),
    onnx("StringNormalizer", strings::make_normalizer),
    onnx("StringSplit", strings::make_split),
    onnx("TfIdfVectorizer", grams::make_tf_idf),
    contrib("Tokenizer", grams::make_tokenizer),
];

/// Checks that an input is of strings.
fn text_input(ctx: &InferContext<'_>, index: usize) -> Result<()> {
    match ctx.dtype(index)? {
        DType::String => Ok(()),
        other => Err(Error::new(ErrorCode::WrongType, format!("input {index} is not of strings")).actual(other.name())),
    }
}

/// An input of a run, and its strings.
fn strings_of(inputs: &[Option<Tensor>], index: usize) -> Result<(&Tensor, &[String])> {
    let input = inputs.get(index).and_then(Option::as_ref);
    let input = input.ok_or_else(|| invalid(format!("required input {index} is missing")))?;
    Ok((input, input.strings()?))
}

/// Lists of strings as a new last dimension of a tensor, all filled up to the longest.
fn padded(outer: &[usize], lists: &[Vec<&str>], padding: &str) -> Result<Tensor> {
    let longest = lists.iter().map(Vec::len).max().unwrap_or(0);
    let shape: Vec<usize> = outer.iter().copied().chain([longest]).collect();
    let mut filled: Vec<String> = Vec::new();
    let count = element_count(&shape)?;
    let full = |_| Error::new(ErrorCode::OutOfMemory, "there is no memory for the strings").actual(count.to_string());
    filled.try_reserve_exact(count).map_err(full)?;
    let all = lists.iter().flat_map(|list| {
        let missing = std::iter::repeat_n(padding, longest - list.len());
        list.iter().copied().chain(missing).map(str::to_string)
    });
    filled.extend(all);
    Tensor::from_strings(&shape, filled)
}
