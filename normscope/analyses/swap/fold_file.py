"""Folds: removed layers and the Linears that do their work, applied to a model or written to a file."""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from normscope._version import __version__
from normscope.errors import UsageError
from normscope.escaping import counted, quoted
from normscope.norms.module_tree import named_modules, unwrapped
from normscope.statistics.safetensors_file import FileKind

FILE = FileKind("normscope-fold.safetensors", "normscope.fold/1", "fold", "normscope swap --fold --save")


@dataclass(frozen=True, repr=False)
class Folded:
    """The new parameters, by name, of the Linears that read one folded layer.

    `digest` is that of the parameters from which they were computed, so that they only fit that model.
    """

    parameters: Mapping[str, Tensor]
    digest: str

    def __repr__(self) -> str:
        return f"<Folded into {', '.join(self.into)}>"

    @property
    def into(self) -> tuple[str, ...]:
        """The names of the modules that read the layer."""
        return tuple(dict.fromkeys(name.rpartition(".")[0] for name in self.parameters))


@dataclass(frozen=True, repr=False)
class Fold:
    """Layers of a model that are folded into the Linears that read them, by the layers' names.

    `refused` says why each of the other layers cannot be folded.
    """

    model: str
    kind: str
    layers: Mapping[str, Folded]
    refused: Mapping[str, str]

    def __repr__(self) -> str:
        folded = counted(len(self.layers), "layer")
        return f"<Fold of {self.model}: {self.kind}, {folded} folded, {len(self.refused)} not>"

    def only(self, names: Sequence[str]) -> "Fold":
        """Return a copy that folds these layers alone."""
        return replace(self, layers={name: self.layers[name] for name in names})

    def apply(self, model: nn.Module) -> None:
        """Fold a model for good: the layers become nn.Identity, and the Linears get their new parameters.

        transformers cannot load a folded model, so its `save_pretrained` raises UsageError from then on:
        save the original model and the fold. Raises UsageError, before it changes anything, when the
        model's parameters are not those that were folded.
        """
        for holder, key, new in self.changes(model):
            holder[key] = new

    def applied(self, model: nn.Module) -> AbstractContextManager[None]:
        """Fold a model until the context ends, then restore its own layers and parameters."""
        return changed(self.changes(model))

    def changes(self, model: nn.Module) -> list["Change"]:
        """List the changes that fold a model, in its modules' dictionaries of parameters and children.

        Raises UsageError as `apply` does.
        """
        modules = dict(named_modules(unwrapped(model)))
        changes: list[Change] = []
        for name, folded in self.layers.items():
            if name not in modules or digest(modules, name, folded.parameters) != folded.digest:
                raise UsageError(
                    f"{name}, or a module that reads it, has changed since the model was folded; "
                    f"expected {quoted(self.model)} unchanged and in the same dtype; load that"
                )
            for path, value in folded.parameters.items():
                owner, _, key = path.rpartition(".")
                like = next(modules[owner].parameters())
                new = nn.Parameter(value.to(like.device), requires_grad=like.requires_grad)
                changes.append((modules[owner]._parameters, key, new))
            for parent in modules.values():
                children = [key for key, child in parent._modules.items() if child is modules[name]]
                changes += [(parent._modules, key, nn.Identity()) for key in children]
        saving = [module for module in modules.values() if hasattr(module, "save_pretrained")]
        changes += [(vars(module), "save_pretrained", _refuse_to_save) for module in saving if self.layers]
        return changes

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write one safetensors file into a folder, which is made if missing; return the file's path.

        The tensors are the Linears' new parameters under their own names, as in a state dict. The header's
        metadata are strings: `schema`, `normscope`, `model`, `kind`, and the JSON of `identity` and
        `refused`. `identity` has the layers that become nn.Identity, each with its Linears' parameters.
        Raises ReportError when the folder cannot be written.
        """
        identity = {
            name: {"parameters": [*folded.parameters], "digest": folded.digest}
            for name, folded in self.layers.items()
        }
        about = {
            "normscope": __version__,
            "model": self.model,
            "kind": self.kind,
            "identity": json.dumps(identity),
            "refused": json.dumps(dict(self.refused)),
        }
        tensors = {path: v for folded in self.layers.values() for path, v in folded.parameters.items()}
        return FILE.write(folder, tensors, about)


def read_fold(folder: str | os.PathLike[str]) -> Fold:
    """Read the file that `normscope swap --fold --save` or `Fold.save` wrote; also takes its folder.

        model = AutoModelForCausalLM.from_pretrained("gpt2")
        normscope.read_fold("folder").apply(model)

    Raises ReportError when there is no such file or it is of another kind.
    """
    return FILE.read(folder, _from_file)


def _from_file(tensors: dict[str, Tensor], about: dict[str, Any]) -> Fold:
    layers = {
        name: Folded({path: tensors[path] for path in entry["parameters"]}, entry["digest"])
        for name, entry in json.loads(about["identity"]).items()
    }
    return Fold(about["model"], about["kind"], layers, json.loads(about["refused"]))


# A dictionary, a key in it, and the new value.
Change = tuple[dict[str, Any], str, Any]
_ABSENT = object()


@contextmanager
def changed(changes: Sequence[Change]) -> Iterator[None]:
    """Make changes until the context ends, then undo them; a key that did not exist is removed again."""
    before = [(holder, key, holder.get(key, _ABSENT)) for holder, key, _ in changes]
    try:
        for holder, key, new in changes:
            holder[key] = new
        yield
    finally:
        for holder, key, old in before:
            if old is _ABSENT:
                holder.pop(key, None)
            else:
                holder[key] = old


def _refuse_to_save(*_: Any, **__: Any) -> None:
    """Replace a folded model's `save_pretrained`, whose files would silently load with new norms."""
    raise UsageError(
        "save_pretrained of a folded model: from_pretrained would give it new norms and other outputs; "
        "expected the model as it was before the fold; save that and the fold (Fold.save), and fold it again "
        "when it is loaded"
    )


def digest(modules: Mapping[str, nn.Module], layer: str, parameters: Iterable[str]) -> str:
    """Return the SHA-256 of the parameters of a layer and of the modules that own these `parameters`."""
    owners = dict.fromkeys([layer, *(name.rpartition(".")[0] for name in parameters)])
    sha = hashlib.sha256()
    for owner in owners:
        for key, value in modules[owner].named_parameters() if owner in modules else ():
            described = f"{owner} {key} {value.dtype} {tuple(value.shape)}"
            sha.update(described.encode("utf-8", "backslashreplace"))
            sha.update(value.detach().cpu().reshape(-1).view(torch.uint8).numpy().data)
    return sha.hexdigest()
