# SPDX-License-Identifier: Apache-2.0
"""What a checkpoint has to look like, and the sentence for each way in which it does not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from checkpoint_files import Tensors, copied, edit_header, edit_json, edit_tensors, shard
from safetensors.torch import load_file

from alpamayo_rt import ModelError
from alpamayo_rt.checkpoint import load_network, open_checkpoint

INDEX = "model.safetensors.index.json"
SHARDS = [f"model-{i:05}-of-00003.safetensors" for i in (1, 2, 3)]
NORM = "vlm.model.language_model.layers.1.input_layernorm.weight"
STATISTIC = "action_space.accel_std"
Q_PROJ = "expert.layers.0.self_attn.q_proj.weight"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return copied(tmp_path)


def load_weights(folder: Path, dtype: torch.dtype = torch.float32) -> torch.nn.Module:
    return load_network(open_checkpoint(str(folder)), torch.device("cpu"), dtype)


def drop(*names: str) -> Callable[[Tensors], object]:
    return lambda tensors: [tensors.pop(name) for name in names]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop(NORM), f"1 tensor\\(s\\) missing: {NORM}$"),
        (drop("vlm.lm_head.weight"), "missing: vlm.lm_head.weight"),
        (drop("action_out_proj.bias"), "missing: action_out_proj.bias"),
        (drop("vlm.model.visual.merger.norm.bias"), "missing: vlm.model.visual.merger.norm.bias"),
        (lambda t: t.update({"vlm.model.extra": t[NORM].clone()}), r"unexpected: vlm.model.extra"),
        (lambda t: t.update(stray=t[NORM].clone()), r"unexpected: stray"),
        # statistics belong to R1 checkpoints alone
        (lambda t: t.update({STATISTIC: torch.ones(())}), f"unexpected: {STATISTIC}"),
        (lambda t: t.update({NORM: t[NORM][:-1].clone()}), rf"misshapen: {NORM} \[127\], expected \[128\]"),
        (lambda t: t.update({Q_PROJ: t[Q_PROJ].T.contiguous()}), r"\[96, 128\], expected \[128, 96\]"),
        (lambda t: t.update({NORM: t[NORM].to(torch.int8)}), rf"unsupported type .*: {NORM} I8"),
        (lambda t: t.update({NORM: t[NORM].double()}), rf"unsupported type .*: {NORM} F64"),
        (lambda t: t.update({NORM: t[NORM].to(torch.float8_e4m3fn)}), rf"unsupported type .*: {NORM} F8_E4M3"),
    ],
)  # fmt: skip
def test_tensor_that_does_not_fit_is_named(
    change: Callable[[Tensors], object], message: str, folder: Path
) -> None:
    edit_tensors(folder, change)
    with pytest.raises(ModelError, match=message):
        load_weights(folder)


def test_all_kinds_of_misfits_are_told_at_once_three_names_each(folder: Path) -> None:
    layer = "vlm.model.language_model.layers.2."
    names: list[str] = []

    def change(tensors: Tensors) -> None:
        names.extend(sorted(n for n in tensors if n.startswith(layer)))
        tensors["stray"] = tensors[NORM].clone()
        for name in names:
            del tensors[name]

    edit_tensors(folder, change)
    with pytest.raises(ModelError) as caught:
        load_weights(folder)
    text = str(caught.value)
    assert f"{len(names)} tensor(s) missing: " in text
    assert sum(name in text for name in names) == 3
    assert "…; 1 tensor(s) unexpected: stray" in text
    assert "\n" not in text


def cut(path: Path, keep: int) -> None:
    path.write_bytes(path.read_bytes()[:keep])


@pytest.mark.parametrize("keep", [0, 5, 8, 300, 100_000, -1])
def test_truncated_file_is_named(keep: int, folder: Path) -> None:
    cut(folder / "model.safetensors", keep)
    with pytest.raises(ModelError, match=r"model\.safetensors: truncated or not a safetensors file"):
        open_checkpoint(str(folder))


def test_file_with_more_data_than_described_is_refused(folder: Path) -> None:
    with (folder / "model.safetensors").open("ab") as file:
        file.write(b"tail")
    with pytest.raises(ModelError, match="its header describes"):
        open_checkpoint(str(folder))


@pytest.mark.parametrize(
    "content",
    [
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 22\n",
        (2**62).to_bytes(8, "little") + b"{}",
        (2).to_bytes(8, "little") + b"[]",
        (9).to_bytes(8, "little") + b'{"a": 17}',
        (4).to_bytes(8, "little") + b"\xff\xfe\x00\x00",
    ],
    ids=["lfs pointer", "length", "list", "entry", "not text"],
)
def test_damaged_header_is_named(content: bytes, folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(ModelError, match="truncated or not a safetensors file"):
        open_checkpoint(str(folder))


def test_header_that_contradicts_its_own_sizes_is_refused_while_loading(folder: Path) -> None:
    edit_header(folder / "model.safetensors", lambda header: header[NORM].update(dtype="F32"))
    with pytest.raises(ModelError, match=r"model\.safetensors: cannot be read"):
        load_weights(folder)


def test_folder_without_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"neither model\.safetensors nor model\.safetensors\.index\.json"):
        open_checkpoint(str(folder))


def test_shards_give_the_same_network_as_one_file(folder: Path) -> None:
    whole = load_weights(folder).state_dict()
    shard(folder)
    lines: list[str] = []
    network = load_network(open_checkpoint(str(folder)), torch.device("cpu"), torch.float32, lines.append)
    parts = network.state_dict()
    assert parts.keys() == whole.keys()
    assert all(torch.equal(parts[name], whole[name]) for name in whole)
    assert lines == [f"loading {name} ({i + 1} of 3)" for i, name in enumerate(SHARDS)]


def test_missing_shard(folder: Path) -> None:
    shard(folder)
    (folder / SHARDS[1]).unlink()
    with pytest.raises(ModelError, match=f"{SHARDS[1]}: missing, expected a shard"):
        open_checkpoint(str(folder))


def test_truncated_shard(folder: Path) -> None:
    shard(folder)
    cut(folder / SHARDS[2], 5000)
    with pytest.raises(ModelError, match=f"{SHARDS[2]}: truncated"):
        open_checkpoint(str(folder))


def test_tensor_that_the_index_places_elsewhere(folder: Path) -> None:
    where = shard(folder)[NORM]
    other = next(name for name in SHARDS if name != where)
    edit_json(folder / INDEX, lambda index: index["weight_map"].update({NORM: other}))
    with pytest.raises(ModelError, match=rf"{where}: holds tensor {NORM}, which the index places in {other}"):
        open_checkpoint(str(folder))


def test_tensor_that_the_index_does_not_list(folder: Path) -> None:
    where = shard(folder)[NORM]
    edit_json(folder / INDEX, lambda index: index["weight_map"].pop(NORM))
    with pytest.raises(ModelError, match=rf"{where}: holds tensor {NORM}, which the index does not list"):
        open_checkpoint(str(folder))


def test_index_that_names_a_tensor_which_is_not_there(folder: Path) -> None:
    shard(folder)
    edit_json(folder / INDEX, lambda index: index["weight_map"].update(ghost=SHARDS[0]))
    with pytest.raises(ModelError, match=f"{SHARDS[0]}: tensor ghost is missing, the index places it there"):
        open_checkpoint(str(folder))


@pytest.mark.parametrize("where", ["../model.safetensors", "/etc/passwd", "sub/model.safetensors", 5, None])
def test_index_may_only_name_files_beside_it(where: object, folder: Path) -> None:
    shard(folder)
    edit_json(folder / INDEX, lambda index: index["weight_map"].update({NORM: where}))
    with pytest.raises(ModelError, match="expected a file name in the same folder"):
        open_checkpoint(str(folder))


@pytest.mark.parametrize("index", [{}, {"weight_map": {}}, {"weight_map": ["a"]}])
def test_index_without_a_map(index: dict, folder: Path) -> None:
    shard(folder)
    edit_json(folder / INDEX, lambda value: (value.clear(), value.update(index)))
    with pytest.raises(ModelError, match="weight_map missing"):
        open_checkpoint(str(folder))


def test_fingerprint_follows_the_content_not_the_place(folder: Path, tmp_path: Path) -> None:
    elsewhere = copied(tmp_path / "elsewhere")
    first = open_checkpoint(str(folder)).fingerprint()
    assert first == open_checkpoint(str(elsewhere)).fingerprint()
    edit_tensors(folder, lambda tensors: [t.mul_(1.5) for t in tensors.values()])
    changed = open_checkpoint(str(folder)).fingerprint()
    edit_json(elsewhere / "config.json", lambda config: config["diffusion_cfg"].update(num_inference_steps=5))
    other_config = open_checkpoint(str(elsewhere)).fingerprint()
    assert len({first, changed, other_config}) == 3
    assert all(len(f) == 16 and set(f) <= set("0123456789abcdef") for f in (first, changed))


@pytest.mark.parametrize("block", [0, 7, 15])
def test_fingerprint_sees_one_byte_in_any_sampled_block(block: int, folder: Path) -> None:
    path = folder / "model.safetensors"
    before = open_checkpoint(str(folder)).fingerprint()
    raw = bytearray(path.read_bytes())
    raw[len(raw) * block // 16 + 60_000] ^= 1
    path.write_bytes(raw)
    assert open_checkpoint(str(folder)).fingerprint() != before


def test_loaded_weights_are_frozen_and_exact(folder: Path) -> None:
    network = load_weights(folder)
    assert all(not p.requires_grad for p in network.parameters())
    assert not network.training
    stored = load_file(folder / "model.safetensors")[NORM]
    assert torch.equal(network.get_parameter("language.layers.1.input_layernorm.weight"), stored.float())


def test_listed_tensors_say_type_shape_and_shard(folder: Path) -> None:
    where = shard(folder)
    tensors = open_checkpoint(str(folder)).tensors
    assert {name: tensor.shard for name, tensor in tensors.items()} == where
    assert (tensors[Q_PROJ].dtype, tensors[Q_PROJ].shape, tensors[Q_PROJ].numel) == ("BF16", (128, 96), 12288)
