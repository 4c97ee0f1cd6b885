"""`seqforge turing`: what is dealt, the file of answers, what they say, in figures, in words and in the report."""

import collections
import dataclasses
import json
import math
import os
import re
from dataclasses import asdict

import pytest
from judges import FAKE, REAL, deck
from scipy.stats import binomtest
from test_report import finished_run

from seqforge import turing
from seqforge.report import build
from seqforge.report.turing import sentence, tables
from seqforge.turing import Answer


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


def test_what_is_pooled_is_told_apart_by_generator_and_temperature():
    """One percentage was told of a generator as it is, one at a low temperature, and the pre-trained one."""
    rows = [answer(trial=f"a{i}", said="person" if i < 6 else "machine") for i in range(10)]
    rows += [answer(trial=f"b{i}", temperature=0.5, said="machine" if i < 8 else "person") for i in range(10)]
    rows += [answer(trial=f"c{i}", source="generated", said="machine" if i < 6 else "person") for i in range(20)]
    rows += [answer(trial=f"d{i}", source="generated", temperature=0.5, said="machine") for i in range(10)]
    rows += [answer(trial=f"e{i}", source="pretrained", said="machine" if i < 9 else "person") for i in range(10)]
    rows += [answer(trial="f", source="pretrained", temperature=2.0, said="machine")]
    found = turing.results(rows)
    each = [(k["source"], k["temperature"], k["real"], k["generated"], k["share"]) for k in found["by_generator"]]
    assert each == [
        ("generated", 0.5, 10, 10, pytest.approx((0.2 + 1) / 2)),
        ("generated", 1.0, 10, 20, pytest.approx((0.6 + 0.3) / 2)),
        ("pretrained", 1.0, 10, 10, pytest.approx((0.6 + 0.9) / 2)),
        ("pretrained", 2.0, 0, 1, None),
    ]
    real, made = (binomtest(k, n).proportion_ci(0.95, "wilson") for k, n in ((6, 10), (6, 20)))
    kind = found["by_generator"][1]
    assert kind["low"] == pytest.approx(0.45 - math.hypot(0.6 - real.low, 0.3 - made.low) / 2, abs=1e-4)
    assert kind["high"] == pytest.approx(0.45 + math.hypot(real.high - 0.6, made.high - 0.3) / 2, abs=1e-4)
    told = sentence(found)
    assert "That pools 4 kinds of generated sequences" in told
    assert "of the final generator, temperature 1: 45% (95 % interval " in told
    assert "of the pre-trained generator, temperature 1: 75% (95 % interval " in told
    assert told.endswith("of the pre-trained generator, temperature 2: too few answers.")
    (one,) = [table for table in tables(found) if "either side counted half" in table.caption]
    assert [row[:3] for row in one.rows][1:] == [
        ("of the final generator, temperature 1", "10 and 20", "45%"),
        ("of the pre-trained generator, temperature 1", "10 and 10", "75%"),
        ("of the pre-trained generator, temperature 2", "0 and 1", "–"),
    ]


def test_a_judge_who_calls_all_human_is_a_coin_whatever_was_asked():
    rows = [answer(trial=f"a{i}", source=s) for s, n in (("real", 20), ("generated", 10)) for i in range(n)]
    rows = [dataclasses.replace(row, trial=str(i)) for i, row in enumerate(rows)]
    (kind,) = turing.results(rows)["by_generator"]
    assert kind["share"] == 0.5
    assert kind["low"] < 0.5 < kind["high"]


def test_of_one_generator_at_one_temperature_nothing_is_pooled():
    found = turing.results([answer(), answer(trial="u", source="generated")])
    assert "pools" not in sentence(found)
    assert len(tables(found)) == 2


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
