"""Parts of the examples against plain twins: norms with padding, moments, token runs, intervals."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import batch_norm

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.fixture(autouse=True)
def on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))


def padded(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(seed)
    mask = torch.arange(6) < torch.tensor([6, 2, 4])[:, None]
    return torch.randn(3, 6, 5) * 2 + 3, mask


def test_masked_norms_leave_padding_out() -> None:
    from _models import Normalize

    x, mask = padded()
    rows = x[mask]
    twins = {
        "batch, masked": (rows - rows.mean(0)) / (rows.var(0, unbiased=False) + 1e-5).sqrt(),
        "batch rms, masked": rows / (rows.square().mean(0) + 1e-5).sqrt(),
    }
    for kind, twin in twins.items():
        found = Normalize(kind, 5)(x, mask)
        torch.testing.assert_close(found[mask], twin)
        assert not found[~mask].any()
        wild = torch.where(mask[..., None], x, torch.tensor(1e4))
        torch.testing.assert_close(Normalize(kind, 5)(wild, mask)[mask], twin)


def test_the_plain_batch_norm_takes_padding_in() -> None:
    from _models import Normalize

    x, mask = padded()
    twin = batch_norm(x.flatten(0, 1), None, None, training=True).view_as(x)
    torch.testing.assert_close(Normalize("batch", 5)(x, mask), twin)


def test_running_power_is_used_after_training() -> None:
    from _models import BatchRMSNorm

    norm, rows = BatchRMSNorm(5), padded()[0].flatten(0, 1)
    norm(rows)
    power = 0.9 + 0.1 * rows.square().mean(0)
    torch.testing.assert_close(norm.eval()(rows), rows / (power + 1e-5).sqrt())


def test_moments_of_samples_leave_padding_out() -> None:
    from _data import Samples
    from _models import CNN, Transformer, sample_moments

    torch.manual_seed(0)
    model = Transformer("layer")
    ids = torch.randint(2, 500, (4, 10))
    mask = torch.arange(10) < torch.tensor([10, 3, 5, 7])[:, None]
    inputs: list[torch.Tensor] = []
    handle = model.get_submodule("norms.3.norm").register_forward_hook(
        lambda _, args, __: inputs.append(args[0])
    )
    found = sample_moments(model, Samples(ids, ids, mask))[3]
    handle.remove()
    for n, own in enumerate(mask):
        rows = inputs[0][n][own].double()
        assert found.count[n] == own.sum()
        torch.testing.assert_close(found.mean[n], rows.mean(0))
        torch.testing.assert_close(found.variance()[n], rows.var(0, correction=0))
    assert model.training
    pixels = torch.rand(5, 1, 8, 8)
    convolutional = CNN()
    maps = convolutional.convs[0](pixels).double()
    channels = sample_moments(convolutional, Samples(pixels, torch.zeros(5)))[0]
    torch.testing.assert_close(channels.mean, maps.mean((2, 3)))
    torch.testing.assert_close(channels.variance(), maps.var((2, 3), correction=0))


def test_tokens_are_those_of_why() -> None:
    """The noise ratio of the texts is that of claim 1c."""
    import normscope
    from _tokens import pretrained, ratios, run, shuffled, token_ids
    from tests.support import models

    demo, texts = pretrained(reduced=True), models.prose(64)
    ids = token_ids(demo, texts, 32)
    claims = normscope.why(demo, texts, batching=normscope.Batching(max_length=32)).claims
    known = next(claim for claim in claims if claim.id == "1c").evidence[0]
    found = ratios(run(demo, ids, 32))
    for layer in known.layers:
        assert float(found[layer.layer][0]) == pytest.approx(layer.number.value, rel=1e-4)
    mixed = shuffled(demo, ids)
    assert [len(text) for text in mixed] == [len(text) for text in ids]
    assert torch.equal(torch.cat(mixed).sort().values, torch.cat(ids).sort().values)
    assert {int(text[0]) for text in mixed} == {101}
    assert {int(text[-1]) for text in mixed} == {102}


def test_distance_from_the_running_mean() -> None:
    from _models import running_gap

    torch.manual_seed(0)
    norm, rows = torch.nn.BatchNorm1d(5), torch.randn(40, 5) * 2 + 1
    norm.running_mean, norm.running_var = torch.randn(5), torch.rand(5) + 1
    mean, variance = norm.running_mean.clone(), norm.running_var.clone()
    norm(rows)
    expected = (rows.mean(0) - mean).norm() / variance.sum().sqrt()
    assert running_gap(norm, mean, variance) == pytest.approx(float(expected), rel=1e-4)


def test_intervals_are_students() -> None:
    from _common import over_runs, verdict, written

    number = over_runs([1.0, 2.0, 3.0, 4.0])
    half = 3.182446 * np.std([1, 2, 3, 4], ddof=1) / 2  # t of 3 degrees of freedom, from a table
    assert (number.low, number.high) == pytest.approx((2.5 - half, 2.5 + half), rel=1e-6)
    assert [verdict([number], limit) for limit in (0.4, 0.5, 4.5, 4.6)] == [
        "holds",
        "undecided",
        "undecided",
        "fails",
    ]
    assert written(number, "{:.1f}") == "2.5 [0.4, 4.6]"
    ratio, logs = over_runs([1.0, 2.0, 4.0], log=True), over_runs(np.log([1.0, 2.0, 4.0]).tolist())
    assert [ratio.value, ratio.low] == pytest.approx(np.exp([logs.value, logs.low]))


def test_more_than_half_of_the_norms_decide() -> None:
    from _common import verdict
    from normscope.results.why import Interval

    above, below, between = Interval(2, 1.5, 3), Interval(0.5, 0.2, 0.9), Interval(1, 0.5, 2)
    assert verdict([above, above, between], 1.0) == "holds (2 of 3 norms)"
    assert verdict([below, below, above], 1.0) == "fails (2 of 3 norms)"
    assert verdict([above, above, between, below], 1.0) == "undecided (2 of 4 norms hold, 1 fail)"


def test_samples_are_cut_to_their_longest() -> None:
    from _data import digits, next_words

    texts = next_words()
    known, kept = texts.split(test=100)
    assert (len(known) + len(kept), len(kept)) == (len(texts), 100)
    batch = next(texts.batches(4, 0))
    assert batch.mask is not None
    assert batch.inputs.shape == batch.targets.shape == batch.mask.shape
    assert batch.mask.any(0).all()
    assert torch.equal(batch.inputs[:, 1:][batch.mask[:, 1:]], batch.targets[:, :-1][batch.mask[:, 1:]])
    images = digits()
    assert images.inputs.shape == (1797, 1, 8, 8)
    assert images.inputs.max() == 1
