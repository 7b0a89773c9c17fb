# SPDX-License-Identifier: Apache-2.0
"""Colour of the ground where a camera's rays meet it: grass, pavement, and paint filtered over the pixel."""

from __future__ import annotations

import torch
from torch import Tensor

from alpamayo_rt.demo.arrays import ROAD
from alpamayo_rt.demo.camera import HEIGHT, WIDTH, Camera
from alpamayo_rt.demo.road import LANE_WIDTH
from alpamayo_rt.demo.road_field import read_field
from alpamayo_rt.demo.scene_tensors import SceneTensors

LINE_WIDTH = 0.2
CORNER_RADIUS = 5.0
DASH, DASH_PERIOD = 3.0, 7.5


def band(x: Tensor, pixel: Tensor, low: Tensor | float, high: Tensor | float) -> Tensor:
    """Share of the pixel [x ± pixel/2] that lies in [low, high]."""
    top = torch.minimum(x + 0.5 * pixel, torch.as_tensor(high, device=x.device))
    bottom = torch.maximum(x - 0.5 * pixel, torch.as_tensor(low, device=x.device))
    return ((top - bottom) / pixel).clamp(0.0, 1.0)


def pulses(x: Tensor, pixel: Tensor, period: float, on: float) -> Tensor:
    """Share of the pixel in which a periodic pulse of length `on` is on."""

    def filled(t: Tensor) -> Tensor:
        whole = torch.floor(t / period)
        return whole * on + (t - whole * period).clamp(max=on)

    return (filled(x + 0.5 * pixel) - filled(x - 0.5 * pixel)) / pixel


def first_ground_row(camera: Camera) -> int:
    """First image row whose centre looks below the horizon."""
    return int(camera.horizon + 0.5)


def ground(scene: SceneTensors, field: Tensor, view: int, camera: Camera) -> Tensor:
    """Colours (B, F, rows, WIDTH, 3) of one camera's rows below the horizon."""
    device = field.device
    top = first_ground_row(camera)
    u = (torch.arange(WIDTH, device=device) + 0.5 - WIDTH / 2) / camera.focal
    v = (torch.arange(top, HEIGHT, device=device) + 0.5 - camera.horizon) / camera.focal
    yaw = scene.camera_yaw[:, :, view, None, None]
    cos, sin = torch.cos(yaw), torch.sin(yaw)
    depth = (camera.z / v)[:, None]
    along_x, along_y = cos + sin * u, sin - cos * u  # (B, F, 1, W)
    x = scene.camera_xy[:, :, view, 0, None, None] + depth * along_x
    y = scene.camera_xy[:, :, view, 1, None, None] + depth * along_y
    # How far the ground point moves per column and per row.
    column = (sin * depth / camera.focal, -cos * depth / camera.focal)
    per_row = depth / (v[:, None] * camera.focal)
    row = (per_row * along_x, per_row * along_y)

    def reach(nx: Tensor, ny: Tensor) -> Tensor:
        size = (nx * column[0] + ny * column[1]).abs() + (nx * row[0] + ny * row[1]).abs()
        return (0.9 * size).clamp(min=0.02)

    s, d, heading = read_field(field, scene.field_origin, x, y)
    hx, hy = torch.cos(heading), torch.sin(heading)
    fact = {name: scene.road[:, i, None, None, None] for name, i in ROAD.items()}
    main = _Strip(s, d, reach(hx, hy), reach(-hy, hx))
    cx, cy = fact["cross_cos"], fact["cross_sin"]
    rx, ry = x - fact["cross_x"], y - fact["cross_y"]
    cross = _Strip(cx * rx + cy * ry, cx * ry - cy * rx, reach(cx, cy), reach(-cy, cx))
    colour = _paint(fact, main, cross, x, y, scene)

    distance = depth * torch.sqrt(1 + u * u)
    haze = 1 - torch.exp(-distance / scene.weather.haze_length[:, None, None, None])
    lit = (scene.weather.ambient + 0.8 * scene.weather.sun)[:, None, None, None]
    low = scene.weather.sky_low[:, None, None, None]
    return torch.lerp(colour * lit, low, haze[..., None])


class _Strip:
    """Road coordinates of pixels: along, across, and the pixel's extent in both."""

    def __init__(self, along: Tensor, across: Tensor, along_pixel: Tensor, across_pixel: Tensor):
        self.along, self.across = along, across
        self.along_pixel, self.across_pixel = along_pixel, across_pixel

    def line(self, place: Tensor | float, width: float = LINE_WIDTH) -> Tensor:
        return band(self.across, self.across_pixel, place - width / 2, place + width / 2)

    def dashes(self) -> Tensor:
        return pulses(self.along, self.along_pixel, DASH_PERIOD, DASH)


def _paint(
    fact: dict[str, Tensor], main: _Strip, cross: _Strip, x: Tensor, y: Tensor, scene: SceneTensors
) -> Tensor:
    left, right = fact["lanes_left"] * LANE_WIDTH, fact["lanes_right"] * LANE_WIDTH
    off_main = torch.maximum(main.across - left, -right - main.across)
    off_cross = torch.where(fact["has_cross"] > 0, cross.across.abs() - fact["cross_half"], 1e3)
    corner_a = (CORNER_RADIUS - off_main).clamp(min=0.0)
    corner_b = (CORNER_RADIUS - off_cross).clamp(min=0.0)
    corner = CORNER_RADIUS - torch.sqrt(corner_a * corner_a + corner_b * corner_b)
    off = torch.minimum(torch.minimum(off_main, off_cross), corner)
    pixel = torch.minimum(main.across_pixel, torch.where(off_cross < off_main, cross.across_pixel, 1e3))
    paved = (0.5 - (off - 0.3) / pixel).clamp(0.0, 1.0)
    walk = (0.5 - (off - 2.6) / pixel).clamp(0.0, 1.0) * fact["sidewalk"]

    open_main = (off_cross - CORNER_RADIUS + 1.0).clamp(0.0, 1.0)
    open_cross = (off_main - CORNER_RADIUS + 1.0).clamp(0.0, 1.0) * fact["has_cross"]
    two_left, two_right = fact["lanes_left"] > 1, fact["lanes_right"] > 1
    lane_lines = main.line(LANE_WIDTH) * two_left + main.line(-LANE_WIDTH) * two_right
    edges = main.line(left - 0.2) + main.line(-right + 0.2)
    white = open_main * (edges + lane_lines * main.dashes())
    solid = main.line(0.18, 0.15) + main.line(-0.18, 0.15)
    yellow = open_main * torch.where(two_right, solid, main.line(0.0) * main.dashes())

    two_cross = fact["cross_half"] > LANE_WIDTH + 1
    cross_lines = cross.line(LANE_WIDTH) + cross.line(-LANE_WIDTH)
    cross_edges = cross.line(fact["cross_half"] - 0.2) + cross.line(0.2 - fact["cross_half"])
    white = white + open_cross * (cross_edges + cross_lines * two_cross * cross.dashes())
    yellow = yellow + open_cross * cross.line(0.0) * cross.dashes()

    stop = band(main.along, main.along_pixel, fact["stop_s"], fact["stop_s"] + 0.6)
    stop = stop * band(main.across, main.across_pixel, -right + 0.3, 0.0)
    yield_marks = pulses(main.across, main.across_pixel, 1.1, 0.6)
    white = white + stop * torch.where(fact["stop_dashed"] > 0, yield_marks, 1.0)
    zebra = band(main.along, main.along_pixel, fact["zebra_s"], fact["zebra_s"] + 3.0)
    zebra = zebra * band(main.across, main.across_pixel, -right + 0.3, left - 0.3)
    white = torch.maximum(white, zebra * pulses(main.across, main.across_pixel, 1.2, 0.6))

    # Low-contrast structure that moves with the ground, faded where a pixel cannot resolve it.
    coarse = torch.sin(0.55 * x + 1.3 * torch.sin(0.31 * y)) * torch.sin(0.47 * y + 1.1 * torch.sin(0.37 * x))
    fine = torch.sin(2.3 * x + 2.0 * torch.sin(1.1 * y)) * torch.sin(2.1 * y + 1.7 * torch.sin(1.3 * x))
    grain = coarse * (1.5 - main.along_pixel / 4).clamp(0, 1) + fine * (1.2 - main.along_pixel).clamp(0, 1)

    colour = x.new_empty((*x.shape, 3))
    wet = 0.06 * (fact["light"] == 2)
    for channel, (grass, tint, kerb, tar) in enumerate(
        ((0.34, 0.05, 0.62, 0.31), (0.47, 0.03, 0.60, 0.31), (0.20, -0.02, 0.57, 0.33))
    ):
        c = grass + tint * fact["grass"] + 0.05 * grain
        c = torch.lerp(c, kerb + 0.02 * grain, walk)
        c = torch.lerp(c, tar - wet + 0.018 * grain, paved)
        c = torch.lerp(c, x.new_tensor((0.95, 0.72, 0.12)[channel]), yellow.clamp(max=1.0))
        colour[..., channel] = torch.lerp(c, x.new_tensor(0.96), white.clamp(max=1.0))
    return colour
