"""Glossary entries on a layer and on how well it was understood."""

from functools import partial

from normscope.results.glossary.entry import OWN, Entry, Topic

_entry = partial(Entry, source=OWN, commands=("inspect",))

LAYER = Topic(
    "What a layer is, and whether it was understood",
    (
        _entry(
            name="index",
            title="the layer's number in the model",
            definition="Its place among all normalization layers, in the order in which the model registers "
            "its modules; layers that were not chosen count, too.",
            formula="index = 0, 1, 2, ...",
            range="0 or more",
            reading="It stays the same whatever --layer and --exclude choose.",
            source="PyTorch: Module.named_modules",
            commands=("inspect", "layers"),
            see_also=("place",),
            columns=("#",),
            brief="the layer's number in the model",
        ),
        _entry(
            name="kind",
            title="which formula the layer follows",
            definition="The formula that turns the layer's first real input into its real output. layers "
            "tries one layer of each class alone, on random rows. PyTorch's own batch, group and instance "
            "norms are recognised by their class.",
            formula="layernorm: y = (x - mean_d x) / sqrt(var_d x + eps); "
            "rmsnorm: y = x / sqrt(mean_d(x^2) + eps); "
            "l2norm: y = x / max(||x||_2, eps); "
            "batchnorm: y = (x - mean[d]) / sqrt(var[d] + eps); "
            "groupnorm, instancenorm: the same, per sample and group",
            range="layernorm, rmsnorm, l2norm, batchnorm, groupnorm, instancenorm, other",
            reading="A layer is other when none of the formulas gives its output; then only its input is "
            "measured.",
            source="PyTorch: LayerNorm, RMSNorm, BatchNorm1d, GroupNorm, InstanceNorm1d, normalize",
            commands=("inspect", "layers"),
            see_also=("own_error", "eps", "affine"),
            brief="the formula: layernorm, rmsnorm, ...; detected from what the layer does, not its name",
        ),
        _entry(
            name="features",
            title="how many features a row has",
            definition="D, the number of features that each row of the layer's input has: the hidden size, "
            "the size of one head in a per-head layer, the channels of a convolution.",
            formula="D = number of d",
            range="1 or more; null in layers where only an input determines it",
            reading="LayerNorm averages over D numbers, BatchNorm keeps D pairs.",
            commands=("inspect", "layers"),
            see_also=("parameters",),
            brief="how many features each row of the layer's input has",
        ),
        _entry(
            name="eps",
            title="the constant added to the variance",
            definition="The constant that keeps the layer's division finite. Where a module holds none, it "
            "is the one of those tried that gives its real output.",
            formula="y = (x - mean) / sqrt(variance + eps); l2norm: y = x / max(||x||_2, eps)",
            range="0 or more; null where it is not known",
            reading="It matters where variances come near it. Views are normalised with the layer's own.",
            source="PyTorch: LayerNorm, BatchNorm1d, RMSNorm (whose None is float32's machine epsilon)",
            commands=("inspect", "layers"),
            see_also=("kind", "token.variance"),
            brief="the constant added to the variance",
        ),
        _entry(
            name="affine",
            title="the scale and shift after the formula",
            definition="Which learned vectors the layer applies to y, by feature.",
            formula="weight+bias: y * weight + bias; weight: y * weight; 1+weight: y * (1 + weight)",
            range="none, weight, bias, weight+bias; with 1+weight for weight where that is how it scales",
            reading="Under 1+weight (Gemma) a weight of 0 leaves a feature unchanged; otherwise it sets "
            "it to 0.",
            source="PyTorch: LayerNorm (elementwise_affine); Gemma in transformers for 1+weight",
            commands=("inspect", "layers"),
            see_also=("kind", "outliers.affine_outliers"),
            brief="the scale and shift after the formula; 1+weight scales by 1 + w",
        ),
        _entry(
            name="parameters",
            title="how many weights the layer holds",
            definition="The elements of the parameters of this one normalization layer.",
            formula="parameters = elements of weight + elements of bias",
            range="0 or more",
            reading="2 D for a LayerNorm with its affine, D for an RMSNorm, 0 without one.",
            source="PyTorch: Module.parameters",
            commands=("layers",),
            see_also=("model.parameters", "affine"),
            brief="how many weights the layer holds",
        ),
        _entry(
            name="place",
            title="where in the model the layer stands",
            definition="Detected from the model's structure and its Python code: outside the repeated "
            "blocks, or in one, before or after what the block adds to its input.",
            formula="pre-norm: x + f(norm(x)); "
            "post-norm: norm(x + f(x)) or x + norm(f(x)); "
            "per-head: in attention, as wide as one head",
            range="embeddings, pre-norm, post-norm, per-head, final, head, other",
            reading="A pre-norm sees the sum of all blocks so far, a post-norm only that of its own block.",
            source="Xiong et al. 2020, On Layer Normalization in the Transformer, arXiv 2002.04745",
            commands=("layers",),
            see_also=("kind",),
            brief="where in the model the layer stands",
        ),
        _entry(
            name="readers",
            title="what reads the layer's output",
            definition="The modules that multiply the layer's output with a weight of their own (linears), "
            "what else reads it (others), and why a scale cannot move from the layer into its readers "
            "(obstacle). From one forward without weights, of a text without padding or of an image.",
            formula="no obstacle: (y diag(s)) (diag(1/s) W) = y W for every reader",
            range="names of modules; null without --readers",
            reading="A layer without an obstacle can be folded, and smoothed for quantization.",
            source="Xiao et al. 2023, SmoothQuant, arXiv 2211.10438; Lin et al. 2024, AWQ, arXiv 2306.00978; "
            "normscope's own",
            commands=("layers",),
            see_also=("place",),
            columns=("read by",),
            brief="modules that multiply the layer's output with a weight of their own",
        ),
        _entry(
            name="calls",
            title="how often the layer ran",
            definition="The calls of this layer that were measured. Calls with another number of features "
            "are left out, and a warning says so.",
            formula="calls = forward passes of this module",
            range="0 or more",
            reading="0: the layer was never reached. More than run.batches: it is shared, or runs in a "
            "loop, and sees each token as often.",
            see_also=("run.batches", "calls_per_forward", "count"),
            brief="how often the layer ran",
        ),
        _entry(
            name="call",
            title="which of a forward's calls it is",
            definition="The number of this call, where the calls of one module in a forward are measured "
            "separately.",
            formula="call = 1, 2, ... up to calls_per_forward",
            range="1 or more; null where all calls are pooled",
            reading="A module that is used several times sees another input each time, as in ALBERT.",
            see_also=("calls_per_forward", "calls"),
        ),
        _entry(
            name="calls_per_forward",
            title="how often one forward runs the layer",
            definition="The maximum number of calls of this layer in one forward pass of the model.",
            formula="calls_per_forward = max over forwards of calls in it",
            range="0 or more",
            reading="Above 1 without a call number: the statistics pool inputs from several places.",
            see_also=("call", "calls", "count"),
        ),
        _entry(
            name="layout",
            title="the axes of the layer's input",
            definition="The meaning of each axis, in order: B text, T position, H head, D feature, N the "
            "layer's own sequence, such as pooled positions. A run on texts of different sizes shows it.",
            formula="(B, T, D): x[n,t,d] is element d of token t of text n",
            range="such as (B, T, D); null where the axes are unknown, or it never ran",
            reading="With (B, D) there are no positions; with N, padding counts where there is any.",
            see_also=("features", "count"),
            brief="the axes of the layer's input: B text, T position, H head, D feature",
        ),
        _entry(
            name="count",
            title="how many rows the layer's numbers rest on",
            definition="The rows of the layer's input that count: its valid tokens, once for each call and, "
            "in a per-head layer, once for each head.",
            formula="count = |V|",
            range="0 or more",
            reading="With one call a batch and no heads it is run.tokens less nonfinite.",
            see_also=("run.tokens", "nonfinite", "calls"),
            columns=("tokens",),
        ),
        _entry(
            name="nonfinite",
            title="rows left out for NaN or infinity",
            definition="The rows with a NaN or an infinite element, or whose variance is beyond float64. "
            "They would spoil every sum, so they are left out of V.",
            formula="nonfinite = rows (n, t) whose variance over d is not finite",
            range="0 or more",
            reading="Above 0 the model overflows somewhere before this layer: try --dtype float32.",
            see_also=("count",),
        ),
        _entry(
            name="own_error",
            title="how well the layer was understood",
            definition="The largest difference, over all rows and features, between the output by the "
            "detected formula and the layer's real output, relative to the root mean square of the real "
            "output. Where each head has its own affine, both are compared before it.",
            formula="own_error = max |affine(y) - output| / sqrt(mean of output^2)",
            range="0 or more; null where no formula fits",
            reading="1e-6 to 1e-5 in float32, 0.01 to 0.1 in bfloat16. Above 1e-3 and 64 machine epsilons "
            "of the output's dtype a warning says that y and all numbers from it are approximate.",
            see_also=("kind", "eps", "affine"),
            brief="the largest difference between our formula and the module's real output, relative to "
            "its rms",
        ),
    ),
)
