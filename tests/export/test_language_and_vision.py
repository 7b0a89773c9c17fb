# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch
from graphs import CPU, distance, session, small_network
from hypothesis import given
from hypothesis import strategies as st

from alpamayo_rt import Model
from alpamayo_rt.engine.eager import EagerEngine
from alpamayo_rt.engine.onnx_session import OnnxSession
from alpamayo_rt.engine.session_engine import SessionEngine, Stages
from alpamayo_rt.engine.session_stages import LanguageStage, VisionStage
from alpamayo_rt.model.vision import VisionFeatures
from alpamayo_rt.prompt.prompt import Images, Prompt

Pair = tuple[EagerEngine, SessionEngine]


@pytest.fixture(scope="module")
def engines(model_1_5: Model, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """The same small network eagerly, and its vision tower and language model as sessions."""
    network, config = small_network(model_1_5.config)
    eager = EagerEngine(network, config, CPU, torch.float32, "fp32")
    folder = tmp_path_factory.mktemp("parts")
    made: dict[str, OnnxSession] = {
        part: session(folder / part, network, config, part) for part in ("vision", "language")
    }
    stages = Stages(VisionStage(made["vision"], config), LanguageStage(made["language"], config), None)
    return eager, SessionEngine("onnxruntime", ["fp32"], stages, eager, config, CPU, torch.float32)


@given(
    sizes=st.lists(st.sampled_from([(2, 2), (4, 6), (6, 4), (20, 36), (2, 50)]), min_size=1, max_size=3),
    seed=st.integers(0, 9),
)
def test_vision_at_any_number_and_size_of_images(
    engines: Pair, sizes: list[tuple[int, int]], seed: int
) -> None:
    eager, ours = engines
    generator = torch.Generator().manual_seed(seed)
    patches = torch.randn(sum(h * w for h, w in sizes), 1536, generator=generator)
    images = Images(patches, torch.tensor([[1, h, w] for h, w in sizes]))
    found, expected = ours.encode_images(images), eager.encode_images(images)
    assert distance(found.embeds, expected.embeds) < 1e-5
    assert distance(found.deepstack[0], expected.deepstack[0]) < 1e-5


@given(
    length=st.integers(1, 30),
    images=st.lists(st.integers(0, 29), max_size=8, unique=True),
    steps=st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=3, unique=True), max_size=3),
    seed=st.integers(0, 9),
)
def test_prompt_and_further_tokens_of_several_sequences(
    engines: Pair, length: int, images: list[int], steps: list[list[int]], seed: int
) -> None:
    eager, ours = engines
    generator = torch.Generator().manual_seed(seed)
    text = eager.config.language
    slots = torch.tensor(sorted(i for i in images if i < length), dtype=torch.long)
    ids = torch.randint(0, text.vocab_size, (length,), generator=generator)
    prompt = Prompt("", ids, ids, torch.arange(length).expand(3, -1), -2, slots)
    feature, tap = (torch.randn(len(slots), text.hidden_size, generator=generator) for _ in range(2))
    features = VisionFeatures(feature, (tap,))
    caches = []
    for engine in (ours, eager):
        cache, logits = engine.prefill(prompt, features, 40)
        rows = [logits]
        for i, sequences in enumerate(steps):
            tokens = [[(7 * s + i) % text.vocab_size] * (1 + (s + i) % 2) for s in sequences]
            rows.append(engine.append(cache, sequences, tokens, unseen=7 if i else None).flatten())
        caches.append((cache, torch.cat(rows)))
    (mine, found), (theirs, expected) = caches
    assert distance(found, expected) < 1e-5
    assert mine.length == theirs.length
    assert distance(mine.keys, theirs.keys) < 1e-5
    assert distance(mine.values, theirs.values) < 1e-5
