"""Glossary entries on the means and variances of a layer's input, view by view."""

from functools import partial

from normscope.results.glossary.entry import (
    BATCHNORM,
    GROUPNORM,
    GUPTA,
    INSTANCENORM,
    LAYERNORM,
    OWN,
    Entry,
    Topic,
)
from normscope.results.glossary.positions import POSITIONS

_entry = partial(Entry, source=OWN, commands=("inspect",))

VIEWS = Topic(
    "Means and variances of a layer's input: a view is named by what it keeps",
    (
        _entry(
            name="summary",
            title="many numbers in five",
            definition="A summary of numbers too many to list, one per token, sample or batch: how many "
            "there are, their mean, their biased standard deviation, the minimum and the maximum.",
            formula="mean = (1/count) sum_i v_i; std = sqrt((1/count) sum_i (v_i - mean)^2); min, max over i",
            range="count 0 or more; min <= mean <= max, std 0 or more; null where count is 0",
            reading="In the JSON the members of token.mean and its like: count, mean, std, min, max.",
            source="Chan, Golub & LeVeque 1979, Updating Formulae, STAN-CS-79-773, for how parts are merged",
            commands=("inspect", "batches"),
            see_also=("token.mean", "token.variance"),
            columns=("S",),
        ),
        _entry(
            name="token",
            title="LayerNorm's view: one pair per token",
            definition="Each token has a mean and a variance over its own features. They are too many to "
            "list, so each is a summary over the tokens.",
            formula="mean[n,t], var[n,t] over d",
            range="two summaries",
            reading="LayerNorm uses exactly these; RMSNorm uses var + mean^2. Other texts do not change "
            "them.",
            source=LAYERNORM,
            see_also=("feature", "summary"),
        ),
        _entry(
            name="token.mean",
            title="LayerNorm's mean, over all tokens",
            definition="The mean of each token over its D features, summarised over all valid tokens.",
            formula="mean[n,t] = (1/D) sum_d x[n,t,d]; summarised over V",
            range="any number",
            reading="Where it is small compared to the root of token.variance, subtracting it changes "
            "little: RMSNorm, which does not, would give nearly the same.",
            source=LAYERNORM,
            see_also=("summary", "position.token_mean", "feature.mean"),
            columns=("LN mean", "LN mean by token"),
            brief="each token's mean over its features, as LayerNorm takes it: average +-sd over tokens",
        ),
        _entry(
            name="token.variance",
            title="LayerNorm's variance, over all tokens",
            definition="The variance of each token over its D features, summarised over all valid tokens.",
            formula="var[n,t] = (1/D) sum_d (x[n,t,d] - mean[n,t])^2; summarised over V",
            range="0 or more",
            reading="A std as large as the mean: tokens differ much in scale, which LayerNorm evens out and "
            "BatchNorm's one scale per feature leaves.",
            source=LAYERNORM,
            see_also=("summary", "position.token_variance", "feature.variance"),
            columns=("LN variance", "LN variance by token"),
            brief="each token's variance over its features, as LayerNorm takes it: average +-sd over tokens",
        ),
        _entry(
            name="mean_share",
            title="what LayerNorm removes, RMSNorm does not",
            definition="The share of a token's sum of squares that its mean carries, averaged over the "
            "tokens: the squared cosine between the token and the vector of ones. Tokens of zeros are left "
            "out.",
            formula="average over V of mean[n,t]^2 / (mean[n,t]^2 + var[n,t])",
            range="0 to 1; null where all tokens are zeros, and in reports of versions without it",
            reading="0.01: without its mean the average token keeps 99 % of its square, so RMSNorm in "
            "place of LayerNorm changes its scale little. Of a random direction it is 1 / D.",
            source=GUPTA,
            see_also=("mean_share_energy", "token.mean", "token.variance"),
            columns=("mean share",),
            brief="share of a token's square that its mean carries; LayerNorm removes it, RMSNorm does not",
        ),
        _entry(
            name="mean_share_energy",
            title="the same share, of all squares together",
            definition="The share of the sum of squares of all tokens that their means carry.",
            formula="sum_V mean[n,t]^2 / sum_V (mean[n,t]^2 + var[n,t])",
            range="0 to 1; null where all tokens are zeros, and in reports of versions without it",
            reading="Large tokens decide it: far from mean_share where a few tokens of huge norm, such as "
            "the first, have another share than the rest.",
            source=GUPTA,
            see_also=("mean_share", "token.mean", "token.variance"),
        ),
        _entry(
            name="feature",
            title="BatchNorm's view: one pair per feature",
            definition="Each feature has a mean and a variance over all valid tokens of all samples, as "
            "BatchNorm1d would take them of the whole corpus in one batch.",
            formula="mean[d], variance[d] over n and t",
            range="D means, D variances, one count",
            reading="BatchNorm on (N, C, L) with C = D, L = T, padding left out: what PowerNorm and RBN "
            "call BN.",
            source=BATCHNORM,
            see_also=("token", "agreement.feature"),
        ),
        _entry(
            name="feature.count",
            title="rows that each feature's pair rests on",
            definition="How many rows the mean and variance of every feature were taken over.",
            formula="count = |V|",
            range="1 or more",
            reading="The same number as the layer's count.",
            see_also=("count",),
        ),
        _entry(
            name="feature.mean",
            title="BatchNorm's mean of each feature",
            definition="The mean of the layer's input in each feature, over all valid tokens.",
            formula="mean[d] = (1/|V|) sum_V x[n,t,d]",
            range="D numbers, any",
            reading="A mean that is large compared to its feature's standard deviation is an offset that "
            "BatchNorm would remove and LayerNorm keeps.",
            source=BATCHNORM,
            see_also=("feature.variance", "own_output.mean"),
            columns=("BN mean", "BN mean input"),
        ),
        _entry(
            name="feature.variance",
            title="BatchNorm's variance of each feature",
            definition="The biased variance of the layer's input in each feature, over all valid tokens. In "
            "the list of layers: minimum .. maximum.",
            formula="variance[d] = (1/|V|) sum_V (x[n,t,d] - mean[d])^2",
            range="D numbers, each 0 or more",
            reading="Ends far apart: features differ much in scale, which BatchNorm would even out and "
            "LayerNorm keeps. PyTorch's running_var is this times |V| / (|V| - 1).",
            source=BATCHNORM,
            see_also=("feature.mean", "own_output.variance", "outliers.sd_ratio"),
            columns=("BN variance", "BN variance by feature", "BN variance input", "BN by feature"),
            brief="each feature's variance over all tokens, as BatchNorm takes it: minimum .. maximum",
        ),
        *POSITIONS,
        _entry(
            name="sequence",
            title="one pair per sample, tokens and features pooled",
            definition="Each sample has one mean and one variance over all its tokens and features: "
            "LayerNorm over the whole sentence. Each is a summary over the samples.",
            formula="mean[n], variance[n] over t and d",
            range="two summaries; null where a layer has no positions",
            reading="LayerNorm is often drawn this way. In a Transformer it is per token: see token.",
            source=GROUPNORM,
            see_also=("token", "agreement.sequence"),
        ),
        _entry(
            name="sequence.mean",
            title="the mean of each sample",
            definition="The mean over all valid tokens and features of a sample, summarised over samples.",
            formula="mean[n] = (1/(T_n D)) sum_t sum_d x[n,t,d]; summarised over n",
            range="any number",
            reading="A std near 0 says that samples share one level.",
            source=GROUPNORM,
            see_also=("summary", "sequence.variance"),
        ),
        _entry(
            name="sequence.variance",
            title="the variance of each sample",
            definition="The biased variance over all valid tokens and features of a sample, summarised over "
            "samples.",
            formula="variance[n] = (1/(T_n D)) sum_t sum_d (x[n,t,d] - mean[n])^2; summarised over n",
            range="0 or more",
            reading="A std small compared to the mean: samples hardly differ in scale, so one scale for all "
            "would do between samples, if not within them.",
            source=GROUPNORM,
            see_also=("summary", "token.variance"),
        ),
        _entry(
            name="instance",
            title="one pair per sample and feature",
            definition="Each sample has a mean and a variance of each feature over its tokens, as "
            "InstanceNorm takes them. Each is a summary over samples and features.",
            formula="mean[n,d], variance[n,d] over t",
            range="two summaries; null where a layer has no positions",
            reading="It removes all that the tokens of a sample share, and so the topic of the sample.",
            source=INSTANCENORM,
            see_also=("agreement.instance", "explained.sequence"),
        ),
        _entry(
            name="instance.mean",
            title="the mean of each sample and feature",
            definition="The mean of a feature over the valid tokens of a sample, summarised over all pairs "
            "of sample and feature.",
            formula="mean[n,d] = (1/T_n) sum_t x[n,t,d]; summarised over n and d",
            range="any number",
            reading="Its count is samples times features; its mean gives long and short samples equal "
            "weight.",
            source=INSTANCENORM,
            see_also=("summary", "instance.variance"),
        ),
        _entry(
            name="instance.variance",
            title="the variance of each sample and feature",
            definition="The biased variance of a feature over the valid tokens of a sample, summarised over "
            "all pairs of sample and feature.",
            formula="variance[n,d] = (1/T_n) sum_t (x[n,t,d] - mean[n,d])^2; summarised over n and d",
            range="0 or more",
            reading="0 for a sample of one token; short samples pull it down.",
            source=INSTANCENORM,
            see_also=("summary", "instance.mean"),
        ),
        _entry(
            name="global",
            title="one mean and one variance for everything",
            definition="One pair over all valid tokens and all features.",
            formula="mean, variance over n, t and d",
            range="two numbers",
            reading="The coarsest view: all features, positions and samples are pooled.",
            see_also=("agreement.global",),
        ),
        _entry(
            name="global.mean",
            title="the mean of everything",
            definition="The mean over all valid tokens and features of the layer's input.",
            formula="mean = (1/(|V| D)) sum_V sum_d x[n,t,d]",
            range="any number",
            reading="Equal to the mean of token.mean and to that of feature.mean.",
            see_also=("token.mean", "feature.mean"),
        ),
        _entry(
            name="global.variance",
            title="the variance of everything",
            definition="The biased variance over all valid tokens and features of the layer's input.",
            formula="variance = (1/(|V| D)) sum_V sum_d (x[n,t,d] - mean)^2",
            range="0 or more",
            reading="The average of token.variance plus the variance of token.mean; likewise by feature.",
            see_also=("token.variance", "feature.variance"),
        ),
    ),
)
