"""The glossary's entries on what BatchNorm would see in training: the noise of its batches."""

from normscope.glossary.entry import OWN, POWERNORM, TID, Entry, Topic

SD = "sd = sqrt(variance), sd_B = sqrt(variance_B); "
CODE = TID + ", the form in the authors' published code"

NOISE = Topic(
    "What BatchNorm would see in training: batches B beside the whole corpus",
    (
        Entry(
            name="batch_size",
            title="samples per simulated batch",
            definition="How many samples are merged into each batch. The model is not run again: a batch is "
            "the exact merge of its samples' counts, means and sums of squares.",
            formula="b = number of n in B",
            range="2 or more",
            reading="The noise of a mean falls about as 1 / sqrt(b) in random batches.",
            source="Chan, Golub & LeVeque 1979, STAN-CS-79-773",
            commands=("batches",),
            see_also=("tid", "run.batch_size"),
        ),
        Entry(
            name="tid",
            title="training inference discrepancy, norm ratio",
            definition="How far the statistics of one batch, which BatchNorm uses in training, are from "
            "those of the corpus, which it uses in inference, relative to the corpus's standard deviations.",
            formula=SD + "norms over d; summarised over B",
            range="two summaries",
            reading="Large at a batch size that is used: what was learned with batch statistics does not "
            "hold with fixed ones.",
            source=TID,
            commands=("batches",),
            see_also=("tid_elementwise", "distance", "feature"),
        ),
        Entry(
            name="tid.mean",
            title="how far batch means are off",
            definition="The distance between a batch's mean and the corpus's, over features, relative to "
            "the corpus's standard deviations.",
            formula="||mean_B - mean||_2 / ||sd||_2; " + SD + "summarised over B",
            range="0 or more",
            reading="0.1: means are off by a tenth of a standard deviation, in the root mean square. The "
            "widest features count most.",
            source=TID,
            commands=("batches",),
            see_also=("summary", "tid_elementwise.mean"),
        ),
        Entry(
            name="tid.variance",
            title="how far batch standard deviations are off",
            definition="The distance between a batch's standard deviations and the corpus's, over features, "
            "relative to the latter.",
            formula="||sd_B - sd||_2 / ||sd||_2; " + SD + "summarised over B",
            range="0 or more",
            reading="It is of standard deviations, in spite of its name, which is the paper's.",
            source=TID,
            commands=("batches",),
            see_also=("summary", "tid_elementwise.variance"),
        ),
        Entry(
            name="tid_elementwise",
            title="the same discrepancy, feature by feature",
            definition="The discrepancy of each feature relative to its own standard deviation in the "
            "batch, averaged over features.",
            formula=SD + "averaged over d; summarised over B",
            range="two summaries",
            reading="All features weigh alike, where tid is ruled by the widest few.",
            source=CODE,
            commands=("batches",),
            see_also=("tid",),
        ),
        Entry(
            name="tid_elementwise.mean",
            title="batch means, feature by feature",
            definition="How far a batch's mean of a feature is from the corpus's, in the batch's standard "
            "deviations of that feature, averaged over features.",
            formula="(1/D) sum_d |mean[d] - mean_B[d]| / sd_B[d]; " + SD + "summarised over B",
            range="0 or more",
            reading="Large where a feature hardly varies within one batch.",
            source=CODE,
            commands=("batches",),
            see_also=("summary", "tid.mean"),
        ),
        Entry(
            name="tid_elementwise.variance",
            title="batch standard deviations, feature by feature",
            definition="How far the corpus's standard deviation of a feature is from the batch's, relative "
            "to the batch's, averaged over features.",
            formula="(1/D) sum_d |sd[d] / sd_B[d] - 1|; " + SD + "summarised over B",
            range="0 or more",
            reading="0: batches vary in each feature just as the corpus does.",
            source=CODE,
            commands=("batches",),
            see_also=("summary", "tid.variance"),
        ),
        Entry(
            name="distance",
            title="PowerNorm's distance of batches from the corpus",
            definition="The plain distance between the statistics of a batch and those of the corpus, by "
            "the number of features. PowerNorm's figure has running statistics in the corpus's place.",
            formula="(1/D) ||.||_2 over d; summarised over B",
            range="two summaries",
            reading="It has the units of the activations: compare batch sizes at one layer, not layers.",
            source=POWERNORM,
            commands=("batches",),
            see_also=("tid", "own_output.distance"),
        ),
        Entry(
            name="distance.mean",
            title="distance of batch means",
            definition="The distance between a batch's mean and the corpus's, by the number of features.",
            formula="(1/D) ||mean_B - mean||_2; summarised over B",
            range="0 or more",
            reading="A few outlier features can be nearly all of it.",
            source=POWERNORM,
            commands=("batches",),
            see_also=("summary", "tid.mean"),
        ),
        Entry(
            name="distance.variance",
            title="distance of batch variances",
            definition="The distance between a batch's variance and the corpus's, by the number of features.",
            formula="(1/D) ||variance_B - variance||_2; summarised over B",
            range="0 or more",
            reading="Of variances, not of standard deviations: it grows with the square of the scale.",
            source=POWERNORM,
            commands=("batches",),
            see_also=("summary", "tid.variance"),
        ),
        Entry(
            name="positions_short",
            title="share of positions with few samples",
            definition="The share of the positions that fewer than 30 samples reach.",
            formula="share of t with n_t < 30; "
            "relative standard error of a variance there: sqrt(2 / (n_t - 1))",
            range="0 to 1",
            reading="At so many positions BatchNorm by position would rest on a guess, off by a quarter or "
            "more. The error is that of a normal variable.",
            source=OWN,
            commands=("batches",),
            see_also=("position.count",),
        ),
        Entry(
            name="padding_share",
            title="padding in batches of that size and order",
            definition="The share of the token slots that would be padding, with each batch padded to its "
            "longest sample.",
            formula="1 - sum_n T_n / sum over B of (b max_n T_n)",
            range="0 to 1",
            reading="Small by length, large at random: what bucketing is done for. Padding enters no "
            "statistic.",
            source=OWN,
            commands=("batches",),
            see_also=("run.padding_share",),
        ),
        Entry(
            name="running",
            title="what BatchNorm would have stored",
            definition="Its running mean and variance after the batches, from mean 0 and variance 1, with "
            "the momentum m; the variance that goes in is the unbiased one.",
            formula="running_mean = (1 - m) running_mean + m mean_B; "
            "running_var = (1 - m) running_var + m variance_B N_B / (N_B - 1); "
            "N_B = valid tokens of B",
            range="D means, D variances, each variance 0 or more",
            reading="What inference would use in place of the corpus's; m = 0.1 remembers about ten batches.",
            source="PyTorch: BatchNorm1d (momentum, running_mean, running_var)",
            commands=("batches",),
            see_also=("stored_gap", "tid"),
        ),
    ),
)
