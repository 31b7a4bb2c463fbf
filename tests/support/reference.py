"""The definitions once more, as plainly as they can be written: two passes in float64 over everything kept.

Nothing here is shared with normscope: activations are stacked, grouped with masks, and reduced
by numpy's own mean and var.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = Any


@dataclass
class Tokens:
    """Every counted token of a corpus: its input x and own output y (V, D), its sample and position (V,)."""

    x: Array
    y: Array
    sample: Array
    position: Array


def stack(samples: list[tuple[Array, Array, Array]]) -> Tokens:
    """Stack (x, y, positions) of single samples."""
    return Tokens(
        np.concatenate([x for x, _, _ in samples]).astype(np.float64),
        np.concatenate([y for _, y, _ in samples]).astype(np.float64),
        np.concatenate([np.full(len(x), i) for i, (x, _, _) in enumerate(samples)]),
        np.concatenate([positions for _, _, positions in samples]),
    )


def layer_norm(x: Array, eps: float) -> Array:
    x = x.astype(np.float64)
    return (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + eps)


def rms_norm(x: Array, eps: float) -> Array:
    x = x.astype(np.float64)
    return x / np.sqrt((x**2).mean(1, keepdims=True) + eps)


def summary(values: list[float]) -> dict[str, float]:
    v = np.asarray(values)
    return {"count": len(v), "mean": v.mean(), "std": v.std(), "min": v.min(), "max": v.max()}


def measure(tokens: Tokens, eps: float, affine: tuple[Array, Array] | None = None) -> dict[str, Any]:
    """Return every number of a layer's report, in the report's JSON shape.

    With the layer's `affine`, weight and bias (D,), also what its output y * weight + bias shows.
    """
    x, y = tokens.x, tokens.y
    samples = [tokens.sample == i for i in np.unique(tokens.sample)]
    positions = [tokens.position == t for t in range(tokens.position.max() + 1)]
    filled = [rows for rows in positions if rows.any()]
    at = {t: rows for t, rows in enumerate(positions) if rows.any()}
    return {
        "count": len(x),
        "token": _pair(x.mean(1), x.var(1)),
        "feature": {"count": len(x), "mean": x.mean(0), "variance": x.var(0)},
        "position": {
            "count": [int(rows.sum()) for rows in positions],
            "mean": _each(positions, lambda rows: x[rows].mean()),
            "variance": _each(positions, lambda rows: x[rows].var()),
            "token_mean": _each(positions, lambda rows: x[rows].mean(1).mean()),
            "token_variance": _each(positions, lambda rows: x[rows].var(1).mean()),
            "token_variance_std": _each(positions, lambda rows: x[rows].var(1).std()),
            "token_variance_min": _each(positions, lambda rows: x[rows].var(1).min()),
            "token_variance_max": _each(positions, lambda rows: x[rows].var(1).max()),
        },
        "sequence": _pair([x[rows].mean() for rows in samples], [x[rows].var() for rows in samples]),
        "instance": _pair(
            np.concatenate([x[rows].mean(0) for rows in samples]),
            np.concatenate([x[rows].var(0) for rows in samples]),
        ),
        "global": {"mean": x.mean(), "variance": x.var()},
        "own_output": {"mean": y.mean(0), "variance": y.var(0)},
        "agreement": {
            "feature": _cosine(y, (x - x.mean(0)) / np.sqrt(x.var(0) + eps)),
            "position": _cosine(y, _scaled(x, filled, None, eps)),
            "position_feature": _cosine(y, _scaled(x, filled, 0, eps)),
            "sequence": _cosine(y, _scaled(x, samples, None, eps)),
            "instance": _cosine(y, _scaled(x, samples, 0, eps)),
            "global": _cosine(y, (x - x.mean()) / np.sqrt(x.var() + eps)),
        },
        "affine_fit": {"r2": _best_lines(x, y)},
        "explained": {"position": _effect(x, filled), "sequence": _effect(x, samples)},
        "first_position": _first(x, at),
        **_mean_shares(x),
        "extremes": {"input": {"value": np.abs(x).max()}, "feature": np.abs(x).max(0)},
        "outliers": {
            "massive": _massive(tokens, samples),
            "sd_ratio": x.std(0).max() / np.median(x.std(0)),
            **(_of_the_affine(y, *affine) if affine else {}),
        },
    }


def _pair(means: Any, variances: Any) -> dict[str, Any]:
    return {"mean": summary(means), "variance": summary(variances)}


def _each(groups: list[Array], read: Any) -> list[float]:
    return [float(read(rows)) if rows.any() else math.nan for rows in groups]


def _scaled(x: Array, groups: list[Array], axis: int | None, eps: float) -> Array:
    z = np.empty_like(x)
    for rows in groups:
        z[rows] = (x[rows] - x[rows].mean(axis)) / np.sqrt(x[rows].var(axis) + eps)
    return z


def _cosine(y: Array, z: Array) -> float:
    return float((y * z).sum() / math.sqrt((y**2).sum() * (z**2).sum()))


def _best_lines(x: Array, y: Array) -> float:
    residual = 0.0
    for d in range(x.shape[1]):
        design = np.stack([x[:, d] - x[:, d].mean(), np.ones(len(x))], axis=1)
        line, *_ = np.linalg.lstsq(design, y[:, d], rcond=None)
        residual += float(((y[:, d] - design @ line) ** 2).sum())
    return 1 - residual / float(((y - y.mean(0)) ** 2).sum())


def _effect(x: Array, groups: list[Array]) -> dict[str, float]:
    centre, total = x.mean(0), ((x - x.mean(0)) ** 2).sum()
    between = sum(rows.sum() * ((x[rows].mean(0) - centre) ** 2).sum() for rows in groups)
    eta2 = between / total
    spare = len(x) - len(groups)
    return {"eta2": eta2, "epsilon2": 1 - (1 - eta2) * (len(x) - 1) / spare if spare else math.nan}


def by_word(x: Array, words: Array, kept: int) -> dict[str, float]:
    """Return what the token id of each row of x (V, D) explains, of the `kept` lowest ids."""
    ids = np.unique(words)[:kept]
    rows = np.isin(words, ids)
    groups = [words[rows] == word for word in ids]
    return {**_effect(x[rows].astype(np.float64), groups), "coverage": float(rows.mean())}


def _first(x: Array, at: dict[int, Array]) -> dict[str, float]:
    centred = x - x.mean(1, keepdims=True)
    rest = np.logical_or.reduce([rows for t, rows in at.items() if t > 0] or [np.zeros(len(x), bool)])
    first = math.sqrt((centred[at[0]] ** 2).mean()) if 0 in at else math.nan
    others = math.sqrt((centred[rest] ** 2).mean()) if rest.any() else math.nan
    return {"rms": first, "rest_rms": others, "ratio": first / others}


def _mean_shares(x: Array) -> dict[str, float]:
    ones = np.ones(x.shape[1]) / math.sqrt(x.shape[1])
    along, whole = (x @ ones) ** 2, (x**2).sum(1)
    directed = whole > 0
    return {
        "mean_share": (along[directed] / whole[directed]).mean() if directed.any() else math.nan,
        "mean_share_energy": along.sum() / whole.sum() if directed.any() else math.nan,
    }


def _massive(tokens: Tokens, samples: list[Array]) -> dict[str, Any]:
    found = []
    for rows in samples:
        size, at = np.abs(tokens.x[rows]), tokens.position[rows]
        for i, d in zip(*np.nonzero((size > 100) & (size >= 1000 * np.median(size))), strict=True):
            found.append((size[i, d], d, at[i]))
    return {
        "count": len(found),
        "largest": max((size for size, _, _ in found), default=math.nan),
        "features": _commonest([d for _, d, _ in found]),
        "positions": _commonest([t for _, _, t in found]),
    }


def _commonest(numbers: list[Any]) -> list[int]:
    return sorted(set(map(int, numbers)), key=lambda n: (-numbers.count(n), n))[:16]


def _of_the_affine(y: Array, weight: Array, bias: Array) -> dict[str, Any]:
    size = np.abs(y * weight + bias)
    share = (size >= 6).mean(0)
    features = [d for d in range(len(share)) if share[d] >= 0.06]
    large = {"features": features, "share": share[features], "largest": size.max(0)[features]}
    return {
        "llm_int8": large,
        "affine_outliers": {"weight": _far_out(weight), "bias": _far_out(bias)},
    }


def _far_out(values: Array) -> list[int]:
    return [d for d, value in enumerate(values) if abs(value - values.mean()) > 3 * values.std()]


def worst_error(got: Any, expected: dict[str, Any]) -> tuple[float, str]:
    """Return the largest relative error of a layer's report (as a dict) and the number that has it.

    A mean averages numbers that cancel, so its error is taken relative to their root mean square,
    and one among many means relative to the largest; the least of many variances, and their
    spread at a position, relative to their mean; shares and cosines absolutely; every other number relative
    to itself.
    """
    return max(_errors(got, expected, expected, ""), key=lambda pair: pair[0])


def _errors(got: Any, want: Any, parent: dict[str, Any], path: str) -> list[tuple[float, str]]:
    if isinstance(want, dict):
        return [e for key in want for e in _errors(got[key], want[key], want, f"{path}.{key}")]
    got, want = _numbers(got), _numbers(want)
    assert got.shape == want.shape, f"{path}: {got.shape} is not {want.shape}"
    assert (np.isnan(got) == np.isnan(want)).all(), f"{path}: unknown numbers differ"
    scale = np.abs(want)
    if path.endswith(("mean", "token_mean")) and "variance" in parent:
        scale = np.sqrt(_numbers(parent["variance"]) + want**2)
    elif path.endswith(("mean.mean", "mean.min", "mean.max", "mean.std")):
        scale = np.asarray(max(abs(parent["min"]), abs(parent["max"])))
    elif path.endswith("token_variance_std"):
        scale = _numbers(parent["token_variance"])
    elif path.endswith("variance.min"):
        scale = np.asarray(parent["mean"])
    elif any(share in path for share in (".explained.", ".agreement.", ".mean_share")):
        scale = np.ones_like(want)
    error = np.abs(got - want) / np.where(scale > 0, scale, 1)
    return [(float(np.nanmax(error, initial=0)), path)]


def _numbers(values: Any) -> Array:
    return np.asarray([math.nan if v is None else v for v in np.atleast_1d(values)], dtype=np.float64)


def batch_noise(texts: list[Array], batches: Any, momentum: float | None = None) -> dict[str, Any]:
    """Return the noise of batches (lists of numbers of texts), each formed by concatenating its texts.

    Every value but `excess` lists a number a batch; the running statistics are nn.BatchNorm1d's
    recurrence, step by step, beginning with the first batch.
    """
    whole = np.concatenate(texts).astype(np.float64)
    mean, sd = whole.mean(0), whole.std(0)
    formed = [np.concatenate([texts[i] for i in batch]).astype(np.float64) for batch in batches]
    shifts = [x.mean(0) - mean for x in formed]
    spread = [np.ptp(x, axis=0) > 0 for x in formed]
    noise: dict[str, Any] = {
        "tid_mean": [_norm(shift) / _norm(sd) for shift in shifts],
        "tid_variance": [_norm(x.std(0) - sd) / _norm(sd) for x in formed],
        "elementwise_mean": [
            np.mean(np.abs(shift[d]) / x.std(0)[d])
            for x, shift, d in zip(formed, shifts, spread, strict=True)
        ],
        "elementwise_variance": [
            np.mean(np.abs(sd[d] / x.std(0)[d] - 1)) for x, d in zip(formed, spread, strict=True)
        ],
        "distance_mean": [_norm(shift) / len(mean) for shift in shifts],
        "distance_variance": [_norm(x.var(0) - whole.var(0)) / len(mean) for x in formed],
        "excess": _excess([x for x in formed if len(x) > 1], whole),
    }
    return noise if momentum is None else {**noise, "running": _running(formed, mean, sd, momentum)}


def _excess(formed: list[Array], whole: Array) -> float:
    """Return the norms of the batches' sums of x - mean, over what a shuffle of all tokens gives."""
    centred = [(x - whole.mean(0)).sum(0) for x in formed]
    tokens, variance = len(whole), whole.var(0).sum()
    chance = [len(x) * (tokens - len(x)) / (tokens - 1) * variance for x in formed]
    return math.sqrt(sum(_norm(x) ** 2 for x in centred) / sum(chance)) if sum(chance) else math.nan


def _running(formed: list[Array], mean: Array, sd: Array, momentum: float) -> dict[str, Any]:
    now, variance = formed[0].mean(0), formed[0].var(0, ddof=1)
    found: dict[str, Any] = {"tid_mean": [], "tid_variance": []}
    for x in formed[1:]:
        found["tid_mean"].append(_norm(x.mean(0) - now) / _norm(np.sqrt(variance)))
        found["tid_variance"].append(_norm(x.std(0) - np.sqrt(variance)) / _norm(np.sqrt(variance)))
        now = (1 - momentum) * now + momentum * x.mean(0)
        variance = (1 - momentum) * variance + momentum * x.var(0, ddof=1)
    found["end_mean"] = _norm(now - mean) / _norm(sd)
    found["end_variance"] = _norm(np.sqrt(variance) - sd) / _norm(sd)
    return found


def _norm(values: Array) -> float:
    return math.sqrt(float((values**2).sum()))
