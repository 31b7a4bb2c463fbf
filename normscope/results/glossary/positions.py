"""Glossary entries on the means and variances of a layer's input at each position."""

from functools import partial

from normscope.results.glossary.entry import OWN, Entry

_entry = partial(Entry, source=OWN, commands=("inspect",))

POSITIONS = (
    _entry(
        name="position",
        title="BatchNorm and LayerNorm by position",
        definition="Numbers per position in the text, BN-style (samples and features pooled) and "
        "LN-style (each token's own, averaged).",
        formula="variance[t] = token_variance[t] + var over n of mean[n,t]",
        range="arrays of one number per position; null where a layer has no positions",
        reading="The difference of the two variances is the variance of the token means at that position.",
        source="the article's BN, with the position as its channel; " + OWN,
        see_also=("agreement.position", "explained.position"),
    ),
    _entry(
        name="position.count",
        title="how many samples reach the position",
        definition="The rows at each position that count: samples that reach it with a valid token "
        "(times heads in a per-head layer, times calls where the layer runs more than once).",
        formula="n_t = number of n with (n, t) in V",
        range="T whole numbers, 0 or more",
        reading="Under 30 (marked *), the variance there is a rough guess: its relative standard error "
        "is about sqrt(2 / (n_t - 1)), 26 % at 30.",
        see_also=("positions_short", "run.positions"),
        columns=("texts",),
        brief="how many texts reach the position; * is under 30",
    ),
    _entry(
        name="position.mean",
        title="BatchNorm's mean at each position",
        definition="The mean over samples and features at each position: BatchNorm with the position as "
        "its channel.",
        formula="mean[t] = (1/(n_t D)) sum_n sum_d x[n,t,d]",
        range="T numbers, any; null where n_t is 0",
        reading="Always equal to position.token_mean, since all tokens have D features.",
        source="PyTorch: BatchNorm1d on (N, C, L) with C = T, L = D, padding left out",
        see_also=("position.token_mean", "position.variance"),
    ),
    _entry(
        name="position.variance",
        title="BatchNorm's variance at each position",
        definition="The biased variance over samples and features at each position: BatchNorm with the "
        "position as its channel. Also drawn as a bar on a log scale.",
        formula="variance[t] = (1/(n_t D)) sum_n sum_d (x[n,t,d] - mean[t])^2",
        range="T numbers, each 0 or more; null where n_t is 0",
        reading="Never below position.token_variance. One position far above the rest is a special "
        "token or an attention sink.",
        source="PyTorch: BatchNorm1d on (N, C, L) with C = T, L = D, padding left out",
        see_also=("position.token_variance", "position.count"),
        columns=("BN variance", "BN variance per position", "log scale", "BN by position"),
        brief="over all texts and features at the position, as in BatchNorm by position; also as a bar",
    ),
    _entry(
        name="position.token_mean",
        title="LayerNorm's mean, averaged per position",
        definition="The tokens' own means over their features, averaged over the samples at each position.",
        formula="token_mean[t] = (1/n_t) sum_n mean[n,t]",
        range="T numbers, any; null where n_t is 0",
        reading="LayerNorm uses a mean per token; the average only says around which value they are.",
        see_also=("position.mean", "token.mean"),
        columns=("LN mean", "LN mean average"),
    ),
    _entry(
        name="position.token_variance",
        title="LayerNorm's variance, averaged per position",
        definition="The tokens' own variances over their features, averaged over the samples at each "
        "position.",
        formula="token_variance[t] = (1/n_t) sum_n var[n,t]",
        range="T numbers, each 0 or more; null where n_t is 0",
        reading="The part of position.variance that lies within tokens; the rest is the variance of "
        "their means.",
        see_also=("position.variance", "token.variance", "first_position"),
        columns=("LN variance", "LN variance average"),
    ),
    _entry(
        name="position.token_variance_std",
        title="spread of LayerNorm's variances at a position",
        definition="The standard deviation of the tokens' own variances at each position, over the samples.",
        formula="token_variance_std[t] = standard deviation over n of var[n,t]",
        range="T numbers, each 0 or more; null where n_t is 0",
        reading="0: one number for the position gives every token its own variance. As large as "
        "position.token_variance: the one number is far off for many tokens.",
        see_also=("position.token_variance", "position.variance", "token.variance"),
        columns=("LN variance sd",),
    ),
    _entry(
        name="position.token_variance_min",
        title="LayerNorm's smallest variance at a position",
        definition="The minimum of the tokens' own variances at each position.",
        formula="token_variance_min[t] = min over n of var[n,t]",
        range="T numbers, each 0 or more; null where n_t is 0",
        reading="With position.token_variance_max: the range that one number per position has to serve.",
        see_also=("position.token_variance_max", "position.far"),
        columns=("LN variance min",),
    ),
    _entry(
        name="position.token_variance_max",
        title="LayerNorm's largest variance at a position",
        definition="The maximum of the tokens' own variances at each position.",
        formula="token_variance_max[t] = max over n of var[n,t]",
        range="T numbers, each 0 or more; null where n_t is 0",
        reading="Far above position.token_variance: a few tokens carry a scale of their own.",
        see_also=("position.token_variance_min", "position.far"),
        columns=("LN variance max",),
    ),
    _entry(
        name="position.far",
        title="tokens over 2 times off BatchNorm's one scale",
        definition="The share of the tokens at each position whose own variance is over twice or under "
        "half of the layer's one variance over everything (global.variance). It is read from a "
        "histogram with eight bins an octave, so it can be off by a part of the tokens in the two bins "
        "at the limits.",
        formula="far[t] = #{n: var[n,t] > 2 v or var[n,t] < v / 2} / n_t; v = global.variance",
        range="T numbers, each 0 or more, at most 1; null where n_t is 0",
        reading="0: one scale for the layer serves every token at this position within a factor of 2. "
        "1: it serves none of them; LayerNorm gives each its own.",
        see_also=("global.variance", "position.token_variance_std"),
        columns=("2x off", "2x off tokens"),
        brief="share of the tokens whose LN variance is over twice or under half BN's one for the layer",
    ),
    _entry(
        name="position.first",
        title="the first position of each bin",
        definition="Where late positions share bins, every array over positions has one element per bin: "
        "this is the first position in it, and position.count is the number of tokens in it.",
        formula="first[r] = min t in bin r",
        range="T whole numbers, each 0 or more; null where every position stands alone",
        reading="A bin ends where the next one begins; the last one may be longer than the texts.",
        see_also=("run.position_bins", "position.count"),
    ),
)
