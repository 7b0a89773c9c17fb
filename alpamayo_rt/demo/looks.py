# SPDX-License-Identifier: Apache-2.0
"""Colour of a place on a box: windows, lamps, digits, stripes; computed only where a box is seen."""

from __future__ import annotations

import torch
from torch import Tensor

from alpamayo_rt.demo.actors import BRAKE_LAMPS, HAZARD_LAMPS
from alpamayo_rt.demo.arrays import KIND, ROAD
from alpamayo_rt.demo.boxes import Hits
from alpamayo_rt.demo.scene_tensors import SceneTensors

_DIGITS = {
    "0": ("111", "101", "101", "101", "111"),
    "2": ("111", "001", "111", "100", "111"),
    "3": ("111", "001", "111", "001", "111"),
    "5": ("111", "100", "111", "001", "111"),
}
SIGN_NUMBERS = (20, 30, 50)
# The plate's ground differs too, so that the limit is readable where the digits are not.
_SIGN_GROUND = ((1.0, 0.85, 0.10), (0.97, 0.97, 0.97), (0.55, 0.78, 1.0))


def _glyphs() -> list:
    return [
        [[float(bit) for bit in f"{_DIGITS[n[0]][r]}0{_DIGITS[n[1]][r]}"] for r in range(5)]
        for n in map(str, SIGN_NUMBERS)
    ]


def box_colours(scene: SceneTensors, hits: Hits) -> Tensor:
    """Colours (M, 3) of the hits, lit and hazy, 0..1 or a little above."""
    _, frames, views = scene.camera_yaw.shape
    n = scene.box_kind.shape[1]
    box = hits.box % n
    frame = torch.div(hits.box, n * views, rounding_mode="floor")  # flat over (B, F)
    b = torch.div(frame, frames, rounding_mode="floor")
    flat = b * n + box
    kind = scene.box_kind.flatten()[flat]
    size = scene.box_size.flatten(0, 1)[flat]
    state = scene.box_state.flatten()[frame * n + box]
    colour = scene.box_colour.flatten(0, 1)[flat]
    heading = scene.box_pose.flatten(0, 2)[frame * n + box, 2]

    x, y, z = hits.local.unbind(-1)
    half = 0.5 * size[:, :3]
    nx, ny, nz = x / half[:, 0], y / half[:, 1], z / half[:, 2]
    side = torch.where(hits.axis == 0, ny, nx)  # -1..1 along a vertical face
    rear = (hits.axis == 0) & (hits.sign < 0)
    front = (hits.axis == 0) & (hits.sign > 0)
    wall = hits.axis < 2
    glow = torch.zeros_like(x, dtype=torch.bool)
    dim = scene.weather.dim[b]

    def paint(where: Tensor, rgb: tuple[float, float, float], shines: bool = False) -> None:
        nonlocal colour, glow
        colour = torch.where(where[:, None], colour.new_tensor(rgb), colour)
        glow = glow | where if shines else glow & ~where

    def of(*names: str) -> Tensor:
        return sum((kind == KIND[name] for name in names), torch.zeros_like(glow))

    car, truck, cabin = of("car"), of("truck"), of("cabin")
    above = z + half[:, 2] + size[:, 3]
    wheel_x = x.abs() - 0.62 * half[:, 0]
    wheels = (car | truck) & (hits.axis == 1) & (wheel_x**2 + (above - 0.36) ** 2 < 0.40**2)
    paint(wheels | (truck & wall & (above < 0.62)), (0.05, 0.05, 0.05))
    paint(cabin & wall & (nz > -0.85) & (nz < 0.62) & (side.abs() < 0.9), (0.13, 0.17, 0.22))
    paint(truck & front & (nz.abs() < 0.5) & (ny.abs() < 0.85), (0.13, 0.17, 0.22))
    paint(car & front & (ny.abs() > 0.58) & (nz > 0.0), (1.0, 0.98, 0.85), True)
    paint(car & rear & (ny.abs() < 0.25) & (nz.abs() < 0.3), (0.8, 0.8, 0.78))
    lamps = rear & (
        (car & (ny.abs() > 0.5) & (nz > -0.15)) | (truck & (ny.abs() > 0.5) & (nz < -0.4) & (above > 0.62))
    )
    paint(lamps, (0.30, 0.02, 0.03))
    high = rear & (cabin & (nz > 0.62) & (ny.abs() < 0.5))
    braking = state == BRAKE_LAMPS
    paint((lamps | high) & braking & of("car", "truck", "cabin"), (1.0, 0.06, 0.04), True)
    paint(lamps & (state == HAZARD_LAMPS), (1.0, 0.62, 0.0), True)

    light = of("light") & rear
    for place, shown, rgb, off in (
        (0.85, 0, (1.0, 0.08, 0.05), (0.22, 0.05, 0.05)),
        (0.0, -1, (1.0, 0.7, 0.0), (0.18, 0.14, 0.04)),
        (-0.85, 1, (0.05, 1.0, 0.35), (0.04, 0.16, 0.08)),
    ):
        lamp = light & (y * y + (z - place) ** 2 < 0.40**2)
        paint(lamp & (state != shown), off)
        paint(lamp & (state == shown), rgb, True)

    sign = of("sign")
    radius = torch.sqrt(y * y + z * z)
    column = ((0.38 - y) * (7 / 0.76)).floor().long()
    row = ((0.27 - z) * (5 / 0.54)).floor().long()
    inside = (column >= 0) & (column < 7) & (row >= 0) & (row < 5)
    for i, number in enumerate(SIGN_NUMBERS):
        mine = sign & rear & (state == number)
        ring = (0.25, 0.30, 0.45) if number == 50 else (0.85, 0.05, 0.08)
        paint(mine & (radius < 0.60), ring)
        paint(mine & (radius < 0.46), _SIGN_GROUND[i])
        glyph = colour.new_tensor(_glyphs()[i]).flatten()
        ink = inside & (glyph[(row.clamp(0, 4) * 7 + column.clamp(0, 6))] > 0.5)
        paint(mine & ink, (0.05, 0.05, 0.08))
    paint(sign & ~rear, (0.45, 0.46, 0.48))

    chevron = of("chevron") & (hits.axis == 0)
    # Seen from behind, +y is on the viewer's left.
    lean = torch.where(state == 1, -y, y)
    paint(chevron & (torch.remainder(lean - z.abs(), 0.65) < 0.36), (0.85, 0.08, 0.10))

    house = of("building") & wall
    along = torch.where(hits.axis == 0, y, x)
    window = house & (torch.remainder(along, 3.0) < 1.5) & (torch.remainder(above, 3.2) > 1.3)
    lit = dim & (torch.sin(along.div(3.0).floor() * 12.9 + above.div(3.2).floor() * 78.2) > 0.3)
    paint(window, (0.22, 0.26, 0.32))
    paint(window & lit, (0.85, 0.70, 0.42), True)
    paint(of("building") & ~wall, (0.42, 0.30, 0.26))
    paint(of("tree") & wall & (nz < -0.62), (0.20, 0.15, 0.10))
    leaves = 1 + 0.18 * torch.sin(5.0 * x + 3.0 * z) * torch.sin(4.0 * y - 2.0 * z) * of("tree")
    return _lit(scene, b, hits, colour * leaves[:, None], glow, heading)


def _lit(scene: SceneTensors, b: Tensor, hits: Hits, colour: Tensor, glow: Tensor, heading: Tensor) -> Tensor:
    """Sun and haze; what shines itself keeps its colour."""
    weather = scene.weather
    sun = scene.road[b, ROAD["sun"]]
    normal = (
        heading + torch.where(hits.axis == 1, torch.pi / 2, 0.0) + torch.where(hits.sign < 0, torch.pi, 0.0)
    )
    facing = torch.where(hits.axis == 2, 0.8, torch.cos(normal - sun).clamp(min=0.0))
    shade = torch.where(hits.axis == 1, 0.92, 1.0)[:, None] * weather.ambient[b]
    lit = colour * (shade + facing[:, None] * weather.sun[b])
    lit = torch.where(glow[:, None], colour, lit)
    haze = 1 - torch.exp(-hits.depth / weather.haze_length[b])
    haze = torch.where(glow, 0.4 * haze, haze)
    return torch.lerp(lit, weather.sky_low[b], haze[:, None])
