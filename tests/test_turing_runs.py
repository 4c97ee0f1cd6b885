"""`seqforge turing` on a finished run: what is refused, a server that is killed, a judge in a browser."""

import collections
import functools
import json
import re
import shutil
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml
from headless import chromium
from judges import judge_all, post, serving
from test_report_browser import CONTRAST

from seqforge import checkpoint, turing
from seqforge.cli import main
from seqforge.cli_turing import deck_of
from seqforge.report import build

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


def test_data_that_are_no_longer_the_run_s_are_refused(copy):
    """Real sequences of another file would be judged against the run's; evaluate, watch and resume refuse them too."""
    log = copy / "log.jsonl"
    first, rest = log.read_text().split("\n", 1)
    log.write_text(json.dumps({**json.loads(first), "test": "0ther"}) + "\n" + rest)
    with pytest.raises(ValueError, match=r"it began with other test data \(digest 0ther;"):
        deck_of(copy, 4, 1.0, 0, False)


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
