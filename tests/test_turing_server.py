"""The server of `seqforge turing` over a socket: a judge hears the truth at the end alone, and no answer is lost."""

import os
import random
import re
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from judges import asked, deck, judge_all, post, serving

from seqforge import turing
from seqforge.turing_server import MOST_BYTES


@pytest.fixture
def server(tmp_path):
    with serving(tmp_path, deck()) as started:
        yield started


def test_a_judge_goes_through_and_hears_the_truth_at_the_end_alone(server):
    status, found = post(server, "/next", judge="")
    judge = found["judge"]
    assert re.fullmatch("judge-[0-9a-f]{6}", judge)
    for at in range(8):
        assert (status, found.keys()) == (200, {"judge", "answered", "of", "trial", "text"})
        assert (found["answered"], found["of"]) == (at, 8)
        assert post(server, "/next", judge=judge)[1] == found  # a reload
        said = "person" if "real" in found["text"] else "machine"
        status, found = post(server, "/answer", judge=judge, trial=found["trial"], answer=said, seconds=0.5)
        assert len(turing.read(server.desk.path)[0]) == at + 1  # at once
    assert found["accuracy"]["count"] == 8
    assert {(a["truth"], a["source"]) for a in found["answers"]} == {("person", "real"), ("machine", "generated")}
    first = turing.read(server.desk.path)[0][0]
    assert (first.judge, first.seconds, first.seed, first.temperature, first.step) == (judge, 0.5, 0, 1.0, 9)


def test_the_page_holds_no_trial(server):
    status, page = asked(server, "GET", "/")
    assert status == 200
    assert not any(t.text in page or t.id in page for t in server.desk.deck.trials.values())
    assert not re.search(r"(src|href)=[\"'](?!data:)", page)


GOOD = {"judge": "ann", "answer": "person", "seconds": 1}


@pytest.mark.parametrize(
    ("status", "request_"),
    [
        (404, ("POST", "/answer", {**GOOD, "trial": "0" * 12})),
        (400, ("POST", "/answer", {**GOOD, "trial": 7})),
        (400, ("POST", "/answer", {**GOOD, "trial": "TRIAL", "answer": "dog"})),
        (400, ("POST", "/answer", {**GOOD, "trial": "TRIAL", "answer": ["person"]})),
        (400, ("POST", "/answer", {**GOOD, "trial": "TRIAL", "seconds": -1})),
        (400, ("POST", "/answer", {**GOOD, "trial": "TRIAL", "seconds": "1"})),
        (400, ("POST", "/answer", {**GOOD, "trial": "TRIAL", "seconds": float("nan")})),
        (400, ("POST", "/answer", {**GOOD, "trial": "TRIAL", "seconds": 10**400})),
        (400, ("POST", "/answer", {**GOOD, "trial": "TRIAL", "judge": "x" * 41})),
        (400, ("POST", "/answer", {**GOOD, "trial": "TRIAL", "judge": "a\nb"})),
        (400, ("POST", "/answer", {**GOOD, "trial": "TRIAL", "judge": "\ud800"})),
        (400, ("POST", "/next", {})),
        (400, ("POST", "/next", b"{")),
        (400, ("POST", "/next", b"\xff")),
        (400, ("POST", "/next", b"[" * 4000)),
        (400, ("POST", "/next", b"[]")),
        (400, ("POST", "/next", b"")),
        (413, ("POST", "/next", b" " * (MOST_BYTES + 1))),
        (413, ("POST", "/next", b" " * 3_000_000)),
        (411, ("POST", "/next", b"{}", {"Content-Length": "two"})),
        (403, ("POST", "/next", GOOD, {"Host": "evil.example"})),
        (403, ("POST", "/next", GOOD, {"Host": "evil.example:80"})),
        (403, ("POST", "/next", GOOD, {"Host": "["})),
        (403, ("POST", "/next", GOOD, {"Origin": "http://evil.example"})),
        (403, ("POST", "/next", GOOD, {"Origin": "http://127.0.0.1:1"})),
        (403, ("POST", "/next", GOOD, {"Origin": "null"})),
        (403, ("GET", "/", None, {"Host": "evil.example"})),
        (404, ("POST", "/", GOOD)),
        (404, ("GET", "/turing.jsonl")),
        (404, ("GET", "/../config.yaml")),
        (501, ("PUT", "/next", GOOD)),
    ],
)
def test_what_is_refused_leaves_the_server_up_and_the_file_alone(status, request_, server):
    method, path, *rest = request_
    if rest and isinstance(rest[0], dict) and rest[0].get("trial") == "TRIAL":
        rest[0] = {**rest[0], "trial": next(iter(server.desk.deck.trials))}
    try:
        assert asked(server, method, path, *rest)[0] == status
    except (ConnectionError, TimeoutError):
        assert status == 413  # it hung up on one who goes on sending
    assert not server.desk.path.exists()
    assert post(server, "/next", judge="ann")[0] == 200


def test_a_second_answer_to_a_trial_is_refused(tmp_path, monkeypatch):
    """Also where both come at once, to two servers."""
    write = turing.append

    def slow(*args):
        time.sleep(0.05)
        write(*args)

    monkeypatch.setattr(turing, "append", slow)
    with serving(tmp_path, deck()) as one, serving(tmp_path, deck()) as two, ThreadPoolExecutor(8) as pool:
        _, found = post(one, "/next", judge="ann")
        again = {**GOOD, "trial": found["trial"]}
        replies = list(pool.map(lambda i: asked((one, two)[i % 2], "POST", "/answer", again), range(16)))
    assert sorted(status for status, _ in replies) == [200] + [409] * 15
    assert "already answered" in next(r["error"] for s, r in replies if s == 409)
    assert len(turing.read(tmp_path / turing.FILE)[0]) == 1


def test_several_judges_on_two_servers_lose_nothing(tmp_path):
    with serving(tmp_path, deck()) as one, serving(tmp_path, deck()) as two, ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: judge_all((one, two)[i % 2], f"judge {i}", random.Random(i)), range(8)))
    found, broken = turing.read(tmp_path / turing.FILE)
    assert (len(found), broken) == (64, [])


def test_a_full_disk_is_told_and_the_next_try_counts(server, monkeypatch, capsys):
    _, found = post(server, "/next", judge="ann")

    def full(_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as m:
        m.setattr(os, "fsync", full)
        status, told = asked(server, "POST", "/answer", {**GOOD, "trial": found["trial"]})
    assert (status, "No space left" in told["error"]) == (500, True)
    assert asked(server, "POST", "/answer", {**GOOD, "trial": found["trial"]})[0] == 200


def test_a_host_may_be_an_address_or_a_name_of_this_machine(server):
    port = server.server_address[1]
    for host in (f"localhost:{port}", f"127.0.0.1:{port}", f"[::1]:{port}", "192.168.1.7:9000", socket.gethostname()):
        assert asked(server, "POST", "/next", GOOD, {"Host": host, "Origin": f"http://{host}"})[0] == 200
    assert server.address == f"http://127.0.0.1:{port}/"
