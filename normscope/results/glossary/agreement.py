"""Glossary entries on how far BN-style output is from the layer's own."""

from functools import partial

from normscope.results.glossary.entry import OWN, TID, Entry, Topic

_entry = partial(Entry, source=OWN, commands=("inspect",))

_COSINE = "agreement = sum_V,d y z / sqrt(sum_V,d y^2 sum_V,d z^2); "
_SCALE = "-1 to 1; null where no formula fits the layer"

COMPARISON = Topic(
    "How far BN-style is from what the layer does",
    (
        _entry(
            name="own_output",
            title="what the layer leaves of each feature",
            definition="Mean and variance of y per feature. y is the layer's own output before its scale "
            "and shift.",
            formula="y = (x - mean[n,t]) / sqrt(var[n,t] + eps), in a LayerNorm",
            range="D means, D variances; null where no formula fits the layer",
            reading="BatchNorm would leave mean 0 and variance 1 in every feature; LayerNorm lets "
            "differences between features through.",
            see_also=("own_output.distance", "kind"),
        ),
        _entry(
            name="own_output.mean",
            title="the mean that the layer leaves",
            definition="The mean of y in each feature, over all valid tokens.",
            formula="mean[d] = (1/|V|) sum_V y[n,t,d]",
            range="D numbers, each within +-sqrt(D - 1) in a LayerNorm",
            reading="BatchNorm would leave 0. Far from 0, the feature is an offset that all tokens share.",
            see_also=("feature.mean", "own_output.distance"),
            columns=("LN leaves mean", "RMS leaves mean", "layer leaves mean"),
            brief="of the layer's own output before its scale and shift; BN would leave 0 in every feature",
        ),
        _entry(
            name="own_output.variance",
            title="the variance that the layer leaves",
            definition="The biased variance of y in each feature, over all valid tokens. Below the table "
            "its roots are drawn, sorted.",
            formula="variance[d] = (1/|V|) sum_V (y[n,t,d] - mean[d])^2",
            range="D numbers, each 0 or more",
            reading="BatchNorm would leave 1. In a LayerNorm mean^2 + variance averages 1 over the "
            "features: if one has 80, the others have less.",
            see_also=("feature.variance", "own_output.near_one"),
            columns=("LN leaves variance", "RMS leaves variance", "layer leaves variance"),
            brief="of the layer's own output before its scale and shift; BN would leave 1 in every feature",
        ),
        _entry(
            name="own_output.distance",
            title="how far a feature ends up from BN's 0 and 1",
            definition="The squared 2-Wasserstein distance between normal distributions with the mean and "
            "variance that the layer leaves, and with BatchNorm's 0 and 1. In the table by feature only.",
            formula="distance[d] = mean_y[d]^2 + (sqrt(variance_y[d]) - 1)^2",
            range="0 or more",
            reading="0: the layer does to this feature what BatchNorm would. The table shows the furthest "
            "first.",
            source="Dowson & Landau 1982, The Frechet distance between multivariate normal distributions",
            see_also=("own_output.mean", "own_output.variance"),
            columns=("distance", "distance from 0, 1"),
            brief="from BN's 0 and 1: mean^2 + (sd - 1)^2, a squared Wasserstein distance of normals",
        ),
        _entry(
            name="own_output.near_one",
            title="share of features that come out as BN's would",
            definition="The share of the features whose y has a standard deviation within 10 % of 1. Below "
            "the table by feature only.",
            formula="share of d with |sqrt(variance_y[d]) - 1| <= 0.1",
            range="0 to 1, shown in percent",
            reading="Near 1, LayerNorm does nearly the same as BatchNorm here.",
            see_also=("own_output.variance",),
            columns=("sd within 10%",),
            brief="share of the features whose output, before scale and shift, has an sd within 10% of 1",
        ),
        _entry(
            name="agreement",
            title="how close the layer's output is to a view's",
            definition="The cosine, over all valid tokens and features together, of y and z: y is the "
            "layer's own output before its scale and shift, and z is the same input normalised by a view, "
            "with the statistics of the whole corpus and the layer's eps.",
            formula=_COSINE + "z = (x - mean_view) / sqrt(variance_view + eps)",
            range=_SCALE,
            reading="1: the same output up to one positive factor. 0: unrelated.",
            see_also=("affine_fit.r2", "explained"),
        ),
        _entry(
            name="agreement.feature",
            title="agreement with BatchNorm",
            definition="The cosine between the layer's own output and BatchNorm's, one mean and one "
            "variance per feature, taken over all texts.",
            formula=_COSINE + "z[n,t,d] = (x[n,t,d] - mean[d]) / sqrt(variance[d] + eps)",
            range=_SCALE,
            reading="Near 1, corpus statistics per feature give what LayerNorm gives, up to one factor. "
            "Low: they cannot stand in for it, however large the batch.",
            see_also=("feature", "affine_fit.r2", "agreement.global"),
            columns=("agreement with BN",),
            brief="cosine of the layer's own output and BN's; 1 is the same up to scale",
        ),
        _entry(
            name="agreement.position",
            title="agreement with BatchNorm by position",
            definition="The cosine between the layer's own output and that with one mean and one variance "
            "per position, over samples and features.",
            formula=_COSINE + "z[n,t,d] = (x[n,t,d] - mean[t]) / sqrt(variance[t] + eps)",
            range=_SCALE + ", or it has no positions",
            reading="Near 1, tokens at one position differ little in mean and scale.",
            see_also=("position", "agreement.position_feature"),
            columns=("agreement position",),
        ),
        _entry(
            name="agreement.position_feature",
            title="agreement with BN over flattened sentences",
            definition="The cosine between the layer's own output and that with one mean and one variance "
            "per position and feature, over samples only: words at the same position count as the same "
            "feature.",
            formula=_COSINE + "z[n,t,d] = (x[n,t,d] - mean[t,d]) / sqrt(variance[t,d] + eps)",
            range=_SCALE + ", or it has no positions",
            reading="It removes all that position explains. A cell without spread, such as one sample or "
            "[CLS] in the first layer, gives z = 0.",
            see_also=("explained.position", "agreement.feature"),
        ),
        _entry(
            name="agreement.sequence",
            title="agreement with LayerNorm over the whole text",
            definition="The cosine between the layer's own output and that with one mean and one variance "
            "per sample, over all its tokens and features.",
            formula=_COSINE + "z[n,t,d] = (x[n,t,d] - mean[n]) / sqrt(variance[n] + eps)",
            range=_SCALE + ", or it has no positions",
            reading="Low where tokens of one text differ in scale: then LayerNorm per token and per "
            "text differ.",
            see_also=("sequence",),
            columns=("agreement text",),
        ),
        _entry(
            name="agreement.instance",
            title="agreement with InstanceNorm",
            definition="The cosine between the layer's own output and that with one mean and one variance "
            "per sample and feature, over its tokens.",
            formula=_COSINE + "z[n,t,d] = (x[n,t,d] - mean[n,d]) / sqrt(variance[n,d] + eps)",
            range=_SCALE + ", or it has no positions",
            reading="It removes all that the tokens of a text share. A text of one token gives z = 0.",
            see_also=("instance",),
        ),
        _entry(
            name="agreement.global",
            title="agreement with one scale for everything",
            definition="The cosine between the layer's own output and that with one mean and one variance "
            "over everything.",
            formula=_COSINE + "z[n,t,d] = (x[n,t,d] - mean) / sqrt(variance + eps)",
            range=_SCALE,
            reading="The cosine of y with x itself, centred: the baseline for the other views. Where "
            "agreement.feature is below it, BatchNorm's scales move the output further away.",
            see_also=("global", "agreement.feature"),
        ),
        _entry(
            name="affine_fit",
            title="the best that any BN-style layer can do",
            definition="The fit of y by one fixed scale and one fixed shift per feature.",
            formula="y[n,t,d] ~ a[d] x[n,t,d] + b[d]",
            range="one number, r2",
            reading="In evaluation every BatchNorm is such a line per feature, with any statistics.",
            see_also=("affine_fit.r2",),
        ),
        _entry(
            name="affine_fit.r2",
            title="R^2 of the best scale and shift per feature",
            definition="The share of the variance of y, over all features, that the best line per feature "
            "explains: least squares of y on x in each feature, over all valid tokens.",
            formula="r2 = 1 - SSR / SST; "
            "SSR = sum_V,d (y[n,t,d] - a[d] x[n,t,d] - b[d])^2; "
            "SST = sum_V,d (y[n,t,d] - mean_y[d])^2; "
            "a[d] = cov(x_d, y_d) / var(x_d); "
            "b[d] = mean_y[d] - a[d] mean_x[d]",
            range="0 to 1; null where no formula fits the layer",
            reading="1: a BatchNorm with the right numbers could replace this layer on these texts. Below 1, "
            "no BatchNorm can give the rest.",
            see_also=("agreement.feature",),
            columns=("best BN fit r2",),
            brief="how much of the output the best fixed scale and shift per feature can give (R squared)",
        ),
        _entry(
            name="stored_gap",
            title="how far a BatchNorm's stored statistics are off",
            definition="For a layer that is a BatchNorm: its running statistics compared with the texts'.",
            formula="norm ratios, relative to the stored standard deviations",
            range="two numbers; null in layers that are not a BatchNorm or store nothing",
            reading="The domain shift that the layer meets in evaluation.",
            source=TID + ", its norm ratio against the corpus",
            see_also=("tid", "running"),
        ),
        _entry(
            name="stored_gap.mean",
            title="how far a BatchNorm's stored means are off",
            definition="The distance between the corpus's mean and the stored one, over features, relative "
            "to the stored standard deviations.",
            formula="||mean - running_mean||_2 / ||sqrt(running_var)||_2",
            range="0 or more",
            reading="0.1: means are off by a tenth of a standard deviation, in the root mean square.",
            source=TID + ", its norm ratio against the corpus",
            see_also=("feature.mean", "tid.mean"),
        ),
        _entry(
            name="stored_gap.variance",
            title="how far its stored standard deviations are off",
            definition="The distance between the corpus's standard deviations and the stored ones, over "
            "features, relative to the stored ones.",
            formula="||sqrt(variance) - sqrt(running_var)||_2 / ||sqrt(running_var)||_2",
            range="0 or more",
            reading="Above 0 the corpus varies more or less than the training data. PyTorch stores unbiased "
            "variances; in batches of many tokens the difference is tiny.",
            source=TID + ", its norm ratio against the corpus",
            see_also=("feature.variance", "tid.variance"),
        ),
    ),
)
