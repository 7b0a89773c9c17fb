# SPDX-License-Identifier: Apache-2.0
"""The images: repeatable, independent of the batch, and showing what decides."""

import copy
import json

import numpy as np
import pytest
import torch

from alpamayo_rt.demo.arrays import FIRST_WINDOW, KIND, LAST_WINDOW, stack
from alpamayo_rt.demo.camera import CAMERAS
from alpamayo_rt.demo.render import render
from alpamayo_rt.demo.world import World, make_batch
from alpamayo_rt.errors import InputError


def own_frame(scene):
    return render(stack([scene]), np.array([[int(scene.t0)]]))[0]


def test_drawing_is_repeatable_and_a_batch_draws_what_single_calls_draw(scenes, monkeypatch):
    from alpamayo_rt.demo import render as module

    few = [scenes[i] for i in (1, 5, 14)]
    steps = np.array([[20, 21], [22, 30], [15, 36]])
    single = torch.cat([render(stack([s]), steps[i : i + 1]) for i, s in enumerate(few)])
    assert torch.equal(single, torch.cat([render(stack([s]), steps[i : i + 1]) for i, s in enumerate(few)]))
    monkeypatch.setattr(module, "CHUNK", {"cpu": 8})
    batched = render(stack(few), steps)
    assert (batched.int() - single.int()).abs().max() <= 1


def test_consecutive_windows_share_their_frames(scenes):
    a = render(stack([scenes[3]]), np.arange(17, 21)[None])[0]
    b = render(stack([scenes[3]]), np.arange(18, 22)[None])[0]
    assert torch.equal(a[:, 1:], b[:, :3])


def test_red_and_green_lamps_shine_in_their_clips(scenes):
    for cause, count in (("red_light", 6), ("green_light", 6)):
        for scene in [s for s in scenes if s.cause_name == cause][:count]:
            r, g, b = own_frame(scene)[:, 0].int().unbind(1)
            red = (r > 170) & (g < 90) & (b < 90)
            green = (g > 170) & (r < 110) & (b < 150)
            lamp, other = (red, green) if cause == "red_light" else (green, red)
            assert lamp.sum() >= 6, int(scene.index)
            assert other.sum() <= 2, int(scene.index)


@pytest.mark.parametrize(
    ("cause", "kinds", "first", "pixels"),
    [
        ("lead_braking", ("shadow", "car", "cabin", "truck"), 3, 100),
        ("lead_stopped", ("shadow", "car", "cabin", "truck"), 3, 100),
        ("cross_traffic", ("shadow", "car", "cabin", "truck"), 6, 60),
        ("pedestrian", ("legs", "torso", "head"), 3, 25),
        ("speed_zone", ("sign",), 6, 25),
    ],
)
def test_what_decides_can_be_seen(scenes, cause, kinds, first, pixels):
    for scene in [s for s in scenes if s.cause_name == cause][:5]:
        without = copy.deepcopy(scene)
        places = np.flatnonzero(np.isin(scene.box_kind, [KIND[k] for k in kinds]))
        without.box_kind[places[places < first] if cause != "speed_zone" else places[0]] = 0
        differs = (own_frame(scene).int() - own_frame(without).int()).abs().amax(2) > 24
        assert differs.sum() >= pixels, int(scene.index)


def test_brake_lights_are_red_only_while_braking(scenes):
    scene = next(s for s in scenes if s.cause_name == "lead_braking" and s.box_state[10, 1] == 0)

    def red(step):
        r, g, b = render(stack([scene]), np.array([[step]]))[0, :, 0].int().unbind(1)
        return int(((r > 180) & (g < 80) & (b < 80)).sum())

    assert red(int(scene.t0)) > red(10) + 5


def test_cameras_agree_with_the_pinhole_model(scenes):
    """The far traffic light is drawn where its camera projects it."""
    scene = next(s for s in scenes if s.cause_name == "red_light")
    t0, box = int(scene.t0), int(np.flatnonzero(scene.box_kind == KIND["light"])[0])
    x, y, _ = scene.box_pose[t0, box]
    lamp = np.array([[x, y, scene.box_size[box, 3] + 2.15]])
    tele = CAMERAS[3]
    column, row, depth = tele.project(scene.ego[t0], lamp)
    assert depth > 0
    r, g, b = own_frame(scene)[3, 0].int().unbind(0)
    shining = ((r > 170) & (g < 90) & (b < 90)).nonzero().float()
    centre = np.array([[row[0], column[0]]])
    assert np.linalg.norm(shining.numpy() + 0.5 - centre, axis=1).min() < 2.0


def test_a_sample_carries_images_history_and_its_truth():
    world = World(0)
    sample, truth = world.sample(4)
    assert sample.frames.shape == (4, 4, 3, 128, 224)
    assert sample.camera_indices == (0, 1, 2, 6)
    assert sample.frames.float().std() > 20
    assert truth["future_xyz"].shape == (64, 3)
    assert (sample.navigation is None) == (truth["junction"] is None)
    for t0 in (FIRST_WINDOW - 1, LAST_WINDOW + 1):
        with pytest.raises(InputError, match="t0"):
            world.sample(4, t0)
    with pytest.raises(InputError, match="split"):
        World(0, "validation")


def test_swapping_the_navigation_changes_the_words_and_nothing_else(scenes):
    index = next(i for i, s in enumerate(scenes) if s.cause_name == "turn")
    world = World(0)
    left, _ = world.sample(index, branch="left")
    right, _ = world.sample(index, branch="right")
    none, _ = world.sample(index, with_navigation=False)
    assert "left" in left.navigation.lower()
    assert "right" in right.navigation.lower()
    assert none.navigation is None
    assert torch.equal(left.frames, right.frames)
    assert torch.equal(left.history_xyz, right.history_xyz)


def test_a_batch_holds_the_same_as_its_samples():
    world = World(2, "train")
    batch = world.batch([0, 3])
    for row, index in enumerate((0, 3)):
        sample, truth = world.sample(index)
        assert (batch.frames[row].int() - sample.frames.int()).abs().max() <= 1
        assert torch.equal(batch.history_xyz[row], sample.history_xyz)
        np.testing.assert_allclose(batch.future_xyz[row].numpy(), truth["future_xyz"], atol=1e-4)
        assert batch.words[row]["cause"] == truth["cause"] == World.causes[int(batch.cause[row])]
    later = make_batch([world.scene(0)], [20])
    assert later.frames.shape == (1, 4, 4, 3, 128, 224)


def test_a_clip_has_what_a_recording_needs():
    clip = World(0).clip(2)
    assert clip.timestamps_us.shape == (101,)
    assert clip.ego_xyz.shape == (101, 3)
    np.testing.assert_allclose(np.linalg.norm(clip.ego_quat_xyzw, axis=1), 1.0)
    assert clip.t0_us in clip.timestamps_us
    assert len(clip.truth["windows"]) == LAST_WINDOW - FIRST_WINDOW + 1
    assert json.loads(json.dumps(clip.truth)) == clip.truth
    assert set(clip.cameras) == {0, 1, 2, 6}


@pytest.mark.slow
def test_clip_frames_are_the_samples_frames():
    world = World(0)
    clip = world.clip(2)
    sample, _ = world.sample(2)
    t0 = clip.t0_us // 100_000
    for row, frames in enumerate(clip.frames().values()):
        drawn = torch.from_numpy(frames[t0 - 3 : t0 + 1]).permute(0, 3, 1, 2)
        assert torch.equal(drawn, sample.frames[row])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_draws_what_the_cpu_draws(scenes):
    steps = np.array([[int(s.t0)] for s in scenes[:20]])
    cpu = render(stack(scenes[:20]), steps)
    gpu = render(stack(scenes[:20]), steps, "cuda")
    assert torch.equal(gpu, render(stack(scenes[:20]), steps, "cuda"))
    # A subpixel on an object's very edge may fall to either side.
    differs = (cpu.int() - gpu.cpu().int()).abs() > 1
    assert differs.float().mean() < 1e-3
