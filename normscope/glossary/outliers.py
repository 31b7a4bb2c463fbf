"""The glossary's entries on outlier features and tokens."""

from normscope.glossary.entry import OWN, Entry, Topic

OUTLIERS = Topic(
    "Outlier features and tokens",
    (
        Entry(
            name="outliers",
            title="features and tokens far beyond the others",
            definition="What three lines of work call an outlier, each by its own rule, and one ratio.",
            formula="three rules and one ratio, each in its entry",
            range="lists and counts; null where it was not measured",
            reading="One scale per feature fits such features one by one; one scale per token is ruled by "
            "them.",
            source=OWN,
            commands=("inspect",),
            see_also=("outlier_features", "own_output.distance"),
        ),
        Entry(
            name="outliers.llm_int8",
            title="outlier features that break 8-bit inference",
            definition="Features of the layer's output that reach a magnitude of 6 at 6 % of the positions "
            "or more, the same feature in 25 % of the layers or more.",
            formula="|output[n,t,d]| >= 6; at >= 6 % of positions and in >= 25 % of layers",
            range="features, 0 to D - 1; none or more",
            reading="Quantizing a whole layer with one scale loses the other features to these.",
            source="Dettmers et al. 2022, LLM.int8(), arXiv 2208.07339, section 4.1",
            commands=("inspect",),
            see_also=("outlier_features",),
        ),
        Entry(
            name="outliers.massive",
            title="massive activations",
            definition="Single values whose magnitude is over 100 and at least 1000 times the median "
            "magnitude.",
            formula="|v| > 100 and |v| >= 1000 median(|v|)",
            range="0 or more",
            reading="They sit in few features of few tokens, the first and separators above all, and act as "
            "a constant bias of attention.",
            source="Sun et al. 2024, Massive Activations in Large Language Models, arXiv 2402.17762",
            commands=("inspect",),
            see_also=("first_position.ratio",),
        ),
        Entry(
            name="outliers.affine_outliers",
            title="outliers of the layer's own scale and shift",
            definition="Features whose weight is more than 3 standard deviations from the mean of the "
            "layer's weight vector; the same for the bias.",
            formula="|weight[d] - mean(weight)| > 3 sd(weight); |bias[d] - mean(bias)| > 3 sd(bias)",
            range="features, 0 to D - 1; none or more",
            reading="In BERT a few such features, taken out, cost much of what the model knows.",
            source="Kovaleva et al. 2021, BERT Busters, arXiv 2105.06990",
            commands=("inspect",),
            see_also=("affine", "outlier_features"),
        ),
        Entry(
            name="outliers.sd_ratio",
            title="the widest feature, in ordinary ones",
            definition="The largest standard deviation of a feature of the layer's input over the median of "
            "all features.",
            formula="sd_ratio = max_d sqrt(variance[d]) / median_d sqrt(variance[d])",
            range="1 or more; null where the median is 0",
            reading="Near 1: features are of one scale. At 10 or more a few features rule each token's "
            "variance, and so what LayerNorm divides by.",
            source=OWN,
            commands=("inspect",),
            see_also=("feature.variance",),
        ),
        Entry(
            name="outlier_features",
            title="features that are outliers in layer after layer",
            definition="The outlier features that recur across the layers of the model, with how many "
            "layers each is one in.",
            formula="by feature d: layers in which d is an outlier",
            range="features, 0 to D - 1; none or more",
            reading="Recurring ones belong to the stream that the blocks add to, not to one layer.",
            source="Dettmers et al. 2022, LLM.int8(), arXiv 2208.07339, section 4.1; " + OWN,
            commands=("inspect",),
            see_also=("outliers.llm_int8", "outliers.affine_outliers"),
        ),
    ),
)
