"""Glossary entries on the fits of squashing functions, Dynamic Tanh and Derf, to layers."""

from functools import partial

from normscope.results.glossary.entry import Entry


def _fit_entries(name: str, title: str, formula: str, argument: str, source: str) -> tuple[Entry, ...]:
    """Return the entries on the least-squares fit of a squashing function, `formula` of an `argument`."""
    entry = partial(Entry, source=source, commands=("swap",))
    return (
        entry(
            name=name,
            title=f"the fit of {title} to a layer",
            definition=f"The best {formula} for the layer's own output before its affine, over the tokens of "
            f"the calibration texts: one alpha for the layer, gamma and beta per feature. Of swap --kind "
            f"{title} only.",
            formula=f"y[d] ~ {formula}, least squares",
            range="numbers below",
            reading=f"{title} is meant for training from scratch. A poor fit of a trained model is a finding "
            "about that model, not a fault.",
            see_also=("affine_fit", "replacement", "calibration"),
        ),
        entry(
            name=f"{name}.alpha",
            title=f"how fast {title} bends",
            definition=f"The factor of x in the fit of {title}, one number for the layer, in 1 / unit of x. "
            "A geometric grid finds it, and then golden section.",
            formula=f"alpha in {formula}",
            range="0 or more",
            reading="Where alpha times the size of x is far below 1, the fit is a line, and a smaller alpha "
            "is as good; at 1 and above it bends.",
            see_also=(name, f"{name}.saturated"),
            columns=("alpha",) if name == "dyt_fit" else (),
        ),
        entry(
            name=f"{name}.r2",
            title=f"how much {title} explains",
            definition=f"The share of the layer's output before its affine that the fit of {title} explains, "
            "over all features.",
            formula="1 - SSE / SST, summed over features and tokens",
            range="0 to 1",
            reading="Compare it with affine_r2 of the same layer: what is above it is owed to the bend.",
            see_also=(name, f"{name}.affine_r2"),
            columns=("fit r2",) if name == "dyt_fit" else (),
        ),
        entry(
            name=f"{name}.affine_r2",
            title=f"how much a line explains, next to {title}",
            definition=f"The share that the best line a[d] x + b[d] explains where {title} is fitted: "
            "affine_fit.r2 over the calibration texts.",
            formula="1 - SSE / SST of y[d] ~ a[d] x + b[d]",
            range="0 to 1",
            reading="Near 1, the layer does not bend on these texts, and no other function can do better.",
            see_also=(f"{name}.r2", "affine_fit.r2"),
            columns=("line r2",) if name == "dyt_fit" else (),
        ),
        entry(
            name=f"{name}.saturated",
            title=f"how many elements {title} flattens",
            definition=f"The share of the elements of x, over features and calibration tokens, where the "
            f"argument of {title} is above 2 in size, so that its slope is nearly 0.",
            formula=f"share of |{argument}| > 2",
            range="0 to 1",
            reading="These are the large values that the function squashes; without any it is almost a line.",
            see_also=(f"{name}.alpha",),
            columns=("saturated",) if name == "dyt_fit" else (),
        ),
    )


SQUASHING_FITS = (
    *_fit_entries(
        "dyt_fit",
        "dyt",
        "gamma[d] tanh(alpha x[d]) + beta[d]",
        "alpha x",
        "Zhu et al. 2025 (CVPR), Transformers without Normalization, arXiv 2503.10622; fit: normscope's own",
    ),
    *_fit_entries(
        "derf_fit",
        "derf",
        "gamma[d] erf(alpha x[d] + shift) + beta[d]",
        "alpha x + shift",
        "Derf 2025, arXiv 2512.10938; fit: normscope's own",
    ),
    Entry(
        name="derf_fit.shift",
        title="how far the bend of derf is from 0",
        definition="The number that is added to alpha x in the fit of derf, one for the layer.",
        formula="shift in gamma[d] erf(alpha x[d] + shift) + beta[d]",
        range="any number",
        reading="Near 0, large positive and large negative values are squashed alike.",
        source="Derf 2025, arXiv 2512.10938",
        see_also=("derf_fit", "derf_fit.alpha"),
        commands=("swap",),
        columns=("shift",),
    ),
)
