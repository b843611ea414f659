"""Shared data types: conditions are joined, dropped and moved field by field."""

from __future__ import annotations

import pytest
import torch

from kalpana.types import Cond, Tokens


def texts(*rows: list[int]) -> Tokens:
    length = max(map(len, rows))
    ids = torch.tensor([[*row, *[0] * (length - len(row))] for row in rows])
    return Tokens(ids, ids > 0)


def full(rows: int, start: int = 1) -> Cond:
    """A condition with every field given, all numbers unlike."""
    grid = torch.arange(rows * 8, dtype=torch.float32).reshape(rows, 2, 2, 2) + start
    return Cond(
        tokens=texts(*[[start + k, 9] for k in range(rows)]),
        null=torch.zeros(rows, dtype=torch.bool),
        label=torch.arange(rows) + start,
        embedding=torch.randn(rows, 3, generator=torch.Generator().manual_seed(start)),
        known=grid,
        control={"edges": grid + 100, "depth": grid + 200},
        camera=torch.zeros(rows, 5, 4) + start,
    )


def test_texts_of_unlike_length_are_padded_on_the_right() -> None:
    both = Tokens.cat(texts([1, 2]), texts([3, 4, 5], [6]))
    assert both.ids.tolist() == [[1, 2, 0], [3, 4, 5], [6, 0, 0]]
    assert both.mask.tolist() == [[True, True, False], [True] * 3, [True, False, False]]


def test_joined_conditions_have_the_rows_of_both_in_every_field() -> None:
    one, two = full(2), full(3, 50)
    both = Cond.cat(one, two)
    assert len(both) == 5 and both.tokens and both.control and one.control and two.control
    assert both.tokens.ids.tolist() == [*one.tokens.ids.tolist(), *two.tokens.ids.tolist()]  # type: ignore[union-attr]
    for name in ("null", "label", "embedding", "known", "camera"):
        assert torch.equal(getattr(both, name)[:2], getattr(one, name)), name
        assert torch.equal(getattr(both, name)[2:], getattr(two, name)), name
    for kind in ("edges", "depth"):
        assert torch.equal(both.control[kind], torch.cat((one.control[kind], two.control[kind])))


def test_null_counts_as_false_where_it_is_not_given() -> None:
    plain = Cond(texts([1], [2]))
    assert Cond.cat(plain, plain).null is None
    both = Cond.cat(plain, plain.dropped())
    assert both.null is not None and both.null.tolist() == [False, False, True, True]


@pytest.mark.parametrize("other", [Cond(), Cond(label=torch.tensor([1]))])
def test_a_field_that_some_conditions_lack_is_an_error(other: Cond) -> None:
    with pytest.raises(ValueError, match="is given in some conditions only"):
        Cond.cat(Cond(texts([1])), other)
    control = Cond(texts([1]), control={"edges": torch.zeros(1, 1, 2, 2)})
    with pytest.raises(ValueError, match=r"control\.edges is given in some"):
        Cond.cat(control, Cond(texts([1])))


def test_a_dropped_condition_is_null_and_keeps_what_is_no_text() -> None:
    cond = full(2)
    dropped = cond.dropped()
    assert dropped.null is not None and dropped.null.all() and not cond.null.any()  # type: ignore[union-attr]
    assert dropped.known is cond.known and dropped.control is cond.control
    assert dropped.camera is cond.camera
    with pytest.raises(ValueError, match="null=True"):
        Cond().dropped()


def test_moving_reaches_every_field() -> None:
    """The meta device stands for a GPU."""
    moved = full(2).to("meta")
    tensors = [moved.tokens.ids, moved.tokens.mask, *(moved.control or {}).values()]  # type: ignore[union-attr]
    tensors += [getattr(moved, name) for name in ("null", "label", "embedding", "known", "camera")]
    assert {str(each.device) for each in tensors} == {"meta"} and len(tensors) == 9
    assert Cond().to("meta") == Cond()


def test_the_empty_condition_has_no_rows() -> None:
    assert len(Cond()) == 0 and len(Cond(null=torch.zeros(4, dtype=torch.bool))) == 4
