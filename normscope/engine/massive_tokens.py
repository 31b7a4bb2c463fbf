"""Finds the tokens with a massive activation, by a run of each batch before the measured one."""

import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from normscope.capture.hooks import unobserved
from normscope.capture.scope import Scope
from normscope.capture.token_scopes import Scopes, UserMasks
from normscope.data.batch import Batch
from normscope.engine.batch_splitting import BatchSplitter
from normscope.engine.forward import Forward, evaluating, probe_inputs
from normscope.models.loading import quiet
from normscope.norms.detection import NormLayer, find
from normscope.norms.module_tree import uncompiled
from normscope.statistics.alignment import Alignment
from normscope.statistics.layout import UNALIGNED, lead_axes, to_rows
from normscope.statistics.outliers import MASSIVE, MassiveElements


@dataclass
class _Side:
    """The tokens of a model, or of its decoder: the masks that leave only them, and the massive ones."""

    masks: UserMasks
    massive: Tensor
    """(B, T) bool, on the CPU."""
    scopes: Scopes = field(default_factory=Scopes)


class MassiveTokens:
    """Leaves the tokens with a massive activation out of batches.

    An element of the input of a normalization layer is massive if |x| > 100 and |x| >= 1000 times the
    median of |x| over the tokens of its text that all other rules leave in (Sun et al., 2024, arXiv
    2402.17762). A token with such an element at any normalization layer of the model is left out at all
    layers, so that every layer has the same tokens. Tokens of a decoder are apart from those of its encoder.
    Of a layer with a gate before it, the input is that before the gate.
    """

    def __init__(self, forward: Forward, tokenizer: Any) -> None:
        self._forward, self._tokenizer = forward, tokenizer
        self._norms = find(forward.model)
        self._layouts: dict[str, str | None] = {}
        self._splitter = BatchSplitter(forward.device, "it was run in parts")
        self._probed = False

    def screen(self, batch: Batch) -> Batch:
        """Run a batch once and return it without its massive tokens; RunError if the model fails."""
        model = self._forward.model
        with quiet(), unobserved(), uncompiled(), evaluating(model), torch.no_grad():
            if not self._probed:
                self._probe()
            found = self._splitter.work(batch, lambda parts: [self._find(part) for part in parts])
        massive, *decoder = (_stacked(masks, batch.mask) for masks in zip(*found, strict=True))
        decoder_valid = batch.decoder_valid & ~decoder[0] if decoder else batch.decoder_valid
        counts = {**batch.left_out, "massive": int((massive & batch.valid).sum())}
        return replace(batch, valid=batch.valid & ~massive, decoder_valid=decoder_valid, left_out=counts)

    def _probe(self) -> None:
        """Find the axes of the layers' inputs on sizes that are all different."""
        inputs = probe_inputs(self._tokenizer)
        everything = torch.ones_like(inputs["input_ids"], dtype=torch.bool)
        self._run(inputs, [_Side(UserMasks(everything, None), ~everything)], probe=True)
        self._probed = True

    def _find(self, batch: Batch) -> list[Tensor]:
        """Return the massive tokens (B, T), then those of the decoder, if the model has one."""
        none = torch.zeros_like(batch.mask)
        sides = [_Side(UserMasks(batch.valid, none), none.clone())]
        if self._forward.decodes:
            sides.append(_Side(UserMasks(none, batch.decoder_valid), none.clone()))
        self._run(batch.inputs, sides)
        return [side.massive for side in sides]

    def _run(self, inputs: dict[str, Tensor], sides: Sequence[_Side], *, probe: bool = False) -> None:
        model, scopes = self._forward.model, sides[0].scopes
        with ExitStack() as hooks:
            for module in model.modules():
                if module is model or scopes.opens_one(module):
                    opening = module.register_forward_pre_hook(_opener(sides), with_kwargs=True, prepend=True)
                    hooks.enter_context(opening)
                    closing = module.register_forward_hook(_closer(sides), always_call=True)
                    hooks.enter_context(closing)
            for norm in self._norms:
                reader = self._reader(norm, sides, probe=probe)
                hooks.enter_context(norm.module.register_forward_pre_hook(reader, with_kwargs=True))
            self._forward(inputs)

    def _reader(self, norm: NormLayer, sides: Sequence[_Side], *, probe: bool) -> Callable[..., None]:
        def read(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            values = (*args, *kwargs.values())
            hidden = next((value for value in values if isinstance(value, Tensor)), None)
            axes = None if hidden is None else _axes(norm, tuple(hidden.shape))
            if hidden is None or axes is None or hidden.layout != torch.strided:
                return
            for side in sides:
                if side.scopes.current is not None:
                    self._mark(norm, hidden, axes, side, probe=probe)

        return read

    def _mark(
        self, norm: NormLayer, hidden: Tensor, axes: tuple[int, int], side: _Side, *, probe: bool
    ) -> None:
        """Mark the massive tokens of a call's input in a side."""
        scope, rows = side.scopes.current, to_rows(hidden, *axes)  # (R, D)
        lead = lead_axes(tuple(hidden.shape), *axes)
        assert isinstance(scope, Scope)
        assert lead is not None
        parts = scope.parts(lead, axes[0], math.prod(lead), rows.device, self._layouts.get(norm.name))
        # A call whose sizes leave no doubt decides for later calls whose sizes coincide.
        if parts and parts[0].sure:
            self._layouts[norm.name] = parts[0].layout or (UNALIGNED if probe else None)
        for where in parts:
            if where.by_text and where.positioned and not probe:
                for row, columns in _massive(rows, where):
                    side.massive[row, columns] = True


def _opener(sides: Sequence[_Side]) -> Callable[..., None]:
    def open_scopes(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        for side in sides:
            side.scopes.open(module, args, kwargs, side.masks)

    return open_scopes


def _closer(sides: Sequence[_Side]) -> Callable[..., None]:
    def close_scopes(*_: Any) -> None:
        for side in sides:
            side.scopes.close()

    return close_scopes


def _axes(norm: NormLayer, shape: tuple[int, ...]) -> tuple[int, int] | None:
    """Return the feature axis and the number of features of an input; None if it has no such axis."""
    if len(shape) < 2:
        return None
    for axis in dict.fromkeys((norm.feature_axis, -1, 1)):
        features = norm.features or shape[axis]
        if lead_axes(shape, axis, features) is not None:
            return axis, features
    return None


def _massive(rows: Tensor, where: Alignment) -> list[tuple[int, Tensor]]:
    """Return the texts with massive tokens, by their rows of the batch, and the positions of these tokens."""
    x = where.take(rows)
    x = x if x.dtype == torch.float64 else x.float()
    finite = x.isfinite().all(1)
    if not bool(finite.all()):
        x, where = x[finite], where.keep(finite)
    peaks = x.abs().amax(1)
    texts = sorted({*where.sample.group[peaks > MASSIVE].tolist()})
    found = []
    for text in texts:
        elements = MassiveElements.of(x, where, [text])
        if elements is not None:
            # All padding is on the right, so that a token's position is its column.
            found.append((int(where.batch_row[text]), elements.positions[:, 0].nonzero()[:, 0].cpu()))
    return found


def _stacked(masks: Sequence[Tensor], mask: Tensor) -> Tensor:
    """Stack the masks of a batch's parts, (b, t) each, to that of the batch, (B, T)."""
    return torch.cat([nn.functional.pad(part, (0, mask.shape[1] - part.shape[1])) for part in masks])
