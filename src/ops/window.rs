//! Sliding windows: the attributes that convolution and pooling share (`kernel_shape`, `strides`, `dilations`, `pads`,
//! `auto_pad`, `ceil_mode`), the output's size as a symbolic formula, and the concrete geometry.

use super::{
    TensorDesc,
    context::{equal_dims, rank_error},
};
use crate::{
    cpu::conv::{ConvParams, spatial},
    error::{Error, ErrorCode, Result},
    graph::Node,
    tensor::Dim,
};

/// Where padding comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AutoPad {
    /// The `pads` attribute.
    Explicit,
    /// No padding.
    Valid,
    /// As much as gives `ceil(input / stride)` outputs; the odd one goes behind.
    SameUpper,
    /// The same; the odd one goes in front.
    SameLower,
}

/// How the last window of an axis is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rounding {
    /// Only windows that fit.
    Floor,
    /// Also one that begins within the input or the front padding but reaches beyond the end.
    Ceil,
}

/// A window's attributes as far as they are given.
#[derive(Clone, Debug)]
pub struct Window {
    /// `kernel_shape`.
    pub kernel: Option<Vec<usize>>,
    strides: Option<Vec<usize>>,
    dilations: Option<Vec<usize>>,
    pads: Option<Vec<usize>>,
    /// `auto_pad`.
    pub auto_pad: AutoPad,
    rounding: Rounding,
}

/// A window over concrete sizes, one entry for each spatial axis.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Geometry {
    pub kernel: Vec<usize>,
    pub strides: Vec<usize>,
    pub dilations: Vec<usize>,
    pub pads_begin: Vec<usize>,
    pub pads_end: Vec<usize>,
    pub output: Vec<usize>,
}

/// Larger sizes than this are refused, so that sums and products of a few of them fit everywhere.
const MAX_SIZE: i64 = 1 << 24;

impl Window {
    /// The attributes of a convolution.
    pub fn of_conv(node: &Node) -> Result<Window> {
        let attributes = &node.attributes;
        let sizes = |name: &str, least: i64| -> Result<Option<Vec<usize>>> {
            let Some(values) = attributes.ints(name)? else {
                return Ok(None);
            };
            let checked = values.iter().map(|&value| match usize::try_from(value) {
                Ok(size) if (least..=MAX_SIZE).contains(&value) => Ok(size),
                _ => Err(
                    Error::new(ErrorCode::InvalidGraph, format!("attribute {name} is out of range"))
                        .expected(format!("values in {least}..={MAX_SIZE}"))
                        .actual(format!("{values:?}")),
                ),
            });
            Ok(Some(checked.collect::<Result<Vec<usize>>>()?))
        };
        let auto_pad = match attributes.string("auto_pad")? {
            None | Some("" | "NOTSET") => AutoPad::Explicit,
            Some("VALID") => AutoPad::Valid,
            Some("SAME_UPPER") => AutoPad::SameUpper,
            Some("SAME_LOWER") => AutoPad::SameLower,
            Some(other) => {
                return Err(
                    Error::new(ErrorCode::InvalidGraph, "attribute auto_pad has an unknown value")
                        .expected("NOTSET, VALID, SAME_UPPER or SAME_LOWER")
                        .actual(other),
                );
            }
        };
        let window = Window {
            kernel: sizes("kernel_shape", 1)?,
            strides: sizes("strides", 1)?,
            dilations: sizes("dilations", 1)?,
            pads: sizes("pads", 0)?,
            auto_pad,
            rounding: Rounding::Floor,
        };
        if let Some(axes) = window.axes() {
            window.check_axes(axes)?;
        }
        Ok(window)
    }

    /// The attributes of a pooling: as a convolution's, `ceil_mode`, and `kernel_shape` must be given.
    pub fn of_pool(node: &Node) -> Result<Window> {
        let mut window = Window::of_conv(node)?;
        if window.kernel.is_none() {
            return Err(Error::new(
                ErrorCode::InvalidGraph,
                "required attribute kernel_shape is missing",
            ));
        }
        if node.attributes.flag("ceil_mode", false)? {
            window.rounding = Rounding::Ceil;
        }
        Ok(window)
    }

    /// The number of spatial axes, when an attribute says it.
    pub fn axes(&self) -> Option<usize> {
        let lists = [&self.kernel, &self.strides, &self.dilations];
        let direct = lists.into_iter().flatten().map(Vec::len).next();
        direct.or_else(|| Some(self.pads.as_ref()?.len() / 2))
    }

    /// Checks that every attribute is for `axes` spatial axes.
    pub fn check_axes(&self, axes: usize) -> Result<()> {
        for (name, list, expected) in [
            ("kernel_shape", &self.kernel, axes),
            ("strides", &self.strides, axes),
            ("dilations", &self.dilations, axes),
            ("pads", &self.pads, 2 * axes),
        ] {
            if let Some(list) = list
                && list.len() != expected
            {
                return Err(Error::new(
                    ErrorCode::ShapeMismatch,
                    format!("attribute {name} does not fit the number of spatial axes"),
                )
                .expected(format!("{expected} values"))
                .actual(format!("{} values", list.len())));
            }
        }
        Ok(())
    }

    /// The stride along an axis.
    pub fn stride(&self, axis: usize) -> usize {
        self.strides.as_ref().map_or(1, |strides| strides[axis])
    }

    /// The dilation along an axis.
    pub fn dilation(&self, axis: usize) -> usize {
        self.dilations.as_ref().map_or(1, |dilations| dilations[axis])
    }

    /// The `pads` attribute before and behind an axis.
    pub fn explicit_pads(&self, axis: usize) -> (usize, usize) {
        self.pads
            .as_ref()
            .map_or((0, 0), |pads| (pads[axis], pads[axis + pads.len() / 2]))
    }

    /// The output's spatial dimensions. `input` and `kernel` have one for each axis that the attributes are for.
    pub fn output_dims(&self, input: &[Dim], kernel: &[Dim]) -> Result<Vec<Dim>> {
        self.check_axes(input.len())?;
        let dims = input
            .iter()
            .zip(kernel)
            .enumerate()
            .map(|(axis, (input, kernel))| self.output_dim(axis, input, kernel));
        dims.collect()
    }

    fn output_dim(&self, axis: usize, input: &Dim, kernel: &Dim) -> Result<Dim> {
        let stride = Dim::from(self.stride(axis));
        let (begin, end) = match self.auto_pad {
            AutoPad::SameUpper | AutoPad::SameLower => return Ok(input.ceil_div(&stride)),
            AutoPad::Valid => (0, 0),
            AutoPad::Explicit => self.explicit_pads(axis),
        };
        let one = Dim::from(1);
        let extent = Dim::from(self.dilation(axis)) * (kernel.clone() - one.clone()) + one.clone();
        let room = input.clone() + Dim::from(begin + end) - extent;
        let count = match self.rounding {
            Rounding::Ceil if self.auto_pad == AutoPad::Explicit => {
                // A window that would begin in the padding behind the input is left out.
                let begins = (input.clone() + Dim::from(begin)).ceil_div(&stride);
                (room.ceil_div(&stride) + one).minimum(&begins)
            }
            _ => room.floor_div(&stride) + one,
        };
        match count.known() {
            Some(known) if known < 0 => Err(Error::new(
                ErrorCode::ShapeMismatch,
                format!("the window is larger than the padded input along spatial axis {axis}"),
            )
            .expected(format!(
                "an input of at least {}",
                kernel.clone() - Dim::from(begin + end)
            ))
            .actual(input.to_string())),
            _ => Ok(count),
        }
    }

    /// The geometry for concrete sizes.
    pub fn geometry(&self, input: &[usize], kernel: &[usize]) -> Result<Geometry> {
        let axes = input.len();
        let dims = |sizes: &[usize]| sizes.iter().map(|&size| Dim::from(size)).collect::<Vec<_>>();
        let output = self
            .output_dims(&dims(input), &dims(kernel))?
            .iter()
            .map(|dim| dim.size().ok_or_else(|| Error::internal("an output size is not known")))
            .collect::<Result<Vec<_>>>()?;
        let mut geometry = Geometry {
            kernel: kernel.to_vec(),
            strides: (0..axes).map(|axis| self.stride(axis)).collect(),
            dilations: (0..axes).map(|axis| self.dilation(axis)).collect(),
            pads_begin: vec![0; axes],
            pads_end: vec![0; axes],
            output,
        };
        for axis in 0..axes {
            // In 64 bits, as addresses may have 32.
            let extent = (kernel[axis].max(1) - 1) as u64 * self.dilation(axis) as u64 + 1;
            if extent > MAX_SIZE as u64 || input[axis] as u64 > u64::from(u32::MAX / 4) {
                return Err(
                    Error::new(ErrorCode::LimitExceeded, "a window or its input is too large")
                        .expected(format!("an extent of at most {MAX_SIZE}"))
                        .actual(extent.to_string()),
                );
            }
            let (begin, end) = match self.auto_pad {
                AutoPad::Explicit => self.explicit_pads(axis),
                AutoPad::Valid => (0, 0),
                same => {
                    let covered = (geometry.output[axis].saturating_sub(1) * self.stride(axis)) as u64 + extent;
                    let total = covered.saturating_sub(input[axis] as u64) as usize;
                    let less = total / 2;
                    match same {
                        AutoPad::SameLower => (total - less, less),
                        _ => (less, total - less),
                    }
                }
            };
            (geometry.pads_begin[axis], geometry.pads_end[axis]) = (begin, end);
        }
        Ok(geometry)
    }
}

/// Attribute `group` of a convolution.
pub fn conv_groups(node: &Node) -> Result<usize> {
    let groups = node.attributes.int("group")?.unwrap_or(1);
    let checked = usize::try_from(groups).ok().filter(|&groups| groups > 0);
    checked.ok_or_else(|| {
        Error::new(ErrorCode::InvalidGraph, "attribute group is out of range")
            .expected("at least 1")
            .actual(groups.to_string())
    })
}

/// The concrete sizes of a convolution, checked.
pub fn conv_params(
    window: &Window,
    groups: usize,
    x: &TensorDesc,
    w: &TensorDesc,
    bias: Option<&TensorDesc>,
) -> Result<ConvParams> {
    let ([batch, in_channels, input @ ..], [out_channels, per_group, kernel @ ..]) = (&x.shape[..], &w.shape[..])
    else {
        return Err(rank_error(0, "at least 3", x.shape.len()));
    };
    if input.len() != kernel.len() {
        return Err(rank_error(1, x.shape.len(), w.shape.len()));
    }
    check_channels(
        groups,
        &Dim::from(*in_channels),
        &Dim::from(*out_channels),
        &Dim::from(*per_group),
    )?;
    if let Some(bias) = bias
        && bias.shape != [*out_channels]
    {
        return Err(
            Error::new(ErrorCode::ShapeMismatch, "input 2 is not one value per output channel")
                .expected(format!("[{out_channels}]"))
                .actual(crate::tensor::display_shape(&bias.shape)),
        );
    }
    let geometry = window.geometry(input, kernel)?;
    let axes = |values: &[usize], fill| {
        spatial(values, fill).ok_or_else(|| {
            Error::new(
                ErrorCode::UnsupportedOperator,
                "a convolution over this number of spatial axes is not supported",
            )
            .expected("1 to 3")
            .actual(values.len().to_string())
        })
    };
    Ok(ConvParams {
        batch: *batch,
        in_channels: *in_channels,
        out_channels: *out_channels,
        groups,
        input: axes(input, 1)?,
        kernel: axes(kernel, 1)?,
        strides: axes(&geometry.strides, 1)?,
        dilations: axes(&geometry.dilations, 1)?,
        pads_begin: axes(&geometry.pads_begin, 0)?,
        pads_end: axes(&geometry.pads_end, 0)?,
    })
}

/// Checks that `groups` divide the channels.
pub fn check_channels(groups: usize, input: &Dim, output: &Dim, per_group: &Dim) -> Result<()> {
    let expected = per_group.clone() * Dim::from(groups);
    equal_dims(&expected, input, "number of input channels")?;
    if let Some(output) = output.size()
        && (!output.is_multiple_of(groups) || groups > output.max(1))
    {
        return Err(
            Error::new(ErrorCode::ShapeMismatch, "the groups do not divide the output channels")
                .expected(format!("a multiple of {groups}"))
                .actual(output.to_string()),
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        graph::{Attribute, OperatorId},
        tensor::Symbols,
    };

    fn window(attributes: &[(&str, Attribute)]) -> Result<Window> {
        let mut node = Node::new(OperatorId::new("", "MaxPool", 12), vec![], vec![]);
        for (name, attribute) in attributes {
            node.attributes.set(*name, attribute.clone());
        }
        Window::of_pool(&node)
    }

    fn ints(values: &[i64]) -> Attribute {
        Attribute::Ints(values.to_vec())
    }

    /// Counts windows one by one: those that begin before the end of the input's front part, and fit or (with
    /// `ceil_mode`) begin inside.
    fn count(input: i64, extent: i64, stride: i64, pads: (i64, i64), ceil: bool) -> i64 {
        let end = input + pads.0 + pads.1;
        (0..)
            .map(|index| index * stride)
            .take_while(|begin| {
                begin + extent <= end || (ceil && *begin < input + pads.0 && begin + extent - stride < end)
            })
            .take_while(|begin| !ceil || *begin < input + pads.0)
            .count() as i64
    }

    #[test]
    fn output_sizes_count_the_windows_symbolic_or_not() {
        for ceil in [false, true] {
            for kernel in 1..5 {
                for stride in 1..4 {
                    for dilation in 1..3 {
                        for pads in [(0, 0), (1, 0), (0, 1), (1, 1)] {
                            let extent = dilation * (kernel - 1) + 1;
                            if pads.0 >= extent || pads.1 >= extent {
                                continue;
                            }
                            let window = window(&[
                                ("kernel_shape", ints(&[kernel])),
                                ("strides", ints(&[stride])),
                                ("dilations", ints(&[dilation])),
                                ("pads", ints(&[pads.0, pads.1])),
                                ("ceil_mode", Attribute::Int(ceil.into())),
                            ])
                            .unwrap();
                            let dims = window.output_dims(&[Dim::symbol("n")], &[Dim::from(kernel)]).unwrap();
                            for input in extent..extent + 8 {
                                let expected = count(input, extent, stride, pads, ceil);
                                let symbols = Symbols::from([("n".into(), input)]);
                                let what = format!("{window:?} over {input}");
                                assert_eq!(dims[0].evaluate(&symbols), Some(expected), "{what}");
                                let geometry = window.geometry(&[input as usize], &[kernel as usize]).unwrap();
                                assert_eq!(geometry.output, [expected as usize], "{what}");
                            }
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn same_padding_splits_the_odd_one_as_its_name_says() {
        for (mode, pads) in [("SAME_UPPER", (0, 1)), ("SAME_LOWER", (1, 0)), ("VALID", (0, 0))] {
            let window = window(&[
                ("kernel_shape", ints(&[2])),
                ("auto_pad", Attribute::String(mode.into())),
            ])
            .unwrap();
            let geometry = window.geometry(&[5], &[2]).unwrap();
            assert_eq!((geometry.pads_begin[0], geometry.pads_end[0]), pads);
            assert_eq!(geometry.output[0], if mode == "VALID" { 4 } else { 5 });
        }
    }

    #[test]
    fn wrong_and_hostile_attributes_are_errors() {
        let kernel = ("kernel_shape", ints(&[3, 3]));
        for attribute in [
            ("strides", ints(&[1])),
            ("strides", ints(&[0, 1])),
            ("dilations", ints(&[1 << 40, 1])),
            ("pads", ints(&[1, 1])),
            ("pads", ints(&[-1, 0, 0, 0])),
            ("auto_pad", Attribute::String(b"SAME".to_vec())),
        ] {
            assert!(window(&[kernel.clone(), attribute.clone()]).is_err(), "{attribute:?}");
        }
        assert!(window(&[]).is_err());
        let window = window(&[("kernel_shape", ints(&[5]))]).unwrap();
        assert_eq!(
            window.geometry(&[2], &[5]).unwrap_err().code(),
            ErrorCode::ShapeMismatch
        );
        assert_eq!(
            window.geometry(&[2, 2], &[5, 5]).unwrap_err().code(),
            ErrorCode::ShapeMismatch
        );
    }
}
