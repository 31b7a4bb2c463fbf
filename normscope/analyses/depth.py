"""The residual stream along the blocks, from the statistics of the norms that read it."""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from torch import nn

from normscope.escaping import counted
from normscope.norms.residual_stream import StackNorm, stack_norms
from normscope.results.common import Floats
from normscope.results.depth import DepthPoint, DepthProfile, ResidualSize, ResidualTotal
from normscope.results.inspect import LayerReport, Report
from normscope.statistics.metrics import ratio


def depth_profiles(model: nn.Module, layers: Mapping[str, LayerReport]) -> tuple[DepthProfile, ...]:
    """Return a profile of each stack of blocks of `model`, from the numbers of its `layers` by name.

    - `residual.rms` = sqrt(mean over V and d of x^2) at each norm that reads the residual stream;
    - `residual.growth` = its ratio to that of the same norm in the block before, or, behind the blocks, of
      the last block's first norm; `residual.total` = last over first;
    - `kurtosis` = mean_d(s_d^4) / mean_d(s_d^2)^2 with s_d^2 = mean over V of x_d^2 (He et al. 2024, arXiv
      2405.19279).

    Which norms these are is read off structure and code; the others of a stack are in `left_out`.
    """
    norms = stack_norms(model, {layer.module_name: layer.features for layer in layers.values()})
    stacks = dict.fromkeys(norm.stack for norm in norms)
    return tuple(_profile([norm for norm in norms if norm.stack == stack], layers) for stack in stacks)


def merge_depth(
    parts: Sequence[Report], layers: Mapping[str, LayerReport]
) -> tuple[DepthProfile, ...] | None:
    """Return the profiles of merged `layers`; their norms are those of the part that has the most points.

    None if a part has no profiles.
    """
    profiles = [part.depth for part in parts if part.depth is not None]
    if len(profiles) < len(parts):
        return None
    fullest = max(profiles, key=lambda part: sum(len(profile.points) for profile in part))
    return tuple(_with_points(profile, profile.points, layers) for profile in fullest)


def _profile(norms: Sequence[StackNorm], layers: Mapping[str, LayerReport]) -> DepthProfile:
    layouts = {layers[n.name].layout for n in norms if n.block is not None and n.name in layers}
    reasons = {norm.name: norm.left_out or _unreadable(norm, layers, layouts) for norm in norms}
    points = [
        DepthPoint(norm.name, norm.block, ResidualSize(math.nan, math.nan), math.nan, math.nan, {})
        for norm in sorted(norms, key=lambda norm: math.inf if norm.block is None else norm.block)
        if not reasons[norm.name]
    ]
    stack, blocks = norms[0].stack, norms[0].blocks
    empty = DepthProfile(stack, blocks, ResidualTotal(math.nan), None, (), tuple(_left_out(reasons)))
    return _with_points(empty, points, layers)


def _unreadable(norm: StackNorm, layers: Mapping[str, LayerReport], layouts: Collection[str | None]) -> str:
    """Return why a layer's numbers are not those of the stream at one place; "" if they are.

    `layouts` are those of the norms in the blocks.
    """
    layer = layers.get(norm.name)
    if layer is None or layer.calls_per_forward > 1:
        return "they run several times in a forward"
    if layer.feature is None:
        return "they saw no token"
    is_other = norm.block is None and layouts and layer.layout not in layouts
    return "they see other rows than the norms in the blocks" if is_other else ""


def _left_out(reasons: Mapping[str, str]) -> Iterable[str]:
    for reason in dict.fromkeys(filter(None, reasons.values())):
        names = [name for name, own in reasons.items() if own == reason]
        others = f" and {len(names) - 1} more" if len(names) > 1 else ""
        yield f"{counted(len(names), 'norm')} left out, {names[0]}{others}: {reason}"


def _with_points(
    profile: DepthProfile, points: Iterable[DepthPoint], layers: Mapping[str, LayerReport]
) -> DepthProfile:
    """Return a profile whose points have the numbers of their layers."""
    sized = [_measured(point, layers[point.name]) for point in points]
    grown = [_grown(point, profile, sized) for point in sized]
    sizes = [point.residual.rms for point in grown]
    massive = (p.name for p in grown if (o := layers[p.name].outliers) and o.massive.count)
    total = ratio(sizes[-1], sizes[0]) if len(sizes) > 1 else math.nan
    return replace(
        profile, residual=ResidualTotal(total), first_massive=next(massive, None), points=tuple(grown)
    )


def _measured(point: DepthPoint, layer: LayerReport) -> DepthPoint:
    squares = np.array([math.nan]) if layer.feature is None else mean_squares(layer)
    return replace(
        point,
        residual=ResidualSize(math.sqrt(float(squares.mean())), math.nan),
        mean_share=layer.mean_share,
        kurtosis=kurtosis(squares),
        agreement={"feature": (layer.agreement or {}).get("feature", math.nan)},
    )


def mean_squares(layer: LayerReport) -> Floats:
    """Return the mean over tokens of the square of each feature of a measured layer's input, (D,)."""
    assert layer.feature is not None
    squares: Floats = layer.feature.variance + layer.feature.mean**2
    return squares


def kurtosis(squares: Floats) -> float:
    """Return mean_d(s_d^4) / mean_d(s_d^2)^2 of mean squares s_d^2 (D,).

    1 if all are equal, D if one feature has everything, NaN if all are 0. He et al. 2024, arXiv 2405.19279.
    """
    return ratio(float((squares**2).mean()), float(squares.mean()) ** 2)


def _grown(point: DepthPoint, profile: DepthProfile, points: Sequence[DepthPoint]) -> DepthPoint:
    """Return a point with its growth since the block before."""
    if point.block is None:
        before = [p for p in points if p.block == profile.blocks - 1]
    else:
        place = point.name.removeprefix(f"{profile.name}.{point.block}.")
        before = [p for p in points if p.name == f"{profile.name}.{point.block - 1}.{place}"]
    rms = point.residual.rms
    growth = ratio(rms, before[0].residual.rms) if before else math.nan
    return replace(point, residual=ResidualSize(rms, growth))
