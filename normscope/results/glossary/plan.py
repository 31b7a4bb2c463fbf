"""Glossary entries on the expected cost of a run: `normscope inspect --dry-run`."""

from functools import partial

from normscope.results.glossary.entry import OWN, Entry, Topic

_entry = partial(Entry, source=OWN, commands=("inspect",))

PLAN = Topic(
    "What a run would take",
    (
        _entry(
            name="normalization_layers",
            title="how many layers would be measured",
            definition="The normalization layers that have hooks, or their calls, with --per-call.",
            formula="normalization_layers = layers left by --exclude and --layer",
            range="1 or more",
            reading="Memory of the tables grows with it; normscope layers names them.",
            see_also=("tables",),
        ),
        _entry(
            name="tables",
            title="the tables over positions and features",
            definition="Each layer's memory while it runs: a cell per position and feature, or per bin of "
            "late positions and feature, where all of them would take more than --table-memory.",
            formula="bytes = rows (sum over layers of (72 D + 1616) + 72 max D)",
            range="counts of 0 or more",
            reading="It is all of a run that grows with the longest text, and nothing grows with the corpus.",
            see_also=("run.position_bins",),
        ),
        _entry(
            name="tables.bytes",
            title="what the tables take at most",
            definition="The bytes of the tables of all layers once a text has reached the last position.",
            formula="bytes = rows (sum over layers of (72 D + 1616) + 72 max D)",
            range="0 or more",
            reading="It is at most --table-memory. Short texts take less: tables grow as positions come.",
            see_also=("tables.rows",),
        ),
        _entry(
            name="tables.rows",
            title="positions and bins of a table",
            definition="The rows of a table that the longest texts fill.",
            formula="rows = k + (k/2) log2(positions / k); without bins rows = positions",
            range="0 or more",
            reading="As many as positions where every one stands alone.",
            see_also=("tables.exact", "tables.positions"),
        ),
        _entry(
            name="tables.positions",
            title="for how many positions tables are planned",
            definition="The longest text: --max-length, or the limit of the model and its tokenizer.",
            formula="positions = run.max_length",
            range="1 or more; null where nothing limits texts, then 1,048,576 are planned for",
            reading="A lower --max-length keeps more positions apart.",
            see_also=("run.max_length",),
        ),
        _entry(
            name="tables.exact",
            title="how many positions stand alone",
            definition="The largest even k for which positions 0 to k - 1 alone and bins of 2, 4, 8, ... "
            "from k on fit --table-memory.",
            formula="exact = largest k with bytes <= --table-memory",
            range="2 or more; null where every position does",
            reading="It follows from the model and the options alone, so that parts of a corpus merge.",
            see_also=("run.position_bins",),
        ),
        _entry(
            name="corpus",
            title="the texts to come",
            definition="How many texts and tokens there are: counted, or estimated from the first 4,096.",
            formula="tokens = tokens of the sample / share of the texts in it",
            range="counts of 0 or more; null where unknown",
            reading="corpus.counted tells a count from an estimate.",
            see_also=("run",),
        ),
        _entry(
            name="corpus.texts",
            title="how many texts are to come",
            definition="Counted where there are 4,096 or fewer; of more, from the share of the files' bytes "
            "that the first 4,096 are.",
            formula="texts = texts of the sample + texts left",
            range="0 or more; null for a pipe of more than 4,096",
            reading="corpus.counted says which of the two it is.",
            see_also=("corpus.tokens", "run.texts"),
        ),
        _entry(
            name="corpus.tokens",
            title="how many tokens are to come",
            definition="The valid tokens of the texts that were tokenised, over the share that they are.",
            formula="tokens = tokens of the sample / share of the texts in it",
            range="0 or more; null for a pipe of more than 4,096",
            reading="A sample from the beginning: later files may hold longer texts.",
            see_also=("corpus.texts", "run.tokens"),
        ),
        _entry(
            name="batch",
            title="the batch that was timed",
            definition="One batch of middling length, run with the hooks on.",
            formula="seconds = end - start; the other numbers are counts",
            range="counts of 1 or more, and seconds",
            reading="What the run is expected to take rests on it.",
            see_also=("expected_seconds",),
        ),
        _entry(
            name="batch.texts",
            title="texts of the batch that was timed",
            definition="A batch of middling length, after one text that pays for what only comes once.",
            formula="texts = B",
            range="1 or more",
            reading="See --batch-size.",
            see_also=("batch.seconds",),
        ),
        _entry(
            name="batch.tokens",
            title="tokens of the batch that was timed",
            definition="Its valid tokens, padding left out.",
            formula="tokens = |V| of the batch",
            range="1 or more",
            reading="Over batch.seconds it is the speed of the run.",
            see_also=("batch.seconds",),
        ),
        _entry(
            name="batch.seconds",
            title="how long the batch took",
            definition="Wall-clock seconds of one forward with the hooks on.",
            formula="seconds = end - start",
            range="0 or more",
            reading="One measurement, on a machine that may do other things.",
            see_also=("expected_seconds",),
        ),
        _entry(
            name="flops",
            title="work per token",
            definition="Floating-point operations of the model's matrix products over the token slots of a "
            "text; a product and an addition are two.",
            formula="flops = operations of a forward / (B T)",
            range="0 or more",
            reading="About two for each weight outside the embeddings, and more where attention is long.",
            source="PyTorch: torch.utils.flop_counter.FlopCounterMode",
            see_also=("model.parameters",),
        ),
        _entry(
            name="expected_seconds",
            title="how long the run may take",
            definition="The timed batch's seconds per token slot, times the slots to come, with padding as "
            "in the batches of the sample.",
            formula="expected_seconds = seconds / (B T) x slots to come",
            range="0 or more; null where the size of the corpus is unknown",
            reading="A guess from one batch: good to a factor, not to a percent.",
            see_also=("batch.seconds", "run.seconds"),
        ),
    ),
)
