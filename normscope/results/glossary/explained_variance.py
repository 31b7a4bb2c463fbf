"""Glossary entries on the variance that position, text and token explain."""

from functools import partial

from normscope.results.glossary.entry import HEIMERSHEIM, KELLEY, Entry, Topic

_entry = partial(Entry, source=KELLEY, commands=("inspect",))

_ETA2 = "0 to 1; null where x does not vary"
_EPSILON2 = "epsilon2 = 1 - (1 - eta2) (|V| - 1) / (|V| - G)"
_RANGE = "-(G - 1) / (|V| - G) to 1; null where every token is its own group"

EXPLAINED = Topic(
    "What position, text and word explain of a layer's input",
    (
        _entry(
            name="explained",
            title="what groups of tokens explain",
            definition="The share of the variance of x, all features together, that lies between groups of "
            "tokens: those at one position, of one sample, of one word.",
            formula="between groups / (between + within groups), sums of squares",
            range="shares",
            reading="eta2 is the share in these texts, epsilon2 the same without its bias: read epsilon2.",
            see_also=("explained.position.epsilon2", "explained.sequence.epsilon2"),
        ),
        _entry(
            name="explained.position",
            title="what the position explains",
            definition="The groups are the positions: how far words at the same position are the same "
            "feature.",
            formula="one-way ANOVA of the D-vectors x[n,t], G = positions with a token",
            range="two shares; null where a layer has no positions",
            reading="In BERT-like models [CLS] and separators carry most of it: compare --special-tokens "
            "exclude.",
            see_also=("agreement.position_feature", "explained.sequence"),
        ),
        _entry(
            name="explained.position.eta2",
            title="eta squared of the position",
            definition="The share of the sum of squares that lies between positions, not within them. "
            "mean_t is the mean vector over the samples at t, mean that over all tokens.",
            formula="eta2 = 1 - SSW / SST; "
            "SSW = sum_V ||x[n,t] - mean_t||^2; "
            "SST = sum_V ||x[n,t] - mean||^2",
            range=_ETA2,
            reading="Too high where positions rest on few samples: even noise gives about (G - 1) / (|V| - "
            "1).",
            see_also=("explained.position.epsilon2",),
        ),
        _entry(
            name="explained.position.epsilon2",
            title="epsilon squared of the position",
            definition="eta2 corrected for the number of groups; G is the number of positions that hold a "
            "token.",
            formula=_EPSILON2,
            range=_RANGE,
            reading="0: position explains no more than random groups would. 1: it explains all. Below 0 is "
            "less than random groups give. 'The same position is the same feature' is true to this extent.",
            see_also=("explained.position.eta2", "agreement.position_feature"),
            columns=("position explains",),
            brief="share of the input's variance that goes with the position",
        ),
        _entry(
            name="explained.sequence",
            title="what the text explains",
            definition="The groups are the samples: how similar the tokens of one text are.",
            formula="one-way ANOVA of the D-vectors x[n,t], G = samples with a token",
            range="two shares; null where a layer has no positions",
            reading="The tokens of a text share its topic, which InstanceNorm would remove.",
            see_also=("instance", "explained.position"),
        ),
        _entry(
            name="explained.sequence.eta2",
            title="eta squared of the text",
            definition="The share of the sum of squares that lies between samples, not within them. mean_n "
            "is the mean vector over the tokens of sample n, mean that over all tokens.",
            formula="eta2 = 1 - SSW / SST; "
            "SSW = sum_V ||x[n,t] - mean_n||^2; "
            "SST = sum_V ||x[n,t] - mean||^2",
            range=_ETA2,
            reading="Too high where texts are short: a text of one token explains itself.",
            see_also=("explained.sequence.epsilon2",),
        ),
        _entry(
            name="explained.sequence.epsilon2",
            title="epsilon squared of the text",
            definition="eta2 corrected for the number of groups; G is the number of samples that hold a "
            "token, each counted again where a layer runs again.",
            formula=_EPSILON2,
            range=_RANGE,
            reading="0: the tokens of one text are as different as any tokens. 1: all tokens of a text "
            "are the same.",
            see_also=("explained.sequence.eta2", "agreement.instance"),
            columns=("text explains",),
            brief="the same for the text that the token is in",
        ),
        _entry(
            name="explained.token",
            title="what the word explains",
            definition="The groups are the token ids: how far the same word is the same vector, wherever it "
            "is.",
            formula="one-way ANOVA of the D-vectors x[n,t], G = token ids seen",
            range="shares; null where it was not asked for",
            reading="High at the embeddings by construction, falling where context takes over.",
            see_also=("explained.token.coverage", "explained.position"),
        ),
        _entry(
            name="explained.token.eta2",
            title="eta squared of the word",
            definition="The share of the sum of squares that lies between token ids, not within them. "
            "mean_w is the mean vector over the tokens with the id w of that token, mean that over all "
            "tokens.",
            formula="eta2 = 1 - SSW / SST; "
            "SSW = sum_V ||x[n,t] - mean_w||^2; "
            "SST = sum_V ||x[n,t] - mean||^2",
            range=_ETA2,
            reading="Much too high where most words are rare: one seen once explains itself.",
            see_also=("explained.token.epsilon2",),
        ),
        _entry(
            name="explained.token.epsilon2",
            title="epsilon squared of the word",
            definition="eta2 corrected for the number of groups; G is the number of token ids.",
            formula=_EPSILON2,
            range=_RANGE,
            reading="Compared with explained.position.epsilon2 it says whether word or position decides the "
            "vector.",
            see_also=("explained.token.eta2", "explained.position.epsilon2"),
            columns=("word explains",),
            brief="the same for the token's id, with --words",
        ),
        _entry(
            name="explained.token.coverage",
            title="share of the tokens that it rests on",
            definition="The share of the valid tokens whose id was kept: memory for token ids is bounded.",
            formula="coverage = valid tokens of the kept ids / |V|",
            range="0 to 1",
            reading="Below 1, what the word explains is about the kept words only.",
            source="normscope's own",
            see_also=("explained.token",),
        ),
        _entry(
            name="first_position",
            title="the size of the first token and of the rest",
            definition="The root mean square of centred tokens, each less its own mean over d, at position "
            "0 and after it.",
            formula="rms = sqrt(mean over n of var[n,0])",
            range="three numbers; null where a layer has no positions",
            reading="Methods that remove LayerNorm from a model must freeze the first token's scale "
            "separately.",
            source=HEIMERSHEIM,
            see_also=("position.token_variance", "outliers.massive"),
        ),
        _entry(
            name="first_position.rms",
            title="the root mean square at position 0",
            definition="Over samples and features of the first token, less the token's own mean over "
            "features.",
            formula="rms = sqrt((1/n_0) sum_n var[n,0])",
            range="0 or more; null where nothing at position 0 counts",
            reading="With --special-tokens exclude a BERT-like model has nothing there: [CLS] still takes "
            "the position.",
            source=HEIMERSHEIM,
            see_also=("token.variance", "first_position.rest_rms"),
        ),
        _entry(
            name="first_position.rest_rms",
            title="the root mean square after position 0",
            definition="Over features and all valid tokens at positions 1 and later, each less its own mean "
            "over features.",
            formula="rest_rms = sqrt(mean over V with t >= 1 of var[n,t])",
            range="0 or more; null where no text has a second token",
            reading="LayerNorm divides an ordinary token by about this.",
            source=HEIMERSHEIM,
            see_also=("token.variance", "first_position.rms"),
        ),
        _entry(
            name="first_position.ratio",
            title="the first token's scale, in ordinary tokens'",
            definition="The root mean square at position 0 over that at the positions after it.",
            formula="ratio = rms / rest_rms",
            range="0 or more; null where either is",
            reading="Near 1: the first token is like any other. Far above: it is an attention sink, as "
            "in the middle layers of GPT-2, and no single scale fits both.",
            source=HEIMERSHEIM,
            see_also=("explained.position",),
            columns=("first position rms ratio",),
        ),
    ),
)
