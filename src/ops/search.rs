//! Operators that look for elements: OneHot, Compress, NonZero, Unique and TopK.

use std::cmp::Ordering;

use super::{
    ALL_OPERATORS, CpuLowering, GpuLowering, InferContext, Operator,
    elements::take,
    lower::{Concrete, Movement, invalid, lower_movement, mismatch},
};
use crate::{
    cpu::{
        elementwise::{TILE, Wide},
        kernel::{CpuKernel, KernelInputs},
        movement::{self, MoveFn},
    },
    error::{Error, ErrorCode, Result},
    gpu::{
        kernel::{GpuKernel, GpuType},
        kernels::{indexed, lines},
    },
    graph::Node,
    tensor::{DType, Dim, Tensor, display_shape, resolve_axis, sorted_positions, strides_of},
};

/// ONNX `OneHot` (opset 9): a new dimension at `axis` of size `depth`, which holds the on-value where its index is the
/// input's element and the off-value elsewhere. Negative indices count from the end; those out of range are nowhere on.
#[derive(Debug)]
struct OneHot {
    axis: i64,
}

/// Makes [`OneHot`].
pub fn make_one_hot(node: &Node) -> Result<Box<dyn Operator>> {
    Ok(Box::new(OneHot {
        axis: node.attributes.int("axis")?.unwrap_or(-1),
    }))
}

impl Operator for OneHot {
    fn infer(&self, ctx: &mut InferContext<'_>) -> Result<()> {
        let dtype = ctx.dtype(2)?;
        let depth = if ctx.dtype(1)?.is_float() {
            let constant = ctx
                .constant(1)
                .and_then(|tensor| tensor.to_f32s().ok()?.first().copied());
            constant.map(|depth| Dim::from(depth as i64))
        } else {
            ctx.elements(1).and_then(|elements| elements.into_iter().next())
        };
        let shape = match ctx.shape(0) {
            Some(input) => {
                let axis = resolve_axis(self.axis, input.len() + 1)?;
                let mut shape = input.to_vec();
                shape.insert(axis, depth.unwrap_or_else(|| ctx.fresh_dim()));
                Some(shape)
            }
            None => None,
        };
        ctx.set_output(0, dtype, shape);
        Ok(())
    }

    fn cpu(&self, ctx: &CpuLowering<'_>) -> Result<CpuKernel> {
        lower_movement(self, ctx)
    }

    fn gpu(&self, ctx: &GpuLowering<'_>) -> Result<Option<GpuKernel>> {
        if !ALL_OPERATORS {
            return Ok(None);
        }
        let output = ctx.output(0)?;
        let axis = resolve_axis(self.axis, output.shape.len())?;
        let (before, after) = (&output.shape[..axis], &output.shape[axis + 1..]);
        let sides = [before.iter().product(), output.shape[axis], after.iter().product()];
        let indices = ctx.input(0)?;
        let (Some(ty), Some(values)) = (GpuType::held(indices.dtype), GpuType::held(output.dtype)) else {
            return Ok(None);
        };
        if values == GpuType::I64 || ctx.input(2)?.shape != [2] {
            return Ok(None);
        }
        Ok(indexed::one_hot(ty, sides, ctx.caps))
    }

    fn takes_narrowed(&self) -> bool {
        true
    }
}

/// The numbers of an input of any numeric type, as `i64`.
fn numbers(inputs: &KernelInputs<'_>, index: usize) -> Result<Vec<i64>> {
    let input = inputs.0.get(index).copied().flatten();
    let input = input.ok_or_else(|| Error::internal("an input is missing"))?;
    // Types of less than a byte and whole bytes apart: a number of bits may not fit 32 bits.
    let bits = input.dtype.bits().unwrap_or(8).max(1);
    let count = if bits < 8 {
        input.bytes.len() * (8 / bits)
    } else {
        input.bytes.len() / (bits / 8)
    };
    let mut values = vec![0i64; count];
    if input.dtype.is_float() {
        let mut floats = vec![0f64; count];
        f64::load(input.dtype, input.bytes, 0, 1, &mut floats)?;
        values.iter_mut().zip(floats).for_each(|(to, from)| *to = from as i64);
    } else {
        i64::load(input.dtype, input.bytes, 0, 1, &mut values)?;
    }
    Ok(values)
}

impl Movement for OneHot {
    fn kernel_name(&self) -> &'static str {
        "one_hot"
    }

    fn data(&self, _: &[bool]) -> Vec<usize> {
        vec![2]
    }

    fn movement(&self, node: &Concrete) -> Result<Box<MoveFn>> {
        let output = node.output()?;
        let axis = resolve_axis(self.axis, output.len())?;
        let depth = output[axis];
        let inner: usize = output[axis + 1..].iter().product();
        if node.input(2)? != [2] {
            return Err(mismatch("the values are not an off-value and an on-value"));
        }
        Ok(Box::new(move |moved| {
            let indices = numbers(moved.inputs, 0)?;
            let (size, values) = (moved.size, moved.data[0]);
            let target = moved.output()?;
            movement::fill(size, target, values)?;
            for (number, &index) in indices.iter().enumerate() {
                let index = if index < 0 {
                    index.saturating_add(depth as i64)
                } else {
                    index
                };
                if (0..depth as i64).contains(&index) {
                    let (outer, column) = (number / inner.max(1), number % inner.max(1));
                    let start = ((outer * depth + index as usize) * inner + column) * size;
                    target[start..start + size].copy_from_slice(&values[size..2 * size]);
                }
            }
            Ok(())
        }))
    }
}

fn given(inputs: &[Option<Tensor>], index: usize) -> Result<&Tensor> {
    let tensor = inputs.get(index).and_then(Option::as_ref);
    tensor.ok_or_else(|| Error::internal(format!("input {index} is missing")))
}

/// ONNX `Compress` (opset 9): the slices along `axis` (or elements of the flattened input) where the condition, which may
/// be shorter, is true. Any element type.
#[derive(Debug)]
struct Compress {
    axis: Option<i64>,
}

/// Makes [`Compress`].
pub fn make_compress(node: &Node) -> Result<Box<dyn Operator>> {
    Ok(Box::new(Compress {
        axis: node.attributes.int("axis")?,
    }))
}

impl Operator for Compress {
    fn infer(&self, ctx: &mut InferContext<'_>) -> Result<()> {
        let dtype = ctx.dtype(0)?;
        if ctx.dtype(1)? != DType::Bool {
            return Err(invalid("the condition is not bool"));
        }
        let shape = match (self.axis, ctx.shape(0)) {
            (None, _) => Some(vec![ctx.fresh_dim()]),
            (Some(_), None) => None,
            (Some(axis), Some(input)) => {
                let axis = resolve_axis(axis, input.len())?;
                let mut shape = input.to_vec();
                shape[axis] = ctx.fresh_dim();
                Some(shape)
            }
        };
        ctx.set_output(0, dtype, shape);
        Ok(())
    }

    fn cpu(&self, _: &CpuLowering<'_>) -> Result<CpuKernel> {
        let axis = self.axis;
        Ok(CpuKernel::dynamic("compress", move |inputs| {
            let tensor = given(inputs, 0)?;
            let condition = given(inputs, 1)?.to_i64s()?;
            let flat = [tensor.len()];
            let (shape, axis) = match axis {
                Some(axis) => (tensor.shape(), resolve_axis(axis, tensor.shape().len())?),
                None => (&flat[..], 0),
            };
            let chosen: Vec<usize> = (0..condition.len()).filter(|&index| condition[index] != 0).collect();
            if let Some(&index) = chosen.last().filter(|&&index| index >= shape[axis]) {
                return Err(Error::new(
                    ErrorCode::RunFailed,
                    "the condition is true beyond the end of the dimension",
                )
                .expected(format!("an index below {}", shape[axis]))
                .actual(index.to_string()));
            }
            let inner: usize = shape[axis + 1..].iter().product();
            let outer: usize = shape[..axis].iter().product();
            let mut places = Vec::with_capacity(outer * chosen.len() * inner);
            for number in 0..outer {
                for &index in &chosen {
                    let start = (number * shape[axis] + index) * inner;
                    places.extend(start..start + inner);
                }
            }
            let mut result = shape.to_vec();
            result[axis] = chosen.len();
            Ok(vec![take(tensor, &result, &places)?])
        }))
    }
}

/// ONNX `NonZero` (opset 9): the indices of the elements that are not zero (or an empty string), one row for each
/// dimension.
#[derive(Debug)]
struct NonZero;

/// Makes [`NonZero`].
pub fn make_non_zero(_: &Node) -> Result<Box<dyn Operator>> {
    Ok(Box::new(NonZero))
}

/// The places of a tensor's elements that are not zero.
fn nonzero_places(tensor: &Tensor) -> Result<Vec<usize>> {
    let dtype = tensor.dtype();
    if dtype == DType::String {
        let strings = tensor.strings()?;
        return Ok((0..strings.len()).filter(|&place| !strings[place].is_empty()).collect());
    }
    let tensor = tensor.aligned()?;
    let mut places = Vec::new();
    let mut start = 0;
    while start < tensor.len() {
        let len = TILE.min(tensor.len() - start);
        if dtype.is_float() {
            let mut tile = [0f64; TILE];
            f64::load(dtype, tensor.bytes(), start, 1, &mut tile[..len])?;
            places.extend((0..len).filter(|&index| tile[index] != 0.0).map(|index| start + index));
        } else {
            let mut tile = [0i64; TILE];
            i64::load(dtype, tensor.bytes(), start, 1, &mut tile[..len])?;
            places.extend((0..len).filter(|&index| tile[index] != 0).map(|index| start + index));
        }
        start += len;
    }
    Ok(places)
}

/// The indices of these places, row by row.
fn indices_of(shape: &[usize], places: &[usize]) -> Vec<i64> {
    let rows = strides_of(shape).into_iter().zip(shape);
    rows.flat_map(|(stride, &dim)| places.iter().map(move |place| (place / stride % dim) as i64))
        .collect()
}

impl Operator for NonZero {
    fn infer(&self, ctx: &mut InferContext<'_>) -> Result<()> {
        ctx.dtype(0)?;
        let Some(rank) = ctx.rank(0) else {
            ctx.set_output(0, DType::I64, None);
            return Ok(());
        };
        let rank = rank.max(1);
        let Some((places, shape)) = known_places(ctx)? else {
            let count = ctx.fresh_dim();
            ctx.set_output(0, DType::I64, Some(vec![Dim::from(rank), count]));
            return Ok(());
        };
        ctx.set_output(0, DType::I64, Some(vec![Dim::from(rank), Dim::from(places.len())]));
        let elements = indices_of(&shape, &places).into_iter().map(Dim::from).collect();
        ctx.set_elements(0, elements);
        Ok(())
    }

    fn cpu(&self, _: &CpuLowering<'_>) -> Result<CpuKernel> {
        Ok(CpuKernel::dynamic("non_zero", |inputs| {
            let tensor = given(inputs, 0)?;
            let shape = at_least_one_dimension(tensor.shape());
            let places = nonzero_places(tensor)?;
            Ok(vec![Tensor::new(
                &[shape.len(), places.len()],
                indices_of(&shape, &places),
            )?])
        }))
    }
}

fn at_least_one_dimension(shape: &[usize]) -> Vec<usize> {
    if shape.is_empty() { vec![1] } else { shape.to_vec() }
}

/// The nonzero places of an input whose elements are known, and its shape.
fn known_places(ctx: &InferContext<'_>) -> Result<Option<(Vec<usize>, Vec<usize>)>> {
    let Some(facts) = ctx.input(0) else { return Ok(None) };
    let Some(shape) = facts.concrete_shape() else {
        return Ok(None);
    };
    let shape = at_least_one_dimension(&shape);
    if let Some(constant) = &facts.constant {
        return Ok(Some((nonzero_places(constant)?, shape)));
    }
    let elements = facts.elements.as_ref();
    let known = elements.and_then(|list| list.iter().map(Dim::known).collect::<Option<Vec<_>>>());
    Ok(known.map(|list| ((0..list.len()).filter(|&index| list[index] != 0).collect(), shape)))
}

/// ONNX `Unique` (opset 11): the different slices along `axis` (or elements of the flattened input), sorted or in the
/// order of their first appearance; where each first appears, which each of the input's is, and how often.
#[derive(Debug)]
struct Unique {
    axis: Option<i64>,
    sorted: bool,
}

/// Makes [`Unique`].
pub fn make_unique(node: &Node) -> Result<Box<dyn Operator>> {
    Ok(Box::new(Unique {
        axis: node.attributes.int("axis")?,
        sorted: node.attributes.flag("sorted", true)?,
    }))
}

/// The elements of a tensor in a form that has an order.
enum Keys {
    Ints(Vec<i64>),
    Floats(Vec<f64>),
    Strings(Vec<String>),
}

impl Keys {
    fn of(tensor: &Tensor) -> Result<Keys> {
        let dtype = tensor.dtype();
        let tensor = tensor.aligned()?;
        if dtype == DType::String {
            return Ok(Keys::Strings(tensor.strings()?.to_vec()));
        }
        if dtype.is_float() {
            let mut values = vec![0f64; tensor.len()];
            f64::load(dtype, tensor.bytes(), 0, 1, &mut values)?;
            return Ok(Keys::Floats(values));
        }
        let mut values = vec![0i64; tensor.len()];
        i64::load(dtype, tensor.bytes(), 0, 1, &mut values)?;
        if dtype == DType::U64 {
            // Adding the sign bit orders the bits of u64 as i64 orders itself.
            values.iter_mut().for_each(|value| *value ^= i64::MIN);
        }
        Ok(Keys::Ints(values))
    }

    fn compare(&self, a: usize, b: usize) -> Ordering {
        match self {
            Keys::Ints(list) => list[a].cmp(&list[b]),
            Keys::Floats(list) => compare_floats(list[a], list[b]),
            Keys::Strings(list) => list[a].cmp(&list[b]),
        }
    }
}

/// The order of floats, with NaN above all and equal to itself.
fn compare_floats(a: f64, b: f64) -> Ordering {
    a.partial_cmp(&b).unwrap_or_else(|| a.is_nan().cmp(&b.is_nan()))
}

impl Operator for Unique {
    fn infer(&self, ctx: &mut InferContext<'_>) -> Result<()> {
        let dtype = ctx.dtype(0)?;
        let count = ctx.fresh_dim();
        let (shape, len) = match (self.axis, ctx.shape(0)) {
            (None, input) => (Some(vec![count.clone()]), input.map(Dim::product)),
            (Some(axis), Some(input)) => {
                let axis = resolve_axis(axis, input.len())?;
                let mut shape = input.to_vec();
                let len = std::mem::replace(&mut shape[axis], count.clone());
                (Some(shape), Some(len))
            }
            (Some(_), None) => (None, None),
        };
        let len = len.unwrap_or_else(|| ctx.fresh_dim());
        ctx.set_output(0, dtype, shape);
        ctx.set_output(1, DType::I64, Some(vec![count.clone()]));
        ctx.set_output(2, DType::I64, Some(vec![len]));
        ctx.set_output(3, DType::I64, Some(vec![count]));
        Ok(())
    }

    fn cpu(&self, ctx: &CpuLowering<'_>) -> Result<CpuKernel> {
        let (axis, is_sorted) = (self.axis, self.sorted);
        let outputs = ctx.outputs.len();
        Ok(CpuKernel::dynamic("unique", move |inputs| {
            let mut results = unique(given(inputs, 0)?, axis, is_sorted)?;
            results.truncate(outputs);
            Ok(results)
        }))
    }
}

fn unique(tensor: &Tensor, axis: Option<i64>, is_sorted: bool) -> Result<Vec<Tensor>> {
    let flat = [tensor.len()];
    let (shape, axis) = match axis {
        Some(axis) => (tensor.shape(), resolve_axis(axis, tensor.shape().len())?),
        None => (&flat[..], 0),
    };
    let keys = Keys::of(tensor)?;
    let len = shape[axis];
    let inner: usize = shape[axis + 1..].iter().product();
    let outer: usize = shape[..axis].iter().product();
    let place = |slice: usize, number: usize| (number / inner * len + slice) * inner + number % inner;
    let compare = |a: usize, b: usize| {
        let orders = (0..outer * inner).map(|number| keys.compare(place(a, number), place(b, number)));
        orders
            .into_iter()
            .find(|order| order.is_ne())
            .unwrap_or(Ordering::Equal)
    };
    let order = sorted_positions(len, &compare);
    let mut groups: Vec<Vec<usize>> = Vec::new();
    for slice in order {
        match groups.last_mut() {
            Some(group) if compare(group[0], slice).is_eq() => group.push(slice),
            _ => groups.push(vec![slice]),
        }
    }
    if !is_sorted {
        let order = sorted_positions(groups.len(), &|a, b| groups[a][0].cmp(&groups[b][0]));
        groups = order
            .into_iter()
            .map(|group| std::mem::take(&mut groups[group]))
            .collect();
    }
    let mut inverse = vec![0i64; len];
    for (number, group) in groups.iter().enumerate() {
        group.iter().for_each(|&slice| inverse[slice] = number as i64);
    }
    let first: Vec<i64> = groups.iter().map(|group| group[0] as i64).collect();
    let counts: Vec<i64> = groups.iter().map(|group| group.len() as i64).collect();
    let mut result = shape.to_vec();
    result[axis] = groups.len();
    let mut places = Vec::new();
    for number in 0..outer {
        for group in &groups {
            let start = (number * len + group[0]) * inner;
            places.extend(start..start + inner);
        }
    }
    let count = groups.len();
    Ok(vec![
        take(tensor, &result, &places)?,
        Tensor::new(&[count], first)?,
        Tensor::new(&[len], inverse)?,
        Tensor::new(&[count], counts)?,
    ])
}

/// ONNX `TopK`: the `k` largest (or, with `largest = 0`, smallest) elements along `axis` and their indices, in order; of
/// equal ones the first. `k` is an attribute before opset 10 and the second input from then on. NaN counts as largest.
#[derive(Debug)]
struct TopK {
    axis: i64,
    k: Option<i64>,
    largest: bool,
}

/// Makes [`TopK`].
pub fn make_top_k(node: &Node) -> Result<Box<dyn Operator>> {
    // Unsorted results may be in any order, also the sorted one.
    node.attributes.flag("sorted", true)?;
    let k = if node.operator.version < 10 {
        Some(
            node.attributes
                .int("k")?
                .ok_or_else(|| invalid("attribute k is missing"))?,
        )
    } else {
        None
    };
    Ok(Box::new(TopK {
        axis: node.attributes.int("axis")?.unwrap_or(-1),
        k,
        largest: node.attributes.flag("largest", true)?,
    }))
}

impl Operator for TopK {
    fn infer(&self, ctx: &mut InferContext<'_>) -> Result<()> {
        let dtype = ctx.dtype(0)?;
        let k = match self.k {
            Some(k) => Some(Dim::from(k)),
            None => ctx.elements(1).and_then(|elements| elements.into_iter().next()),
        };
        let shape = match ctx.shape(0) {
            Some(input) => {
                let axis = resolve_axis(self.axis, input.len())?;
                let mut shape = input.to_vec();
                let dim = std::mem::replace(&mut shape[axis], k.unwrap_or_else(|| ctx.fresh_dim()));
                let is_outside = |k: i64| k < 0 || dim.known().is_some_and(|dim| k > dim);
                if let Some(k) = shape[axis].known().filter(|&k| is_outside(k)) {
                    return Err(mismatch("k is outside the dimension")
                        .expected(format!("0 to {dim}"))
                        .actual(k.to_string()));
                }
                Some(shape)
            }
            None => None,
        };
        ctx.set_output(0, dtype, shape.clone());
        ctx.set_output(1, DType::I64, shape);
        Ok(())
    }

    fn cpu(&self, ctx: &CpuLowering<'_>) -> Result<CpuKernel> {
        let input = ctx.input(0)?;
        let output = ctx.optional_output(0).or(ctx.optional_output(1));
        let output = output.ok_or_else(|| Error::internal("no output is wanted"))?;
        if !ctx.outputs_known {
            return Err(mismatch("input k is not one number"));
        }
        let axis = resolve_axis(self.axis, input.shape.len())?;
        let rows = Rows {
            len: input.shape[axis],
            k: output.shape[axis],
            inner: input.shape[axis + 1..].iter().product(),
            outer: input.shape[..axis].iter().product(),
        };
        if rows.k > rows.len {
            return Err(mismatch("k is larger than the dimension").actual(display_shape(&output.shape)));
        }
        let (dtype, largest) = (input.dtype, self.largest);
        let Some(width) = dtype.bits().filter(|bits| bits % 8 == 0).map(|bits| bits / 8) else {
            return Err(ctx.unsupported_type(0));
        };
        if !dtype.is_float() && !dtype.is_integer() {
            return Err(ctx.unsupported_type(0));
        }
        Ok(CpuKernel::compute("top_k", move |io| {
            rows.run(io, dtype, width, largest)
        }))
    }

    fn gpu(&self, ctx: &GpuLowering<'_>) -> Result<Option<GpuKernel>> {
        if !ALL_OPERATORS {
            return Ok(None);
        }
        let input = ctx.input(0)?;
        let outputs = [ctx.optional_output(0), ctx.optional_output(1)];
        let (Some(output), Some(ty)) = (outputs[0].or(outputs[1]), GpuType::from_dtype(input.dtype)) else {
            return Ok(None);
        };
        if ty == GpuType::Bool {
            return Ok(None);
        }
        let axis = resolve_axis(self.axis, input.shape.len())?;
        let (before, after) = (&input.shape[..axis], &input.shape[axis + 1..]);
        let sides = [before.iter().product(), input.shape[axis], after.iter().product()];
        let wanted = outputs.map(|output| output.is_some());
        Ok(lines::top_k(
            ty,
            sides,
            output.shape[axis],
            self.largest,
            wanted,
            ctx.caps,
        ))
    }

    fn takes_narrowed(&self) -> bool {
        true
    }
}

/// Numbers in the order of the floats, NaN last.
fn order_of(value: f64) -> i64 {
    if value.is_nan() {
        return i64::MAX;
    }
    // Adding 0 makes one zero of the two.
    let bits = (value + 0.0).to_bits() as i64;
    bits ^ (((bits >> 63) as u64) >> 1) as i64
}

/// The rows in which TopK looks.
struct Rows {
    len: usize,
    k: usize,
    inner: usize,
    outer: usize,
}

impl Rows {
    fn run(&self, io: &mut crate::cpu::kernel::KernelIo<'_>, dtype: DType, width: usize, largest: bool) -> Result<()> {
        let source = io.inputs.bytes(0)?;
        let mut values = io.outputs.has(0).then(|| io.outputs.take_bytes(0)).transpose()?;
        let mut indices = io.outputs.has(1).then(|| io.outputs.take::<i64>(1)).transpose()?;
        let floats = if dtype.is_float() { self.len } else { 0 };
        let (mut keys, mut floats) = (vec![0i64; self.len], vec![0f64; floats]);
        let mut order = Vec::with_capacity(self.len);
        if self.k == 0 {
            return Ok(());
        }
        // The order of u64 with its highest bit flipped is that of i64; flipping all bits turns it round.
        let flip = if dtype == DType::U64 { i64::MIN } else { 0 } ^ if largest { -1 } else { 0 };
        for outer in 0..self.outer {
            for inner in 0..self.inner {
                let start = outer * self.len * self.inner + inner;
                if dtype.is_float() {
                    f64::load(dtype, source, start, self.inner, &mut floats)?;
                    keys.iter_mut()
                        .zip(&floats)
                        .for_each(|(key, &value)| *key = order_of(value));
                } else {
                    i64::load(dtype, source, start, self.inner, &mut keys)?;
                }
                keys.iter_mut().for_each(|key| *key ^= flip);
                order.clear();
                order.extend(0..self.len);
                let by_key = |&a: &usize, &b: &usize| keys[a].cmp(&keys[b]).then(a.cmp(&b));
                if self.k < self.len {
                    order.select_nth_unstable_by(self.k - 1, by_key);
                }
                order[..self.k].sort_unstable_by(by_key);
                for (number, &index) in order[..self.k].iter().enumerate() {
                    let to = (outer * self.k + number) * self.inner + inner;
                    if let Some(values) = &mut values {
                        let from = (start + index * self.inner) * width;
                        values[to * width..(to + 1) * width].copy_from_slice(&source[from..from + width]);
                    }
                    if let Some(indices) = &mut indices {
                        indices[to] = index as i64;
                    }
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{TestNode, f32s, i64s, tensor};
    use super::*;
    use crate::tensor::Bool8;

    #[test]
    fn one_hot_places_the_on_value() {
        let node = |axis: i64| {
            let node = TestNode::new("OneHot", 11)
                .attr("axis", axis)
                .input(i64s(&[3], &[1, -1, 7]));
            node.constant(i64s(&[], &[2]))
                .input(f32s(&[2], &[0.5, 9.0]))
                .run1()
                .unwrap()
        };
        assert_eq!(node(-1), f32s(&[3, 2], &[0.5, 9.0, 0.5, 9.0, 0.5, 0.5]));
        assert_eq!(node(0), f32s(&[2, 3], &[0.5, 0.5, 0.5, 9.0, 9.0, 0.5]));
    }

    #[test]
    fn compress_keeps_what_the_condition_says() {
        let x = || i64s(&[2, 3], &[1, 2, 3, 4, 5, 6]);
        let condition = |list: &[u8]| tensor(&[list.len()], &list.iter().map(|&v| Bool8(v)).collect::<Vec<_>>());
        let columns = TestNode::new("Compress", 11)
            .attr("axis", -1)
            .input(x())
            .input(condition(&[1, 0, 1]));
        assert_eq!(columns.run1().unwrap(), i64s(&[2, 2], &[1, 3, 4, 6]));
        let flat = TestNode::new("Compress", 11).input(x()).input(condition(&[0, 1, 0, 1]));
        assert_eq!(flat.run1().unwrap(), i64s(&[2], &[2, 4]));
        let beyond = TestNode::new("Compress", 11)
            .attr("axis", 0)
            .input(x())
            .input(condition(&[0, 0, 1]));
        assert_eq!(beyond.run().unwrap_err().code(), ErrorCode::RunFailed);
    }

    #[test]
    fn nonzero_elements_are_found_in_every_type() {
        let node = |x: Tensor| TestNode::new("NonZero", 13).input(x).run1().unwrap();
        let expected = i64s(&[2, 2], &[0, 1, 1, 0]);
        assert_eq!(node(f32s(&[2, 2], &[0.0, f32::NAN, -1.0, -0.0])), expected);
        assert_eq!(node(tensor(&[2, 2], &[0u8, 1, 5, 0].map(Bool8))), expected);
        assert_eq!(node(i64s(&[], &[3])), i64s(&[1, 1], &[0]));
        let strings = Tensor::from_strings(&[2], vec![String::new(), "0".into()]).unwrap();
        assert_eq!(node(strings), i64s(&[1, 1], &[1]));
        let known = TestNode::new("NonZero", 13)
            .constant(i64s(&[3], &[1, 0, 1]))
            .infer()
            .unwrap();
        assert_eq!(known[0].concrete_shape(), Some(vec![1, 2]));
        assert_eq!(known[0].elements.as_deref(), Some(&[Dim::from(0), Dim::from(2)][..]));
    }

    #[test]
    fn unique_sorts_or_keeps_the_order() {
        let x = || f32s(&[5], &[2.0, 1.0, 1.0, 3.0, 2.0]);
        let sorted = TestNode::new("Unique", 11).outputs(4).input(x()).run().unwrap();
        assert_eq!(sorted[0], f32s(&[3], &[1.0, 2.0, 3.0]));
        assert_eq!(sorted[1], i64s(&[3], &[1, 0, 3]));
        assert_eq!(sorted[2], i64s(&[5], &[1, 0, 0, 2, 1]));
        assert_eq!(sorted[3], i64s(&[3], &[2, 2, 1]));
        let kept = TestNode::new("Unique", 11).attr("sorted", 0).input(x()).run1().unwrap();
        assert_eq!(kept, f32s(&[3], &[2.0, 1.0, 3.0]));
        let rows = TestNode::new("Unique", 11)
            .attr("axis", 0)
            .input(i64s(&[3, 2], &[5, 6, 1, 2, 5, 6]))
            .run1()
            .unwrap();
        assert_eq!(rows, i64s(&[2, 2], &[1, 2, 5, 6]));
        let strings = Tensor::from_strings(&[3], ["b", "a", "b"].map(String::from).to_vec()).unwrap();
        let result = TestNode::new("Unique", 11).input(strings).run1().unwrap();
        assert_eq!(result.strings().unwrap(), ["a", "b"]);
    }

    #[test]
    fn top_k_orders_and_prefers_the_first_of_equals() {
        let x = || f32s(&[2, 4], &[1.0, 4.0, 4.0, 2.0, 8.0, 7.0, 6.0, 5.0]);
        let node = |k: i64| {
            TestNode::new("TopK", 11)
                .outputs(2)
                .input(x())
                .constant(i64s(&[1], &[k]))
        };
        let results = node(2).run().unwrap();
        assert_eq!(
            results,
            [f32s(&[2, 2], &[4.0, 4.0, 8.0, 7.0]), i64s(&[2, 2], &[1, 2, 0, 1])]
        );
        let smallest = node(3).attr("largest", 0).run().unwrap();
        assert_eq!(smallest[1], i64s(&[2, 3], &[0, 3, 1, 3, 2, 1]));
        let columns = node(1).attr("axis", 0).wanted(&[false, true]).run().unwrap();
        assert_eq!(columns, [i64s(&[1, 4], &[1, 1, 1, 1])]);
        assert!(node(5).run().is_err());
        let attribute = TestNode::new("TopK", 1)
            .attr("k", 1)
            .outputs(2)
            .input(tensor(&[2], &[f64::NAN, 9.0]));
        assert_eq!(attribute.run().unwrap()[1], i64s(&[1], &[0]));
        let unsigned = TestNode::new("TopK", 11)
            .outputs(2)
            .input(tensor(&[2], &[1u64, u64::MAX]))
            .constant(i64s(&[1], &[1]));
        assert_eq!(unsigned.run().unwrap()[0], tensor(&[1], &[u64::MAX]));
    }
}
