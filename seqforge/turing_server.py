"""The page on which people judge: a small HTTP server. It says what is true only to a judge who has answered all.

GET / is the page, without any trial. POST /next {judge} gives the next one, POST /answer {judge, trial, answer,
seconds} takes an answer; what is refused gets a status of 4xx and {"error": why}.
"""

import ipaddress
import json
import secrets
import socket
import sys
import threading
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from seqforge import checkpoint, turing
from seqforge.report.page import environment
from seqforge.turing import Answer, Deck

MOST_BYTES = 4096  # of a request
LONGEST_NAME = 40
LONGEST_WAIT = 1e6  # s
POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)
DRAINED = 1 << 20  # bytes read of a request that is too large, so that its sender hears why


class Refused(Exception):
    """A request that is not carried out."""

    def __init__(self, status: int, why: str):
        super().__init__(why)
        self.status = status


class Desk:
    """Hands out trials and takes answers. All it knows stands in the file: it may be killed at any time, and several
    judges, or servers, may use one file.
    """

    def __init__(self, run: Path, deck: Deck):
        self.name, self.deck, self.path = run.resolve().name, deck, run / turing.FILE
        self._lock = threading.Lock()

    def next(self, judge: str) -> dict[str, Any]:
        """The next trial of a judge, or all answers with the truth where there is none left."""
        own = {a.trial: a for a in turing.read(self.path)[0] if a.judge == judge}
        order = self.deck.order(judge)
        left = [t for t in order if t.id not in own]
        place = {"judge": judge, "answered": len(order) - len(left), "of": len(order)}
        if left:
            return {**place, "trial": left[0].id, "text": left[0].text}
        answers = [own[t.id] for t in order]
        listed = [{"text": a.text, "source": a.source, "truth": a.truth, "answer": a.answer} for a in answers]
        facts = {"temperature": self.deck.temperature, "seed": self.deck.seed}
        return {**place, **facts, "accuracy": turing.share(a.right for a in answers), "answers": listed}

    def answer(self, judge: str, trial: str, answer: str, seconds: float) -> None:
        """Write an answer down at once. Raises Refused for a trial that is unknown, or answered already."""
        if trial not in self.deck.trials:
            raise Refused(404, "unknown trial; reload the page")
        asked = self.deck.trials[trial]
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        facts = {"seed": self.deck.seed, "temperature": self.deck.temperature, "step": self.deck.step}
        one = Answer(judge, now, trial, asked.text, asked.truth, asked.source, answer, seconds, **facts)
        with self._lock, checkpoint.locked(self.path):
            if any(a.judge == judge and a.trial == trial for a in turing.read(self.path)[0]):
                raise Refused(409, "already answered: each text is judged once")
            turing.append(self.path, one)


class Server(ThreadingHTTPServer):
    """Serves a desk. Raises ValueError for an address that cannot be had. port 0: a free one."""

    daemon_threads = True

    def __init__(self, desk: Desk, host: str, port: int):
        self.desk, self.host = desk, host
        self.page = environment().get_template("judging.html.j2")
        if ":" in host:
            self.address_family = socket.AF_INET6
        if not 0 <= port < 2**16:
            raise ValueError(f"--port is {port}, but must lie between 0 (a free one) and 65535")
        try:
            super().__init__((host, port), Handler)
        except OSError as e:
            raise ValueError(
                f"--host {host} --port {port}: {e.strerror}; give another port, 0 for a free one, or another host"
            ) from e

    @property
    def address(self) -> str:
        name = socket.gethostname() if self.host in ("0.0.0.0", "::", "") else self.host
        return f"http://{f'[{name}]' if ':' in name else name}:{self.server_address[1]}/"

    def is_ours(self, host: str) -> bool:
        """Whether a Host header names this server: a page elsewhere can make its own name lead here, but
        not an IP address."""
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        own = socket.gethostname().lower()
        return name in ("localhost", self.host.lower(), own, f"{own}.local") or _is_number(name)

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError):  # who asked has gone
            super().handle_error(request, client_address)


class Handler(BaseHTTPRequestHandler):
    server: Server  # type: ignore[assignment]
    timeout = 30  # s that a silent connection is kept

    def do_GET(self) -> None:
        try:
            self._check_origin()
            if self.path != "/":
                raise Refused(404, "nothing here; the page is /")
        except Refused as e:
            return self._reply(e.status, str(e).encode(), "text/plain")
        nonce, desk = secrets.token_urlsafe(16), self.server.desk
        page = self.server.page.render(name=desk.name, trials=len(desk.deck.trials), longest=LONGEST_NAME, nonce=nonce)
        self._reply(200, page.encode(), "text/html", f"{POLICY}; script-src 'nonce-{nonce}'")

    def do_POST(self) -> None:
        try:
            status, found = 200, self._carried_out(self._body())
        except Refused as e:
            status, found = e.status, {"error": str(e)}
        except OSError as e:  # a full disk: the judge hears of it, and the next answer is tried again
            if isinstance(e, ConnectionError | TimeoutError):
                raise
            print(f"seqforge: {self.server.desk.path}: {e.strerror}; the answer is not counted", file=sys.stderr)
            status, found = 500, {"error": f"the answer could not be written ({e.strerror}) and is not counted"}
        self._reply(status, json.dumps(found).encode(), "application/json")

    def _carried_out(self, body: dict[str, Any]) -> dict[str, Any]:
        judge, desk = _judge(body.get("judge")), self.server.desk
        if self.path == "/next":
            return desk.next(judge)
        trial, answer, seconds = (body.get(k) for k in ("trial", "answer", "seconds"))
        if not isinstance(trial, str) or answer not in turing.ANSWERS:
            raise Refused(400, f"give trial, a text, and answer, one of: {', '.join(turing.ANSWERS)}")
        if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds <= LONGEST_WAIT:
            raise Refused(400, f"seconds is {seconds!r}, but must be a number from 0 to {LONGEST_WAIT:g}")
        desk.answer(judge, trial, answer, round(seconds, 3))
        return desk.next(judge)

    def _body(self) -> dict[str, Any]:
        """What was posted. Raises Refused before and after reading it."""
        size = self.headers.get("Content-Length", "")
        if not (size.isascii() and size.isdigit()):
            raise Refused(411, "Content-Length is missing or no number")
        if int(size) > MOST_BYTES:
            self.rfile.read(min(int(size), DRAINED))
            raise Refused(413, f"a request has at most {MOST_BYTES} bytes")
        raw = self.rfile.read(int(size))
        self._check_origin()
        if self.path not in ("/next", "/answer"):
            raise Refused(404, "nothing here; POST to /next or /answer")
        try:
            body = json.loads(raw)
        except (ValueError, RecursionError) as e:
            raise Refused(400, "the request is not JSON") from e
        if not isinstance(body, dict):
            raise Refused(400, "the request is no JSON object")
        return body

    def _check_origin(self) -> None:
        """Raises Refused for what a page from elsewhere sends."""
        host, origin = self.headers.get("Host", ""), self.headers.get("Origin")
        if not self.server.is_ours(host):
            raise Refused(403, "the Host header names another server; open the address that seqforge printed")
        if origin is not None and origin.partition("://")[2] != host:
            raise Refused(403, "the request comes from another page")

    def _reply(self, status: int, content: bytes, kind: str, policy: str = "default-src 'none'") -> None:
        self.send_response(status)
        headers = {"Content-Type": f"{kind}; charset=utf-8", "Content-Length": str(len(content))}
        headers |= {"Content-Security-Policy": policy, "Cache-Control": "no-store", "Referrer-Policy": "no-referrer"}
        for name, value in {**headers, "X-Content-Type-Options": "nosniff"}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: the terminal shows the address alone."""


def _judge(name: Any) -> str:
    """A judge's name; one is made where none is given. Raises Refused for what is none."""
    if not isinstance(name, str) or len(name) > LONGEST_NAME or not name.isprintable():
        raise Refused(400, f"judge: give a name of at most {LONGEST_NAME} letters on one line, or an empty one")
    return " ".join(name.split()) or f"judge-{secrets.token_hex(3)}"


def _is_number(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
