# SPDX-License-Identifier: Apache-2.0
"""Which box every subpixel sees first.

Work goes only where boxes are: each box's screen rectangle is enumerated, all rectangles of a batch at once,
every subpixel in them is tested exactly against the box, and the nearest wins.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from alpamayo_rt.demo.camera import CAMERAS, HEIGHT, WIDTH
from alpamayo_rt.demo.scene_tensors import SceneTensors

SUPER = 2  # subpixels along each side of a pixel
NEAR = 0.3
SUB_WIDTH, SUB_HEIGHT = WIDTH * SUPER, HEIGHT * SUPER


@dataclass(frozen=True)
class Hits:
    """Subpixels that see a box, M of them.

    `pixel` (M,) flat index over (B, F, C, SUB_HEIGHT, SUB_WIDTH); `box` (M,) flat index over (B, F, C, N);
    `local` (M, 3) place on the box in its own frame from its centre, metres; `axis` (M,) 0..2 is the face's
    normal and `sign` (M,) its direction; `depth` (M,) metres along the optical axis.
    """

    pixel: Tensor
    box: Tensor
    local: Tensor
    axis: Tensor
    sign: Tensor
    depth: Tensor


def box_hits(scene: SceneTensors) -> Hits:
    """Nearest box per subpixel of every image (B, F, C)."""
    params, rect = _prepare(scene)
    low_c, high_c, low_r, high_r = rect.unbind(-1)
    width = (high_c - low_c).clamp(min=0)
    area = width * (high_r - low_r).clamp(min=0)
    box = torch.repeat_interleave(torch.arange(len(area), device=area.device), area)
    place = torch.arange(len(box), device=area.device) - (torch.cumsum(area, 0) - area)[box]
    w = width[box]
    down = torch.div(place, w, rounding_mode="floor")
    row, col = low_r[box] + down, low_c[box] + place - down * w

    ox, oy, oz, fx, fy, hx, hy, hz, focal, horizon = params[box].unbind(-1)
    u = ((col + 0.5) / SUPER - WIDTH / 2) / focal
    v = ((row + 0.5) / SUPER - horizon) / focal
    # Forward is (fx, fy), right is (fy, -fx).
    dx, dy, dz = _nonzero(fx + u * fy), _nonzero(fy - u * fx), _nonzero(-v)
    tx, ty, tz = -ox / dx, -oy / dy, -oz / dz
    ex, ey, ez = hx / dx.abs(), hy / dy.abs(), hz / dz.abs()
    enter_x, enter_y, enter_z = tx - ex, ty - ey, tz - ez
    enter = torch.maximum(torch.maximum(enter_x, enter_y), enter_z)
    leave = torch.minimum(torch.minimum(tx + ex, ty + ey), tz + ez)
    keep = ((enter <= leave) & (enter > NEAR)).nonzero()[:, 0]

    box, row, col, enter = box[keep], row[keep], col[keep], enter[keep]
    boxes = scene.box_kind.shape[1]
    pixel = (torch.div(box, boxes, rounding_mode="floor") * SUB_HEIGHT + row) * SUB_WIDTH + col
    images = scene.camera_yaw.numel()
    nearest = torch.full((images * SUB_HEIGHT * SUB_WIDTH,), torch.inf, device=enter.device)
    nearest.scatter_reduce_(0, pixel, enter, "amin")
    front = (enter == nearest[pixel]).nonzero()[:, 0]
    keep, enter = keep[front], enter[front]
    normals = torch.stack([enter_x[keep], enter_y[keep], enter_z[keep]], -1)
    axis = normals.argmax(-1)
    ray = torch.stack([dx[keep], dy[keep], dz[keep]], -1)
    origin = params[box[front], :3]
    sign = -torch.sign(ray.gather(1, axis[:, None])[:, 0])
    return Hits(pixel[front], box[front], origin + enter[:, None] * ray, axis, sign, enter)


def _nonzero(x: Tensor) -> Tensor:
    return torch.where(x.abs() < 1e-7, 1e-7, x)


def _prepare(scene: SceneTensors) -> tuple[Tensor, Tensor]:
    """Per box and image: ray parameters (K, 10) and subpixel rectangles (K, 4) int64, K = B·F·C·N."""
    device = scene.camera_yaw.device
    focal = torch.tensor([c.focal for c in CAMERAS], device=device)[:, None]
    horizon = torch.tensor([c.horizon for c in CAMERAS], device=device)[:, None]
    height = torch.tensor([c.z for c in CAMERAS], device=device)[:, None]
    pose = scene.box_pose[:, :, None]  # (B, F, 1, N, 3)
    size = scene.box_size[:, None, None]  # (B, 1, 1, N, 4)
    dx = scene.camera_xy[..., None, 0] - pose[..., 0]  # (B, F, C, N)
    dy = scene.camera_xy[..., None, 1] - pose[..., 1]
    cos, sin = torch.cos(pose[..., 2]), torch.sin(pose[..., 2])
    ox, oy = cos * dx + sin * dy, -sin * dx + cos * dy
    hx, hy, hz = 0.5 * size[..., 0], 0.5 * size[..., 1], 0.5 * size[..., 2]
    oz = height - size[..., 3] - hz
    angle = scene.camera_yaw[..., None] - pose[..., 2]
    fx, fy = torch.cos(angle), torch.sin(angle)

    # Plan view: corners as (depth, right), and where the sides cross the near plane.
    corner_x = torch.stack([hx, hx, -hx, -hx], -1)
    corner_y = torch.stack([hy, -hy, -hy, hy], -1)
    rx, ry = corner_x - ox[..., None], corner_y - oy[..., None]
    depth = fx[..., None] * rx + fy[..., None] * ry
    right = fy[..., None] * rx - fx[..., None] * ry
    next_depth, next_right = depth.roll(-1, -1), right.roll(-1, -1)
    crosses = (depth > NEAR) != (next_depth > NEAR)
    share = (NEAR - depth) / _nonzero(next_depth - depth)
    clipped = right + share * (next_right - right)
    valid = torch.cat([depth > NEAR, crosses], -1)
    depth = torch.cat([depth.clamp(min=NEAR), torch.full_like(clipped, NEAR)], -1)
    column = torch.cat([right, clipped], -1) / depth
    up = torch.stack([hz - oz, -hz - oz], -1)  # top and bottom above the camera
    rows = -up[..., None, :] / depth[..., None]  # (..., 8, 2)

    inf = torch.inf
    low_u = torch.where(valid, column, inf).amin(-1)
    high_u = torch.where(valid, column, -inf).amax(-1)
    low_v = torch.where(valid[..., None], rows, inf).amin((-1, -2))
    high_v = torch.where(valid[..., None], rows, -inf).amax((-1, -2))

    def edge(value: Tensor, centre: Tensor | float, last: int, up: int) -> Tensor:
        place = (value * focal + centre) * SUPER
        return (torch.floor(place.clamp(-2.0, last + 2.0)).long() + up).clamp(0, last)

    rect = torch.stack(
        [
            edge(low_u, WIDTH / 2, SUB_WIDTH, 0),
            edge(high_u, WIDTH / 2, SUB_WIDTH, 1),
            edge(low_v, horizon, SUB_HEIGHT, 0),
            edge(high_v, horizon, SUB_HEIGHT, 1),
        ],
        -1,
    )
    seen = valid.any(-1) & (scene.box_kind > 0)[:, None, None]
    rect = rect * seen[..., None]
    shape = ox.shape
    params = torch.stack([p.expand(shape) for p in (ox, oy, oz, fx, fy, hx, hy, hz, focal, horizon)], -1)
    return params.reshape(-1, 10), rect.reshape(-1, 4)
