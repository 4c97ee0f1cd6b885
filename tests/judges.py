"""Texts to be told apart, a server that deals them, and judges who answer, for the tests of `seqforge turing`."""

import http.client
import json
import random
import threading
from contextlib import contextmanager
from pathlib import Path

from seqforge import turing
from seqforge.turing import deal
from seqforge.turing_server import Desk, Server

REAL, FAKE = [f"a real line {i}" for i in range(30)], [f"a made line {i}" for i in range(30)]


def deck(n=8, real=REAL, **more):
    return deal(n, real, more.pop("drawn", {"generated": FAKE}), **{"seed": 0, "temperature": 1.0, "step": 9, **more})


@contextmanager
def serving(folder: Path, dealt, host="127.0.0.1"):
    with Server(Desk(folder, dealt), host, 0) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def asked(server, method, path, body=None, headers=None):
    """Status and content."""
    connection = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=20)
    body = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    connection.request(method, path, body, headers or {})
    reply = connection.getresponse()
    content = reply.read()
    return reply.status, json.loads(content) if "json" in reply.headers["Content-Type"] else content.decode()


def post(server, path, **body):
    return asked(server, "POST", path, body)


def judge_all(server, judge, rng=random):
    status, found = post(server, "/next", judge=judge)
    while "trial" in found:
        said = rng.choice(turing.ANSWERS)
        trial = found["trial"]
        status, found = post(server, "/answer", judge=judge, trial=trial, answer=said, seconds=1.25)
        assert status == 200, found
    return found
