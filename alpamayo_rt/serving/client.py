# SPDX-License-Identifier: Apache-2.0
"""A client of the server, or of any other that speaks the published interface; needs only the core install."""

from __future__ import annotations

import base64
import http.client
import io
import json
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from PIL import Image

from alpamayo_rt.errors import AlpamayoError, InputError
from alpamayo_rt.sample.cameras import CAMERA_FEATURES
from alpamayo_rt.sample.sample import Sample


class ServerError(AlpamayoError):
    """The server refused a request, or cannot be reached.

    Attributes:
        status: of HTTP; 0 where there was no answer.
        retry_after: seconds after which to try again, if the server said so.
    """

    def __init__(self, status: int, message: str, retry_after: float | None = None):
        super().__init__(message)
        self.status, self.retry_after = status, retry_after


@dataclass(frozen=True)
class Event:
    """One server-sent event: `reasoning`, `trajectories`, `answer` or `result`."""

    name: str
    data: dict[str, Any]


def request_body(sample: Sample, image_format: str = "PNG", **settings: Any) -> dict[str, Any]:
    """The body of `/v1/infer` for a sample.

    Args:
        sample: with frames. With a history it is driven, with a question answered, with both both.
        image_format: PNG keeps the pixels as they are; JPEG is a tenth as long.
        settings: further fields, such as num_traj_samples, seed, temperature, mode.

    Raises:
        InputError: the sample has patches instead of frames.
    """
    if sample.frames is None:
        raise InputError("frames: missing, a server takes images and no prepared patches")
    body: dict[str, Any] = {
        "images": [_encoded(frame, image_format) for frame in sample.frames.flatten(0, 1)],
        "camera_order": [CAMERA_FEATURES[camera] for camera in sample.camera_indices],
        "num_frames_per_camera": sample.frames_per_camera,
        "mode": "trajectory" if sample.question is None else "answer",
    }
    if sample.history_xyz is not None and sample.history_rot is not None:
        body["egomotion"] = {
            "ego_history_xyz": sample.history_xyz.tolist(),
            "ego_history_rot": sample.history_rot.tolist(),
        }
    if sample.navigation is not None:
        body["nav_text"] = sample.navigation
    if sample.question is not None:
        body["question"] = sample.question
    return body | {name: value for name, value in settings.items() if value is not None}


def _encoded(frame: Any, image_format: str) -> str:
    out = io.BytesIO()
    options = {"quality": 95} if image_format.upper() == "JPEG" else {"compress_level": 1}
    Image.fromarray(frame.permute(1, 2, 0).contiguous().cpu().numpy()).save(out, image_format, **options)
    kind = image_format.lower()
    return f"data:image/{kind};base64," + base64.b64encode(out.getvalue()).decode()


class Client:
    """Talks to one server.

    Args:
        url: such as http://127.0.0.1:8000.
        token: that the server wants, or None.
        timeout: seconds of silence after which an answer is given up.
    """

    def __init__(self, url: str = "http://127.0.0.1:8000", token: str | None = None, timeout: float = 120.0):
        parts = urlsplit(url if "://" in url else f"http://{url}")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise InputError(f"url: {url!r}, expected http://HOST:PORT")
        self._https, self._host, self._port = parts.scheme == "https", parts.hostname, parts.port
        self._path, self._timeout = parts.path.rstrip("/"), timeout
        self._headers = {} if token is None else {"Authorization": f"Bearer {token}"}

    def infer(self, sample: Sample, **settings: Any) -> dict[str, Any]:
        """Post a sample; gives the answer of `/v1/infer`.

        Raises:
            ServerError: it was refused.
        """
        return self.post("/v1/infer", request_body(sample, **settings))

    def stream(self, sample: Sample, **settings: Any) -> Iterator[Event]:
        """Post a sample; gives events as they come, `result` with the whole answer the last of them.

        Raises:
            ServerError: it was refused, at once or on the way.
        """
        return self.events("/v1/infer", request_body(sample, **settings) | {"stream": True})

    def ready(self) -> bool:
        """Whether the server takes requests."""
        try:
            self.get("/v1/health/ready")
        except ServerError:
            return False
        return True

    def wait_ready(self, seconds: float = 600.0) -> None:
        """Wait until the server takes requests.

        Raises:
            ServerError: it does not in that time.
        """
        until = time.monotonic() + seconds
        while not self.ready():
            if time.monotonic() > until:
                raise ServerError(0, f"url: the server is not ready after {seconds:g} s")
            time.sleep(0.2)

    def get(self, path: str) -> dict[str, Any]:
        """The JSON at a path."""
        with closing(self._connect()) as connection:
            return _object(self._answer(connection, "GET", path, None).read())

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Post JSON, get JSON."""
        with closing(self._connect()) as connection:
            return _object(self._answer(connection, "POST", path, body).read())

    def events(self, path: str, body: dict[str, Any]) -> Iterator[Event]:
        """Post JSON, get events."""
        with closing(self._connect()) as connection:
            response = self._answer(connection, "POST", path, body)
            name = "message"
            try:
                for line in response:
                    field, _, value = line.decode().rstrip("\n").partition(":")
                    if field == "event":
                        name = value.strip()
                    elif field == "data":
                        event = Event(name, _object(value.encode()))
                        if name == "error":
                            error = event.data["error"]
                            raise ServerError(error["code"], error["message"])
                        yield event
            except (OSError, http.client.HTTPException) as error:
                raise ServerError(0, f"url: the answer broke off ({error})") from None

    def _connect(self) -> http.client.HTTPConnection:
        kind = http.client.HTTPSConnection if self._https else http.client.HTTPConnection
        return kind(self._host, self._port, timeout=self._timeout)

    def _answer(
        self, connection: http.client.HTTPConnection, method: str, path: str, body: dict[str, Any] | None
    ) -> http.client.HTTPResponse:
        headers = self._headers | ({} if body is None else {"Content-Type": "application/json"})
        data = None if body is None else json.dumps(body, allow_nan=False).encode()
        try:
            connection.request(method, self._path + path, data, headers)
            response = connection.getresponse()
            if response.status < 400:
                return response
            text, after = response.read(), response.headers.get("Retry-After")
        except (OSError, http.client.HTTPException) as error:
            raise ServerError(0, f"url: {self._host}:{self._port} does not answer ({error})") from None
        raise ServerError(response.status, _sentence(text, response), None if after is None else float(after))


def _object(text: bytes) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise ServerError(0, "url: the answer is not a JSON object; is this such a server?")
    return value


def _sentence(text: bytes, response: http.client.HTTPResponse) -> str:
    try:
        found = json.loads(text)["error"]["message"]
    except (ValueError, KeyError, TypeError):
        found = response.reason
    return f"{response.status}: {found}"
