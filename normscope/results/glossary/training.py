"""Glossary entries on the windows of a training."""

from functools import partial

from normscope.results.glossary.entry import LAYERNORM, OWN, TID, Entry, Topic

_entry = partial(Entry, source=OWN, commands=("track",))
_NULL = "null in a window without the number"

TRAINING = Topic(
    "The windows of a training",
    (
        _entry(
            name="steps",
            title="steps of the windows",
            definition="The training steps whose windows are in the file, in order. An evaluation has "
            "the step after which it was.",
            formula="steps[w], w: a window, of W",
            range="0 or more",
            reading="The first window is the one that all others are compared with.",
            see_also=("moved_at",),
        ),
        _entry(
            name="moved_at",
            title="the step at which a layer has moved",
            definition="The first step whose window is further from the first window than twice the median "
            "distance between neighbouring windows. The distance is the larger one of bn_drift.mean and "
            "bn_drift.variance.",
            formula="moved_at = min {s : d(first, s) > 2 median_w d(w, w + 1)}",
            range="0 or more; null where there is none, or fewer than three windows",
            reading="Windows of a layer that stands still differ by the noise of their batches, neighbours "
            "as much as distant ones. Fast movement makes neighbours distant, too, and the step later.",
            see_also=("bn_drift", "over_steps.drift_mean"),
            columns=("moved at step",),
        ),
        _entry(
            name="over_steps",
            title="the numbers of a layer, over steps",
            definition="The numbers of a layer in each window.",
            formula="one number for each of steps",
            range="W numbers; null in a window without the number",
            reading="Each is drawn as a curve over steps.",
            see_also=("steps",),
        ),
        _entry(
            name="over_steps.drift_mean",
            title="drift of the features' means, over steps",
            definition="How far the features' means in each window are from those in the first one.",
            formula="drift_mean[w] = ||mu_w - mu_0||_2 / ||sd_0||_2, over features",
            range="0 or more, 0 in the first window; " + _NULL,
            reading="The last one is bn_drift.mean of the layer.",
            source=TID,
            see_also=("bn_drift.mean",),
            columns=("BN mean moved by",),
        ),
        _entry(
            name="over_steps.drift_variance",
            title="drift of the features' spreads, over steps",
            definition="How far the features' standard deviations are from those in the first window.",
            formula="drift_variance[w] = ||sd_w - sd_0||_2 / ||sd_0||_2, over features",
            range="0 or more, 0 in the first window; " + _NULL,
            reading="The last one is bn_drift.variance of the layer.",
            source=TID,
            see_also=("bn_drift.variance",),
            columns=("BN sd moved by",),
        ),
        _entry(
            name="over_steps.ln_variance",
            title="LayerNorm's variance, over steps",
            definition="The mean of the tokens' own variances in each window, as LayerNorm takes them.",
            formula="ln_variance[w] = mean over V of var[n,t]",
            range="0 or more; " + _NULL,
            reading="It grows with the residual stream in pre-norm models.",
            source=LAYERNORM,
            see_also=("token.variance",),
            columns=("LN variance last",),
        ),
        _entry(
            name="over_steps.bn_agreement",
            title="agreement with BN, over steps",
            definition="The cosine between the layer's own output and what BatchNorm would give with the "
            "window's statistics.",
            formula="bn_agreement[w] = agreement.feature of the window",
            range="any number from -1 to 1; " + _NULL,
            reading="1: in this window one mean and variance per feature would do what the layer does.",
            see_also=("agreement.feature",),
            columns=("agreement last",),
        ),
        _entry(
            name="over_steps.bn_gap_mean",
            title="batch means against running means",
            definition="The distance of the features' means in a window from BatchNorm's running means over "
            "the windows before, relative to the running standard deviations. An evaluation is compared with "
            "the running statistics of training.",
            formula="bn_gap_mean[w] = ||mu_w - running mean||_2 / ||running sd||_2; "
            "running = (1 - momentum) running + momentum batch",
            range="0 or more; null in the first window",
            reading="The noise that BatchNorm would train with, and its error at inference. Windows of every "
            "step give BatchNorm's own running statistics; those of rarer windows lag behind.",
            source=TID,
            see_also=("tid.mean",),
        ),
        _entry(
            name="over_steps.bn_gap_variance",
            title="batch spreads against running spreads",
            definition="The same distance of the features' standard deviations.",
            formula="bn_gap_variance = ||sd_w - running sd||_2 / ||running sd||_2",
            range="0 or more; null in the first window",
            reading="0.1: the spreads are off by a tenth, root mean square.",
            source=TID,
            see_also=("tid.variance", "over_steps.bn_gap_mean"),
        ),
        _entry(
            name="over_steps.input_rms",
            title="size of the input, over steps",
            definition="The root mean square of the layer's input over tokens and features.",
            formula="input_rms[w] = sqrt(mean over V and d of x^2)",
            range="0 or more; " + _NULL,
            reading="At a norm that reads the residual stream, the size of that stream.",
            see_also=("over_steps.ln_variance",),
        ),
        _entry(
            name="over_steps.largest_input",
            title="largest value of the input, over steps",
            definition="The largest |x| of the layer's input in each window.",
            formula="largest_input[w] = max over V and d of |x|",
            range="0 or more; " + _NULL,
            reading="extremes.input of a window has its feature, position and token.",
            see_also=("extremes.input", "over_steps.input_rms"),
        ),
    ),
)
