# SPDX-License-Identifier: Apache-2.0
"""A small hub on loopback: what the dataset's kit asks the real one, and the ways in which that goes wrong.

What it answers was read from the requests of huggingface_hub 2.4: refs, tree, paths-info, HEAD and GET of
resolve with ranges. Files of more than a few kilobytes are "large": they have a SHA-256 for a tag, as in the
real one.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote

from alpamayo_rt.sample.dataset_layout import REPO_ID

COMMIT = "0123456789abcdef0123456789abcdef01234567"
_LARGE = 4096


class Hub(ThreadingHTTPServer):
    """Serves a folder as the dataset.

    `status`: of every answer but 200; `break_off`: how often each large file breaks off in its middle;
    `corrupt`: files, by a part of their name, that come with wrong bytes, and how often.
    """

    daemon_threads = True

    def __init__(self, folder: Path):
        super().__init__(("127.0.0.1", 0), _Answers)
        self.folder = folder
        self.reset()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def reset(self) -> None:
        """Answer as a healthy hub does, and forget what was asked."""
        self.status = 200
        self.break_off: Counter[str] = Counter()
        self.corrupt: Counter[str] = Counter()
        self.sent: Counter[str] = Counter()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def break_all(self, times: int) -> None:
        """Let every large file break off so many times."""
        for path in self.folder.rglob("*.zip"):
            self.break_off[str(path.relative_to(self.folder))] = times


class _Answers(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def _answer(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        path = unquote(self.path.split("?")[0])
        if self.server.status != 200:
            return self._refuse(self.server.status)
        api = f"/api/datasets/{REPO_ID}"
        if path == f"{api}/refs":
            main = {"name": "main", "ref": "refs/heads/main", "targetCommit": COMMIT}
            return self._json({"branches": [main], "tags": [], "converts": [], "pullRequests": []})
        if path.startswith(f"{api}/paths-info/"):
            return self._json(
                [self._info(name) for name in self._asked(body) if (self.server.folder / name).is_file()]
            )
        tree = f"{api}/tree/{COMMIT}/"
        if path.startswith(tree):
            names = sorted(p for p in (self.server.folder / path.removeprefix(tree)).iterdir() if p.is_file())
            return self._json([self._info(str(p.relative_to(self.server.folder))) for p in names])
        if path == api or path.startswith(f"{api}/revision/"):
            return self._json({"id": REPO_ID, "sha": COMMIT, "siblings": []})
        start = f"/datasets/{REPO_ID}/resolve/{COMMIT}/"
        name = path.removeprefix(start)
        if path.startswith(start) and (self.server.folder / name).is_file():
            return self._file(name)
        self._refuse(404, "EntryNotFound" if path.startswith(start) else "RepoNotFound")

    def _asked(self, body: bytes) -> list[str]:
        if "json" in (self.headers.get("Content-Type") or ""):
            return list(json.loads(body)["paths"])
        return parse_qs(body.decode())["paths"]

    def _info(self, name: str) -> dict[str, Any]:
        data = (self.server.folder / name).read_bytes()
        out = {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
        if len(data) > _LARGE:
            out["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 134}
        return out

    def _file(self, name: str) -> None:
        data = (self.server.folder / name).read_bytes()
        tag = hashlib.sha256(data).hexdigest() if len(data) > _LARGE else hashlib.sha1(data).hexdigest()
        whole, first = data, 0
        if (asked := self.headers.get("Range")) is not None:
            start, _, end = asked.removeprefix("bytes=").partition("-")
            first, data = int(start), data[: int(end) + 1] if end else data
        self.send_response(200 if asked is None else 206)
        self.send_header("ETag", f'"{tag}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(data) - first))
        if asked is not None:
            self.send_header("Content-Range", f"bytes {first}-{len(data) - 1}/{len(whole)}")
        if len(whole) > _LARGE:
            self.send_header("X-Linked-ETag", f'"{tag}"')
            self.send_header("X-Linked-Size", str(len(whole)))
        self.end_headers()
        if self.command == "HEAD":
            return
        if first == 0 and (
            match := next((part for part, n in self.server.corrupt.items() if part in name and n), None)
        ):
            self.server.corrupt[match] -= 1
            data = data[: len(data) // 2] + bytes(255 - byte for byte in data[len(data) // 2 :])
        rest = data[first:]
        if self.server.break_off[name] > 0:
            self.server.break_off[name] -= 1
            rest = rest[: len(rest) // 2]
            self.close_connection = True
        self.wfile.write(rest)
        self.server.sent[name] += len(rest)

    def _json(self, value: Any) -> None:
        data = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _refuse(self, status: int, code: str | None = None) -> None:
        data = b'{"error": "no"}'
        self.send_response(status)
        code = {401: "GatedRepo", 403: "GatedRepo"}.get(status, code)
        if code is not None:
            self.send_header("X-Error-Code", code)
            self.send_header("X-Error-Message", "no")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)
