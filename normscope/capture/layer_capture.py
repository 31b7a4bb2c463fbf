"""Captures one layer: its input as rows, and its output as the check of its formula."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from normscope.capture.call_summary import CallRows, summarise
from normscope.capture.observers import Observer
from normscope.norms.detection import NormLayer
from normscope.norms.formulas import GATES, Gate, stored_statistics, vector
from normscope.statistics.alignment import Alignment
from normscope.statistics.buffers import Scratch
from normscope.statistics.layer_state import LayerState
from normscope.statistics.layout import UNALIGNED, is_own_sequence, lead_axes, to_rows
from normscope.statistics.moments import Labels, Rows

# Errors below this do not decide between two readings of the axes.
_CLOSE = 1e-5
# Rows are processed in parts of about this many elements, so that a part fits a processor's cache.
PART = 1 << 20

Aligner = Callable[[tuple[int, ...], int, int, torch.device, str | None], Sequence[Alignment]]


class LayerCapture:
    """Turns the calls of one layer into its `state`, and shows their rows to `observers`."""

    def __init__(
        self, norm: NormLayer, observers: Sequence[Observer] = (), scratch: Scratch | None = None
    ) -> None:
        self.norm = norm
        self.observers = [*observers]
        self.state = LayerState()
        """The state of the layer; it is complete after `flush`."""
        self._scratch = scratch or Scratch()

    @property
    def unaligned(self) -> bool:
        """Whether a probe has shown that the layer does not get one row per token."""
        layout = self.state.known_layout
        return layout == UNALIGNED or is_own_sequence(layout)

    def add(
        self,
        hidden: Tensor,
        output: Any,
        parts_of: Aligner,
        *,
        gate: Tensor | None = None,
        probe: bool = False,
    ) -> None:
        """Add one call of the layer, with its input `hidden` and its `output`.

        `parts_of` returns which rows of the input count, in parts. `gate` is a second input of the same
        shape, if there is one. A `probe` is a call that only finds the layout of the input. Inputs that
        cannot be read, and those with another number of features, are counted and left out.
        """
        if not _is_plain(hidden):
            self.state.unreadable += 1
            return
        hidden = _on_output_device(hidden, output)
        if hidden.device.type == "mps":
            hidden = hidden.cpu()  # Metal has no float64.
        output = _real_output(hidden, output)
        # The axes are settled together with the formula: all calls of a layer are read the same way.
        if not self.norm.settled:
            self._choose_axis(hidden, output)
        norm, lead = self.norm, self._lead_axes(tuple(hidden.shape))
        if lead is None:
            self.state.misfits += 1
            return
        # A norm over the batch needs all rows at once, so they stay in one part.
        size = max(1, PART // norm.features) if norm.by_row else math.prod(lead)
        parts = parts_of(lead, norm.feature_axis, size, hidden.device, self.state.known_layout)
        # A call whose sizes leave no doubt decides for later calls whose sizes coincide.
        if parts and parts[0].sure:
            self.state.known_layout = parts[0].layout or (UNALIGNED if probe else None)
        if probe or not parts:
            return
        if gate is not None and not norm.settled:
            self._choose_gate(hidden, output, gate.to(hidden.device))
        factor = None if gate is None or norm.gate is None else norm.gate.factor(gate.to(hidden.device))
        # A gate before the norm changes its input; a gate after it changes its output.
        if factor is not None and norm.gate is not None and norm.gate.before:
            hidden, factor = hidden * factor, None
        self._add_parts(hidden, output, factor, parts)

    def _choose_axis(self, hidden: Tensor, output: Tensor | None) -> None:
        """Find the feature axis, -1 or 1, of a class that allows both, by its size or by the real output."""
        norm = self.norm
        if norm.axis_is_known() or hidden.dim() < 3:
            return
        shape, weight = tuple(hidden.shape), vector(norm.module, "weight")
        wide = norm.features if weight is None else weight.numel()
        fits = [(axis, False) for axis in (-1, 1) if lead_axes(shape, axis, norm.features) is not None]
        if output is not None and self.state.moments is None and shape[-1] < wide == math.prod(shape[-2:]):
            # A weight as long as the last two axes together: each head has its own affine.
            fits.insert(0, (-1, True))
        if len(fits) > 1 and output is not None:
            # The sort is stable: among readings with errors below `_CLOSE`, the usual one stays first.
            fits.sort(key=lambda way: max(_CLOSE, self._axis_error(hidden, output, *way)))
        if fits:
            norm.feature_axis, norm.per_head = fits[0]
        if norm.per_head:
            norm.features = shape[-1]

    def _axis_error(self, hidden: Tensor, output: Tensor, axis: int, per_head: bool) -> float:
        norm, features = self.norm, hidden.shape[-1] if per_head else self.norm.features
        output = _before_affine(norm.module, output) if per_head else output
        x, out = (to_rows(values, axis, features) for values in (hidden, output))
        # A copy: the layer's own norm is set when all readings have been compared.
        trial = replace(norm, per_head=per_head)
        return trial.error(Rows.of(x), out, Labels.of(torch.arange(len(x), device=x.device)))

    def _choose_gate(self, hidden: Tensor, output: Tensor | None, gate: Tensor) -> None:
        """Find how the layer uses its second input: the way closest to its real output, or none."""
        if output is None:
            return
        norm, (axis, features) = self.norm, (self.norm.feature_axis, self.norm.features)
        x, out = (to_rows(values, axis, features) for values in (hidden, output))
        sample = Labels.of(torch.arange(len(x), device=x.device))
        errors: dict[Gate | None, float] = {None: norm.error(Rows.of(x), out, sample)}
        for way in GATES:
            factor = to_rows(way.factor(gate), axis, features)
            rows, after = (Rows.of(x * factor), None) if way.before else (Rows.of(x), factor)
            errors[way] = norm.error(rows, out, sample, after)
        norm.gate = min(errors, key=lambda way: errors[way])

    def _lead_axes(self, shape: tuple[int, ...]) -> tuple[int, ...] | None:
        """Return the sizes of the axes other than the features; None if earlier calls had another width."""
        norm = self.norm
        lead = lead_axes(shape, norm.feature_axis, norm.features)
        if lead is not None or self.state.moments is not None:
            return lead
        # The class gives no width, or a wrong one: the width of the input is right.
        norm.features = shape[norm.feature_axis] if len(shape) > 1 else shape[0]
        return lead_axes(shape, norm.feature_axis, norm.features)

    def _add_parts(
        self, hidden: Tensor, output: Tensor | None, factor: Tensor | None, parts: Sequence[Alignment]
    ) -> None:
        self.state.calls += 1
        axis, features = self.norm.feature_axis, self.norm.features
        final = None
        if self.norm.per_head and output is not None:
            final, output = output, _before_affine(self.norm.module, output)
        call = CallRows(hidden, output, factor, final)
        call = call.map(lambda values, _: to_rows(values, axis, features))
        # Only norms that pool several rows are affected by rows that were left out.
        left_out = len(call.x) > sum(len(part.sample.group) for part in parts)
        self.state.padded |= left_out and self.norm.pools
        for part in parts:
            self.state.add_layout(part.layout, sure=part.sure)
            self.state.positioned &= part.positioned
            self.state.exact = part.bins.exact if part.bins else self.state.exact
            self._add_part(call, part)

    def _add_part(self, call: CallRows, part: Alignment) -> None:
        norm, state = self.norm, self.state
        summary, rows = summarise(
            norm, call, part, state.tokens(), self._scratch, observed=bool(self.observers)
        )
        if summary.sums is not None:
            state.unfitted = norm.settled and norm.formula is None
            if norm.kind == "batchnorm":
                state.stored = stored_statistics(norm.module)
        state.add(summary)
        if rows is not None:
            for observer in self.observers:
                observer.observe(rows, state)


def _on_output_device(hidden: Tensor, output: Any) -> Tensor:
    """Return an input on the device of the layer's output: a model may be spread over several devices."""
    hidden = hidden.detach() if hidden.requires_grad else hidden
    first = output[0] if isinstance(output, tuple | list) and output else output
    moves = isinstance(first, Tensor) and first.device != hidden.device
    return hidden.to(first.device) if moves else hidden


def _is_plain(x: Tensor) -> bool:
    """Whether a tensor is strided and holds real numbers; integers and float8 do, and become float32."""
    return x.layout == torch.strided and not (x.is_nested or x.is_quantized or x.is_complex())


def _real_output(hidden: Tensor, output: Any) -> Tensor | None:
    """Return the output of a layer in the shape of `hidden`; None if it cannot be compared with `hidden`.

    Of several outputs, the first tensor is used. An output with one number per row is the factor of that
    row. An output with another shape but the same number of elements has its heads joined or split.
    """
    outputs = output if isinstance(output, tuple | list) else (output,)
    first = next((value for value in outputs if isinstance(value, Tensor)), None)
    if first is None or not first.is_floating_point():
        return None
    first = first.detach() if first.requires_grad else first
    if first.device != hidden.device:
        first = first.to(hidden.device)
    if first.shape == hidden.shape:
        return first
    if first.shape == (*hidden.shape[:-1], 1):
        return first * hidden
    return first.reshape(hidden.shape) if first.numel() == hidden.numel() else None


def _before_affine(module: nn.Module, output: Tensor) -> Tensor:
    """Undo an affine with a weight and bias per head and feature, (H, d) or flat, on (..., H, d)."""
    shape = output.shape[-2:]
    weight, bias = (vector(module, name) for name in ("weight", "bias"))
    wide = output.float() if bias is None else output.float() - bias.reshape(shape)
    return wide if weight is None else wide / weight.reshape(shape)
