//! ONNX `Einsum`.

use std::borrow::Cow;

use super::{Call, Whole, advance, from_wrapping_ints, singles, whole, wrapping_ints, zeros};
use crate::{
    cpu::{
        epilogue::Epilogue,
        gemm::{GemmShape, Lhs, MatrixRef, Rhs, gemm, gemm_scratch_len},
        threads::Threads,
    },
    error::Result,
    graph::Node,
    ops::{
        InferContext, Operator,
        context::broadcast_dims,
        lower::{invalid, mismatch},
    },
    tensor::{DType, Dim, Tensor, display_shape, element_count, strides_of},
};

/// ONNX `Einsum` (opset 12): sums of products over labelled dimensions, such as `"bij,bjk->bik"`. Terms may repeat a
/// label (the diagonal) and begin, end or be split by an ellipsis, whose dimensions broadcast; without `->` the result
/// has the ellipsis and then the labels that occur once, in alphabetical order. Operands are contracted from left to
/// right, each pair as a batched matrix product. Any numeric type; integers wrap around.
#[derive(Debug)]
pub(super) struct Einsum {
    terms: Vec<Vec<Label>>,
    output: Vec<Label>,
}

/// What names one dimension of a term, or several.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Label {
    Ellipsis,
    Letter(u8),
}

/// Makes [`Einsum`].
pub fn make(node: &Node) -> Result<Box<dyn Operator>> {
    let equation = node.attributes.string("equation")?;
    let equation = equation.ok_or_else(|| invalid("attribute equation is missing"))?;
    whole(parse(equation).map_err(|error| error.actual(format!("{equation:?}")))?)
}

pub(super) fn parse(equation: &str) -> Result<Einsum> {
    let (left, right) = match equation.split_once("->") {
        Some((left, right)) => (left, Some(right)),
        None => (equation, None),
    };
    let terms = left.split(',').map(parse_term).collect::<Result<Vec<_>>>()?;
    let used = || terms.iter().flatten().copied();
    let output = match right {
        Some(right) => parse_term(right)?,
        None => {
            let mut once: Vec<Label> = used()
                .filter(|&label| used().filter(|&other| other == label).count() == 1)
                .collect();
            once.retain(|&label| label != Label::Ellipsis);
            once.extend(used().find(|&label| label == Label::Ellipsis));
            once.sort();
            once
        }
    };
    for (index, label) in output.iter().enumerate() {
        // An ellipsis may stand for no dimensions at all.
        if *label != Label::Ellipsis && !used().any(|other| other == *label) {
            return Err(invalid("the equation's result has a label that no operand has"));
        }
        if output[..index].contains(label) {
            return Err(invalid("the equation's result repeats a label"));
        }
    }
    Ok(Einsum { terms, output })
}

fn parse_term(text: &str) -> Result<Vec<Label>> {
    let mut labels = Vec::new();
    let mut rest = text.trim();
    while let Some(first) = rest.bytes().next() {
        if let Some(behind) = rest.strip_prefix("...") {
            if labels.contains(&Label::Ellipsis) {
                return Err(invalid("a term of the equation has two ellipses"));
            }
            labels.push(Label::Ellipsis);
            rest = behind;
        } else if first.is_ascii_alphabetic() || first == b' ' {
            if first != b' ' {
                labels.push(Label::Letter(first));
            }
            rest = &rest[1..];
        } else {
            return Err(invalid(
                "the equation is not made of letters, commas, ellipses and an arrow",
            ));
        }
    }
    Ok(labels)
}

/// Dimensions are numbered: letters by their character, those of the ellipsis from here on, counted from the last.
const FIRST_OF_ELLIPSIS: usize = 256;

/// The numbers of a term's dimensions, for an operand of this rank.
fn number(term: &[Label], rank: usize) -> Result<Vec<usize>> {
    let letters = term.iter().filter(|&&label| label != Label::Ellipsis).count();
    let hidden = rank.checked_sub(letters);
    let hidden = hidden.filter(|&hidden| hidden == 0 || term.contains(&Label::Ellipsis));
    let hidden = hidden.ok_or_else(|| {
        mismatch("an operand has another rank than its term of the equation")
            .expected(letters.to_string())
            .actual(rank.to_string())
    })?;
    Ok(term
        .iter()
        .flat_map(|label| match label {
            Label::Letter(letter) => usize::from(*letter)..usize::from(*letter) + 1,
            Label::Ellipsis => FIRST_OF_ELLIPSIS..FIRST_OF_ELLIPSIS + hidden,
        })
        .map(|label| match label {
            // Shorter ellipses broadcast: their dimensions are the last ones.
            _ if label >= FIRST_OF_ELLIPSIS => FIRST_OF_ELLIPSIS + (hidden - 1 - (label - FIRST_OF_ELLIPSIS)),
            _ => label,
        })
        .collect())
}

impl Einsum {
    /// The numbered dimensions of the operands and the result.
    fn resolve(&self, ranks: &[usize]) -> Result<(Vec<Vec<usize>>, Vec<usize>)> {
        if ranks.len() != self.terms.len() {
            return Err(
                invalid("the equation has another number of terms than there are inputs")
                    .expected(self.terms.len().to_string())
                    .actual(ranks.len().to_string()),
            );
        }
        let operands = self.terms.iter().zip(ranks).map(|(term, &rank)| number(term, rank));
        let operands = operands.collect::<Result<Vec<_>>>()?;
        let hidden = operands
            .iter()
            .flatten()
            .filter(|&&label| label >= FIRST_OF_ELLIPSIS)
            .max();
        let hidden = hidden.map_or(0, |label| label + 1 - FIRST_OF_ELLIPSIS);
        let letters = self.output.iter().filter(|&&label| label != Label::Ellipsis).count();
        let rank = if self.output.contains(&Label::Ellipsis) {
            letters + hidden
        } else {
            letters
        };
        let output = number(&self.output, rank)?;
        Ok((operands, output))
    }
}

impl Whole for Einsum {
    fn kernel_name(&self) -> &'static str {
        "einsum"
    }

    fn infer(&self, ctx: &mut InferContext<'_>) -> Result<()> {
        let dtype = ctx.dtype(0)?;
        let shapes: Option<Vec<&[Dim]>> = (0..ctx.input_count()).map(|index| ctx.shape(index)).collect();
        let Some(shapes) = shapes else {
            ctx.set_output(0, dtype, None);
            return Ok(());
        };
        let ranks: Vec<usize> = shapes.iter().map(|shape| shape.len()).collect();
        let (operands, output) = self.resolve(&ranks)?;
        let mut dims: Vec<(usize, Vec<Dim>)> = Vec::new();
        for (&label, dim) in operands
            .iter()
            .flatten()
            .zip(shapes.iter().flat_map(|shape| shape.iter()))
        {
            match dims.iter_mut().find(|(known, _)| *known == label) {
                Some((_, known)) => {
                    if let Some(both) = broadcast_dims(known, std::slice::from_ref(dim))? {
                        *known = both;
                    }
                }
                None => dims.push((label, vec![dim.clone()])),
            }
        }
        let dim_of = |label: &usize| {
            dims.iter()
                .find(|(known, _)| known == label)
                .map(|(_, dim)| dim[0].clone())
        };
        let shape = output.iter().map(dim_of).collect();
        ctx.set_output(0, dtype, shape);
        Ok(())
    }

    fn run(&self, call: &Call<'_>) -> Result<Vec<Tensor>> {
        let tensors = (0..call.inputs.len())
            .map(|index| call.input(index))
            .collect::<Result<Vec<_>>>()?;
        let ranks: Vec<usize> = tensors.iter().map(|tensor| tensor.shape().len()).collect();
        let (operands, output) = self.resolve(&ranks)?;
        let mut sizes = Sizes(Vec::new());
        for (labels, tensor) in operands.iter().zip(&tensors) {
            for (&label, &size) in labels.iter().zip(tensor.shape()) {
                sizes
                    .add(label, size)
                    .map_err(|error| error.actual(display_shape(tensor.shape())))?;
            }
        }
        let shape: Vec<usize> = output.iter().map(|&label| sizes.of(label)).collect();
        let dtype = tensors.first().ok_or_else(|| invalid("there is no operand"))?.dtype();
        if tensors.iter().any(|tensor| tensor.dtype() != dtype) {
            return Err(mismatch("the operands differ in type"));
        }
        let result = match dtype {
            DType::F32 | DType::F16 | DType::BF16 => {
                let data = tensors
                    .iter()
                    .map(|tensor| tensor.to_f32s())
                    .collect::<Result<Vec<_>>>()?;
                singles(dtype, &shape, contract(data, &tensors, &operands, &output, &sizes)?)
            }
            DType::F64 => {
                let data = tensors.iter().map(|tensor| Ok(Cow::Owned(tensor.to_f64s()?)));
                let data = data.collect::<Result<Vec<Cow<'_, [f64]>>>>()?;
                Tensor::new(&shape, contract(data, &tensors, &operands, &output, &sizes)?)
            }
            _ => {
                let data = tensors.iter().map(|tensor| Ok(Cow::Owned(wrapping_ints(tensor)?)));
                let data = data.collect::<Result<Vec<Cow<'_, [i64]>>>>()?;
                from_wrapping_ints(dtype, &shape, &contract(data, &tensors, &operands, &output, &sizes)?)
            }
        };
        Ok(vec![result?])
    }
}

/// The size of each numbered dimension.
struct Sizes(Vec<(usize, usize)>);

impl Sizes {
    fn of(&self, label: usize) -> usize {
        self.0
            .iter()
            .find(|(known, _)| *known == label)
            .map_or(1, |(_, size)| *size)
    }

    fn add(&mut self, label: usize, size: usize) -> Result<()> {
        match self.0.iter_mut().find(|(known, _)| *known == label) {
            Some((_, known)) if *known == 1 => *known = size,
            Some((_, known)) if size != 1 && size != *known => {
                return Err(mismatch("a label of the equation stands for different sizes").expected(known.to_string()));
            }
            Some(_) => {}
            None => self.0.push((label, size)),
        }
        Ok(())
    }
}

/// The arithmetic of one type of elements.
trait Arithmetic: Copy + Default {
    fn plus(self, other: Self) -> Self;
    fn times(self, other: Self) -> Self;

    /// `out[m, n] = a[m, k] · b[k, n]`; either may be stored transposed.
    fn multiply(shape: GemmShape, a: &[Self], b: &[Self], transposed: [bool; 2], out: &mut [Self]) -> Result<()> {
        let GemmShape { m, k, n } = shape;
        let (a_row, a_column) = if transposed[0] { (1, m) } else { (k, 1) };
        let (b_row, b_column) = if transposed[1] { (1, k) } else { (n, 1) };
        for row in 0..m {
            let out = &mut out[row * n..(row + 1) * n];
            for step in 0..k {
                let factor = a[row * a_row + step * a_column];
                for (column, to) in out.iter_mut().enumerate() {
                    *to = to.plus(factor.times(b[step * b_row + column * b_column]));
                }
            }
        }
        Ok(())
    }
}

impl Arithmetic for f32 {
    fn plus(self, other: f32) -> f32 {
        self + other
    }

    fn times(self, other: f32) -> f32 {
        self * other
    }

    fn multiply(shape: GemmShape, a: &[f32], b: &[f32], transposed: [bool; 2], out: &mut [f32]) -> Result<()> {
        let GemmShape { m, k, n } = shape;
        let matrix = |data, columns, stored, transposed| match transposed {
            true => MatrixRef::transposed(data, stored),
            false => MatrixRef::row_major(data, columns),
        };
        let mut scratch: Vec<f32> = zeros(&[gemm_scratch_len(shape, false, false)])?;
        let (lhs, rhs) = (matrix(a, k, m, transposed[0]), matrix(b, n, k, transposed[1]));
        gemm(
            shape,
            Lhs::Matrix(lhs),
            Rhs::Matrix(rhs),
            out,
            &mut scratch,
            &Epilogue::none(),
            &Threads::SINGLE,
        );
        Ok(())
    }
}

impl Arithmetic for f64 {
    fn plus(self, other: f64) -> f64 {
        self + other
    }

    fn times(self, other: f64) -> f64 {
        self * other
    }
}

impl Arithmetic for i64 {
    fn plus(self, other: i64) -> i64 {
        self.wrapping_add(other)
    }

    fn times(self, other: i64) -> i64 {
        self.wrapping_mul(other)
    }
}

/// A dense array with numbered dimensions.
struct Part<'a, T: Clone> {
    labels: Vec<usize>,
    shape: Vec<usize>,
    data: Cow<'a, [T]>,
}

impl<'a, T: Arithmetic> Part<'a, T> {
    /// The same with exactly these dimensions, in this order: repeated ones become their diagonal, others are summed.
    fn arranged(self, order: &[usize]) -> Result<Part<'a, T>> {
        if self.labels == order {
            return Ok(self);
        }
        let strides = strides_of(&self.shape);
        let mut all: Vec<usize> = order.to_vec();
        for &label in &self.labels {
            if !all.contains(&label) {
                all.push(label);
            }
        }
        let labels = &self.labels;
        let axes = |label: usize| (0..labels.len()).filter(move |&axis| labels[axis] == label);
        let steps: Vec<usize> = all
            .iter()
            .map(|&label| axes(label).map(|axis| strides[axis]).sum())
            .collect();
        let dims: Vec<usize> = all
            .iter()
            .map(|&label| axes(label).next().map_or(1, |axis| self.shape[axis]))
            .collect();
        let shape = dims[..order.len()].to_vec();
        let mut targets = strides_of(&shape);
        targets.resize(all.len(), 0);
        let mut data: Vec<T> = zeros(&shape)?;
        if !dims.contains(&0) {
            let (last, outer) = match dims.split_last() {
                Some((&last, outer)) => (last, outer),
                None => (1, &[][..]),
            };
            let (step, target) = (steps.last().copied().unwrap_or(0), targets.last().copied().unwrap_or(0));
            let mut index = vec![0; outer.len()];
            for _ in 0..element_count(outer)? {
                let place = |steps: &[usize]| index.iter().zip(steps).map(|(at, step)| at * step).sum::<usize>();
                let (from, to) = (place(&steps), place(&targets));
                for number in 0..last {
                    let to = &mut data[to + number * target];
                    *to = to.plus(self.data[from + number * step]);
                }
                advance(&mut index, outer);
            }
        }
        Ok(Part {
            labels: order.to_vec(),
            shape,
            data: Cow::Owned(data),
        })
    }

    fn has(&self, label: usize) -> bool {
        self.labels.contains(&label)
    }

    fn extent(&self, labels: &[usize]) -> usize {
        let size = |label: &usize| {
            self.labels
                .iter()
                .position(|own| own == label)
                .map_or(1, |axis| self.shape[axis])
        };
        labels.iter().map(size).product()
    }

    /// The distinct dimensions for which `keep` says so, in order.
    fn select(&self, keep: impl Fn(usize) -> bool) -> Vec<usize> {
        let mut selected: Vec<usize> = Vec::new();
        for &label in &self.labels {
            if keep(label) && !selected.contains(&label) {
                selected.push(label);
            }
        }
        selected
    }

    /// The product with another array, summed over what is not `needed` later.
    fn times(self, other: Part<'a, T>, needed: &dyn Fn(usize) -> bool) -> Result<Part<'a, T>> {
        let batch = self.select(|label| other.has(label) && needed(label));
        let summed = self.select(|label| other.has(label) && !needed(label));
        let rows = self.select(|label| !other.has(label) && needed(label));
        let columns = other.select(|label| !self.has(label) && needed(label));
        let transposed = [
            self.labels == [&batch[..], &summed, &rows].concat(),
            other.labels == [&batch[..], &columns, &summed].concat(),
        ];
        let order = |first: &[usize], second: &[usize]| [&batch[..], first, second].concat();
        let left = match transposed[0] {
            true => self,
            false => self.arranged(&order(&rows, &summed))?,
        };
        let right = match transposed[1] {
            true => other,
            false => other.arranged(&order(&summed, &columns))?,
        };
        let shape = GemmShape {
            m: left.extent(&rows),
            k: left.extent(&summed),
            n: right.extent(&columns),
        };
        let labels = order(&rows, &columns);
        let size = |label: &usize| {
            if left.has(*label) {
                left.extent(&[*label])
            } else {
                right.extent(&[*label])
            }
        };
        let dims: Vec<usize> = labels.iter().map(size).collect();
        let mut data: Vec<T> = zeros(&dims)?;
        let GemmShape { m, k, n } = shape;
        for (number, out) in data.chunks_exact_mut((m * n).max(1)).enumerate() {
            let (a, b) = (
                &left.data[number * m * k..][..m * k],
                &right.data[number * k * n..][..k * n],
            );
            T::multiply(shape, a, b, transposed, out)?;
        }
        Ok(Part {
            labels,
            shape: dims,
            data: Cow::Owned(data),
        })
    }
}

fn contract<T: Arithmetic>(
    data: Vec<Cow<'_, [T]>>,
    tensors: &[&Tensor],
    operands: &[Vec<usize>],
    output: &[usize],
    sizes: &Sizes,
) -> Result<Vec<T>> {
    let parts = data
        .into_iter()
        .zip(tensors)
        .zip(operands)
        .map(|((data, tensor), labels)| {
            // Dimensions of size 1 that broadcast are as good as missing.
            let kept = || (0..labels.len()).filter(|&axis| tensor.shape()[axis] == sizes.of(labels[axis]));
            Part {
                labels: kept().map(|axis| labels[axis]).collect(),
                shape: kept().map(|axis| tensor.shape()[axis]).collect(),
                data,
            }
        });
    let mut parts = parts.enumerate();
    let (_, mut result) = parts.next().ok_or_else(|| invalid("there is no operand"))?;
    for (index, part) in parts {
        let later = &operands[index + 1..];
        let needed = |label: usize| output.contains(&label) || later.iter().any(|labels| labels.contains(&label));
        result = result.times(part, &needed)?;
    }
    Ok(result.arranged(output)?.data.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        cpu::testing::Rng,
        ops::testing::{TestNode, assert_tensor_close, f32s, tensor},
    };

    fn node(equation: &str, operands: &[Tensor]) -> TestNode {
        let node = TestNode::new("Einsum", 12).attr("equation", equation);
        operands.iter().cloned().fold(node, TestNode::input)
    }

    /// The sum by its definition, for equations of letters with an arrow.
    fn reference(equation: &str, operands: &[Tensor]) -> Tensor {
        let (left, right) = equation.split_once("->").unwrap();
        let terms: Vec<&[u8]> = left.split(',').map(str::as_bytes).collect();
        let mut letters: Vec<u8> = right.bytes().collect();
        letters.extend(terms.iter().copied().flatten());
        let mut seen = Vec::new();
        letters.retain(|letter| {
            !seen.contains(letter) && {
                seen.push(*letter);
                true
            }
        });
        let size = |letter: u8| {
            let places = terms.iter().zip(operands);
            places
                .flat_map(|(term, x)| term.iter().zip(x.shape()))
                .filter(|(other, _)| **other == letter)
                .map(|(_, size)| *size)
                .max()
                .unwrap()
        };
        let dims: Vec<usize> = letters.iter().map(|&letter| size(letter)).collect();
        let mut out = vec![0f32; dims[..right.len()].iter().product()];
        let inner: usize = dims[right.len()..].iter().product();
        for number in 0..dims.iter().product::<usize>() {
            let at = |letter: u8| {
                let axis = letters.iter().position(|&other| other == letter).unwrap();
                number / dims[axis + 1..].iter().product::<usize>() % dims[axis]
            };
            let factor = |(term, x): (&&[u8], &Tensor)| {
                let place = term
                    .iter()
                    .zip(x.shape())
                    .fold(0, |place, (&letter, &size)| place * size + at(letter).min(size - 1));
                x.to_f32s().unwrap()[place]
            };
            out[number / inner] += terms.iter().zip(operands).map(factor).product::<f32>();
        }
        f32s(&dims[..right.len()], &out)
    }

    #[test]
    fn equations_match_their_definition() {
        let mut rng = Rng::new(8);
        for equation in [
            "ij->ji",
            "ii->i",
            "ii->",
            "iji->j",
            "ij,jk->ik",
            "bij,bjk->bik",
            "bik,bjk->bij",
            "bki,bkj->ijb",
            "i,j->ij",
            "i,i->",
            "ij,jk,kl->il",
            "abc,cd,b->da",
            "bhqd,bkhd->bhqk",
            "ab,ac->bc",
            "ijk,ijk->j",
            "ij,k->",
            "aab,b->a",
        ] {
            let (left, _) = equation.split_once("->").unwrap();
            let operands: Vec<Tensor> = left
                .split(',')
                .map(|term| {
                    let shape: Vec<usize> = term.bytes().map(|letter| 2 + usize::from(letter) % 3).collect();
                    f32s(&shape, &rng.vec(shape.iter().product()))
                })
                .collect();
            let actual = node(equation, &operands).run1().unwrap();
            assert_tensor_close(&actual, &reference(equation, &operands), 1e-5);
        }
    }

    #[test]
    fn ellipses_broadcast_and_results_may_be_implied() {
        let x = f32s(&[2, 1, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        let y = f32s(&[2, 3], &[1.0, 1.0, 1.0, 2.0, 2.0, 2.0]);
        let broadcast = node("...i,...i->...", &[x.clone(), y]).run1().unwrap();
        assert_eq!(broadcast, f32s(&[2, 2], &[6.0, 12.0, 15.0, 30.0]));
        assert_eq!(
            node("b...a", std::slice::from_ref(&x)).run1().unwrap().shape(),
            [1, 3, 2]
        );
        assert_eq!(
            node(" ...j i -> ", std::slice::from_ref(&x)).run1().unwrap(),
            f32s(&[], &[21.0])
        );
        let one = f32s(&[1, 3], &[1.0, 10.0, 100.0]);
        assert_eq!(
            node("ik,jk", &[one.clone(), one]).run1().unwrap(),
            f32s(&[1, 1], &[10101.0])
        );
        assert_eq!(node("i...", &[f32s(&[0, 2], &[])]).run1().unwrap(), f32s(&[2, 0], &[]));
        assert_eq!(
            node("ij,jk", &[f32s(&[2, 0], &[]), f32s(&[0, 1], &[])]).run1().unwrap(),
            f32s(&[2, 1], &[0.0; 2])
        );
    }

    #[test]
    fn integers_wrap_and_mistakes_are_errors() {
        let bytes = tensor::<u8>(&[2], &[200, 3]);
        assert_eq!(
            node("i,i->i", &[bytes.clone(), bytes]).run1().unwrap(),
            tensor::<u8>(&[2], &[64, 9])
        );
        let doubles = tensor::<f64>(&[1, 2], &[0.1, 0.2]);
        assert_eq!(
            node("ij->j", &[doubles]).run1().unwrap(),
            tensor::<f64>(&[2], &[0.1, 0.2])
        );
        let x = || f32s(&[2, 3], &[0.0; 6]);
        for equation in ["ij->k", "ij->ii", "i", "ijk", "ij,jk->ik", "i1->i", "......ij", "ii->i"] {
            assert!(node(equation, &[x()]).run().is_err(), "{equation}");
        }
    }
}
