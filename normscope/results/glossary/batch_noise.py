"""Glossary entries on batch noise, layer by layer."""

from normscope.results.glossary.entry import OWN, POWERNORM, TID, Entry, Topic

_SD = "sd = sqrt(variance), sd_B = sqrt(variance_B)"
_RUNNING_SD = "; sd_r = sqrt(running_var)"
_OVER_B = "; summarised over B"
_CODE = TID + ", the form in the authors' published code"
_PYTORCH = "PyTorch: BatchNorm1d (momentum), but from the first batch, not from 0 and 1"
_NOISE_RANGE = "0 or more; null for a batch of fewer than two tokens"

NOISE = Topic(
    "BatchNorm in training: a batch B of texts, compared with all kept texts",
    (
        Entry(
            name="batch_size",
            title="texts in each batch",
            definition="How many texts are merged into each batch. The model is not run again: a batch is "
            "the exact merge of its texts' counts, means and sums of squares.",
            formula="b = number of n in B",
            range="1 or more",
            reading="The noise of a mean falls about as 1 / sqrt(b) in random batches.",
            source="Chan, Golub & LeVeque 1979, Updating Formulae, STAN-CS-79-773",
            commands=("batches",),
            see_also=("tid", "run.batch_size"),
            columns=("texts a batch",),
        ),
        Entry(
            name="tid",
            title="training inference discrepancy, norm ratio",
            definition="How far the statistics of one batch, which BatchNorm uses in training, are from "
            "those of all kept texts, which stand for what it uses in inference, relative to the latter's "
            "standard deviations.",
            formula=_SD + "; norms over d" + _OVER_B,
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
            definition="The distance between a batch's mean and that of all kept texts, over features, "
            "relative to the standard deviations of all.",
            formula="||mean_B - mean||_2 / ||sd||_2; " + _SD + _OVER_B,
            range=_NOISE_RANGE,
            reading="0.1: means are off by a tenth of a standard deviation, in the root mean square. The "
            "widest features count most.",
            source=TID,
            commands=("batches",),
            see_also=("summary", "tid_elementwise.mean", "excess_noise"),
            columns=("random", "noise of mean", "of mean log scale"),
        ),
        Entry(
            name="tid.variance",
            title="how far batch standard deviations are off",
            definition="The distance between a batch's standard deviations and those of all kept texts, "
            "over features, relative to the latter.",
            formula="||sd_B - sd||_2 / ||sd||_2; " + _SD + _OVER_B,
            range=_NOISE_RANGE,
            reading="It is of standard deviations, in spite of its name, which is the paper's.",
            source=TID,
            commands=("batches",),
            see_also=("summary", "tid_elementwise.variance"),
            columns=("noise of sd",),
        ),
        Entry(
            name="tid.length_ratio",
            title="what batching by length does to the noise",
            definition="The excess noise of batches of texts of similar length over that of random batches "
            "of as many texts. The ratio of their tid.mean would mislead: batches by length hold unequal "
            "numbers of tokens, and that alone can make it 0.9 or 1.4. Excess noise allows for the numbers "
            "of tokens. In the table of layers only.",
            formula="excess_noise by length / excess_noise at random",
            range="0 or more; unknown where either is",
            reading="1: texts of similar length are no more alike than any texts. 2: with similar lengths "
            "together, batch means are twice as far off. Above 1, what saves padding costs BatchNorm.",
            source=OWN,
            commands=("batches", "why"),
            see_also=("excess_noise", "padding_share"),
            columns=("by length",),
        ),
        Entry(
            name="excess_noise",
            title="batch noise against independent tokens",
            definition="The noise of batch means as a multiple of what chance alone gives. Chance alone is "
            "when all tokens of the kept texts are shuffled over the texts, so that tokens of one text have "
            "nothing in common. Both depend on n_B, the number of tokens in a batch B: few tokens are noisy, "
            "and a batch that holds most of all tokens is near their mean in any case.",
            formula="sqrt(observed / independent); observed = sum over B of n_B^2 tid.mean[B]^2; "
            "independent = sum over B of n_B (|V| - n_B) / (|V| - 1)",
            range="0 or more; null where a batch holds all tokens",
            reading="1: the tokens of a batch are as good as independent. 2: batch means are twice as far "
            "off, and a batch is worth a quarter of its tokens, because tokens of one text, or texts of one "
            "batch, are alike. Below 1: texts share a mix, such as one [CLS] each. The square is the design "
            "effect of cluster samples.",
            source="Kish 1965, Survey Sampling, for the square; " + TID,
            commands=("batches", "why"),
            see_also=("tid.mean", "tid.length_ratio", "explained.sequence.epsilon2"),
            columns=("excess noise",),
        ),
        Entry(
            name="tid_elementwise",
            title="the same discrepancy, feature by feature",
            definition="The discrepancy of each feature relative to its own standard deviation in the "
            "batch, averaged over the features that vary in the batch.",
            formula=_SD + "; averaged over d with sd_B[d] > 0" + _OVER_B,
            range="two summaries",
            reading="All features weigh alike, where tid is ruled by the widest few.",
            source=_CODE,
            commands=("batches",),
            see_also=("tid",),
        ),
        Entry(
            name="tid_elementwise.mean",
            title="batch means, feature by feature",
            definition="How far a batch's mean of a feature is from that of all kept texts, in the batch's "
            "standard deviations of that feature, averaged over the features that vary in the batch.",
            formula="average over d of |mean[d] - mean_B[d]| / sd_B[d]; " + _SD + _OVER_B,
            range=_NOISE_RANGE,
            reading="Large where a feature hardly varies within one batch.",
            source=_CODE,
            commands=("batches",),
            see_also=("summary", "tid.mean"),
            columns=("by feature of mean",),
        ),
        Entry(
            name="tid_elementwise.variance",
            title="batch standard deviations, feature by feature",
            definition="How far a feature's standard deviation over all kept texts is from the batch's, "
            "relative to the batch's, averaged over the features that vary in the batch.",
            formula="average over d of |sd[d] / sd_B[d] - 1|; " + _SD + _OVER_B,
            range=_NOISE_RANGE,
            reading="0: batches vary in each feature just as all texts do.",
            source=_CODE,
            commands=("batches",),
            see_also=("summary", "tid.variance"),
            columns=("by feature of sd",),
        ),
        Entry(
            name="distance",
            title="PowerNorm's distance of batches from all texts",
            definition="The plain distance between the statistics of a batch and those of all kept texts, "
            "by the number of features. PowerNorm's figure has running statistics in their place.",
            formula="(1/D) ||.||_2 over d" + _OVER_B,
            range="two summaries",
            reading="It has the units of the activations: compare batch sizes at one layer, not layers.",
            source=POWERNORM,
            commands=("batches",),
            see_also=("tid", "own_output.distance"),
        ),
        Entry(
            name="distance.mean",
            title="distance of batch means",
            definition="The distance between a batch's mean and that of all kept texts, by the number of "
            "features.",
            formula="(1/D) ||mean_B - mean||_2" + _OVER_B,
            range=_NOISE_RANGE,
            reading="A few outlier features can be nearly all of it.",
            source=POWERNORM,
            commands=("batches",),
            see_also=("summary", "tid.mean"),
            columns=("distance of mean",),
        ),
        Entry(
            name="distance.variance",
            title="distance of batch variances",
            definition="The distance between a batch's variance and that of all kept texts, by the number "
            "of features.",
            formula="(1/D) ||variance_B - variance||_2" + _OVER_B,
            range=_NOISE_RANGE,
            reading="Of variances, not of standard deviations: it grows with the square of the scale.",
            source=POWERNORM,
            commands=("batches",),
            see_also=("summary", "tid.variance"),
            columns=("distance of variance",),
        ),
        Entry(
            name="running",
            title="BatchNorm's running statistics over the batches",
            definition="The exponential averages that BatchNorm would keep over the batches in their order, "
            "with the momentum m. The variance that goes in is the unbiased one. They begin with the first "
            "batch.",
            formula="running_mean = (1 - m) running_mean + m mean_B; "
            "running_var = (1 - m) running_var + m variance_B N_B / (N_B - 1); "
            "N_B = valid tokens of B",
            range="shares of a standard deviation; null without --momentum",
            reading="What inference really uses: m = 0.1 remembers about the last ten batches.",
            source=_PYTORCH,
            commands=("batches",),
            see_also=("momentum", "stored_gap", "tid"),
        ),
        Entry(
            name="running.mean",
            title="how far the running mean ends from all texts",
            definition="After the last batch: the distance between the running mean and the mean of all "
            "kept texts, relative to the standard deviations of all.",
            formula="||running_mean - mean||_2 / ||sd||_2; " + _SD,
            range="0 or more; null without batches of two tokens",
            reading="What is left of the batches' noise after averaging.",
            source=_PYTORCH,
            commands=("batches",),
            see_also=("tid.mean", "stored_gap.mean"),
            columns=("at the end of mean",),
        ),
        Entry(
            name="running.variance",
            title="how far the running sd ends from all texts",
            definition="After the last batch: the distance between the roots of the running variances and "
            "the standard deviations of all kept texts, relative to the latter.",
            formula="||sd_r - sd||_2 / ||sd||_2" + _RUNNING_SD,
            range="0 or more; null without batches of two tokens",
            reading="Batches vary less than all texts together, so that it does not fall to 0 with small "
            "ones.",
            source=_PYTORCH,
            commands=("batches",),
            see_also=("tid.variance", "stored_gap.variance"),
            columns=("at the end of sd",),
        ),
        Entry(
            name="running.tid",
            title="batches compared with the running statistics",
            definition="How far each batch is from the running statistics before it, relative to those: the "
            "discrepancy between training and inference as its authors have it.",
            formula="norms over d" + _RUNNING_SD + ", before B" + _OVER_B + " after the first",
            range="two summaries",
            reading="Above tid: the running statistics themselves are noisy.",
            source=TID,
            commands=("batches",),
            see_also=("tid", "running"),
        ),
        Entry(
            name="running.tid.mean",
            title="batch means compared with the running mean",
            definition="The distance between a batch's mean and the running mean before it, over features, "
            "relative to the roots of the running variances.",
            formula="||mean_B - running_mean||_2 / ||sd_r||_2" + _RUNNING_SD + _OVER_B + " after the first",
            range=_NOISE_RANGE,
            reading="PowerNorm draws such a distance for texts and for images: in texts it is larger.",
            source=TID,
            commands=("batches",),
            see_also=("summary", "tid.mean"),
            columns=("to running of mean",),
        ),
        Entry(
            name="running.tid.variance",
            title="batch sds compared with the running ones",
            definition="The distance between a batch's standard deviations and the roots of the running "
            "variances before it, over features, relative to the latter.",
            formula="||sd_B - sd_r||_2 / ||sd_r||_2" + _RUNNING_SD + _OVER_B + " after the first",
            range=_NOISE_RANGE,
            reading="0: every batch varies as those before it did.",
            source=TID,
            commands=("batches",),
            see_also=("summary", "tid.variance"),
            columns=("to running of sd",),
        ),
    ),
)
