"""A digest is another one for any change of what it is of, and the same for what is equal."""

import hashlib

import torch

from normscope.statistics.digests import KEY, digest_of, signed


def test_any_change_makes_another_digest() -> None:
    values = torch.arange(6, dtype=torch.float64).reshape(2, 3)
    changed = values.clone()
    changed[1, 2] += 1e-12
    known = [
        ({"a": values}, {"b": "c"}),
        ({"a": changed}, {"b": "c"}),
        ({"a": values.T.contiguous()}, {"b": "c"}),
        ({"a": values.reshape(3, 2)}, {"b": "c"}),
        ({"a": values.view(torch.int64)}, {"b": "c"}),
        ({"x": values}, {"b": "c"}),
        ({"a": values}, {"b": "d"}),
        ({"a": values}, {"bc": ""}),
        ({"a": values, "e": torch.zeros(0)}, {"b": "c"}),
        ({}, {}),
    ]
    assert len({digest_of(*each) for each in known}) == len(known)


def test_order_and_memory_are_no_part_of_it() -> None:
    one, two = torch.randn(3, 4), torch.tensor(2)
    header = {"b": "c", "d": "e"}
    digest = digest_of({"one": one, "two": two}, header)
    assert digest == digest_of({"two": two, "one": one.T.contiguous().T}, dict(reversed(header.items())))
    assert signed({"one": one, "two": two}, header) == {**header, KEY: digest}
    assert digest == digest_of({"one": one, "two": two}, {**header, KEY: "another"})


def test_it_is_sha256() -> None:
    assert digest_of({}, {"a": "b"}) == hashlib.sha256(b'["a", "b"]').hexdigest()
    values = torch.tensor([1.0, -0.0], dtype=torch.bfloat16)
    plain = b'["w", "torch.bfloat16", [2]]' + b"\x80\x3f\x00\x80"
    assert digest_of({"w": values}, {}) == hashlib.sha256(plain).hexdigest()
