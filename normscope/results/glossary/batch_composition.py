"""Glossary entries on batch composition and on how batches are drawn."""

from functools import partial

from normscope.results.glossary.entry import OWN, Entry, Topic

_entry = partial(Entry, source=OWN, commands=("batches",))

_ERROR = "variance_error = sqrt(2 / (late_samples - 1))"

FILLING = Topic(
    "What the batches hold, at every layer, and how they were drawn",
    (
        _entry(
            name="batches",
            title="how many batches were put together",
            definition="The batches of one size and order, over all draws.",
            formula="batches = number of B",
            range="1 or more",
            reading="The count of each summary over batches; few batches give a rough average.",
            see_also=("draws", "batch_size", "run.batches"),
        ),
        _entry(
            name="draws",
            title="how often all texts were put into batches",
            definition="How many times the kept texts are put into new batches.",
            formula="draws = --draws",
            range="1 or more",
            reading="More draws make the averages over random batches more precise; the given order has "
            "only one.",
            see_also=("batches", "seed"),
        ),
        _entry(
            name="seed",
            title="the seed of everything random",
            definition="The seed of the choice of texts to keep and of the random batches; in a swap, of the "
            "tokens that are masked and of the intervals.",
            formula="seed = --seed",
            range="0 or more",
            reading="The same seed, texts and model give the same numbers.",
            commands=("batches", "swap"),
            see_also=("draws",),
        ),
        _entry(
            name="momentum",
            title="how much a batch weighs in running statistics",
            definition="The m of BatchNorm's running statistics: the share that each new batch gets in them.",
            formula="running = (1 - m) running + m batch",
            range="0 to 1; null where it was not asked for",
            reading="PyTorch's default is 0.1. Others call 1 - m the momentum.",
            source="PyTorch: BatchNorm1d (momentum)",
            see_also=("running",),
        ),
        _entry(
            name="padding_share",
            title="padding in batches of that size and order",
            definition="The share of the token slots that would be padding, with each batch padded to its "
            "longest text. Special tokens are not padding, counted or not.",
            formula="1 - sum of lengths / sum over B of b times the longest in B",
            range="0 to 1",
            reading="Small by length, large at random: the reason for bucketing. Padding enters no "
            "statistic.",
            see_also=("run.padding_share", "tid.length_ratio"),
            columns=("padding",),
        ),
        _entry(
            name="tokens",
            title="how many tokens of a batch count",
            definition="The valid tokens of each batch, summarised over batches.",
            formula="N_B = sum of T_n over n in B; summarised over B",
            range="0 or more",
            reading="BatchNorm's statistics of one feature are computed from these. They are not "
            "independent: see tid.",
            see_also=("summary", "batch_size"),
            columns=("tokens",),
        ),
        _entry(
            name="positions",
            title="texts of a batch at each position",
            definition="How many texts of a batch have a token that counts at each position, averaged over "
            "the batches that have any there.",
            formula="positions[t] = average of n_t over B with n_t > 0",
            range="T numbers, each 0 or more; null where no batch has any",
            reading="It falls with t as texts end; BatchNorm by position has only these texts there.",
            see_also=("position.count", "positions_short"),
            columns=("a batch",),
            brief="how many of its texts reach the position, in batches that have it",
        ),
        _entry(
            name="positions_short",
            title="share of positions with few texts",
            definition="Of the positions of all batches that any text of the batch has, the share that "
            "fewer than 30 of its texts reach.",
            formula="share of (B, t) with n_t < 30 among those with n_t > 0",
            range="0 to 1; null where nothing counts",
            reading="There BatchNorm by position would rest on a guess, its variance off by a quarter or "
            "more. 1 for batches of fewer than 30.",
            see_also=("position.count", "variance_error"),
            columns=("under 30",),
        ),
        _entry(
            name="late_samples",
            title="how many texts reach a batch's late positions",
            definition="The median number of texts in the last quarter of each batch's positions, over all "
            "batches.",
            formula="median of n_t over (B, t) with t >= 0.75 times the longest in B",
            range="0 or more; null where nothing counts",
            reading="Far below the batch size: late positions rest on a few long texts.",
            see_also=("variance_error", "batch_size"),
            columns=("late texts",),
            brief="how many reach the last quarter of a batch's positions (median)",
        ),
        _entry(
            name="variance_error",
            title="how rough a variance at late positions is",
            definition="The relative standard error of a variance taken from late_samples numbers, of a "
            "normal variable. In the table by position: from the texts that a batch has there.",
            formula=_ERROR,
            range="0 or more; null for one text",
            reading="0.26 at 30 texts, 0.5 at 9: a variance of so few texts is off by so much at random.",
            source="the standard error of a normal sample's variance",
            see_also=("late_samples", "position.count"),
            columns=("late error", "error"),
            brief="standard error of a variance taken from those, relative to it",
        ),
        _entry(
            name="kept",
            title="the texts that batches are made of",
            definition="The texts whose statistics are kept one by one, all of them or a random choice, as "
            "if they were one batch. Batches are compared with them.",
            formula="see positions_short, late_samples and variance_error, with one B",
            range="counts, shares and one array",
            reading="Even all texts together can be few at late positions.",
            see_also=("run.texts", "batches"),
        ),
        _entry(
            name="kept.texts",
            title="how many texts were kept",
            definition="How many texts batches are made of: all that were run, or a random choice of "
            "--samples.",
            formula="texts = min(--samples, run.texts)",
            range="0 or more",
            reading="Below run.texts, all of them means the kept ones.",
            see_also=("run.texts", "seed"),
        ),
        _entry(
            name="kept.tokens",
            title="how many tokens the kept texts have",
            definition="The valid tokens of all kept texts.",
            formula="tokens = sum of T_n over kept n",
            range="0 or more",
            reading="The statistics that batches are compared with are computed from these.",
            see_also=("run.tokens", "tokens"),
        ),
        _entry(
            name="kept.positions",
            title="kept texts at each position",
            definition="How many kept texts have a token that counts at each position.",
            formula="positions[t] = n_t over kept n",
            range="T numbers, each 0 or more; null where no text has any",
            reading="The maximum that a batch could have there.",
            see_also=("positions", "position.count"),
            columns=("texts in all",),
        ),
        _entry(
            name="kept.positions_short",
            title="share of positions with few kept texts",
            definition="Of the positions that any kept text has, the share that fewer than 30 of them reach.",
            formula="share of t with n_t < 30 among those with n_t > 0",
            range="0 to 1; null where nothing counts",
            reading="Above 0, not even the whole corpus tells much about its late positions.",
            see_also=("positions_short",),
        ),
        _entry(
            name="kept.late_samples",
            title="how many kept texts reach late positions",
            definition="The median number of kept texts in the last quarter of all positions.",
            formula="median of n_t over t >= 0.75 times the longest",
            range="0 or more; null where nothing counts",
            reading="Far below kept.texts where few texts are long.",
            see_also=("late_samples",),
        ),
        _entry(
            name="kept.variance_error",
            title="how rough their variance at late positions is",
            definition="The relative standard error of a variance taken from kept.late_samples numbers, of "
            "a normal variable.",
            formula=_ERROR,
            range="0 or more; null for one text",
            reading="The best that BatchNorm by position could do there on this corpus.",
            source="the standard error of a normal sample's variance",
            see_also=("variance_error",),
        ),
    ),
)
