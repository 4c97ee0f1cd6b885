"""The health watch: what is sick is named, once; what is healthy is not; and nothing that is trained is any other."""

import json
import math
from pathlib import Path

import pytest
import torch
from worlds import rng

from seqforge import checkpoint, health, report, signs
from seqforge.cli import main
from seqforge.health import HealthConfig, Watch
from seqforge.methods import seqgan
from seqforge.run import CheckpointConfig, Run
from seqforge.settings import keys_of
from seqforge.training import METHODS

GOOD = {"nll_valid": 3.0, "entropy": 2.9, "repeated": 0.02, "repeated_train": 0.03, "length": 9.8, "length_train": 10.0}


@pytest.fixture
def no_page(monkeypatch):
    """The page has its own tests; here it would be most of the time."""
    monkeypatch.setattr(report, "build", lambda run, out=None: Path(run) / "report.html")
    monkeypatch.setattr(report, "curves_png", lambda *_: None)


def pre_trained(**options) -> Watch:
    """A watch that has seen a healthy pre-training."""
    watch = Watch(**options)
    assert watch.read(0, "mle", "health", GOOD) == []
    return watch


def look(watch: Watch, step: int, **figures) -> list[str]:
    return [w["sign"] for w in watch.read(step, "adversarial", "health", {**GOOD, **figures})]


def steps(watch: Watch, first: int, *each: dict) -> list[dict]:
    return [w for i, figures in enumerate(each) for w in watch.read(first + i, "adversarial", "train", figures)]


def log_of(folder: Path, kind: str) -> list[dict]:
    records = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [r for r in records if r["kind"] == kind]


# planted: each is named, and nothing else is


@pytest.mark.parametrize(
    ("sick", "named"),
    [
        ({"entropy": 1.44}, ["collapse"]),  # half of 2.9 is 1.45
        ({"repeated": 0.24}, ["repeats"]),  # .03 + .2
        ({"length": 7.4}, ["lengths"]),
        ({"length": 12.6}, ["lengths"]),
        ({"nll_valid": 3.76}, ["forgetting"]),
        ({"nll_valid": 9.0, "entropy": 0.001, "repeated": 0.99, "length": 1.0}, "collapse repeats lengths forgetting"),
        ({"entropy": 1.46, "repeated": 0.22, "length": 7.6, "nll_valid": 3.74}, []),  # all within
    ],
)
def test_a_look_at_a_sick_generator_names_it(sick, named):
    assert look(pre_trained(), 5, **sick) == (named if isinstance(named, list) else named.split())


def test_a_warning_has_value_threshold_step_and_what_to_try():
    watch = pre_trained(options=keys_of(seqgan.SeqGANConfig))
    (found,) = watch.read(7, "adversarial", "health", {**GOOD, "entropy": 0.5})
    assert (found["sign"], found["value"], found["threshold"], found["since"]) == ("collapse", 0.5, 1.45, 7)
    assert found["try"] == ["a lower --lr", "--teacher_forcing 1", "a larger --batch"]
    assert found["message"] == (
        "collapse: the entropy of samples is 0.5 nats per token, below 1.45: 0.5 times the pre-trained generator's, "
        "since step 7. Try a lower --lr, --teacher_forcing 1, a larger --batch"
    )


def test_a_sign_is_told_once_and_again_only_when_it_had_cleared():
    watch, told = pre_trained(), []
    # beyond, wavering about the limit of 1.45, clear of it (1.45 / .9 = 1.61), beyond again
    for step, entropy in enumerate([1.4, 1.3, 1.5, 1.4, 1.6, 1.4, 1.62, 1.5, 1.4]):
        told += [step] * ("collapse" in look(watch, step, entropy=entropy))
    assert told == [0, 8]


def test_collapse_between_two_looks_is_seen_by_the_steps_themselves():
    """ScratchGAN on captions fell within 50 steps; the next look was 400 away. One step alone may be noise."""
    watch = pre_trained()
    assert look(watch, 0) == []
    found = steps(watch, 1, *[{"entropy": e} for e in (1.0, 2.8, 1.0, 0.9, 0.8, 0.7)])
    assert [(w["sign"], w["since"], w["value"]) for w in found] == [("collapse", 3, 1.0)]


def test_without_pre_training_the_floor_is_the_training_set_s():
    """And the lowest NLL_valid where that is less: what a generator needs that knows more than pairs."""
    for pairs, lowest, floor in ((2.4, 6.0, 0.24), (2.4, 1.0, 0.1)):
        watch = Watch()
        assert watch.lacks_floor("adversarial")
        assert look(watch, 0, entropy=6.0, nll_valid=lowest, entropy_train=pairs, repeated=0.0) == []
        assert not watch.lacks_floor("adversarial")
        assert look(watch, 1, entropy=floor + 0.01, nll_valid=lowest) == []
        assert look(watch, 2, entropy=floor - 0.01, nll_valid=lowest) == ["collapse"]


def test_lengths_that_were_never_right_have_not_drifted():
    watch = Watch()
    assert look(watch, 0, length=2.0, entropy_train=2.0) == []
    assert look(watch, 1, length=8.0) == []  # arrived
    assert look(watch, 2, length=2.0) == ["lengths"]


def test_an_untrained_generator_has_nothing_to_forget():
    """ScratchGAN on the grammar: NLL_valid 5.99 at first, log V, 29 in the second round, 3.66 after sixty."""
    watch = Watch()
    assert look(watch, 0, nll_valid=5.99, entropy=5.9, entropy_train=3.0, nll_uniform=5.99) == []
    assert look(watch, 2, nll_valid=29.0) == []
    assert look(watch, 50, nll_valid=4.0) == []
    assert look(watch, 60, nll_valid=5.1) == ["forgetting"]


def rewards_of(mean: float, n: int = 20, spread: float = 0.05, seed: int = 0) -> list[dict]:
    return [{"reward_mean": float(r)} for r in mean + spread * torch.randn(n, generator=rng(seed))]


def test_reward_up_and_validation_down_is_hacking():
    watch = pre_trained()
    assert steps(watch, 0, *rewards_of(0.4)) == []
    assert look(watch, 20, nll_valid=3.2) == []
    assert steps(watch, 20, *rewards_of(0.6, seed=1)) == []
    (found,) = watch.read(40, "adversarial", "health", {**GOOD, "nll_valid": 3.31})
    assert (found["sign"], found["value"], found["since"]) == ("hacking", 3.31, 40)
    assert found["threshold"] == pytest.approx(3.3)
    assert "the reward rose from 0.4" in found["message"]


@pytest.mark.parametrize(("reward", "nll"), [(0.6, 3.29), (0.4, 3.31), (0.2, 3.31)])
def test_either_alone_is_not(reward, nll):
    watch = pre_trained()
    steps(watch, 0, *rewards_of(0.4))
    steps(watch, 20, *rewards_of(reward, seed=1))
    assert look(watch, 40, nll_valid=nll) == []


def test_the_reward_is_held_to_what_it_was_where_validation_was_best():
    """It had risen before that: what came with a better NLL_valid is no hacking."""
    watch = pre_trained()
    steps(watch, 0, *rewards_of(0.2))
    steps(watch, 20, *rewards_of(0.6, seed=1))
    assert look(watch, 40, nll_valid=2.5) == []
    steps(watch, 40, *rewards_of(0.6, seed=2))
    assert look(watch, 60, nll_valid=2.8) == []
    steps(watch, 60, *rewards_of(0.7, seed=3))
    assert look(watch, 80, nll_valid=2.8) == ["hacking"]


def test_a_share_of_next_to_nothing_is_nothing():
    assert signs.forgetting(1, 0.03, 0.01, 0.25).excess == pytest.approx(0.02 / 0.05)
    assert signs.forgetting(1, 0.0, 0.0, 0.25).excess == 0


def accuracies(values, rows: int | None = 2000, name: str = "d_accuracy_valid") -> list[str]:
    watch, size = pre_trained(), {"d_unseen": rows} if rows else {}
    return [w["sign"] for w in steps(watch, 0, *[{name: v, **size} for v in values])]


@pytest.mark.parametrize(
    ("values", "rows", "named"),
    [
        ([0.99] * 5, 2000, ["saturated"]),
        ([1.0] * 5, 32, ["saturated"]),
        ([0.99] * 4, 2000, []),  # too few looks
        ([0.97] * 9, 2000, []),
        ([0.5, 0.51, 0.49, 0.5, 0.52], 2000, ["chance"]),
        ([0.5, 0.51, 0.49, 0.5, 0.52], 32, []),  # so few sequences might hide an accuracy of .6
        ([0.56] * 9, 2000, []),
        ([0.8, 0.7, 0.9, 0.75] * 3, 2000, []),
    ],
)
def test_a_discriminator_that_is_saturated_or_at_chance(values, rows, named):
    assert accuracies(values, rows) == named


def test_chance_allows_for_the_error_of_sampling():
    """Among D's that tell 60 % apart, hardly one is called at chance, however few sequences it is held to."""
    for rows in (30, 100, 1000):
        wrong, n = 0, 400
        for seed in range(n):
            r = rng(seed)
            real = torch.rand(rows, generator=r) < 0.6  # the same at every look
            fake = torch.rand(5, rows, generator=r) < 0.6
            looks = [(i, float(real.float().mean() + fake[i].float().mean()) / 2) for i in range(5)]
            wrong += signs.told_apart(looks, rows, 0.98, 0.55)[1].excess > 1
        assert wrong / n < 0.01


def test_a_discriminator_of_tokens_is_judged_by_its_own_accuracy():
    assert accuracies([0.99] * 5, None, "d_accuracy") == ["saturated"]
    watch = pre_trained()  # of train_on_fresh the held-out one counts, not that on training rows
    both = {"d_accuracy": 1.0, "d_gap": 0.9, "d_accuracy_valid": 0.7, "d_unseen": 500}
    assert steps(watch, 0, *[both] * 9) == []


@pytest.mark.parametrize("seed", range(20))
def test_healthy_noise_is_never_called_sick(seed):
    """A hundred looks and a thousand steps about healthy figures, each with the noise of its sample size."""
    r, watch = rng(seed), pre_trained()

    def noise(spread: float) -> float:
        return spread * float(torch.randn((), generator=r))

    for k in range(100):
        each = [{"entropy": 2.6 + noise(0.3), "reward_mean": 0.4 + noise(0.1)} for _ in range(10)]
        found = steps(watch, 10 * k, *each, {"d_accuracy_valid": 0.7 + noise(0.05), "d_unseen": 64})
        drift = 0.25 * k / 100  # SeqGAN's NLL_valid creeps up by some per cent on the authors' oracle
        figures = {"nll_valid": 3.0 + drift + noise(0.01), "entropy": 2.5 + noise(0.05), "length": 10 + noise(0.3)}
        assert found == []
        assert look(watch, 10 * k + 10, repeated=0.04 + abs(noise(0.02)), **figures) == []


def test_likelihood_alone_is_not_judged():
    """An untrained generator is far from everything; so is a trial of a search."""
    sick = {**GOOD, "entropy": 0.1, "repeated": 1.0, "length": 1.0}
    for phase in ("mle", "scheduled sampling", "distillation", "search", "trial 3", "teacher-1"):
        watch = Watch()
        assert watch.read(1, phase, "health", sick) == []
        assert watch.read(2, phase, "health", sick) == []


@pytest.mark.parametrize("method", ["seqgan", "leakgan", "scratchgan", "pg_bleu", "dialogue", "cot"])
def test_every_remedy_is_an_option_of_the_method(method):
    options = keys_of(METHODS[method][0])
    own = {"collapse", "repeats", "lengths", "forgetting"}
    own |= {"hacking"} if method != "cot" else set()
    own |= {"saturated", "chance"} if method not in ("cot", "pg_bleu") else set()
    for sign in sorted(own):
        found = signs.remedies(sign, options)
        assert 1 <= len(found) <= 3
        assert all(next(w for w in text.split() if w.startswith("--"))[2:] in options for text in found)


# the figures


def test_repeats_are_rows_that_were_there_before_whatever_stands_past_their_ends():
    ids = torch.tensor([[1, 2, 0], [1, 2, 9], [1, 0, 0], [1, 0, 0], [3, 3, 3]])
    lengths = torch.tensor([2, 2, 1, 2, 3])  # [1 2], [1 2], [1], [1 0], [3 3 3]
    assert health.repeated(ids, lengths) == pytest.approx(1 / 5)
    found = health.of_samples(ids, lengths, ids[:4], lengths[:4])
    assert found["repeated"] == found["repeated_train"] == pytest.approx(1 / 4)  # among four of either
    assert (found["length"], found["length_train"]) == (2.0, 1.75)


def test_entropy_by_pairs():
    """Begin: a, a, b. After a: a, b, end-of-row; after b: b. H = (3 H(2/3, 1/3) + 2 H(1/2, 1/2) + 1 * 0) / 6."""
    ids, lengths = torch.tensor([[0, 0], [0, 1], [1, 1]]), torch.tensor([2, 2, 2])
    first = -(2 / 3) * math.log(2 / 3) - (1 / 3) * math.log(1 / 3)
    assert health.pair_entropy(ids, lengths) == pytest.approx((3 * first + 2 * math.log(2)) / 6)
    garbled = torch.tensor([[0, 0, 5], [0, 1, 7], [1, 1, 5]])
    assert health.pair_entropy(garbled, lengths) == pytest.approx(health.pair_entropy(ids, lengths))


# runs


TINY = {
    "seqgan": ["--recipe", "seqgan-oracle-tiny"],
    "leakgan": ["--recipe", "leakgan-tiny"],
    "scratchgan": ["--recipe", "scratchgan-tiny"],
    "cot": ["--recipe", "cot-tiny"],
    "dialogue": ["--recipe", "dialogue-tiny", "--data.train_size", "200", "--mle.epochs", "2", "--rounds", "2"],
    "pg_bleu": [
        *["--data.vocab_size", "20", "--data.max_length", "6", "--data.train_size", "256", "--data.valid_size", "64"],
        *["--data.test_size", "64", "--generator.hidden", "8", "--mle.epochs", "3", "--rounds", "6", "--batch", "16"],
        *["--mle.batch", "32", "--monitor.samples", "64", "--monitor.every", "2", "--evaluate.samples", "64"],
    ],
}
COLLAPSING = ["scratchgan", *TINY["scratchgan"], "--rounds", "12", "--lr", "1.0", "--checkpoint.seconds", "1e9"]
COLLAPSING += ["--counterpart.epochs", "0"]


def weights(folder: Path) -> dict[str, bytes]:
    found = checkpoint.newest(folder / "checkpoints", tag="final")
    return {p.relative_to(found).as_posix(): p.read_bytes() for p in sorted(found.rglob("*.safetensors"))}


@pytest.mark.parametrize(
    "method", [pytest.param(m, marks=pytest.mark.slow) if m in ("dialogue", "pg_bleu") else m for m in TINY]
)
def test_a_watched_run_trains_what_an_unwatched_one_does_and_the_tiny_recipes_are_healthy(method, tmp_path, no_page):
    assert main(["train", method, *TINY[method], "--out", str(tmp_path / "watched")]) == 0
    off = ["--health.watch", "false", "--out", str(tmp_path / "not")]
    assert main(["train", method, *TINY[method], *off]) == 0
    assert weights(tmp_path / "watched") == weights(tmp_path / "not")
    assert log_of(tmp_path / "watched", "health")
    assert log_of(tmp_path / "watched", "warning") == []
    assert (tmp_path / "not" / "best.json").read_text() == (tmp_path / "watched" / "best.json").read_text()
    trained = [[r for r in log_of(tmp_path / n, "train")] for n in ("watched", "not")]
    assert [{**r, "seconds": 0} for r in trained[0]] == [{**r, "seconds": 0} for r in trained[1]]


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stopped") / "run"
    assert main(["train", *COLLAPSING, "--stop-on", "collapse,chance", "--out", str(folder)]) == 0
    return folder


def test_stop_on_collapse_ends_the_run_in_order(stopped, tmp_path, capsys):
    warned = {w["sign"]: w for w in log_of(stopped, "warning")}
    assert warned.keys() == {"collapse", "repeats"}  # at its step 1.0 both come, in the first rounds
    seen = warned["collapse"]
    assert seen["value"] < seen["threshold"]
    (end,) = log_of(stopped, "end")
    assert end["stopped"].startswith("collapse: the entropy of samples is ")
    rounds = [r["round"] for r in log_of(stopped, "train")]
    assert max(rounds) == seen["step"] < 11  # the round in which it was seen is the last
    final = checkpoint.newest(stopped / "checkpoints", tag="final")
    assert checkpoint.step_of(final) == seen["step"] + 1
    assert json.loads((stopped / "scores.json").read_text())["generators"][-1]["name"] == "final"
    page = (stopped / "report.html").read_text()
    assert "stopped early" in page
    assert "What its warnings are read from" in page
    assert "collapse: the entropy of samples is" in page
    assert main(["resume", str(stopped)]) == 0
    assert "has finished" in capsys.readouterr().out


def test_a_run_stopped_early_has_no_controls_of_equal_length(stopped, capsys):
    assert main(["compare", "--controls", str(stopped)]) == 2
    said = capsys.readouterr().err
    assert "stopped early (collapse: " in said
    assert "train without --stop-on" in said


def test_the_best_by_validation_is_kept_and_named(stopped, tmp_path, capsys):
    best = json.loads((stopped / "best.json").read_text())
    looks = {r["step"]: r["nll_valid"] for r in log_of(stopped, "health")}
    assert best["value"] == min(looks.values())
    assert best == log_of(stopped, "end")[0]["best"]
    assert (best["checkpoint"], best["step"], best["score"]) == ("step-0", 0, "nll_valid")  # untrained: 3 nats, no 20
    assert (stopped / "checkpoints" / "step-0" / "manifest.json").is_file()
    assert main(["generate", str(stopped), "-n", "2", "--checkpoint", "best"]) == 0
    said = capsys.readouterr().out
    assert main(["generate", str(stopped), "-n", "2", "--checkpoint", "0"]) == 0
    assert capsys.readouterr().out == said
    assert main(["generate", str(stopped), "-n", "2"]) == 0
    assert capsys.readouterr().out != said


def test_the_terminal_says_it_once_and_how_it_ended(tmp_path, capsys, no_page):
    assert main(["train", *COLLAPSING, "--stop-on=collapse", "--out", str(tmp_path / "run")]) == 0
    said = capsys.readouterr()
    assert said.err.count("warning: collapse: ") == 1
    assert "Try a lower --lr, a larger --batch, a lower --d_lr" in said.err
    assert "stopped early: collapse: the entropy of samples is" in said.out
    assert "best by validation step-0 (nll_valid " in said.out


def test_without_stop_on_it_goes_on(stopped, tmp_path, no_page):
    assert main(["train", *COLLAPSING, "--out", str(tmp_path / "run")]) == 0
    assert [r["round"] for r in log_of(tmp_path / "run", "train")] == list(range(12))
    assert len([w for w in log_of(tmp_path / "run", "warning") if w["sign"] == "collapse"]) == 1
    assert "stopped" not in log_of(tmp_path / "run", "end")[0]
    some = log_of(stopped, "train")  # up to where the other was stopped they are one run
    assert [{**r, "seconds": 0} for r in log_of(tmp_path / "run", "train")[: len(some)]] == [
        {**r, "seconds": 0} for r in some
    ]


def test_without_the_watch_no_sign_is_told_and_the_best_is_kept_and_named(stopped, tmp_path, capsys, no_page):
    """`--health.watch false` switched best.json off as well."""
    folder = tmp_path / "run"
    assert main(["train", *COLLAPSING, "--health.watch", "false", "--out", str(folder)]) == 0
    assert "best by validation step-0 (nll_valid " in capsys.readouterr().out
    assert log_of(folder, "warning") == []
    assert (folder / "best.json").read_text() == (stopped / "best.json").read_text()
    assert (folder / "checkpoints" / "step-0" / "manifest.json").is_file()
    assert "entropy_train" not in log_of(folder, "health")[0]  # what only a sign is held to is not counted


def test_a_watch_that_is_off_takes_in_what_the_best_is_chosen_by():
    watch = pre_trained(config=HealthConfig(watch=False))
    assert not watch.lacks_floor("adversarial")
    assert look(watch, 5, entropy=0.0, repeated=1.0, length=1.0, nll_valid=9.0) == []
    assert watch.look == 9.0
    assert watch.improved


class Cut(BaseException):
    """What no `except Exception` catches, as little as a kill."""


@pytest.mark.parametrize(
    ("stop", "call"), [([], 6), ([], 9), (["--stop-on", "repeats"], 5), (["--stop-on", "repeats"], 6)]
)
def test_cut_off_and_resumed_it_warns_and_stops_at_the_same_steps(stop, call, tmp_path, monkeypatch, no_page):
    argv = ["train", *COLLAPSING, "--rounds", "6", *stop, "--checkpoint.seconds", "0"]
    assert main([*argv, "--out", str(tmp_path / "whole")]) == 0
    calls, plain = [0], Run.log

    def counted(self, *args, **kwargs):
        calls[0] += 1
        if calls[0] == call:
            raise Cut
        return plain(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "log", counted)
        with pytest.raises(Cut):
            main([*argv, "--out", str(tmp_path / "cut")])
    assert main(["resume", str(tmp_path / "cut")]) == 0
    assert weights(tmp_path / "cut") == weights(tmp_path / "whole")
    logs = [
        [
            {**json.loads(line), "seconds": 0, "commit": 0, "date": 0, "peak_memory": 0}
            for line in (tmp_path / n / "log.jsonl").open()
        ]
        for n in ("cut", "whole")
    ]
    assert logs[0] == logs[1]
    assert any(r["kind"] == "warning" for r in logs[0])
    kept = [
        checkpoint.load_training(checkpoint.newest(tmp_path / n / "checkpoints"))["kept"]["health"]
        for n in ("cut", "whole")
    ]
    assert kept[0] == kept[1]
    assert (tmp_path / "cut" / "best.json").read_text() == (tmp_path / "whole" / "best.json").read_text()


def test_the_best_outlives_pruning_and_gives_way_to_a_better_one(tmp_path):
    run = Run.create(tmp_path / "run", {}, seed=0, saving=CheckpointConfig(seconds=0))
    run.keep("generator", torch.nn.Linear(1, 1))
    for i in run.loop("adversarial", 8):
        run.log("adversarial", "health", **{**GOOD, "nll_valid": [3.0, 2.0, 2.5, 2.4, 2.6, 2.1, 1.9, 2.2][i]})
        if i == 5:
            assert checkpoint.best_of(run.folder) == "step-2"
            assert (run.folder / "checkpoints" / "step-2").is_dir()
    assert checkpoint.best_of(run.folder) == "step-7"
    assert {p.name for p in checkpoint.every(run.folder / "checkpoints")} == {"step-7", "step-8"}


def test_a_generator_that_trained_on_is_not_taken_for_the_one_measured(tmp_path):
    """The look before the loop found it best, but what the first checkpoint holds is another generator."""
    run = Run.create(tmp_path / "run", {}, seed=0)
    run.keep("generator", torch.nn.Linear(1, 1))
    run.log("adversarial", "health", **{**GOOD, "nll_valid": 1.0})
    for _ in run.loop("adversarial", 1):
        pass
    run.checkpoint()
    assert checkpoint.best_of(run.folder) is None


def test_a_checkpoint_written_again_with_other_weights_has_their_figure(tmp_path):
    """The average of the weights takes the generator's place after the last round, at the same step."""
    run = Run.create(tmp_path / "run", {}, seed=0)
    run.keep("generator", torch.nn.Linear(1, 1))
    for _ in run.loop("cooperative", 1):
        run.log("cooperative", "health", **{**GOOD, "nll_valid": 2.0})
    assert json.loads((run.folder / "best.json").read_text())["value"] == 2.0
    run.log("cooperative", "health", **{**GOOD, "nll_valid": 2.1})
    run.checkpoint(tag="final")
    assert json.loads((run.folder / "best.json").read_text())["value"] == 2.1


def test_a_run_from_another_s_pre_training_has_a_best_of_its_own(tmp_path, no_page):
    one, two = tmp_path / "one", tmp_path / "two"
    assert main(["train", "seqgan", *TINY["seqgan"], "--out", str(one)]) == 0
    argv = ["train", "seqgan", *TINY["seqgan"], "--from", str(one), "--reward", "shuffled", "--rounds", "2"]
    assert main([*argv, "--out", str(two)]) == 0
    best = json.loads((two / "best.json").read_text())
    assert (two / "checkpoints" / best["checkpoint"] / "manifest.json").is_file()
    assert best["value"] == min(r["nll_valid"] for r in log_of(two, "health"))


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["--stop-on", "colapse"], "stop_on is 'colapse', but must be of: collapse, repeats"),
        (["--stop-on", "collapse", "--health.watch", "false"], "health.watch is off; switch it on"),
        (["--health.entropy", "2"], "health.entropy is 2.0, but must lie in [0, 1]"),
        (["--health.lengths", "0"], "health.lengths is 0.0, but must be above 0"),
    ],
)
def test_bad_options_are_named(argv, told, tmp_path, capsys):
    assert main(["train", "seqgan", *TINY["seqgan"], *argv, "--out", str(tmp_path / "run")]) == 2
    assert told in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_what_is_switched_off_is_never_told():
    off = HealthConfig(
        entropy=0, entropy_unlearnt=0, repeats=1, lengths=1e9, hacking=1e9, forgetting=1e9, saturated=1, chance=0.5
    )
    watch = pre_trained(config=off)
    assert look(watch, 1, entropy=0.0, repeated=1.0, length=1.0, nll_valid=30.0) == []
    assert steps(watch, 1, *[{"d_accuracy_valid": v, "d_unseen": 10**6} for v in [1.0] * 6 + [0.5] * 6]) == []
