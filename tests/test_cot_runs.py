"""Cooperative training: whole runs, what they keep, take over and refuse."""

import dataclasses
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from worlds import rng, runs_of_one_token, tiny

from seqforge import checkpoint, loading
from seqforge.cli import main
from seqforge.loading import find_checkpoint, load_generator
from seqforge.methods import cot, mle
from seqforge.methods.cot import CoTConfig, MediatorConfig, mediator_loss
from seqforge.methods.mle import CounterpartConfig, MLEConfig, MonitorConfig
from seqforge.models import kinds
from seqforge.models.kinds import GeneratorConfig
from seqforge.models.lstm import LSTMGenerator
from seqforge.models.transformer import TransformerGenerator
from seqforge.options import parse_train
from seqforge.run import CheckpointConfig, Run, derive_seed
from seqforge.sampling import sample, uniform

SIZES = {
    "generator": GeneratorConfig(embedding=8, hidden=16),
    "mediator": MediatorConfig(embedding=8, hidden=16, dropout=0.0),
    "monitor": MonitorConfig(every=0, samples=16, lines=2),
    "counterpart": CounterpartConfig(epochs=0),
}


def run_of(folder, seed: int = 3, **options):
    run = Run.create(folder, {"method": "cot"}, seed=seed, saving=CheckpointConfig(seconds=1e9))
    generator = cot.train(
        CoTConfig(**{**SIZES, "batch": 32, "lr": 0.01, "m_lr": 0.01, **options}), runs_of_one_token(), run
    )
    return generator, run


def log(run: Run, phase: str = "cooperative") -> list[dict]:
    lines = [json.loads(line) for line in (run.folder / "log.jsonl").read_text().splitlines()]
    return [r for r in lines if r["kind"] == "train" and r["phase"] == phase]


def kept(run: Run, name: str) -> LSTMGenerator:
    model = run._models[name]
    assert isinstance(model, LSTMGenerator)
    return model


@pytest.mark.parametrize(("gradient", "rounds"), [("local", 6), pytest.param("whole", 16, marks=pytest.mark.slow)])
def test_it_learns_the_data_from_scratch(gradient, rounds, tmp_path):
    """Entropy of the data: ln 5 + ln 3 nats a sequence of 4 tokens on average, .677 a token; a uniform draw is 1.79."""
    generator, run = run_of(tmp_path / "run", rounds=rounds, steps=50, gradient=gradient)
    assert log(run)[0]["nll_valid"] > 1
    assert mle.validation_nll(generator, runs_of_one_token().test) < 0.8
    drawn = sample(generator, uniform((500, 5), rng(9)))
    words = drawn.lengths - 1
    same = [len(set(row[:n].tolist())) == 1 for row, n in zip(drawn.ids, words, strict=True) if n > 0]
    assert np.mean(same) > 0.9
    assert len({int(row[0]) for row in drawn.ids}) >= 5  # no mode is dropped


def test_patience_takes_the_round_of_the_lowest_validation_nll(tmp_path):
    generator, run = run_of(tmp_path / "run", rounds=40, steps=10, patience=2, lr=0.1)
    found = [r["nll_valid"] for r in log(run)]
    assert len(found) < 40
    assert len(found) - 1 - int(np.argmin(found)) == 2
    assert mle.validation_nll(generator, runs_of_one_token().valid) == pytest.approx(min(found), abs=1e-9)


def test_a_start_from_likelihood_that_no_round_betters_is_what_is_kept(tmp_path):
    """The best round was taken, and the run ended worse by validation than it had begun."""
    spoilt = {"lr": 1.0, "mle": MLEConfig(epochs=8, lr=0.01), "patience": 2, "counterpart": CounterpartConfig(epochs=0)}
    generator, run = run_of(tmp_path / "run", rounds=9, steps=5, **spoilt)
    start = min(r["nll_valid"] for r in log(run, "mle"))
    assert min(r["nll_valid"] for r in log(run)) > start
    assert len(log(run)) == 2
    assert mle.validation_nll(generator, runs_of_one_token().valid) == pytest.approx(start, abs=1e-9)


@pytest.mark.parametrize(("rounds", "hidden"), [(0, 16), (1, 20)])
def test_a_pre_training_is_taken_over_without_what_came_after_it(rounds, hidden, tmp_path):
    """The end of a run without rounds is its pre-training: the marks of that end were taken over, and nothing was
    chosen any more. And a mediator of another size was refused, though it is none of the pre-training.
    """
    start = {"mle": MLEConfig(epochs=8, lr=0.01), "counterpart": CounterpartConfig(epochs=0), "patience": 2}
    _, first = run_of(tmp_path / "first", rounds=rounds, steps=5, **start)
    run = Run.create(tmp_path / "second", {"method": "cot"}, seed=3, saving=CheckpointConfig(seconds=1e9))
    run.start_from(first.folder)
    more = {"lr": 1.0, "rounds": 9, "steps": 5, "mediator": MediatorConfig(embedding=8, hidden=hidden), **start}
    generator = cot.train(CoTConfig(**{**SIZES, "batch": 32, **more}), runs_of_one_token(), run)
    best = min(r["nll_valid"] for r in log(first, "mle"))
    assert min(r["nll_valid"] for r in log(run)) > best
    assert mle.validation_nll(generator, runs_of_one_token().valid) == pytest.approx(best, abs=1e-9)


def test_the_mediator_alone_slows_and_stops_where_its_validation_nll_turns(tmp_path, monkeypatch):
    slowed, plain = [], cot.slow
    monkeypatch.setattr(cot, "slow", lambda optimizer, factor: slowed.append(factor) or plain(optimizer, factor))
    alone = {"mediator_reads": "real", "m_lr": 0.3, "steps": 10, "rounds": 0}
    _, run = run_of(tmp_path / "run", m_pretrain=50, m_patience=2, m_lr_decay=0.5, **alone)
    found = [r["mediator_nll_valid"] for r in log(run, "mediator")]
    assert len(found) < 50
    assert len(found) - 1 - int(np.argmin(found)) == 2
    worse = sum(nll >= min(found[:k]) for k, nll in enumerate(found) if k)
    optimizer = run._kept["mediator.optimizer"]
    assert isinstance(optimizer, torch.optim.Optimizer)
    assert slowed == [0.5] * worse
    assert optimizer.param_groups[0]["lr"] == 0.3  # beside the generator it begins anew
    assert not optimizer.state  # its moments were of other weights


def test_without_patience_the_last_weights_stay_and_the_average_is_what_is_kept(tmp_path):
    last, run = run_of(tmp_path / "last", rounds=2, steps=5)
    assert mle.validation_nll(last, runs_of_one_token().valid) == log(run)[-1]["nll_valid"]
    mean, run = run_of(tmp_path / "mean", rounds=2, steps=5, average=0.9)
    assert mle.validation_nll(mean, runs_of_one_token().valid) == log(run)[-1]["nll_valid"]
    assert not torch.equal(last.head.weight, mean.head.weight)


def test_the_average_counts_the_steps_of_the_generator(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(mle, "follow", lambda average, model, decay, step: seen.append((decay, step)))
    run_of(tmp_path / "run", rounds=2, steps=3, g_steps=2, average=0.9)
    assert seen == [(0.9, n) for n in range(12)]


def test_a_mediator_that_stands_still_is_trained_before_and_never_again(tmp_path, monkeypatch):
    seen, plain = [], cot.mediator_loss

    def watch(mediator, real, fake, *args):
        seen.append((mediator.training, fake is None))
        return plain(mediator, real, fake, *args)

    monkeypatch.setattr(cot, "mediator_loss", watch)
    _, run = run_of(tmp_path / "run", rounds=2, steps=3, m_steps=0, m_pretrain=2, mediator_reads="real")
    assert seen == [(True, True)] * 6
    assert "mediator_nll" not in log(run)[0]
    seen.clear()
    run_of(tmp_path / "moving", rounds=2, steps=3, m_steps=2)
    assert seen == [(True, False)] * 12


def test_a_fixed_mediator_is_the_best_it_was_and_does_not_move(tmp_path):
    """A step size at which it gets worse again: the round taken is the one before that."""
    alone = {"m_steps": 0, "m_pretrain": 8, "mediator_reads": "real", "m_lr": 0.3, "steps": 10}
    _, run = run_of(tmp_path / "run", rounds=0, **alone)
    found = [r["mediator_nll_valid"] for r in log(run, "mediator")]
    assert found[-1] > min(found) + 0.01
    mediator = kept(run, "mediator")
    assert mle.validation_nll(mediator, runs_of_one_token().valid) == pytest.approx(min(found), abs=1e-9)
    _, longer = run_of(tmp_path / "longer", rounds=3, **alone)
    assert all(torch.equal(v, mediator.state_dict()[k]) for k, v in kept(longer, "mediator").state_dict().items())
    assert "mediator.best" not in longer._kept


def test_the_mediators_targets_are_as_smooth_as_asked(tmp_path, monkeypatch):
    seen, plain = [], cot.mediator_loss

    def watch(*args):
        seen.append(args[-1])
        return plain(*args)

    monkeypatch.setattr(cot, "mediator_loss", watch)
    run_of(tmp_path / "run", rounds=1, steps=2, m_pretrain=1, m_label_smoothing=0.2)
    assert seen == [0.2] * 4


def test_a_mediator_of_real_sequences_that_moves_is_likelihood_alone(tmp_path, monkeypatch):
    """It learns as MLE does, whatever the generator does: its loss takes real sequences only, at every turn."""
    seen, plain = [], cot.mediator_loss
    real = {tuple(row) for row in runs_of_one_token().train.ids.tolist()}

    def watch(mediator, ours, fake, *args):
        seen.append(fake is None and all(tuple(row) in real for row in ours.ids.tolist()))
        return plain(mediator, ours, fake, *args)

    monkeypatch.setattr(cot, "mediator_loss", watch)
    mediators = [
        kept(run_of(tmp_path / str(lr), rounds=3, steps=10, mediator_reads="real", lr=lr)[1], "mediator")
        for lr in (0.01, 0.001)
    ]
    assert seen == [True] * 60
    assert torch.equal(mediators[0].head.weight, mediators[1].head.weight)
    mixed = [kept(run_of(tmp_path / f"m{lr}", rounds=3, steps=10, lr=lr)[1], "mediator") for lr in (0.01, 0.001)]
    assert not torch.equal(mixed[0].head.weight, mixed[1].head.weight)


def test_the_commands_of_the_page_are_options_that_are_there():
    page = (Path(__file__).parents[1] / "docs" / "methods" / "cot.md").read_text()
    told = [re.sub("#.*", "", line) for line in re.findall(r"^\| [^|\n]* \| `(--[^`\n]*)", page, re.M)]
    assert len(told) >= 8
    for line in told:
        changed = [a.removeprefix("--") for a in line.split() if a.startswith("--")]
        values = parse_train("cot", ["--recipe", "cot-oracle", *line.split()])
        plain = parse_train("cot", ["--recipe", "cot-oracle"])
        assert all(values[name] != plain[name] for name in changed), line
    for line in re.findall(r"^ *seqforge train (.*?) --(?:seed|data)", page, re.M):
        method, *argv = line.split()
        parse_train(method, argv)


@pytest.mark.parametrize(("dropout", "hidden"), [(0.0, 16), (0.5, 16), (0.0, 5)])
def test_dropout_and_size_are_the_mediators_own(dropout, hidden, tmp_path):
    sizes = MediatorConfig(embedding=8, hidden=hidden, dropout=dropout)
    _, run = run_of(tmp_path / "run", rounds=1, steps=2, mediator=sizes)
    mediator, generator = kept(run, "mediator"), kept(run, "generator")
    assert (mediator.drop.p, mediator.lstm.hidden_size) == (dropout, hidden)
    assert (generator.drop.p, generator.lstm.hidden_size) == (0.0, 16)
    split = runs_of_one_token().train
    losses = [mediator_loss(mediator.train(), split, None).item() for _ in range(2)]
    assert (losses[0] == losses[1]) == (dropout == 0)


@pytest.mark.parametrize("generator", ["lstm", "transformer"])
def test_a_transformer_mediates_for_either_kind(generator, tmp_path):
    mediator = MediatorConfig(kind="transformer", embedding=8, hidden=16, heads=2, dropout=0.0)
    g = GeneratorConfig(kind=generator, embedding=8, hidden=16)
    made, run = run_of(tmp_path / "run", rounds=4, steps=25, generator=g, mediator=mediator)
    assert isinstance(run._models["mediator"], TransformerGenerator)
    assert isinstance(made, TransformerGenerator) == (generator == "transformer")
    assert log(run)[-1]["nll_valid"] < 1.1  # a uniform draw is 1.79


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"hidden": 0}, "mediator.hidden is 0, but must be at least 1"),
        ({"heads": 2}, "mediator.heads is 2, but a mediator of kind lstm has none"),
        ({"kind": "transformer", "heads": 3}, "mediator.heads is 3, which does not divide mediator.hidden 64"),
    ],
)
def test_sizes_that_make_no_mediator_are_named_as_its_own(options, told):
    with pytest.raises(ValueError, match=told):
        MediatorConfig(**options)


def test_the_mediator_is_read_without_dropout_and_the_generator_drawn_without(tmp_path, monkeypatch):
    seen, divergence, draw = [], cot.weighted_divergence, cot.sample
    monkeypatch.setattr(
        cot, "weighted_divergence", lambda g, m, *a: (seen.append((g.training, m.training)), divergence(g, m, *a))[1]
    )
    monkeypatch.setattr(cot, "sample", lambda g, *a: (seen.append(g.training), draw(g, *a))[1])
    run_of(tmp_path / "run", rounds=1, steps=2)
    assert seen == [False, False, (True, False)] * 2


def test_likelihood_first_is_that_of_mle_bit_for_bit(tmp_path):
    start = MLEConfig(epochs=2, batch=32, patience=0)
    generator, _ = run_of(tmp_path / "cot", rounds=0, mle=start)
    run = Run.create(tmp_path / "mle", {"method": "mle"}, seed=3, saving=CheckpointConfig(seconds=1e9))
    plain = mle.train(mle.MLETrainConfig(SIZES["generator"], start, SIZES["monitor"]), runs_of_one_token(), run)
    assert all(torch.equal(v, plain.state_dict()[k]) for k, v in generator.state_dict().items())


def test_the_step_sizes_fall_together(tmp_path):
    _, run = run_of(tmp_path / "run", rounds=4, steps=2, lr=1.0, m_lr=0.5, lr_decay=0.5)
    found = [r["nll_valid"] for r in log(run)]
    worse = sum(n >= min(found[:i]) for i, n in enumerate(found) if i)
    assert worse
    for name, lr in (("generator.optimizer", 1.0), ("mediator.optimizer", 0.5)):
        optimizer = run._kept[name]
        assert isinstance(optimizer, torch.optim.Optimizer)
        assert optimizer.param_groups[0]["lr"] == lr * 0.5**worse


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"steps": 0}, "steps is 0"),
        ({"g_steps": 0}, "g_steps is 0"),
        ({"lr": 0.0}, "lr is 0.0"),
        ({"m_lr": float("nan")}, "m_lr is nan"),
        ({"average": 1.0}, "average is 1.0"),
        ({"lr_decay": 0.0}, "lr_decay is 0.0"),
        ({"m_weight_decay": -1.0}, "m_weight_decay is -1.0"),
        ({"m_label_smoothing": 1.0}, "m_label_smoothing is 1.0"),
        ({"m_steps": 0}, "--m_pretrain"),
    ],
)
def test_what_makes_no_sense_is_refused(options, named):
    with pytest.raises(ValueError, match=named):
        CoTConfig(**options)


def test_every_option_of_the_mediator_reaches_the_run(tmp_path, capsys):
    args = ["train", "cot", "--recipe", "cot-tiny", "--rounds", "1", "--out", str(tmp_path / "run")]
    assert main([*args, "--mediator.hidden", "5", "--mediator_reads", "real"]) == 0
    config = (tmp_path / "run" / "config.yaml").read_text()
    assert "hidden: 5" in config
    assert "mediator_reads: real" in config
    assert main(["generate", str(tmp_path / "run"), "-n", "3"]) == 0
    assert main(["train", "cot", "--recipe", "cot-tiny", "--mediator.hiden", "5", "--out", str(tmp_path / "no")]) == 2
    assert "mediator.hidden" in capsys.readouterr().err


def test_defaults_are_those_of_the_help():
    assert CoTConfig().mediator == MediatorConfig(kind="lstm", embedding=64, hidden=64, dropout=0.2)
    assert CoTConfig().mle.epochs == 0


@pytest.mark.parametrize("dropout", [None, 0.4])
def test_mles_counterpart_is_the_same_generator_trained_by_likelihood_and_the_method_sees_nothing_of_it(
    dropout, tmp_path
):
    options = CounterpartConfig(epochs=2, batch=32, dropout=dropout)
    alone, _ = run_of(tmp_path / "alone", rounds=2, steps=2)
    beside, run = run_of(tmp_path / "beside", rounds=2, steps=2, counterpart=options)
    assert all(torch.equal(a, b) for a, b in zip(alone.parameters(), beside.parameters(), strict=True))
    twin = load_generator(checkpoint.newest(run.folder / "checkpoints", "counterpart"))
    again = Run.create(tmp_path / "again", {"method": "mle"}, seed=3)
    corpus = runs_of_one_token()
    sizes = dataclasses.replace(SIZES["generator"], dropout=dropout or 0.0)
    by_hand = kinds.make(sizes, corpus.vocab_size, corpus.eos_id, corpus.start_id, derive_seed(3, "generator"))
    mle.pretrain(by_hand, options, MonitorConfig(every=0), corpus, again, phase="counterpart")
    assert all(torch.equal(a, b) for a, b in zip(twin.parameters(), by_hand.parameters(), strict=True))
    assert again.tokens == 0  # the method learns from none of them


def test_a_run_without_pre_training_is_held_to_mle_all_the_same(tmp_path, capsys):
    folder = tmp_path / "run"
    assert main(["train", "cot", "--recipe", "cot-tiny", "--out", str(folder)]) == 0
    found = json.loads((folder / "scores.json").read_text())
    assert [g["name"] for g in found["generators"]] == ["MLE counterpart", "final"]
    assert "for its MLE counterpart's" in found["verdict"]
    assert "MLE counterpart" in (folder / "report.html").read_text()
    assert main(["generate", str(folder), "-n", "3", "--checkpoint", "counterpart"]) == 0
    assert len(capsys.readouterr().out.splitlines()) >= 3
    # another run of the method may share it
    assert main(["train", "cot", "--recipe", "cot-tiny", "--from", str(folder), "--lr", "0.01",
                 "--out", str(tmp_path / "other")]) == 0  # fmt: skip
    other = json.loads((tmp_path / "other" / "scores.json").read_text())
    assert other["generators"][0]["scores"] == found["generators"][0]["scores"]
    assert other["generators"][1]["scores"] != found["generators"][1]["scores"]
    again = ["train", "cot", "--recipe", "cot-tiny", "--from", str(folder), "--out", str(tmp_path / "no")]
    for options, told in (
        (["--generator.dropout", "0.4"], "its MLE counterpart is of another generator"),
        (["--seed", "7"], "its MLE counterpart is of another seed (0; here 7)"),
        (["--mle.epochs", "1"], "its method has no pre-training to take over"),
    ):
        assert main([*again, *options]) == 2
        assert told in capsys.readouterr().err
        assert not (tmp_path / "no").exists()
    assert main([*again, "--counterpart.epochs", "0"]) == 0
    assert "nothing is taken over, since counterpart.epochs is 0" in capsys.readouterr().err
    shutil.rmtree(tmp_path / "no")
    mle_alone = [
        "mle",
        "--recipe",
        "mle-oracle",
        "--data.train_size",
        "64",
        "--mle.epochs",
        "1",
        "--data.vocab_size",
        "9",
    ]
    mle_alone += ["--data.valid_size", "32", "--data.test_size", "32", "--evaluate.samples", "32"]
    assert main(["train", *mle_alone, "--out", str(tmp_path / "mle")]) == 0
    assert main([*again[:4], "--from", str(tmp_path / "mle"), "--out", str(tmp_path / "no")]) == 2
    assert "it trained no MLE counterpart" in capsys.readouterr().err
    assert main(["train", "cot", "--recipe", "cot-tiny", "--counterpart.lr", "-1", "--out", str(tmp_path / "no")]) == 2
    assert "counterpart.lr is -1" in capsys.readouterr().err
    assert (
        main(["train", "cot", "--recipe", "cot-tiny", "--counterpart.dropout", "1", "--out", str(tmp_path / "no")]) == 2
    )
    assert "counterpart.dropout is 1" in capsys.readouterr().err


def test_where_the_counterpart_is_the_newest_it_does_not_pass_for_the_methods_generator(tmp_path, monkeypatch):
    monkeypatch.setattr(loading, "read_config", lambda run: {})
    run = Run.create(tmp_path / "run", {"method": "cot"}, seed=3)
    mle.counterpart(
        tiny(1, vocab=6, eos_id=3, dtype=torch.float32), CounterpartConfig(epochs=1), runs_of_one_token(), run
    )
    assert checkpoint.newest(run.folder / "checkpoints", tag="counterpart") is not None
    with pytest.raises(ValueError, match="no whole checkpoint yet"):
        find_checkpoint(run.folder)


def test_a_run_begun_before_there_was_a_counterpart_goes_on_without(tmp_path, monkeypatch):
    folder, plain = tmp_path / "run", Run.checkpoint

    def cut(self, *args, **kwargs):
        found = plain(self, *args, **kwargs)
        if self.step == 2:
            raise KeyboardInterrupt
        return found

    argv = ["train", "cot", "--recipe", "cot-tiny", "--counterpart.epochs", "0", "--checkpoint.seconds", "0"]
    with monkeypatch.context() as patch:
        patch.setattr(Run, "checkpoint", cut)
        assert main([*argv, "--out", str(folder)]) == 130
    written = yaml.safe_load((folder / "config.yaml").read_text())
    del written["counterpart"]
    (folder / "config.yaml").write_text(yaml.safe_dump(written))
    assert main(["resume", str(folder)]) == 0
    assert [g["name"] for g in json.loads((folder / "scores.json").read_text())["generators"]] == ["final"]


def test_nothing_is_generated_while_the_counterpart_is_trained(tmp_path):
    run = Run.create(tmp_path / "run", {"method": "cot"}, seed=3)
    run.keep("counterpart", tiny(1))
    with pytest.raises(ValueError, match="holds no generator"):
        load_generator(run.checkpoint())
