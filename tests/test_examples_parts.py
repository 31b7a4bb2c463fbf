"""What the examples compute themselves, against plain twins: norms with padding, batch noise, intervals."""

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


def test_batch_noise_is_tid() -> None:
    from _data import Samples
    from _models import Transformer, batch_noise

    torch.manual_seed(0)
    model = Transformer("layer")
    ids = torch.randint(2, 500, (8, 10))
    mask = torch.arange(10) < torch.tensor([10, 3, 5, 7, 10, 2, 6, 4])[:, None]
    batches = [Samples(ids[i : i + 2], ids[i : i + 2], mask[i : i + 2]) for i in range(0, 8, 2)]
    seen: list[np.ndarray] = []
    norm = model.get_submodule("norms.3.norm")
    handle = norm.register_forward_hook(lambda _, args, __: seen.append(args[0].detach().double().numpy()))
    for batch in batches:
        model(batch.inputs, batch.mask)
    handle.remove()
    parts = [x[batch.mask.numpy()] for x, batch in zip(seen, batches, strict=True) if batch.mask is not None]
    whole = np.concatenate(parts)
    off = [np.sqrt(((part.mean(0) - whole.mean(0)) ** 2).sum() / whole.var(0).sum()) for part in parts]
    pooled, tid = batch_noise(model, batches)["norms.3.norm"]
    assert pooled == len(whole) / 4
    assert tid == pytest.approx(np.mean(off), rel=1e-5)
    assert model.training


def test_intervals_are_students() -> None:
    from _common import over_runs, verdict, written

    number = over_runs([1.0, 2.0, 3.0, 4.0])
    half = 3.182446 * np.std([1, 2, 3, 4], ddof=1) / 2  # t of 3 degrees of freedom, from a table
    assert (number.low, number.high) == pytest.approx((2.5 - half, 2.5 + half), rel=1e-6)
    assert [verdict(number, limit) for limit in (0.4, 0.5, 4.5, 4.6)] == [
        "holds",
        "undecided",
        "undecided",
        "fails",
    ]
    assert written(number, "{:.1f}") == "2.5 [0.4, 4.6]"


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
