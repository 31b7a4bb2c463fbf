"""A configuration class of transformers, made tiny by the names of its fields."""

import dataclasses
import re
from typing import Any

from transformers import PretrainedConfig

from tests.zoo.overrides import OVERRIDES

# Sizes that differ from each other and from a batch of 3 texts of 7 tokens.
WIDTH, HEADS, KEY_VALUE_HEADS, HEAD_WIDTH, INNER, LAYERS, VOCABULARY = 64, 4, 2, 16, 48, 2, 128
IMAGE, PATCH, POSITIONS, WIDEST = 64, 16, 128, 1536

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
WIDTHS = re.compile(r"head|hidden|model|emb|proj|dim|inter|ffn|d_ff|dff|lora|rank|unit|pooler|key_value|feed")
INDEX_LISTS = re.compile(
    r"index(es|ices)?$|indices$|hook_ids|extract_layers|mlp_only_layers|feature_layer|target_layers"
)
STAGES = re.compile(
    r"^depths$|^num_heads$|^num_attention_heads$|^stage_|^hidden_sizes$|^block_(sizes|configs)$|^patch_sizes$"
)


def shrink(
    kind: type[PretrainedConfig],
    default: PretrainedConfig | None = None,
    wide: bool = False,
    own: bool = True,
) -> Any:
    """Return a small configuration of class `kind`; one that differs from its defaults keeps how it does.

    A `wide` one keeps all widths and heads and has fewer layers only: some widths hang together in ways
    that no rule knows. With `own` a type's own needs are heeded.
    """
    plain = kind()
    if wide and max(size for size in (0, _read(plain, "hidden_size")) if isinstance(size, int)) > WIDEST:
        raise ValueError(f"{kind.__name__} is too wide to keep its widths")
    extra = dict(OVERRIDES.get(kind.model_type, {})) if own else {}
    given, changes, rule = default or plain, dict[str, Any](), _Rule(default or plain, wide)
    for field in dataclasses.fields(kind):
        value = _read(given, field.name)
        if not field.init or field.name in ("chunk_size_feed_forward", "_out_features", "_out_indices"):
            continue
        changed = default is not None and _differs(value, _read(plain, field.name))
        derived = field.default is None and not changed and not _lists_kinds(field.name, value)
        small = shrink(type(value), value, wide, own) if isinstance(value, PretrainedConfig) else value
        if small is value and not derived:
            small = rule.small(field.name, value)
        if small is not value or changed:
            changes[field.name] = small
    if "mrope_section" in kind.ignore_keys_at_rope_validation and not wide:
        changes["rope_parameters"] = _rope(given)
    if default is not None and getattr(default, "_out_features", None):
        changes.update(_outputs(default))
    return kind(**{**changes, **extra})


def _read(config: PretrainedConfig, name: str) -> Any:
    try:
        return getattr(config, name, None)
    except Exception:  # Fields that hold one value a layer refuse to be read as one.
        return None


def _differs(value: Any, plain: Any) -> bool:
    return not isinstance(value, PretrainedConfig) and bool(value != plain)


def _lists_kinds(name: str, value: Any) -> bool:
    return "type" in name and isinstance(value, list | tuple) and bool(value) and isinstance(value[0], str)


def _outputs(config: PretrainedConfig) -> dict[str, Any]:
    if getattr(config, "depths", None) or not getattr(config, "num_hidden_layers", None):
        return {"out_features": list(getattr(config, "out_features", []))}
    count = len(getattr(config, "out_indices", []))
    return {"out_indices": list(range(1, count + 1))}


def _rope(config: PretrainedConfig) -> dict[str, Any]:
    """Return rotary parameters whose three sections fill half a head."""
    held = dict(_read(config, "rope_parameters") or {})
    half = int(HEAD_WIDTH * held.get("partial_rotary_factor", 1.0)) // 2
    third = (half + 1) // 3
    sections = [third, third, half - 2 * third]
    return {"rope_type": "default", "rope_theta": 1e4, **held, "mrope_section": sections}


class _Rule:
    """How the fields of one configuration become small."""

    def __init__(self, config: PretrainedConfig, wide: bool) -> None:
        fields = {f.name: _read(config, f.name) for f in dataclasses.fields(config)}
        staged = any(isinstance(v, list | tuple) and STAGES.search(n) for n, v in fields.items())
        self.staged = staged
        self.keep_widths = wide or staged
        kinds = [fields.get(name) for name in ("layer_types", "mlp_layer_types", "layers_block_type")]
        outputs = 0 if staged else len(getattr(config, "out_indices", None) or ())
        self.layers = max([LAYERS, outputs, *(len(set(k)) for k in kinds if isinstance(k, list | tuple))])
        keys, heads = fields.get("num_key_value_heads"), fields.get("num_attention_heads")
        self.grouped = keys != heads and "qk_nope_head_dim" not in fields

    def small(self, name: str, value: Any) -> Any:
        """Return a small value for the field, `value` itself where it may stay."""
        if isinstance(value, bool) or value is None:
            return value
        if isinstance(value, int):
            return self._int(name, value)
        if isinstance(value, list | tuple) and value:
            return self._list(name, value)
        return value

    def _int(self, name: str, value: int) -> int:
        if re.search(r"_(token_id|token_index|id|index)$", name) or name.endswith("_token"):
            return value if value < VOCABULARY else 100 + sum(name.encode()) % 28
        if self.keep_widths and WIDTHS.search(name) and not re.search(r"layers$|position|vocab", name):
            return value
        if name == "num_key_value_heads" and not self.grouped:
            return min(value, HEADS)
        if self.staged and re.search(r"layers$|patch_size|depth|_size$", name) and "image_size" not in name:
            return value
        limit = next((limit for pattern, limit in LIMITS if re.search(pattern, name)), None)
        if limit == LAYERS and re.search("layers?$", name):
            limit = self.layers
        return value if limit is None else min(value, limit)

    def _list(self, name: str, value: Any) -> Any:
        if isinstance(value[0], str):
            kinds = list(dict.fromkeys(value))
            long = _lists_kinds(name, value) and len(value) > self.layers
            return [kinds[i % len(kinds)] for i in range(self.layers)] if long else value
        return self._numbers(name, value) if isinstance(value[0], int | float) else value

    def _numbers(self, name: str, value: Any) -> Any:
        small = value
        if name.endswith("token_id"):
            small = [v if v < VOCABULARY else 2 for v in value]
        elif name in ("depths", "num_block_repeats", "stage_num_blocks"):
            small = [min(v, 1 if len(value) > 2 else 2) for v in value]
        elif name in ("image_size", "img_size", "pretrain_image_size"):
            small = [min(v, IMAGE) for v in value]
        elif not self.staged and INDEX_LISTS.search(name) and min(value) >= 0:
            small = sorted({min(v, self.layers - 1) for v in value})
        elif len(value) > 8 and len(set(value)) < 3:
            small = value[: self.layers]
        return value if small is value else type(value)(small)
