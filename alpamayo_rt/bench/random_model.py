# SPDX-License-Identifier: Apache-2.0
"""Networks without a checkpoint: filled at once, or layer by layer while they run."""

from __future__ import annotations

import torch
from torch import nn

from alpamayo_rt.bench.weights import Filler, Streamed, StreamedEmbedding, StreamedHead, Weights
from alpamayo_rt.checkpoint import materialize_buffers
from alpamayo_rt.config import ModelConfig
from alpamayo_rt.model.network import Network
from alpamayo_rt.quantization.plan import Plan


def build_network(
    config: ModelConfig, weights: Weights, device: torch.device, dtype: torch.dtype, precision: str
) -> Network:
    """A network on a device; never holds more than what it ends with and one layer.

    Args:
        config: its sizes.
        weights: where they come from.
        device: where they go.
        dtype: of all that is not narrowed.
        precision: of `parts.label_of`: fp8 and int4 narrow the language model, fp8+vision another part too.
    """
    network, filler = _empty(config, weights, device, dtype, precision)
    filler.fill(network, "")
    return network.eval()


def streamed_network(
    config: ModelConfig, weights: Weights, device: torch.device, dtype: torch.dtype, precision: str
) -> Network:
    """The same network with nothing but small tensors in memory: a layer is there while it runs."""
    network, filler = _empty(config, weights, device, dtype, precision)
    vision, language, expert = network.vision, network.language, network.expert
    large: list[tuple[str, nn.Module]] = [("vision.merger", vision.merger)]
    for path, parts in (
        ("vision.blocks", vision.blocks),
        ("vision.deepstack_merger_list", vision.deepstack_merger_list),
        ("language.layers", language.layers),
        ("expert.decoder.layers", expert.decoder.layers),
    ):
        large += [(f"{path}.{i}", part) for i, part in enumerate(parts)]
    streams: dict[str, nn.Module] = {path: Streamed(module, path, filler) for path, module in large}
    table, head = "language.embed_tokens", "language.lm_head"
    streams[table] = StreamedEmbedding(language.embed_tokens, table, filler)
    streams[head] = StreamedHead(language.lm_head, head, filler)
    for path in streams:
        network.set_submodule(path, nn.Identity())
    Filler(weights, dtype).fill(network, "")
    for path, stream in streams.items():
        network.set_submodule(path, stream)
    return network.eval()


def network_bytes(config: ModelConfig, dtype: torch.dtype, precision: str) -> int:
    """Bytes of the weights of such a network."""
    with torch.device("meta"):
        network = Network(config).to(dtype)
    plan = Plan.named(precision)
    if plan is not None:
        for name in plan.layers(network):
            linear = network.get_submodule(name)
            assert isinstance(linear, nn.Linear)
            network.set_submodule(name, plan.empty(linear))
    return sum(p.numel() * p.element_size() for p in network.parameters())


def _empty(
    config: ModelConfig, weights: Weights, device: torch.device, dtype: torch.dtype, precision: str
) -> tuple[Network, Filler]:
    with torch.device("meta"):
        network = Network(config)
    materialize_buffers(network, config, device, dtype)
    plan = Plan.named(precision)
    narrowed = frozenset(plan.layers(network)) if plan is not None else frozenset()
    return network, Filler(weights, dtype, plan, narrowed)
