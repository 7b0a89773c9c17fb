# SPDX-License-Identifier: Apache-2.0
"""What the device can do, measured in the same run, and what each stage has to do, counted."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from alpamayo_rt.bench.timing import Marks
from alpamayo_rt.bench.workloads import FRAMES, Request
from alpamayo_rt.config import ModelConfig, TextConfig, VisionConfig
from alpamayo_rt.model.network import Network
from alpamayo_rt.quantization.linear import Fp8Linear, has_fp8

_RUNS = 10


@dataclass(frozen=True)
class Ceilings:
    """Bytes a second of a large copy (read and written), operations a second of large matrix products."""

    copy: float
    product: float
    product_fp8: float | None

    def to_json(self) -> dict[str, float | None]:
        """The field of the record."""
        fp8 = None if self.product_fp8 is None else round(self.product_fp8 / 1e12, 3)
        return {
            "copy_tb_s": round(self.copy / 1e12, 4),
            "product_tflop_s": round(self.product / 1e12, 3),
            "product_fp8_tflop_s": fp8,
        }


def measure_ceilings(device: torch.device, dtype: torch.dtype) -> Ceilings:
    """Measure them; a second on a GPU, and small sizes on the CPU."""
    cuda = device.type == "cuda"
    size = 2**30 if cuda else 2**26
    source = torch.randint(0, 256, (size,), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    copy = 2 * size / _seconds(partial(target.copy_, source), device)
    del source, target
    shapes = [(3120, 4096, 12288), (3120, 12288, 4096), (8192, 8192, 8192)] if cuda else [(512, 512, 512)]
    product, narrow = 0.0, None
    for m, k, n in shapes:
        x = torch.randn(m, k, device=device, dtype=dtype)
        weight = torch.randn(n, k, device=device, dtype=dtype)
        product = max(product, 2 * m * k * n / _seconds(partial(torch.matmul, x, weight.t()), device))
        if has_fp8(device):
            rate = 2 * m * k * n / _seconds(_scaled_product(x, weight), device)
            narrow = max(rate, narrow or 0.0)
    return Ceilings(copy, product, narrow)


def _scaled_product(x: torch.Tensor, weight: torch.Tensor) -> Callable[[], object]:
    """The library's product of e4m3 matrices with a scale a row, without the rounding of its input."""
    a, b = x.to(torch.float8_e4m3fn), weight.to(torch.float8_e4m3fn)
    ones_a, ones_b = torch.ones(len(a), 1, device=a.device), torch.ones(1, len(b), device=a.device)
    return lambda: torch._scaled_mm(a, b.t(), scale_a=ones_a, scale_b=ones_b, out_dtype=torch.bfloat16)


def _seconds(run: Callable[[], object], device: torch.device) -> float:
    for _ in range(3):
        run()
    times = []
    for _ in range(_RUNS):
        marks = Marks(device)
        run()
        marks("run")
        times.append(marks.milliseconds()["run"])
    return statistics.median(times) / 1e3


@dataclass(frozen=True)
class Work:
    """Operations that a stage does, the fewest bytes that it moves, and whether its products are FP8."""

    flop: float
    bytes: float
    fp8: bool = False

    def floor_ms(self, ceilings: Ceilings) -> float:
        """No version takes much less."""
        rate = ceilings.product_fp8 if self.fp8 and ceilings.product_fp8 else ceilings.product
        return max(self.flop / rate, self.bytes / ceilings.copy) * 1e3

    def achieved(self, milliseconds: float, ceilings: Ceilings) -> dict[str, float]:
        """What a measured time comes to."""
        return {
            "tflop": round(self.flop / 1e12, 4),
            "gb": round(self.bytes / 1e9, 4),
            "tflop_s": round(self.flop / milliseconds / 1e9, 3),
            "tb_s": round(self.bytes / milliseconds / 1e9, 4),
            "floor_ms": round(self.floor_ms(ceilings), 4),
            "of_ceiling": round(self.floor_ms(ceilings) / milliseconds, 4),
        }


@dataclass(frozen=True)
class PartBytes:
    """Bytes of weights: those that a token of each part has to read, and all; the parts with FP8 products."""

    vision: int
    language: int
    expert: int
    total: int
    fp8: frozenset[str]


def part_bytes(network: Network) -> PartBytes:
    """Of a network as it was loaded. One row of the embeddings is read, so they do not count."""
    language = _bytes(network.language) - _bytes(network.language.embed_tokens)
    layers = {"language": network.language.layers, "vision": network.vision, "expert": network.expert}
    fp8 = frozenset(
        name for name, part in layers.items() if any(isinstance(m, Fp8Linear) for m in part.modules())
    )
    return PartBytes(_bytes(network.vision), language, _bytes(network.expert), _bytes(network), fp8)


def _bytes(module: nn.Module) -> int:
    return sum(p.numel() * p.element_size() for p in module.parameters())


def stage_work(weights: PartBytes, config: ModelConfig, request: Request, itemsize: int) -> dict[str, Work]:
    """The work of each stage of a workload.

    Args:
        weights: bytes of the parts.
        config: sizes.
        request: prompt length, images, candidates, sequences.
        itemsize: bytes of a value of cache and activations.
    """
    text, expert = config.language, config.expert
    length, w = len(request.prompt), request.workload
    slot = 2 * text.num_layers * text.num_kv_heads * text.head_dim * itemsize
    # Half of the tokens said lie in the cache on average.
    held = length + w.sequences * w.passes // 2
    own = w.candidates * config.action_space.n_waypoints
    read_by_expert = length + w.sequences * w.passes
    seen = length + w.passes + config.action_space.n_waypoints
    head = 2.0 * text.hidden_size * text.vocab_size
    causal = length * (length + 1) / 2
    decode = _decoder_flop(text, w.sequences, w.sequences * (length + w.passes / 2)) + w.sequences * head
    return {
        "vision": _vision_work(weights, config.vision, request, itemsize),
        "prefill": Work(
            _decoder_flop(text, length, causal) + head,
            weights.language + slot * length,
            "language" in weights.fp8,
        ),
        "decode_step": Work(decode, weights.language + slot * held, "language" in weights.fp8),
        "expert_step": Work(
            _decoder_flop(expert, own, own * seen),
            weights.expert + slot * read_by_expert,
            "expert" in weights.fp8,
        ),
    }


def _decoder_flop(c: TextConfig, tokens: float, pairs: float) -> float:
    """Of all layers; `pairs`: how many (query, key) pairs attend."""
    queries, keys = c.num_heads * c.head_dim, c.num_kv_heads * c.head_dim
    weights = c.hidden_size * (2 * queries + 2 * keys + 3 * c.intermediate_size)
    return c.num_layers * (2.0 * tokens * weights + 4.0 * pairs * queries)


def _vision_work(weights: PartBytes, c: VisionConfig, request: Request, itemsize: int) -> Work:
    # Of frames seen before only the newest of each camera is encoded.
    share = 1 / FRAMES if request.workload.cached else 1.0
    patches = [h * w for _, h, w in request.images.grid.tolist()]
    total = sum(patches) * share
    block = c.hidden_size * (4 * c.hidden_size + 2 * c.intermediate_size)
    flop = c.depth * (2.0 * total * block + 4.0 * c.hidden_size * sum(n * n for n in patches) * share)
    flop += 2.0 * total * request.images.pixel_values.shape[1] * c.hidden_size
    merged = c.hidden_size * c.merge_size**2
    tokens = total / c.merge_size**2
    flop += (1 + len(c.deepstack_layers)) * 2.0 * tokens * merged * (merged + c.out_hidden_size)
    written = (1 + len(c.deepstack_layers)) * tokens * c.out_hidden_size * itemsize
    read = total * request.images.pixel_values.shape[1] * itemsize
    return Work(flop, weights.vision + read + written, "vision" in weights.fp8)
