"""LeakGAN through the command line: what a run leaves, controls, resumed and repeated runs, and what is refused."""

import json
import shutil

import pytest
import torch
from test_hierarchical import written_out

from seqforge import checkpoint, discriminate, loading, rewards
from seqforge.cli import main
from seqforge.likelihood import log_probs
from seqforge.methods import leakgan
from seqforge.metrics import nll
from seqforge.run import Run
from seqforge.sampling import Filter

TINY = ["train", "leakgan", "--recipe", "leakgan-tiny", "--precision", "fp32"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("leakgan") / "run"
    assert main([*TINY, "--out", str(folder)]) == 0
    return folder


def test_a_run_leaves_all_it_promises(run, capsys, tmp_path):
    phases = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    rounds = [r for r in phases if r["phase"] == "adversarial" and "round" in r]
    assert [r["round"] for r in rounds] == [0, 1, 2, 3]
    assert all(0 < r["reward_mean"] < 1 and -1 <= r["intrinsic_reward"] <= 1 for r in rounds)
    told = json.loads((run / "hierarchy.json").read_text())
    assert told["step_size"] == 2
    for one in told["samples"]:
        n = len(one["tokens"])
        like = torch.tensor(one["similarity"])
        assert like.shape == (n, n)
        assert torch.equal(like, like.T)
        assert torch.allclose(like.diagonal(), torch.ones(n), atol=1e-3)
        assert len(one["trajectory"]) == n + 1
        assert all(-1 <= a <= 1 for a in one["alignment"])
        assert 0 < sum(one["explained"]) <= 1.001
    assert main(["generate", str(run), "-n", "3", "--prompt", "3 4", "--temperature", "0.7"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert all(line.startswith("3 4 ") for line in lines)
    shutil.copytree(run, tmp_path / "scored")
    assert main(["evaluate", str(tmp_path / "scored"), "--samples", "64"]) == 0
    assert main(["export", str(run), "--out", str(tmp_path / "hub")]) == 0
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {p.name for p in (tmp_path / "hub").iterdir()}


def test_a_control_takes_over_the_pre_training(run, tmp_path):
    out = tmp_path / "c"
    given = [*TINY, "--from", str(run), "--out", str(out)]
    assert main([*given, "--reward", "constant"]) == 0
    pre = [checkpoint.newest(f / "checkpoints", tag="pre-trained") for f in (run, out)]
    for player in ("generator", "discriminator"):
        a, b = ((p / player / "model.safetensors").read_bytes() for p in pre)
        assert a == b
    records = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert not any(r["phase"] == "mle" and r["kind"] == "train" for r in records)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["--generator.step", "7"], "generator.step is 7, but sequences have at most 6 tokens"),
        (["--generator.goal", "25"], "generator.goal is 25, but the discriminator has 24 features"),
        (["--delta", "0"], "delta is 0"),
        (["--d_every", "0"], "d_every is 0"),
        (["--generator.goals", "all"], "goals"),
        (["--opening", "-1"], "opening is -1"),
        (
            ["--data", "demo", "--data.overlong", "skip", "--d_fresh", "true"],
            "d_fresh draws real sequences from an oracle, but",
        ),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(given, told, tmp_path, capsys):
    out = tmp_path / "run"
    assert main([*TINY, "--out", str(out), *given]) == 2
    err = capsys.readouterr().err
    assert told in err
    assert "Traceback" not in err
    assert not out.exists()


def test_windows_wider_than_the_sequences_are_dropped_by_name(tmp_path, capsys):
    given = ["--discriminator.widths", "[1,2,9]", "--rounds", "0", "--mle.epochs", "1", "--out", str(tmp_path / "run")]
    assert main([*TINY, *given]) == 0
    assert "no windows of [9] tokens, as sequences have 6" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("was", "now", "told"),
    [
        ("  goal: 4", "  goal: 5", "checkpoint of another shape"),
        ("  step: 2", "  step: 3", "checkpoint of another model: step is 2 there, but 3 by this configuration; use"),
        ("  goals: window", "  goals: block", "another model: goals is window there, but block by this configuration"),
    ],
)
def test_a_run_whose_sizes_were_edited_says_so(was, now, told, run, tmp_path, capsys):
    folder = tmp_path / "edited"
    shutil.copytree(run, folder)
    config = (folder / "config.yaml").read_text()
    assert f"{was}\n" in config
    (folder / "config.yaml").write_text(config.replace(f"{was}\n", f"{now}\n").replace("rounds: 4", "rounds: 6"))
    log = (folder / "log.jsonl").read_text().splitlines()
    (folder / "log.jsonl").write_text("\n".join(line for line in log if '"kind": "end"' not in line) + "\n")
    kept = {p: p.read_bytes() for p in folder.rglob("*.safetensors")}
    assert main(["resume", str(folder)]) == 2
    assert told in capsys.readouterr().err
    assert all(p.read_bytes() == data for p, data in kept.items())


def test_a_pre_training_with_other_goals_is_not_taken_over(run, tmp_path, capsys):
    given = ["--from", str(run), "--generator.goals", "block", "--out", str(tmp_path / "run")]
    assert main([*TINY, *given]) == 2
    assert "checkpoint of another model: goals is window there, but block" in capsys.readouterr().err


# --- what the runs did ----------------------------------------------------------------------------------------------


def records(folder, phase, kind="train"):
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [r for r in lines if (r["phase"], r["kind"]) == (phase, kind)]


def weights(folder, player, tag="final"):
    return (checkpoint.newest(folder / "checkpoints", tag=tag) / player / "model.safetensors").read_bytes()


def test_hierarchy_json_holds_the_goals_features_and_alignments_of_its_samples(run):
    """From the final generator, sample by sample, by the written-out reference."""
    g = loading.load_generator(checkpoint.newest(run / "checkpoints", tag="final"))
    told = json.loads((run / "hierarchy.json").read_text())
    assert len(told["samples"]) == 3
    for one in told["samples"]:
        ids = torch.tensor([int(token) for token in one["tokens"]])
        assert len(ids) == 6  # no end token: the full length
        _, goals, f = (x.detach() for x in written_out(g, g.leaked.discriminator, ids, 2))
        assert torch.allclose(torch.tensor(one["similarity"]), goals @ goals.T, atol=2e-4)
        change = torch.stack([f[min(t + 2, 6)] - f[t] for t in range(6)])
        toward = (change * goals).sum(1) / change.norm(dim=1)
        assert torch.allclose(torch.tensor(one["alignment"]), toward, atol=2e-3)
        centred, path = f - f.mean(0), torch.tensor(one["trajectory"])
        share = path.square().sum(0) / centred.square().sum()
        assert torch.allclose(share, torch.tensor(one["explained"]), atol=5e-3)
        assert share[0] >= share[1]
        assert float((torch.cdist(path, path) - torch.cdist(centred, centred)).max()) <= 1e-3  # a projection
    assert float(toward.std()) > 1e-3


def test_the_same_seed_gives_the_same_run_and_another_seed_another(run, tmp_path):
    for seed in ("0", "1"):
        assert main([*TINY, "--seed", seed, "--out", str(tmp_path / seed)]) == 0
    for player in ("generator", "discriminator"):
        assert weights(run, player) == weights(tmp_path / "0", player)
        assert weights(run, player) != weights(tmp_path / "1", player)
    assert (run / "hierarchy.json").read_text() == (tmp_path / "0" / "hierarchy.json").read_text()
    assert (run / "scores.json").read_text() == (tmp_path / "0" / "scores.json").read_text()


def assert_leaked(run):
    for tag in ("pre-trained", "final"):
        folder = checkpoint.newest(run / "checkpoints", tag=tag)
        g, d = (checkpoint.load_file(folder / p / "model.safetensors") for p in ("generator", "discriminator"))
        assert all(torch.equal(g[f"leaked.discriminator.{name}"], value) for name, value in d.items())


def test_the_features_in_a_checkpoint_are_those_of_the_discriminator_beside_it(run):
    assert_leaked(run)


def test_a_frozen_discriminator_stays_and_a_null_control_goes_on_training_it(run, tmp_path):
    """Its features drive the generator, so that only `frozen` stops it."""
    for reward in ("frozen", "random"):
        out = str(tmp_path / reward)
        assert main([*TINY, "--from", str(run), "--reward", reward, "--out", out]) == 0
    assert weights(tmp_path / "frozen", "discriminator") == weights(run, "discriminator", "pre-trained")
    assert weights(tmp_path / "random", "discriminator") != weights(run, "discriminator", "pre-trained")
    assert weights(tmp_path / "frozen", "generator") != weights(run, "generator", "pre-trained")


def test_the_discriminator_is_trained_when_the_schedule_says(run):
    """Epochs 0 and 2 of pre-training, and every one of 4 rounds."""
    epochs = [r for r in records(run, "mle") if "epoch" in r]
    assert len(epochs) == 4
    assert len([r for r in records(run, "mle") if "d_loss" in r]) == 2
    assert len([r for r in records(run, "adversarial") if "d_loss" in r]) == 4


@pytest.mark.parametrize(
    ("every", "calls"), [("0", 0), ("1", 4), pytest.param("2", 2, marks=pytest.mark.slow), ("3", 1)]
)
def test_interleaved_likelihood_comes_as_often_as_asked(every, calls, run, tmp_path, monkeypatch):
    seen, plain = [], leakgan.likelihood_loss
    monkeypatch.setattr(
        leakgan, "likelihood_loss", lambda g, real, *args: seen.append(len(real)) or plain(g, real, *args)
    )
    given = ["--from", str(run), "--mle_every", every, "--mle_steps", "3", "--out", str(tmp_path / "run")]
    assert main([*TINY, *given]) == 0
    assert seen == [32] * 3 * calls


@pytest.mark.parametrize(("given", "lr"), [([], 0.01), (["--mle_lr", "0.0007"], 0.0007)])
def test_interleaved_steps_have_the_size_asked_for(given, lr, run, tmp_path):
    assert main([*TINY, "--from", str(run), *given, "--out", str(tmp_path / "run")]) == 0
    kept = checkpoint.load_training(checkpoint.newest(tmp_path / "run" / "checkpoints", tag="final"))["kept"]
    assert {kept[f"interleaved.{module}"]["param_groups"][0]["lr"] for module in ("manager", "worker")} == {lr}


@pytest.mark.parametrize("fresh", ["false", "true"])
def test_real_sequences_of_the_discriminator_are_the_training_set_or_fresh_ones(fresh, tmp_path, monkeypatch):
    plain, seen, corpora, drawn = discriminate.epoch, [], [], []

    def epoch(discriminator, optimizer, real, *rest):
        seen.append(real[0].clone())
        return plain(discriminator, optimizer, real, *rest)

    def fresh_ones(discriminator, optimizer, generator, corpus, *rest, **more):
        corpora.append(corpus)
        return trained(discriminator, optimizer, generator, corpus, *rest, **more)

    def sample(generator, *rest, **more):
        found = sampled(generator, *rest, **more)
        if generator is corpora[-1].oracle:
            drawn.append(found.ids)
        return found

    trained, sampled = discriminate.train_on_fresh, discriminate.sample
    monkeypatch.setattr(discriminate, "epoch", epoch)
    monkeypatch.setattr(discriminate, "train_on_fresh", fresh_ones)
    monkeypatch.setattr(discriminate, "sample", sample)
    given = ["--d_fresh", fresh, "--rounds", "2", "--d_steps", "2", "--d_epochs", "2", "--evaluate.samples", "32"]
    assert main([*TINY, "--out", str(tmp_path / "run"), *given]) == 0
    real = corpora[0].train.ids
    if fresh == "false":
        assert not drawn
        assert all(torch.equal(ids, real) for ids in seen)
        return
    assert len(seen) == 2 * len(drawn)  # two passes over each set
    assert all(torch.equal(ids, drawn[n // 2]) for n, ids in enumerate(seen))
    assert len({ids.numpy().tobytes() for ids in drawn}) == len(drawn) >= 4  # two sets in each of two rounds, at least


def test_the_opening_is_that_of_all_that_training_draws_and_of_nothing_measured(tmp_path, monkeypatch):
    filters = {"fakes": [], "step": [], "measured": []}

    def noting(where, plain):
        def noted(generator, noise, *rest, **more):
            filters[where].append(next((f for f in rest if isinstance(f, Filter)), Filter()))
            return plain(generator, noise, *rest, **more)

        return noted

    monkeypatch.setattr(discriminate, "sample", noting("fakes", discriminate.sample))
    monkeypatch.setattr(rewards, "sample_with_trail", noting("step", rewards.sample_with_trail))
    monkeypatch.setattr(nll, "sample", noting("measured", nll.sample))
    given = ["--opening", "0.5", "--temperature", "1.25", "--rounds", "1", "--evaluate.samples", "32"]
    assert main([*TINY, "--out", str(tmp_path / "run"), *given]) == 0
    assert set(filters["step"]) == {Filter(1.25, opening=0.5)}
    assert {f.opening for f in filters["fakes"]} == {0.5}
    assert {f.opening for f in filters["measured"]} == {None}


@pytest.mark.parametrize("patience", ["0", "9"])
def test_the_learning_rate_falls_with_and_without_patience(patience, tmp_path):
    """As in every other method: lr_decay does not ask for patience."""
    given = ["--mle.patience", patience, "--mle.lr", "0.3", "--mle.lr_decay", "0.1", "--mle.epochs", "8"]
    given += ["--rounds", "0", "--evaluate.samples", "2"]
    assert main([*TINY, *given, "--out", str(tmp_path / "run")]) == 0
    valid = [r["nll_valid"] for r in records(tmp_path / "run", "mle") if "epoch" in r]
    age = [i for i in range(1, 8) if valid[i] >= min(valid[:i])]
    assert age  # such a rate does harm
    assert_leaked(tmp_path / "run")  # where the best epoch is taken back, so is its discriminator
    kept = checkpoint.load_training(checkpoint.newest(tmp_path / "run" / "checkpoints", tag="final"))["kept"]
    for module in ("manager", "worker"):
        lr = kept[f"mle.{module}"]["param_groups"][0]["lr"]
        assert lr == pytest.approx(0.3 * 0.1 ** len(age))


@pytest.mark.parametrize("call", [5, pytest.param(12, marks=pytest.mark.slow)])
def test_a_run_with_rounded_features_that_is_cut_off(call, tmp_path, monkeypatch):
    plain, calls = Run.log, [0]

    def log(self, *args, **kwargs):
        calls[0] += 1
        if calls[0] == call:
            raise KeyboardInterrupt
        return plain(self, *args, **kwargs)

    given = [*TINY, "--precision", "bf16", "--out"]
    assert main([*given, str(tmp_path / "whole")]) == 0
    with monkeypatch.context() as patch:
        patch.setattr(Run, "log", log)
        assert main([*given, str(tmp_path / "cut")]) == 130
    assert main(["resume", str(tmp_path / "cut")]) == 0
    for player in ("generator", "discriminator"):
        assert weights(tmp_path / "cut", player) == weights(tmp_path / "whole", player)
    one, other = (json.loads((tmp_path / n / "scores.json").read_text()) for n in ("cut", "whole"))
    assert one == other


def test_a_step_uses_the_configuration_it_is_given(run, tmp_path, monkeypatch):
    """Temperatures of samples and of fakes, completions at the ends of blocks, and rewards by their rank."""
    seen = {"fakes": [], "values": [], "rewards": []}
    values, loss, fresh = rewards.block_values, leakgan.adversarial_loss, discriminate.train_on_fresh

    def block_values(reward, generator, samples, trail, score, rollouts, step, rng):
        assert (reward, rollouts, step) == ("discriminator", 3, 2)
        at = log_probs(generator, samples.ids, samples.lengths, 1.7)
        assert torch.allclose(samples.logp, at, atol=1e-4)
        found = values(reward, generator, samples, trail, score, rollouts, step, rng)
        seen["values"].append(found[0])
        return found

    def adversarial_loss(generator, unrolled, ids, lengths, reward, *args):
        seen["rewards"].append(reward)
        return loss(generator, unrolled, ids, lengths, reward, *args)

    monkeypatch.setattr(rewards, "block_values", block_values)
    monkeypatch.setattr(leakgan, "adversarial_loss", adversarial_loss)
    monkeypatch.setattr(discriminate, "train_on_fresh", lambda *a, **k: seen["fakes"].append(a[-1]) or fresh(*a, **k))
    given = ["--temperature", "1.7", "--d_temperature", "0.6", "--rollouts", "3", "--delta", "5", "--rounds", "2"]
    assert main([*TINY, "--from", str(run), *given, "--out", str(tmp_path / "run")]) == 0
    assert [f.temperature for f in seen["fakes"]] == [0.6, 0.6]
    for value, reward in zip(seen["values"], seen["rewards"], strict=True):
        above = (value[:, None] < value[None]).sum(1)
        equal = (value[:, None] == value[None]).sum(1)
        assert torch.allclose(reward, torch.sigmoid(5 * (0.5 - (above + (equal + 1) / 2) / 16)), atol=1e-6)
    assert len(seen["rewards"]) == 2


# --- refused --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--generator.step", "7"], ["generator.step is 7", "at most 6 tokens", "--generator.step 4"]),
        (["--generator.goal", "25"], ["generator.goal is 25", "24 features", "--generator.goal 24"]),
        (["--generator.goals", "all"], ["goals", "all"]),
        (["--generator.step", "0"], ["generator.step is 0"]),
        (["--delta", "nan"], ["delta", "nan"]),
        (["--d_temperature", "0"], ["d_temperature is 0"]),
        (["--extrinsic", "-1"], ["extrinsic is -1"]),
        (["--mle_every", "-1"], ["mle_every is -1"]),
        (["--discriminator.widths", "[9]", "--discriminator.filters", "[8]"], ["no sequence is longer than 6"]),
        (["--recipe", "seqgan-oracle-tiny"], ["`seqgan`", "`leakgan`"]),
        (["--from", "nowhere"], ["nowhere", "not a run folder"]),
    ],
)
def test_one_clear_line(argv, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main([*TINY, "--out", "new", *argv]) == 2
    said = [line for line in capsys.readouterr().err.splitlines() if not line.startswith(("warning: ", "run "))]
    assert len(said) == 1, said
    assert all(word in said[0] for word in words), said[0]
    assert not list(tmp_path.iterdir())


def test_from_a_run_of_another_method(run, tmp_path, capsys):
    """A worker alone is no pre-training of both."""
    other = tmp_path / "seqgan"
    assert main(["train", "seqgan", "--recipe", "seqgan-oracle-tiny", "--rounds", "0", "--out", str(other)]) == 0
    capsys.readouterr()
    assert main([*TINY, "--from", str(other), "--out", str(tmp_path / "new")]) == 2
    said = capsys.readouterr().err.splitlines()
    assert said[-1].startswith("seqforge: ")
    assert "Traceback" not in "".join(said)
    assert str(other) in said[-1]
    assert not (tmp_path / "new").exists()
