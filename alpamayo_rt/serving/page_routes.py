# SPDX-License-Identifier: Apache-2.0
"""The page at `/` and what it needs."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.resources import files
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from alpamayo_rt.errors import InputError
from alpamayo_rt.inference import Model
from alpamayo_rt.serving.answering import answered
from alpamayo_rt.serving.body import LongTexts
from alpamayo_rt.serving.clips import shown
from alpamayo_rt.serving.inference_routes import named
from alpamayo_rt.serving.order import Order
from alpamayo_rt.serving.refusal import Refusal
from alpamayo_rt.serving.reply import dumps, infer_reply
from alpamayo_rt.serving.schema import PageRequest, validated
from alpamayo_rt.serving.service import Prepare, Service
from alpamayo_rt.serving.translate import in_wire_names
from alpamayo_rt.settings import Settings

_TYPES = {
    "index.html": "text/html; charset=utf-8",
    "style.css": "text/css; charset=utf-8",
    "main.js": "text/javascript; charset=utf-8",
    "scene.js": "text/javascript; charset=utf-8",
    "stream.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}


def routes(service: Service) -> APIRouter:
    """The routes."""
    router = APIRouter(include_in_schema=False)
    folder = files("alpamayo_rt.serving") / "page"
    # Read once: nothing that a request names is ever opened.
    static = {name: (folder / name).read_bytes() for name in _TYPES}
    clips = ThreadPoolExecutor(1, "clips")

    def page(name: str) -> Response:
        return Response(static[name], media_type=_TYPES[name], headers={"Cache-Control": "no-cache"})

    @router.get("/")
    async def index() -> Response:
        return page("index.html")

    @router.get("/page/{name}.{kind}")
    async def asset(name: str, kind: str) -> Response:
        if f"{name}.{kind}" not in static:
            raise Refusal(404, "(path): no such page")
        return page(f"{name}.{kind}")

    @router.get("/page/clips")
    async def listed() -> Response:
        model, name = service.worker.model, None
        if model is not None:
            name = f"{service.dialect(model).names[0]} ({model.engine.name}, {model.engine.precision})"
        found = {"clips": service.shelf.listed(), "model": name, "state": service.worker.state.value}
        return Response(dumps(found), media_type="application/json", headers={"Cache-Control": "no-store"})

    @router.get("/page/clip")
    async def span(clip: str) -> Response:
        found = await asyncio.get_running_loop().run_in_executor(clips, service.shelf.span, clip)
        return Response(dumps(found), media_type="application/json")

    @router.get("/page/window")
    async def window(clip: str, t0_us: int) -> Response:
        def work() -> bytes:
            return dumps(shown(service.shelf.window(clip, t0_us), t0_us))

        content = await asyncio.get_running_loop().run_in_executor(clips, work)
        headers = {"Cache-Control": "max-age=600"}
        return Response(content, media_type="application/json", headers=headers)

    @router.post("/page/run")
    async def run(request: Request) -> Response:
        """A clip on the list instead of images."""
        return await answered(service, request, partial(read_page, service), infer_reply, named)

    return router


def read_page(service: Service, body: dict[str, Any], texts: LongTexts, model: Model) -> tuple[Prepare, bool]:
    """Check what the page asks for."""
    request, limits = validated(PageRequest, body), service.limits
    service.shelf.check(request.clip)
    for name, value, most in (
        ("num_traj_samples", request.num_traj_samples, limits.candidates),
        ("num_diffusion_steps", request.num_diffusion_steps, limits.steps),
    ):
        if not 1 <= value <= most:
            raise Refusal(422, f"{name}: {value}, expected a whole number from 1 to {most}")
    for name, text in (("nav_text", request.nav_text), ("question", request.question)):
        if text is not None and len(text) > limits.text_characters:
            raise Refusal(422, f"{name}: {len(text)} characters, expected at most {limits.text_characters}")
    if request.mode != "trajectory" and not (request.question or "").strip():
        raise Refusal(422, f"question: missing, expected one with mode {request.mode}")
    return partial(_order, service, request), True


def _order(service: Service, request: PageRequest) -> Order:
    sample = service.shelf.window(request.clip, request.t0_us).sample
    navigation = (request.nav_text or "").strip() or None
    drive = answer = None
    try:
        settings = Settings(
            num_candidates=request.num_traj_samples,
            num_diffusion_steps=request.num_diffusion_steps,
            temperature=request.temperature,
            seed=request.seed,
        )
        if request.mode != "answer":
            drive = sample.replaced(navigation=navigation, question=None)
        if request.mode != "trajectory":
            answer = sample.replaced(navigation=None, question=request.question)
    except InputError as error:
        raise Refusal(422, in_wire_names(str(error))) from None
    return Order(request.mode, settings, drive, answer)
