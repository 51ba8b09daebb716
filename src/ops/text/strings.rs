//! Strings changed and compared one by one: StringConcat, StringSplit, StringNormalizer, RegexFullMatch.

use std::{collections::HashSet, sync::Arc};

use super::{
    super::{CpuLowering, InferContext, Operator, context::rank_error, lower::invalid},
    regex::Regex,
    strings_of, text_input,
};
use crate::{
    cpu::kernel::CpuKernel,
    error::{Error, ErrorCode, Result},
    graph::Node,
    tensor::{Bool8, DType, Dim, Tensor, broadcast_shapes, display_shape, element_count, strides_of},
};

/// ONNX `StringConcat` (opset 20): each string of `X` followed by that of `Y`, with broadcasting.
#[derive(Debug)]
struct StringConcat;

/// Makes [`StringConcat`].
pub fn make_concat(_: &Node) -> Result<Box<dyn Operator>> {
    Ok(Box::new(StringConcat))
}

impl Operator for StringConcat {
    fn infer(&self, ctx: &mut InferContext<'_>) -> Result<()> {
        text_input(ctx, 0)?;
        text_input(ctx, 1)?;
        let shape = ctx.broadcast(&[0, 1])?;
        ctx.set_output(0, DType::String, shape);
        Ok(())
    }

    fn cpu(&self, _: &CpuLowering<'_>) -> Result<CpuKernel> {
        Ok(CpuKernel::dynamic("string_concat", |inputs| {
            let (Some(Some(x)), Some(Some(y))) = (inputs.first(), inputs.get(1)) else {
                return Err(invalid("a required input is missing"));
            };
            let shape = broadcast_shapes(&[x.shape(), y.shape()])?;
            let count = element_count(&shape)?;
            let (left, right) = (Spread::new(x.shape(), &shape), Spread::new(y.shape(), &shape));
            let (x, y) = (x.strings()?, y.strings()?);
            let joined = (0..count).map(|index| format!("{}{}", x[left.source(index)], y[right.source(index)]));
            Ok(vec![Tensor::from_strings(&shape, joined.collect())?])
        }))
    }
}

/// Where the elements of a broadcast tensor come from.
struct Spread {
    /// Stride in the result, size, and stride in the source of each dimension that varies.
    dims: Vec<(usize, usize, usize)>,
}

impl Spread {
    fn new(source: &[usize], result: &[usize]) -> Spread {
        let (own, strides) = (strides_of(source), strides_of(result));
        let skipped = result.len().saturating_sub(source.len());
        let dims = (0..source.len()).filter(|&axis| source[axis] != 1);
        Spread {
            dims: dims
                .map(|axis| (strides[skipped + axis], source[axis], own[axis]))
                .collect(),
        }
    }

    fn source(&self, index: usize) -> usize {
        self.dims
            .iter()
            .map(|&(stride, size, own)| index / stride % size * own)
            .sum()
    }
}

/// ONNX `StringSplit` (opset 20): each string's parts between delimiters, or between runs of white space, as a new last
/// dimension that is filled up with empty strings; and the number of parts of each.
#[derive(Debug)]
struct StringSplit {
    delimiter: String,
    max: usize,
}

/// Makes [`StringSplit`].
pub fn make_split(node: &Node) -> Result<Box<dyn Operator>> {
    // A negative number sets no limit.
    let max = node
        .attributes
        .int("maxsplit")?
        .and_then(|max| usize::try_from(max).ok());
    Ok(Box::new(StringSplit {
        delimiter: node.attributes.string("delimiter")?.unwrap_or_default().to_string(),
        max: max.unwrap_or(usize::MAX),
    }))
}

/// The parts of a text, cut at most `max` times.
fn split<'t>(text: &'t str, delimiter: &str, max: usize) -> Vec<&'t str> {
    if !delimiter.is_empty() {
        return match text.is_empty() {
            true => Vec::new(),
            false => text.splitn(max.saturating_add(1), delimiter).collect(),
        };
    }
    let mut parts = Vec::new();
    let mut rest = text.trim();
    while !rest.is_empty() {
        match rest.split_once(char::is_whitespace).filter(|_| parts.len() < max) {
            Some((part, behind)) => {
                parts.push(part);
                rest = behind.trim_start();
            }
            None => {
                parts.push(rest);
                break;
            }
        }
    }
    parts
}

impl Operator for StringSplit {
    fn infer(&self, ctx: &mut InferContext<'_>) -> Result<()> {
        text_input(ctx, 0)?;
        let shape = ctx.shape(0).map(<[Dim]>::to_vec);
        let parts = ctx.fresh_dim();
        let split = shape.clone().map(|shape| shape.into_iter().chain([parts]).collect());
        ctx.set_output(0, DType::String, split);
        ctx.set_output(1, DType::I64, shape);
        Ok(())
    }

    fn cpu(&self, _: &CpuLowering<'_>) -> Result<CpuKernel> {
        let (delimiter, max) = (self.delimiter.clone(), self.max);
        Ok(CpuKernel::dynamic("string_split", move |inputs| {
            let (x, texts) = strings_of(inputs, 0)?;
            let parts: Vec<Vec<&str>> = texts.iter().map(|text| split(text, &delimiter, max)).collect();
            let counts: Vec<i64> = parts.iter().map(|parts| parts.len() as i64).collect();
            Ok(vec![
                super::padded(x.shape(), &parts, "")?,
                Tensor::new(x.shape(), counts)?,
            ])
        }))
    }
}

/// ONNX `StringNormalizer` (opset 10): the strings of `[c]` or `[1, c]` without the stop words, in upper or lower case or as they
/// are. Where none is left, one empty string. Case is changed by Unicode's rules, whatever the locale.
#[derive(Debug)]
struct StringNormalizer {
    stop_words: Arc<HashSet<String>>,
    case_sensitive: bool,
    case: Case,
}

#[derive(Clone, Copy, Debug)]
enum Case {
    Lower,
    Upper,
    Kept,
}

/// Makes [`StringNormalizer`].
pub fn make_normalizer(node: &Node) -> Result<Box<dyn Operator>> {
    let attributes = &node.attributes;
    let case_sensitive = attributes.flag("is_case_sensitive", false)?;
    let fold = |word: &str| {
        if case_sensitive {
            word.to_string()
        } else {
            word.to_lowercase()
        }
    };
    let words = attributes.strings("stopwords")?.unwrap_or_default();
    let case = match attributes.string("case_change_action")?.unwrap_or("NONE") {
        "LOWER" => Case::Lower,
        "UPPER" => Case::Upper,
        "NONE" => Case::Kept,
        other => return Err(invalid("attribute case_change_action names no action").actual(other)),
    };
    Ok(Box::new(StringNormalizer {
        stop_words: Arc::new(words.into_iter().map(fold).collect()),
        case_sensitive,
        case,
    }))
}

impl Operator for StringNormalizer {
    fn infer(&self, ctx: &mut InferContext<'_>) -> Result<()> {
        text_input(ctx, 0)?;
        let count = ctx.fresh_dim();
        let shape = match ctx.rank(0) {
            Some(1) => Some(vec![count]),
            Some(2) => Some(vec![Dim::from(1), count]),
            Some(rank) => return Err(rank_error(0, "1 or 2", rank)),
            None => None,
        };
        ctx.set_output(0, DType::String, shape);
        Ok(())
    }

    fn cpu(&self, _: &CpuLowering<'_>) -> Result<CpuKernel> {
        let (stop_words, case_sensitive, case) = (self.stop_words.clone(), self.case_sensitive, self.case);
        Ok(CpuKernel::dynamic("string_normalizer", move |inputs| {
            let (x, texts) = strings_of(inputs, 0)?;
            if !matches!(x.shape(), [_] | [1, _]) {
                return Err(
                    Error::new(ErrorCode::ShapeMismatch, "the input is not one list of strings")
                        .expected("[c] or [1, c]")
                        .actual(display_shape(x.shape())),
                );
            }
            let kept = texts.iter().filter(|text| {
                let stops = match case_sensitive {
                    true => stop_words.contains(*text),
                    false => !stop_words.is_empty() && stop_words.contains(&text.to_lowercase()),
                };
                !stops
            });
            let changed = kept.map(|text| match case {
                Case::Lower => text.to_lowercase(),
                Case::Upper => text.to_uppercase(),
                Case::Kept => text.clone(),
            });
            let mut strings: Vec<String> = changed.collect();
            if strings.is_empty() {
                strings.push(String::new());
            }
            let shape = [1, strings.len()];
            Ok(vec![Tensor::from_strings(&shape[2 - x.shape().len()..], strings)?])
        }))
    }
}

/// ONNX `RegexFullMatch` (opset 20): whether each string matches a regular expression from beginning to end.
#[derive(Debug)]
struct RegexFullMatch {
    regex: Arc<Regex>,
}

/// Makes [`RegexFullMatch`].
pub fn make_full_match(node: &Node) -> Result<Box<dyn Operator>> {
    let pattern = node.attributes.string("pattern")?;
    let pattern = pattern.ok_or_else(|| invalid("attribute pattern is missing"))?;
    Ok(Box::new(RegexFullMatch {
        regex: Arc::new(Regex::new(pattern)?),
    }))
}

impl Operator for RegexFullMatch {
    fn infer(&self, ctx: &mut InferContext<'_>) -> Result<()> {
        text_input(ctx, 0)?;
        let shape = ctx.shape(0).map(<[Dim]>::to_vec);
        ctx.set_output(0, DType::Bool, shape);
        Ok(())
    }

    fn cpu(&self, _: &CpuLowering<'_>) -> Result<CpuKernel> {
        let regex = self.regex.clone();
        Ok(CpuKernel::dynamic("regex_full_match", move |inputs| {
            let (x, texts) = strings_of(inputs, 0)?;
            let matches = texts.iter().map(|text| Bool8::from(regex.matches(text)));
            Ok(vec![Tensor::new(x.shape(), matches.collect())?])
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::super::testing::{TestNode, i64s, tensor},
        *,
    };

    fn texts(shape: &[usize], list: &[&str]) -> Tensor {
        Tensor::from_strings(shape, list.iter().map(|text| text.to_string()).collect()).unwrap()
    }

    #[test]
    fn strings_are_joined_with_broadcasting() {
        let node = TestNode::new("StringConcat", 20)
            .input(texts(&[2, 1], &["a", "b"]))
            .input(texts(&[3], &["x", "", "ü"]));
        assert_eq!(
            node.run1().unwrap(),
            texts(&[2, 3], &["ax", "a", "aü", "bx", "b", "bü"])
        );
        let node = TestNode::new("StringConcat", 20)
            .input(texts(&[0, 1], &[]))
            .input(texts(&[], &["x"]));
        assert_eq!(node.run1().unwrap(), texts(&[0, 1], &[]));
        assert!(
            TestNode::new("StringConcat", 20)
                .input(i64s(&[1], &[1]))
                .input(texts(&[], &["x"]))
                .run()
                .is_err()
        );
    }

    #[test]
    fn strings_are_split_and_filled_up() {
        let node = |x: Tensor| TestNode::new("StringSplit", 20).outputs(2).input(x);
        let results = node(texts(&[2], &["a.com", "b..c"]))
            .attr("delimiter", ".")
            .run()
            .unwrap();
        assert_eq!(
            results,
            [texts(&[2, 3], &["a", "com", "", "b", "", "c"]), i64s(&[2], &[2, 3])]
        );
        let results = node(texts(&[3], &["  a  b c ", "", "d"]))
            .attr("maxsplit", 1)
            .run()
            .unwrap();
        assert_eq!(
            results,
            [texts(&[3, 2], &["a", "b c", "", "", "d", ""]), i64s(&[3], &[2, 0, 1])]
        );
        let results = node(texts(&[0], &[])).run().unwrap();
        assert_eq!(results, [texts(&[0, 0], &[]), i64s(&[0], &[])]);
    }

    #[test]
    fn stop_words_go_and_case_changes() {
        let node = |x: Tensor| {
            TestNode::new("StringNormalizer", 10)
                .attr("stopwords", ["Monday", "the"])
                .input(x)
        };
        let x = || texts(&[1, 3], &["monday", "The", "Straße"]);
        assert_eq!(
            node(x()).attr("case_change_action", "UPPER").run1().unwrap(),
            texts(&[1, 1], &["STRASSE"])
        );
        let kept = node(x())
            .attr("is_case_sensitive", 1)
            .attr("case_change_action", "LOWER");
        assert_eq!(kept.run1().unwrap(), texts(&[1, 3], &["monday", "the", "straße"]));
        assert_eq!(node(texts(&[2], &["the", "the"])).run1().unwrap(), texts(&[1], &[""]));
        assert!(node(texts(&[2, 1], &["a", "b"])).run().is_err());
    }

    #[test]
    fn whole_strings_match_a_pattern() {
        let node = |pattern: &str| {
            TestNode::new("RegexFullMatch", 20)
                .attr("pattern", pattern)
                .input(texts(&[2], &["a1", "a1b"]))
        };
        assert_eq!(node("[a-z]\\d").run1().unwrap(), tensor(&[2], &[Bool8(1), Bool8(0)]));
        assert!(node("(").run().is_err());
    }
}
