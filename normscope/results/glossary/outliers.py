"""Glossary entries on outlier features and tokens, and on the largest values."""

from functools import partial

from normscope.results.glossary.entry import OWN, Entry, Topic

_entry = partial(
    Entry, source="Dettmers et al. 2022, LLM.int8(), arXiv 2208.07339, section 4.1", commands=("inspect",)
)

_extreme = partial(
    Entry, source="float16: IEEE 754 binary16, whose largest number is 65504; " + OWN, commands=("inspect",)
)


def _parts(side: str, symbol: str) -> tuple[Entry, ...]:
    """Return the entries of the largest value and of its place."""
    places = {
        "feature": (f"the feature of the largest {side}", f"the d of max |{symbol}[n,t,d]|"),
        "position": (
            f"the position of the largest {side}",
            f"the t of max |{symbol}[n,t,d]|, counted in its text",
        ),
        "token": (f"the token id of the largest {side}", f"the id of the token at max |{symbol}[n,t,d]|"),
    }
    entries = {"value": (f"the largest {side} itself", f"max over V and d of |{symbol}[n,t,d]|"), **places}
    return tuple(
        _extreme(
            name=f"extremes.{side}.{part}",
            title=title,
            definition=f"At the largest |value| of the {side}: {title}.",
            formula=formula,
            range="0 or more; null where it is unknown",
            reading="The same place in many layers: one feature or token carries it through the model.",
            see_also=(f"extremes.{side}",),
        )
        for part, (title, formula) in entries.items()
    )


EXTREMES = Topic(
    "Extremes",
    (
        _extreme(
            name="extremes",
            title="the largest values of a layer",
            definition="The largest |value| over all valid tokens of the layer's input and of its output, "
            "with the feature, the position and the token id where it is.",
            formula="max over V and d of |x[n,t,d]|",
            range="0 or more; null in reports of versions without it",
            reading="One value sets the scale of a quantizer with one scale for the tensor. Where it is at "
            "one feature or one position throughout, a scale for that alone is enough.",
            see_also=("extremes.headroom", "outliers.massive"),
        ),
        _extreme(
            name="extremes.input",
            title="the largest |value| of the input",
            definition="`value` is the largest |x|; `feature`, `position` and `token` say where it is: the "
            "index of the feature, the position in the text, and the token id.",
            formula="value = max over V and d of |x[n,t,d]|",
            range="0 or more; a place is null where it is unknown",
            reading="Of several equal values, the one at the lowest feature stays when parts are merged.",
            see_also=("extremes.output", "extremes.feature"),
            columns=("input largest",),
            brief="the largest |value| of the input over all tokens and features",
        ),
        *_parts("input", "x"),
        _extreme(
            name="extremes.output",
            title="the largest |value| of the output",
            definition="The same for the layer's real output; null where the output is not known.",
            formula="value = max over V and d of |output[n,t,d]|",
            range="0 or more; null where the output is not known",
            reading="What the next Linear reads; a per-tensor quantizer of activations must cover it.",
            see_also=("extremes.input",),
            columns=("output largest",),
            brief="the largest |value| of the output over all tokens and features",
        ),
        *_parts("output", "output"),
        _extreme(
            name="extremes.feature",
            title="the largest |value| of each feature",
            definition="The maximum of |x| of each feature of the input.",
            formula="feature[d] = max over V of |x[n,t,d]|",
            range="D numbers, each 0 or more",
            reading="What SmoothQuant and AWQ read to scale a feature down before quantizing.",
            see_also=("extremes.input", "feature.variance"),
        ),
        _extreme(
            name="extremes.headroom",
            title="room before float16 overflows",
            definition="The largest finite float16 over the largest |value| of input and output.",
            formula="headroom = 65504 / max(input.value, output.value)",
            range="0 or more; null where all values are 0",
            reading="Under 8, which a warning says: a text three powers of two larger overflows in float16. "
            "Under 1: it overflows on these texts.",
            see_also=("extremes.headroom_bits",),
            columns=("headroom", "headroom float16"),
            brief="65504, float16's maximum, over the largest value of input and output",
        ),
        _extreme(
            name="extremes.headroom_bits",
            title="the same in powers of two",
            definition="How many times the largest value may double before float16 overflows.",
            formula="headroom_bits = log2(headroom)",
            range="any number; null where all values are 0",
            reading="3: it may double three times.",
            see_also=("extremes.headroom",),
        ),
    ),
)

OUTLIERS = Topic(
    "Outlier features and tokens",
    (
        _entry(
            name="outliers",
            title="features and tokens far beyond the others",
            definition="Outliers by the rules of three papers, and one ratio.",
            formula="three rules and one ratio, each in its entry",
            range="lists and counts; null where it was not measured",
            reading="One scale per feature fits each such feature; one scale per token is dominated by them.",
            source=OWN,
            see_also=("outlier_features", "own_output.distance"),
        ),
        _entry(
            name="outliers.llm_int8",
            title="outlier features that break 8-bit inference",
            definition="Features of the layer's output that reach a magnitude of 6 in 6 % of the valid "
            "tokens or more; null where the output is not known.",
            formula="|output[n,t,d]| >= 6 in >= 6 % of V",
            range="three lists over such features; none or more",
            reading="One quantization scale for the whole layer fits these features and loses the others.",
            see_also=("outlier_features",),
        ),
        _entry(
            name="outliers.llm_int8.features",
            title="which features those are",
            definition="The indices of the features that reach 6 in 6 % of the tokens of this layer.",
            formula="all d with share[d] >= 0.06",
            range="0 or more",
            reading="A feature that is here in many layers is in outlier_features.",
            see_also=(
                "outlier_features",
                "outliers.llm_int8.share",
            ),
            columns=("6 or more features",),
            brief="features with an output of that size in at least 6% of the tokens",
        ),
        _entry(
            name="outliers.llm_int8.share",
            title="in how many tokens each reaches 6",
            definition="The share of the valid tokens in which such a feature's output has a magnitude "
            "of 6 or more.",
            formula="share[d] = #{(n,t) in V: |output[n,t,d]| >= 6} / |V|",
            range="0 to 1",
            reading="Near 1: the feature is closer to a constant than to a message.",
            see_also=("outliers.llm_int8.largest",),
            columns=("tokens at most",),
            brief="share of the tokens where the feature's output is 6 or more, in the layer with the most",
        ),
        _entry(
            name="outliers.llm_int8.largest",
            title="how large each gets",
            definition="The largest magnitude of such a feature's output over all valid tokens.",
            formula="largest[d] = max over V of |output[n,t,d]|",
            range="0 or more",
            reading="An 8-bit scale for the whole layer must reach this far.",
            see_also=("outliers.llm_int8.share",),
            columns=("output largest",),
        ),
        _entry(
            name="outliers.massive",
            title="massive activations",
            definition="Single values of the layer's input whose magnitude is over 100 and at least 1000 "
            "times the median magnitude of their sample.",
            formula="|v| > 100 and |v| >= 1000 median(|v|)",
            range="0 or more",
            reading="They sit in few features of few tokens, the first and separators above all, and act as "
            "a constant bias of attention.",
            source="Sun et al. 2024, Massive Activations in Large Language Models, arXiv 2402.17762",
            see_also=("first_position.ratio",),
        ),
        _entry(
            name="outliers.massive.count",
            title="how many massive activations there are",
            definition="Elements of the layer's input that are over 100 in magnitude and at least 1000 "
            "times the median magnitude of their sample.",
            formula="#{(n,t,d): |x| > 100 and |x| >= 1000 median over (t,d) of |x[n]|}",
            range="0 or more",
            reading="A handful is typical where there are any: few tokens, one or two features.",
            source="Sun et al. 2024, Massive Activations in Large Language Models, arXiv 2402.17762",
            see_also=(
                "outliers.massive.features",
                "outliers.massive.positions",
            ),
            columns=("massive elements",),
            brief="elements of the input over 100, and over 1000 medians of their text",
        ),
        _entry(
            name="outliers.massive.largest",
            title="the largest massive activation",
            definition="The largest magnitude among the massive elements.",
            formula="max |x[n,t,d]| over the massive elements",
            range="0 or more; null where there are none",
            reading="One scale per tensor would have to reach this far.",
            source="Sun et al. 2024, Massive Activations in Large Language Models, arXiv 2402.17762",
            see_also=("outliers.massive.count",),
            columns=("massive largest",),
        ),
        _entry(
            name="outliers.massive.features",
            title="which features they are in",
            definition="The features that hold massive elements, at most 16, those with the largest "
            "numbers of them first.",
            formula="the d with the most massive elements",
            range="0 or more",
            reading="The same few features in all layers of one stream.",
            source="Sun et al. 2024, Massive Activations in Large Language Models, arXiv 2402.17762",
            see_also=("outliers.massive.positions",),
            columns=("massive features",),
        ),
        _entry(
            name="outliers.massive.positions",
            title="which positions they are at",
            definition="The positions that hold massive elements, at most 16, those with the largest "
            "numbers of them first.",
            formula="the t with the most massive elements",
            range="0 or more",
            reading="Position 0 above all, then separators.",
            source="Sun et al. 2024, Massive Activations in Large Language Models, arXiv 2402.17762",
            see_also=(
                "first_position.ratio",
                "outliers.massive.features",
            ),
            columns=("massive positions",),
        ),
        _entry(
            name="outliers.affine_outliers",
            title="outliers of the layer's own scale and shift",
            definition="Features whose weight is more than 3 standard deviations from the mean of the "
            "layer's weight vector; the same for the bias.",
            formula="|weight[d] - mean(weight)| > 3 sd(weight); |bias[d] - mean(bias)| > 3 sd(bias)",
            range="features, 0 to D - 1; none or more",
            reading="In BERT a few such features, taken out, cost much of what the model knows.",
            source="Kovaleva et al. 2021, BERT Busters, arXiv 2105.06990",
            see_also=("affine", "outlier_features"),
        ),
        _entry(
            name="outliers.affine_outliers.weight",
            title="features whose scale stands out",
            definition="Features whose weight is more than 3 standard deviations from the mean of the "
            "layer's weights; null without a weight per feature.",
            formula="all d with |weight[d] - mean(weight)| > 3 sd(weight)",
            range="0 or more",
            reading="Such a weight may raise a feature, or shrink an outlier of the input.",
            source="Kovaleva et al. 2021, BERT Busters, arXiv 2105.06990",
            see_also=(
                "outliers.affine_outliers.bias",
                "affine",
            ),
            columns=("weight stands out",),
            brief="features whose scale is over 3 sd from the layer's mean, or in how many layers one is",
        ),
        _entry(
            name="outliers.affine_outliers.bias",
            title="features whose shift stands out",
            definition="Features whose bias is more than 3 standard deviations from the mean of the "
            "layer's biases; null without a bias per feature.",
            formula="all d with |bias[d] - mean(bias)| > 3 sd(bias)",
            range="0 or more",
            reading="A constant that is added to every token.",
            source="Kovaleva et al. 2021, BERT Busters, arXiv 2105.06990",
            see_also=(
                "outliers.affine_outliers.weight",
                "affine",
            ),
            columns=("bias stands out",),
            brief="features whose shift is over 3 sd from the layer's mean, or in how many layers one is",
        ),
        _entry(
            name="outliers.sd_ratio",
            title="the widest feature, in ordinary ones",
            definition="The largest standard deviation of a feature of the layer's input over the median of "
            "all features.",
            formula="sd_ratio = max_d sqrt(variance[d]) / median_d sqrt(variance[d])",
            range="1 or more; null where the median is 0",
            reading="Near 1: features are of one scale. At 10 or more a few features dominate each "
            "token's variance, and so the divisor of LayerNorm.",
            source=OWN,
            see_also=("feature.variance",),
            columns=("sd ratio", "sd ratio largest"),
            brief="the largest over the median standard deviation of a feature",
        ),
        _entry(
            name="outlier_features",
            title="features that are outliers in many layers",
            definition="The llm_int8 outliers that recur in at least 25 % of the layers of their width, and "
            "in at least two.",
            formula="by feature d: layers in which d is an outlier",
            range="a list of features; none or more",
            reading="Recurring ones belong to the stream that the blocks add to, not to one layer.",
            source="Dettmers et al. 2022, LLM.int8(), arXiv 2208.07339, section 4.1; " + OWN,
            see_also=("outliers.llm_int8", "outliers.affine_outliers"),
        ),
        _entry(
            name="outlier_features.feature",
            title="which feature recurs",
            definition="The index of a feature that is an llm_int8 outlier in at least 25 % of the "
            "layers of its width, and in at least two.",
            formula="d",
            range="0 or more",
            reading="Look it up in outliers.llm_int8 of the layers that are listed with it.",
            see_also=("outlier_features.share",),
        ),
        _entry(
            name="outlier_features.width",
            title="of how many features it is one",
            definition="The number of features of the layers that it recurs in: layers of another width "
            "have features of their own.",
            formula="D",
            range="1 or more",
            reading="In most models all but the norms of single heads have one width.",
            see_also=("features",),
            columns=("of",),
        ),
        _entry(
            name="outlier_features.share",
            title="in how many of the layers it recurs",
            definition="The share of the measured layers of this width in which the feature is an "
            "llm_int8 outlier.",
            formula="layers where it is one / layers of this width",
            range="0 to 1",
            reading="At least a quarter, or it is not listed; the number of layers is in the table.",
            see_also=("outlier_features.feature",),
            columns=("layers",),
        ),
    ),
)
