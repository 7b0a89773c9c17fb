# SPDX-License-Identifier: Apache-2.0
"""What `Model.infer` promises about its settings."""

from __future__ import annotations

import itertools

import pytest
import torch
from situations import driving_sample, question_sample, random_frames, straight_history

from alpamayo_rt import InputError, Model, Result, Sample, inference
from alpamayo_rt.action.flow_matching import draw_noise
from alpamayo_rt.families import ALPAMAYO_1_5
from alpamayo_rt.prompt.images import preprocess
from alpamayo_rt.sample.sample import PreparedImages

DRIVING, QUESTION = ALPAMAYO_1_5.tasks

NEAR = {"rtol": 0, "atol": 1e-5}
SHORT = {"max_generate_length": 8, "num_diffusion_steps": 3}


def actions(result: Result) -> torch.Tensor:
    assert result.actions is not None
    return result.actions


def test_shapes_and_provenance(model: Model) -> None:
    result = model.infer(driving_sample(), num_candidates=3, seed=4, **SHORT)
    assert result.trajectories is not None
    assert result.rotations is not None
    assert result.trajectories.shape == (3, 64, 3)
    assert result.rotations.shape == (3, 64, 3, 3)
    assert actions(result).shape == (3, 64, 2)
    assert len(result.reasoning) == len(result.generated_token_ids) == len(result.stop_reasons) == 1
    assert result.seed == 4
    assert result.answer is None
    assert result.trace is None
    assert set(result.milliseconds) == {"preprocess", "vision", "prefill", "decode", "expert", "total"}
    provenance = model.provenance()
    assert provenance["family"] == model.config.family.model_type
    assert provenance["name"] == "checkpoint"


def test_trajectories_follow_from_the_actions(model_1_5: Model) -> None:
    sample = driving_sample()
    result = model_1_5.infer(sample, num_candidates=2, **SHORT)
    normalized = model_1_5.unicycle.normalize(actions(result))
    xyz, rot = model_1_5.unicycle.integrate(normalized, sample.history_xyz, sample.history_rot)
    assert torch.allclose(result.trajectories, xyz, atol=1e-3)
    assert torch.allclose(result.rotations, rot, atol=1e-3)


def test_the_host_works_where_the_device_does(model_1_5: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """The prompt is written behind the launch of vision, and nothing is handed off that nobody reads."""
    order: list[str] = []

    def noted(owner: object, name: str) -> None:
        run = getattr(owner, name)

        def noting(*args: object, **more: object) -> object:
            order.append(name)
            return run(*args, **more)

        monkeypatch.setattr(owner, name, noting)

    noted(model_1_5.engine, "encode_images")
    noted(model_1_5, "prompt_of")
    noted(model_1_5.engine, "drive")
    noted(model_1_5.unicycle, "start")
    noted(model_1_5.unicycle, "integrate_from")
    noted(inference, "hand_off")
    usual = ["encode_images", "prompt_of", "drive", "start", "integrate_from"]
    assert model_1_5.infer(driving_sample(), num_candidates=2, **SHORT).trace is None
    assert order == usual
    order.clear()
    traced = model_1_5.infer(driving_sample(), num_candidates=2, keep_trace=True, **SHORT)
    assert traced.trace is not None
    assert order == [*usual[:3], "hand_off", *usual[3:]]


@pytest.mark.parametrize("multi_seq", [False, True])
def test_same_seed_same_result_another_seed_another(multi_seq: bool, model: Model) -> None:
    first, again, other = (
        model.infer(driving_sample(), num_candidates=2, multi_seq=multi_seq, seed=seed, **SHORT)
        for seed in (3, 3, 4)
    )
    assert torch.equal(actions(first), actions(again))
    assert first.generated_token_ids == again.generated_token_ids
    assert not torch.allclose(actions(first), actions(other), atol=1e-3)


def test_tokens_differ_by_seed_and_by_row(model_1_5: Model) -> None:
    # A flat distribution: with temperature 100 two draws of eight tokens never agree.
    results = [
        model_1_5.infer(
            driving_sample(), num_candidates=3, multi_seq=True, seed=s, temperature=100.0, top_p=1, **SHORT
        )
        for s in (0, 1)
    ]
    rows = [tuple(row) for result in results for row in result.generated_token_ids]
    assert len(set(rows)) == 6


@pytest.mark.parametrize("multi_seq", [False, True])
def test_a_candidate_does_not_depend_on_how_many_there_are(multi_seq: bool, model: Model) -> None:
    few, many = (
        model.infer(driving_sample(), num_candidates=k, multi_seq=multi_seq, keep_trace=True, **SHORT)
        for k in (2, 5)
    )
    assert few.trace is not None
    assert many.trace is not None
    assert torch.equal(few.trace.noise, many.trace.noise[:2])
    assert few.generated_token_ids == many.generated_token_ids[: len(few.generated_token_ids)]
    assert torch.allclose(actions(few), actions(many)[:2], **NEAR)


def test_six_candidates_equal_six_runs_of_one_with_their_noise(model: Model) -> None:
    noise = draw_noise(6, 64, 9)
    together = model.infer(driving_sample(), num_candidates=6, noise=noise, **SHORT)
    for k in range(6):
        alone = model.infer(driving_sample(), num_candidates=1, noise=noise[[k]], **SHORT)
        assert alone.generated_token_ids == together.generated_token_ids
        assert torch.allclose(actions(alone)[0], actions(together)[k], **NEAR)


def test_greedy_rows_of_multi_sequence_mode_equal_single_mode(model: Model) -> None:
    single = model.infer(driving_sample(), num_candidates=3, temperature=0, **SHORT)
    multi = model.infer(driving_sample(), num_candidates=3, temperature=0, multi_seq=True, **SHORT)
    assert multi.generated_token_ids == single.generated_token_ids * 3
    assert multi.stop_reasons == single.stop_reasons * 3
    assert torch.allclose(actions(multi), actions(single), **NEAR)


def test_row_zero_of_multi_sequence_mode_is_what_single_mode_samples(model: Model) -> None:
    single = model.infer(driving_sample(), num_candidates=1, temperature=5.0, **SHORT)
    multi = model.infer(driving_sample(), num_candidates=3, temperature=5.0, multi_seq=True, **SHORT)
    assert multi.generated_token_ids[0] == single.generated_token_ids[0]
    assert torch.allclose(actions(multi)[0], actions(single)[0], **NEAR)


@pytest.mark.parametrize("setting", [{"top_k": 1}, {"top_p": 0.0}, {"temperature": 0}])
def test_spellings_of_greedy_agree_and_forget_the_seed(setting: dict[str, float], model_1_5: Model) -> None:
    noise = draw_noise(1, 64, 0)
    plain = model_1_5.infer(driving_sample(), num_candidates=1, temperature=0, noise=noise, **SHORT)
    other = model_1_5.infer(driving_sample(), num_candidates=1, noise=noise, seed=77, **setting, **SHORT)
    assert other.generated_token_ids == plain.generated_token_ids
    assert torch.equal(actions(other), actions(plain))


@pytest.mark.parametrize("multi_seq", [False, True])
def test_guidance_of_weight_one_equals_none_and_another_weight_does_not(
    multi_seq: bool, model_1_5: Model
) -> None:
    sample = driving_sample(navigation="Turn left")
    plain, one, two = (
        model_1_5.infer(sample, num_candidates=2, multi_seq=multi_seq, guidance_weight=w, **SHORT)
        for w in (None, 1, 2.0)
    )
    assert torch.allclose(actions(one), actions(plain), **NEAR)
    assert not torch.allclose(actions(two), actions(plain), atol=1e-3)


def test_guidance_of_weight_zero_drives_as_if_the_same_words_had_no_navigation(model_1_5: Model) -> None:
    sample = driving_sample(navigation="Turn left")
    unguided = model_1_5.infer(sample, num_candidates=2, guidance_weight=0.0, keep_trace=True, **SHORT)
    assert unguided.trace is not None
    assert unguided.trace.unguided is not None
    only = model_1_5.engine.denoise(unguided.trace.noise, 3, unguided.trace.unguided)
    assert torch.allclose(unguided.trace.action, only, **NEAR)
    assert unguided.trace.unguided_prompt is not None
    assert len(unguided.trace.unguided_prompt) < len(unguided.trace.prompt)
    assert "route" not in unguided.trace.unguided_prompt.text


def test_guidance_without_navigation_is_an_input_error(model_1_5: Model) -> None:
    for sample in (driving_sample(), question_sample()):
        with pytest.raises(InputError, match="guidance_weight: given without navigation"):
            model_1_5.infer(sample, guidance_weight=1.5)


def test_question_needs_no_history_and_gets_an_answer(model_1_5: Model) -> None:
    result = model_1_5.infer(question_sample(), temperature=0, max_generate_length=5)
    assert result.trajectories is result.rotations is result.actions is None
    assert isinstance(result.answer, str)
    assert result.reasoning == []
    assert len(result.generated_token_ids) == 1
    assert 1 <= len(result.generated_token_ids[0]) <= 5
    assert set(result.milliseconds) == {"preprocess", "vision", "prefill", "decode", "total"}


def test_an_answer_may_say_what_a_rollout_may_not(model_1_5: Model) -> None:
    driving, question = model_1_5.stop_rule(DRIVING), model_1_5.stop_rule(QUESTION)
    first = model_1_5.config.traj_token_start
    assert driving.masked == ((first, first + 4000),)
    assert driving.closing == model_1_5.tokenizer.future_start
    assert (question.masked, question.closing) == ((), None)
    assert driving.end == question.end == model_1_5.tokenizer.id("<|im_end|>")


def test_given_noise_is_used_and_checked(model_1_5: Model) -> None:
    noise = torch.zeros(2, 64, 2)
    result = model_1_5.infer(driving_sample(), num_candidates=2, noise=noise, keep_trace=True, **SHORT)
    assert result.trace is not None
    assert torch.equal(result.trace.noise, noise)
    assert torch.allclose(actions(result)[0], actions(result)[1], **NEAR)
    bad = noise.clone()
    bad[0, 0, 0] = torch.nan
    for wrong in (noise[:1], noise[..., :1], noise.mT, bad):
        with pytest.raises(InputError, match=r"noise: shape .*\(2, 64, 2\)"):
            model_1_5.infer(driving_sample(), num_candidates=2, noise=wrong, **SHORT)


@pytest.mark.parametrize("steps", [1, 2, 7])
def test_any_number_of_steps_is_that_many_updates(steps: int, model_1_5: Model) -> None:
    result = model_1_5.infer(
        driving_sample(), num_candidates=2, num_diffusion_steps=steps, max_generate_length=4, keep_trace=True
    )
    assert result.trace is not None
    velocity = model_1_5.engine.velocity_field(result.trace.hand_off)
    x = result.trace.noise
    for i in range(steps):
        x = x + velocity(x, torch.tensor(i / steps)) / steps
    assert torch.allclose(result.trace.action, x, rtol=1e-4, atol=1e-4)


CAMERAS = [(0,), (1,), (6,), (0, 1, 2, 6), (6, 3), (0, 1, 2, 3, 4, 5, 6)]


@pytest.mark.parametrize(("cameras", "frames"), list(itertools.product(CAMERAS, (1, 3))))
def test_any_cameras_and_frame_counts(cameras: tuple[int, ...], frames: int, model: Model) -> None:
    sample = driving_sample(cameras, frames)
    result = model.infer(
        sample, num_candidates=1, max_generate_length=2, num_diffusion_steps=1, keep_trace=True
    )
    assert result.trace is not None
    assert len(result.trace.prompt.image_slots) == 6 * len(cameras) * frames
    assert bool(actions(result).isfinite().all())


def test_prepared_patches_equal_the_frames_they_were_made_from(model_1_5: Model) -> None:
    frames, (xyz, rot) = random_frames(2, 1), straight_history()
    pixels, grid = preprocess(frames.flatten(0, 1), model_1_5.config.min_pixels, model_1_5.config.max_pixels)
    prepared = Sample(None, (0, 1), xyz, rot, prepared=PreparedImages(pixels, grid))
    from_frames = model_1_5.infer(Sample(frames, (0, 1), xyz, rot), num_candidates=1, **SHORT)
    assert torch.equal(actions(model_1_5.infer(prepared, num_candidates=1, **SHORT)), actions(from_frames))


@pytest.mark.parametrize(
    ("said", "reasoning"),
    [
        ("stop now<|cot_end|><|traj_future_start|>", "stop now"),
        ("stop now<|traj_future_start|>", "stop now"),
        ("stop<|cot_end|>go<|cot_end|>", "stop"),
        ("well<|cot_start|> stop <|cot_end|>", "stop"),
        ("stop<|im_end|>", "stop"),
        ("<|cot_end|>x", ""),
    ],
)
def test_reasoning_is_the_text_before_its_closing_marker(said: str, reasoning: str, model: Model) -> None:
    assert model.text_of(model.tokenizer.encode(said), DRIVING) == reasoning


def test_answer_ends_at_its_own_marker(model_1_5: Model) -> None:
    ids = model_1_5.tokenizer.encode("yes<|cot_end|>it is<|answer_end|>or not<|im_end|>")
    assert model_1_5.text_of(ids, QUESTION) == "yes<|cot_end|>it is"


def test_settings_are_checked_before_any_work(model_1_5: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*args: object) -> None:
        raise AssertionError("the engine ran")

    monkeypatch.setattr(model_1_5.engine, "encode_images", never)
    with pytest.raises(InputError, match="num_candidates"):
        model_1_5.infer(driving_sample(), num_candidates=0)
    with pytest.raises(InputError, match="history_xyz"):
        model_1_5.infer(Sample(random_frames(1, 1), (1,)))
