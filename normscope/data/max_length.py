"""The maximum length of a text: from the model, its tokenizer and the options."""

from typing import TYPE_CHECKING, Any

from normscope.errors import ModelError, UsageError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# transformers writes 1e30 for a tokenizer without a limit.
_UNLIMITED = 10**9

_LENGTH_NAMES = (
    "max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "max_sequence_length", "seq_length",
)  # fmt: skip

# Model types whose positions start at the padding id plus one: the first rows of their tables are unused.
_POSITIONS_AFTER_PADDING = {
    "altclip_text_model", "bridgetower_text_model", "camembert", "clap_text_model", "data2vec-text", "esm",
    "ibert", "layoutlmv3", "lilt", "longformer", "luke", "markuplm", "mpnet", "roberta",
    "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl", "xmod",
}  # fmt: skip


def length_limit(tokenizer: "PreTrainedTokenizerBase | None", config: Any) -> int | None:
    """Return the maximum number of tokens of a model, by its tokenizer and configuration; None without one.

    Models such as RoBERTa number positions from the padding id plus one: they can use 512 of 514 rows.
    """
    limits = [getattr(tokenizer, "model_max_length", None), _position_limit(_text_config(config))]
    finite = [int(limit) for limit in limits if limit is not None and 0 < limit < _UNLIMITED]
    return min(finite, default=None)


def _text_config(config: Any) -> Any:
    """Return the text part of a multimodal configuration."""
    try:
        return config.get_text_config()
    except (AttributeError, ValueError):  # Not of transformers, or with several text parts.
        return getattr(config, "text_config", None) or config


def _position_limit(config: Any) -> int | None:
    values = [getattr(config, name, None) for name in _LENGTH_NAMES]
    rows = min((value for value in values if isinstance(value, int) and value > 0), default=None)
    kind = getattr(config, "model_type", None)
    if rows is None or kind not in _POSITIONS_AFTER_PADDING:
        return rows
    pad = getattr(config, "pad_token_id", None)
    # MPNet's padding id is always 1. A table that is too small for any token is a limit of 1.
    return max(1, rows - (1 if pad is None or kind == "mpnet" else pad) - 1)


def agreed_length(asked: int | None, model: int | None, added: int) -> int | None:
    """Return the maximum length that applies: the one asked for, or else the model's own limit.

    Raises UsageError if it is over the model's limit, or leaves no room next to the `added` special tokens
    around each text; ModelError if the model's own limit leaves no room.
    """
    minimum = f"expected at least {added + 1}, for {added} of them are special tokens"
    if model is not None and model <= added:
        raise ModelError(
            f"the model takes at most {model} tokens; {minimum}; check its max_position_embeddings and "
            "its tokenizer's model_max_length"
        )
    if asked is None:
        return model
    if model is not None and asked > model:
        raise UsageError(f"max length is {asked}; expected at most {model}, the model's limit; lower it")
    if asked <= added:
        raise UsageError(f"max length is {asked}; {minimum}; raise it")
    return asked
