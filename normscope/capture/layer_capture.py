"""Captures one layer: its input as rows, and its output as the check of its formula."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from normscope.capture.fused_sums import one_pass, suits
from normscope.capture.streaming import OutputGap, StreamingMoments
from normscope.capture.text_sample import BatchRows, LayerTexts
from normscope.norms.detection import NormLayer
from normscope.norms.formulas import GATES, Gate, stored_statistics, vector
from normscope.statistics.accumulator import Accumulator
from normscope.statistics.alignment import Alignment
from normscope.statistics.buffers import Scratch
from normscope.statistics.layer_state import LayerState
from normscope.statistics.layout import UNALIGNED, is_own_sequence, lead_axes, to_rows
from normscope.statistics.moments import Labels, Moments, Rows
from normscope.statistics.state_dict import move
from normscope.statistics.token_identity import TokenRoom

# Errors below this do not decide between two readings of the axes.
_CLOSE = 1e-5
# Rows are processed in parts of about this many elements, so that a part fits a processor's cache.
PART = 1 << 20

Aligner = Callable[[tuple[int, ...], int, int, torch.device, str | None], Sequence[Alignment]]


class RowTensors(NamedTuple):
    """Tensors whose rows go with those of a layer's input: (R, D), (V, D) after `take`, or None.

    `output` is the layer's output. If each head has its own affine, `output` is the output before the
    affine and `final` the output after it. `factor` is the multiplier from a gate.
    """

    output: Tensor | None
    factor: Tensor | None
    final: Tensor | None

    def take(self, part: Alignment, scratch: Scratch) -> "RowTensors":
        """Return only the rows that count, (V, D) each."""
        pairs = zip(self._fields, self, strict=True)
        return RowTensors(
            *(None if values is None else part.take(values, scratch, name) for name, values in pairs)
        )

    def map(self, function: Callable[[Tensor], Tensor]) -> "RowTensors":
        """Apply `function` to each tensor that is not None, and return the results."""
        return RowTensors(*(None if values is None else function(values) for values in self))


class LayerCapture:
    """Turns the calls of one layer into its `state`.

    With `room` for token ids, it also collects moments by token id.
    """

    def __init__(
        self, norm: NormLayer, room: TokenRoom | None = None, scratch: Scratch | None = None
    ) -> None:
        self.norm = norm
        self.room = room
        self._scratch = scratch or Scratch()
        self._state = LayerState()
        self._streaming: StreamingMoments | None = None
        self._gap = OutputGap()
        self.texts: LayerTexts | None = None
        """Where the moments of single texts are stored, if they are requested."""

    @property
    def state(self) -> LayerState:
        """The state of the layer after all calls so far."""
        if self._streaming is not None:
            self._streaming.read()
        self._gap.read_into(self._state, self.norm.features)
        return self._state

    def take(self, state: LayerState) -> None:
        """Continue from the state of another capture of the layer, whose `norm` has the same formula."""
        self._state, self._streaming, self._gap = state, None, OutputGap()

    @property
    def moments(self) -> Accumulator | None:
        """Its moments so far, None before its first call."""
        return self.state.moments

    @property
    def unaligned(self) -> bool:
        """Whether a probe has shown that the layer does not get one row per token."""
        layout = self._state.known_layout
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
            self._state.unreadable += 1
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
            self._state.misfits += 1
            return
        # A norm over the batch needs all rows at once, so they stay in one part.
        size = max(1, PART // norm.features) if norm.by_row else math.prod(lead)
        parts = parts_of(lead, norm.feature_axis, size, hidden.device, self._state.known_layout)
        # A call whose sizes leave no doubt decides for later calls whose sizes coincide.
        if parts and parts[0].sure:
            self._state.known_layout = parts[0].layout or (UNALIGNED if probe else None)
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
        if output is not None and self._state.moments is None and shape[-1] < wide == math.prod(shape[-2:]):
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
        if lead is not None or self._state.moments is not None:
            return lead
        # The class gives no width, or a wrong one: the width of the input is right.
        norm.features = shape[norm.feature_axis] if len(shape) > 1 else shape[0]
        return lead_axes(shape, norm.feature_axis, norm.features)

    def _add_parts(
        self, hidden: Tensor, output: Tensor | None, factor: Tensor | None, parts: Sequence[Alignment]
    ) -> None:
        self._state.calls += 1
        axis, features = self.norm.feature_axis, self.norm.features
        final = None
        if self.norm.per_head and output is not None:
            final, output = output, _before_affine(self.norm.module, output)
        x = to_rows(hidden, axis, features)
        extra = RowTensors(output, factor, final).map(lambda values: to_rows(values, axis, features))
        # Only norms that pool several rows are affected by rows that were left out.
        left_out = len(x) > sum(len(part.sample.group) for part in parts)
        self._state.padded |= left_out and self.norm.pools
        for part in parts:
            self._state.add_layout(part.layout, sure=part.sure)
            self._state.positioned &= part.positioned
            self._state.exact = part.bins.exact if part.bins else self._state.exact
            if not self._add_at_once(x, extra, part):
                self._add(part.take(x, self._scratch, "x"), extra.take(part, self._scratch), part)

    def _add_at_once(self, x: Tensor, extra: RowTensors, where: Alignment) -> bool:
        """Add the counted rows of x (R, D) in one compiled pass; return whether that was possible."""
        # The compiled pass does not compute these.
        left_to_operators = (self.room, self.texts, self._state.scales, extra.factor, extra.final)
        out = extra.output
        if out is None or any(part is not None for part in left_to_operators) or self._state.moments is None:
            return False
        buffer, state = self._buffer(x.device), self._state
        if not suits(self.norm, x, buffer.tokens):
            return False
        sums = one_pass(self.norm, buffer.eps, x, out, where, self._scratch)
        if sums is not None:
            state.worst_error = max(state.worst_error, sums.worst)
            state.output_square += sums.square
            state.output_size += len(where.sample.group) * self.norm.features
            state.precision = torch.finfo(out.dtype).eps
            buffer.add_pass(sums, lambda: where.take(x), where)
        return sums is not None

    def _add(self, x: Tensor, extra: RowTensors, where: Alignment) -> None:
        rows = Rows.of(x, self._scratch)
        if not math.isfinite(rows.reach):
            rows = Rows.of(x.double())  # In float32 the variance overflows for values above about 1e19.
            finite = rows.finite()
            self._state.nonfinite += int((~finite).sum())
            x, extra, where = x[finite], extra.map(lambda values: values[finite]), where.keep(finite)
            rows = Rows.of(x.double())
        if len(x):
            self._measure(rows, extra, where)

    def _measure(self, rows: Rows, extra: RowTensors, where: Alignment) -> None:
        norm, (out, factor, final) = self.norm, extra
        if not norm.settled:
            self._settle(rows, out, factor, where)
        self._state.unfitted = norm.settled and norm.formula is None
        if norm.kind == "batchnorm":
            self._state.stored = stored_statistics(norm.module)
        buffer = self._buffer(rows.x.device)
        if norm.formula is None or out is None:
            # NaN marks everything that needs y as unknown, without a special case in each sum.
            y = rows.x.new_full((1, 1), math.nan).expand_as(rows.x)
        else:
            # `spend` lets y reuse the memory of the centred rows, which nobody reads afterwards.
            y = norm.formula.normalise(norm.module, rows, where.sample, spend=True)
            expected = norm.formula.affine(norm.module, y, self._scratch.block("first", y))
            expected = expected if factor is None else expected * factor
            # `add` overwrites its first argument, which is y itself for a formula without an affine.
            self._gap.add(expected.clone() if expected is y else expected, out)
            self._state.precision = torch.finfo(out.dtype).eps
            if self._state.scales is not None and norm.formula.is_plain:
                self._state.scales.merge(Moments.of(norm.formula.row_scale(rows)).to("cpu"))
        real = out if final is None else final
        sizes = None if real is None else torch.abs(real, out=self._scratch.block("first", real))
        samples = buffer.update(rows, y, where, sizes)
        # Not after each batch: on a GPU, reading a gap makes the host wait.
        if self._gap.is_full:
            self._gap.read_into(self._state, norm.features)
        if self.texts is not None:
            self.texts.add(BatchRows(rows.x, y, samples.moments(), where))

    def _buffer(self, device: torch.device) -> StreamingMoments:
        """Return the buffer for the layer's batches; it continues from the moments so far."""
        norm = self.norm
        if self._streaming is None and self._state.moments is not None:
            # Restored moments may be on another device.
            move(self._state.moments, device)
            self._streaming = StreamingMoments(self._state.moments, self._scratch)
        if self._streaming is None or self._state.moments is None:
            words = None if self.room is None else self.room.ids(norm.features)
            eps = 0.0 if math.isnan(norm.eps) else norm.eps
            self._state.moments = Accumulator(norm.features, eps, device, words)
            self._streaming = StreamingMoments(self._state.moments, self._scratch)
        return self._streaming

    def _settle(self, rows: Rows, out: Tensor | None, factor: Tensor | None, where: Alignment) -> None:
        """Settle the formula by the rows with finite output; an output that overflowed fits no formula."""
        finite = None if out is None else out.isfinite().all(1)
        if out is not None and finite is not None and not bool(finite.all()):
            if not bool(finite.any()):
                return
            rows, out, where = Rows.of(rows.x[finite]), out[finite], where.keep(finite)
            factor = None if factor is None else factor[finite]
        self.norm.settle(rows, out, where.sample, factor)


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
