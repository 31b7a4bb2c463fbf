"""A configuration class of transformers, made tiny by the names of its fields."""

import dataclasses
import re
from typing import Any

from transformers import PretrainedConfig

from tests.zoo.overrides import FACTORS, OVERRIDES

# Sizes that differ from each other and from a batch of 3 texts of 7 tokens.
WIDTH, HEADS, KEY_VALUE_HEADS, HEAD_WIDTH, INNER, LAYERS, VOCABULARY = 64, 4, 2, 16, 48, 2, 128
IMAGE, PATCH, POSITIONS = 64, 16, 128

# The first pattern that is found in a field's name gives the most that an integer there may be.
LIMITS = (
    (r"vocab", VOCABULARY),
    (r"ratio|factor|kernel|stride|every|interval|padding|layer_(id|norm)|start_index|end_index", None),
    (r"(key_value|kv)_heads$|num_key_heads$", KEY_VALUE_HEADS),
    (r"num_value_heads$|num_.*groups?$|n_groups$", HEADS),
    (r"heads?$", HEADS),
    (r"pretraining_tp|ngroups", None),
    (r"qk_rope_head_dim|rotary_dim|v_head_dim|head_dim$|^d_kv$|^d_head$|^dim_head$|head_size$", HEAD_WIDTH),
    (r"mrope|lora_rank|_rank$", HEAD_WIDTH),
    (r"^encoder_hash_byte_group_vocab$", VOCABULARY),
    (r"layers?$|^depth$|_depth$|^num_blocks$|num_encoder_blocks|n_layer|mlp_only|block_num", LAYERS),
    (r"intermediate|ffn|mlp_dim|^d_ff$|^dff$|^dim_ff$|feed_?forward|linear_units", INNER),
    (r"experts_per_tok|moe_k$|moe_topk$|top_k_experts|num_experts_per|router_topk", 2),
    (r"^n_group$|^topk_group$|^num_expert_group$", 1),
    (r"experts$|num_moe|expert_num", 4),
    (r"shared_experts|nextn|mtp", None),
    (r"max_(source|target|ep)|position_embeddings$|n_positions|^n_ctx$|max_seq|seq_len", POSITIONS),
    (r"image_size|img_size|pretrain_image|crop_size|resolution", IMAGE),
    (r"patch_size$", PATCH),
    (r"hidden_size|hidden_dim|d_model|n_embd|embed_dim|embedding_(size|dim)|emb_dim|embed_size", WIDTH),
    (r"proj.*_dim|projection_size|^dim$|^latent_dim$|pooler_output|out_dim|text_dim|vision_dim", WIDTH),
    (r"codebook_size|num_embeddings|num_queries|index_topk|num_proposals", POSITIONS),
)
INDEX_LISTS = re.compile(r"index(es|ices)?$|_layers$|indices$|hook_ids|extract_layers")


def shrink(kind: type[PretrainedConfig], default: PretrainedConfig | None = None) -> PretrainedConfig:
    """Return a small configuration of class `kind`; one that differs from its defaults keeps how it does."""
    plain = kind()
    default = default or plain
    extra = dict(OVERRIDES.get(kind.model_type, {}))
    layers = extra.pop("LAYERS", None) or _layers(default)
    changes: dict[str, Any] = {}
    for field in dataclasses.fields(kind):  # type: ignore[arg-type]
        value = _read(default, field.name)
        if not field.init or field.name in ("chunk_size_feed_forward", "_out_features", "_out_indices"):
            continue
        small = _small(field.name, value, layers, _limits(extra))
        if small is not value or (default is not plain and _differs(value, _read(plain, field.name))):
            changes[field.name] = small
    if getattr(default, "_out_features", None) and default is not plain:
        changes.update(_outputs(default))
    changes.update(extra)
    if "layer_types" in changes and "layer_types" not in extra:
        changes["layer_types"] = changes["layer_types"]
    return kind(**{name: value for name, value in changes.items() if name not in FACTORS})


def _limits(extra: dict[str, Any]) -> dict[str, int]:
    return {name: extra[name] for name in FACTORS if name in extra}


def _read(config: PretrainedConfig, name: str) -> Any:
    try:
        return getattr(config, name, None)
    except Exception:  # Fields that hold one value a layer refuse to be read as one.
        return None


def _differs(value: Any, plain: Any) -> bool:
    return not isinstance(value, PretrainedConfig) and bool(value != plain)


def _layers(config: PretrainedConfig) -> int:
    """Return how many layers show every kind that the configuration has."""
    kinds = [_read(config, name) for name in ("layer_types", "mlp_layer_types", "layers_block_type")]
    outputs = 0 if getattr(config, "depths", None) else len(getattr(config, "out_indices", None) or ())
    return max([LAYERS, outputs, *(len(set(k)) for k in kinds if isinstance(k, list | tuple))])


def _outputs(config: PretrainedConfig) -> dict[str, Any]:
    if getattr(config, "depths", None) or not getattr(config, "num_hidden_layers", None):
        return {"out_features": list(getattr(config, "out_features", []))}
    count = len(getattr(config, "out_indices", []))
    return {"out_indices": list(range(1, count + 1))}


def _small(name: str, value: Any, layers: int, limits: dict[str, int]) -> Any:
    """Return a small value for the field, `value` itself where it may stay."""
    if isinstance(value, PretrainedConfig):
        return shrink(type(value), value)
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, int):
        return _small_int(name, value, layers)
    if isinstance(value, list | tuple) and value:
        return _small_list(name, value, layers)
    if isinstance(value, dict) and "mrope_section" in value:
        return {**value, "mrope_section": [4, 2, 2]}
    return value


def _small_int(name: str, value: int, layers: int) -> int:
    if re.search(r"_(token_id|token_index|id|index)$", name) or name.endswith("_token"):
        return value if value < VOCABULARY else 100 + sum(name.encode()) % 28
    for pattern, limit in LIMITS:
        if re.search(pattern, name):
            limit = max(limit, layers) if limit == LAYERS and "num_hidden" in name else limit
            return value if limit is None or value <= limit else limit
    return value


def _small_list(name: str, value: Any, layers: int) -> Any:
    first = value[0]
    if isinstance(first, str) and len(value) > layers and "type" in name:
        kinds = list(dict.fromkeys(value))
        return [kinds[i % len(kinds)] for i in range(layers)]
    if name.endswith("token_id"):
        return [v if v < VOCABULARY else 2 for v in value]
    if name in ("depths", "num_block_repeats", "stage_num_blocks"):
        return type(value)(min(v, 1 if len(value) > 2 else 2) for v in value)
    if name in ("image_size", "img_size", "pretrain_image_size"):
        return type(value)(min(v, IMAGE) for v in value)
    if INDEX_LISTS.search(name) and isinstance(first, int) and min(value) >= 0:
        return type(value)(sorted({min(v, layers - 1) for v in value}))
    if isinstance(first, int | float) and len(value) > 8 and len(set(value)) < 3:
        return type(value)(value[:layers])
    return value
