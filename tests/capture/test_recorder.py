"""The recorder: masks and skipped calls of a batch, which only the package itself uses."""

import pytest
import torch

from normscope.capture.recorder import Recorder
from normscope.errors import UsageError
from tests.capture.test_watcher import padded
from tests.support import models


def test_a_batch_gives_its_masks_back_also_after_an_error() -> None:
    model, batch = models.llama(), padded("right")
    own, other = batch["attention_mask"], batch["attention_mask"] * (torch.arange(7) != 1)
    with Recorder(model) as recorder, torch.no_grad():
        recorder.mask = own
        with recorder.batch(other, decoder_mask=other):
            with recorder.batch(torch.zeros(2, 2)), pytest.raises(UsageError):
                model(**batch)
            assert recorder.mask is recorder.decoder_mask is other
        with pytest.raises(UsageError, match=r"watcher.mask is"), recorder.batch(torch.zeros(2, 2)):
            model(**batch)
        assert recorder.mask is own
        assert recorder.decoder_mask is None
        with recorder.batch(probe=True):
            model(**batch)
        model(**batch)
    assert recorder.report().run.tokens == int(batch["attention_mask"].sum())


def test_a_batch_skips_the_calls_that_are_counted() -> None:
    model, batch = models.llama(), padded("right")
    with Recorder(model) as recorder, torch.no_grad():
        with recorder.batch(skip=[1, 0, 1, *[0] * (len(recorder.layers) - 3)]):
            model(**batch)
        counts = [capture.state.calls for capture in recorder.captures]
        model(**batch)
    assert counts == [0, 1, 0, *[1] * (len(counts) - 3)]
    assert [capture.state.calls for capture in recorder.captures] == [count + 1 for count in counts]
