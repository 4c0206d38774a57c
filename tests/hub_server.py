"""A stand-in for the Hugging Face hub: one data set in a folder, and what reading and uploading need of its HTTP interface.

Large files are uploaded by git-lfs, so a client needs HF_HUB_DISABLE_XET=1.
"""

from __future__ import annotations

import base64
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
TOKEN = "hf_stand_in"  # the only one that may write


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
        path, api = urlsplit(self.path).path, f"/api/datasets/{REPOSITORY}"
        if path == f"{api}/paths-info/main":
            self._paths(body)
        elif self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._refuse(401, "Invalid username or password.")
        elif path == "/api/repos/create":
            self._create(json.loads(body))
        elif path == "/api/validate-yaml":
            self._json({"errors": [], "warnings": []})
        elif path == f"{api}/preupload/main":
            files = json.loads(body)["files"]
            modes = {file["path"]: "lfs" if file["path"].endswith(".parquet") else "regular" for file in files}
            self._json({"files": [{"path": name, "uploadMode": m, "shouldIgnore": False} for name, m in modes.items()]})
        elif path == f"/datasets/{REPOSITORY}.git/info/lfs/objects/batch":
            self._lfs(json.loads(body)["objects"])
        elif path == f"{api}/commit/main":
            self._commit([json.loads(line) for line in body.splitlines()])
        else:
            self._missing("RepoNotFound")

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        beside = self._large(self.path.rpartition("/")[2])
        beside.parent.mkdir(exist_ok=True)
        beside.write_bytes(body)
        self._end_empty()

    def _create(self, asked: dict[str, Any]) -> None:
        wanted = (*REPOSITORY.split("/"), "dataset", "private")
        if (asked.get("organization"), asked["name"], asked["type"], asked["visibility"]) != wanted:
            self._refuse(403, f"You don't have the rights to create a repo {asked.get('organization')}/{asked['name']}")
        else:
            self._json({"url": f"http://{self.headers['Host']}/datasets/{REPOSITORY}", "name": REPOSITORY})

    def _lfs(self, objects: list[dict[str, Any]]) -> None:
        root = f"http://{self.headers['Host']}/lfs"
        offered = [{**one, "actions": {"upload": {"href": f"{root}/{one['oid']}"}}} for one in objects]
        self._json({"transfer": "basic", "objects": offered})

    def _large(self, oid: str) -> Path:
        return self.folder.parent / f"{self.folder.name}-lfs" / oid

    def _commit(self, lines: list[dict[str, Any]]) -> None:
        for line in lines:
            value, into = line["value"], self.folder / line["value"].get("path", "")
            if line["key"] == "file":
                content = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                content = self._large(value["oid"]).read_bytes()
                if hashlib.sha256(content).hexdigest() != value["oid"]:
                    return self._refuse(400, f"{value['path']} is not what was announced")
            else:
                continue
            into.parent.mkdir(parents=True, exist_ok=True)
            into.write_bytes(content)
        self._json({"commitUrl": f"http://{self.headers['Host']}/datasets/{REPOSITORY}/commit/1", "commitOid": "2" * 40})

    def _paths(self, body: bytes) -> None:
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

    def _refuse(self, status: int, message: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Message", message)
        self._end(json.dumps({"error": message}).encode())

    def _end_empty(self) -> None:
        self.send_response(200)
        self._end(b"")

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
