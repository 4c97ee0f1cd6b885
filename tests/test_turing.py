"""`seqforge turing`: what is dealt, the file of answers, the server over a socket, a judge in a browser, the report."""

import collections
import functools
import http.client
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import pytest
import yaml
from headless import chromium
from scipy.stats import binomtest
from test_report import finished_run
from test_report_browser import CONTRAST

from seqforge import checkpoint, turing
from seqforge.cli import main
from seqforge.cli_turing import deck_of
from seqforge.report import build
from seqforge.report.turing import sentence
from seqforge.turing import Answer, deal
from seqforge.turing_server import MOST_BYTES, Desk, Server

REAL, FAKE = [f"a real line {i}" for i in range(30)], [f"a made line {i}" for i in range(30)]


def deck(n=8, real=REAL, **more):
    return deal(n, real, more.pop("drawn", {"generated": FAKE}), **{"seed": 0, "temperature": 1.0, "step": 9, **more})


def answer(judge="ann", trial="t", source="real", said="person", **more):
    truth = "person" if source == "real" else "machine"
    fields = {"time": "2024-01-01T00:00:00+00:00", "text": "a \u2028 line", "seconds": 2.5, "seed": 0, "step": 9}
    return Answer(**{**fields, "temperature": 1.0, **more}, judge=judge, trial=trial, truth=truth, source=source,
                  answer=said)  # fmt: skip


# -- trials


@pytest.mark.parametrize("drawn", [{"generated": FAKE}, {"generated": FAKE, "pretrained": FAKE[10:]}])
def test_half_is_real_and_no_text_comes_twice(drawn):
    dealt = deck(12, drawn=drawn)
    counts = collections.Counter(t.source for t in dealt.trials.values())
    assert counts == {"real": 6, **dict.fromkeys(drawn, 6 // len(drawn))}
    assert len({t.text for t in dealt.trials.values()}) == len(dealt.trials) == 12
    assert all(t.truth == ("person" if "real" in t.text else "machine") for t in dealt.trials.values())
    assert deck(12, drawn=drawn) == dealt


def test_what_is_real_and_generated_is_left_out_and_counted():
    dealt = deck(40, drawn={"generated": [REAL[0], REAL[1], REAL[0], FAKE[0], *FAKE]})
    assert dealt.left_out == 2
    assert not {REAL[0], REAL[1]} & {t.text for t in dealt.trials.values()}


def test_neither_order_nor_id_tells_the_truth():
    dealt = deck(20)
    orders = [dealt.order(f"judge {i}") for i in range(400)]
    assert all(sorted(t.id for t in o) == sorted(dealt.trials) for o in orders)
    assert dealt.order("judge 1") == orders[1] != orders[2]
    for place in range(20):
        real = sum(o[place].source == "real" for o in orders)
        assert binomtest(real, 400).pvalue > 1e-5
    ids = [t.id for t in dealt.trials.values()]
    assert all(re.fullmatch("[0-9a-f]{12}", i) for i in ids)
    assert not set(ids) & deck(20, seed=1).trials.keys()
    assert not set(ids) & deck(20, temperature=0.5).trials.keys()


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"n": 7}, "--n is 7, but must be a multiple of 2"),
        ({"n": 0}, "--n is 0, but must be a multiple of 2"),
        ({"n": 6, "drawn": {"generated": FAKE, "pretrained": FAKE}}, "multiple of 4"),
        ({"n": 62}, "only 30 distinct test sequences; give at most --n 60"),
        ({"n": 60, "drawn": {"generated": [REAL[0], *FAKE]}}, "29 distinct test sequences that are not generated too"),
        ({"n": 8, "drawn": {"generated": ["all alike"] * 99}}, "only 1 could be drawn that differ"),
        ({"n": 8, "drawn": {"generated": FAKE, "pretrained": FAKE[:2]}}, "source `pretrained` only 0 could"),
    ],
)
def test_what_cannot_be_dealt_is_named(more, told):
    with pytest.raises(ValueError, match=re.escape(told)):
        deck(**more)


# -- the file of answers, and what they say


def test_answers_survive_a_cut_line_and_broken_ones_are_named(tmp_path):
    path = tmp_path / turing.FILE
    turing.append(path, answer())
    with path.open("ab") as file:
        file.write(b'{"judge": "ann", "ti')  # a crash in the middle of a line
    turing.append(path, answer(trial="u"))
    with path.open("ab") as file:
        nan = json.dumps({**asdict(answer(trial="v")), "seconds": float("nan")}).encode()
        other = json.dumps({**asdict(answer(trial="v")), "truth": "neither"}).encode()
        twice = json.dumps(asdict(answer(said="machine"))).encode()
        file.write(b"\n".join([b"\xff\xfe", b"[" * 5000, b"null", nan, other, twice, b"", b""]))
    found, broken = turing.read(path)
    assert found == [answer(), answer(trial="u")]
    assert broken == [2, 4, 5, 6, 7, 8, 9]
    assert turing.read(tmp_path / "none") == ([], [])


def test_an_answer_that_the_disk_refuses_is_not_half_written(tmp_path, monkeypatch):
    path = tmp_path / turing.FILE
    turing.append(path, answer())
    before = path.read_bytes()

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        turing.append(path, answer(trial="u"))
    assert path.read_bytes() == before


def test_figures_are_the_shares_with_wilsons_interval():
    rows = [answer("ann", str(i), "real", "person" if i < 7 else "machine") for i in range(10)]
    rows += [answer("bob", str(i), "generated", "person" if i < 2 else "machine") for i in range(8)]
    rows += [answer("bob", f"cold {i}", "generated", "person", temperature=0.5) for i in range(2)]
    found = turing.results(rows)
    assert (found["answers"], found["accuracy"]["count"], found["accuracy"]["of"]) == (20, 13, 20)
    theirs = binomtest(13, 20).proportion_ci(0.95, "wilson")
    assert (found["accuracy"]["low"], found["accuracy"]["high"]) == pytest.approx((theirs.low, theirs.high), abs=1e-4)
    assert [(j["judge"], j["count"], j["of"]) for j in found["judges"]] == [("ann", 7, 10), ("bob", 6, 10)]
    called = [(c["source"], c["temperature"], c["count"], c["of"]) for c in found["called_human"]]
    assert called == [("real", None, 7, 10), ("generated", 0.5, 2, 2), ("generated", 1.0, 2, 8)]
    assert turing.share([])["share"] is None


@pytest.mark.parametrize(("right", "word"), [(58, "better than a coin"), (30, "no better"), (2, "more often than a")])
def test_the_accuracy_in_words(right, word):
    rows = [answer(trial=str(i), said="person" if i < right else "machine") for i in range(60)]
    told = sentence(turing.results(rows))
    assert told.startswith(f"Of 60 answers by one judge, {right / 60:.0%} (95 % interval ")
    assert word in told


def test_the_report_says_what_people_found(tmp_path):
    run = finished_run(tmp_path / "run")
    assert "Judged by people" not in build(run).read_text()
    (run / turing.FILE).write_text("broken\n")
    assert "turing.jsonl holds no answer" in build(run).read_text()
    turing.append(run / turing.FILE, answer("<b>ann</b>"))
    page = build(run).read_text()
    assert "Judged by people" in page
    assert "Of 1 answer by one judge, 100%" in page
    assert "&lt;b&gt;ann&lt;/b&gt;" in page
    assert "turing.jsonl: 1 line(s) are no answers, or repeat one, and are left out: 1." in page


# -- over a socket


@contextmanager
def serving(folder: Path, dealt, host="127.0.0.1"):
    with Server(Desk(folder, dealt), host, 0) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def server(tmp_path):
    with serving(tmp_path, deck()) as started:
        yield started


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


# -- the command, on a run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("turing") / "run"
    sizes = "--data.train_size 200 --data.valid_size 20 --data.test_size 60 --mle.epochs 1 --rounds 1 --rollouts 1"
    more = "--evaluate.samples 16 --evaluate.temperatures [1.0] --generator.hidden 8 --generator.embedding 8 --batch 8"
    assert main(["train", "pg_bleu", "--data", "demo", *sizes.split(), *more.split(), "--out", str(folder)]) == 0
    return folder


@pytest.fixture
def copy(run, tmp_path):
    return shutil.copytree(run, tmp_path / "run")


def refused(capsys, *argv):
    """The one line that a refusal is."""
    assert main(["turing", *map(str, argv)]) == 2
    told = capsys.readouterr().err.splitlines()
    assert len([line for line in told if not line.startswith("warning")]) == 1
    return told[-1]


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["--n", "500"], "--n is 500, half of them real, but the run has only"),
        (["--n", "5"], "--n is 5, but must be a multiple of 2"),
        (["--temperature", "0"], "temperature"),
        (["--temperature", "nan"], "temperature"),
        (["--include", "both"], "--include is 'both', but must be pretrained"),
        (["--seed", "9" * 30], "--seed is 9999"),
        (["--port", "70000", "--n", "4"], "--port is 70000, but must lie between 0"),
        (["--host", "no.such.host.invalid", "--n", "4"], "--host no.such.host.invalid --port 8421"),
        (["--json"], "--json does nothing without --results"),
        (["--results"], "no answers yet"),
    ],
)
def test_wrong_options_are_named(argv, told, copy, capsys):
    assert told in refused(capsys, copy, "--no-browser", *argv)
    assert not (copy / turing.FILE).exists()


@pytest.mark.parametrize(
    ("data", "method", "told"),
    [
        ({"source": "oracle"}, "seqgan", "its sequences are ids"),
        ({"source": "brackets"}, "seqgan", "its sequences are ids"),
        ({"source": "x.txt", "tokenizer": "ids"}, "seqgan", "its sequences are ids"),
        ({"source": "tunes", "format": "midi", "music": {}}, "seqgan", "its sequences are tunes"),
        ({"source": "x.txt"}, "dialogue", "seqforge chat"),
    ],
)
def test_runs_that_no_one_can_judge_are_refused(data, method, told, copy, capsys):
    config = yaml.safe_load((copy / "config.yaml").read_text())
    (copy / "config.yaml").write_text(yaml.safe_dump({**config, "data": {**config["data"], **data}, "method": method}))
    assert told in refused(capsys, copy)


def test_a_run_without_its_final_generator_is_refused(copy, tmp_path, capsys):
    assert "not a run folder" in refused(capsys, tmp_path)
    for folder in checkpoint.every(copy / "checkpoints"):
        if "final" in checkpoint.tags_of(folder):
            shutil.rmtree(folder)
    assert f"still being trained, or cut off; wait, or go on with it: seqforge resume {copy}" in refused(capsys, copy)
    shutil.rmtree(copy / "checkpoints")
    assert "no checkpoint yet" in refused(capsys, copy)


def test_one_that_was_never_pre_trained_has_no_such_generator(copy, capsys):
    for folder in checkpoint.every(copy / "checkpoints"):
        if "pre-trained" in checkpoint.tags_of(folder):
            shutil.rmtree(folder)
    assert "--include pretrained" in refused(capsys, copy, "--include", "pretrained")


def test_a_port_in_use_is_named(copy, capsys):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        told = refused(capsys, copy, "--n", "4", "--port", port, "--no-browser")
    assert f"--port {port}: Address already in use; give another port, 0 for a free one" in told


@contextmanager
def process(run, *more):
    """`seqforge turing` as a process, and its port; killed at the end."""
    argv = [sys.executable, "-m", "seqforge.cli", "turing", str(run), "--n", "8", "--port", "0", "--no-browser", *more]
    pipe = {"stdout": subprocess.PIPE, "text": True, "cwd": Path(__file__).parents[1]}
    heard = functools.partial(
        signal.signal, signal.SIGINT, signal.SIG_DFL
    )  # tests in the background do not hear Ctrl-C
    started = subprocess.Popen(argv, preexec_fn=heard, **pipe)
    try:
        lines = iter(started.stdout.readline, "")
        port = next(int(m[1]) for line in lines if (m := re.search(r"http://127\.0\.0\.1:(\d+)/", line)))
        yield started, collections.namedtuple("At", "server_address")(("127.0.0.1", port))
    finally:
        started.kill()
        started.wait(60)


def test_a_killed_server_loses_nothing_and_goes_on(copy, capsys):
    with process(copy, "--include", "pretrained") as (_, server):
        _, found = post(server, "/next", judge="ann")
        for _ in range(3):
            _, found = post(server, "/answer", judge="ann", trial=found["trial"], answer="person", seconds=1)
    with process(copy, "--include", "pretrained") as (started, server):
        assert post(server, "/next", judge="ann")[1] == found
        assert found["answered"] == 3
        end = judge_all(server, "ann")
        assert collections.Counter(a["source"] for a in end["answers"]) == {"real": 4, "generated": 2, "pretrained": 2}
        started.send_signal(signal.SIGINT)
        assert started.wait(60) == 0
    assert main(["turing", str(copy), "--results"]) == 0
    printed = capsys.readouterr().out
    assert "of the pre-trained generator, temperature 1" in printed
    assert "Of 8 answers by one judge" in " ".join(printed.split())
    assert main(["turing", str(copy), "--results", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["answers"], found["judges"][0]["judge"], found["broken_lines"]) == (8, "ann", [])


# -- in a browser


@pytest.fixture(scope="module")
def tab():
    with chromium() as opened:
        yield opened


READY = "!busy && performance.now() - shown > LEAST"
SHOWN = "document.getElementById('{}').checkVisibility()"
COUNT = "document.getElementById('count').textContent"
TEXT = "document.getElementById('text').textContent"
STATE = """[...document.querySelectorAll('body *:not(script)')].map(e => e.cloneNode(false).outerHTML
  .replace(/value="[0-9]+"/, '')).join('')"""  # all but the words and how far the judge is


@pytest.fixture
def page(copy, tab):
    with serving(copy, deck_of(copy, 8, 1.0, 0, False)) as started:
        tab.open(started.address)
        tab.run("localStorage.clear()")
        yield started


def begin(tab, page, name, width=1280, scheme="light"):
    tab.open(page.address, width, scheme)
    tab.wait(SHOWN.format("start"))
    tab.press("Tab")
    tab.type(name)
    tab.press("Enter", "\r")
    tab.wait(SHOWN.format("asking"))


def test_a_judge_answers_all_by_keyboard(page, tab, copy):
    begin(tab, page, "Ann 1")
    source = tab.run("document.documentElement.outerHTML")
    texts, states = [], []
    for at in range(8):
        tab.wait(f"{COUNT} === 'Text {at + 1} of 8' && {READY}")
        texts.append(tab.run(TEXT))
        states.append(tab.run(STATE))
        if at == 3:  # goes on where it was
            tab.open(page.address)
            tab.wait(f"{COUNT} === 'Text 4 of 8' && {READY}")
            assert tab.run(TEXT) == texts[-1]
        tab.press("1" if at % 2 else "2")
    tab.wait(SHOWN.format("end"))
    assert tab.run("document.activeElement.id") == "done"
    assert tab.logged == []
    assert {url.rstrip("/").split("/")[2] for url in tab.requests if not url.startswith("data:")} == {
        f"127.0.0.1:{page.server_address[1]}"
    }
    rows, broken = turing.read(copy / turing.FILE)
    assert ([r.text for r in rows], broken) == (texts, [])
    assert {r.judge for r in rows} == {"Ann 1"}
    assert [r.answer for r in rows] == ["machine", "person"] * 4
    assert all(0 < r.seconds < 60 for r in rows)
    assert len(set(states)) == 1, "the page of a real text differs from that of a generated one"
    assert not any(t.text in source for t in page.desk.deck.trials.values() if t.text != texts[0])
    right = sum(r.right for r in rows)
    assert tab.run("document.getElementById('verdict').textContent").startswith(f"You were right in {right} of 8")
    assert tab.run("document.querySelectorAll('#listed li').length") == 8
    assert tab.run("document.querySelectorAll('#listed .right').length") == right
    report = build(copy)
    tab.open(report)
    assert f"Of 8 answers by one judge, {right / 8:.0%}" in tab.run(
        "document.querySelector('#judged').parentElement.textContent"
    )


@pytest.mark.parametrize(("width", "scheme"), [(390, "light"), (1280, "dark")])
def test_it_can_be_used_on_a_phone_in_the_dark_and_by_ear(page, tab, width, scheme):
    begin(tab, page, "", width, scheme)
    assert re.match("judge-", tab.run("document.getElementById('judge').textContent"))
    assert {"A person wrote this", "A machine wrote this"} <= set(tab.heard("button"))
    assert tab.heard("progressbar", "progress") == ["Text 1 of 8"]
    for at in range(9):
        assert tab.run("document.documentElement.scrollWidth") <= width
        ratio, text = tab.run(CONTRAST)
        assert ratio >= 4.5, text
        if at < 8:
            tab.wait(f"{COUNT} === 'Text {at + 1} of 8' && {READY}")
            assert tab.run("document.querySelector('[data-answer]').getBoundingClientRect().height") >= 44
            tab.click("[data-answer=person]")
    tab.wait(SHOWN.format("end"))
    assert tab.run("document.documentElement.scrollWidth") <= width
    tab.click("#other")
    assert tab.run(SHOWN.format("start"))
    assert tab.logged == []


def test_a_second_press_and_a_second_window_answer_once_and_a_dead_server_is_told(page, tab):
    begin(tab, page, "Bob")
    tab.wait(READY)
    for _ in range(3):
        tab.press("1")
    tab.wait(f"{COUNT} === 'Text 2 of 8' && {READY}")
    status, _ = post(page, "/answer", judge="Bob", trial=tab.run("trial"), answer="person", seconds=1)  # elsewhere
    assert status == 200
    tab.press("1")
    tab.wait(f"{COUNT} === 'Text 3 of 8' && {READY}")
    assert len(turing.read(page.desk.path)[0]) == 2
    page.shutdown()
    page.server_close()
    tab.press("1")
    tab.wait("document.getElementById('problem').textContent.startsWith('The server does not answer')")
    assert tab.run(COUNT) == "Text 3 of 8"
