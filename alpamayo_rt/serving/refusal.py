# SPDX-License-Identifier: Apache-2.0
"""A request that is not answered: its status and its one sentence."""

from __future__ import annotations

import orjson


class Refusal(Exception):
    """Why a request gets no result.

    Args:
        status: HTTP status, 4xx or 5xx.
        message: one sentence: field, value, what was expected.
        retry_after: seconds after which the same request may succeed.
    """

    def __init__(self, status: int, message: str, retry_after: int | None = None):
        super().__init__(message)
        self.status, self.message, self.retry_after = status, message, retry_after

    @property
    def headers(self) -> dict[str, str]:
        """Headers that belong to it."""
        return {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}

    def body(self) -> dict[str, object]:
        """The JSON of it: `detail` as FastAPI's clients read it, `error` as OpenAI's do."""
        kind = _KINDS.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        field = self.message.partition(":")[0]
        place = field.replace("[", ".").replace("]", "").split(".") if " " not in field else []
        loc: list[str | int] = ["body", *(int(p) if p.isdigit() else p for p in place)]
        return {
            "error": {"message": self.message, "type": kind, "code": self.status},
            "detail": [{"loc": loc, "msg": self.message, "type": kind}],
        }

    def json(self) -> bytes:
        """Its body as bytes."""
        return orjson.dumps(self.body())


_KINDS = {
    401: "authentication_error",
    404: "not_found_error",
    429: "overloaded_error",
    503: "unavailable_error",
    504: "timeout_error",
}
