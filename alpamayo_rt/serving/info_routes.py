# SPDX-License-Identifier: Apache-2.0
"""Health, metrics, and what is served."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import orjson
import torch
from fastapi import APIRouter
from fastapi.responses import Response

import alpamayo_rt
from alpamayo_rt.inference import Model
from alpamayo_rt.serving.dialect import API_VERSION
from alpamayo_rt.serving.refusal import Refusal
from alpamayo_rt.serving.replies import ErrorReply, Health, License, Manifest, Metadata, ModelList, Version
from alpamayo_rt.serving.service import Service
from alpamayo_rt.serving.worker import State

_LICENSE = (
    "alpamayo-rt is licensed under the Apache License 2.0. "
    "The weights that it runs have a licence of their own, which is not in this answer."
)


def _json(value: object) -> Response:
    return Response(orjson.dumps(value), media_type="application/json")


def _documented(reply: type, *refusals: int) -> dict[str, Any]:
    refused = {status: {"model": ErrorReply} for status in (401, *refusals)}
    return {"responses": {200: {"model": reply}, **refused}, "response_class": Response}


def routes(service: Service) -> APIRouter:
    """The routes."""
    router = APIRouter(tags=["information"])
    worker = service.worker

    @router.get("/v1/health/live", **_documented(Health, 503))
    async def live() -> Response:
        """Whether the process is worth keeping."""
        if worker.state is State.FAILED:
            raise Refusal(503, "(server): the engine has failed")
        return _json({"object": "health.response", "message": "Service is live.", "status": "live"})

    @router.get("/v1/health/ready", **_documented(Health, 503))
    async def ready() -> Response:
        """Whether requests are taken."""
        worker.check_ready()
        return _json({"object": "health.response", "message": "Service is ready.", "status": "ready"})

    @router.get("/v1/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    async def metrics() -> Response:
        """Prometheus' text format."""
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4")

    @router.get("/v1/models", **_documented(ModelList, 503))
    async def models() -> Response:
        """The names under which the model is served."""
        names = service.dialect(_loaded(service)).names
        cards = [
            {
                "id": name,
                "object": "model",
                "created": service.started,
                "owned_by": "alpamayo-rt",
                "root": names[0],
                "parent": None if name == names[0] else names[0],
            }
            for name in names
        ]
        return _json({"object": "list", "data": cards})

    @router.get("/v1/version", **_documented(Version))
    async def version() -> Response:
        """Of this package, and of the interface."""
        return _json({"release": alpamayo_rt.__version__, "api": API_VERSION})

    @router.get("/v1/license", **_documented(License))
    async def license_text() -> Response:
        """Of this package."""
        return _json(
            {
                "name": "Apache License 2.0",
                "path": "LICENSE",
                "size": len(_LICENSE.encode()),
                "url": "https://www.apache.org/licenses/LICENSE-2.0",
                "type": "file",
                "content": _LICENSE,
            }
        )

    @router.get("/v1/metadata", **_documented(Metadata, 503))
    async def metadata() -> Response:
        """What is served, how, and its limits."""
        model = _loaded(service)
        engine, names = model.engine, service.dialect(model).names
        return _json(
            {
                "id": names[0],
                "version": alpamayo_rt.__version__,
                "modelInfo": [{"shortName": names[0], **_provenance(model)}],
                "engine": engine.name,
                "precision": engine.precision,
                "device": _device(engine.device),
                "limits": asdict(service.limits),
            }
        )

    @router.get("/v1/manifest", **_documented(Manifest, 503))
    async def manifest() -> Response:
        """Which files are served: by their hash, since a path would tell of this machine."""
        made = _provenance(_loaded(service))
        text = "".join(f"{name}: {made[name]}\n" for name in ("name", "family", "hash"))
        return _json({"manifest_file": text, "repository": str(made["name"])})

    return router


def _loaded(service: Service) -> Model:
    if service.worker.model is None:
        service.worker.check_ready()
    model = service.worker.model
    assert model is not None
    return model


_KEPT: dict[int, dict[str, Any]] = {}


def _provenance(model: Model) -> dict[str, Any]:
    """Hashing reads files, so it is done once a model."""
    if id(model) not in _KEPT:
        _KEPT.clear()
        _KEPT[id(model)] = model.provenance()
    return _KEPT[id(model)]


def _device(device: torch.device) -> str:
    return f"cuda ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else device.type
