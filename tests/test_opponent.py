"""A fair opponent: where a pre-training ended while it still improved, a copy goes on by likelihood for the verdict."""

import json

import pytest
import torch

from seqforge import checkpoint, verdict
from seqforge.cli import main
from seqforge.loading import load_generator
from seqforge.methods import mle

TINY = ["train", "seqgan", "--recipe", "seqgan-oracle-tiny", "--report", "false", "--rounds", "2"]
SHORT = ["--mle.epochs", "1"]
FOLDERS = {"fair": [], "short": SHORT, "none": ["--mle.epochs", "0"], "alone": [*SHORT, "--counterpart.epochs", "0"]}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """By what their pre-training was, and a control that starts from the short one."""
    folder = tmp_path_factory.mktemp("opponents")
    fair = ["--mle.epochs", "12", "--mle.lr", "0.1", "--mle.patience", "1"]
    for name, options in (FOLDERS | {"fair": fair}).items():
        assert main([*TINY, *options, "--out", str(folder / name)]) == 0
    control = [*TINY, *SHORT, "--from", str(folder / "short"), "--reward", "constant", "--lr", "0.001"]
    assert main([*control, "--out", str(folder / "control")]) == 0
    return folder


def scores(run) -> dict:
    return json.loads((run / "scores.json").read_text())


def nll_test(generator: dict) -> float:
    return next(s["value"] for s in generator["scores"] if (s["name"], s["temperature"]) == ("nll_test", 1.0))


def names(run) -> list[str]:
    return [g["name"] for g in scores(run)["generators"]]


@pytest.mark.parametrize("name", ["short", "none"])
def test_a_pre_training_cut_short_is_no_fair_opponent(runs, name):
    before, twin, final = scores(runs / name)["generators"]
    assert (before["name"], twin["name"], final["name"]) == ("pre-trained", verdict.COUNTERPART, "final")
    assert nll_test(twin) < nll_test(before)
    assert "its MLE counterpart" in scores(runs / name)["verdict"]
    draws = [verdict.load_draws(runs / name / verdict.FILE, n) for n in ("final", verdict.COUNTERPART)]
    wanted = verdict.judge("oracle", final["scores"], twin["scores"], *draws)
    assert [j["gap"] for j in scores(runs / name)["judgements"]] == ([pytest.approx(wanted.gap)] if wanted else [])


def test_one_that_had_its_best_behind_it_is(runs):
    assert names(runs / "fair") == ["pre-trained", "final"]
    assert "MLE" in scores(runs / "fair")["verdict"]
    assert "No verdict on MLE" not in scores(runs / "fair")["verdict"]


def test_the_method_sees_nothing_of_it(runs):
    weights = [load_generator(checkpoint.newest(runs / n / "checkpoints", "final")).state_dict() for n in FOLDERS]
    by = dict(zip(FOLDERS, weights, strict=True))
    assert all(torch.equal(by["short"][k], by["alone"][k]) for k in by["short"])
    tokens = [json.loads((runs / n / "log.jsonl").read_text().splitlines()[-1])["tokens"] for n in ("short", "alone")]
    assert tokens[0] == tokens[1]


def test_without_it_there_is_no_verdict_on_mle(runs):
    assert names(runs / "alone") == ["pre-trained", "final"]
    assert scores(runs / "alone")["judgements"] == []
    told = scores(runs / "alone")["verdict"]
    assert told.startswith("No verdict on MLE: the likelihood training that this is held to ended while")
    assert "give --counterpart.epochs 100" in told
    assert "NLL_test" in told


def test_one_that_was_cut_short_itself_is_not_fair_either(tmp_path):
    cut = ["--counterpart.epochs", "1", "--counterpart.lr", "0.001"]
    for name, argv in (("seqgan", [*TINY, *SHORT]), ("cot", ["train", "cot", "--recipe", "cot-tiny"])):
        assert main([*argv, *cut, "--out", str(tmp_path / name)]) == 0
        assert verdict.COUNTERPART in names(tmp_path / name)
        assert scores(tmp_path / name)["verdict"].startswith("No verdict on MLE: ")
        assert "raise --counterpart.epochs" in scores(tmp_path / name)["verdict"]
        assert scores(tmp_path / name)["fair"] is False


def test_it_makes_no_milestones(tmp_path):
    """Each would be scored by an evaluator beside, and all have one generator."""
    argv = [*TINY, *SHORT, "--checkpoint.every", "1", "--out", str(tmp_path / "run")]
    assert main(argv) == 0
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    steps = {r["step"] + 1 for r in log if r["phase"] == mle.COUNTERPART}
    tagged = {checkpoint.step_of(p) for p in checkpoint.every(tmp_path / "run" / "checkpoints")
              if checkpoint.MILESTONE in checkpoint.tags_of(p)}  # fmt: skip
    assert steps
    assert tagged
    assert not steps & tagged


def test_a_control_shares_it(runs):
    twins = [
        g for n in ("short", "control") for g in scores(runs / n)["generators"] if g["name"] == verdict.COUNTERPART
    ]
    assert len(twins) == 2
    assert twins[0]["scores"] == twins[1]["scores"]
    assert scores(runs / "control")["fair"] is True
    log = [json.loads(line) for line in (runs / "control" / "log.jsonl").read_text().splitlines()]
    assert not [r for r in log if r["phase"] == mle.COUNTERPART]


def test_the_model_card_of_the_pre_trained_has_its_own_scores(runs, tmp_path):
    assert main(["export", str(runs / "short"), "--checkpoint", "pre-trained", "--out", str(tmp_path / "hub")]) == 0
    card = (tmp_path / "hub" / "README.md").read_text()
    before, twin, _ = scores(runs / "short")["generators"]
    assert f"| nll_test | 1 | {nll_test(before):.4f}" in card
    assert f"| nll_test | 1 | {nll_test(twin):.4f}" not in card


def test_it_goes_on_after_a_stop_as_if_there_had_been_none(runs, tmp_path, monkeypatch):
    seen, log = [], mle.Run.log

    def cut(self, phase, kind, **values):
        log(self, phase, kind, **values)
        seen.append(phase)
        if seen.count(mle.COUNTERPART) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(mle.Run, "log", cut)
    assert main([*TINY, *SHORT, "--out", str(tmp_path / "cut")]) == 130
    monkeypatch.setattr(mle.Run, "log", log)
    assert main(["resume", str(tmp_path / "cut")]) == 0
    for found, wanted in zip(scores(tmp_path / "cut")["generators"], scores(runs / "short")["generators"], strict=True):
        assert found["scores"] == wanted["scores"]


def test_it_is_never_the_worse_by_validation(tmp_path):
    """A step too long threw it off, and the verdict was held to what that left."""
    argv = [*TINY, *SHORT, "--counterpart.lr", "5.0", "--out", str(tmp_path / "run")]
    assert main(argv) == 0
    before, twin, _ = scores(tmp_path / "run")["generators"]
    assert twin["scores"][: len(before["scores"])] == before["scores"]  # then those of colder temperatures


def test_a_run_that_ended_at_its_pre_training_hands_it_on(runs, tmp_path):
    """The last checkpoint, of the same step, had lost it: a copy of the start was taken for the counterpart."""
    assert main([*TINY, *SHORT, "--rounds", "0", "--out", str(tmp_path / "base")]) == 0
    assert main([*TINY, *SHORT, "--from", str(tmp_path / "base"), "--out", str(tmp_path / "run")]) == 0
    twins = [
        g for n in (runs / "short", tmp_path / "run") for g in scores(n)["generators"] if "counterpart" in g["name"]
    ]
    assert twins[0]["scores"] == twins[1]["scores"]


def test_what_has_sharpened_is_held_to_colder_temperatures(tmp_path):
    """At the one temperature asked for they share no diversity; the opponent's scores at colder ones are its own."""
    given = ["--mle.epochs", "12", "--mle.lr", "0.1", "--mle.patience", "1", "--reward", "constant", "--lr", "0.1"]
    given += ["--baseline", "none", "--evaluate.temperatures", "[1.0]"]
    assert main([*TINY, *given, "--out", str(tmp_path / "run")]) == 0
    before, final = scores(tmp_path / "run")["generators"]
    assert {s["temperature"] for s in final["scores"]} == {1.0}
    by = {s["temperature"]: s["value"] for s in before["scores"] if s["name"] == "nll_test"}
    ladder = sorted(by, reverse=True)
    assert ladder == [1.0, 0.8, 0.64, 0.512, 0.41][: len(ladder)]
    assert len(ladder) > 1
    assert by[ladder[-1]] >= nll_test(final) or len(ladder) == 5
    assert all(by[t] < nll_test(final) for t in ladder[:-1])
    argv = ["evaluate", str(tmp_path / "run"), "--temperatures", str(ladder)]
    assert main(argv) == 0
    again = scores(tmp_path / "run")["generators"][0]["scores"]
    assert {s["temperature"]: s["value"] for s in again if s["name"] == "nll_test"} == by
    assert "No verdict: there is no" not in scores(tmp_path / "run")["verdict"]
