"""One entry of the glossary, its notation, and the sources that entries share."""

from dataclasses import asdict, dataclass, field
from typing import Any

EXPLAIN_SCHEMA = "normscope.explain/1"

NOTATION = (
    "n: sample, t: position, d: feature, of D. V: the valid tokens (n, t): no padding, no excluded "
    "special token, all finite; |V| of them, n_t at position t, T_n in sample n. x enters the layer, "
    "y leaves its normalization, before scale and shift. Variances are biased."
)

OWN = "normscope's own"
TID = "Wang et al. 2022 (NeurIPS), Training Inference Discrepancy, arXiv 2210.05153"
GUPTA = "Gupta et al. 2024, Geometric Interpretation of Layer Normalization, arXiv 2409.12951"
# Sources of several entries, by their names in the files of topics.
SOURCES = {
    "OWN": OWN,
    "TID": TID,
    "GUPTA": GUPTA,
    "BATCHNORM": "Ioffe & Szegedy 2015, Batch Normalization, arXiv 1502.03167; PyTorch: BatchNorm1d",
    "BERT": "Devlin et al. 2018, BERT, arXiv 1810.04805, for the masked tokens",
    "BUSTERS": "Kovaleva et al. 2021, BERT Busters, arXiv 2105.06990",
    "CHAN": "Chan, Golub & LeVeque 1979, Updating Formulae, STAN-CS-79-773",
    "DERF": "Derf 2025, arXiv 2512.10938",
    "DYT": "Zhu et al. 2025 (CVPR), Transformers without Normalization, arXiv 2503.10622",
    "GROUPNORM": "Wu & He 2018, Group Normalization, arXiv 1803.08494, with one group; PyTorch: GroupNorm",
    "HEIMERSHEIM": "Heimersheim 2024, arXiv 2409.13710, and arXiv 2507.02559, "
    "which take LayerNorm out of GPT-2",
    "INSTANCENORM": "Ulyanov et al. 2016, Instance Normalization, arXiv 1607.08022; PyTorch: InstanceNorm1d",
    "JACKKNIFE": "Kott 2001, The delete-a-group jackknife, Journal of Official Statistics 17(4)",
    "LAYERNORM": "Ba, Kiros & Hinton 2016, Layer Normalization, arXiv 1607.06450; PyTorch: LayerNorm",
    "LLM_INT8": "Dettmers et al. 2022, LLM.int8(), arXiv 2208.07339, section 4.1",
    "MASSIVE": "Sun et al. 2024, Massive Activations in Large Language Models, arXiv 2402.17762",
    "PERPLEXITY": "Jelinek et al. 1977, Perplexity, JASA 62(S1)",
    "POWERNORM": "Shen et al. 2020 (ICML), PowerNorm, arXiv 2003.07845, figure 2",
    "SIMILARITY": "Kriegeskorte et al. 2008, Representational similarity analysis",
}


@dataclass(frozen=True)
class Entry:
    """What there is to know about one number of the reports.

    `name` is its path in the JSON, without the lists on the way: `agreement.feature` is in each of
    `layers`. `formula` is plain text in `NOTATION`, its lines parted by "; ". `source` is where the
    definition is from. `commands` are those that print it, `see_also` the names of other entries,
    and `columns` its titles in tables: a column's title and the line below it. `brief` replaces the first
    sentence of the definition in notes on columns; it is not in the JSON.
    """

    name: str
    title: str
    definition: str
    formula: str
    range: str
    reading: str
    source: str
    commands: tuple[str, ...]
    see_also: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    brief: str = field(default="", compare=False, metadata={"not_in_json": True})

    @property
    def column(self) -> str:
        """The full titles of its columns: those that no other one begins with."""
        titles = self.columns or (self.name.replace("_", " "),)
        return ", ".join(t for t in titles if not any(other.startswith(f"{t} ") for other in titles))

    @property
    def meaning(self) -> str:
        """The meaning of its columns, in one sentence."""
        text = self.brief or self.definition.partition(". ")[0].rstrip(".")
        return f"{text[0].upper()}{text[1:]}."


@dataclass(frozen=True)
class Topic:
    """A titled group of entries, in the order in which they are listed."""

    title: str
    entries: tuple[Entry, ...]


def _plain(entry: Entry) -> dict[str, Any]:
    values = asdict(entry)
    del values["brief"]
    return {name: list(v) if isinstance(v, tuple) else v for name, v in values.items()}


@dataclass(frozen=True)
class Glossary:
    """Some entries, or all, as they are written."""

    entries: tuple[Entry, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the entries as plain JSON values, in the documented schema `normscope.explain/1`."""
        return {"schema": EXPLAIN_SCHEMA, "notation": NOTATION, "entries": list(map(_plain, self.entries))}

    def to_json(self) -> str:
        """Return the entries as strict JSON text."""
        from normscope.results.atomic_write import write_json

        return write_json(self.to_dict(), None, None)
