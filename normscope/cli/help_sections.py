"""A command class whose --help has sections of options, as manual pages do, and columns from the glossary."""

from inspect import cleandoc
from typing import Any

from typer.core import TyperCommand

# The place in an epilog where the glossary says what each column holds.
COLUMNS = "{columns}"
_TITLE_WIDTH = 24  # a longer title of a column gets a line of its own
# The options of each section, by their names in Python; options of no section come last.
SECTIONS = {
    "Input": (
        "file", "beside", "image", "audio", "dataset", "split", "calibration", "field", "limit", "unique",
        "max_length",
    ),
    "Layers": ("layer", "exclude", "per_call"),
    "Measuring": (
        "sizes", "draws", "momentum", "kind", "cumulative", "recalibrate", "words", "samples",
        "table_memory", "seed", "batch_size", "order", "special_tokens", "dry_run",
    ),
    "Long runs": ("checkpoint", "checkpoint_every", "resume", "shard"),
    "Output": (
        "schema", "fail_above", "details", "rows", "plot", "chart", "top", "format", "json", "output",
        "moments", "tensors", "save", "fold", "quiet", "verbose",
    ),
    "Loading the model": (
        "revision", "token", "cache_dir", "local_files_only", "trust_remote_code", "device", "device_map",
        "dtype",
        "attn_implementation", "random_weights",
    ),
    "Other": (),
}  # fmt: skip
# Options of single commands, each by the shared option that it follows.
_FOLLOWS = {"calibration": "file", "device_map": "device", "plot": "json"}
_SECTION_OF = {name: title for title, names in SECTIONS.items() for name in names}


class Sectioned(TyperCommand):
    """A command that lists its arguments, then its options section by section."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the sections; within one, options are in the order of `_in_order`."""
        lists: dict[str, list[tuple[str, str]]] = {title: [] for title in ("Arguments", *SECTIONS)}
        for parameter in _in_order(self.get_params(ctx)):
            record = parameter.get_help_record(ctx)
            if record is None:
                continue
            name, text = record
            if parameter.param_type_name == "argument":
                # typer adds an argument's type in Python after its name.
                lists["Arguments"].append((name.partition(" <")[0], text))
            else:
                lists[_SECTION_OF.get(parameter.name or "", "Other")].append((name, text))
        for title, records in lists.items():
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """Write the epilog, with the columns of the command's tables in the place of COLUMNS."""
        before, marker, after = cleandoc(self.epilog or "").partition(COLUMNS)
        formatter.write_paragraph()
        with formatter.indentation():
            formatter.write_text(before)
            if marker:
                from normscope.results.glossary.lookup import columns

                formatter.write_paragraph()
                formatter.width -= 2  # its lists do not count the outer indentation
                formatter.write_text("The columns; a wide terminal shows more, and a dash is unknown.")
                for topic, pairs in columns(ctx.info_name).items():
                    with formatter.section(topic.partition(":")[0]):
                        formatter.write_dl(pairs, col_max=_TITLE_WIDTH)
                formatter.write_paragraph()
                formatter.write_text(after.lstrip("\n"))


def _in_order(parameters: list[Any]) -> list[Any]:
    """Move each option of _FOLLOWS behind its shared option; others stay as the command declares them."""
    ranks = {parameter.name: rank for rank, parameter in enumerate(parameters)}
    return sorted(
        parameters, key=lambda option: ranks.get(_FOLLOWS.get(option.name, option.name), ranks[option.name])
    )
