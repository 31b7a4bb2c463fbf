"""What single model types need beyond the general rules of a small configuration."""

from typing import Any

_MAMBA = {"mamba_n_heads": 4, "mamba_d_head": 32}
_EXPERTS = {"n_group": 1, "topk_group": 1, "num_experts_per_tok": 2}
_ROPE = {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}}
_TIMES = {"prediction_length": 4, "context_length": 8, "num_time_features": 1}
_WORDS = {"vocabulary_map": {"<image>": 100, "IMGIMGAZ": 101}}
_DROPOUT = {"dropout_rate": 0.0}

OVERRIDES: dict[str, dict[str, Any]] = {
    "autoformer": {**_TIMES, "label_length": 4},
    "bamba": {**_MAMBA, "attn_layer_indices": [1]},
    "chameleon": _WORDS,
    "cohere_compass_text": {
        "layer_types": ["sliding_attention", "full_attention"],
        "rope_parameters": dict.fromkeys(("sliding_attention", "full_attention"), _ROPE["rope_parameters"]),
    },
    "dbrx": {"attn_config": {"rope_theta": 1e4, "kv_n_heads": 2, "clip_qkv": 8}},
    "deepseek_ocr2_text": {**_EXPERTS, "mlp_layer_types": ["dense", "sparse"]},
    "deepseek_v2": _EXPERTS,
    "diffusion_gemma_text": {"num_experts": 4, "top_k_experts": 2, "moe_intermediate_size": 48},
    "dots1": {"n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2},
    "emu3": _WORDS,
    "esm": {"vocab_size": 128, "pad_token_id": 1, "mask_token_id": 32, "emb_layer_norm_before": True},
    "falcon_h1": {**_MAMBA, "mamba_d_ssm": 128},
    "gemma3n_text": {"num_kv_shared_layers": 0},
    "gemma4_text": {"num_kv_shared_layers": 0},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "granitemoehybrid": {**_MAMBA, "layer_types": ["mamba", "attention"]},
    "hunyuan_v1_dense": {**_ROPE, "head_dim": 16},
    "hunyuan_v1_moe": {**_ROPE, "head_dim": 16},
    "hunyuan_vl_text": {
        "rope_parameters": {**_ROPE["rope_parameters"], "mrope_section": [4, 2, 2]},
        "head_dim": 16,
    },
    "informer": _TIMES,
    "jamba": {
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
        "expert_layer_period": 2,
        "expert_layer_offset": 1,
    },
    "layoutlmv3": {"coordinate_size": 12, "shape_size": 8},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"], "num_dense_layers": 1},
    "lilt": {"hidden_size": 96},
    "mamba2": {"num_heads": 8},
    "ministral": {**_ROPE, "head_dim": 16},
    "moonshine_streaming": {"num_key_value_heads": 4},
    "moshi_depth": {**_ROPE, "num_key_value_heads": 4},
    "muse_spark_audio": {"num_hidden_layers": 4},
    "nemotron": {"num_key_value_heads": 2, "head_dim": 16},
    "patchtsmixer": {"context_length": 8, "patch_length": 4, "patch_stride": 4},
    "patchtst": {"context_length": 8, "patch_length": 4, "patch_stride": 4},
    "pix2struct_text_model": {"initializer_range": 0.02},
    "qwen3_omni_moe_talker_text": {"shared_expert_intermediate_size": 48},
    "qwen4_exp_text": {
        "indexer_n_heads": 4,
        "indexer_kv_heads": 1,
        "indexer_head_dim": 16,
        "indexer_budget": 16,
        "indexer_compress_ratio": 4,
        "ngram_vocab_size_base": 128,
        "split_ngram_parts": 2,
    },
    "reformer": {"axial_pos_embds_dim": [32, 32], "axial_pos_shape": [8, 8]},
    "step3p5": {"sliding_window": 16},
    "swinv2": {"window_size": 4},
    "t5gemma2_decoder": _DROPOUT,
    "t5gemma2_text": _DROPOUT,
    "time_series_transformer": _TIMES,
    "xmod": {"default_language": "en_XX"},
    "zamba": {"layers_block_type": ["linear_attention", "hybrid"]},
}
