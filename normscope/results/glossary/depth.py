"""Glossary entries on the residual stream along the blocks."""

from functools import partial

from normscope.results.glossary.entry import OWN, Entry, Topic

_entry = partial(Entry, source=OWN, commands=("inspect",))

STREAM = "Sun et al. 2025, The Curse of Depth, arXiv 2502.05795; Kim et al. 2025, Peri-LN, arXiv 2502.02732"
KURTOSIS = "He et al. 2024, Understanding and Minimising Outlier Features, arXiv 2405.19279"

DEPTH = Topic(
    "The residual stream along the blocks, at the norms that read it",
    (
        _entry(
            name="depth",
            title="the residual stream along the blocks",
            definition="A profile of each stack of blocks, such as an encoder: numbers at each norm whose "
            "input is the residual stream, that of a pre-norm, x + f(norm(x)), or of a post-norm, norm(x + "
            "f(x)), and of the norm behind the blocks. A norm of a branch, x + norm(f(x)), is left out.",
            formula="one point for each such norm, in the model's order",
            range="null where the model was not at hand, as in watch",
            reading="left_out says which norms of a stack have no point, and why. The profile is a "
            "description; normscope draws no conclusion from it.",
            see_also=("residual.rms", "residual.growth", "kurtosis", "place"),
        ),
        _entry(
            name="blocks",
            title="how many blocks a stack has",
            definition="The number of modules in the list of blocks.",
            formula="blocks = number of blocks",
            range="1 or more",
            reading="It does not depend on which layers were measured.",
            source="PyTorch: ModuleList",
            see_also=("block",),
        ),
        _entry(
            name="block",
            title="which block a norm is in",
            definition="The number of the block in its stack.",
            formula="block = 0, 1, 2, ...",
            range="0 or more; null behind the blocks",
            reading="A block has one point for each of its norms that read the stream.",
            source="PyTorch: ModuleList",
            see_also=("blocks",),
            columns=("block",),
        ),
        _entry(
            name="residual",
            title="the size of the residual stream",
            definition="The root mean square of the stream, and how it grows along the blocks.",
            formula="rms, growth in a block, total from first to last",
            range="0 or more",
            reading="Each block of a pre-norm model adds to the stream, so it usually grows. That is not a "
            "fault by itself.",
            source=STREAM,
            see_also=("depth",),
        ),
        _entry(
            name="residual.rms",
            title="how large the residual stream is",
            definition="The root mean square of the input of a norm that reads the residual stream, over "
            "all valid tokens and features.",
            formula="rms = sqrt((1/(|V| D)) sum_V sum_d x[n,t,d]^2)",
            range="0 or more",
            reading="A few tokens of huge norm, such as the first, can make up most of it: see "
            "first_position.ratio.",
            source=STREAM,
            see_also=("residual.growth", "global.variance", "first_position.ratio"),
            columns=("rms stream",),
            brief="root mean square of the norm's input over tokens and features",
        ),
        _entry(
            name="residual.growth",
            title="how much the stream grows in a block",
            definition="The rms at a norm over that at the same norm of the block before; behind the "
            "blocks, over that at the first norm of the last block.",
            formula="growth = rms / rms a block before",
            range="0 or more; null in the first block, and where the block before has no such number",
            reading="1: the block leaves the stream as large as it was.",
            source=STREAM,
            see_also=("residual.rms", "residual.total"),
            columns=("growth a block",),
            brief="rms over that a block before",
        ),
        _entry(
            name="residual.total",
            title="how much the stream grows in all",
            definition="The rms at the last norm of a profile over that at its first.",
            formula="total = rms at the last norm / rms at the first",
            range="0 or more; null with fewer than two norms",
            reading="Compare models only where the first norms stand at the same place.",
            source=STREAM,
            see_also=("residual.growth",),
        ),
        _entry(
            name="kurtosis",
            title="how unequally large the features are",
            definition="The kurtosis of the features' root mean squares over the tokens: that of a vector "
            "with one number a feature.",
            formula="mean_d(s[d]^4) / mean_d(s[d]^2)^2; s[d]^2 = (1/|V|) sum_V x[n,t,d]^2",
            range="1 or more, at most D; null where all inputs are zeros",
            reading="1: all features are equally large. D: one feature has everything.",
            source=KURTOSIS,
            see_also=("outliers.sd_ratio", "feature.variance"),
            columns=("kurtosis features",),
            brief="of the features' root mean squares; 1 if all are equal, D if one has everything",
        ),
    ),
)
