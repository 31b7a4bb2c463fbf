"""Small reports made up by formula, for tests of what shows them: no model, no random numbers."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from normscope.analyses.compare import compare
from normscope.analyses.training.track import track as follow
from normscope.results.batches import (
    BatchFilling,
    BatchNoise,
    BatchReport,
    KeptTexts,
    LayerNoise,
    NoiseParts,
    Running,
)
from normscope.results.common import ModelInfo, Pooled, RunInfo, Summary
from normscope.results.compare import Comparison, Drift
from normscope.results.curve import InputOutputCurve
from normscope.results.depth import DepthPoint, DepthProfile, ResidualSize, ResidualTotal
from normscope.results.inspect import (
    AffineFit,
    AffineOutliers,
    EffectSize,
    Explained,
    ExplainedByToken,
    Extreme,
    Extremes,
    FeatureOutput,
    FeatureStats,
    FirstPosition,
    GroupStats,
    LargeFeatures,
    LayerReport,
    MassiveActivations,
    Outliers,
    PositionStats,
    Report,
    Scale,
)
from normscope.results.swap import (
    Baseline,
    CalibrationInfo,
    DerfFit,
    Effect,
    Estimate,
    FoldedLayer,
    FoldInfo,
    LayerSwap,
    Step,
    SwapReport,
    Together,
)
from normscope.results.track import Track
from normscope.results.trajectory import (
    LayerPoint,
    PointExtreme,
    PointExtremes,
    RevisionPoint,
    Trajectory,
)
from normscope.results.windows import append_window
from normscope.statistics.outliers import outlier_features

NAN = float("nan")
MINILM = [
    "embeddings.LayerNorm",
    *(f"encoder.layer.{i}.{place}.LayerNorm" for i in range(6) for place in ("attention.output", "output")),
]
LLAMA = [
    *(
        f"model.layers.{i}.{norm}"
        for i in range(16)
        for norm in ("input_layernorm", "post_attention_layernorm")
    ),
    "model.norm",
]
HOSTILE = [
    "[red]bold[/red]",
    "[/]",
    "\x1b[31mred\x1b[0m",
    "right\u202etfel",
    "</script><b>&|`",
    "two\nlines\r\tand a tab",
    "\ud800 half a pair",
    "层归一化.規範化",
]


def layer(
    name: str, index: int = 0, *, features: int = 48, positions: int = 40, **changes: object
) -> LayerReport:
    """One measured layer; `changes` replace its fields."""
    d = np.arange(features) + index
    t = np.arange(positions)
    scale = 0.02 * 1.6**index
    count = np.maximum(64 - 3 * np.maximum(t - 8, 0) // 2, 1)
    variance = scale * (1 + 0.5 * np.sin(0.7 * d) + 40 * (d % 17 == 3))
    own = 1 + 0.6 * np.sin(1.3 * d) + 5 * (d % 17 == 3)
    token_variance = scale * (1 + 2.0 * (t == 0) + 0.1 * np.cos(t))
    measured = LayerReport(
        name=name,
        index=index,
        module="LayerNorm",
        kind="layernorm",
        features=features,
        eps=1e-12,
        affine="weight+bias",
        calls=2,
        layout="BTD",
        count=int(count.sum()),
        nonfinite=0,
        own_error=2.5e-7 * (index + 1),
        token=GroupStats(_summary(-0.001 * index, scale / 9), _summary(scale, scale / 4)),
        feature=FeatureStats(int(count.sum()), 0.1 * np.cos(0.5 * d) * scale**0.5, variance),
        position=PositionStats(
            count,
            0.01 * np.sin(t),
            token_variance * 1.05,
            0.01 * np.sin(t),
            token_variance,
            token_variance_std=token_variance * (0.2 + 0.1 * np.sin(t)),
            token_variance_min=token_variance * 0.4,
            token_variance_max=token_variance * 1.7,
            far=0.5 + 0.5 * np.sin(t),
        ),
        sequence=GroupStats(_summary(0.0, scale / 9), _summary(scale, scale / 8)),
        instance=GroupStats(_summary(0.0, scale / 3), _summary(scale, scale / 2)),
        global_=Scale(0.0, scale * 1.2),
        own_output=FeatureOutput(0.3 * np.cos(0.9 * d), own),
        agreement={
            "feature": 0.98 - 0.03 * ((index * 5) % 13),
            "position": 0.99 - 0.01 * index,
            "position_feature": 0.9,
            "sequence": 0.995 - 0.004 * index,
            "instance": 0.8,
            "global": 0.97,
        },
        affine_fit=AffineFit(0.97 - 0.02 * index),
        explained=Explained(EffectSize(0.2, 0.15 - 0.013 * index), EffectSize(0.3, 0.05 + 0.02 * index)),
        first_position=FirstPosition(30.0, 2.0, 15.0 / (index + 1)),
        outliers=_outliers([], sd_ratio=6.0 + index),
        extremes=_extremes(scale, len(d)),
        mean_share=0.02 / (index + 1),
        mean_share_energy=0.03 / (index + 1),
    )
    return replace(measured, **changes)  # type: ignore[arg-type]


def _extremes(scale: float, features: int) -> Extremes:
    largest = 20 * scale**0.5
    sizes = largest / (1 + np.arange(features, dtype=np.float64))
    return Extremes(
        Extreme(largest, 0, 0, 101), Extreme(30.0, 1, 2, 102), sizes, 65504 / max(largest, 30), 10.0
    )


def standing_out(index: int) -> Outliers:
    """Outliers that recur in some layers: features 7 and 20, and 31 in one of them."""
    large = [[7, 20], [20], [7, 20, 31, 40], []][index % 4]
    return _outliers(large, massive=(index == 2) * 5, sd_ratio=6.0 + index)


def _outliers(large: list[int], *, massive: int = 0, sd_ratio: float) -> Outliers:
    features, rank = np.array(large, dtype=np.int64), np.arange(len(large), dtype=np.float64)
    places = np.arange(massive)
    return Outliers(
        LargeFeatures(features, 0.9 / (rank + 2), 8.5 + rank),
        MassiveActivations(massive * 64, 1234.5 if massive else NAN, 7 + 13 * places[:2], places),
        AffineOutliers(features[:1], None if massive else features[1:]),
        sd_ratio,
    )


def uncalled(name: str, index: int = 0) -> LayerReport:
    """A layer that the model has and the run did not reach."""
    parts = ("token", "feature", "position", "sequence", "instance", "global_", "own_output")
    rest = ("agreement", "affine_fit", "explained", "first_position", "layout", "outliers", "extremes")
    nothing: dict[str, Any] = dict.fromkeys((*parts, *rest))
    nothing |= dict.fromkeys(("own_error", "mean_share", "mean_share_energy"), NAN)
    return layer(name, index, calls=0, count=0, **nothing)


def report(
    layers: Iterable[LayerReport], *, id: str = "nreimers/MiniLM", warnings: Sequence[str] = ()
) -> Report:
    """A report of such layers."""
    model = ModelInfo(id, None, None, "BertModel", "float32", "cpu", 22_713_216)
    run = RunInfo(64, 1536, 0, 3, 40, 256, "include", 32, 2, "length", 0.125, 1.234)
    by_name = {each.name: each for each in layers}
    return Report("0.1.0", model, run, by_name, tuple(warnings), outlier_features(by_name.values()))


def profiled() -> Report:
    """The report of `minilm` with the residual stream along its encoder."""
    report = minilm()
    stack = "encoder.layer"
    points = tuple(
        DepthPoint(
            each.name,
            (i - 1) // 2,
            ResidualSize(0.5 * i, NAN if i < 3 else i / (i - 2)),
            each.mean_share,
            2.5 + i,
            {"feature": 0.9},
        )
        for i, each in enumerate(report.layers.values())
        if each.name.startswith(stack)
    )
    profile = DepthProfile(stack, 6, ResidualTotal(12.0), points[3].name, points, ("1 norm left out, x: y",))
    return replace(report, depth=(profile,))


def curved(report: Report) -> Report:
    """Return a report whose layers have curves: S-shaped ones that end at 2, 4, 8, ..."""
    x = np.repeat(np.arange(64), 3)
    y = np.round(31.5 + 24 * np.tanh((x - 31.5) / 12)).astype(int) + np.tile([-1, 0, 1], 64)
    count = (1e5 * np.exp(-(((x - 31.5) / 12) ** 2))).astype(int) + 1
    layers = {
        name: replace(layer, curve=InputOutputCurve(2.0 ** (i + 1), 8.0, 1234 + i, x, y, count))
        for i, (name, layer) in enumerate(report.layers.items())
    }
    return replace(report, layers=layers)


def trajectory() -> Trajectory:
    """Two revisions, whose weights are equal."""
    drift, largest = Drift(0.5, 0.25), PointExtremes(PointExtreme(3.0), PointExtreme(4.0), 16376.0)
    numbers: dict[str, Any] = {"agreement": {"feature": 0.9}, "extremes": largest}
    numbers |= {"bn_drift": drift, "ln_drift": Drift(NAN, 0.5)}
    layers = (LayerPoint("a", **numbers),)
    points = (
        RevisionPoint("v1", "0" * 40, "1" * 64, None, **numbers, layers=layers),
        RevisionPoint("v2", None, None, "v1", **numbers, layers=layers),
    )
    return Trajectory("0.1.0", points, ("a warning",), (report([layer("a")]), report([layer("a")])))


def minilm() -> Report:
    """Thirteen LayerNorms, as in all-MiniLM-L6-v2."""
    return report(
        (layer(name, i, outliers=standing_out(i)) for i, name in enumerate(MINILM)),
        id="sentence-transformers/all-MiniLM-L6-v2",
    )


def worded() -> Report:
    """The same, with what the word explains, of most of the tokens."""
    layers = minilm().layers.values()
    token = [ExplainedByToken(0.95, 0.9 - 0.04 * i, 1.0 if i % 2 else 0.9375) for i in range(len(layers))]
    explained = [each.explained for each in layers]
    return report(
        replace(each, explained=replace(old, token=new) if old else None)
        for each, old, new in zip(layers, explained, token, strict=True)
    )


def llama() -> Report:
    """Thirty-three RMSNorms, the last but one never called."""
    layers = [
        layer(name, i % 12, kind="rmsnorm", module="LlamaRMSNorm", affine="weight", eps=1e-5)
        for i, name in enumerate(LLAMA)
    ]
    layers[-2] = replace(uncalled(LLAMA[-2], len(LLAMA) - 2), kind="rmsnorm", module="LlamaRMSNorm")
    return report(layers, id="meta-llama/Llama-3.2-1B")


def mixed() -> Report:
    """Kinds, axes and parts that were not all measured, under names of 150 characters."""
    stem = "model.vision_tower.transformer.resblocks"
    long = [f"{stem}.{i}.{'very_' * 19}deep.norm_{i}" for i in range(4)]
    assert all(len(name) > 140 for name in long)
    return report(
        [
            layer(long[0], 0),
            layer(long[1], 1, kind="rmsnorm", positions=4, outliers=standing_out(0)),
            layer(long[2], 2, kind="batchnorm", position=None, first_position=None, outliers=standing_out(2)),
            layer(long[3], 3, kind="other", own_output=None, agreement=None, affine_fit=None, own_error=NAN),
            uncalled("pooler.norm", 4),
        ]
    )


def hostile() -> Report:
    """Names and words that try to be markup, escape codes or table syntax."""
    layers = [
        layer(name, i, kind=name, module=HOSTILE[i - 1], layout=name, affine=name, outliers=standing_out(i))
        for i, name in enumerate(HOSTILE)
    ]
    return report(layers, id="".join(HOSTILE), warnings=HOSTILE)


def few_texts() -> Report:
    """MiniLM on two texts, whose tokens are known, and try to be markup."""
    texts = (("[CLS]", "the", "[red]cat", "sat", "[SEP]"), ("[CLS]", "\x1b[31mrain", "层归一化", "[SEP]"))
    whole = report((layer(name, i, positions=5) for i, name in enumerate(MINILM)))
    run = replace(whole.run, texts=2, tokens=9, positions=5, repeated_texts=1, unknown_tokens=1)
    return replace(whole, run=run, pooled=Pooled(texts))


def deep() -> Report:
    """A hundred and sixty-one RMSNorms, as in Llama-70B."""
    names = [
        f"model.layers.{i}.{norm}"
        for i in range(80)
        for norm in ("input_layernorm", "post_attention_layernorm")
    ]
    made = (
        layer(name, i % 12, kind="rmsnorm", module="LlamaRMSNorm")
        for i, name in enumerate([*names, "model.norm"])
    )
    return report(made, id="meta-llama/Llama-3.1-70B")


def _summary(mean: float, std: float) -> Summary:
    return Summary(1536, mean, std, mean - 3 * std, mean + 4 * std)


def comparison() -> Comparison:
    """MiniLM against itself after layers were renamed, moved and dropped."""
    before = minilm()
    after = [
        replace(each, name=name, index=i)
        for i, (name, each) in enumerate(
            zip([*MINILM[:4], "renamed.LayerNorm", *MINILM[5:12]], map(_moved, range(12)), strict=True)
        )
    ]
    return compare(before, report(after, id="moved"))


def track() -> Track:
    """MiniLM in five windows: two layers jump at step 30, the others have small noise alone."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "norms.jsonl"
        write_windows(path, MINILM)
        return follow(path)


def write_windows(path: Path, names: Sequence[str]) -> None:
    """Write five windows of such layers, of which the third and the fourth jump at step 30."""
    whole = report(layer(name, i) for i, name in enumerate(names))
    for step in (1, 10, 20, 30, 40):
        layers = {
            name: _shifted(each, step, 1.0 if each.index in (2, 3) and step >= 30 else 0.0)
            for name, each in whole.layers.items()
        }
        gaps = {} if step == 1 else dict.fromkeys(layers, (0.1, 0.05))
        append_window(path, step, "train", replace(whole, layers=layers), gaps)


def _shifted(each: LayerReport, step: int, shift: float) -> LayerReport:
    assert each.feature is not None
    noise = 0.01 * np.cos(np.arange(each.features) * step + each.index)
    return replace(each, feature=replace(each.feature, mean=each.feature.mean + noise + shift))


def _moved(index: int) -> LayerReport:
    old = layer(MINILM[index], index)
    assert old.feature is not None
    feature = FeatureStats(9, old.feature.mean + 0.01 * index, old.feature.variance * (1 + index / 10))
    changes: dict[str, Any] = {"feature": None if index == 2 else feature}
    if index % 3 == 1:
        changes["agreement"] = {"feature": 0.5}
    return replace(old, **changes)


def swap_report(
    names: Sequence[str] = MINILM,
    *,
    id: str = "nreimers/MiniLM",
    head: str | None = "causal",
    cumulative: bool = True,
    broken: bool = False,
    fold: bool = False,
    fits: bool = False,
) -> SwapReport:
    """What replacing such layers does; with `broken` the first layer's replacement gives no numbers.

    With `fold` every third layer is folded; with `fits` erf is fitted to each.
    """
    base = report([layer(name, i) for i, name in enumerate(names)], id=id)
    damages = [0.9 / (1 + (5 * i) % 13) ** 1.5 for i in range(len(names))]
    if broken:
        damages[0] = NAN
    layers = {
        name: LayerSwap(name, i, "layernorm", 48, _effect(damage, head), derf_fit=_fit(i) if fits else None)
        for i, (name, damage) in enumerate(zip(names, damages, strict=True))
    }
    order = sorted(layers.values(), key=lambda swapped: swapped.effect.damage)
    steps = [Step(s.name, i + 1, _effect(0.9 - 0.8 / (i + 1), head)) for i, s in enumerate(order)]
    return SwapReport(
        "0.1.0",
        base.model,
        base.run,
        "derf" if fits else "batchnorm",
        0,
        CalibrationInfo(64, 1600, False),
        Baseline(head, 1472 if head else 0, _estimate(3.2) if head else None, 24.5 if head else NAN),
        layers,
        Together(_effect(0.97, head)),
        tuple(steps) if cumulative else None,
        ("a note",),
        _fold(names, head) if fold else None,
    )


def _fit(index: int) -> DerfFit:
    r2, line = 0.99 - 0.01 * index, 0.97 - 0.02 * index
    return DerfFit(0.4 / (1 + index), r2, line, 0.003 * index, 0.01 * index - 0.03)


def _fold(names: Sequence[str], head: str | None) -> FoldInfo:
    layers = []
    for i, name in enumerate(names):
        parent = name.rpartition(".")[0]
        into = (f"{parent}.attn.q_proj", f"{parent}.attn.k_proj", f"{parent}.attn.v_proj")
        why = f"read by the addition in {parent}"
        kept = FoldedLayer(name, (), why, NAN, NAN)
        layers.append(kept if i % 3 else FoldedLayer(name, into, None, 1e-6 * (i + 1), 2.5e-7 * (i + 1)))
    return FoldInfo(3.45e-4, 1.9e-5, 3.1e-6, _effect(0.4, head), tuple(layers))


def _effect(damage: float, head: str | None) -> Effect:
    loss = None if head is None else _estimate(3.2 + 4 * damage)
    return Effect(
        _estimate(1 - damage),
        _estimate(2 * damage**2),
        _estimate(1 - 0.9 * damage),
        1 - 0.8 * damage,
        loss,
        NAN if head is None else 24.5 * 50**damage,
        None if head is None else _estimate(5 * damage**2),
        None if head is None else _estimate(1 - damage),
    )


def _estimate(mean: float) -> Estimate:
    return Estimate(mean, mean - abs(mean) / 90, mean + abs(mean) / 70)


def batch_report(
    names: Sequence[str] = MINILM,
    *,
    id: str = "sentence-transformers/all-MiniLM-L6-v2",
    momentum: float | None = None,
) -> BatchReport:
    """Noise that falls with the root of the size, and by length more slowly; the last layer has none."""
    sizes, orders = [2, 4, 8, 16, 32], ["random", "length", "given"]
    layers = {
        name: LayerNoise(
            name, i, "layernorm", 48,
            tuple(_noise(i, size, order, momentum) for size in sizes for order in orders)
            if i < len(names) - 1 or i == 0 else None,
        )
        for i, name in enumerate(names)
    }  # fmt: skip
    t = np.arange(40)
    reach = np.maximum(128 - 3 * t, 2).astype(np.float64)
    kept = KeptTexts(128, 1536, reach, 0.4, 24.0, 0.29)
    batches = [_filling(size, order, reach) for size in sizes for order in orders]
    whole = report([], id=id)
    return BatchReport(
        "0.1.0", whole.model, replace(whole.run, texts=128), 4, 7, momentum, kept, tuple(batches), layers, ()
    )


def _noise(index: int, size: int, order: str, momentum: float | None) -> BatchNoise:
    power = {"random": -0.5, "length": -0.3, "given": -0.45}[order]
    noise = 0.3 * (1 + index / 8) * size**power
    parts = NoiseParts(_summary(noise, noise / 9), _summary(noise / 2, noise / 20))
    elementwise = NoiseParts(_summary(noise * 1.1, noise / 9), _summary(noise * 0.6, noise / 20))
    distance = NoiseParts(_summary(noise / 48, noise / 400), _summary(noise / 90, noise / 900))
    running = None if momentum is None else Running(noise * momentum, noise * momentum / 2, parts)
    # 12 tokens a text; by length, the sizes of batches differ, so that independent tokens are noisier.
    excess = noise * (12 * size) ** 0.5 * (0.9 if order == "length" else 1.0)
    return BatchNoise(size, order, parts, elementwise, distance, running, excess)


def _filling(size: int, order: str, reach: Any) -> BatchFilling:
    alike = order == "length"
    positions = np.minimum(size * (0.9 if alike else 1.0), np.maximum(reach / 128 * size, 1 + alike))
    late = float(max(1, size if alike else size // 8))
    error = (2 / (late - 1)) ** 0.5 if late > 1 else NAN
    padding = (0.01 if alike else 0.4) * (1 - 1 / size)
    return BatchFilling(
        size, order, 512 // size, padding, _summary(12.0 * size, 3.0), positions, 0.9, late, error
    )
