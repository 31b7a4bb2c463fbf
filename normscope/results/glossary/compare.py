"""Glossary entries on the differences between two reports."""

from functools import partial

from normscope.results.glossary.entry import GUPTA, OWN, TID, Entry, Topic

_entry = partial(Entry, source=OWN, commands=("compare",))

DRIFT = Topic(
    "How far report B is from report A",
    (
        _entry(
            name="bn_drift",
            title="how far BatchNorm's statistics moved",
            definition="The distance between the means, and between the standard deviations, that the "
            "layer's features have in two reports, relative to A's standard deviations.",
            formula="mean = ||mu_B - mu_A||_2 / ||sd_A||_2; variance = ||sd_B - sd_A||_2 / ||sd_A||_2",
            range="0 or more",
            reading="The error of a layer with A's stored statistics in B.",
            source=TID,
            see_also=("tid", "stored_gap", "feature"),
        ),
        _entry(
            name="bn_drift.mean",
            title="how far the features' means moved",
            definition="The distance of the features' means in the reports A and B, relative to A's standard "
            "deviations: Training Inference Discrepancy in its norm-ratio form, from A to B.",
            formula="bn_drift.mean = ||mu_B - mu_A||_2 / ||sd_A||_2, over features",
            range="0 or more; null where a report lacks the statistics",
            reading="0.1: the means moved by a tenth of a standard deviation, root mean square. Two halves "
            "of one corpus show how large noise is.",
            source=TID,
            see_also=("feature.mean", "tid.mean"),
            columns=("BN mean moved by",),
        ),
        _entry(
            name="bn_drift.variance",
            title="how far the features' spreads moved",
            definition="The distance of the features' standard deviations in the reports A and B, relative "
            "to A's.",
            formula="bn_drift.variance = ||sd_B - sd_A||_2 / ||sd_A||_2, over features",
            range="0 or more; null where a report lacks the statistics",
            reading="0.1: the spreads moved by a tenth, root mean square; the widest features count most.",
            source=TID,
            see_also=("feature.variance", "tid.variance"),
            columns=("BN sd moved by",),
        ),
        _entry(
            name="ln_drift",
            title="how far LayerNorm's statistics moved",
            definition="How far the averages of the tokens' own means and variances are apart.",
            formula="m, v: averages over V of mean[n,t] and var[n,t]; "
            "mean = |m_B - m_A| / sqrt(v_A); variance = |v_B - v_A| / v_A",
            range="0 or more",
            reading="A LayerNorm adapts to it, token by token; a layer with stored statistics does not.",
            see_also=("token", "bn_drift"),
        ),
        _entry(
            name="ln_drift.mean",
            title="how far the average token's mean moved",
            definition="The difference of the average token means of the reports A and B, over the root of "
            "A's average token variance.",
            formula="ln_drift.mean = |m_B - m_A| / sqrt(v_A)",
            range="0 or more; null where a report lacks the statistics",
            reading="Small nearly always: token means are near 0 in most models.",
            see_also=("token.mean",),
            columns=("LN mean moved by",),
        ),
        _entry(
            name="ln_drift.variance",
            title="how far the average token's variance moved",
            definition="The difference of the average token variances of the reports A and B, over A's.",
            formula="ln_drift.variance = |v_B - v_A| / v_A",
            range="0 or more; null where a report lacks the statistics",
            reading="0.1: it is a tenth larger, or smaller. Few tokens of huge variance can do that alone.",
            see_also=("token.variance",),
            columns=("LN variance moved by",),
        ),
        _entry(
            name="agreement_change",
            title="change of agreement with BN",
            definition="The agreement of the layer's output with BatchNorm's in report B, minus that in A.",
            formula="agreement_change = agreement.feature in B - agreement.feature in A",
            range="any number from -2 to 2; null where a report lacks either",
            reading="Below 0: B is harder to normalise by one mean and variance per feature.",
            see_also=("agreement.feature",),
            columns=("agreement change",),
        ),
        _entry(
            name="mean_share_change",
            title="change of the share that token means carry",
            definition="The share of a token's square that its mean carries, averaged over the tokens, in "
            "report B, minus that in A.",
            formula="mean_share_change = mean_share in B - mean_share in A",
            range="-1 to 1; null where a report lacks either",
            reading="Above 0: the tokens of B are closer to the direction that LayerNorm removes.",
            source=GUPTA,
            see_also=("mean_share",),
        ),
        _entry(
            name="position_change",
            title="change of what position explains",
            definition="The share of the variance that goes with the position in report B, minus that in A.",
            formula="position_change = epsilon2 in B - epsilon2 in A",
            range="any number; null where a report lacks either",
            reading="Above 0: where a token stands decides more of its values in B than in A.",
            see_also=("explained.position.epsilon2",),
            columns=("position change",),
        ),
    ),
)
