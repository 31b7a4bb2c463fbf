"""Axes and masks: whatever order the axes have, the same rows get the same sample and position."""

import math
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from normscope.statistics.alignment import Alignment, TokenMask, align
from normscope.statistics.layout import UNALIGNED, is_own_sequence, lead_axes, to_rows

CPU = torch.device("cpu")
B, T, H, D = 3, 5, 2, 7

# A labelled row: the sample and position it was given, and the values that stand there.
Row = tuple[int, int, tuple[float, ...]]


def tokens(heads: int | None = None) -> Any:
    """Return an input (B, T, D), or (B, T, H, D), in which every number is another one."""
    shape = (B, T, D) if heads is None else (B, T, heads, D)
    return torch.arange(B * T * D * (heads or 1), dtype=torch.float64).reshape(shape)


def mask_of(real: Any, valid: Any = None) -> TokenMask:
    real = torch.as_tensor(real).bool()
    return TokenMask(real, real if valid is None else torch.as_tensor(valid).bool() & real)


RIGHT = mask_of([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 1, 1, 1, 0]])
LEFT = mask_of([[1, 1, 1, 1, 1], [0, 0, 0, 1, 1], [0, 1, 1, 1, 1]])
FULL = mask_of(torch.ones(B, T))
EXCLUDED = mask_of(RIGHT.real, [[0, 1, 1, 1, 0], [0, 1, 0, 0, 0], [0, 1, 1, 0, 1]])
EMPTY_SAMPLE = mask_of(RIGHT.real, [[1, 1, 1, 1, 1], [0, 0, 0, 0, 0], [1, 1, 1, 1, 0]])
MASKS = {
    "full": FULL,
    "right": RIGHT,
    "left": LEFT,
    "excluded": EXCLUDED,
    "empty sample": EMPTY_SAMPLE,
}

# Each layout with the heads it has, and how to bring (B, T, D) or (B, T, H, D) into it.
LAYOUTS: dict[str, tuple[int | None, Any]] = {
    "(B, T, D)": (None, lambda x: x),
    "(T, B, D)": (None, lambda x: x.transpose(0, 1)),
    "(B*T, D)": (None, lambda x: x.reshape(B * T, D)),
    "(B, T, H, D)": (H, lambda x: x),
    "(B, H, T, D)": (H, lambda x: x.transpose(1, 2)),
    "(B*H, T, D)": (H, lambda x: x.transpose(1, 2).reshape(B * H, T, D)),
    "(B*T, H, D)": (H, lambda x: x.reshape(B * T, H, D)),
    "(B*T*H, D)": (H, lambda x: x.reshape(B * T * H, D)),
}


def labelled(where: Alignment, rows: Any) -> list[Row]:
    """Return what an alignment says of all rows (R, D) of an input."""
    taken = where.take(rows)
    labels = zip(where.sample.group.tolist(), where.position.group.tolist(), strict=True)
    return [(n, t, tuple(row)) for (n, t), row in zip(labels, taken.tolist(), strict=True)]


def expected(x: Any, mask: TokenMask) -> list[Row]:
    """Label the valid tokens of (B, T, D) or (B, T, H, D) one by one; samples without any are not counted."""
    rows: list[Row] = []
    sample = 0
    for real, valid, values in zip(mask.current(), mask.valid, x.reshape(*x.shape[:2], -1, D), strict=True):
        before = len(rows)
        for t in range(len(valid)):
            position = int(real[:t].sum())
            rows += [(sample, position, tuple(row)) for row in values[t].tolist() if valid[t]]
        sample += len(rows) > before
    return rows


def aligned(values: Any, mask: TokenMask | None, feature_axis: int = -1) -> tuple[Alignment, Any]:
    """Align an input as a capture does; return the alignment and all of the input's rows."""
    lead = lead_axes(tuple(values.shape), feature_axis, D)
    assert lead is not None
    return align(lead, mask, feature_axis, CPU), to_rows(values, feature_axis, D)


# Layouts


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_labelled_rows(layout: str, mask: TokenMask) -> None:
    heads, arrange = LAYOUTS[layout]
    where, rows = aligned(arrange(tokens(heads)), mask)
    assert where.layout == layout
    assert where.positioned
    assert labelled(where, rows) == expected(tokens(heads), mask)


def test_more_axes_of_heads_count_as_heads() -> None:
    x = torch.arange(B * T * 2 * 3 * D, dtype=torch.float64).reshape(B, T, 2, 3, D)
    where, rows = aligned(x, LEFT)
    assert where.layout == "(B, T, H, D)"
    assert labelled(where, rows) == expected(x, LEFT)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=B * T, max_size=B * T))
def test_any_mask_gives_the_same_labelled_rows_in_any_layout(bits: list[tuple[bool, bool]]) -> None:
    real, valid = torch.tensor(bits).reshape(B, T, 2).unbind(-1)
    mask = mask_of(real, valid)
    for heads, arrange in LAYOUTS.values():
        where, rows = aligned(arrange(tokens(heads)), mask)
        assert labelled(where, rows) == expected(tokens(heads), mask)


def test_a_square_input_is_read_with_the_sample_first() -> None:
    square = mask_of([[1, 1, 1], [1, 0, 0], [1, 1, 0]])
    assert align((3, 3), square, -1, CPU).layout == "(B, T, D)"
    assert align((3, 3), square, -1, CPU).position.group.tolist() == [0, 1, 2, 0, 0, 1]
    assert align((3, 3, 3), square, -1, CPU).layout == "(B, T, H, D)"


# Positions


def test_left_padding_does_not_shift_positions() -> None:
    assert LEFT.positions()[LEFT.valid].tolist() == [0, 1, 2, 3, 4, 0, 1, 0, 1, 2, 3]
    left, right = (align((B, T), mask, -1, CPU) for mask in (LEFT, RIGHT))
    assert left.position.group.tolist() == right.position.group.tolist()
    assert left.position.count.flatten().tolist() == [3, 3, 2, 2, 1]


def test_a_real_token_that_does_not_count_keeps_its_position() -> None:
    where = align((B, T), EXCLUDED, -1, CPU)
    assert where.position.group.tolist() == [1, 2, 3, 1, 1, 2]
    assert where.sample.group.tolist() == [0, 0, 0, 1, 2, 2]
    assert where.position.count.flatten().tolist() == [0, 3, 2, 1]


def test_cached_tokens_come_before_the_forwards_own() -> None:
    mask = TokenMask(
        torch.tensor([[0, 1, 1, 1, 1], [1, 1, 1, 1, 0]]).bool(), torch.tensor([[1, 1], [1, 0]]).bool()
    )
    assert mask.current().tolist() == [[True, True], [True, False]]
    assert mask.positions().tolist() == [[2, 3], [3, 3]]
    assert align((2, 2), mask, -1, CPU).position.group.tolist() == [2, 3, 3]


def test_a_sample_without_a_valid_token_leaves_no_group() -> None:
    where = align((B, T), EMPTY_SAMPLE, -1, CPU)
    assert where.sample.count.flatten().tolist() == [5, 4]
    assert where.sample.group.tolist() == [0] * 5 + [1] * 4


def test_no_valid_token_at_all_leaves_nothing() -> None:
    where = align((B, T), mask_of(torch.zeros(B, T)), -1, CPU)
    assert where.take(torch.ones(B * T, D)).shape == (0, D)
    assert len(where.sample.count) == len(where.position.count) == 0
    assert where.parts(4) == []


def test_a_mask_moves_as_a_whole() -> None:
    moved = LEFT.to(torch.device("meta"))
    assert (moved.real.device.type, moved.valid.device.type) == ("meta", "meta")


# Inputs that are no tokens


@pytest.mark.parametrize("lead", [(4, 4), (B * T + 1,), (T,), (2, B + 1, T)])
def test_axes_that_match_nothing_have_no_layout(lead: tuple[int, ...]) -> None:
    where = align(lead, RIGHT, -1, CPU)
    count = math.prod(lead)
    assert where.layout is None
    assert not where.positioned
    assert where.sample.group.tolist() == list(range(count))
    assert where.position.group.tolist() == [0] * count
    assert torch.equal(where.take(torch.eye(count)), torch.eye(count))


# Sequences of a layer's own: their sizes, the layout, and how to bring them into (B, N).
SEQUENCES: dict[str, tuple[tuple[int, ...], int, Any]] = {
    "(B, N, D)": ((B, T + 1), -1, lambda rows: rows),
    "(B, N1, N2, N3, D)": ((B, H, T, 2), -1, lambda rows: rows.flatten(1)),
    "(N, B, D)": ((T + 2, B), -1, lambda rows: rows.T),
    "(B*W, N, D)": ((4 * B, T + 2), -1, lambda rows: rows.reshape(B, -1)),
    "(B, D, N)": ((B, T + 1), 1, lambda rows: rows),
    "(N0, D, N)": ((2 * B + 1, T + 1), 1, lambda rows: rows),
}


@pytest.mark.parametrize("layout", SEQUENCES)
def test_samples_with_other_rows_than_tokens_are_a_sequence_of_their_own(layout: str) -> None:
    lead, axis, bring = SEQUENCES[layout]
    where = align(lead, RIGHT, axis, CPU)
    assert where.layout == layout
    assert where.sure
    assert is_own_sequence(layout)
    order = bring(torch.arange(math.prod(lead)).reshape(lead))
    assert where.take(torch.arange(math.prod(lead))[:, None]).flatten().tolist() == order.flatten().tolist()
    assert where.sample.group.tolist() == [n for n in range(len(order)) for _ in order[n]]
    assert where.position.group.tolist() == list(range(order.shape[1])) * len(order)


@pytest.mark.parametrize(
    ("lead", "layout"),
    [((B, 4), "(B, T, D)"), ((4, B), "(T, B, D)"), ((2 * B, 4), "(B*W, T, D)"), ((4, 4), None)],
)
def test_images_are_told_by_their_number(lead: tuple[int, ...], layout: str | None) -> None:
    where = align(lead, None, -1, CPU, samples=B)
    assert where.layout == layout
    assert len(where.sample.count) == (math.prod(lead) if layout is None else B)


def test_frames_may_be_samples_in_two_axes() -> None:
    where = align((B, 4), None, -1, CPU, samples=4 * B)
    assert where.layout == "(B, D)"
    assert where.sample.group.tolist() == list(range(4 * B))


def test_the_number_of_images_may_leave_a_doubt() -> None:
    assert not align((2 * B, B), None, -1, CPU, samples=B).sure
    assert align((2, 1), None, -1, CPU, samples=1).sure


def test_what_a_probe_has_shown_holds_where_sizes_happen_to_match() -> None:
    assert align((B, T), RIGHT, -1, CPU, "(B, N, D)").layout == "(B, N, D)"
    assert align((B, T), RIGHT, -1, CPU, UNALIGNED).layout is None
    assert not is_own_sequence("(B, T, D)")
    assert not is_own_sequence(None)


@pytest.mark.parametrize("mask", [RIGHT, None])
def test_one_row_a_sample_is_pooled(mask: TokenMask | None) -> None:
    where = align((B,), mask, -1, CPU)
    assert where.layout == "(B, D)"
    assert not where.positioned
    assert where.sample.group.tolist() == [0, 1, 2]


def test_a_single_vector_is_one_row() -> None:
    assert lead_axes((D,), -1, D) == ()
    where, rows = aligned(torch.arange(float(D)), None)
    assert where.layout == "(B, D)"
    assert labelled(where, rows) == [(0, 0, tuple(range(D)))]


@pytest.mark.parametrize(
    ("lead", "layout"),
    [((2, 3), "(B, T, D)"), ((2, 3, 4), "(B, T1, T2, D)"), ((2, 1, 3, 2), "(B, T1, T2, T3, D)")],
)
def test_without_a_mask_the_first_axis_is_the_sample(lead: tuple[int, ...], layout: str) -> None:
    where = align(lead, None, -1, CPU)
    rest = math.prod(lead[1:])
    assert where.layout == layout
    assert where.positioned
    assert where.sample.group.tolist() == [n for n in range(lead[0]) for _ in range(rest)]
    assert where.position.group.tolist() == list(range(rest)) * lead[0]


# Features on axis 1


@pytest.mark.parametrize(
    ("shape", "layout"), [((2, D), "(B, D)"), ((2, D, 3), "(B, D, T)"), ((2, D, 3, 4), "(B, D, T1, T2)")]
)
def test_features_on_axis_one_are_named_so(shape: tuple[int, ...], layout: str) -> None:
    x = torch.arange(math.prod(shape), dtype=torch.float64).reshape(shape)
    where, rows = aligned(x, None, feature_axis=1)
    assert where.layout == layout
    for n, t, row in labelled(where, rows):
        assert list(row) == x[n].reshape(D, -1)[:, t].tolist()


def test_features_on_axis_one_meet_the_mask_too() -> None:
    where, rows = aligned(tokens().transpose(1, 2), LEFT, feature_axis=1)
    assert where.layout == "(B, D, T)"
    assert labelled(where, rows) == expected(tokens(), LEFT)
    heads, by_head = aligned(tokens(H).movedim(-1, 1), LEFT, feature_axis=1)
    assert heads.layout == "(B, D, T, H)"
    assert labelled(heads, by_head) == expected(tokens(H), LEFT)


# From shapes to rows


@pytest.mark.parametrize(
    ("shape", "axis", "features", "lead"),
    [
        ((2, 3, 8), -1, 8, (2, 3)),
        ((2, 3, 4, 8), -1, 32, (2, 3)),
        ((2, 3, 4, 8), -1, 96, (2,)),
        ((2, 3, 4, 8), -1, 192, ()),
        ((8,), -1, 8, ()),
        ((2, 3, 8), -1, 7, None),
        ((2, 3, 8), -1, 0, None),
        ((2, 3, 4, 8), -1, 16, None),
        ((2, 8), 1, 8, (2,)),
        ((2, 8, 3), 1, 8, (2, 3)),
        ((2, 8, 3, 4), 1, 8, (2, 3, 4)),
        ((2, 3, 8), 1, 8, None),
        ((8,), 1, 8, None),
        ((2, 3, 1), -1, 1, (2, 3)),
    ],
)
def test_lead_axes_are_those_before_the_features(
    shape: tuple[int, ...], axis: int, features: int, lead: tuple[int, ...] | None
) -> None:
    assert lead_axes(shape, axis, features) == lead


def test_rows_keep_the_order_of_the_other_axes() -> None:
    x = torch.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
    assert to_rows(x, -1, 5).tolist() == x.reshape(24, 5).tolist()
    assert to_rows(x, -1, 20).tolist() == x.reshape(6, 20).tolist()
    assert to_rows(x, 1, 3)[5].tolist() == x[0, :, 1, 0].tolist()
    assert to_rows(x, 1, 3)[-1].tolist() == x[1, :, 3, 4].tolist()
    assert to_rows(x[:, :, 0, 0], 1, 3).tolist() == x[:, :, 0, 0].tolist()


# Parts of an alignment


@settings(max_examples=40, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 6), min_size=1, max_size=6),
    size=st.integers(1, 20),
    heads=st.sampled_from([None, 2]),
)
def test_parts_cover_every_row_once_and_never_cut_a_sample(
    lengths: list[int], size: int, heads: int | None
) -> None:
    assume(any(lengths))
    mask = mask_of(torch.arange(max(lengths)) < torch.tensor(lengths)[:, None])
    lead = (*mask.valid.shape, *([] if heads is None else [heads]))
    rows = torch.arange(float(math.prod(lead)))[:, None]
    whole = align(lead, mask, -1, CPU)
    parts = whole.parts(size)

    done = 0
    for part in parts:
        counts = part.sample.count.flatten().tolist()
        assert sum(counts) <= size or len(counts) == 1
        assert part.sample.group[0] == 0
        assert part.layout == whole.layout
        given_back = [(n + done, t, row) for n, t, row in labelled(part, rows)]
        assert given_back == [row for row in labelled(whole, rows) if done <= row[0] < done + len(counts)]
        done += len(counts)
    assert done == len(whole.sample.count)
    sizes = [len(part.sample.group) for part in parts]
    following = [int(part.sample.count[0]) for part in parts[1:]]
    assert all(n + more > size for n, more in zip(sizes, following, strict=False)), "a part ended early"


@pytest.mark.parametrize("mask", [FULL, LEFT, EXCLUDED], ids=["full", "left", "excluded"])
def test_keep_picks_among_the_rows_that_count(mask: TokenMask) -> None:
    where, rows = aligned(tokens(), mask)
    chosen = torch.arange(len(where.sample.group)) % 3 == 1
    kept = where.keep(chosen)
    assert kept.layout == where.layout
    known = [(t, row) for (_, t, row), use in zip(labelled(where, rows), chosen, strict=True) if use]
    assert [(t, row) for _, t, row in labelled(kept, rows)] == known


def test_keep_numbers_samples_without_gaps() -> None:
    where = align((B, T), FULL, -1, CPU)
    kept = where.keep(where.sample.group != 1)
    assert kept.sample.group.tolist() == [0] * T + [1] * T
    assert kept.position.group.tolist() == list(range(T)) * 2
    assert len(where.keep(torch.zeros(B * T, dtype=torch.bool)).sample.count) == 0


@pytest.mark.parametrize("mask", [FULL, LEFT], ids=["full", "left"])
def test_keep_of_a_later_part_still_picks_out_of_all_rows(mask: TokenMask) -> None:
    where, rows = aligned(tokens(), mask)
    last = where.parts(T)[-1]
    chosen = last.position.group > 1
    known = [row for row in labelled(last, rows) if row[1] > 1]
    assert labelled(last.keep(chosen), rows) == known
