# SPDX-License-Identifier: Apache-2.0
"""The batched forward pass of training computes what inference computes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from alpamayo_rt.action.flow_matching import draw_noise
from alpamayo_rt.config import parse_model_config, read_json
from alpamayo_rt.demo.arrays import FIRST_WINDOW
from alpamayo_rt.demo.simulate import simulate, simulate_drive
from alpamayo_rt.demo.world import World
from alpamayo_rt.engine.eager import EagerEngine
from alpamayo_rt.engine.hand_off import hand_off
from alpamayo_rt.model.network import Network
from alpamayo_rt.prompt.prompt import build_prompt, prepare_images
from alpamayo_rt.prompt.tokenizer import PromptTokenizer
from alpamayo_rt.sample.sample import Sample
from alpamayo_rt.training.drawing import draw
from alpamayo_rt.training.examples import IGNORED, ExampleStream, perhaps_rerouted
from alpamayo_rt.training.forward import TrainingNetwork
from alpamayo_rt.training.nano_config import BACKBONE, write_skeleton
from alpamayo_rt.training.train import STATISTICS
from alpamayo_rt.training.weights import initialize

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """A fresh network, its training form, and one batch of two windows of different lengths."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("nano")
    write_skeleton(folder, STATISTICS)
    config = parse_model_config(
        folder, read_json(folder / "config.json"), read_json(folder / BACKBONE / "config.json")
    )
    network = Network(config).eval()
    initialize(network, 0)
    with torch.no_grad():
        # Weights at which every part has a say in the result.
        for name, parameter in network.named_parameters():
            if "embed" in name or "lm_head" in name:
                parameter.mul_(20.0)
            elif parameter.dim() > 1 and name.endswith(("o_proj.weight", "down_proj.weight", "proj.weight")):
                parameter.mul_(5.0)
    tokenizer = PromptTokenizer(folder / BACKBONE, config)
    stream = ExampleStream(config, tokenizer, 3, 2, (704, 640))
    scenes = [simulate("train", 3, index) for index in (0, 7)]
    windows = [(scenes[0], FIRST_WINDOW + 3), (scenes[1], int(scenes[1].t0))]
    drawn = draw(stream.make(windows, np.random.default_rng(0)), CPU)
    # One window with all frames, one with fewer.
    assert sorted({int(n) for n in drawn.examples.shown.sum(1)})[1:] == [16]
    return config, network, tokenizer, drawn, windows


def _sample(windows, row, examples, tokenizer, which):
    """The same window through the world's public door, with the words that training chose."""
    scene, t0 = windows[row]
    text = getattr(examples, which)
    prompt = tokenizer.decode(text.ids[row, : int(text.length[row])].tolist())
    world = World(3, "train")
    sample, _ = world.sample(int(scene.index), t0)
    question = None
    if which == "asking":
        question = prompt.split("<|question_start|>")[1].split("<|question_end|>")[0]
    navigation = sample.navigation if which == "driving" and "<|route_start|>" in prompt else None
    history = (
        {} if which == "asking" else {"history_xyz": sample.history_xyz, "history_rot": sample.history_rot}
    )
    frames = sample.frames[:, -int(examples.shown[row].view(4, -1)[0].sum()) :]
    return Sample(frames, sample.camera_indices, **history, navigation=navigation, question=question)


@torch.inference_mode()
@pytest.mark.parametrize("which", ["driving", "asking"])
def test_the_loss_of_the_words_is_that_of_inference(parts, which):
    config, network, tokenizer, drawn, windows = parts
    examples, batch = drawn.examples, 2
    model = TrainingNetwork(network, config, tokenizer.image_pad, False)
    features = model.vision(drawn.patches.float(), 8, 14)
    loss, _, cache = model.language(getattr(examples, which), features, examples.shown)
    engine = EagerEngine(network, config, CPU, torch.float32, "fp32")
    text, expected = getattr(examples, which), []
    for row in range(batch):
        sample = _sample(windows, row, examples, tokenizer, which)
        images = prepare_images(sample, config, CPU)
        # Training keeps patches in bfloat16.
        images.pixel_values.copy_(images.pixel_values.bfloat16())
        prompt = build_prompt(sample, images, config, tokenizer)
        n = int(text.length[row])
        assert prompt.ids.tolist() == text.ids[row, : len(prompt)].tolist()
        said = text.ids[row, len(prompt) : n].tolist()
        assert text.targets[row, len(prompt) - 1 : n - 1].tolist() == said
        assert int((text.targets[row] != IGNORED).sum()) == len(said)
        past, logits = engine.prefill(prompt, engine.encode_images(images), len(said))
        for token in said:
            expected.append(-logits.log_softmax(-1).flatten()[token])
            logits = engine.append(past, [0], [[token]])
        if which == "asking":
            continue
        torch.testing.assert_close(cache[-1][0][row, :, :n], past.keys[-1, :, :n], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(cache[-1][1][row, :, :n], past.values[-1, :, :n], atol=1e-4, rtol=1e-4)
    assert abs(float(loss) - float(torch.stack(expected).mean())) < 1e-4
    assert float(loss) > 0.1


@torch.inference_mode()
def test_the_velocity_is_that_of_inference(parts):
    config, network, tokenizer, drawn, windows = parts
    text, waypoints = drawn.examples.driving, config.action_space.n_waypoints
    model = TrainingNetwork(network, config, tokenizer.image_pad, False)
    _, _, cache = model.language(text, model.vision(drawn.patches.float(), 8, 14), drawn.examples.shown)
    engine = EagerEngine(network, config, CPU, torch.float32, "fp32")
    noise = draw_noise(2, waypoints, 5)
    time = torch.tensor([0.3, 0.8])
    predicted = model.velocity(noise, time, cache, *model.ends(text))
    for row in range(2):
        sample = _sample(windows, row, drawn.examples, tokenizer, "driving")
        images = prepare_images(sample, config, CPU)
        images.pixel_values.copy_(images.pixel_values.bfloat16())
        prompt = build_prompt(sample, images, config, tokenizer)
        said = text.ids[row, len(prompt) : int(text.length[row])].tolist()
        past, _ = engine.prefill(prompt, engine.encode_images(images), len(said) + waypoints)
        engine.append(past, [0], [said])
        handed = hand_off(past, [said], [0], tokenizer.future_start, waypoints)
        expected = engine.velocity_field(handed)(noise[row : row + 1], time[row])
        torch.testing.assert_close(predicted[row], expected[0], atol=1e-4, rtol=1e-4)
        # The test would mean little if the expert did not listen to the cache.
        other = model.velocity(noise, time, [(k.flip(0), v.flip(0)) for k, v in cache], *model.ends(text))
        assert float((other - predicted).abs().max()) > 1e-2


def test_at_junctions_some_windows_are_told_another_branch_and_take_it():
    rng, told = np.random.default_rng(0), {True: 0, False: 0}
    for index in range(60):
        drive = simulate_drive("train", 3, index)
        scene = perhaps_rerouted(drive, int(drive.scene.t0), rng)
        if drive.scene.navigation < 0:
            assert scene is drive.scene
            continue
        told[bool(scene.navigation == drive.scene.navigation)] += 1
    assert 0.2 < told[False] / sum(told.values()) < 0.6
