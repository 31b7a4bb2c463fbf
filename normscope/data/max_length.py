"""The maximum length of a text: from the model, its tokenizer and the options."""

from typing import TYPE_CHECKING, Any

from normscope.errors import ModelError, UsageError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# transformers writes 1e30 where a tokenizer knows no limit.
_UNLIMITED = 10**9

_LENGTH_NAMES = (
    "max_position_embeddings",
    "n_positions",
    "n_ctx",
    "max_seq_len",
    "max_sequence_length",
    "seq_length",
)

# Their tables of learned positions start at the padding id plus one, so that many rows are never used.
_POSITIONS_AFTER_PADDING = {
    "altclip_text_model",
    "bridgetower_text_model",
    "camembert",
    "clap_text_model",
    "data2vec-text",
    "esm",
    "ibert",
    "layoutlmv3",
    "lilt",
    "longformer",
    "luke",
    "markuplm",
    "mpnet",
    "roberta",
    "roberta-prelayernorm",
    "xlm-roberta",
    "xlm-roberta-xl",
    "xmod",
}


def length_limit(tokenizer: "PreTrainedTokenizerBase | None", config: Any) -> int | None:
    """The most tokens the model takes, after its tokenizer and its configuration; None if neither says.

    RoBERTa and its kin number positions from the padding id plus one: of 514 rows 512 can be used.
    """
    limits = [getattr(tokenizer, "model_max_length", None), _position_limit(_text_config(config))]
    known = [int(limit) for limit in limits if limit is not None and 0 < limit < _UNLIMITED]
    return min(known, default=None)


def _text_config(config: Any) -> Any:
    """The part of a multimodal configuration that is about text."""
    try:
        return config.get_text_config()
    except (AttributeError, ValueError):  # not of transformers, or with more than one such part
        return getattr(config, "text_config", None) or config


def _position_limit(config: Any) -> int | None:
    values = [getattr(config, name, None) for name in _LENGTH_NAMES]
    rows = min((value for value in values if isinstance(value, int) and value > 0), default=None)
    kind = getattr(config, "model_type", None)
    if rows is None or kind not in _POSITIONS_AFTER_PADDING:
        return rows
    pad = getattr(config, "pad_token_id", None)
    # MPNet's padding is always 1; a table too small for any token is no model without a limit.
    return max(1, rows - (1 if pad is None or kind == "mpnet" else pad) - 1)


def agreed_length(asked: int | None, model: int | None, added: int) -> int | None:
    """Return the length that holds: what was asked for, or else the model's own limit.

    UsageError for more than that, or for no room beside the `added` tokens that stand around each text;
    ModelError where the model's own limit leaves none.
    """
    least = f"expected at least {added + 1}, for {added} of them are special tokens"
    if model is not None and model <= added:
        raise ModelError(
            f"the model takes {model} tokens at the most; {least}; check its max_position_embeddings and "
            "its tokenizer's model_max_length"
        )
    if asked is None:
        return model
    if model is not None and asked > model:
        raise UsageError(f"max length is {asked}; expected at most {model}, the model's limit; lower it")
    if asked <= added:
        raise UsageError(f"max length is {asked}; {least}; raise it")
    return asked
