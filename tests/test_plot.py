# SPDX-License-Identifier: Apache-2.0
import os
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image, ImageColor

from alpamayo_rt.answers import AutoLabel, Box, MetaAction, Reading
from alpamayo_rt.errors import InputError
from alpamayo_rt.plot import HEIGHT, WIDTH, draw, save
from alpamayo_rt.plot_cameras import camera_rows, newest_pictures
from alpamayo_rt.plot_scene import HISTORY_COLOUR, PALETTE, TRUTH_COLOUR
from alpamayo_rt.plot_text import drawable, fit_paragraphs, lines_of, width_of, wrap
from alpamayo_rt.prompt.images import preprocess
from alpamayo_rt.result import Result
from alpamayo_rt.sample.sample import PreparedImages, Sample

HISTORY = torch.zeros(16, 3)
HISTORY[:, 0] = torch.linspace(-12, 0, 16)
ROTATION = torch.eye(3).expand(16, 3, 3)
TIMES = {"preprocess": 12.3, "vision": 104.0, "prefill": 210.0, "decode": 388.0, "expert": 96.0, "total": 811.0}


def make_sample(cameras=(0, 1, 2, 6), height=90, width=160, **more):
    # Every camera has a colour of its own and the newest frame is the brightest.
    frames = torch.zeros(len(cameras), 2, 3, height, width, dtype=torch.uint8)
    for i, camera in enumerate(cameras):
        frames[i, :, camera % 3] = 120 + 10 * camera
        frames[i, 1] += 7
    return Sample(frames, list(cameras), HISTORY, ROTATION, **more)


def arc(speed, curvature):
    t = torch.arange(1, 65) * 0.1
    heading = curvature * speed * t
    x, y = torch.cos(heading).cumsum(0) * speed * 0.1, torch.sin(heading).cumsum(0) * speed * 0.1
    return torch.stack([x, y, torch.zeros(64)], -1)


def make_result(paths=None, reasoning=("Keep the lane.",), stops=None, **more):
    paths = torch.stack([arc(8, 0.006 * (k - 2)) for k in range(6)]) if paths is None else paths
    count = len(paths)
    return Result(
        list(reasoning), [[1]] * len(reasoning), list(stops or ["finished"] * len(reasoning)), 3119, 42, TIMES,
        paths, torch.eye(3).expand(count, 64, 3, 3), torch.zeros(count, 64, 2), **more,
    )  # fmt: skip


def count(picture, colour, region=(0, 0, WIDTH, HEIGHT)):
    pixels = np.asarray(picture.crop(region))
    return int((pixels == ImageColor.getrgb(colour)).all(-1).sum())


SCENE = (1040, 120, 1570, 830)
TEXT_AREA = (24, 400, 940, 890)


@pytest.mark.parametrize("candidates", [1, 6, 8])
def test_every_candidate_history_and_truth_are_visible(candidates):
    paths = torch.stack([arc(8, 0.006 * (k - 3)) for k in range(candidates)])
    picture = draw(make_sample(), make_result(paths), arc(8, 0.05))
    assert picture.size == (WIDTH, HEIGHT)
    assert picture.mode == "RGB"
    for k, colour in enumerate(PALETTE):
        assert (count(picture, colour, SCENE) > 100) == (k < candidates), k
    assert count(picture, HISTORY_COLOUR, SCENE) > 100
    assert count(picture, TRUTH_COLOUR, SCENE) > 100
    assert count(draw(make_sample(), make_result(paths)), TRUTH_COLOUR, SCENE) == 0


def test_left_is_left_and_forward_is_up():
    def middle(path):
        scene = np.asarray(draw(make_sample(), make_result(path[None])).crop(SCENE))
        rows, columns = np.nonzero((scene == ImageColor.getrgb(PALETTE[0])).all(-1))
        grey_rows, grey = np.nonzero((scene == ImageColor.getrgb(HISTORY_COLOUR)).all(-1))
        return rows.mean() - grey_rows.mean(), columns.mean() - grey.mean()

    for sign in (1, -1):
        down, right = middle(arc(8, 0.02 * sign))
        assert down < 0
        assert right * sign < 0


def test_scene_has_one_scale_for_both_axes():
    square = torch.zeros(64, 3)
    square[:32, 0], square[32:, 0], square[32:, 1] = 40, 40, 40
    square[48:, 0] = 0
    scene = np.asarray(draw(make_sample(), make_result(square[None])).crop(SCENE))
    rows, columns = np.nonzero((scene == ImageColor.getrgb(PALETTE[0])).all(-1))
    assert abs(np.ptp(rows) - np.ptp(columns)) <= 8


@pytest.mark.parametrize(
    "paths",
    [
        torch.zeros(6, 64, 3),
        torch.stack([arc(31 + k / 10, 0.0) for k in range(6)]),
        torch.stack([arc(4, 0.2 + k / 100) for k in range(6)]),
        torch.stack([arc(60, -0.001)] * 6),
        torch.full((2, 64, 3), float("nan")),
        torch.zeros(2, 64, 3) + 1e6,
        torch.stack([arc(5, 0.01 * k) for k in range(32)]),
    ],
    ids=["standstill", "straight", "tight", "same", "not finite", "far away", "many"],
)
def test_extreme_trajectories_draw(paths):
    draw(make_sample(), make_result(paths), paths[0] if paths.isfinite().all() else None)


def test_candidates_at_one_point_are_all_visible():
    scene = np.asarray(draw(make_sample(), make_result(torch.zeros(6, 64, 3))).crop(SCENE)).astype(int)
    for colour in PALETTE[:6]:
        # The rings are thin, so that their colour is mixed with the neighbours' at the edges.
        assert np.abs(scene - ImageColor.getrgb(colour)).sum(-1).min() < 40, colour


def test_same_arguments_give_the_same_picture():
    first, second = (draw(make_sample(), make_result(), arc(8, 0.01)).tobytes() for _ in range(2))
    assert first == second


@pytest.mark.parametrize(
    ("cameras", "size"),
    [
        *[(cameras, (96, 160)) for cameras in [(1,), (6, 1), (0, 1, 2), (2, 0, 6, 1), (1, 4, 3, 5), range(7)]],
        *[((2, 0, 6, 1), size) for size in [(32, 32), (1080, 1920), (1920, 1080), (32, 640), (640, 32)]],
        *[(range(7), size) for size in [(32, 32), (32, 640), (640, 32)]],
    ],
)
def test_all_cameras_are_shown(cameras, size):
    sample = make_sample(cameras, *size)
    picture = draw(sample, make_result())
    for camera, shown in zip(cameras, newest_pictures(sample), strict=True):
        colour = "#{:02x}{:02x}{:02x}".format(*shown.getpixel((5, 5)))
        assert count(picture, colour, (0, 0, 950, 890)) > 200, camera


def test_rows_of_cameras_follow_the_space_around_the_vehicle():
    assert camera_rows([2, 1, 0]) == [[0, 1, 2]]
    assert camera_rows([0, 1, 2, 6]) == [[1, 6], [0, 2]]
    assert camera_rows([5, 4, 1, 3, 0]) == [[0, 1], [3, 4, 5]]
    assert camera_rows(range(7)) == [[0, 1, 6, 2], [3, 4, 5]]
    assert camera_rows([0, 1, 2, 3, 5, 6]) == [[0, 1, 2], [3, 6, 5]]
    assert camera_rows([0, 1, 2, 3, 4, 5]) == [[0, 1, 2], [3, 4, 5]]


def test_prepared_images_are_put_together_again():
    frames = torch.randint(0, 256, (4, 3, 64, 96), dtype=torch.uint8, generator=torch.manual_seed(0))
    pixels, grid = preprocess(frames, 64 * 96, 64 * 96)
    sample = Sample(None, [3, 1], HISTORY, ROTATION, prepared=PreparedImages(pixels, grid))
    for camera, picture in enumerate(newest_pictures(sample)):
        np.testing.assert_array_equal(np.asarray(picture), frames[2 * camera + 1].permute(1, 2, 0).numpy())
    draw(sample, make_result())


def test_question_is_drawn_without_a_scene():
    sample = make_sample(question="What colour is the light?")
    result = Result([], [[1]], ["finished"], 900, 0, TIMES, answer="Green.")
    picture = draw(sample, result)
    assert all(count(picture, colour, SCENE) == 0 for colour in PALETTE)
    assert (
        picture.tobytes()
        != draw(sample, Result([], [[1]], ["limit"], 900, 0, TIMES, answer="Green.")).tobytes()
    )
    draw(Sample(sample.frames, sample.camera_indices, question="?"), result)


def test_guidance_navigation_and_reasonings_change_the_words_only():
    guided = SimpleNamespace(guidance_weight=1.5)
    plain = draw(make_sample(), make_result())
    words = draw(make_sample(navigation="Turn left"), make_result(trace=guided))
    many = draw(
        make_sample(),
        make_result(reasoning=[f"Reason {k}." for k in range(6)], stops=["limit"] + ["finished"] * 5),
    )
    for other in (words, many):
        assert other.crop(TEXT_AREA).tobytes() != plain.crop(TEXT_AREA).tobytes()
        assert other.crop(SCENE).tobytes() == plain.crop(SCENE).tobytes()
    assert all(count(many, colour, TEXT_AREA) > 50 for colour in PALETTE[:6])
    assert count(many, "#a40e26") > 50


@pytest.mark.parametrize("text", ["word " * 10000, "x" * 100000, "", "\n\n", "你好" * 500, "a\nb\n" * 300])
@pytest.mark.parametrize("reasonings", [1, 12])
def test_any_reasoning_stays_in_its_place(text, reasonings):
    picture = draw(make_sample(range(7), navigation=text or None if text.strip() else None),
                   make_result(reasoning=[text] * reasonings), title=text)  # fmt: skip
    # Between text and scene, and between text and times, nothing is drawn.
    assert count(picture, "#ffffff", (942, 70, 966, 890)) == 24 * 820
    assert count(picture, "#ffffff", (24, 885, 940, 893)) == 916 * 8


def test_times_may_be_missing():
    result = make_result()
    for times in ({}, {"total": 5.0}, {"vision": 0.0}, {f"stage_{i}": float(i) for i in range(12)}):
        draw(make_sample(), Result(**{**vars(result), "milliseconds": times}))


@pytest.mark.parametrize("future", [torch.zeros(64), torch.zeros(2, 64, 3), torch.zeros(0, 3), [["a"]]])
def test_future_of_another_shape(future):
    with pytest.raises(InputError, match="future_xyz"):
        draw(make_sample(), make_result(), future)


def test_future_forms():
    expected = draw(make_sample(), make_result(), arc(8, 0)).tobytes()
    for future in (arc(8, 0)[None, None], arc(8, 0).numpy(), arc(8, 0).tolist(), arc(8, 0)[:, :2]):
        assert draw(make_sample(), make_result(), future).tobytes() == expected
    with pytest.raises(InputError, match="future_xyz: holds a value that is not finite"):
        draw(make_sample(), make_result(), torch.full((64, 3), float("inf")))


def test_words_that_the_font_lacks():
    assert drawable("naïve café – “ok” → 你") == "naive cafe - “ok” -> ?"
    assert drawable("a\u200bb\tc\u00a0d") == "ab c d"


def test_wrapping():
    lines = list(wrap("The quick brown fox " * 20 + "x" * 300, 20, 300))
    assert all(width_of(line, 20) <= 300 for line in lines)
    assert "".join(lines).replace(" ", "") == "Thequickbrownfox" * 20 + "x" * 300
    short = lines_of("The quick brown fox " * 20, 20, 300, 3)
    assert len(short) == 3
    assert short[-1].endswith("…")
    assert lines_of("Short.", 20, 300, 3) == ["Short."]


def test_texts_share_the_room():
    size, (short, long) = fit_paragraphs(["Short.", "long " * 500], 300, 200, (30, 15))
    assert (size, short) == (15, ["Short."])
    assert len(long) == 9
    assert long[-1].endswith("…")
    assert fit_paragraphs(["Short."], 300, 200, (30, 15)) == (30, [["Short."]])
    assert fit_paragraphs(["a", "b", "c"], 300, 45, (15,))[1] == [["a"], ["b"], []]


def test_saves_a_whole_png(tmp_path):
    picture = draw(make_sample(), make_result())
    save(picture, tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as read:
        assert read.format == "PNG"
        assert read.tobytes() == picture.tobytes()
    assert os.listdir(tmp_path) == ["a.png"]
    with pytest.raises(InputError, match="does not exist"):
        save(picture, tmp_path / "none" / "a.png")


def test_boxes_are_drawn_on_their_camera_alone():
    sample = make_sample((0, 1, 2))
    boxes = (Box(1, "lead car", (40.0, 30.0, 120.0, 80.0)), Box(1, "", (0.0, 0.0, 0.0, 0.0)))
    before = sample.frames.clone()
    asked = {"answer": "[...]", "task": "grounding"}
    plain = draw(sample, Result([], [[1]], ["finished"], 900, 0, TIMES, **asked))
    found = draw(sample, Result([], [[1]], ["finished"], 900, 0, TIMES, **asked, reading=Reading(boxes=boxes)))
    assert torch.equal(sample.frames, before)
    changed = np.nonzero((np.asarray(plain) != np.asarray(found)).any(-1))
    assert len(changed[0]) > 300
    # The middle one of three pictures side by side.
    assert 940 / 3 < changed[1].min() < changed[1].max() < 2 * 940 / 3
    assert count(found, "#cf222e") > 300


def test_typed_answers_are_drawn_field_by_field():
    def drawn(task, **reading):
        asked = {"answer": "text", "task": task, "reading": Reading(**reading)}
        return draw(make_sample(), Result(["Keep lane."], [[1]], ["finished"], 9, 0, TIMES, **asked)).tobytes()

    action, label = MetaAction("Stop", "Straight", "Keep"), AutoLabel(chain_of_causation="Because.")
    pictures = [
        drawn("meta_action"),
        drawn("meta_action", meta_action=action),
        drawn("meta_action", meta_action=MetaAction("Stop"), unparsed="no lane"),
        drawn("auto_labeling", auto_label=label),
        drawn("vqa"),
    ]
    assert len(set(pictures)) == len(pictures)
