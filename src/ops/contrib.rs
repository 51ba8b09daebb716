//! The `com.microsoft` operators that ONNX Runtime's optimisers and quantisers emit, and those of ONNX that are made the
//! same way: quantised products and convolutions, and layers with a state.

mod attention;
mod blocks;
mod composite;
mod fused;
mod grouped;
mod kernels;
mod matmul;
mod moe;
mod quantized;
mod recurrence;
mod rotary;
mod small;
mod tensors;

use super::registry::{Entry, contrib, onnx};

/// The operators of this room.
pub(super) static OPERATORS: &[Entry] = &[
    // Attention.
    contrib("Attention", attention::make_attention),
    contrib("GroupQueryAttention", grouped::make),
    contrib("MRotaryEmbedding", rotary::make_multimodal),
    contrib("MultiHeadAttention", attention::make_multi_head),
    contrib("QAttention", attention::make_quantized),
    contrib("RotaryEmbedding", rotary::make),
    contrib("CausalConvWithState", recurrence::make_causal_conv),
    contrib("LinearAttention", recurrence::make_linear_attention),
    onnx("CausalConvWithState", recurrence::make_causal_conv),
    onnx("LinearAttention", recurrence::make_linear_attention),
    // Products.
    contrib("FusedMatMul", matmul::make_fused),
    contrib("GatherBlockQuantized", matmul::make_gather),
    contrib("MatMulBnb4", matmul::make_bnb4),
    contrib("MatMulNBits", matmul::make_nbits),
    contrib("MatMulNBitsMlp", small::make_nbits_group),
    contrib("MatMulNBitsQkv", small::make_nbits_group),
    contrib("MoE", moe::make),
    contrib("QMoE", moe::make),
    // Fused nodes.
    contrib("BiasAdd", fused::make_bias_add),
    contrib("BiasGelu", fused::make_gelu),
    contrib("BiasSoftmax", fused::make_bias_softmax),
    contrib("BiasSplitGelu", fused::make_bias_split_gelu),
    contrib("EmbedLayerNormalization", fused::make_embed_norm),
    contrib("FastGelu", fused::make_gelu),
    contrib("FusedConv", fused::make_conv),
    contrib("FusedGemm", fused::make_gemm),
    contrib("FusedMatMulActivation", fused::make_matmul),
    contrib("GatedRMSNorm", fused::make_gated_norm),
    contrib("GemmFastGelu", fused::make_gemm_fast_gelu),
    contrib("GroupNorm", fused::make_group_norm),
    contrib("NhwcConv", fused::make_nhwc_conv),
    contrib("NhwcFusedConv", fused::make_nhwc_conv),
    contrib("NhwcMaxPool", fused::make_nhwc_max_pool),
    contrib("QEmbedLayerNormalization", fused::make_embed_norm),
    contrib("QuickGelu", fused::make_gelu),
    contrib("SimplifiedLayerNormalization", fused::make_simplified_norm),
    contrib("SkipGroupNorm", fused::make_group_norm),
    contrib("SkipLayerNormalization", fused::make_skip_norm),
    contrib("SkipSimplifiedLayerNormalization", fused::make_skip_norm),
    onnx("SimplifiedLayerNormalization", fused::make_simplified_norm),
    // Quantised.
    contrib("DequantizeLinear", quantized::make_linear),
    contrib("DynamicQuantizeLSTM", quantized::make_lstm),
    contrib("DynamicQuantizeMatMul", quantized::make_dynamic_matmul),
    contrib("MatMulIntegerToFloat", quantized::make_matmul_to_float),
    contrib("QGemm", quantized::make_gemm),
    contrib("QLinearAdd", quantized::make_binary),
    contrib("QLinearAveragePool", quantized::make_unary),
    contrib("QLinearConcat", quantized::make_concat),
    contrib("QLinearConv", quantized::make_conv),
    contrib("QLinearGlobalAveragePool", quantized::make_unary),
    contrib("QLinearLeakyRelu", quantized::make_unary),
    contrib("QLinearMul", quantized::make_binary),
    contrib("QLinearReduceMean", quantized::make_unary),
    contrib("QLinearSigmoid", quantized::make_unary),
    contrib("QLinearSoftmax", quantized::make_unary),
    contrib("QLinearWhere", quantized::make_where),
    contrib("QuantizeLinear", quantized::make_linear),
    onnx("QLinearConv", quantized::make_conv),
    onnx("QLinearMatMul", quantized::make_matmul),
    // Put together from ONNX's.
    contrib("BiasDropout", small::make_bias_dropout),
    contrib("CDist", small::make_cdist),
    contrib("ComplexMul", small::make_complex_mul),
    contrib("ComplexMulConj", small::make_complex_mul),
    contrib("ExpandDims", small::make_expand_dims),
    contrib("GatedAdd", small::make_gated_add),
    contrib("IsAllFinite", small::make_is_all_finite),
    contrib("LinearAttentionGate", small::make_linear_attention_gate),
    contrib("MatMulInteger16", small::make_matmul_integer16),
    contrib("MulInteger", small::make_mul_integer),
    contrib("Pad", small::make_pad),
    contrib("Range", small::make_range),
    contrib("ReduceSumInteger", small::make_reduce_sum_integer),
    contrib("Rfft", small::make_rfft),
    contrib("TorchEmbedding", small::make_torch_embedding),
    contrib("Unique", small::make_unique),
    // Rare ones with kernels of their own.
    contrib("CropAndResize", kernels::make_crop_and_resize),
    contrib("Inverse", kernels::make_inverse),
    contrib("MurmurHash3", kernels::make_murmur_hash),
    // ONNX's own under another name.
    contrib("GatherND", fused::make_twin),
    contrib("Gelu", fused::make_twin),
    contrib("GridSample", fused::make_twin),
    contrib("LayerNormalization", fused::make_twin),
    contrib("TransposeMatMul", fused::make_twin),
    contrib("Trilu", fused::make_twin),
];
