"""The search over likelihood: what it tries, what it spends, what it chooses by, and what it leaves."""

import contextlib
import csv
import dataclasses
import json

import pytest
import torch
import yaml
from worlds import runs_of_one_token

from seqforge import checkpoint, compare, loading, options, recipes
from seqforge.cli import main
from seqforge.methods import mle, mle_search
from seqforge.methods.mle import MonitorConfig
from seqforge.methods.mle_search import MLESearchConfig, Trial, Trials, first, lists, proposal, settings
from seqforge.run import CheckpointConfig, Run
from seqforge.settings import RunConfig, build
from seqforge.training import METHODS

SMALL = MLESearchConfig(monitor=MonitorConfig(samples=16, lines=2), budget=14, epochs=4, hidden=[8, 4, 12], batch=[32])


def run_of(folder, seed: int = 3, **changed):
    run = Run.create(folder, {"method": "mle_search"}, seed=seed, saving=CheckpointConfig(seconds=1e9))
    return mle_search.train(dataclasses.replace(SMALL, **changed), runs_of_one_token(), run), run


def table(run: Run) -> list[dict[str, str]]:
    return table_of(run.folder)


def table_of(folder) -> list[dict[str, str]]:
    with (folder / "trials.csv").open() as f:
        return list(csv.DictReader(f))


def finished(config: MLESearchConfig, losses: list[float], epochs: int = 4, seed: int = 1) -> Trials:
    """The trials that would have been made, had they come to these validation NLLs."""
    trials = Trials()
    for nll in losses:
        point = proposal(config, trials, seed)
        assert point is not None
        trials.done.append(Trial(point, nll, epochs, 1))
    return trials


def test_it_tries_the_first_of_each_list_then_draws_then_varies_the_best():
    config = dataclasses.replace(SMALL, budget=200)
    trials = finished(config, [5.0 + k % 7 for k in range(50)])
    points = [t.point for t in trials.done]
    assert points[0] == first(config) == {name: values[0] for name, values in lists(config).items()}
    changed = [sum(p[n] != points[0][n] for n in p) for p in points]  # the first is the best, with 5.0
    assert max(changed[1:25]) > 2  # half of the budget, 100 epochs, is 25 trials
    left = sum(len(v) - 1 for v in lists(config).values()) - changed[1:25].count(1)
    assert changed[25 : 25 + left] == [1] * left  # every neighbour, and then
    assert max(changed[25 + left :]) > 1  # what else there is
    assert len({json.dumps(p) for p in points}) == 50


def test_it_follows_the_best_as_that_changes():
    config = dataclasses.replace(SMALL, budget=200, draws=0.0)
    trials = finished(config, [5.0, 4.0, 6.0, 3.0, 7.0])
    a, b, c, d, e = (t.point for t in trials.done)
    for one, other in ((a, b), (b, c), (b, d), (d, e)):
        assert sum(one[n] != other[n] for n in one) == 1


def test_the_budget_and_the_lists_are_ends():
    assert proposal(SMALL, finished(SMALL, [1.0, 2.0, 3.0, 2.0]), 1) is None  # 16 epochs of 14
    sparse = {name: values[:1] for name, values in lists(SMALL).items()}
    two = dataclasses.replace(SMALL, **{**sparse, "hidden": [8, 4]})
    assert [t.point["hidden"] for t in finished(two, [1.0, 2.0], epochs=1).done] == [8, 4]
    assert proposal(two, finished(two, [1.0, 2.0], epochs=1), 1) is None


def test_every_searched_option_reaches_its_trial():
    sizes, training = settings(SMALL, {n: v[-1] for n, v in lists(SMALL).items()}, 4)
    assert (sizes.embedding, sizes.hidden, sizes.layers, sizes.dropout) == (12, 12, 1, 0.5)
    found = (training.lr, training.lr_decay, training.weight_decay, training.label_smoothing, training.average)
    assert found == (0.01, 1.0, 0.1, 0.1, 0.99)
    assert (training.epochs, training.batch, training.patience, training.clip) == (4, 32, 3, 5.0)


def test_the_best_by_validation_nll_is_the_generator_and_the_budget_is_spent(tmp_path, monkeypatch):
    tests, plain = [], mle.measure
    monkeypatch.setattr(mle, "measure", lambda *a: (tests.append(a[0]), plain(*a)))
    generator, run = run_of(tmp_path / "run")
    rows = table(run)
    losses = [float(r["nll_valid"]) for r in rows]
    assert mle.validation_nll(generator, runs_of_one_token().valid) == pytest.approx(min(losses), abs=1e-12)
    assert [r["best"] for r in rows] == ["1" if x == min(losses) else "0" for x in losses]
    assert sum(int(r["epochs"]) for r in rows) == 14
    assert len(rows) > 3
    assert tests == [generator]  # nothing but the chosen one was held to the test set
    lines = [json.loads(line) for line in (run.folder / "log.jsonl").read_text().splitlines()]
    trained = [r["phase"] for r in lines if r["kind"] == "train"]
    assert [trained.count(f"trial {r['trial']}") for r in rows] == [int(r["epochs"]) for r in rows]
    assert [r["nll_valid"] for r in lines if r["kind"] == "trial"] == losses
    assert run.tokens == 14 * int(runs_of_one_token().train.lengths.sum())
    final = checkpoint.newest(run.folder / "checkpoints", tag="final")
    assert final is not None
    assert {p.name for p in final.iterdir() if p.is_dir()} == {"generator"}
    assert torch.equal(loading.load_generator(final).head.weight, generator.head.weight)
    assert list(checkpoint.load_training(final)["kept"]) == ["health", "trials"]


def test_a_trial_that_diverges_is_the_worst_and_the_search_goes_on(tmp_path, capsys):
    """The first has a step size at which everything overflows; the runs of one token are learnt with the other."""
    generator, run = run_of(tmp_path / "run", lr=[3e38, 0.05])
    rows = table(run)
    assert [rows[0][name] for name in ("nll_valid", "best", "epochs")] == ["", "0", "1"]
    sound = [float(r["nll_valid"]) for r in rows if r["lr"] == "0.05"]
    assert len(sound) >= 2
    assert mle.validation_nll(generator, runs_of_one_token().valid) == pytest.approx(min(sound), abs=1e-12)
    assert sum(int(r["epochs"]) for r in rows) == 14
    assert "warning: trial 1 diverged" in capsys.readouterr().err
    trial = next(json.loads(x) for x in (run.folder / "log.jsonl").read_text().splitlines() if '"kind": "trial"' in x)
    assert (trial["nll_valid"], trial["best"]) == (None, None)


@pytest.mark.parametrize("cut", [2, 6])
def test_killed_after_a_trial_diverged_it_goes_on_as_if_nothing_had_been(cut, tmp_path, monkeypatch):
    """Cut off before any trial is sound, and after one is; a checkpoint is taken at every step."""
    given = [
        *TINY,
        "--lr",
        "[3e38,0.01,3e37]",
        "--budget",
        "8",
        "--report",
        "false",
        "--checkpoint.seconds",
        "0",
        "--evaluate.samples",
        "2",
    ]
    assert main([*given, "--out", str(tmp_path / "whole")]) == 0
    steps, plain = [], Run.log

    def stopped(run, phase, kind, **values):
        plain(run, phase, kind, **values)
        steps.append(kind)
        if steps.count("train") + steps.count("trial") == cut:
            raise KeyboardInterrupt

    monkeypatch.setattr(Run, "log", stopped)
    with contextlib.suppress(KeyboardInterrupt, SystemExit):
        main([*given, "--out", str(tmp_path / "cut")])
    monkeypatch.setattr(Run, "log", plain)
    assert main(["resume", str(tmp_path / "cut")]) == 0
    for name in ("trials.csv", "best.yaml"):
        assert (tmp_path / "cut" / name).read_text() == (tmp_path / "whole" / name).read_text()
    assert table_of(tmp_path / "cut")[0]["nll_valid"] == ""


def test_where_every_trial_diverges_it_says_so(tmp_path):
    with pytest.raises(ValueError, match=r"all \d+ trials diverged; leave the largest --lr out"):
        run_of(tmp_path / "run", lr=[3e38])
    assert not (tmp_path / "run" / "best.yaml").exists()


def test_a_seed_is_a_search_of_its_own(tmp_path):
    one, two = (table(run_of(tmp_path / str(s), seed=s)[1]) for s in (1, 2))
    assert [r["nll_valid"] for r in one] != [r["nll_valid"] for r in two]
    assert [list(r.values())[5:] for r in one] != [list(r.values())[5:] for r in two]


TINY = ["train", "mle_search", "--recipe", "mle-search-tiny"]


def test_runs_of_two_seeds_compare_as_one_group_and_the_best_is_a_recipe(tmp_path, capsys):
    for seed in ("1", "2"):
        assert main([*TINY, "--seed", seed, "--out", str(tmp_path / seed)]) == 0
    found = compare.compare([tmp_path / "1", tmp_path / "2"])
    assert [g["seeds"] for g in found["groups"].values()] == [[1, 2]]
    assert (tmp_path / "1" / "report.html").is_file()
    best = next(r for r in csv.DictReader((tmp_path / "1" / "trials.csv").open()) if r["best"] == "1")
    argv = ["train", "mle", "--recipe", str(tmp_path / "1" / "best.yaml")]
    argv += [f"--data.{name}={value}" for name, value in recipes.read("mle-search-tiny")["data"].items()]
    assert main([*argv, "--evaluate.samples", "32", "--monitor.samples", "32", "--out", str(tmp_path / "mle")]) == 0
    config = yaml.safe_load((tmp_path / "mle" / "config.yaml").read_text())
    assert config["generator"]["hidden"] == int(best["hidden"])
    assert config["mle"]["label_smoothing"] == float(best["label_smoothing"])
    capsys.readouterr()
    assert main([*TINY, "--from", str(tmp_path / "mle"), "--out", str(tmp_path / "no")]) == 2
    assert "leave --from out" in capsys.readouterr().err
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize(
    ("opponent", "of", "train_size"),
    [
        ("mle-search", "cot-oracle", 9984),
        ("mle-search-captions", "cot-captions", 9000),
        ("mle-search-news", "cot-news", 8000),
    ],
)
def test_the_recipe_reads_as_many_tokens_as_cot_on_the_same_data(opponent, of, train_size):
    """CoT's updates: 64 sequences of the generator's and 128 of the mediator's a turn."""
    configs = {}
    for name in (opponent, of):
        method = recipes.read(name)["method"]
        values = options.parse_train(method, ["--recipe", name]).as_dict()
        configs[name] = [build(cls, values) for cls in (RunConfig, METHODS[method][0])]
    (run, search), (cot_run, cot) = configs[opponent], configs[of]
    assert run.data == cot_run.data
    assert run.evaluate == cot_run.evaluate
    turns = cot.rounds * cot.steps
    sequences = turns * cot.batch * (cot.g_steps + 2 * cot.m_steps)
    assert search.budget == round(sequences / train_size)


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"budget": 0}, "budget is 0"),
        ({"patience": 0}, "patience is 0"),
        ({"draws": 1.5}, "draws is 1.5"),
        ({"draws": float("nan")}, "draws is nan"),
        ({"hidden": []}, r"hidden is \[\]"),
        ({"dropout": [0.1, 0.1]}, r"dropout is \[0.1, 0.1\]"),
        ({"hidden": [8, 0]}, r"hidden is \[8, 0\]"),
        ({"lr": [0.01, -1.0]}, "lr is -1.0"),
        ({"label_smoothing": [1.0]}, "label_smoothing is 1.0"),
    ],
)
def test_what_makes_no_sense_is_refused(changed, named):
    with pytest.raises(ValueError, match=named):
        MLESearchConfig(**changed)
