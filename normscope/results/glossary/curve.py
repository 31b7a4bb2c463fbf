"""Glossary entries on the histogram of a layer's output against its input."""

from functools import partial

from normscope.results.glossary.entry import OWN, Entry, Topic

_DYT = "Zhu et al. 2025 (CVPR), Transformers without Normalization, arXiv 2503.10622, figure 2"

_entry = partial(Entry, source=f"{OWN}, to bound the picture", commands=("inspect",))

CURVE = Topic(
    "A layer's output against its input, element by element",
    (
        _entry(
            name="curve",
            title="output against input, element by element",
            definition="How many elements of a layer have an input x[n,t,d] in one bin and an output "
            "y[n,t,d], before the affine, in another: 64 x 64 bins of equal width. Of inspect --curve and "
            "watch(curve=True) only. The counts are exact: parts of a corpus add up to those of the whole.",
            formula="bins [a, b) of x by bins [a, b) of y",
            range="null where it was not requested, and where no formula gives the layer's output",
            reading="One straight line: all tokens have one scale. A fan of lines: tokens of several scales. "
            "An S, flat at both ends, as tanh has: the large inputs are in tokens of large scale, which the "
            "layer divides by more. BatchNorm would give each feature one line.",
            source=_DYT,
            see_also=("affine_fit.r2", "dyt_fit", "token.variance"),
        ),
        _entry(
            name="curve.input_limit",
            title="where the bins of the input end",
            definition="The bins of x go from -input_limit to input_limit. It is the smallest power of two "
            "from 1/32 to 65536 that leaves at most 1 in 1,000 elements beyond, so that a few massive "
            "activations do not hide all others.",
            formula="min 2^k with |{x < -2^k or x >= 2^k}| <= |V| D / 1000",
            range="0 or more",
            reading="Each bin is 1/32 of it wide. The limits of two layers, or of two runs, may differ.",
            see_also=("curve.beyond", "extremes.input"),
        ),
        _entry(
            name="curve.output_limit",
            title="where the bins of the output end",
            definition="The bins of y go from -output_limit to output_limit: by the rule of "
            "curve.input_limit, from 4 to 256.",
            formula="min 2^k with |{y < -2^k or y >= 2^k}| <= |V| D / 1000",
            range="0 or more",
            reading="No output of LayerNorm or RMSNorm is larger than the root of D.",
            see_also=("curve.beyond", "curve.input_limit"),
        ),
        _entry(
            name="curve.beyond",
            title="how many elements have no bin",
            definition="The number of elements whose input or output is beyond the ends of the bins.",
            formula="beyond = |V| D - sum of count",
            range="0 or more",
            reading="At most 2 in 1,000, unless values are beyond the largest limits. extremes has the "
            "largest ones.",
            see_also=("curve.input_limit", "curve.output_limit", "extremes"),
        ),
        _entry(
            name="curve.input_bin",
            title="the bin of the input",
            definition="For each pair of bins that is not empty, the number of its bin of x.",
            formula="bin i: (i / 32 - 1) limit <= x < ((i + 1) / 32 - 1) limit",
            range="0 or more, at most 63",
            reading="Entry c of input_bin, output_bin and count belong together.",
            see_also=("curve.output_bin", "curve.count"),
        ),
        _entry(
            name="curve.output_bin",
            title="the bin of the output",
            definition="For each pair of bins that is not empty, the number of its bin of y.",
            formula="bin i: (i / 32 - 1) limit <= y < ((i + 1) / 32 - 1) limit",
            range="0 or more, at most 63",
            reading="In Python, curve.histogram() has the counts of all bins, 64 x 64.",
            see_also=("curve.input_bin", "curve.count"),
        ),
        _entry(
            name="curve.count",
            title="how many elements are in the bins",
            definition="The number of elements in each pair of bins that is not empty.",
            formula="|{(n,t,d): x[n,t,d] in its bin, y[n,t,d] in its bin}|",
            range="1 or more",
            reading="The charts show it on a log scale.",
            see_also=("curve.input_bin", "curve.output_bin", "curve.beyond"),
        ),
    ),
)
