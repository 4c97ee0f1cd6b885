"""Why a run that has been scored has no verdict: the reason must be true of the run that it is told of."""

import json

import pytest
from test_report import finished_run, page_of, scores_json
from test_report_sections import configure, missing
from test_training import ARGV, short_report  # noqa: F401

from seqforge import health
from seqforge.cli import main
from seqforge.report.folder import read_folder
from seqforge.report.scores import LIKELIHOOD, verdict
from seqforge.settings import keys_of
from seqforge.training import METHODS

ALONE = "a run of likelihood alone: there is no stage to judge"


def told_of(run, generators, **config):
    """The verdict line of a run with these generators and no verdict."""
    (run / "scores.json").write_text(json.dumps({**scores_json(), "generators": generators, "verdict": None}))
    configure(run, **config)
    return verdict(read_folder(run))


@pytest.fixture
def run(tmp_path):
    return finished_run(tmp_path / "run")


@pytest.mark.parametrize("method", LIKELIHOOD)
def test_of_likelihood_alone_there_is_nothing_to_judge(method, run):
    """Its page told it to train one by likelihood and said that it had none to hold it against."""
    (final,) = scores_json()["generators"][1:]
    told = told_of(run, [final], method=method)
    assert told == f"No verdict: {ALONE}; seqforge compare holds it beside others."
    assert told in page_of(run).text
    assert "counterpart" not in missing(run)
    assert "Train one by likelihood" not in page_of(run).text


def test_of_a_method_with_a_stage_the_opponent_is_missed(run):
    (final,) = scores_json()["generators"][1:]
    assert told_of(run, [final], method="scratchgan").startswith("No verdict: the run has one generator, and none")
    assert "Train one by likelihood" in missing(run)


def test_a_stage_without_a_step_has_nothing_to_judge(run):
    """`--rounds 0`: "its generators share no frontier", with two rows that are one generator."""
    first, last = scores_json()["generators"]
    early = {"name": "MLE stopped early", "checkpoint": "step-800", "scores": first["scores"]}
    told = "No verdict: no step of the stage has been made, so that the generator is still the pre-trained one."
    assert told_of(run, [first, {**last, "step": first["step"]}]) == told
    assert told_of(run, [first, early, {**last, "step": first["step"]}]) == told
    assert told_of(run, [first, last]) == "No verdict: its generators share no frontier to be judged by."
    nameless = [{k: v for k, v in one.items() if k != "step"} for one in (first, last)]
    assert told_of(run, nameless) == "No verdict: its generators share no frontier to be judged by."


def test_the_methods_of_likelihood_alone_are_those_whose_phases_nothing_judges():
    """Those of the stages have rounds of them, or a reward; a student's rounds are of likelihood too."""
    staged = {name for name, (config, *_) in METHODS.items() if "rounds" in keys_of(config)} - {"distillation"}
    assert set(LIKELIHOOD) == METHODS.keys() - staged
    assert not {"mle", "search", "scheduled sampling", "distillation"} & set(health.STAGES)


@pytest.mark.usefixtures("short_report")
def test_the_terminal_says_why_as_the_page_does(tmp_path, capsys):
    assert main(["train", *ARGV, "--mle.epochs", "1", "--out", str(tmp_path / "mle")]) == 0
    assert ALONE in " ".join(capsys.readouterr().out.split())
    tiny = ["seqgan", "--recipe", "seqgan-oracle-tiny", "--mle.epochs", "1", "--rounds", "0", "--d_pretrain", "0"]
    assert main(["train", *tiny, "--out", str(tmp_path / "gan")]) == 0
    assert "no step of the stage has been made" in " ".join(capsys.readouterr().out.split())
