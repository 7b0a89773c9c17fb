# SPDX-License-Identifier: Apache-2.0
"""What is written of Alpamayo 2 Super and read again: narrowed checkpoints, exports, cache dumps."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from situations import random_frames, straight_history

from alpamayo_rt import Model, Sample, load
from alpamayo_rt.dump import read_dump, replay, write_dump
from alpamayo_rt.export.folder import open_export, write_config
from alpamayo_rt.prompt.prompt import prepare_images
from alpamayo_rt.prompt.tokenizer import PromptTokenizer
from alpamayo_rt.quantization.plan import Plan
from alpamayo_rt.quantization.saving import save_quantized


def turn() -> Sample:
    xyz, rot = straight_history()
    return Sample(random_frames(2, 1), (1, 6), xyz, rot, navigation="Turn left in 40m")


def test_narrowed_checkpoint_takes_its_tokenizer_along(model_2_super: Model, tmp_path: Path) -> None:
    out = tmp_path / "int4"
    save_quantized(model_2_super.checkpoint, out, Plan("int4"))
    assert (out / "tokenizer.json").is_file()
    assert not (out / "backbone").exists()
    narrow = load(str(out), "eager", device="cpu")
    assert narrow.engine.precision == "int4"
    assert narrow.config == replace(model_2_super.config, folder=narrow.config.folder)
    result = narrow.infer(turn(), num_candidates=1, num_diffusion_steps=1, max_generate_length=2)
    assert result.trajectories is not None
    images = prepare_images(turn(), model_2_super.config, torch.device("cpu"))
    assert result.prompt_tokens == len(model_2_super.prompt_of(turn(), images))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_export_opens_with_the_statistics_that_the_network_uses(
    precision: str, super_folder: Path, tmp_path: Path
) -> None:
    model = load(str(super_folder), "eager", precision, "cpu")
    statistics = model.engine.network.action_space  # type: ignore[attr-defined]
    write_config(tmp_path, model.checkpoint, statistics)
    opened = open_export(tmp_path)
    assert opened.fingerprint() == model.checkpoint.fingerprint()
    space = opened.config.action_space
    assert space.curvature_std == float(statistics.curvature_std)
    rest = {name: getattr(space, name) for name in ("still_below", "curvature_bounds", "a_ridge")}
    assert rest == {name: getattr(model.config.action_space, name) for name in rest}
    assert PromptTokenizer(opened.backbone, opened.config).encode("<i0>") == [model.config.traj_token_start]


def test_guided_dump_is_replayed(model_2_super: Model, tmp_path: Path) -> None:
    result = model_2_super.infer(
        turn(),
        num_candidates=2,
        num_diffusion_steps=2,
        max_generate_length=4,
        guidance_weight=3.0,
        keep_trace=True,
    )
    write_dump(tmp_path / "d.safetensors", model_2_super, turn(), result)
    dump = read_dump(tmp_path / "d.safetensors")
    assert dump.guidance_weight == 3.0
    assert dump.metadata["family"] == "alpamayo2_super"
    action = replay(model_2_super, dump)
    torch.testing.assert_close(action, dump.tensors["action"], rtol=1e-4, atol=1e-5)
    guided, plain = dump.tensors["tokens"], dump.tensors["unguided_tokens"]
    assert guided.shape[1] > plain.shape[1]
