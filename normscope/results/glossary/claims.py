"""Glossary entries on the article's claims: numbers, intervals and rules."""

from normscope.results.glossary.entry import OWN, Entry, Topic

_BOOTSTRAP = "Efron 1979, Bootstrap Methods, Annals of Statistics 7(1)"

CLAIMS = Topic(
    "The article's claims",
    (
        Entry(
            name="kept_texts",
            title="the texts that the claims are tried on",
            definition="How many texts' tokens were kept at every layer: all that were run, or a random "
            "choice of --samples, fewer where they would take over --table-memory.",
            formula="min(run.texts, --samples), less what memory forbids",
            range="2 or more",
            reading="A few hundred decide most claims; tens leave them undecided.",
            source=OWN,
            commands=("why",),
            see_also=("run.texts", "number"),
        ),
        Entry(
            name="number",
            title="a number of a claim's evidence",
            definition="What this model and these texts say; each has in `metric` the name of its entry "
            "here. Over layers it is the median.",
            formula="median over layers of the metric",
            range="as the metric's",
            reading="Only the number that decides is held against the threshold; the others put it in "
            "context.",
            source=OWN,
            commands=("why",),
            see_also=("threshold", "verdict"),
        ),
        Entry(
            name="number.value",
            title="the number itself",
            definition="The metric over the kept texts, the median over layers where there are several.",
            formula="value = median over layers of metric",
            range="any number; null where it is not known",
            reading="Read it with its interval: from few texts it may be far off.",
            source=OWN,
            commands=("why",),
            see_also=("number.low", "number.high"),
        ),
        Entry(
            name="number.low",
            title="where its 95 % interval begins",
            definition="The value less the spread of its bootstrap replicates below their mean: texts are "
            "drawn with replacement, or batches where the number is about batches, and the number is "
            "taken anew.",
            formula="low = value + q(0.025) of (replicate - mean of replicates)",
            range="any number; null where there is no interval",
            reading="A claim is decided only when the threshold is outside of low to high.",
            source=_BOOTSTRAP,
            commands=("why",),
            see_also=("number.high", "seed"),
        ),
        Entry(
            name="number.high",
            title="where its 95 % interval ends",
            definition="The value and the spread of its bootstrap replicates above their mean.",
            formula="high = value + q(0.975) of (replicate - mean of replicates)",
            range="any number; null where there is no interval",
            reading="A wide interval asks for more texts.",
            source=_BOOTSTRAP,
            commands=("why",),
            see_also=("number.low",),
        ),
        Entry(
            name="threshold",
            title="what the deciding number is held against",
            definition="The number at which the claim's rule turns.",
            formula="a constant of the rule",
            range="any number; null where no number decides",
            reading="The rule says on which side of it the claim holds.",
            source=OWN,
            commands=("why",),
            see_also=("verdict", "number.low"),
        ),
        Entry(
            name="verdict",
            title="what becomes of the claim",
            definition="Holds, fails, undecided, or not testable here: by where the deciding number's "
            "interval lies.",
            formula="holds: low to high is on the claim's side of the threshold",
            range="one of four words",
            reading="About this model and these texts, by a rule that is stated; another rule may say "
            "otherwise.",
            source=OWN,
            commands=("why",),
            see_also=("threshold",),
        ),
        Entry(
            name="late_share",
            title="the share of positions that few texts reach",
            definition="Of the positions up to the longest kept text, the share that fewer than half of "
            "the texts reach.",
            formula="#{t: n_t < N / 2} / T",
            range="0 to 1",
            reading="0 where all texts are of one length.",
            source=OWN,
            commands=("why",),
            see_also=("late_samples", "position.count"),
        ),
        Entry(
            name="explained_difference",
            title="what the text explains over the position",
            definition="Epsilon squared of the text less that of the position, special tokens left out.",
            formula="explained.sequence.epsilon2 - explained.position.epsilon2",
            range="any number from -1 to 1, near enough",
            reading="Above 0: words of one text have more in common than words at one position.",
            source=OWN,
            commands=("why",),
            see_also=("explained.sequence.epsilon2", "explained.position.epsilon2"),
        ),
        Entry(
            name="likeness_kept",
            title="how well texts' likenesses are kept",
            definition="Each text's vector is the mean over its tokens, special ones left out, of what a "
            "normalization gives before the affine. The correlation, over all pairs of texts, of the "
            "cosines under the layer's own normalization with those under another: one scale per text, or "
            "BatchNorm's per feature. Each layer has the input that it really has.",
            formula="corr over n < m of (cos(v_n, v_m), cos(w_n, w_m))",
            range="-1 to 1",
            reading="1: which texts are alike is just as it was.",
            source=OWN,
            commands=("why",),
            see_also=("agreement.sequence", "agreement.feature"),
        ),
        Entry(
            name="likeness_difference",
            title="whether the text's scale keeps likenesses best",
            definition="The likeness that is kept by one scale per text less that kept by BatchNorm.",
            formula="likeness_kept(sequence) - likeness_kept(feature)",
            range="any number from -2 to 2",
            reading="Above 0: scaling within the text does less to which texts are alike.",
            source=OWN,
            commands=("why",),
            see_also=("likeness_kept",),
        ),
    ),
)
