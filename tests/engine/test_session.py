"""Sessions: a model that is opened once, and measured more than once."""

from typing import Any

import pytest
import torch
from torch import nn

import normscope
from normscope.capture.recorder import Recorder
from normscope.data.batching import Batching
from normscope.data.media_files import Inputs
from normscope.engine.progress import Clock, Progress
from normscope.engine.session import Session, text_batches
from normscope.errors import UsageError
from tests.support import models
from tests.support.hub import word_tokenizer

TEXTS = ["alpha beta gamma", "beta", "gamma alpha beta alpha beta", "delta beta"]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return word_tokenizer()


def layers(report: normscope.Report) -> Any:
    return report.to_dict()["layers"]


def test_a_session_measures_again_and_leaves_the_model_as_it_was(tokenizer: Any) -> None:
    model = models.bert().train()
    stages: list[Progress] = []
    session = Session.open(model, Clock(stages.append), tokenizer=tokenizer)
    batching = Batching(batch_size=2)
    reports = [
        session.measure(Recorder(model), session.batches(Inputs(TEXTS), batching)),
        session.measure(Recorder(model), text_batches(session.loaded, TEXTS, batching)),
    ]
    assert model.training
    assert layers(reports[0]) == layers(reports[1])
    again = normscope.inspect(model, TEXTS, tokenizer=tokenizer, batching=batching)
    assert layers(again) == layers(reports[0])
    assert [each.stage for each in stages if each.stage != "run"] == ["load", "plan", "plan"]


def test_preparing_sets_the_size_of_batches_where_padding_cannot_be_masked(tokenizer: Any) -> None:
    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.norm = nn.Embedding(99, 8), nn.LayerNorm(8)

        def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.norm(self.words(input_ids))
            return out

    for model, notes, size in (
        (models.bert(), [], 3),
        (Plain(), ["the model takes no attention mask: texts were run one by one"], 1),
    ):
        session = Session.open(model, Clock(None), tokenizer=tokenizer)
        recorder, batches = Recorder(model), text_batches(session.loaded, TEXTS, Batching(batch_size=3))
        with session.watching(recorder):
            assert session.prepare(recorder, batches) == notes
        assert (batches.size.texts, batches.batching.batch_size) == (size, size)
        assert recorder.run_info().tokens == 0


def test_a_recorder_without_a_layer_is_refused(tokenizer: Any) -> None:
    with pytest.raises(UsageError, match="no normalization layer of BertForMaskedLM is left to measure"):
        normscope.inspect(models.bert(), TEXTS, tokenizer=tokenizer, exclude=["*"])
