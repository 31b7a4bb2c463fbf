"""Turns errors of loading a model into one line each."""

import pickle
import re
from collections.abc import Iterator
from contextlib import contextmanager

from normscope.errors import ModelError, NormscopeError, install
from normscope.escaping import quoted, reason
from normscope.models.location import DEMO, MODEL_FORMS, Source


@contextmanager
def as_model_errors(source: Source, part: str) -> Iterator[None]:
    """Turn any error of reading a model into a ModelError of one line."""
    try:
        yield
    except NormscopeError:
        raise
    except SystemExit as error:
        got = f"the code of {quoted(source.name)} ended Python (sys.exit({error.code!r})) for its {part}"
        raise ModelError(f"{got}; expected it to continue; fix that code") from error
    except Exception as error:  # A wrong checkpoint may raise KeyError, TypeError, AssertionError, ...
        raise _model_error(error, source, part) from error


_NEXT_STEPS = {
    "adapter": "expected adapter weights that fit adapter_config.json and the base model; save them again",
    "configuration": "expected a config.json that transformers knows; check it or update transformers",
    "model class": "expected an architecture that can be imported; check transformers and torch",
    "tokenizer": "expected tokenizer files next to the weights; save them with tokenizer.save_pretrained",
    "processor": "expected preprocessor_config.json next to the weights; save it with its save_pretrained",
    "weights": "expected complete weights and a config.json that fits them; download or save both again",
}


def _model_error(error: Exception, source: Source, part: str) -> ModelError:
    chain, shown = list(_chain(error)), quoted(source.name)
    message = None if source.is_folder else _hub_message(chain, source, part)
    if message := message or _attention_message(chain, source):
        return ModelError(message)
    if any("trust_remote_code" in str(link) for link in chain):
        return untrusted(source)
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
    why = reason(error, source.options.token)
    if part == "weights" and source.is_folder:
        why = _unopened(source) or why
    return ModelError(f"cannot read the {part} of {shown}: {why}; {_NEXT_STEPS[part]}")


def _unopened(source: Source) -> str | None:
    """Return why a file of weights cannot be opened; its reader reports it as missing in every case."""
    for path in source.weight_files():
        try:
            if path.is_file():
                path.open("rb").close()
        except OSError as error:
            return f"{quoted(path.name)} cannot be opened ({error.strerror})"
    return None


def _attention_message(chain: list[BaseException], source: Source) -> str | None:
    """Return the message if the attention implementation is the cause, else None."""
    asked = source.options.attn_implementation
    if asked is None or not any(
        re.search("attn_implementation|flash_?attention", str(e), re.I) for e in chain
    ):
        return None
    got = f"{quoted(source.name)} cannot run with the attention {quoted(asked)} here"
    return f"{got}; expected eager, sdpa or one that is installed; change --attn-implementation"


def _hub_message(chain: list[BaseException], source: Source, part: str) -> str | None:
    """Return the most specific message for an error of the Hub; None if the Hub is not the cause."""
    return (
        _refusal_message(chain, source)
        or _status_message(chain, source, part)
        or _cache_message(chain, source, part)
        or _download_message(chain, source, part)
    )


def _shown(source: Source) -> str:
    """Return the model's name and, if one was chosen, its revision."""
    revision = source.options.revision
    return quoted(source.name) + (f" at revision {quoted(revision)}" if revision else "")


def _refusal_message(chain: list[BaseException], source: Source) -> str | None:
    """Return the message for an error that the Hub's client has a class for."""
    from huggingface_hub import errors

    name, shown, revision = quoted(source.name), _shown(source), quoted(source.options.revision)
    messages: dict[type[BaseException], str] = {
        errors.HFValidationError: f"{shown} is not a model; expected {MODEL_FORMS}; check the spelling",
        errors.GatedRepoError: f"{name} is gated and this account has no access; expected a token that has; "
        "ask for access on the model's page, then log in (hf auth login) or pass --token",
        errors.RepositoryNotFoundError: f"the Hub has no model {name}, or it is private; "
        f"expected {MODEL_FORMS}; check the spelling, or log in (hf auth login) or pass --token",
        errors.RevisionNotFoundError: f"{name} has no revision {revision}; expected a branch, tag or commit; "
        "look on its page",
        errors.RemoteEntryNotFoundError: f"{name} has no config.json{shown.removeprefix(name)}; "
        "expected a transformers model; look for one on its page",
    }
    return next((text for kind, text in messages.items() if any(isinstance(e, kind) for e in chain)), None)


def _status_message(chain: list[BaseException], source: Source, part: str) -> str | None:
    """Return the message for an HTTP status that refuses access."""
    statuses = (getattr(getattr(link, "response", None), "status_code", None) for link in chain)
    status = next((status for status in statuses if status in (401, 403)), None)
    if status is None:
        return None
    why = reason(chain[-1], source.options.token)
    got = f"the Hub refuses the {part} of {_shown(source)} with {status} ({why})"
    return f"{got}; expected access; check --token, HF_TOKEN or the login (hf auth login), and HF_ENDPOINT"


def _cache_message(chain: list[BaseException], source: Source, part: str) -> str | None:
    """Return the message for files that are not in the cache and could not be downloaded."""
    from huggingface_hub import errors, is_offline_mode

    # transformers has one message for weights that do not exist and weights that cannot be reached.
    absent = any("does not appear to have a file named" in str(link) for link in chain)
    if not absent and not any(isinstance(link, errors.LocalEntryNotFoundError) for link in chain):
        return None
    is_offline = source.options.local_files_only or is_offline_mode()
    why = "downloads are turned off" if is_offline else f"none could be downloaded ({reason(chain[-1])})"
    why = f"the Hub cannot be reached ({source.outage})" if source.outage else why
    got = f"no {part} of {_shown(source)} in the cache, and {why}"
    return f"{got}; expected it to be cached or a connection; {go_online(source)}"


def _download_message(chain: list[BaseException], source: Source, part: str) -> str | None:
    """Return the message for any other error of the Hub's client or of the connection."""
    if not any(type(link).__module__.startswith(("httpx", "huggingface_hub")) for link in chain):
        return None
    got = f"downloading the {part} of {quoted(source.name)} failed ({reason(chain[0], source.options.token)})"
    return f"{got}; expected the Hub to answer; try again later"


def go_online(source: Source) -> str:
    """Return advice for a file that is not in the cache."""
    if source.name == DEMO:
        return f"{install('demo')}, or go online once"
    return "go online once, look on its page, or name a model folder"


def untrusted(source: Source) -> ModelError:
    """Return the error for a model that needs its own code, which may not run."""
    got = f"{quoted(source.name)} is defined by Python code of its own, which was not run"
    return ModelError(
        f"{got}; expected an architecture of transformers; read it, then pass --trust-remote-code"
    )


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield the error and its causes, the first cause last."""
    link: BaseException | None = error
    seen: set[int] = set()
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        yield link
        link = link.__cause__ or link.__context__


def _missing_packages(chain: list[BaseException]) -> str | None:
    """Return the packages that are not installed; transformers names them in several ways."""
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
            # transformers tries tiktoken last, and does not say that the first reader is missing.
            return "sentencepiece protobuf tiktoken" if name == "tiktoken" else name
    return None


def _unmet_request(chain: list[BaseException]) -> str | None:
    """Return the memory that could not be allocated, in words; None if memory was not the cause."""
    for link in chain:
        if type(link).__name__ in {"OutOfMemoryError", "MemoryError"} or "can't allocate memory" in str(link):
            asked = re.search(r"tried to allocate ([\d.]+ \w+)", str(link), re.I)
            return f" (asked for {asked[1]} more)" if asked else ""
    return None
