//! The activation functions of recurrent layers.

use crate::cpu::math::{exp, log, map_in_place, sigmoid, tanh};
use crate::cpu::simd::F32x4;

/// An activation with its parameters (ONNX `activations`, `activation_alpha`, `activation_beta`).
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Activation {
    Sigmoid,
    Tanh,
    Relu,
    Softsign,
    Softplus,
    /// alpha * x + beta
    Affine {
        alpha: f32,
        beta: f32,
    },
    LeakyRelu {
        alpha: f32,
    },
    /// x where x >= alpha, else 0
    ThresholdedRelu {
        alpha: f32,
    },
    /// alpha * tanh(beta * x)
    ScaledTanh {
        alpha: f32,
        beta: f32,
    },
    /// alpha * x + beta between 0 and 1
    HardSigmoid {
        alpha: f32,
        beta: f32,
    },
    Elu {
        alpha: f32,
    },
}

impl Activation {
    /// The activation of ONNX's name (any case) with its parameters or, where they are missing, its defaults.
    /// `None` for a name that ONNX does not define.
    pub fn from_onnx(name: &str, alpha: Option<f32>, beta: Option<f32>) -> Option<Self> {
        let alpha_or = |default: f32| alpha.unwrap_or(default);
        let beta_or = |default: f32| beta.unwrap_or(default);
        Some(match name.to_ascii_lowercase().as_str() {
            "sigmoid" => Self::Sigmoid,
            "tanh" => Self::Tanh,
            "relu" => Self::Relu,
            "softsign" => Self::Softsign,
            "softplus" => Self::Softplus,
            "affine" => Self::Affine {
                alpha: alpha_or(1.0),
                beta: beta_or(0.0),
            },
            "leakyrelu" => Self::LeakyRelu { alpha: alpha_or(0.01) },
            "thresholdedrelu" => Self::ThresholdedRelu { alpha: alpha_or(1.0) },
            "scaledtanh" => Self::ScaledTanh {
                alpha: alpha_or(1.0),
                beta: beta_or(1.0),
            },
            "hardsigmoid" => Self::HardSigmoid {
                alpha: alpha_or(0.2),
                beta: beta_or(0.5),
            },
            "elu" => Self::Elu { alpha: alpha_or(1.0) },
            _ => return None,
        })
    }

    /// How many of `activation_alpha` and `activation_beta` the activation takes.
    pub fn parameter_counts(self) -> (usize, usize) {
        match self {
            Self::Sigmoid | Self::Tanh | Self::Relu | Self::Softsign | Self::Softplus => (0, 0),
            Self::LeakyRelu { .. } | Self::ThresholdedRelu { .. } | Self::Elu { .. } => (1, 0),
            Self::Affine { .. } | Self::ScaledTanh { .. } | Self::HardSigmoid { .. } => (1, 1),
        }
    }

    /// Replaces the values by the activation of them.
    pub fn apply(self, values: &mut [f32]) {
        let (zero, one) = (F32x4::zero(), F32x4::splat(1.0));
        match self {
            Self::Sigmoid => map_in_place(values, sigmoid),
            Self::Tanh => map_in_place(values, tanh),
            Self::Relu => map_in_place(values, |x| x.at_least(zero)),
            Self::Softsign => map_in_place(values, |x| x / (one + x.abs())),
            Self::Softplus => {
                // max(x, 0) + ln(1 + e^-|x|) does not overflow.
                map_in_place(values, |x| x.at_least(zero) + log(one + exp(-x.abs())));
            }
            Self::Affine { alpha, beta } => {
                map_in_place(values, |x| F32x4::splat(alpha) * x + F32x4::splat(beta));
            }
            Self::LeakyRelu { alpha } => {
                map_in_place(values, |x| x.lt(zero).select(F32x4::splat(alpha) * x, x));
            }
            Self::ThresholdedRelu { alpha } => {
                map_in_place(values, |x| x.lt(F32x4::splat(alpha)).select(zero, x));
            }
            Self::ScaledTanh { alpha, beta } => {
                map_in_place(values, |x| F32x4::splat(alpha) * tanh(F32x4::splat(beta) * x));
            }
            Self::HardSigmoid { alpha, beta } => {
                map_in_place(values, |x| {
                    (F32x4::splat(alpha) * x + F32x4::splat(beta))
                        .at_least(zero)
                        .at_most(one)
                });
            }
            Self::Elu { alpha } => {
                map_in_place(values, |x| x.lt(zero).select(F32x4::splat(alpha) * (exp(x) - one), x));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_activation_matches_its_formula() {
        let (a, b) = (Some(0.7), Some(0.3));
        type Formula = fn(f32) -> f32;
        let table: [(&str, Formula); 11] = [
            ("Sigmoid", |x| 1.0 / (1.0 + (-x).exp())),
            ("Tanh", f32::tanh),
            ("Relu", |x| x.max(0.0)),
            ("Softsign", |x| x / (1.0 + x.abs())),
            ("Softplus", |x| (1.0 + x.exp()).ln()),
            ("Affine", |x| 0.7 * x + 0.3),
            ("LeakyRelu", |x| if x < 0.0 { 0.7 * x } else { x }),
            ("ThresholdedRelu", |x| if x >= 0.7 { x } else { 0.0 }),
            ("ScaledTanh", |x| 0.7 * (0.3 * x).tanh()),
            ("HardSigmoid", |x| (0.7 * x + 0.3).clamp(0.0, 1.0)),
            ("Elu", |x| if x < 0.0 { 0.7 * (x.exp() - 1.0) } else { x }),
        ];
        for (name, formula) in table {
            let inputs: Vec<f32> = (-13..14).map(|i| i as f32 * 0.23).collect();
            let mut values = inputs.clone();
            Activation::from_onnx(name, a, b).unwrap().apply(&mut values);
            for (x, value) in inputs.iter().zip(values) {
                assert!((value - formula(*x)).abs() < 1e-6, "{name}({x}) = {value}");
            }
        }
        assert_eq!(Activation::from_onnx("Swish", None, None), None);
    }
}
