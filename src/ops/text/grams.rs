//! Texts as tokens and counts: TfIdfVectorizer, and Tokenizer of the `com.microsoft` domain.

use std::{collections::HashMap, sync::Arc};

use super::{
    super::{CpuLowering, InferContext, Operator, context::rank_error, lower::invalid},
    regex::Regex,
    strings_of, text_input,
};
use crate::{
    cpu::kernel::CpuKernel,
    error::{Error, ErrorCode, Result},
    graph::Node,
    tensor::{DType, Dim, Tensor, display_shape, element_count},
};

/// ONNX `TfIdfVectorizer` (opset 9): how often each n-gram of a pool occurs in the rows of `[n, c]`, or in the one row of `[c]`, f32
/// `[n, columns]` or `[columns]`. The tokens of an n-gram may stand up to `max_skip_count + 1` apart.
#[derive(Debug)]
struct TfIdf {
    pool: Arc<Pool>,
}

#[derive(Debug)]
struct Pool {
    tokens: Tokens,
    /// N-grams of the pool's tokens, by their numbers, with their positions in the pool.
    grams: HashMap<Vec<u32>, usize>,
    /// The column of each n-gram.
    columns: Vec<usize>,
    /// The weight of each n-gram.
    weights: Option<Vec<f32>>,
    counts_once: bool,
    width: usize,
    lengths: std::ops::RangeInclusive<usize>,
    max_skip: usize,
}

/// Numbers of the tokens that occur in the pool.
#[derive(Debug)]
enum Tokens {
    Strings(HashMap<String, u32>),
    Ints(HashMap<i64, u32>),
}

/// The number of a token that is not in the pool.
const UNKNOWN: u32 = u32::MAX;

impl Tokens {
    fn number<K: std::hash::Hash + Eq>(list: impl Iterator<Item = K>) -> (HashMap<K, u32>, Vec<u32>) {
        let mut numbers = HashMap::new();
        let mut ids = Vec::new();
        for key in list {
            let next = numbers.len() as u32;
            ids.push(*numbers.entry(key).or_insert(next));
        }
        (numbers, ids)
    }

    fn of(&self, x: &Tensor) -> Result<Vec<u32>> {
        Ok(match self {
            Tokens::Strings(numbers) => {
                let number = |text: &String| numbers.get(text).copied().unwrap_or(UNKNOWN);
                x.strings()?.iter().map(number).collect()
            }
            Tokens::Ints(numbers) => {
                let number = |value: i64| numbers.get(&value).copied().unwrap_or(UNKNOWN);
                x.to_i64s()?.into_iter().map(number).collect()
            }
        })
    }
}

/// Makes [`TfIdf`].
pub fn make_tf_idf(node: &Node) -> Result<Box<dyn Operator>> {
    let attributes = &node.attributes;
    let sizes = |name: &str| -> Result<Vec<usize>> {
        let list = attributes.ints(name)?.unwrap_or_default();
        let sizes: Option<Vec<usize>> = list.iter().map(|&value| usize::try_from(value).ok()).collect();
        sizes.ok_or_else(|| invalid(format!("attribute {name} has a negative element")))
    };
    let size = |name: &str| -> Result<usize> {
        let value = attributes
            .int(name)?
            .ok_or_else(|| invalid(format!("attribute {name} is missing")))?;
        usize::try_from(value).map_err(|_| invalid(format!("attribute {name} is negative")).actual(value.to_string()))
    };
    let texts = attributes.strings("pool_strings")?.filter(|list| !list.is_empty());
    let (tokens, ids) = match texts {
        Some(list) => {
            let (numbers, ids) = Tokens::number(list.into_iter().map(str::to_string));
            (Tokens::Strings(numbers), ids)
        }
        None => {
            let list = attributes.ints("pool_int64s")?.unwrap_or_default();
            let (numbers, ids) = Tokens::number(list.iter().copied());
            (Tokens::Ints(numbers), ids)
        }
    };
    let (starts, columns) = (sizes("ngram_counts")?, sizes("ngram_indexes")?);
    let mut grams = HashMap::new();
    let mut count = 0;
    for (length, &start) in (1..).zip(&starts) {
        let end = starts.get(length).copied().unwrap_or(ids.len());
        let part = ids.get(start..end).filter(|part| part.len().is_multiple_of(length));
        let part = part.ok_or_else(|| invalid("attribute ngram_counts does not divide the pool into n-grams"))?;
        for gram in part.chunks(length) {
            grams.entry(gram.to_vec()).or_insert(count);
            count += 1;
        }
    }
    if columns.len() != count {
        return Err(invalid("attribute ngram_indexes has not one element for each n-gram")
            .expected(count.to_string())
            .actual(columns.len().to_string()));
    }
    let mode = attributes.string("mode")?.unwrap_or("TF");
    let weights = match (mode, attributes.floats("weights")?) {
        ("TF", _) | ("IDF" | "TFIDF", None) => None,
        ("IDF" | "TFIDF", Some(list)) if list.len() == count => Some(list.to_vec()),
        ("IDF" | "TFIDF", Some(list)) => {
            return Err(invalid("attribute weights has not one element for each n-gram")
                .expected(count.to_string())
                .actual(list.len().to_string()));
        }
        (other, _) => return Err(invalid("attribute mode is not TF, IDF or TFIDF").actual(other)),
    };
    let (min, max) = (size("min_gram_length")?, size("max_gram_length")?);
    if min == 0 || min > max {
        return Err(invalid("the lengths of n-grams are no range").actual(format!("{min} to {max}")));
    }
    Ok(Box::new(TfIdf {
        pool: Arc::new(Pool {
            tokens,
            grams,
            width: columns.iter().max().map_or(0, |&last| last.saturating_add(1)),
            columns,
            weights,
            counts_once: mode == "IDF",
            // Longer n-grams than the pool has cannot be found.
            lengths: min..=max.min(starts.len()),
            max_skip: size("max_skip_count")?,
        }),
    }))
}

impl Pool {
    /// Adds the weighted counts of one row's n-grams to `row`.
    fn count(&self, tokens: &[u32], row: &mut [f32]) {
        let mut gram = Vec::new();
        for length in self.lengths.clone() {
            // How far neighbours of an n-gram stand apart does not matter for single tokens.
            let farthest = if length == 1 {
                0
            } else {
                self.max_skip.min(tokens.len())
            };
            for step in 1..=farthest + 1 {
                let Some(span) = (length - 1).checked_mul(step) else {
                    break;
                };
                for start in 0..tokens.len().saturating_sub(span) {
                    gram.clear();
                    gram.extend((0..length).map(|index| tokens[start + index * step]));
                    if let Some(&position) = self.grams.get(&gram) {
                        let found = &mut row[self.columns[position]];
                        let weight = self.weights.as_ref().map_or(1.0, |weights| weights[position]);
                        *found = if self.counts_once { weight } else { *found + weight };
                    }
                }
            }
        }
    }
}

impl Operator for TfIdf {
    fn infer(&self, ctx: &mut InferContext<'_>) -> Result<()> {
        let dtype = ctx.dtype(0)?;
        let fits = match self.pool.tokens {
            Tokens::Strings(_) => dtype == DType::String,
            Tokens::Ints(_) => dtype.is_integer(),
        };
        if !fits {
            return Err(
                Error::new(ErrorCode::WrongType, "the input is of another type than the pool").actual(dtype.name()),
            );
        }
        let columns = Dim::from(self.pool.width);
        let shape = match ctx.shape(0) {
            Some([_]) => Some(vec![columns]),
            Some([rows, _]) => Some(vec![rows.clone(), columns]),
            Some(other) => return Err(rank_error(0, "1 or 2", other.len())),
            None => None,
        };
        ctx.set_output(0, DType::F32, shape);
        Ok(())
    }

    fn cpu(&self, _: &CpuLowering<'_>) -> Result<CpuKernel> {
        let pool = self.pool.clone();
        Ok(CpuKernel::dynamic("tf_idf", move |inputs| {
            let x = inputs.first().and_then(Option::as_ref);
            let x = x.ok_or_else(|| invalid("required input 0 is missing"))?;
            let (rows, length, shape) = match *x.shape() {
                [length] => (1, length, vec![pool.width]),
                [rows, length] => (rows, length, vec![rows, pool.width]),
                _ => return Err(rank_error(0, "1 or 2", x.shape().len())),
            };
            let tokens = pool.tokens.of(x)?;
            let count = element_count(&shape)?;
            let mut values: Vec<f32> = Vec::new();
            values.try_reserve_exact(count).map_err(|_| {
                Error::new(ErrorCode::OutOfMemory, "there is no memory for the counts").actual(display_shape(&shape))
            })?;
            values.resize(count, 0.0);
            for row in 0..rows {
                let counts = &mut values[row * pool.width..(row + 1) * pool.width];
                pool.count(&tokens[row * length..(row + 1) * length], counts);
            }
            Ok(vec![Tensor::new(&shape, values)?])
        }))
    }
}

/// `com.microsoft` `Tokenizer`: the tokens of each string of `[c]` or `[n, c]`, as a new last dimension that is filled up with
/// `pad_value`: what stands between matches of separators, or the matches of a token expression, or single characters.
/// Tokens shorter than `mincharnum` characters are left out. With `mark`, each string's tokens stand between the control
/// characters 2 and 3.
#[derive(Debug)]
struct Tokenizer {
    rule: Arc<Rule>,
    shortest: usize,
    marks: bool,
    padding: String,
}

#[derive(Debug)]
enum Rule {
    Characters,
    Separators(Vec<Regex>),
    Tokens(Regex),
}

/// Makes [`Tokenizer`].
pub fn make_tokenizer(node: &Node) -> Result<Box<dyn Operator>> {
    let attributes = &node.attributes;
    let separators = attributes.strings("separators")?.filter(|list| !list.is_empty());
    let expression = attributes.string("tokenexp")?.filter(|text| !text.is_empty());
    let rule = match (separators, expression) {
        (Some(list), None) if list == [""] => Rule::Characters,
        (Some(list), None) => Rule::Separators(list.into_iter().map(Regex::new).collect::<Result<_>>()?),
        (None, Some(".")) => Rule::Characters,
        (None, Some(pattern)) => Rule::Tokens(Regex::new(pattern)?),
        _ => {
            return Err(invalid(
                "not exactly one of attributes separators and tokenexp is given",
            ));
        }
    };
    let shortest = attributes.int("mincharnum")?.unwrap_or(1);
    let shortest = usize::try_from(shortest).ok().filter(|&shortest| shortest > 0);
    let shortest = shortest.ok_or_else(|| invalid("attribute mincharnum is not positive"))?;
    if shortest > 1 && matches!(rule, Rule::Characters) {
        return Err(invalid("attribute mincharnum is not 1, but tokens are characters").actual(shortest.to_string()));
    }
    Ok(Box::new(Tokenizer {
        rule: Arc::new(rule),
        shortest,
        marks: attributes.flag("mark", false)?,
        padding: attributes.string("pad_value")?.unwrap_or_default().to_string(),
    }))
}

impl Rule {
    fn tokens<'t>(&self, text: &'t str) -> Vec<&'t str> {
        match self {
            Rule::Characters => text.split_inclusive(|_| true).collect(),
            Rule::Separators(list) => list.iter().fold(vec![text], |parts, regex| {
                parts.into_iter().flat_map(|part| between(regex, part)).collect()
            }),
            Rule::Tokens(regex) => {
                let mut tokens = Vec::new();
                let mut from = 0;
                while let Some((start, end)) = regex.find(text, from) {
                    if end > start {
                        tokens.push(&text[start..end]);
                        from = end;
                    } else {
                        // Nothing was matched: go on behind the next character.
                        let Some(c) = text[start..].chars().next() else { break };
                        from = start + c.len_utf8();
                    }
                }
                tokens
            }
        }
    }
}

/// The parts of a text between the matches of a separator that are not empty.
fn between<'t>(separator: &Regex, text: &'t str) -> Vec<&'t str> {
    let (mut parts, mut from, mut part) = (Vec::new(), 0, 0);
    while let Some((start, end)) = separator.find(text, from) {
        if end > start {
            parts.push(&text[part..start]);
            (from, part) = (end, end);
        } else {
            let Some(c) = text[start..].chars().next() else { break };
            from = start + c.len_utf8();
        }
    }
    parts.push(&text[part..]);
    parts
}

impl Operator for Tokenizer {
    fn infer(&self, ctx: &mut InferContext<'_>) -> Result<()> {
        text_input(ctx, 0)?;
        if let Some(rank) = ctx.rank(0).filter(|rank| !(1..=2).contains(rank)) {
            return Err(rank_error(0, "1 or 2", rank));
        }
        // An input without strings keeps its shape.
        let some = ctx
            .shape(0)
            .is_some_and(|shape| shape.iter().all(|dim| dim.known().is_some_and(|size| size > 0)));
        let tokens = ctx.fresh_dim();
        let shape = ctx.shape(0).filter(|_| some).map(<[Dim]>::to_vec);
        ctx.set_output(
            0,
            DType::String,
            shape.map(|shape| shape.into_iter().chain([tokens]).collect()),
        );
        Ok(())
    }

    fn cpu(&self, _: &CpuLowering<'_>) -> Result<CpuKernel> {
        let (rule, shortest, marks, padding) = (self.rule.clone(), self.shortest, self.marks, self.padding.clone());
        Ok(CpuKernel::dynamic("tokenizer", move |inputs| {
            let (x, texts) = strings_of(inputs, 0)?;
            if texts.is_empty() {
                return Ok(vec![x.clone()]);
            }
            let tokens = texts.iter().map(|text| {
                let mut tokens = rule.tokens(text);
                tokens.retain(|token| token.chars().take(shortest).count() == shortest);
                if marks {
                    tokens.insert(0, "\x02");
                    tokens.push("\x03");
                }
                tokens
            });
            Ok(vec![super::padded(x.shape(), &tokens.collect::<Vec<_>>(), &padding)?])
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::super::testing::{TestNode, f32s, i64s},
        *,
    };
    use crate::graph::OperatorId;

    fn texts(shape: &[usize], list: &[&str]) -> Tensor {
        Tensor::from_strings(shape, list.iter().map(|text| text.to_string()).collect()).unwrap()
    }

    fn grams(mode: &str, skip: i64, x: Tensor) -> TestNode {
        TestNode::new("TfIdfVectorizer", 9)
            .attr("mode", mode)
            .attr("min_gram_length", 1)
            .attr("max_gram_length", 2)
            .attr("max_skip_count", skip)
            .attr("ngram_counts", [0i64, 2])
            .attr("ngram_indexes", [0i64, 2, 1, 3])
            .attr("weights", [2.0f32, 3.0, 4.0, 5.0])
            .input(x)
    }

    #[test]
    fn grams_are_counted_and_weighted() {
        let x = || i64s(&[2, 4], &[5, 6, 5, 6, 6, 9, 5, 5]);
        let node = |mode: &str, skip| {
            grams(mode, skip, x())
                .attr("pool_int64s", [5i64, 6, 5, 6, 6, 5])
                .run1()
                .unwrap()
        };
        assert_eq!(node("TF", 0), f32s(&[2, 4], &[2.0, 2.0, 2.0, 1.0, 2.0, 0.0, 1.0, 0.0]));
        assert_eq!(node("TF", 1), f32s(&[2, 4], &[2.0, 2.0, 2.0, 1.0, 2.0, 0.0, 1.0, 1.0]));
        assert_eq!(node("IDF", 0), f32s(&[2, 4], &[2.0, 4.0, 3.0, 5.0, 2.0, 0.0, 3.0, 0.0]));
        assert_eq!(
            node("TFIDF", 0),
            f32s(&[2, 4], &[4.0, 8.0, 6.0, 5.0, 4.0, 0.0, 3.0, 0.0])
        );
        let words = grams("TF", 0, texts(&[3], &["b", "a", "b"])).attr("pool_strings", ["a", "b", "a", "b", "b", "a"]);
        assert_eq!(words.run1().unwrap(), f32s(&[4], &[1.0, 1.0, 2.0, 1.0]));
        let empty = grams("TF", 0, texts(&[0], &[])).attr("pool_strings", ["a", "b", "a", "b", "b", "a"]);
        assert_eq!(empty.run1().unwrap(), f32s(&[4], &[0.0; 4]));
        assert!(grams("TF", 0, x()).attr("pool_int64s", [5i64, 6, 5]).run().is_err());
        assert!(
            grams("TF", 0, x())
                .attr("pool_strings", ["a", "b", "a", "b", "b", "a"])
                .run()
                .is_err()
        );
    }

    #[test]
    fn texts_are_cut_into_tokens() {
        let node = |x: Tensor| {
            let node = TestNode::of(OperatorId::new("com.microsoft", "Tokenizer", 1));
            node.attr("pad_value", "#").attr("mark", 0).input(x)
        };
        let x = || texts(&[2], &["ab, c", "ü"]);
        let separated = node(x()).attr("mincharnum", 1).attr("separators", [",", " "]);
        assert_eq!(separated.run1().unwrap(), texts(&[2, 2], &["ab", "c", "ü", "#"]));
        let longer = node(x()).attr("mincharnum", 2).attr("tokenexp", "[a-z]+");
        assert_eq!(longer.run1().unwrap(), texts(&[2, 1], &["ab", "#"]));
        let characters = node(x()).attr("mincharnum", 1).attr("separators", [""]).attr("mark", 1);
        let expected = [
            "\x02", "a", "b", ",", " ", "c", "\x03", "\x02", "ü", "\x03", "#", "#", "#", "#",
        ];
        assert_eq!(characters.run1().unwrap(), texts(&[2, 7], &expected));
        let longest = node(texts(&[1], &["abcab"]))
            .attr("mincharnum", 1)
            .attr("tokenexp", "a|ab|abc");
        assert_eq!(longest.run1().unwrap(), texts(&[1, 2], &["abc", "ab"]));
        assert!(node(x()).attr("mincharnum", 1).run().is_err());
    }
}
