# SPDX-License-Identifier: Apache-2.0
"""The expert runner against the eager engine: every contract, one reasoning or many, guidance, kept buffers."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from situations import driving_sample
from torch_session import TorchExpert

from alpamayo_rt import InputError, Model
from alpamayo_rt.action.flow_matching import draw_noise
from alpamayo_rt.engine.bindings import FUSED, SHARED, SHARED_LOOP
from alpamayo_rt.engine.expert_inputs import Limit
from alpamayo_rt.engine.expert_runner import ExpertRunner
from alpamayo_rt.engine.hand_off import HandOff, hand_off
from alpamayo_rt.prompt.prompt import build_prompt, prepare_images

SEQUENCES = [[11, 12, 13, 14], [21], [31, 32, 33]]
CLOSE = {"rtol": 1e-4, "atol": 2e-5}
CONTRACTS = pytest.mark.parametrize("contract", [FUSED, SHARED])


def reasoned(
    model: Model, tokens: Sequence[Sequence[int]], candidates: int, cameras: tuple[int, ...] = (0, 1)
) -> HandOff:
    """A hand-off after some tokens: one sequence for all candidates, or one for each."""
    sample = driving_sample(cameras)
    images = prepare_images(sample, model.config, model.engine.device)
    prompt = build_prompt(sample, images, model.config, model.tokenizer)
    waypoints = model.config.action_space.n_waypoints
    room = sum(map(len, tokens)) + candidates * waypoints
    cache, _ = model.engine.prefill(prompt, model.engine.encode_images(images), room)
    model.engine.append(cache, range(len(tokens)), tokens)
    reads = [0] * candidates if len(tokens) == 1 else list(range(candidates))
    return hand_off(cache, tokens, reads, 33, waypoints)


def noise(candidates: int, seed: int = 0) -> torch.Tensor:
    return draw_noise(candidates, 64, seed)


def runner_of(model: Model, contract: str, **more: object) -> tuple[ExpertRunner, TorchExpert]:
    session = TorchExpert(model.engine.network, model.config, contract)  # type: ignore[attr-defined]
    return ExpertRunner(session, contract, **more), session  # type: ignore[arg-type]


@CONTRACTS
def test_one_reasoning_for_all(model: Model, contract: str) -> None:
    handed = reasoned(model, SEQUENCES[:1], 4)
    runner, session = runner_of(model, contract)
    action = runner.denoise(noise(4), 10, handed)
    torch.testing.assert_close(action, model.engine.denoise(noise(4), 10, handed), **CLOSE)
    assert len(session.fed) == 10


@CONTRACTS
def test_a_reasoning_for_each(model: Model, contract: str) -> None:
    handed = reasoned(model, SEQUENCES, 3)
    runner, _ = runner_of(model, contract)
    torch.testing.assert_close(
        runner.denoise(noise(3), 10, handed), model.engine.denoise(noise(3), 10, handed), **CLOSE
    )


@CONTRACTS
def test_guidance_over_two_caches(model: Model, contract: str) -> None:
    handed, plain = reasoned(model, SEQUENCES, 3), reasoned(model, SEQUENCES, 3, (1,))
    runner, session = runner_of(model, contract)
    action = runner.denoise(noise(3), 5, handed, plain, 1.5)
    torch.testing.assert_close(action, model.engine.denoise(noise(3), 5, handed, plain, 1.5), **CLOSE)
    assert len(session.fed) == 10


def test_all_steps_inside(model: Model) -> None:
    handed = reasoned(model, SEQUENCES, 3)
    runner, session = runner_of(model, SHARED_LOOP)
    torch.testing.assert_close(
        runner.denoise(noise(3), 10, handed), model.engine.denoise(noise(3), 10, handed), **CLOSE
    )
    assert len(session.fed) == 1


@CONTRACTS
def test_velocity_fields_take_turns(model: Model, contract: str) -> None:
    first, second = reasoned(model, SEQUENCES, 3), reasoned(model, SEQUENCES[:1], 2, (1,))
    runner, _ = runner_of(model, contract)
    mine = [(runner.velocity_field(h), model.engine.velocity_field(h)) for h in (first, second)]
    for time in (0.0, 0.3, 0.9):
        for (ours, theirs), k in zip(mine, (3, 2), strict=True):
            x, t = noise(k, int(time * 10)), torch.tensor(time)
            torch.testing.assert_close(ours(x, t), theirs(x, t), **CLOSE)


@CONTRACTS
def test_a_small_request_after_a_large_one(model: Model, contract: str) -> None:
    """Buffers are kept: what a larger request left in them must not show."""
    runner, _ = runner_of(model, contract)
    large, small = reasoned(model, SEQUENCES, 3, (0, 1, 2)), reasoned(model, SEQUENCES[:1], 2, (1,))
    fresh, _ = runner_of(model, contract)
    runner.denoise(noise(3), 10, large)
    assert torch.equal(runner.denoise(noise(2), 10, small), fresh.denoise(noise(2), 10, small))


@CONTRACTS
def test_a_result_outlives_the_next_request(model: Model, contract: str) -> None:
    handed = reasoned(model, SEQUENCES, 3)
    runner, _ = runner_of(model, contract)
    first = runner.denoise(noise(3), 3, handed)
    kept = first.clone()
    runner.denoise(noise(3, 1), 3, handed)
    assert torch.equal(first, kept)


@CONTRACTS
def test_requests_of_a_bucket_use_the_same_buffers(model: Model, contract: str) -> None:
    runner, session = runner_of(model, contract)
    for tokens in (SEQUENCES, [[1, 2], [3], [4, 5, 6, 7, 8]]):
        handed = reasoned(model, tokens, 3)
        handed.cache.keys = handed.cache.keys.clone()  # no longer in the place that could be bound
        runner.denoise(noise(3), 1, handed)
    first, second = session.fed
    assert {n: (t.data_ptr(), t.shape) for n, t in first.items()} == {
        n: (t.data_ptr(), t.shape) for n, t in second.items()
    }


def test_the_cache_is_bound_where_it_lies(model: Model) -> None:
    handed = reasoned(model, SEQUENCES, 3)
    runner, session = runner_of(model, SHARED)
    runner.denoise(noise(3), 1, handed)
    assert session.fed[0]["kv_prefix"].data_ptr() == handed.cache.keys.data_ptr()
    assert int(session.fed[0]["prefix_length"]) == handed.cache.prompt_length


def test_a_cache_of_another_type_is_copied_once(model: Model) -> None:
    handed = reasoned(model, SEQUENCES, 3)
    expected = model.engine.denoise(noise(3), 10, handed)
    handed.cache.keys, handed.cache.values = handed.cache.keys.double(), handed.cache.values.double()
    runner, session = runner_of(model, SHARED)
    torch.testing.assert_close(runner.denoise(noise(3), 10, handed), expected, **CLOSE)
    assert len({feeds["kv_prefix"].data_ptr() for feeds in session.fed}) == 1


def test_one_reasoning_has_no_tail(model: Model) -> None:
    handed = reasoned(model, SEQUENCES[:1], 4)
    runner, session = runner_of(model, SHARED)
    runner.denoise(noise(4), 1, handed)
    assert session.fed[0]["tail_length"].tolist() == [0] * 4
    assert int(session.fed[0]["prefix_length"]) == int(handed.offsets[0])
    assert not session.fed[0]["kv_tail"].any()


@pytest.mark.parametrize(
    ("contract", "limits", "said"),
    [
        (SHARED, {"B": Limit(1, 2)}, r"3 candidates, .* at most 2 \(B\)"),
        (FUSED, {"B": Limit(1, 2)}, r"3 candidates, .* at most 2 \(B\)"),
        (FUSED, {"S": Limit(1, 64)}, r"\d+ cached positions, .* at most 64 \(S\)"),
        (SHARED, {"P": Limit(1, 64)}, r"\d+ cached positions, .* at most 64 \(P\)"),
        (SHARED, {"T": Limit(1, 3)}, r"4 cached positions, .* at most 3 \(T\)"),
    ],
)
def test_a_request_that_exceeds_the_profile(
    model_1_5: Model, contract: str, limits: dict[str, Limit], said: str
) -> None:
    runner, session = runner_of(model_1_5, contract, limits=limits)
    with pytest.raises(InputError, match=said) as error:
        runner.denoise(noise(3), 10, reasoned(model_1_5, SEQUENCES, 3))
    assert "--profile" in str(error.value)
    assert session.fed == []


def test_a_bucket_stays_within_the_profile(model_1_5: Model) -> None:
    handed = reasoned(model_1_5, SEQUENCES, 3)
    length = handed.attended.shape[1]
    for limits in ({"S": Limit(1, length)}, {"S": Limit(length + 100, length + 200)}):
        runner, session = runner_of(model_1_5, FUSED, limits=limits)
        torch.testing.assert_close(
            runner.denoise(noise(3), 2, handed), model_1_5.engine.denoise(noise(3), 2, handed), **CLOSE
        )
        assert limits["S"].low <= session.fed[0]["kv_cache"].shape[3] <= limits["S"].high


def test_all_steps_inside_takes_no_guidance_and_its_own_number_of_steps(model_1_5: Model) -> None:
    handed = reasoned(model_1_5, SEQUENCES, 3)
    runner, _ = runner_of(model_1_5, SHARED_LOOP)
    with pytest.raises(InputError, match=r"guidance_weight: torch\.engine runs all steps inside"):
        runner.denoise(noise(3), 10, handed, handed, 1.5)
    with pytest.raises(InputError, match=r"num_diffusion_steps: 5, torch\.engine was exported for 10 steps"):
        runner.denoise(noise(3), 5, handed)
    with pytest.raises(InputError, match="no single velocity"):
        runner.velocity_field(handed)
