"""A stand-in for the Hugging Face hub: one data set in a folder, and what reading needs of the hub's HTTP interface."""

from __future__ import annotations

import hashlib
import http.server
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

REPOSITORY = "owner/name"


class _Hub(http.server.BaseHTTPRequestHandler):
    folder: Path

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        path, query = unquote(parts.path), parse_qs(parts.query)
        api, files = f"/api/datasets/{REPOSITORY}", f"/datasets/{REPOSITORY}/resolve/main/"
        if path in (api, f"{api}/revision/main"):
            self._json({"id": REPOSITORY, "sha": "0" * 40, "siblings": []})
        elif path.startswith(f"{api}/tree/main"):
            self._tree(path.removeprefix(f"{api}/tree/main").strip("/"), query.get("recursive") in (["True"], ["true"]))
        elif path.startswith(files) and (found := self.folder / path.removeprefix(files)).is_file():
            self._content(found.read_bytes())
        else:
            self._missing("RepoNotFound" if api not in path and not path.startswith(files) else "EntryNotFound")

    do_HEAD = do_GET

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        asked = json.loads(body)["paths"] if body.startswith(b"{") else parse_qs(body.decode()).get("paths", [])
        self._json([self._entry(self.folder / path) for path in asked if (self.folder / path).exists()])

    def _tree(self, path: str, recursive: bool) -> None:
        folder = self.folder / path
        if not folder.is_dir():
            self._missing("EntryNotFound")
            return
        self._json([self._entry(found) for found in sorted(folder.rglob("*") if recursive else folder.iterdir())])

    def _entry(self, path: Path) -> dict[str, Any]:
        name = str(path.relative_to(self.folder))
        if path.is_dir():
            return {"type": "directory", "path": name, "oid": "1" * 40, "size": 0}
        content = path.read_bytes()
        return {"type": "file", "path": name, "oid": hashlib.sha1(content).hexdigest(), "size": len(content)}

    def _content(self, content: bytes) -> None:
        asked, size = self.headers.get("Range"), len(content)
        if asked:
            first, _, last = asked.removeprefix("bytes=").partition("-")
            content = content[int(first) : int(last) + 1 if last else None]
        self.send_response(206 if asked else 200)
        if asked:
            self.send_header("Content-Range", f"bytes {int(first)}-{int(first) + len(content) - 1}/{size}")
        self._end(content)

    def _json(self, value: Any) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self._end(json.dumps(value).encode())

    def _missing(self, code: str) -> None:
        self.send_response(404)
        self.send_header("X-Error-Code", code)
        self._end(b"{}")

    def _end(self, content: bytes) -> None:
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *arguments: object) -> None:
        pass


@contextmanager
def hub(folder: Path) -> Iterator[str]:
    """The address of a hub that has the data set REPOSITORY."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("Hub", (_Hub,), {"folder": folder}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
