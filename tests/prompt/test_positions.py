# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from alpamayo_rt.prompt.positions import mrope_positions

PAD = 7
Parts = list[int | tuple[int, int]]
"""Runs of text by their length, images by their grid."""
images = st.tuples(st.integers(1, 6), st.integers(1, 6))


@st.composite
def prompts(draw: st.DrawFn) -> Parts:
    """Text and images in turn: two images always have a marker between them."""
    parts: Parts = [draw(st.integers(1, 5))]
    for _ in range(draw(st.integers(0, 4))):
        parts += [draw(images), draw(st.integers(1, 5))]
    return parts


def flat(parts: Parts) -> tuple[list[int], list[tuple[int, int]]]:
    ids: list[int] = []
    for part in parts:
        ids += [PAD] * (part[0] * part[1]) if isinstance(part, tuple) else [1] * part
    return ids, [part for part in parts if isinstance(part, tuple)]


def naive(parts: Parts) -> list[tuple[int, int, int]]:
    positions: list[tuple[int, int, int]] = []
    p = 0
    for part in parts:
        if isinstance(part, tuple):
            rows, columns = part
            positions += [(p, p + i, p + j) for i in range(rows) for j in range(columns)]
            p += max(rows, columns)
        else:
            positions += [(p + i, p + i, p + i) for i in range(part)]
            p += part
    return positions


@given(prompts())
def test_positions_equal_a_naive_loop(parts: Parts) -> None:
    ids, grids = flat(parts)
    positions, _ = mrope_positions(ids, PAD, grids)
    assert [tuple(p) for p in positions.T.tolist()] == naive(parts)


@given(prompts())
def test_delta_continues_after_the_last_position(parts: Parts) -> None:
    ids, grids = flat(parts)
    positions, delta = mrope_positions(ids, PAD, grids)
    assert delta == int(positions.max()) + 1 - len(ids)
    assert delta == -sum(rows * columns - max(rows, columns) for rows, columns in grids)


@given(prompts())
def test_components_agree_on_text_and_never_go_back(parts: Parts) -> None:
    ids, grids = flat(parts)
    positions, _ = mrope_positions(ids, PAD, grids)
    text = torch.tensor(ids) != PAD
    assert torch.equal(positions[1, text], positions[0, text])
    assert torch.equal(positions[2, text], positions[0, text])
    assert bool((positions[0].diff() >= 0).all())
    assert bool((positions[0, text].diff() > 0).all())


def test_images_without_text_between_are_told_apart() -> None:
    positions, delta = mrope_positions([1, PAD, PAD, PAD, 1], PAD, [(1, 1), (1, 2)])
    assert positions.tolist() == [[0, 1, 2, 2, 4], [0, 1, 2, 2, 4], [0, 1, 2, 3, 4]]
    assert delta == 0


def test_sixteen_released_images_shift_by_2592() -> None:
    ids, grids = flat([3, *[part for _ in range(16) for part in ((10, 18), 2)]])
    assert mrope_positions(ids, PAD, grids)[1] == -2592
