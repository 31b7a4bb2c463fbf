"""Glossary entries on the differences between two reports."""

from functools import partial

from normscope.results.glossary.depth import KURTOSIS, STREAM
from normscope.results.glossary.entry import GUPTA, OWN, TID, Entry, Topic

_entry = partial(Entry, source=OWN, commands=("compare", "track"))
# What inspect shows of several revisions, too.
_drift = partial(_entry, commands=("inspect", "compare", "track"))
_change = partial(_entry, range="any number; null where a report lacks either, or one of them is 0")

DRIFT = Topic(
    "How far report B is from report A",
    (
        _drift(
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
        _drift(
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
        _drift(
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
        _drift(
            name="ln_drift",
            title="how far LayerNorm's statistics moved",
            definition="How far the averages of the tokens' own means and variances are apart.",
            formula="m, v: averages over V of mean[n,t] and var[n,t]; "
            "mean = |m_B - m_A| / sqrt(v_A); variance = |v_B - v_A| / v_A",
            range="0 or more",
            reading="A LayerNorm adapts to it, token by token; a layer with stored statistics does not.",
            see_also=("token", "bn_drift"),
        ),
        _drift(
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
        _drift(
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
            columns=("mean share change",),
        ),
        _entry(
            name="mean_share_energy_change",
            title="the same for the sums over all tokens",
            definition="The share of all squares that the token means carry in report B, minus that in A.",
            formula="mean_share_energy_change = mean_share_energy in B - in A",
            range="-1 to 1; null where a report lacks either",
            reading="Tokens of huge norm decide it; mean_share_change counts every token alike.",
            source=GUPTA,
            see_also=("mean_share_energy", "mean_share_change"),
        ),
        _change(
            name="largest_input_change",
            title="how the largest |value| of the input changed",
            definition="The logarithm to base 2 of the largest |value| of the input in report B over that in "
            "A.",
            formula="log2(extremes.input.value in B / in A)",
            reading="1: it is twice as large in B, -1: half as large. One token can do that alone.",
            see_also=("extremes.input", "headroom_change"),
            columns=("input change",),
        ),
        _change(
            name="largest_output_change",
            title="how the largest |value| of the output changed",
            definition="The logarithm to base 2 of the largest |value| of the output in report B over that "
            "in A.",
            formula="log2(extremes.output.value in B / in A)",
            reading="1: a quantizer with one scale for the tensor needs one bit more in B.",
            see_also=("extremes.output", "headroom_change"),
            columns=("output change",),
        ),
        _change(
            name="headroom_change",
            title="how the room in float16 changed",
            definition="How many powers of two more than in A are left in report B before float16 overflows.",
            formula="headroom_change = extremes.headroom_bits in B - in A",
            reading="Below 0: B is nearer to an overflow. The room itself is in each report.",
            see_also=("extremes.headroom", "largest_input_change"),
            columns=("headroom change",),
        ),
        _change(
            name="residual_rms_change",
            title="how the size of the residual stream changed",
            definition="The logarithm to base 2 of the stream's root mean square in report B over that in A, "
            "at a norm that reads the stream.",
            formula="log2(residual.rms in B / in A)",
            reading="1: twice as large in B. Of two norms, the difference is the change of the growth "
            "between them.",
            source=STREAM,
            commands=("compare",),
            see_also=("residual.rms", "residual.growth"),
        ),
        _change(
            name="kurtosis_change",
            title="how unequally large the features became",
            definition="The logarithm to base 2 of the features' kurtosis in report B over that in A, at a "
            "norm that reads the residual stream.",
            formula="log2(kurtosis in B / in A)",
            reading="Above 0: fewer features hold most of the stream in B.",
            source=KURTOSIS,
            commands=("compare",),
            see_also=("kurtosis",),
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
