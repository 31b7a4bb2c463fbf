"""Glossary entries on the article's claims: numbers, intervals and rules."""

from functools import partial

from normscope.results.glossary.entry import OWN, TID, Entry, Topic

_JACKKNIFE = "Kott 2001, The delete-a-group jackknife, Journal of Official Statistics 17(4)"

_entry = partial(Entry, source=OWN, commands=("why",))

CLAIMS = Topic(
    "The article's claims",
    (
        _entry(
            name="kept_texts",
            title="the texts that the claims are tried on",
            definition="How many texts' tokens were kept at every layer: all different texts that were run, "
            "or a random choice of --samples, fewer where they would take over --table-memory. A text that "
            "repeats an earlier one is left out.",
            formula="min(different texts, --samples), less what memory forbids",
            range="2 or more",
            reading="A few hundred decide most claims; tens leave them undecided.",
            see_also=("run.texts", "number"),
        ),
        _entry(
            name="null_texts",
            title="the texts of the nulls that run the model again",
            definition="How many of the kept texts ran again: with their words shuffled across texts, and "
            "through an untrained copy of the model.",
            formula="min(kept_texts, 512)",
            range="0 or more",
            reading="They are evenly spaced over the corpus.",
            see_also=("kept_texts", "null"),
        ),
        _entry(
            name="null",
            title="what a number is where nothing is there",
            definition="The number where what the claim speaks of is absent: tokens drawn independently, "
            "words shuffled across texts, or two things that are alike.",
            formula="known by arithmetic: 0 or 1; what has to be measured is subtracted from the number",
            range="any number; null where none is known",
            reading="Read a number against it, not against what looks natural.",
            see_also=("number", "threshold"),
        ),
        _entry(
            name="number",
            title="a number of a claim's evidence",
            definition="What this model and these texts say; each has in `metric` the name of its entry "
            "here. Over layers it is the median.",
            formula="median over layers of the metric",
            range="as the metric's",
            reading="Only the number that decides is held against the threshold; the others put it in "
            "context.",
            see_also=("threshold", "verdict"),
        ),
        _entry(
            name="number.value",
            title="the number itself",
            definition="The metric over the kept texts, the median over layers where there are several.",
            formula="value = median over layers of metric",
            range="any number; null where it is not known",
            reading="Read it with its interval: from few texts it may be far off.",
            see_also=("number.low", "number.high"),
        ),
        _entry(
            name="number.low",
            title="where its 95 % interval begins",
            definition="The interval is Student's t times the standard error of the delete-a-group "
            "jackknife: the texts are cut into 32 groups of neighbours, and the number is computed without "
            "each. "
            "Ratios have theirs on the logarithmic scale.",
            formula="value - t(0.975, G - 1) se; se^2 = (G - 1) / G sum over g of (without_g - their mean)^2",
            range="any number; null where there is no interval",
            reading="A claim is decided only when the threshold is outside of low to high. Where several "
            "texts are of one source, such as a page, the interval is too narrow.",
            source=_JACKKNIFE,
            see_also=("number.high", "seed"),
        ),
        _entry(
            name="number.high",
            title="where its 95 % interval ends",
            definition="As number.low, above the value.",
            formula="value + t(0.975, G - 1) se, as number.low",
            range="any number; null where there is no interval",
            reading="A wide interval asks for more texts.",
            source=_JACKKNIFE,
            see_also=("number.low",),
        ),
        _entry(
            name="threshold",
            title="what the deciding number is held against",
            definition="The number at which the claim's rule turns.",
            formula="a constant of the rule",
            range="any number; null where no number decides",
            reading="The rule says on which side of it the claim holds.",
            see_also=("verdict", "number.low"),
        ),
        _entry(
            name="verdict",
            title="what becomes of the claim",
            definition="Holds, fails, undecided, or not testable here: by the intervals of the deciding "
            "number at each layer.",
            formula="holds: 2 #{layers on the side of the claim} > #{layers}",
            range="one of four words",
            reading="About this model and these texts, by a rule that is stated. Where nothing is there, a "
            "claim holds or fails in 5% of cases each at most.",
            source=OWN + "; Markov's inequality",
            see_also=("threshold", "null"),
        ),
        _entry(
            name="layers_above",
            title="how many layers lie above the threshold",
            definition="The number of layers whose whole interval of the deciding number lies above the "
            "threshold.",
            formula="#{layers: low > threshold}",
            range="0 or more",
            reading="More than half of all layers decide.",
            see_also=("verdict", "layers_below"),
        ),
        _entry(
            name="layers_below",
            title="how many layers lie below the threshold",
            definition="The number of layers whose whole interval of the deciding number lies below the "
            "threshold.",
            formula="#{layers: high < threshold}",
            range="0 or more",
            reading="More than half of all layers decide.",
            see_also=("verdict", "layers_above"),
        ),
        _entry(
            name="late_reach",
            title="how many texts reach late positions",
            definition="The share of 8 random texts that reach a position of the batch's last quarter, on "
            "average over these positions and over all batches. The batch is as long as its longest text.",
            formula="E of the average over t >= 0.75 T_B of n_t / 8; T_B = tokens of the longest text of B",
            range="0 to 1",
            reading="1: all texts are of one length. Under 0.5: most of what stands there is padding.",
            see_also=("late_samples", "position.count"),
        ),
        _entry(
            name="late_noise_ratio",
            title="what batching by length does at late positions",
            definition="The noise of BatchNorm's mean per position at positions that a quarter to half of "
            "the texts reach: batches of 8 texts of similar length over 8 random ones. Up to 8 such "
            "positions are averaged. Only batches with a token there count, special tokens left out.",
            formula="sqrt(average of noise_t by length / average of noise_t at random); "
            "noise_t = E ||mean_B,t - mean_t||^2 / tr var_t, if n_B,t > 0; "
            "times (n_t - 1) / (n_t - n_B,t)",
            range="0 or more; null without such positions",
            reading="0.5: half the noise. Long texts together fill the late positions.",
            see_also=("tid.length_ratio", "late_reach"),
        ),
        _entry(
            name="explained_difference",
            title="what the text explains over the position",
            definition="Epsilon squared of the text minus that of the position, special tokens left out; "
            "each minus the same where the words are shuffled across texts and the model runs again.",
            formula="(text - text_shuffled) - (position - position_shuffled); epsilon squared each",
            range="any number from -2 to 2, near enough",
            reading="Above 0: words of one text have more in common than words at one position. What the "
            "model adds by itself, as its code of positions, is in both and cancels.",
            see_also=("explained.sequence.epsilon2", "explained.position.epsilon2", "explained_by_words"),
        ),
        _entry(
            name="explained_by_words",
            title="what the words of a text have in common",
            definition="Epsilon squared of the text, special tokens left out, minus the same where the words "
            "are shuffled across texts and the model runs again.",
            formula="epsilon squared of the text - the same of shuffled words",
            range="any number from -1 to 1, near enough",
            reading="A model makes the tokens of a text alike whatever its words are: attention mixes them. "
            "This is what is left beyond that.",
            see_also=("explained.sequence.epsilon2", "explained_difference"),
        ),
        _entry(
            name="likeness_kept",
            title="how well the texts' similarities are kept",
            definition="Each text's vector is the mean over its tokens, special ones left out. The "
            "correlation, over all pairs of texts, of the cosines under the layer's own normalization with "
            "those under another: the scale or the centre of BatchNorm, or both, or those of the text. Each "
            "layer has the input that it really has.",
            formula="corr over n < m of (cos(v_n, v_m), cos(w_n, w_m))",
            range="-1 to 1",
            reading="1: which texts are alike is just as it was.",
            source="Kriegeskorte et al. 2008, Representational similarity analysis",
            see_also=("agreement.sequence", "agreement.feature", "likeness_difference"),
        ),
        _entry(
            name="likeness_difference",
            title="whether the text's scale keeps likeness best",
            definition="One layer takes the scale of each text in place of its own, then BatchNorm's scale "
            "of each feature; its centre stays. Both times the cosines of all pairs of texts at the model's "
            "end are correlated with those of the model as it is.",
            formula="likeness_kept(scale-sequence) - likeness_kept(scale-feature); "
            "v_n, w_n = mean last hidden states of a text",
            range="any number from -2 to 2",
            reading="Above 0: the scale of the text does less to which texts are alike.",
            see_also=("likeness_kept", "scale_difference"),
        ),
        _entry(
            name="scale_difference",
            title="the same, minus that of shuffled words",
            definition="The likeness_difference of the texts minus that of texts of the same words shuffled "
            "across texts.",
            formula="likeness_difference - likeness_difference of shuffled words",
            range="any number from -4 to 4",
            reading="Above 0: the scale of the text keeps what texts say, not only what they are made of.",
            see_also=("likeness_difference",),
        ),
        _entry(
            name="noise_ratio",
            title="noise of text over noise of images",
            definition="The noise of a layer's batch means per feature, special tokens left out, over that "
            "of the median norm of a vision model per channel: in batches of 8 samples, or with as many "
            "tokens as pixels pooled.",
            formula="noise of text / noise of images; "
            "noise = sqrt(E ||s_B||^2 / tr var) / E n_B at 8 samples; "
            "excess_noise at equal elements",
            range="0 or more",
            reading="2: twice as noisy on text.",
            source=TID + "; the ratio is normscope's own",
            see_also=("tid.mean", "excess_noise"),
        ),
    ),
)
