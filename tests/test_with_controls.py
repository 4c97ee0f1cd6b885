"""`train --with-controls`: refused before anything is trained where it must be, not forgotten where it is cut off."""

import json

import pytest
import yaml
from test_resume import Cut, cut_at, short_report  # noqa: F401

from seqforge import cli_runs, controls, seeds, training
from seqforge.cli import main

TINY = ["train", "seqgan", "--recipe", "seqgan-oracle-tiny", "--mle.epochs", "1", "--counterpart.epochs", "0"]
TINY += ["--rounds", "1", "--rollouts", "1", "--baseline", "leave-one-out", "--evaluate.samples", "64"]
pytestmark = [
    pytest.mark.usefixtures("short_report"),
    pytest.mark.filterwarnings("ignore:.*starting again from config"),
]


@pytest.fixture
def asked(monkeypatch):
    """The runs whose controls are asked for, none trained."""
    found = []
    monkeypatch.setattr(cli_runs, "show_controls", lambda folder: found.append(folder) or 0)
    return found


@pytest.mark.parametrize(("name", "call"), [("log", 1), ("log", 4), ("checkpoint", 2)])
def test_a_run_cut_off_and_resumed_goes_on_with_its_controls(name, call, tmp_path, asked):
    """They were forgotten, without a word."""
    run = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:
        cut_at(patch, name, call)
        with pytest.raises(Cut):
            main([*TINY, "--with-controls", "--out", str(run)])
    assert asked == []
    assert main(["resume", str(run)]) == 0
    assert asked == [run]
    assert main(["resume", str(run)]) == 0  # of the controls, the run itself having finished
    assert asked == [run, run]


def test_a_run_without_is_resumed_without(tmp_path, asked):
    run = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:
        cut_at(patch, "log", 4)
        with pytest.raises(Cut):
            main([*TINY, "--out", str(run)])
    assert main(["resume", str(run)]) == 0
    assert main(["resume", str(run)]) == 0
    assert asked == []
    assert not (run / "controls").exists()


def test_controls_cut_off_are_gone_on_with_and_shown(tmp_path, capsys, monkeypatch):
    run, plain = tmp_path / "run", controls._one

    def one(folder, reward, *rest):
        if reward == "random":
            raise training.Interrupted(f"interrupted; to go on: seqforge resume {folder}/controls/random")
        return plain(folder, reward, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(controls, "_one", one)
        assert main([*TINY, "--with-controls", "--out", str(run)]) == 130
    assert f"interrupted; to go on: seqforge resume {run}\n" in capsys.readouterr().err
    assert [p.name for p in (run / "controls").iterdir()] == ["constant"]
    assert main(["resume", str(run)]) == 0
    told = capsys.readouterr().out
    assert "share of the gain" in " ".join(told.split())
    assert {p.name for p in (run / "controls").iterdir()} == {*controls.REWARDS, "mle"}


def test_a_run_refused_before_its_first_step_leaves_nothing(tmp_path, asked, capsys):
    run = tmp_path / "run"
    assert main([*TINY, "--mle.lr", "1e38", "--with-controls", "--out", str(run)]) == 2
    assert not run.exists()
    assert asked == []


def test_the_wish_is_no_option_of_the_run(tmp_path, asked):
    """So that runs with and without are one group of a comparison, and a config.yaml a recipe."""
    assert main([*TINY, "--with-controls", "--out", str(tmp_path / "one")]) == 0
    assert main([*TINY, "--seed", "1", "--out", str(tmp_path / "two")]) == 0
    one, two = (yaml.safe_load((tmp_path / name / "config.yaml").read_text()) for name in ("one", "two"))
    assert one == {**two, "seed": 0}


@pytest.mark.parametrize("more", [[], ["--seeds", "1,2"]])
def test_without_a_pre_training_it_is_refused_before_anything_is_trained(more, tmp_path, capsys):
    """The whole run was trained first, and then its controls refused."""
    never = tmp_path / "never"
    assert main([*TINY, "--mle.epochs", "0", "--with-controls", *more, "--out", str(never)]) == 2
    assert "--with-controls: mle.epochs is 0" in capsys.readouterr().err
    assert not never.exists()


def test_seeds_cut_off_go_on_with_their_controls(tmp_path, monkeypatch, asked):
    """The process of each seed is told so, by `train` or by the folder that it resumes."""
    began = []

    class Started:
        returncode = 0

        def __init__(self, command, **_):
            began.append(command[3:])
            if len(began) == 1:
                with pytest.MonkeyPatch.context() as patch:
                    cut_at(patch, "log", 4)
                    with pytest.raises(Cut):
                        main(command[3:])
                raise KeyboardInterrupt
            self.returncode = main(command[3:])

        def poll(self):
            return self.returncode

    monkeypatch.setattr(seeds, "subprocess", type("", (), {"Popen": Started}))
    folder = tmp_path / "both"
    assert main([*TINY, "--with-controls", "--seeds", "4,5", "--at-once", "1", "--out", str(folder)]) == 130
    assert asked == []
    assert main(["resume", str(folder)]) == 0
    assert [command[0] for command in began] == ["train", "resume", "train"]
    assert asked == [folder / "seed-4", folder / "seed-5", folder]
    assert json.loads((folder / "seeds.json").read_text())["seeds"] == [4, 5]


def test_a_run_that_was_stopped_early_has_none_and_resumes_all_the_same(tmp_path, asked, capsys, monkeypatch):
    """Every later resume was refused, since its controls would train longer."""
    run, train = tmp_path / "run", training.METHODS["seqgan"]

    def stopped(config, corpus, held):
        train[1](config, corpus, held)
        held.health.stopped = "collapse: of a test"

    monkeypatch.setitem(training.METHODS, "seqgan", (train[0], stopped, *train[2:]))
    assert main([*TINY, "--with-controls", "--out", str(run)]) == 0
    assert main(["resume", str(run)]) == 0
    assert asked == []
    assert capsys.readouterr().out.count("no null controls") == 2


def test_the_time_of_mles_counterpart_is_not_the_runs(tmp_path):
    """The control by likelihood was given it as well, though the method learns nothing in it."""
    records = [("mle", 1.0), ("mle", 2.0), ("counterpart", 5.0), ("counterpart", 12.0), ("adversarial", 16.0)]
    log = [{"step": k, "phase": p, "kind": "train", "seconds": s} for k, (p, s) in enumerate(records)]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(r) + "\n" for r in log))
    assert controls.epochs_as_long(tmp_path) == 6  # of 1 s each, in 16 - 10
