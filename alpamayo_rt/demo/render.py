# SPDX-License-Identifier: Apache-2.0
"""Images of a batch of scenes: sky, ground, boxes; one call draws every camera, frame and pixel."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from alpamayo_rt.demo.arrays import ROAD, SceneArrays
from alpamayo_rt.demo.boxes import SUB_WIDTH, SUPER, box_hits
from alpamayo_rt.demo.camera import CAMERAS, HEIGHT, WIDTH, Camera
from alpamayo_rt.demo.ground import first_ground_row, ground
from alpamayo_rt.demo.looks import box_colours
from alpamayo_rt.demo.road_field import road_field
from alpamayo_rt.demo.scene_tensors import SceneTensors

# Scenes drawn at once: bounds memory, does not change the result. One at a time stays in a CPU's caches.
CHUNK = {"cpu": 1, "cuda": 128}


@torch.no_grad()
def render(scenes: SceneArrays, steps: np.ndarray, device: torch.device | str = "cpu") -> Tensor:
    """Draw frames of stacked scenes.

    Args:
        scenes: B scenes, see `arrays.stack`.
        steps: (B, F) int, the steps (0.1 s each) to draw of each scene.
        device: where to draw.

    Returns:
        (B, C, F, 3, HEIGHT, WIDTH) uint8 on `device`, cameras in the order of `camera.CAMERAS`.
    """
    steps = np.asarray(steps)
    with torch.autocast(torch.device(device).type, enabled=False):
        parts = []
        chunk = CHUNK.get(torch.device(device).type, 1)
        for start in range(0, len(steps), chunk):
            part = slice(start, start + chunk)
            piece = SceneArrays(**{name: array[part] for name, array in vars(scenes).items()})
            parts.append(_render(SceneTensors.of(piece, steps[part], device)))
        return torch.cat(parts)


def _render(scene: SceneTensors) -> Tensor:
    batch, frames, views = scene.camera_yaw.shape
    field = road_field(scene.line, scene.field_origin)
    image = torch.empty(batch, frames, views, HEIGHT, WIDTH, 3, device=field.device)
    for view, camera in enumerate(CAMERAS):
        top = first_ground_row(camera)
        image[:, :, view, :top] = _sky(scene, view, camera, top)
        image[:, :, view, top:] = ground(scene, field, view, camera)
    _put_boxes(scene, image)
    return (image * 255).round_().clamp_(0, 255).to(torch.uint8).permute(0, 2, 1, 5, 3, 4).contiguous()


def _sky(scene: SceneTensors, view: int, camera: Camera, rows: int) -> Tensor:
    """Sky (B, F, rows, WIDTH, 3) with a skyline that is fixed in the world's directions."""
    device = scene.road.device
    u = (torch.arange(WIDTH, device=device) + 0.5 - WIDTH / 2) / camera.focal
    up = (camera.horizon - torch.arange(rows, device=device) - 0.5) / camera.focal
    length = torch.sqrt(1 + u * u)
    azimuth = scene.camera_yaw[:, :, view, None] - torch.atan(u)
    phase = scene.road[:, ROAD["hills"], None, None]
    # Whole multiples of the azimuth, so that the skyline closes around the horizon.
    hill = 0.030 + 0.018 * torch.sin(3 * azimuth + phase) + 0.012 * torch.sin(8 * azimuth + 2 * phase)
    hill = hill + 0.006 * torch.sin(29 * azimuth + 3 * phase)
    above = up[:, None] / length  # tangent of elevation (rows, W)
    share = ((hill[:, :, None] - above) * (camera.focal / length) + 0.5).clamp(0.0, 1.0)
    low = scene.weather.sky_low[:, None, None, None]
    sky = torch.lerp(low, scene.weather.sky_top[:, None, None, None], (above * 1.6).clamp(0, 1)[..., None])
    green = u.new_tensor((0.30, 0.40, 0.32)) * scene.weather.ambient
    hills = torch.lerp(green, scene.weather.sky_low, 0.45)[:, None, None, None]
    return torch.lerp(sky, hills, share[..., None])


def _put_boxes(scene: SceneTensors, image: Tensor) -> None:
    """Blend the boxes' subpixels over `image` (B, F, C, HEIGHT, WIDTH, 3) in place."""
    hits = box_hits(scene)
    images = scene.camera_yaw.numel()
    # Whole numbers, because their sum does not depend on the order in which a GPU adds them.
    colour = (box_colours(scene, hits) * 65536).round().to(torch.int32)
    share = torch.full_like(colour[:, :1], 65536)
    row = torch.div(hits.pixel, SUB_WIDTH * SUPER, rounding_mode="floor")
    pixel = row * WIDTH + torch.div(hits.pixel % SUB_WIDTH, SUPER, rounding_mode="floor")
    layer = torch.zeros(images * HEIGHT * WIDTH, 4, dtype=torch.int32, device=image.device)
    layer.index_add_(0, pixel, torch.cat([colour, share], 1))
    mean = layer.view(images, HEIGHT, WIDTH, 4) / float(65536 * SUPER**2)
    flat = image.view(images, HEIGHT, WIDTH, 3)
    flat.mul_(1 - mean[..., 3:]).add_(mean[..., :3])
