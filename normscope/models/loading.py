"""Loads a model with its tokenizer or processor, or its skeleton without weights."""

import logging
import os
import re
import sys
import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from normscope.errors import ModelError
from normscope.escaping import quoted, reason
from normscope.models.adapters import attach, tokenizer_source
from normscope.models.device_map import STRATEGIES, keep_vectors, require_accelerate
from normscope.models.load_errors import as_model_errors, go_online, untrusted
from normscope.models.location import Loading, Source, locate, outage_of
from normscope.models.missing_weights import require_weights
from normscope.models.modality import AUDIO, IMAGE, TEXT, require_kinds
from normscope.models.quantization import hidden_bar, require_gguf, require_known_quantization, with_head
from normscope.models.weight_checks import require_buildable, require_fit, require_shards

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class Loaded:
    """A model ready to run (evaluation mode, on its device, frozen), its tokenizer, and their origin.

    For images and audio it has a `processor` of transformers instead of a tokenizer.
    """

    model: "PreTrainedModel"
    tokenizer: "PreTrainedTokenizerBase | None"
    id: str
    revision: str | None
    commit: str | None
    warnings: tuple[str, ...]
    processor: Any = None


def load(
    model: str | os.PathLike[str], options: Loading = Loading(), kinds: Collection[str] = (TEXT,)
) -> Loaded:
    """Load MODEL with the head class that its configuration names, and its tokenizer or processor.

    MODEL is a Hub id, a folder in Hugging Face layout or of a PEFT adapter, a GGUF file, or `demo`; `kinds`
    are the kinds of inputs. Small files are read first, to report most mistakes before weights are
    downloaded. Raises ModelError when the model cannot be found, trusted, read or placed on the device,
    UsageError when options clash or the model does not take inputs of these kinds.
    """
    source = locate(model, options)
    with quiet():
        device = None if options.device_map is not None else _device(options.device)
        if options.device_map is not None:
            require_accelerate(options.device_map)
            if options.device_map not in STRATEGIES:
                _device(options.device_map)
        source, config, commit = _configuration(source)
        keywords = source.keywords(commit or source.options.revision)
        loader = _loader(source, config)
        if _has_forward(loader):
            require_kinds(loader, kinds)
        of_text = set(kinds) == {TEXT}
        tokenizer = _tokenizer(tokenizer_source(source), config, commit) if of_text else None
        processor = None if of_text else _processor(source, config, keywords, kinds)
        require_shards(source)
        require_fit(source, config, lambda: _skeleton(source, loader, config, commit))
        network, notes = _network(source, loader, config, keywords)
        if source.adapter is not None:
            network = attach(source, network)
        if tokenizer is not None:
            _set_padding(network, tokenizer)
        with as_model_errors(source, "weights"):
            network.requires_grad_(False)
            if device is None:
                keep_vectors(network)
            else:
                network.to(device)  # type: ignore[arg-type]
    return Loaded(
        network, tokenizer, source.adapter or source.name, options.revision, commit, notes, processor
    )


def skeleton(model: str | os.PathLike[str], options: Loading = Loading()) -> Loaded:
    """Build MODEL from its configuration alone, with the same class as `load`, on torch's meta device.

    No weights and no tokenizer are read or downloaded. Raises the errors of `load`.
    """
    source = locate(model, options)
    with quiet():
        source, config, commit = _configuration(source)
        loader = _loader(source, config)
        network: Any = _skeleton(source, loader, config, commit)
    return Loaded(network.eval(), None, source.adapter or source.name, options.revision, commit, ())


def _skeleton(
    source: Source, loader: Any, config: "PreTrainedConfig", commit: str | None
) -> "PreTrainedModel":
    with as_model_errors(source, "configuration"):
        import torch

        build = _builder(source, loader, config, commit)
        with torch.device("meta"):
            return build(config)  # type: ignore[no-any-return]


def _configuration(source: Source) -> "tuple[Source, PreTrainedConfig, str | None]":
    """Read config.json; return the source, which now knows of an outage, the configuration and its commit."""
    require_gguf(source)
    source = replace(source, outage=outage_of(source))
    commit = _commit(source)
    # With the commit fixed, later files match the first one and need fewer requests.
    keywords = source.keywords(commit or source.options.revision)
    with as_model_errors(source, "configuration"):
        from transformers import AutoConfig

        config = with_head(source, AutoConfig.from_pretrained(source.location, **keywords))
        require_buildable(source, config)
    return source, config, commit


def _builder(source: Source, loader: Any, config: "PreTrainedConfig", commit: str | None) -> Any:
    """Return what builds a model from a configuration: a class of transformers or, if trusted, its own."""
    own_code = _own_code(source, config)
    if source.options.trust_remote_code and loader.__name__ in own_code:
        from transformers.dynamic_module_utils import get_class_from_dynamic_module

        keywords = {} if source.is_folder else source.download_keywords(commit or source.options.revision)
        return get_class_from_dynamic_module(own_code[loader.__name__], source.location, **keywords)
    return getattr(loader, "from_config", loader)


def _own_code(source: Source, config: "PreTrainedConfig") -> dict[str, Any]:
    """Return the paths of a model's classes in its repository's own code, by transformers' names for them."""
    own_code = getattr(config, "auto_map", None) or {}
    if not isinstance(own_code, dict):
        got = f"config.json of {quoted(source.name)} says that auto_map is {quoted(own_code)}"
        raise ModelError(f"{got}; expected an object of class names; fix it, or leave it out")
    return own_code


def _commit(source: Source) -> str | None:
    """Return the commit of a Hub model: its cached files are in snapshots/<40 hexadecimal digits>."""
    folder = Path(source.location).absolute()
    if not source.is_folder:
        with as_model_errors(source, "configuration"):
            from huggingface_hub import hf_hub_download

            keywords = source.download_keywords(source.options.revision)
            folder = Path(hf_hub_download(source.location, "config.json", **keywords)).parent
    is_snapshot = folder.parent.name == "snapshots" and re.fullmatch(r"[0-9a-f]{40}", folder.name)
    return folder.name if is_snapshot else None


def _device(name: str) -> "torch.device":
    import torch

    if name == "auto":
        mps = torch.backends.mps.is_available()
        name = "cuda" if torch.cuda.is_available() else "mps" if mps else "cpu"
    try:
        device = torch.device(name)
        torch.empty(1, device=device).item()
    except (RuntimeError, AssertionError, ImportError, NotImplementedError) as error:
        got = f"device {quoted(name)} is not available here ({reason(error)})"
        raise ModelError(f"{got}; expected a device of this machine; use 'auto' or 'cpu'") from error
    return device


def _loader(source: Source, config: "PreTrainedConfig") -> Any:
    """Return the class to load with: of the repository if trusted, the named head, or the bare model."""
    import transformers

    names = getattr(config, "architectures", None)
    name = names[0] if isinstance(names, list) and names and isinstance(names[0], str) else ""
    auto_map = _own_code(source, config)
    own_code = {key: str(code) for key, code in auto_map.items() if key.startswith("AutoModel")}
    if own_code and source.options.trust_remote_code:
        named = [key for key, code in own_code.items() if code.endswith(f".{name}")]
        return getattr(transformers, [*named, *own_code][0], transformers.AutoModel)
    with as_model_errors(source, "model class"):
        head = getattr(transformers, name, None)
    if isinstance(head, type) and issubclass(head, transformers.PreTrainedModel):
        made_for = head.config_class
        if made_for is not None and isinstance(config, made_for):
            return head
    if own_code:
        raise untrusted(source)
    return transformers.AutoModel


def _has_forward(loader: Any) -> bool:
    """Whether a loader has a forward, which tells its inputs; auto classes and base classes have none."""
    from torch import nn

    return getattr(loader, "forward", nn.Module.forward) is not nn.Module.forward


def _tokenizer(source: Source, config: "PreTrainedConfig", commit: str | None) -> "PreTrainedTokenizerBase":
    keywords = source.keywords(commit or source.options.revision)
    with as_model_errors(source, "tokenizer"):
        from transformers import AutoTokenizer

        tokenizer: Any = AutoTokenizer.from_pretrained(source.location, config=config, **keywords)
        # Without any files, transformers makes a tokenizer that reads every word as unknown.
        is_empty = tokenizer.vocab_size <= len(tokenizer.all_special_tokens) + 1
    _require_length(source, tokenizer.model_max_length)
    if is_empty:
        got = f"no tokenizer files with {quoted(source.name)}"
        then = "save them there with tokenizer.save_pretrained" if source.is_folder else go_online(source)
        raise ModelError(f"{got}; expected tokenizer.json or a vocabulary next to the weights; {then}")
    return tokenizer  # type: ignore[no-any-return]


def _require_length(source: Source, longest: Any) -> None:
    is_number = isinstance(longest, int | float) and not isinstance(longest, bool)
    if not is_number or not (longest >= 1 or longest <= 0):  # NaN is neither.
        got = (
            f"tokenizer_config.json of {quoted(source.name)} says that model_max_length is {quoted(longest)}"
        )
        raise ModelError(f"{got}; expected how many tokens; fix it, or leave it out")


def _processor(
    source: Source, config: "PreTrainedConfig", keywords: dict[str, Any], kinds: Collection[str]
) -> Any:
    """Load the processor for one kind of media, or the one for several kinds."""
    with as_model_errors(source, "processor"):
        import transformers

        auto: Any = transformers
        if set(kinds) == {IMAGE}:
            # The backend of pillow gives the same numbers with and without torchvision.
            processor, keywords = auto.AutoImageProcessor, {**keywords, "backend": "pil"}
        else:
            processor = auto.AutoFeatureExtractor if set(kinds) == {AUDIO} else auto.AutoProcessor
        return processor.from_pretrained(source.location, config=config, **keywords)


def _network(
    source: Source, loader: Any, config: "PreTrainedConfig", keywords: dict[str, Any]
) -> "tuple[PreTrainedModel, tuple[str, ...]]":
    """Read the weights; return the model and warnings about the checkpoint."""
    require_known_quantization(source, config)
    options = {name: getattr(source.options, name) for name in ("attn_implementation", "device_map")}
    more = {name: value for name, value in options.items() if value is not None}
    with as_model_errors(source, "weights"), hidden_bar(source):
        network, info = loader.from_pretrained(
            source.location,
            config=config,
            dtype=source.options.dtype,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # Checked below; the error of transformers does not name them.
            **more,
            **keywords,
        )
    return network, require_weights(source, network, info)


def _set_padding(network: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase") -> None:
    """Set the padding id of a classification head, which refuses batches without one."""
    config = network.config.get_text_config()
    if getattr(config, "pad_token_id", None) is None and "SequenceClassification" in type(network).__name__:
        ids = (tokenizer.pad_token_id, tokenizer.eos_token_id, 0)
        config.pad_token_id = next(number for number in ids if number is not None)


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the libraries' logs, warnings and bars, but show the Hub's download bar at a terminal."""
    with warnings.catch_warnings(), _no_conversion():
        warnings.simplefilter("ignore")
        from huggingface_hub import utils
        from transformers.utils import logging as model_logging

        # These modules export more than their annotations say.
        hub: Any = utils
        bars: Any = model_logging
        # The last one warns of torchao's enums.
        names = ("transformers", "huggingface_hub", "bitsandbytes", "torch.utils._pytree")
        levels = {name: logging.getLogger(name).level for name in names}
        hub_bars, model_bars = not hub.are_progress_bars_disabled(), bars.is_progress_bar_enabled()
        try:
            for name in names:
                logging.getLogger(name).setLevel(logging.CRITICAL)
            bars.disable_progress_bar()  # Also disables that of the Hub.
            if hub_bars and sys.stderr.isatty():
                hub.enable_progress_bars()
            yield
        finally:
            for name, level in levels.items():
                logging.getLogger(name).setLevel(level)
            if model_bars:
                bars.enable_progress_bar()
            (hub.enable_progress_bars if hub_bars else hub.disable_progress_bars)()


@contextmanager
def _no_conversion() -> Iterator[None]:
    """Keep transformers from asking the Hub to convert repositories of pickles."""
    name = "DISABLE_SAFETENSORS_CONVERSION"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        del os.environ[name]
        if before is not None:
            os.environ[name] = before
