"""The layers that the position explains best, from a run's CSV and JSON Lines: pandas, polars, DuckDB.

Run: normscope inspect demo --moments run.safetensors --format csv -o run.csv
     normscope merge run.safetensors --format jsonl -o run.jsonl
     python examples/tidy_tables.py run.csv run.jsonl
"""

import math
import sys
from collections.abc import Callable

Answer = list[tuple[str, float]]
MOST = 3


def with_pandas(csv: str, jsonl: str) -> tuple[Answer, Answer]:
    """Ask pandas: rows of the CSV, and the dicts that it reads the JSON Lines as."""
    import pandas as pd

    table = pd.read_csv(csv)
    rows = table[(table["view"] == "explained") & (table["statistic"] == "position.epsilon2")]
    rows = rows.nlargest(MOST, "value")
    layers = pd.read_json(jsonl, lines=True).dropna(subset="explained")
    layers["share"] = [explained["position"]["epsilon2"] for explained in layers["explained"]]
    layers = layers.nlargest(MOST, "share")
    return (
        list(zip(rows["layer"], rows["value"], strict=True)),
        list(zip(layers["name"], layers["share"], strict=True)),
    )


def with_polars(csv: str, jsonl: str) -> tuple[Answer, Answer]:
    """Ask polars: filters on the CSV, and fields of the structs that it reads the JSON Lines as."""
    import polars as pl

    rows = (
        pl.read_csv(csv)
        .filter(view="explained", statistic="position.epsilon2")
        .top_k(MOST, by="value")
        .sort("value", descending=True)
    )
    share = pl.col("explained").struct.field("position").struct.field("epsilon2").alias("share")
    layers = pl.read_ndjson(jsonl).select("name", share).drop_nulls().sort("share", descending=True)
    return rows.select("layer", "value").rows(), layers.head(MOST).rows()


def with_duckdb(csv: str, jsonl: str) -> tuple[Answer, Answer]:
    """Ask DuckDB: SQL on the files."""
    import duckdb

    rows = duckdb.execute(
        "SELECT layer, value FROM read_csv_auto(?) "
        "WHERE view = 'explained' AND statistic = 'position.epsilon2' ORDER BY value DESC LIMIT ?",
        [csv, MOST],
    )
    answer = rows.fetchall()
    layers = duckdb.execute(
        'SELECT name, explained."position".epsilon2 AS share FROM read_json_auto(?) '
        "WHERE share IS NOT NULL ORDER BY share DESC LIMIT ?",
        [jsonl, MOST],
    )
    return answer, layers.fetchall()


def same(one: Answer, other: Answer) -> bool:
    """Whether answers name the same layers, with numbers that differ at most by how digits are read."""
    pairs = zip(one, other, strict=True)
    return all(a == b and math.isclose(x, y, rel_tol=1e-12) for (a, x), (b, y) in pairs)


def main() -> None:
    """Ask each library that is installed, both files, and compare the answers."""
    csv, jsonl = sys.argv[1:]
    asked: dict[str, Callable[[str, str], tuple[Answer, Answer]]] = {
        "pandas": with_pandas,
        "polars": with_polars,
        "duckdb": with_duckdb,
    }
    answers: list[Answer] = []
    for name, ask in asked.items():
        try:
            found = ask(csv, jsonl)
        except ModuleNotFoundError as error:
            print(f"{name:6}  skipped: {error}")
            continue
        for kind, answer in zip(("csv", "jsonl"), found, strict=True):
            print(f"{name:6}  {kind:5}  " + "  ".join(f"{layer} {share:.1%}" for layer, share in answer))
        answers += found
    if not all(same(answer, answers[0]) for answer in answers):
        sys.exit("the answers differ")
    print(f"{len(answers)} answers agree")


main()
