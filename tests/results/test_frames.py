"""Tables in pandas: the rows of the CSV, one view of one layer, and a line where pandas is missing."""

import io
import sys

import numpy as np
import pandas as pd
import pytest

from normscope.errors import UsageError
from normscope.results.tidy import csv_lines
from tests.support import reports


def test_the_frame_of_a_report_is_its_csv() -> None:
    for result in (reports.mixed(), reports.comparison(), reports.batch_report(["a"])):
        frame = result.to_frame()
        text = io.StringIO("".join(csv_lines(result)))
        read = pd.read_csv(text, keep_default_na=False, na_values=[""], float_precision="high")
        assert frame.columns.tolist() == read.columns.tolist()
        assert frame["layer"].fillna("").tolist() == read["layer"].fillna("").tolist()
        np.testing.assert_allclose(frame["value"].to_numpy(float), read["value"], rtol=1e-12)
        for axis in {"position", "feature"} & {*frame.columns}:
            np.testing.assert_array_equal(
                frame[axis].to_numpy(float, na_value=np.nan), read[axis].to_numpy(float)
            )


def test_a_view_of_a_layer_is_indexed_by_its_axis() -> None:
    layer = reports.layer("n")
    assert layer.position
    assert layer.feature
    by_position, by_feature = layer.to_frame("position"), layer.to_frame("feature")
    assert (by_position.index.name, by_feature.index.name) == ("position", "feature")
    assert by_position["token_variance"].tolist() == layer.position.token_variance.tolist()
    assert by_position.index.tolist() == list(range(40))
    assert by_feature.columns.tolist() == ["mean", "variance"]
    assert by_feature["variance"].tolist() == layer.feature.variance.tolist()


def test_bins_of_positions_stand_at_their_first() -> None:
    from dataclasses import replace

    layer = reports.layer("n", positions=4)
    assert layer.position
    binned = replace(layer, position=replace(layer.position, first=np.array([0, 1, 2, 4])))
    frame = binned.to_frame("position")
    assert frame.index.tolist() == [0, 1, 2, 4]
    assert "first" not in frame.columns


def test_another_view_is_one_line() -> None:
    with pytest.raises(UsageError, match="no table by 'token'; expected position or feature or own_output"):
        reports.layer("n").to_frame("token")
    with pytest.raises(UsageError, match="no table by 'feature'; expected position or own_output"):
        reports.layer("n", feature=None).to_frame("feature")


def test_without_pandas_a_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    for make in (reports.minilm().to_frame, lambda: reports.layer("n").to_frame("feature")):
        with pytest.raises(UsageError, match="pip install pandas"):
            make()
