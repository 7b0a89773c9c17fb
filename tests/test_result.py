# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import math

import pytest
import torch
from situations import driving_sample, question_sample

from alpamayo_rt import Model, Result
from alpamayo_rt.action.unicycle import rotation_about_z


def test_driving_response_holds_the_fields_of_the_format(model_1_5: Model) -> None:
    result = model_1_5.infer(driving_sample(), num_candidates=2, max_generate_length=3, num_diffusion_steps=1)
    response = json.loads(json.dumps(result.to_json()))
    assert set(response) == {
        "reasoning", "generated_token_ids", "stop_reasons", "trajectories", "yaw", "actions",
        "output_trajectory", "prompt_tokens", "seed", "milliseconds",
    }  # fmt: skip
    assert torch.tensor(response["trajectories"]).shape == (2, 64, 3)
    assert torch.tensor(response["yaw"]).shape == (2, 64)
    assert response["actions"] == response["output_trajectory"]
    assert torch.allclose(torch.tensor(response["actions"]), result.actions, atol=1e-6)
    assert torch.allclose(torch.tensor(response["trajectories"]), result.trajectories, atol=1e-5)


def test_answer_has_no_trajectories(model_1_5: Model) -> None:
    response = model_1_5.infer(question_sample(), max_generate_length=3).to_json()
    assert "answer" in response
    assert not {"trajectories", "yaw", "actions", "output_trajectory"} & set(response)


def test_numbers_are_written_with_the_digits_that_they_have() -> None:
    yaw = torch.tensor([[0.1, -3.0, math.pi / 2]])
    result = Result(
        ["x"], [[1]], ["finished"], 7, 0, {"total": 1.23456},
        torch.full((1, 3, 3), 0.1), rotation_about_z(yaw), torch.full((1, 3, 2), -0.3),
    )  # fmt: skip
    response = result.to_json()
    assert response["trajectories"] == [[[0.1] * 3] * 3]
    assert response["actions"] == [[[-0.3] * 2] * 3]
    assert response["yaw"] == [[0.1, -3.0, pytest.approx(math.pi / 2, abs=1e-6)]]
    assert response["milliseconds"] == {"total": 1.235}
