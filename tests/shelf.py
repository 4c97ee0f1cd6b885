"""A server on this machine that serves files and misbehaves to order, for the tests of fetching."""

import contextlib
import hashlib
import random
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from seqforge.data import fetch
from seqforge.data.download import Patience
from seqforge.data.published import PublishedCorpus, PublishedFile

BODY = random.Random(0).randbytes(300_000)
OTHER = random.Random(1).randbytes(300_000)
QUICK = Patience(timeout=60, waits=(0.0, 0.0, 0.0))
LONG = 120  # seconds: no test waits so long unless something is broken, however busy the machine


def digest(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


@dataclass
class Mood:
    """How the server takes one request."""

    status: int = 0  # an error
    location: str = ""  # a redirect
    cut: int | None = None  # close after so many bytes of the answer
    hang: int | None = None  # stop after so many bytes, and keep the connection
    lie: int = 0  # added to the stated length
    ranges: bool = True  # heed Range
    if_range: bool = True  # heed If-Range
    length: bool = True  # state a length
    chunked: bool = False
    headers: dict[str, str] = field(default_factory=dict)


class Shelf(ThreadingHTTPServer):
    """What is served, how, and what was asked for; the last mood stays."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.moods: dict[str, list[Mood]] = {}
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.sent: list[int] = []
        self.over = threading.Event()

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/{name}"

    def ranges(self) -> list[str | None]:
        return [headers.get("Range") for _, headers in self.asked]

    def handle_error(self, request, client_address):  # clients that go away are what is tested
        pass


class Handler(BaseHTTPRequestHandler):
    server: Shelf  # pyright: ignore[reportIncompatibleVariableOverride]
    protocol_version = "HTTP/1.1"

    def log_message(self, format, *args):
        pass

    def do_GET(self):
        name = self.path.lstrip("/")
        self.close_connection = True
        self.server.asked.append((name, dict(self.headers)))
        moods = self.server.moods.get(name, [Mood()])
        mood = moods.pop(0) if len(moods) > 1 else moods[0]
        if mood.status or mood.location:
            self.send_response(mood.status or 302)
            if mood.location:
                self.send_header("Location", mood.location)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.answer(self.server.files[name], mood)

    def answer(self, body: bytes, mood: Mood):
        tag = f'"{digest(body)[:8]}"'
        start = 0
        asked = self.headers.get("Range") if mood.ranges else None
        if asked and (self.headers.get("If-Range") == tag or not mood.if_range):
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
            if start >= len(body):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(body)}")
                self.end_headers()
                return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        if mood.chunked:
            self.send_header("Transfer-Encoding", "chunked")
        elif mood.length:
            self.send_header("Content-Length", str(len(body) - start + mood.lie))
        for key, value in ({"ETag": tag} | mood.headers).items():
            self.send_header(key, value)
        self.end_headers()
        self.pour(body[start:], mood)

    def pour(self, rest: bytes, mood: Mood):
        stop = min(x for x in (mood.cut, mood.hang, len(rest)) if x is not None)
        if mood.chunked:
            self.wfile.write(f"{len(rest):x}\r\n".encode())
        self.server.sent.append(stop)  # first: a client that has all may look at once
        self.wfile.write(rest[:stop])
        if mood.chunked and stop == len(rest):
            self.wfile.write(b"\r\n0\r\n\r\n")
        if mood.hang is not None:
            self.server.over.wait(LONG)


@contextlib.contextmanager
def serving() -> Iterator[Shelf]:
    server = Shelf()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server
    finally:
        server.over.set()
        server.shutdown()
        thread.join()
        server.server_close()


def corpus(*files: PublishedFile, main: str = ".") -> dict[str, PublishedCorpus]:
    return {"toy": PublishedCorpus("toy sentences", "none stated", "http://127.0.0.1", files, main)}


def one(shelf: Shelf, sha256: str | None = None, body: bytes = BODY) -> dict[str, PublishedCorpus]:
    shelf.files["a.txt"] = body
    return corpus(PublishedFile(shelf.url("a.txt"), "a.txt", sha256), main="a.txt")


def fetched(table, cache: Path, **more) -> tuple[Path, list[str]]:
    said: list[str] = []
    return fetch.get("toy", cache, say=said.append, corpora=table, patience=more.pop("patience", QUICK), **more), said


def leftovers(cache: Path) -> list[str]:
    return sorted(p.name for p in (cache / "corpora" / "toy").iterdir())


WHOLE = [".lock", "SHA256SUMS", "a.txt"]
