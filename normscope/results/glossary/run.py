"""Glossary entries on the model and its inputs."""

from functools import partial

from normscope.results.glossary.entry import OWN, Entry, Topic

_entry = partial(Entry, source=OWN, commands=("inspect",))

RUN = Topic(
    "The model and the run",
    (
        _entry(
            name="model",
            title="which model was measured",
            definition="The model's id, revision, commit, class, dtype and device, and its size.",
            formula="parameters = sum over weights of their sizes",
            range="words, and one count",
            reading="The commit, where the Hub gave one, identifies the weights permanently.",
            commands=("inspect", "layers"),
            see_also=("model.parameters",),
        ),
        _entry(
            name="model.parameters",
            title="how many weights the model holds",
            definition="The elements of all parameters of the model, trained or frozen, each tensor once.",
            formula="parameters = sum over parameter tensors of their elements",
            range="0 or more",
            reading="Buffers, such as a BatchNorm's running statistics, are not among them.",
            source="PyTorch: Module.parameters",
            commands=("inspect", "layers"),
            see_also=("parameters",),
        ),
        _entry(
            name="run",
            title="what was fed to the model",
            definition="How many texts and tokens the numbers rest on, and how they were batched.",
            formula="padding_share = 1 - real tokens / token slots; the other numbers are counts",
            range="counts of 0 or more, one share, seconds",
            reading="Compare layers of two reports only where their texts, length and special tokens agree.",
            see_also=("count",),
        ),
        _entry(
            name="run.texts",
            title="how many texts were measured",
            definition="The texts that were run: not blank, and with at least one token that counts. Under "
            "normscope.watch, the samples whose first token was seen.",
            formula="texts = samples n with at least one valid token",
            range="0 or more",
            reading="Each text is one sample of every statistic.",
            see_also=("run.skipped_texts", "position.count"),
            columns=("texts",),
        ),
        _entry(
            name="run.tokens",
            title="how many tokens count",
            definition="The valid tokens that the model itself was given. Special tokens count unless they "
            "were excluded; padding never does. An encoder-decoder's are those of its encoder.",
            formula="tokens = |V|, before tokens with NaN or infinity are left out",
            range="0 or more",
            reading="What most layers saw; count has the number of each layer.",
            see_also=("count", "run.padding_share"),
        ),
        _entry(
            name="run.unknown_tokens",
            title="how many tokens are the unknown one",
            definition="The tokens that count and are the tokenizer's unknown token, which stands for "
            "text that it cannot read.",
            formula="unknown_tokens = tokens in V whose id is the unknown token's",
            range="0 or more; null where the batches were the caller's, or of images and sounds",
            reading="To the model all of them are the same token. From 5% on a warning says that the model "
            "cannot read the texts.",
            source="transformers: unk_token_id",
            see_also=("run.tokens",),
        ),
        _entry(
            name="run.repeated_texts",
            title="how many texts repeat an earlier one",
            definition="The measured texts that equal an earlier one, character by character. With --unique "
            "there are none. Parts of a corpus that are merged each count their own.",
            formula="repeated_texts = texts n that equal a text m < n",
            range="0 to run.texts; null where the batches were the caller's, or of images and sounds",
            reading="Each counts once more in every statistic, and intervals over texts are too narrow. From "
            "5% on a warning says so. Repeats of the first 16,777,216 different texts are found.",
            see_also=("run.texts", "run.skipped_texts"),
        ),
        _entry(
            name="run.selection",
            title="the rules that leave tokens out",
            definition="What --exclude-tokens, --skip-first, --drop-massive, --chat-template and --roles ask "
            "for. The chat template and the cut come first, then the rules. What is left out "
            "still runs through the model and takes a position, as special tokens do.",
            formula="V = real tokens that no rule leaves out",
            range="ids, a number of positions, yes or no, roles; null without such a rule",
            reading="Compare two reports only where these agree. An answer's tokens are those that the "
            "template marks, or else those that it adds behind its prompt.",
            see_also=("run.left_out", "run.tokens"),
        ),
        _entry(
            name="run.selection.exclude_tokens",
            title="which token ids are left out",
            definition="The ids that --exclude-tokens names, by id or by text. A text is an entry of the "
            "vocabulary, or else what the tokenizer reads as one token.",
            formula="token (n, t) is left out if its id is among them",
            range="0 or more, below the size of the vocabulary",
            reading="The start token that a decoder reads is left out by its id, too.",
            see_also=("run.left_out.excluded",),
        ),
        _entry(
            name="run.selection.skip_first",
            title="how many first positions are left out",
            definition="The number K of --skip-first: the first K real tokens of every text, of an encoder's "
            "and of a decoder's alike.",
            formula="token (n, t) is left out if t < K",
            range="0 or more",
            reading="1 leaves out where attention sinks are in most language models.",
            see_also=("run.left_out.first", "first_position"),
        ),
        _entry(
            name="run.left_out",
            title="how many tokens the rules left out",
            definition="The real tokens of the texts that were run and that do not count. A token counts "
            "under the first rule that leaves it out. Of an encoder-decoder they are those of its "
            "encoder.",
            formula="sum of left_out = real tokens - tokens",
            range="0 or more each; null without a rule",
            reading="Texts of which nothing is left are in run.skipped_texts, not here.",
            see_also=("run.selection", "run.skipped_texts"),
        ),
        _entry(
            name="run.left_out.special",
            title="special tokens that were left out",
            definition="Those of --special-tokens exclude.",
            formula="real tokens with a special id",
            range="0 or more",
            reading="One or two for each text, where a template adds them.",
            see_also=("run.left_out",),
        ),
        _entry(
            name="run.left_out.excluded",
            title="tokens of excluded ids",
            definition="Those of --exclude-tokens that no earlier rule left out.",
            formula="real tokens with an id in exclude_tokens",
            range="0 or more",
            reading="0 hints at another id, or at texts without this token.",
            see_also=("run.selection.exclude_tokens",),
        ),
        _entry(
            name="run.left_out.first",
            title="tokens at first positions",
            definition="Those of --skip-first that no earlier rule left out.",
            formula="real tokens with t < skip_first",
            range="0 or more",
            reading="Fewer where texts are shorter, or another rule was first.",
            see_also=("run.selection.skip_first",),
        ),
        _entry(
            name="run.left_out.roles",
            title="tokens of other roles",
            definition="The tokens of conversations that are not of the roles of --roles, and that no "
            "earlier rule left out.",
            formula="real tokens of no message with such a role",
            range="0 or more",
            reading="Of a chat, most tokens may be the user's.",
            see_also=("run.selection",),
        ),
        _entry(
            name="run.left_out.massive",
            title="tokens with a massive activation",
            definition="With --drop-massive: the tokens of which an element is massive at the input of any "
            "normalization layer of the model. A run of each batch before the measured one finds "
            "them. The median is over the tokens of the text that the other rules leave in.",
            formula="|x[n,t,d]| > 100 and >= 1000 median |x[n]| at some layer",
            range="0 or more",
            reading="They are left out at all layers, so that all layers have the same tokens.",
            source="Sun et al. 2024, Massive Activations in Large Language Models, arXiv 2402.17762",
            see_also=("outliers.massive", "run.left_out"),
        ),
        _entry(
            name="run.skipped_texts",
            title="how many texts were left out",
            definition="The texts that were blank, had no token left to count, or, with --unique, repeat "
            "an earlier one.",
            formula="skipped_texts = texts read - texts",
            range="0 or more",
            reading="Many of them hint at a wrong column or an empty file.",
            see_also=("run.texts",),
            columns=("skipped",),
        ),
        _entry(
            name="run.truncated_texts",
            title="how many texts were cut",
            definition="The measured texts that had more tokens than max_length and lost the rest.",
            formula="truncated_texts = texts of more than max_length tokens",
            range="0 to run.texts",
            reading="Where many were cut, late positions hold beginnings of long texts only.",
            see_also=("run.max_length",),
            columns=("truncated",),
        ),
        _entry(
            name="run.positions",
            title="the longest text, in positions",
            definition="One more than the last position that holds a valid token. Real tokens are numbered "
            "from 0, so padding on the left shifts nothing.",
            formula="positions = 1 + largest t in V",
            range="0 or more",
            reading="The length of most arrays of the position view. Padding does not add to it. With "
            "special tokens left out, tables name the last position instead.",
            see_also=("position", "run.max_length"),
            columns=("longest",),
        ),
        _entry(
            name="run.position_bins",
            title="the bins that late positions share",
            definition="Where tables of every position would take over --table-memory, positions 0 to k - 1 "
            "stand alone, k to 2k - 1 share bins of 2, the next 2k bins of 4, and so on. A view by position "
            "takes all tokens of a bin for tokens of one position.",
            formula="bins: {0}, ..., {k-1}, {k, k+1}, ..., {2k, ..., 2k+3}, ...",
            range="0 or more, the first position of each; null where all stand alone",
            reading="The bins follow from the model and the options, not from the texts. Only views by "
            "position depend on them: position, agreement.position and explained.position.",
            see_also=("position.first", "tables.exact", "run.max_length"),
        ),
        _entry(
            name="run.max_length",
            title="the maximum number of tokens of a text",
            definition="Longer texts were cut to this: --max-length, or else the model's own limit, "
            "after its tokenizer and its configuration.",
            formula="max_length = --max-length, or else the limit of the model",
            range="1 or more; null where neither is known",
            reading="Special tokens are within it.",
            source="transformers: model_max_length, max_position_embeddings",
            see_also=("run.truncated_texts",),
        ),
        _entry(
            name="run.batch_size",
            title="texts per batch in the run",
            definition="How many texts went through the model at a time. It is 1 where padding could not be "
            "distinguished from tokens, whatever --batch-size says.",
            formula="batch_size = --batch-size, or 1",
            range="1 or more; null where the batches were the caller's, or of --batch-size auto",
            reading="No statistic depends on it: it is about speed and memory.",
            see_also=("run.batches", "batch_size"),
        ),
        _entry(
            name="run.batch_tokens",
            title="the maximum of token slots in a batch",
            definition="With --batch-size auto: the maximum of token slots in a batch, padding included. It "
            "is smaller after a batch did not fit in memory.",
            formula="B T <= batch_tokens, or B = 1",
            range="1 or more; null where the number of texts was fixed",
            reading="No statistic depends on it: it is about speed and memory.",
            see_also=("run.batch_size",),
        ),
        _entry(
            name="run.batches",
            title="how many forward passes there were",
            definition="The forward passes of the model that were measured; the one that finds the axes of "
            "the layers' inputs is not counted.",
            formula="batches = forward passes of the whole model",
            range="0 or more",
            reading="A generation takes one for each step.",
            see_also=("run.batch_size", "calls"),
        ),
        _entry(
            name="run.padding_share",
            title="share of the token slots that is padding",
            definition="Padding over all slots of all batches, which hold real tokens and padding. Special "
            "tokens that were excluded are not padding.",
            formula="padding_share = 1 - real tokens / sum over batches of B T",
            range="0 to 1; null where the model has no tokens",
            reading="The share of wasted work; padding enters no statistic. Batches by length keep it small.",
            see_also=("padding_share",),
            columns=("padding",),
        ),
        _entry(
            name="run.seconds",
            title="how long the run took",
            definition="Wall-clock seconds of the run. Loading is within it only where normscope.inspect "
            "was given a model's name; under normscope.watch it is the time its context was open.",
            formula="seconds = end - start",
            range="0 or more",
            reading="It differs from run to run, as no statistic does beyond rounding.",
            see_also=("run.tokens",),
        ),
        _entry(
            name="provenance",
            title="when, how and from what it was made",
            definition="The date in UTC, the command without secrets, the versions of normscope, Python, "
            "torch and transformers, the model's commit on the Hub or a digest of its weights, the digest of "
            "the texts, and the seed. It is null in results of versions that did not write it.",
            formula="weights_sample = SHA-256 of names, dtypes, shapes, 1,024 elements; "
            "texts_sha256 = SHA-256 of the texts, each with a line feed",
            range="words, a count and a seed",
            reading="A paper states it. The digest of a file with a text in each line, all of them read, is "
            "that of sha256sum. Merged parts have no digest of their texts.",
            see_also=("provenance.texts_read", "provenance.seed"),
        ),
        _entry(
            name="provenance.texts_read",
            title="how many texts were read",
            definition="The texts that were read, blank ones included, up to the limit. Their digest covers "
            "exactly these.",
            formula="texts_read = texts that the source gave",
            range="0 or more; null where the batches were the caller's, or of images and sounds",
            reading="Of these, run.texts were measured.",
            see_also=("run.texts", "run.skipped_texts"),
        ),
        _entry(
            name="provenance.seed",
            title="the random seed",
            definition="The seed of all random choices of the command.",
            formula="seed = --seed",
            range="0 or more; null where nothing is random",
            reading="The same seed, model and texts give the same choices.",
        ),
    ),
)
