"""A run that came to a number that is not finite: what log, report and command say of it, and what to try."""

import json

import pytest
from test_report import finished_run, log_records, page_of, write_log
from test_report_sections import missing

from seqforge.cli import main
from seqforge.health import HealthConfig, Watch
from seqforge.settings import keys_of
from seqforge.training import METHODS

TINY = ["train", "seqgan", "--recipe", "seqgan-oracle-tiny", "--mle.epochs", "1", "--counterpart.epochs", "0"]
TINY += ["--precision", "fp32"]


def blown_up(run, after=(), **changes):
    """The log of a run that diverged at step 1500; `after`: what was logged later."""
    watch = Watch(options=keys_of(METHODS["seqgan"][0]))
    told = {"step": 1500, "phase": "adversarial", "kind": "warning", "seconds": 150.0}
    told |= watch.diverged(1500, "adversarial", "reward_mean", float("nan")) | changes
    write_log(run, [r for r in log_records() if r["step"] <= 1500 and r["kind"] != "end"] + [told, *after])


@pytest.fixture
def run(tmp_path):
    folder = finished_run(tmp_path / "seqgan-small")
    (folder / "scores.json").unlink()
    return folder


def test_the_report_says_where_it_diverged_and_what_to_try(run):
    """It said "still running or was cut off; to go on: seqforge resume", which meets the same NaN, and no warning."""
    blown_up(run)
    text = page_of(run).text
    told = (
        "it diverged at step 1500, adversarial: reward_mean is nan; a resume would come to the same, so train anew "
        "with a lower --lr or a smaller --clip or a lower --d_lr."
    )
    assert f"No verdict: the run has not been scored, as {told}" in text
    assert f"The end of the run: {told}" in missing(run)
    assert (
        "Step 1500, adversarial: nan: reward_mean is nan, since step 1500. Try a lower --lr, a smaller --clip" in text
    )
    assert "still running" not in text
    assert "seqforge resume" not in text


def test_one_scored_on_its_way_says_so_too(run):
    blown_up(run)
    scores = {"generators": [{"name": "newest", "step": 900, "scores": []}], "verdict": "The stage ties with MLE."}
    (run / "scores.json").write_text(json.dumps(scores))
    text = page_of(run).text
    assert "Scored on its way, at step 900; it diverged at step 1500, adversarial: reward_mean is nan" in text
    assert "has not ended" not in text


def test_a_trial_of_a_search_that_diverged_has_not_ended_the_run(run):
    trial = {"step": 1510, "phase": "search", "kind": "trial", "seconds": 151.0, "nll_valid": None}
    blown_up(run, [trial])
    text = page_of(run).text
    assert "still running or was cut off, at step 1510" in text
    assert "it diverged" not in text
    assert "nan: reward_mean is nan" in text


@pytest.mark.parametrize("tries", [[], None, 3, [1, None]])
def test_remedies_that_another_version_wrote_do_not_stop_the_page(run, tries):
    blown_up(run, **{"try": tries})
    assert "it diverged at step 1500" in page_of(run).text


def test_a_run_that_diverges_leaves_its_report(tmp_path, capsys):
    folder = tmp_path / "run"
    assert main([*TINY, "--lr", "1e38", "--rounds", "2", "--out", str(folder)]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert "a resume from it would come to the same. Try a lower --lr, a smaller --clip" in said
    pages = [(folder / "report.html").read_text()]
    assert main(["report", str(folder)]) == 0
    pages.append((folder / "report.html").read_text())
    last = json.loads((folder / "log.jsonl").read_text().splitlines()[-1])
    for page in pages:
        assert f"it diverged at step {last['step']}, adversarial: {last['figure']} is {last['value']}" in page
        assert "or was cut off" not in page
    # and a resume, which begins at the checkpoint, comes to the same
    before = (folder / "log.jsonl").read_text().splitlines()
    assert main(["resume", str(folder)]) == 2
    after = (folder / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in after] == [json.loads(line)["step"] for line in before]
    assert json.loads(after[-1]) == {**last, "seconds": json.loads(after[-1])["seconds"]}


def test_no_report_where_none_is_wanted(tmp_path, capsys):
    folder = tmp_path / "run"
    assert main([*TINY, "--lr", "1e38", "--rounds", "2", "--report", "false", "--out", str(folder)]) == 2
    assert not (folder / "report.html").exists()


PHASES = {
    "mle": ("mle",),
    "mle_search": ("trial 1",),
    "scheduled_sampling": ("scheduled sampling",),
    "pg_bleu": ("mle", "counterpart", "policy gradient"),
    "seqgan": ("mle", "counterpart", "discriminator", "adversarial"),
    "leakgan": ("mle", "discriminator", "adversarial"),
    "scratchgan": ("counterpart", "adversarial"),
    "cot": ("mle", "counterpart", "mediator", "cooperative"),
    "distillation": ("teacher-1", "distillation"),
    "dialogue": ("mle", "counterpart", "discriminator", "adversarial"),
}


@pytest.mark.parametrize("method", METHODS)
def test_every_phase_has_a_remedy_among_the_options_of_its_steps(method):
    options = keys_of(METHODS[method][0])
    watch = Watch(HealthConfig(watch=False), options=options)  # told also without the watch
    for phase in PHASES[method]:
        for figure in ("nll_valid", "generator.head.weight", "reward_mean"):
            tries = watch.diverged(3, phase, figure, float("inf"))["try"]
            named = [next(w for w in one.split() if w[:2] == "--")[2:] for one in tries]
            assert named
            assert set(named) <= options
            own = [name for name in ("mle", "counterpart") if phase == name]
            assert all(name.startswith(f"{group}.") for group in own for name in named)


@pytest.mark.parametrize(
    ("figure", "tries"),
    [
        ("discriminator.head.bias", ["a lower --d_lr", "--precision fp32"]),
        ("d_loss", ["a lower --d_lr", "--precision fp32"]),
        ("generator.head.bias", ["a lower --lr", "a smaller --clip", "--precision fp32"]),
        ("reward_mean", ["a lower --lr", "a smaller --clip", "a lower --d_lr"]),
    ],
)
def test_whose_number_it_is_decides_what_to_try(figure, tries):
    watch = Watch(options=keys_of(METHODS["seqgan"][0]))
    assert watch.diverged(3, "adversarial", figure, float("nan"), bf16=True)["try"] == tries
