"""A loopback HTTP proxy that does harm between a client and a server, request by request.

    with FaultProxy(server.endpoint) as proxy:
        client = ... endpoint_url=proxy.url ...
        proxy.plan("busy", times=2, method="PUT")          # the next two PUTs are answered 503
        proxy.plan("lost", after=3, path="_snapshots/")    # the fourth request with this in its path: done, and never answered
        proxy.roll(seed=7, share=0.1, kinds=("reset", "busy"))  # and of all others every tenth or so, the same ones each time
        ...
        assert proxy.injected["busy"] == 2

A request is read whole before its fate is decided, so `forwarded` says for certain whether the server saw it.

    kind       the server acts?  the client sees
    refuse     no                its connection reset, before an answer
    busy       no                503 SlowDown
    error      no                500 InternalError
    expired    no                400 ExpiredToken
    hang       no                nothing for `seconds`, then its connection reset
    delay      yes               the answer after `seconds`
    lost       yes               its connection reset, before the answer
    failed     yes               500 InternalError, though the server did what it was asked
    truncate   yes               the answer's body up to byte `at`, and the end of the connection
    reset      yes               the answer's body up to byte `at`, and a reset
    flip       yes               the answer with a bit of byte `at` turned over
    flip_sent  yes               what the server says to a request with a bit of byte `at` of its body turned over

`proxy.down()` ends all connections and really refuses new ones until `proxy.up()`.
"""

from __future__ import annotations

import contextlib
import http.client
import random
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

KINDS = ("refuse", "busy", "error", "expired", "hang", "delay", "lost", "failed", "truncate", "reset", "flip", "flip_sent")
_ERRORS = {
    "busy": (503, "SlowDown", "Please reduce your request rate."),
    "error": (500, "InternalError", "Try again."),
    "expired": (400, "ExpiredToken", "The provided token has expired."),
}
_HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "expect"}


@dataclass
class Fault:
    """One planned fault. `after`: so many matching requests pass first; `times`: so many are hit then."""

    kind: str
    times: int = 1
    after: int = 0
    method: str | None = None
    path: str | None = None
    at: int = 0
    seconds: float = 1.0

    def takes(self, method: str, path: str) -> bool:
        if self.times == 0 or (self.method or method) != method or (self.path or "") not in path:
            return False
        if self.after:
            self.after -= 1
            return False
        self.times -= 1
        return True


@dataclass
class FaultProxy:
    """See the module's text. `seen` are (method, path with query) in order; `injected` counts faults by kind."""

    upstream: str
    seen: list[tuple[str, str]] = field(default_factory=list)
    injected: Counter[str] = field(default_factory=Counter)
    forwarded: int = 0

    def __enter__(self) -> FaultProxy:
        self._faults: list[Fault] = []
        self._dice: tuple[random.Random, float, tuple[str, ...]] | None = None
        self._lock = threading.Lock()
        self._connections: set[socket.socket] = set()
        self._port = 0
        self.up()
        return self

    def __exit__(self, *_: object) -> None:
        self.down()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def plan(self, kind: str, **settings: Any) -> None:
        """Add a fault; of several that fit a request, the one that was planned first hits it."""
        assert kind in KINDS, kind
        with self._lock:
            self._faults.append(Fault(kind, **settings))

    def roll(self, *, seed: int, share: float, kinds: Sequence[str]) -> None:
        """From now on a share of the requests that no plan hits meets one of `kinds`, by seeded dice."""
        assert set(kinds) <= set(KINDS), kinds
        with self._lock:
            self._dice = (random.Random(seed), share, tuple(kinds))

    def clear(self) -> None:
        """Forget plans, dice and counts."""
        with self._lock:
            self._faults.clear()
            self._dice = None
            self.seen.clear()
            self.injected.clear()
            self.forwarded = 0

    def up(self) -> None:
        """Listen, on the same port as before."""
        self._listener = socket.create_server(("127.0.0.1", self._port), backlog=64)
        self._port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def down(self) -> None:
        """Listen no more: whoever connects is refused, and connections that a client kept open for its next request end."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            for client in self._connections:
                with contextlib.suppress(OSError):
                    client.shutdown(socket.SHUT_RDWR)

    @property
    def is_up(self) -> bool:
        return self._listener.fileno() >= 0

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):  # the listener was closed
            while True:
                client = listener.accept()[0]
                with self._lock:
                    self._connections.add(client)
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        """The requests of one connection, until either side ends it."""
        try:
            with client, contextlib.suppress(OSError), client.makefile("rb") as stream:
                while line := stream.readline():
                    method, path, _ = line.decode("latin-1").split(" ", 2)
                    headers = http.client.parse_headers(stream)
                    if headers.get("Expect", "").lower() == "100-continue":
                        client.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
                    body = _body(stream, headers)
                    if not self._answer(client, method, path, headers, body):
                        return
        finally:
            with self._lock:
                self._connections.discard(client)

    def _fate(self, method: str, path: str) -> Fault | None:
        with self._lock:
            self.seen.append((method, path))
            fault = next((fault for fault in self._faults if fault.takes(method, path)), None)
            if fault is None and self._dice:
                dice, share, kinds = self._dice
                if dice.random() < share:
                    fault = Fault(dice.choice(kinds), at=dice.randrange(64), seconds=dice.random())
            if fault:
                self.injected[fault.kind] += 1
            return fault

    def _answer(self, client: socket.socket, method: str, path: str, headers: Any, body: bytes) -> bool:
        """Answer one request; False where the connection is over."""
        fault = self._fate(method, path)
        kind = fault.kind if fault else None
        if kind in ("refuse", "hang"):
            time.sleep(fault.seconds if fault and kind == "hang" else 0)
            return _reset(client)
        if kind in _ERRORS:
            return _send_error(client, method, *_ERRORS[kind])
        if fault and kind == "flip_sent" and body:
            body = _flipped(body, fault.at)
        status, reason, answer_headers, answer = self._forward(method, path, headers, body)
        if kind == "lost":
            return _reset(client)
        if kind == "failed":
            return _send_error(client, method, *_ERRORS["error"])
        if fault and kind == "delay":
            time.sleep(fault.seconds)
        if fault and kind == "flip":
            answer = _flipped(answer, fault.at)
        lines = [f"HTTP/1.1 {status} {reason}"]
        lines += [f"{name}: {value}" for name, value in answer_headers if name.lower() not in _HOP_BY_HOP | {"content-length"}]
        told = dict((name.lower(), value) for name, value in answer_headers).get("content-length")
        length = told if method == "HEAD" and told else str(len(answer))
        head = "\r\n".join([*lines, f"Content-Length: {length}", "", ""]).encode("latin-1")
        if fault and kind in ("truncate", "reset"):
            client.sendall(head + answer[: fault.at])
            time.sleep(0.05)
            return _reset(client) if kind == "reset" else False
        client.sendall(head + answer)
        return True

    def _forward(self, method: str, path: str, headers: Any, body: bytes) -> tuple[int, str, list[tuple[str, str]], bytes]:
        place = urlsplit(self.upstream)
        connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=120)
        with contextlib.closing(connection):
            connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
            for name, value in headers.items():
                if name.lower() not in _HOP_BY_HOP | {"content-length"}:
                    connection.putheader(name, value)
            if body or method in ("PUT", "POST"):
                connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body or None)
            response = connection.getresponse()
            answer = response.read()
            with self._lock:
                self.forwarded += 1
            return response.status, response.reason, response.getheaders(), answer


def _body(stream: Any, headers: Any) -> bytes:
    if headers.get("Transfer-Encoding", "").lower() != "chunked":
        return stream.read(int(headers.get("Content-Length") or 0))
    pieces = []
    while size := int(stream.readline().split(b";")[0], 16):
        pieces.append(stream.read(size))
        stream.readline()
    stream.readline()
    return b"".join(pieces)


def _flipped(body: bytes, at: int) -> bytes:
    return body[: at % len(body)] + bytes([body[at % len(body)] ^ 4]) + body[at % len(body) + 1 :] if body else body


def _send_error(client: socket.socket, method: str, status: int, code: str, message: str) -> bool:
    text = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{message}</Message></Error>".encode()
    head = f"HTTP/1.1 {status} {code}\r\nContent-Type: application/xml\r\nContent-Length: {len(text)}\r\n\r\n".encode()
    client.sendall(head if method == "HEAD" else head + text)
    return True


def _reset(client: socket.socket) -> bool:
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()
    return False
