# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import pytest
import torch
from graphs import CPU, distance, session, small_network
from hypothesis import given
from hypothesis import strategies as st

from alpamayo_rt import Model
from alpamayo_rt.engine.attention import CachedAttention
from alpamayo_rt.engine.expert_runner import ExpertRunner
from alpamayo_rt.engine.kv_cache import PROMPT, KvCache
from alpamayo_rt.engine.onnx_session import OnnxSession
from alpamayo_rt.export.folder import write_model
from alpamayo_rt.export.unroll import unroll
from alpamayo_rt.model.network import Network
from alpamayo_rt.model.rotary import mrope_cos_sin

Small = tuple[Network, Model, OnnxSession]


@pytest.fixture(scope="module")
def network(model_1_5: Model) -> Network:
    return small_network(model_1_5.config)[0]


@pytest.fixture(scope="module")
def sessions(
    model_1_5: Model, network: Network, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, OnnxSession]:
    folder = tmp_path_factory.mktemp("experts")
    config = small_network(model_1_5.config)[1]
    return {c: session(folder / c, network, config, "expert", contract=c) for c in ("fused", "shared")}


def caches(layers: int, rows: int, heads: int, length: int, dim: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2 * layers, rows, heads, length, dim, generator=generator)


def eager_velocity(
    network: Network,
    x: torch.Tensor,
    time: float,
    positions: torch.Tensor,
    cache: torch.Tensor,
    seen: torch.Tensor,
) -> torch.Tensor:
    """`cache` (planes, B, heads, S, d), of which candidate b sees the places of `seen` (B, S)."""
    config = network.expert.config
    candidates, waypoints = x.shape[:2]
    planes, _, heads, length, dim = cache.shape
    store = KvCache.allocate(config, candidates * (length + waypoints), 0, 0, CPU, torch.float32)
    flat = cache.unflatten(0, (planes // 2, 2)).transpose(2, 3).reshape(planes // 2, 2, heads, -1, dim)
    store.claim(torch.full((candidates * length,), PROMPT), torch.arange(candidates * length))
    store.keys[:, :, : candidates * length], store.values[:, :, : candidates * length] = flat[:, 0], flat[:, 1]
    owner = torch.arange(candidates)
    past = (owner[:, None] == owner.repeat_interleave(length)) & seen.repeat(1, candidates)
    mask = torch.cat([past[:, None].expand(-1, waypoints, -1), torch.zeros(candidates, waypoints, 0)], 2).bool()
    own = owner[:, None] == owner.repeat_interleave(waypoints)
    mask = torch.cat([mask, own[:, None].expand(-1, waypoints, -1)], 2).flatten(0, 1)
    attend = CachedAttention(store, candidates * length, mask)
    cos_sin = mrope_cos_sin(positions.flatten(1), config)
    return network.expert(x, torch.tensor(time), *cos_sin, attend)


@given(
    candidates=st.integers(1, 4), places=st.integers(1, 40), hidden=st.integers(0, 39), seed=st.integers(0, 9)
)
def test_fused_at_any_number_of_candidates_and_places(
    network: Network, sessions: dict[str, OnnxSession], candidates: int, places: int, hidden: int, seed: int
) -> None:
    config, waypoints = network.expert.config, 64
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(candidates, waypoints, 2, generator=generator)
    cache = caches(1, candidates, config.num_kv_heads, places, config.head_dim, seed)
    seen = torch.rand(candidates, places, generator=generator) >= hidden / 40
    positions = (torch.arange(waypoints) + places).expand(3, candidates, -1).contiguous()
    mask = torch.zeros(candidates, 1, waypoints, places + waypoints)
    mask[..., :places] = torch.where(seen, 0.0, -1e30)[:, None, None]
    out = sessions["fused"].run(
        {
            "noisy_action": x,
            "timestep": torch.full((candidates, 1, 1), 0.3),
            "position_ids": positions,
            "attention_mask": mask,
            "kv_cache": cache,
        }
    )["pred_velocity"]
    assert distance(out, eager_velocity(network, x, 0.3, positions, cache, seen)) < 1e-5


@given(
    candidates=st.integers(1, 4),
    prefix=st.tuples(st.integers(0, 30), st.integers(1, 9)),
    tail=st.integers(1, 7),
    seed=st.integers(0, 9),
)
def test_shared_at_any_lengths_and_capacities(
    network: Network,
    sessions: dict[str, OnnxSession],
    candidates: int,
    prefix: tuple[int, int],
    tail: int,
    seed: int,
) -> None:
    config, waypoints = network.expert.config, 64
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(candidates, waypoints, 2, generator=generator)
    seen_prefix, capacity = prefix[0], sum(prefix)
    common = caches(1, 1, config.num_kv_heads, capacity, config.head_dim, seed)
    own = caches(1, candidates, config.num_kv_heads, tail, config.head_dim, seed + 100)
    lengths = torch.randint(0, tail + 1, (candidates,), generator=generator, dtype=torch.int32)
    positions = (torch.arange(waypoints) + seen_prefix).expand(3, candidates, -1).contiguous()
    out = sessions["shared"].run(
        {
            "noisy_action": x,
            "timestep": torch.tensor([0.7]),
            "dt": torch.tensor([0.1]),
            "position_ids": positions,
            "kv_prefix": common,
            "prefix_length": torch.tensor([seen_prefix], dtype=torch.int32),
            "kv_tail": own,
            "tail_length": lengths,
        }
    )
    cache = torch.cat([common.expand(-1, candidates, -1, -1, -1), own], 3)
    seen = torch.cat(
        [
            (torch.arange(capacity) < seen_prefix).expand(candidates, -1),
            torch.arange(tail) < lengths[:, None],
        ],
        1,
    )
    expected = eager_velocity(network, x, 0.7, positions, cache, seen)
    assert distance(out["pred_velocity"], expected) < 1e-5
    torch.testing.assert_close(out["next_action"], x + 0.1 * out["pred_velocity"])


def test_unrolled_steps_are_the_steps_one_by_one(
    model_1_5: Model, sessions: dict[str, OnnxSession], tmp_path: Path
) -> None:
    import onnx_ir as ir

    from alpamayo_rt.engine.bindings import expert_bindings
    from alpamayo_rt.engine.hand_off import hand_off_from_arrays

    config = small_network(model_1_5.config)[1]
    model = ir.load(sessions["shared"].path)
    nodes = len(list(model.graph))
    unroll(model, expert_bindings(config, "shared-loop", torch.float32), 3)
    assert len(list(model.graph)) < 3 * nodes  # positions and masks are there once
    write_model(tmp_path, model, {"part": "expert", "contract": "shared-loop", "steps": "3"})
    whole = OnnxSession(tmp_path / "model.onnx", CPU)
    assert [b.name for b in whole.outputs] == ["action"]
    c = config.language
    keys, values = (torch.randn(1, 2, c.num_kv_heads, 9, c.head_dim) for _ in range(2))
    handed = hand_off_from_arrays(
        c,
        keys,
        values,
        torch.ones(2, 9 + 64).bool(),
        torch.arange(64).expand(3, 2, -1) + 9,
        [0, 1],
        CPU,
        torch.float32,
    )
    noise = torch.randn(2, 64, 2)
    ours = ExpertRunner(whole, "shared-loop").denoise(noise, 3, handed)
    theirs = ExpertRunner(sessions["shared"], "shared").denoise(noise, 3, handed)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
