# SPDX-License-Identifier: Apache-2.0
"""The ASGI application: routes, errors in one form, the guard before them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from pydantic.json_schema import models_json_schema
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

import alpamayo_rt
from alpamayo_rt.serving import inference_routes, info_routes, page_routes
from alpamayo_rt.serving.guard import Guard
from alpamayo_rt.serving.refusal import Refusal
from alpamayo_rt.serving.schema import ChatRequest, InferRequest
from alpamayo_rt.serving.service import Service


def build(service: Service, token: str | None, report: Callable[[Exception], None]) -> ASGIApp:
    """The application.

    Args:
        service: what it serves.
        token: that requests have to bear, or None.
        report: is told of errors that nobody foresaw.
    """
    app = FastAPI(
        title="alpamayo-rt",
        version=alpamayo_rt.__version__,
        description="HTTP interface of alpamayo-rt (docs/server.md)",
        docs_url=None,  # they load scripts from elsewhere
        redoc_url=None,
        openapi_url="/openapi.json",
    )
    app.add_exception_handler(Refusal, _refused)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(RequestValidationError, _wrong_query)
    for module in (inference_routes, info_routes, page_routes):
        app.include_router(module.routes(service))
    _describe_bodies(app)
    return Guard(app, token, service.metrics, report)


def _describe_bodies(app: FastAPI) -> None:
    """Bodies are read by hand, so FastAPI does not know their schemas."""
    described = app.openapi()
    _, schemas = models_json_schema(
        [(InferRequest, "validation"), (ChatRequest, "validation")], ref_template="#/components/schemas/{model}"
    )
    described["components"]["schemas"].update(schemas["$defs"])


async def _refused(request: Request, error: Any) -> Response:
    return Response(error.json(), error.status, error.headers, "application/json")


async def _http_error(request: Request, error: Any) -> Response:
    message = {404: "(path): nothing is here", 405: "(method): not allowed here"}.get(error.status_code)
    refusal = Refusal(error.status_code, message or f"(request): {error.detail}")
    return Response(refusal.json(), error.status_code, error.headers, "application/json")


async def _wrong_query(request: Request, error: Any) -> Response:
    first = error.errors()[0]
    name = first["loc"][-1]
    refusal = Refusal(422, f"{name}: {first['msg'][:1].lower()}{first['msg'][1:]}")
    return Response(refusal.json(), 422, None, "application/json")
