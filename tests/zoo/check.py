"""Does normscope's report of a tiny model say what independent hooks saw? Every layer, every difference."""

import math
import traceback
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from normscope.capture.watcher import watch
from normscope.results.inspect import LayerReport
from tests.zoo.build import Specimen
from tests.zoo.witness import Witness, Witnesses

# own_error of a layer whose formula is understood; the relative error of a feature's moments.
OWN_ERROR, MOMENTS = 1e-3, 1e-5
FORMULAS = ("layernorm", "rmsnorm", "l2norm", "batchnorm", "groupnorm", "instancenorm")


@dataclass(frozen=True)
class Failure:
    """One thing that normscope missed or got wrong: where, what, and the input that shows it."""

    layer: str
    module: str
    reason: str
    detail: str


@dataclass
class Record:
    """What came of one model type."""

    type: str
    model: str = ""
    built: bool = False
    ran: bool = False
    error: str | None = None
    inputs: list[str] = field(default_factory=list)
    layers: int = 0
    called: int = 0
    kinds: dict[str, int] = field(default_factory=dict)
    layouts: dict[str, int] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)
    unverified: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def covered(self) -> bool:
        """Whether the type runs and nothing is missed or wrong."""
        return self.ran and not self.failures


def check(specimen: Specimen) -> Record:
    """Watch one forward pass of the specimen, and compare layer by layer with what the hooks saw."""
    record = Record(
        specimen.type, type(specimen.model).__name__, specimen.built, specimen.ran, specimen.error
    )
    if not specimen.ran or specimen.inputs is None:
        return record
    record.inputs = [f"{k} {tuple(getattr(v, 'shape', ()))}" for k, v in specimen.inputs.items()]
    try:
        with torch.no_grad(), Witnesses(specimen.model) as seen, watch(specimen.model) as watcher:
            specimen.model(**specimen.inputs)
        report = watcher.report()
    except TimeoutError as error:
        record.ran, record.error = False, f"too slow: {error}"
        return record
    except Exception as error:
        record.failures.append(_crash(error))
        return record
    called = [layer for layer in report.layers.values() if layer.calls]
    record.layers, record.called = len(report.layers), len(called)
    record.kinds = dict(Counter(layer.kind for layer in called))
    record.layouts = dict(Counter(str(layer.layout) for layer in called))
    given = [specimen.inputs.get(n) for n in ("attention_mask", "decoder_attention_mask")]
    masks: list[Tensor] = [mask.bool() for mask in given if mask is not None]
    for name, witness in seen.all.items():
        record.failures += _compare(witness, report.layers.get(name), masks, record)
    for witness in seen.normalisers():
        if witness.name not in report.layers:
            record.failures.append(_failure(witness, "missed, unnamed"))
    return record


def _compare(
    witness: Witness, layer: LayerReport | None, masks: list[Tensor], record: Record
) -> Iterator[Failure]:
    """Give what is wrong with the report of one layer."""
    if layer is None:
        yield _failure(witness, "missed" if witness.calls else "missed, never called")
        return
    if layer.calls != len(witness.calls):
        yield _failure(witness, "calls", f"{layer.calls}, not {len(witness.calls)}")
    if not witness.calls:
        return
    if layer.features != witness.features():
        yield _failure(witness, "features", f"{layer.features}, not {witness.features()}")
        return
    if layer.layout is None:
        yield _failure(witness, "unaligned")
    yield from _kind(witness, layer)
    gated = witness.gated()
    if gated is not None and layer.own_error < OWN_ERROR and witness.kind() != layer.kind:
        witness = gated  # What it normalises is its gated input.
    yield from _moments(witness, layer, masks, record)


def _kind(witness: Witness, layer: LayerReport) -> Iterator[Failure]:
    expected = witness.kind()
    if layer.kind == "other" and expected != "other":
        yield _failure(witness, "other", f"the hook says {expected}")
    elif expected is not None and layer.kind != expected:
        yield _failure(witness, "kind", f"{layer.kind}, not {expected}")
    elif layer.kind in FORMULAS and math.isnan(layer.own_error) and witness.speaks():
        yield _failure(witness, "no formula", layer.kind)
    elif layer.own_error >= OWN_ERROR:
        yield _failure(witness, "own_error", f"{layer.own_error:.2g} as {layer.kind}")


def _moments(witness: Witness, layer: LayerReport, masks: list[Tensor], record: Record) -> Iterator[Failure]:
    everything = torch.cat([witness.rows(x).flatten(0, -2) for x, _ in witness.calls])
    chosen = [_tokens(witness.rows(x), masks) for x, _ in witness.calls]
    if layer.layout is None:
        each = [_or(rows, witness.rows(x)) for rows, (x, _) in zip(chosen, witness.calls, strict=True)]
        tokens = everything if layer.count == len(everything) else torch.cat(each)
    elif any(rows is None for rows in chosen) and masks:
        if layer.count != len(everything):
            record.unverified.append(f"{witness.name} {witness.cls} {witness.shapes}: {layer.count} rows")
            return
        tokens = everything
    else:
        tokens = everything if not masks else torch.cat([rows for rows in chosen if rows is not None])
    tokens = tokens[tokens.isfinite().all(1)]
    if layer.feature is None or layer.count != len(tokens):
        yield _failure(witness, "count", f"{layer.count}, not {len(tokens)}; layout {layer.layout}")
        return
    mean, variance = tokens.mean(0), tokens.var(0, correction=0)
    scale = float((variance + mean.square()).max()) or 1.0
    worst = float((torch.from_numpy(layer.feature.mean) - mean).abs().max()) / math.sqrt(scale)
    worst = max(worst, float((torch.from_numpy(layer.feature.variance) - variance).abs().max()) / scale)
    if not worst < MOMENTS:
        yield _failure(witness, "moments", f"off by {worst:.2g}; layout {layer.layout}")


def _or(tokens: Tensor | None, rows: Tensor) -> Tensor:
    return rows.flatten(0, -2) if tokens is None else tokens


def _tokens(rows: Tensor, masks: list[Tensor]) -> Tensor | None:
    """Return the rows (V, D) of an input (..., D) that are real tokens, None where the axes do not tell."""
    lead = tuple(rows.shape[:-1])
    for mask in masks:
        samples, length = mask.shape
        if lead[:2] == (samples, length):
            return rows[mask].flatten(0, -2)
        if len(lead) == 3 and (lead[0], lead[2]) == (samples, length):
            return rows.transpose(1, 2)[mask].flatten(0, -2)
        if lead == (length, samples):
            return rows.transpose(0, 1)[mask]
        if len(lead) in (1, 2) and lead[0] == samples * length:
            return rows[mask.flatten()].flatten(0, -2)
        if len(lead) == 1 and lead[0] % (samples * length) == 0:
            return rows.reshape(samples * length, -1, rows.shape[-1])[mask.flatten()].flatten(0, -2)
    return None


def _failure(witness: Witness, reason: str, detail: str = "") -> Failure:
    parts = [part for part in (detail, witness.shapes) if part]
    return Failure(witness.name, witness.cls, reason, "; ".join(parts))


def _crash(error: Exception) -> Failure:
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "normscope/" in f.filename]
    at = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "outside normscope"
    detail: Any = " ".join(str(error).split())[:200]
    return Failure("", type(error).__name__, "exception", f"{at}: {detail}")
