"""A fold: removed layers and the Linears that do their work, applied to a model or kept in a file."""

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
from normscope.escaping import quoted
from normscope.norms.module_tree import named_modules, unwrapped
from normscope.statistics.safetensors_file import FileKind

FILE = FileKind("normscope-fold.safetensors", "normscope.fold/1", "fold", "normscope swap --fold --save")


@dataclass(frozen=True)
class Folded:
    """What one layer leaves behind: new parameters of the Linears that read it, by their names.

    `digest` is that of all the parameters that they come from, so that they are put into no other model.
    """

    parameters: Mapping[str, Tensor]
    digest: str

    @property
    def into(self) -> tuple[str, ...]:
        """The names of the modules that read it."""
        return tuple(dict.fromkeys(name.rpartition(".")[0] for name in self.parameters))


@dataclass(frozen=True)
class Fold:
    """Layers of a model that are folded into the Linears that read them, by the layers' names.

    `refused` says of the others why they cannot be.
    """

    model: str
    kind: str
    layers: Mapping[str, Folded]
    refused: Mapping[str, str]

    def only(self, names: Sequence[str]) -> "Fold":
        """Return a copy that folds these layers alone."""
        return replace(self, layers={name: self.layers[name] for name in names})

    def apply(self, model: nn.Module) -> None:
        """Fold a model for good: the layers become nn.Identity, and the Linears get their parameters.

        No class of transformers can be loaded as that, so `save_pretrained` is refused from then on: keep
        the model as it was, and the fold. UsageError, before anything is changed, when the model's
        parameters are not those that were folded.
        """
        for holder, key, new in self.changes(model):
            holder[key] = new

    def applied(self, model: nn.Module) -> AbstractContextManager[None]:
        """Fold a model until the context ends, then give it its own layers and parameters back."""
        return changed(self.changes(model))

    def changes(self, model: nn.Module) -> list["Change"]:
        """List what is put where: in the dictionaries that modules keep parameters and children in.

        UsageError as in `apply`.
        """
        modules = dict(named_modules(unwrapped(model)))
        changes: list[Change] = []
        for name, folded in self.layers.items():
            if name not in modules or digest(modules, name, folded.parameters) != folded.digest:
                raise UsageError(
                    f"{name} and what reads it are not as they were when the model was folded; "
                    f"expected {quoted(self.model)} as it was, in its dtype; load that"
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
        """Write it to a folder, made if need be, as one safetensors file; return the file.

        Its tensors are the Linears' new parameters under their own names, as in a state dict. The header's
        metadata are strings: `schema`, `normscope`, `model`, `kind`, and the JSON of `identity`, the layers
        that become nn.Identity with what they are folded into, and of `refused`. ReportError when the
        folder cannot be written.
        """
        identity = {
            name: {"parameters": [*each.parameters], "digest": each.digest}
            for name, each in self.layers.items()
        }
        about = {
            "normscope": __version__,
            "model": self.model,
            "kind": self.kind,
            "identity": json.dumps(identity),
            "refused": json.dumps(dict(self.refused)),
        }
        tensors = {name: v for each in self.layers.values() for name, v in each.parameters.items()}
        return FILE.write(folder, tensors, about)


def read_fold(folder: str | os.PathLike[str]) -> Fold:
    """Read what `normscope swap --fold --save` or `Fold.save` wrote to a folder, or to a file.

        model = AutoModelForCausalLM.from_pretrained("gpt2")
        normscope.read_fold("folder").apply(model)

    ReportError when there is none or it is not one.
    """
    return FILE.read(folder, _made)


def _made(tensors: dict[str, Tensor], about: dict[str, Any]) -> Fold:
    layers = {
        name: Folded({path: tensors[path] for path in each["parameters"]}, each["digest"])
        for name, each in json.loads(about["identity"]).items()
    }
    return Fold(about["model"], about["kind"], layers, json.loads(about["refused"]))


Change = tuple[dict[str, Any], str, Any]


@contextmanager
def changed(changes: Sequence[Change]) -> Iterator[None]:
    """Make changes until the context ends, then undo them."""
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


_ABSENT = object()


def _refuse_to_save(*_: Any, **__: Any) -> None:
    """Stand in for a folded model's `save_pretrained`: what that writes loads with new norms, silently."""
    raise UsageError(
        "save_pretrained of a folded model, whose norms from_pretrained would make anew, with other outputs; "
        "expected the model as it was before the fold; save that and the fold (Fold.save), and fold it again "
        "when it is loaded"
    )


def digest(modules: Mapping[str, nn.Module], layer: str, parameters: Iterable[str]) -> str:
    """Return the SHA-256 of the parameters of a layer and of the modules that own these `parameters`."""
    owners = dict.fromkeys([layer, *(name.rpartition(".")[0] for name in parameters)])
    taken = hashlib.sha256()
    for owner in owners:
        for key, value in modules[owner].named_parameters() if owner in modules else ():
            taken.update(
                f"{owner} {key} {value.dtype} {tuple(value.shape)}".encode("utf-8", "backslashreplace")
            )
            flat = value.detach().cpu().reshape(-1)
            taken.update(flat.view(torch.uint8).numpy().data)
    return taken.hexdigest()
