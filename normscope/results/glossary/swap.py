"""Glossary entries on the effects of replaced normalization layers."""

from functools import partial

from normscope.results.glossary.entry import GUPTA, HEIMERSHEIM, OWN, Entry, Topic
from normscope.results.glossary.squashing import SQUASHING_FITS

_entry = partial(Entry, source=OWN, commands=("swap",))

_HEAD = "; null without a language-modelling head"
_MEANS = "; an estimate"
_STATES = "h, h': last hidden state untouched, with layers replaced"
_PREDICTIONS = "p, q: predicted, untouched and with layers replaced"
_EFRON = "Efron 1979, Bootstrap Methods, Annals of Statistics 7(1)"
_KULLBACK = "Kullback & Leibler 1951, On Information and Sufficiency"
_DEVLIN = "Devlin et al. 2018, BERT, arXiv 1810.04805, for the masked tokens"

SWAP = Topic(
    "What breaks when layers are replaced, on held-out texts",
    (
        _entry(
            name="replacement",
            title="what a layer is replaced by: swap --kind",
            definition="The formula that takes the place of the layer's own; its weight and bias follow. "
            "mean and var are those of the calibration texts' tokens; centre and power are the token's own: "
            "its mean and variance, or 0 and the mean square for an RMSNorm. power_text is that of all valid "
            "tokens and features of the text.",
            formula="batchnorm: y = (x - mean[d]) / sqrt(var[d] + eps); "
            "batchnorm-batch: the same, of the batch's tokens; "
            "batchnorm-fitted: y = a[d] x + b[d], by least squares; "
            "frozen: y = s (x - centre), s = mean of 1 / sqrt(power + eps); "
            "frozen, --first apart: one s of position 0, one of the others; "
            "identity: y = x; "
            "rmsnorm: y = x / sqrt(mean x^2 + eps); "
            "scale-feature: y = (x - centre) / sqrt(var[d] + eps); "
            "centre-feature: y = (x - mean[d]) / sqrt(power + eps); "
            "scale-sequence: y = (x - centre) / sqrt(power_text + eps); "
            "centre-sequence: y = (x - mean_text) / sqrt(power + eps); "
            "dyt: y = gamma[d] tanh(alpha x) + beta[d], least squares; "
            "derf: y = gamma[d] erf(alpha x + shift) + beta[d], least squares",
            range="one of these words, in the report's kind",
            reading="rmsnorm shows what it is worth to subtract the mean: an RMSNorm stays as it is. The "
            "kinds named scale or centre replace that half by BatchNorm's or the text's: they tell which "
            "half of the token's own statistics the model needs.",
            source=f"normscope's own; {HEIMERSHEIM}; {GUPTA}",
            see_also=("effect", "feature", "sequence", "token", "mean_share", "dyt_fit", "derf_fit"),
        ),
        *SQUASHING_FITS,
        _entry(
            name="calibration",
            title="the texts of the replacements' statistics",
            definition="The texts that were run to take each layer's statistics. None of them is among those "
            "that effects are measured on.",
            formula="calibration: texts 1, 3, 5, ...; held out: 2, 4, 6, ...",
            range="counts of 0 or more",
            reading="With --calibration the statistics are of another corpus: then the effects include "
            "the differences of the two corpora.",
            see_also=("calibration.texts", "run.texts"),
        ),
        _entry(
            name="calibration.texts",
            title="how many texts were calibrated on",
            definition="The texts that the statistics of the replacements are taken from.",
            formula="texts = samples n with at least one valid token",
            range="0 or more",
            reading="A mean and a variance per feature settle with some hundreds of texts.",
            see_also=("calibration", "run.texts"),
        ),
        _entry(
            name="calibration.tokens",
            title="how many tokens were calibrated on",
            definition="The valid tokens of the texts that the replacements' statistics are taken from.",
            formula="tokens = |V| of the texts calibrated on",
            range="0 or more",
            reading="Below a few thousand, the statistics of rare features are rough.",
            see_also=("calibration", "run.tokens"),
        ),
        _entry(
            name="estimate",
            title="a mean and its 95% interval",
            definition="A mean over the held-out texts, and the interval that would hold it for 95 of 100 "
            "other such sets of texts: the 2.5% and 97.5% quantiles of the same mean over texts drawn with "
            "replacement, 1000 times.",
            formula="mean; low, high = quantiles of the mean over resampled n",
            range="low <= high; null where there is no number",
            reading="Two layers differ where their intervals are apart. The interval says nothing of other "
            "kinds of text.",
            source=_EFRON,
            see_also=("effect.hidden_cosine", "seed"),
            columns=("cosine 95%", "KL 95%"),
            brief="interval of the mean, by the bootstrap over held-out texts",
        ),
        _entry(
            name="baseline",
            title="the untouched model on the held-out texts",
            definition="The predictions of the unchanged model, where it has a language-modelling head: of "
            "the next token, of masked tokens, or of the text that an encoder-decoder reads.",
            formula="targets, loss and perplexity with no layer replaced",
            range="a word, counts and numbers of 0 or more",
            reading="Compare the loss and perplexity of the replacements with these.",
            see_also=("effect.loss", "effect.perplexity"),
        ),
        _entry(
            name="baseline.targets",
            title="how many tokens are to be predicted",
            definition="The tokens of the held-out texts that the head is asked for. A causal model is asked "
            "for all but the first of a text, a masked one for 15% of each text's words, one at least, that "
            "the seed chooses, and an encoder-decoder for all.",
            formula="targets = tokens that the loss is averaged over",
            range="0 or more",
            reading="Few of them make rough losses: see the intervals.",
            source=_DEVLIN,
            see_also=("effect.loss", "run.tokens"),
        ),
        _entry(
            name="baseline.loss",
            title="the untouched model's loss",
            definition="The mean over the targets of -log of the probability that the untouched model gives "
            "to the correct token, in nats.",
            formula="mean over targets of -log p(token)",
            range="0 or more" + _MEANS + _HEAD,
            reading="Guessing gives log(vocabulary).",
            source=_DEVLIN,
            see_also=("estimate", "effect.loss"),
        ),
        _entry(
            name="baseline.perplexity",
            title="the untouched model's perplexity",
            definition="The exponential of the untouched model's loss on the held-out texts.",
            formula="exp(baseline.loss)",
            range="1 or more" + _HEAD,
            reading="It is as uncertain as a guess among so many equally likely tokens.",
            source="Jelinek et al. 1977, Perplexity, JASA 62(S1)",
            see_also=("baseline.loss", "effect.perplexity"),
        ),
        _entry(
            name="effect",
            title="what replacing a layer, or several, does",
            definition="How the model differs from the untouched one on the held-out texts when the layer is "
            "replaced: of one layer alone, of all together, or of all up to one in the cumulative order.",
            formula="the same texts, tokens and masks with and without",
            range="numbers below",
            reading="It proves what agreement and affine_fit only suggest: errors may grow, or shrink, "
            "on the way to the output.",
            see_also=("agreement.feature", "affine_fit.r2", "baseline"),
        ),
        _entry(
            name="effect.damage",
            title="the number that orders the layers",
            definition="One number for how much breaks, drawn as a bar: KL where the model has a "
            "language-modelling head, then on a log scale, or else 1 - hidden cosine. In the tables only.",
            formula="effect.kl.mean, or 1 - effect.hidden_cosine.mean",
            range="0 or more",
            reading="The longest bar is the layer that needs its own normalization the most.",
            see_also=("effect.kl", "effect.hidden_cosine"),
            columns=("damage",),
        ),
        _entry(
            name="effect.hidden_cosine",
            title="how similar tokens' last states stay",
            definition="The cosine of a token's last hidden state with its state in the untouched model, "
            "averaged over the valid tokens.",
            formula="mean over V of h . h' / (||h|| ||h'||); " + _STATES,
            range="-1 to 1" + _MEANS,
            reading="1: the same direction. States that share a large common part are always similar, so "
            "compare layers, not models.",
            see_also=("estimate", "effect.relative_l2", "effect.sentence_cosine"),
            columns=("hidden cosine",),
        ),
        _entry(
            name="effect.relative_l2",
            title="how far the last states moved",
            definition="The norm of the difference of the last hidden states of all valid tokens, over the "
            "norm of the untouched ones.",
            formula="sqrt(sum over V of ||h' - h||^2 / sum over V of ||h||^2); " + _STATES,
            range="0 or more" + _MEANS,
            reading="Unlike the cosine it sees a change of scale: 1 is as far off as zeros would be.",
            see_also=("estimate", "effect.hidden_cosine"),
            columns=("relative L2",),
        ),
        _entry(
            name="effect.sentence_cosine",
            title="how similar sentence vectors stay",
            definition="The cosine of a text's mean-pooled last hidden state with that of the untouched "
            "model, averaged over the texts.",
            formula="mean over n of cos(mean_t h, mean_t h'), over valid t; " + _STATES,
            range="-1 to 1" + _MEANS,
            reading="Models of sentence similarity that pool by the mean return these vectors.",
            source="Reimers & Gurevych 2019, Sentence-BERT, arXiv 1908.10084, for the pooling",
            see_also=("estimate", "effect.similarity_correlation"),
            columns=("sentence cosine",),
        ),
        _entry(
            name="effect.similarity_correlation",
            title="whether the same texts stay similar",
            definition="Pearson's correlation, over all pairs of two held-out texts, of the cosine of their "
            "sentence vectors with that in the untouched model. Of the first 2048 texts at most.",
            formula="corr over n < m of cos(s[n], s[m]), cos(s'[n], s'[m]); s = mean_t h",
            range="-1 to 1; null for fewer than three texts",
            reading="Near 1, search by similarity finds the same texts, even where all vectors have turned.",
            source="Kriegeskorte et al. 2008, Representational similarity analysis",
            see_also=("effect.sentence_cosine",),
            columns=("likeness kept",),
        ),
        _entry(
            name="effect.loss",
            title="the loss with layers replaced",
            definition="The mean over the targets of -log of the probability that the model with replaced "
            "layers gives to the correct token, in nats.",
            formula="mean over targets of -log q(token); " + _PREDICTIONS,
            range="0 or more" + _MEANS + _HEAD,
            reading="Its difference to baseline.loss is what the replacement costs.",
            source=_DEVLIN,
            see_also=("estimate", "baseline.loss"),
            columns=("loss nats",),
        ),
        _entry(
            name="effect.perplexity",
            title="the perplexity with layers replaced",
            definition="The exponential of the loss once layers are replaced.",
            formula="exp(effect.loss.mean)",
            range="1 or more; null without a language-modelling head, and where it is too large",
            reading="Compare baseline.perplexity: a ratio of 1.01 is hard to notice, one of 2 is not.",
            source="Jelinek et al. 1977, Perplexity, JASA 62(S1)",
            see_also=("effect.loss", "baseline.perplexity"),
            columns=("perplexity",),
        ),
        _entry(
            name="effect.kl",
            title="how far predictions moved",
            definition="The Kullback-Leibler divergence of the predicted probabilities from those of the "
            "untouched model, averaged over the targets, in nats.",
            formula="mean over targets of sum_v p_v log(p_v / q_v); " + _PREDICTIONS,
            range="0 or more" + _MEANS + _HEAD,
            reading="It sees every change of a prediction, where the loss sees that of the right token "
            "alone.",
            source=_KULLBACK,
            see_also=("estimate", "effect.loss", "effect.damage"),
            columns=("KL nats",),
        ),
        _entry(
            name="effect.top1_agreement",
            title="how often the likeliest token is the same",
            definition="The share of the targets where the untouched model and that with layers replaced "
            "find the same token the likeliest.",
            formula="share of targets with argmax p = argmax q; " + _PREDICTIONS,
            range="0 to 1" + _MEANS + _HEAD,
            reading="Greedy generation changes where they differ.",
            see_also=("estimate", "effect.kl"),
            columns=("top 1 agrees",),
        ),
        _entry(
            name="replaced",
            title="how many layers are replaced at once",
            definition="In the cumulative order, which begins with the layer that does the least damage "
            "alone, how many layers are replaced so far, and stay so.",
            formula="replaced = 1, 2, ..., number of layers",
            range="1 or more",
            reading="The number where damage jumps is how many layers the model can do without.",
            see_also=("effect", "effect.damage"),
            columns=("replaced",),
        ),
        _entry(
            name="largest_difference",
            title="the change of the outputs by folding",
            definition="The largest difference between two numbers that the model returns for the held-out "
            "texts: with the layer replaced, and with its fixed scale and shift folded into the Linears that "
            "read it. Of one layer alone, or of all folded layers together.",
            formula="max |z' - z|; z, z': the model's outputs replaced, folded",
            range="0 or more; null where nothing was folded",
            reading="It is rounding alone, so compare it with the size of the outputs: relative_difference.",
            see_also=("relative_difference", "tolerance"),
            columns=("largest difference",),
        ),
        _entry(
            name="relative_difference",
            title="the relative change of the outputs by folding",
            definition="The largest difference between what the model returns with the layer replaced and "
            "with it folded, over the largest number that it returns; of the output where that is largest.",
            formula="max |z' - z| / max |z|; z, z': outputs replaced, folded",
            range="0 or more; null where nothing was folded",
            reading="Near the rounding of the model's dtype, 1e-7 in float32. Past the tolerance a layer "
            "is not folded.",
            see_also=("largest_difference", "tolerance"),
            columns=("relative difference",),
        ),
        _entry(
            name="tolerance",
            title="the limit up to which outputs count as equal",
            definition="The largest relative difference that a folded layer may make. A layer that makes a "
            "larger one is not folded, and the reason is shown.",
            formula="sqrt(eps) of the model's dtype; 3.5e-4 in float32",
            range="0 or more",
            reading="Half of the digits: rounding errors may grow through the layers, but a wrong fold makes "
            "far larger errors.",
            see_also=("relative_difference",),
        ),
    ),
)
