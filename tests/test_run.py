"""What a run promises: the same seed gives the same bits, and a run that blows up says so and keeps what was good."""

import json
import math
import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from seqforge import checkpoint, memory, report, run
from seqforge.cli import main
from seqforge.loading import load_generator
from seqforge.run import CheckpointConfig, Run, derive_seed

TINY = ["train", "seqgan", "--recipe", "seqgan-oracle-tiny", "--mle.epochs", "3", "--rounds", "2"]
TINY += ["--counterpart.epochs", "0"]
WALL_CLOCK = ("seconds", "date", "peak_memory")


@pytest.fixture(autouse=True)
def no_page(monkeypatch):
    """The page has its own tests; here it would be most of the time."""
    monkeypatch.setattr(report, "build", lambda run, out=None: Path(run) / "report.html")
    monkeypatch.setattr(report, "curves_png", lambda *_: None)


def weights(folder: Path) -> dict[str, bytes]:
    """The final checkpoint's models, byte for byte."""
    found = checkpoint.newest(folder / "checkpoints", tag="final")
    return {p.relative_to(found).as_posix(): p.read_bytes() for p in sorted(found.rglob("*.safetensors"))}


def records(folder: Path) -> list[dict]:
    lines = (folder / "log.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in WALL_CLOCK} for line in lines]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "first"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "build", lambda run, out=None: Path(run) / "report.html")
        patch.setattr(report, "curves_png", lambda *_: None)
        assert main([*TINY, "--out", str(folder)]) == 0
    return folder


def test_same_seed_same_bits_another_seed_others(finished, tmp_path):
    """Run-to-run noise would drown what the controls are there to show. Ambient random state must not leak in."""
    torch.manual_seed(12345)
    assert main([*TINY, "--out", str(tmp_path / "again")]) == 0
    assert weights(finished).keys() == {"generator/model.safetensors", "discriminator/model.safetensors"}
    assert weights(tmp_path / "again") == weights(finished)
    assert records(tmp_path / "again") == records(finished)
    assert (tmp_path / "again" / "scores.json").read_text() == (finished / "scores.json").read_text()

    assert main([*TINY, "--seed", "1", "--out", str(tmp_path / "other")]) == 0
    for name, raw in weights(tmp_path / "other").items():
        assert raw != weights(finished)[name]
    digest = [records(f)[0]["data"] for f in (finished, tmp_path / "other")]
    assert digest[0] == digest[1]  # seeds of a method share their data


def test_the_data_seed_changes_the_data_and_not_the_start(finished, tmp_path):
    assert main([*TINY, "--data.seed", "1", "--rounds", "0", "--out", str(tmp_path / "data")]) == 0
    assert records(tmp_path / "data")[0]["data"] != records(finished)[0]["data"]


def test_log_says_what_ran(finished):
    first, *rest, last = records(finished)
    assert (first["kind"], last["kind"]) == ("start", "end")
    assert first["seed"] == 0
    assert first["torch"] == torch.__version__
    assert [r["epoch"] for r in rest if "nll_train" in r] == [0, 1, 2]
    assert [r["round"] for r in rest if "reward_mean" in r] == [0, 1]
    steps = [r["step"] for r in [first, *rest, last]]
    assert steps == sorted(steps)
    assert last["step"] == 3 + 2 + 2  # epochs, discriminator rounds, adversarial rounds
    for r in rest:
        if r["kind"] == "evaluation":
            assert set(r["scores"]) == {"nll_oracle", "nll_test", "entropy"}
            assert all(s["signature"] and math.isfinite(s["value"]) for s in r["scores"].values())


def test_run_folder_is_as_designed(finished):
    names = {p.name for p in finished.iterdir()}
    assert names >= {"config.yaml", "log.jsonl", "scores.json", "checkpoints", "samples"}
    assert not [p for p in finished.rglob("*.part")]
    for player in ("generator", "discriminator"):
        folder = checkpoint.newest(finished / "checkpoints") / player
        assert {p.name for p in folder.iterdir()} == {"model.safetensors", "config.json", "tokenizer.json"}
    lines = (finished / "samples" / "step-7.txt").read_text().splitlines()
    assert len(lines) == 5
    assert all(len(line.split()) == 6 and all(0 <= int(w) < 20 for w in line.split()) for line in lines)


@pytest.mark.parametrize(
    ("options", "quantity", "phase", "remedy"),
    [
        (["--mle.lr", "1e38"], "nll_", "mle", "a lower --mle.lr, a smaller --mle.clip"),
        (["--lr", "1e38", "--rounds", "3"], "", "adversarial", "a lower --lr, a smaller --clip"),
        (["--lr", "1e38", "--rounds", "1"], "", "adversarial", "a lower --lr, a smaller --clip"),
        (
            ["--lr", "1e38", "--rounds", "1", "--reward", "constant"],
            "",
            "adversarial",
            "a lower --lr, a smaller --clip",
        ),
        (["--d_lr", "1e38", "--d_pretrain", "3", "--precision", "fp32"], "", "discriminator", "a lower --d_lr"),
        (["--d_lr", "1e38", "--precision", "bf16"], "", "discriminator", "a lower --d_lr, --precision fp32"),
    ],
)
@pytest.mark.filterwarnings("ignore:--precision bf16")
def test_a_loss_that_is_not_finite_stops_the_run(options, quantity, phase, remedy, tmp_path, capsys):
    """A run must not go on, end with exit 0 and leave a checkpoint of NaNs behind under the tag "final"."""
    folder = tmp_path / "run"
    assert main([*TINY, *options, "--out", str(folder)]) == 2
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("seqforge: ")]
    assert len(said) == 1
    assert f", {phase}: {quantity}" in said[0]
    assert re.search(r" is (nan|-?inf)\b", said[0])
    assert "step " in said[0]
    assert f"Try {remedy}" in said[0]
    assert ("last good checkpoint" in said[0]) == (phase != "mle")
    if phase == "mle":
        assert not folder.exists()  # nothing good had been reached
        return
    last = records(folder)[-1]
    assert (last["phase"], last["kind"], last["sign"], last["since"]) == (phase, "warning", "nan", last["step"])
    assert last["value"] in ("nan", "inf", "-inf")
    assert last["message"].startswith(
        f"nan: {last['figure']} is {last['value']}, since step {last['step']}. Try {remedy}"
    )
    assert ", ".join(last["try"]).startswith(remedy)
    good = checkpoint.newest(folder / "checkpoints")
    state = checkpoint.load_file(good / "generator" / "model.safetensors")
    assert all(bool(t.isfinite().all()) for t in state.values())
    assert checkpoint.newest(folder / "checkpoints", tag="final") is None
    assert "NaN" not in (folder / "log.jsonl").read_text()
    assert not (folder / "scores.json").exists()


def test_after_a_non_finite_loss_the_run_goes_on_from_its_last_good_checkpoint(tmp_path, capsys):
    folder = tmp_path / "run"
    assert main([*TINY, "--lr", "1e38", "--rounds", "3", "--out", str(folder)]) == 2
    capsys.readouterr()
    config = yaml.safe_load((folder / "config.yaml").read_text())
    (folder / "config.yaml").write_text(yaml.safe_dump({**config, "lr": 0.01}))
    assert main(["resume", str(folder)]) == 0
    assert checkpoint.newest(folder / "checkpoints", tag="final").name == "step-8"
    assert [r["round"] for r in records(folder) if "reward_mean" in r] == [0, 1, 2]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_log_refuses_what_is_not_finite(value, tmp_path):
    made = Run.create(tmp_path / "r", {"method": "mle"}, seed=0, saving=CheckpointConfig())
    made.log("mle", "train", fine=1.5)
    with pytest.raises(ValueError, match=rf"step 0, mle: loss is {value}$"):
        made.log("mle", "train", other=1.0, loss=value)
    fine, told = records(tmp_path / "r")
    assert (fine["kind"], fine["fine"]) == ("train", 1.5)
    assert (told["kind"], told["figure"], told["value"]) == ("warning", "loss", str(value))


def test_log_refuses_a_score_that_is_not_finite(tmp_path):
    """Scores lie one level deeper in the record; a NaN among them would make log.jsonl something JSON is not."""
    made = Run.create(tmp_path / "r", {"method": "mle"}, seed=0, saving=CheckpointConfig())
    with pytest.raises(ValueError, match="nll_test is nan"):
        made.log("mle", "evaluation", scores={"nll_test": {"value": math.nan}})
    assert [(r["kind"], r["sign"], r["figure"]) for r in records(tmp_path / "r")] == [("warning", "nan", "nll_test")]


def test_streams_of_random_numbers_share_nothing(tmp_path):
    made = Run.create(tmp_path / "r", {"method": "mle"}, seed=3, saving=CheckpointConfig())
    assert made.rng("a") is made.rng("a")
    a, b = torch.rand(4, generator=made.rng("a")), torch.rand(4, generator=made.rng("b"))
    assert not torch.equal(a, b)
    assert torch.equal(a, torch.rand(4, generator=torch.Generator().manual_seed(derive_seed(3, "a"))))
    assert derive_seed(3, "a") != derive_seed(4, "a")
    assert 0 <= derive_seed(10**30, "a") < 2**63


def test_a_loop_counts_steps_and_ends_early(tmp_path):
    made = Run.create(tmp_path / "r", {"method": "mle"}, seed=0, saving=CheckpointConfig(seconds=1e9))
    seen = []
    for i in made.loop("a", 5):
        seen.append(i)
        if i == 2:
            made.finish("a")
    assert seen == [0, 1, 2]
    assert made.step == 3
    assert list(made.loop("a", 5)) == []
    assert list(made.loop("b", 2)) == [0, 1]
    assert made.step == 5
    assert list(made.loop("c", 0)) == []


def test_checkpoints_come_no_more_often_than_asked(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(run.time, "monotonic", lambda: now[0])
    made = Run.create(tmp_path / "r", {"method": "mle"}, seed=0, saving=CheckpointConfig(seconds=10, newest=9))
    for _ in made.loop("a", 7):
        now[0] += 4
    assert [p.name for p in checkpoint.every(tmp_path / "r" / "checkpoints")] == ["step-3", "step-6"]


def test_a_run_from_another_keeps_its_own_step_sizes(tmp_path):
    """A control with --d_lr of its own went on with the other run's: an optimiser's state holds its options too."""
    first, then = tmp_path / "first", tmp_path / "then"
    tiny = ["train", "seqgan", "--recipe", "seqgan-oracle-tiny", "--rounds", "1", "--checkpoint.newest", "1"]
    assert main([*tiny, "--out", str(first), "--d_lr", "1e-3"]) == 0
    assert main([*tiny, "--out", str(then), "--d_lr", "2e-3", "--lr", "0.5", "--from", str(first)]) == 0
    saved = checkpoint.load_training(checkpoint.newest(then / "checkpoints"))["kept"]
    assert saved["discriminator.optimizer"]["param_groups"][0]["lr"] == 2e-3
    assert saved["generator.optimizer"]["param_groups"][0]["lr"] == 0.5
    steps = saved["discriminator.optimizer"]["state"][0]["step"]
    before = checkpoint.load_training(checkpoint.newest(first / "checkpoints", "pre-trained"))["kept"]
    assert steps > before["discriminator.optimizer"]["state"][0]["step"] > 0  # its moments were taken over


def test_a_taken_over_pre_training_is_not_gone_on_with(tmp_path):
    """`--from` with more epochs trained further, and a control got another generator than its run."""
    first, then = tmp_path / "first", tmp_path / "then"
    tiny = ["train", "seqgan", "--recipe", "seqgan-oracle-tiny", "--rounds", "1"]
    assert main([*tiny, "--out", str(first)]) == 0
    assert main([*tiny, "--out", str(then), "--from", str(first), "--mle.epochs", "9", "--d_pretrain", "6"]) == 0
    phases = [json.loads(line)["phase"] for line in (then / "log.jsonl").read_text().splitlines()]
    assert "discriminator" not in phases
    assert phases.count("mle") == 2  # the measurement of the pre-trained generator: its scores and its health


def test_a_run_by_likelihood_is_a_pre_training(tmp_path):
    tiny = ["--data.vocab_size", "9", "--data.max_length", "4", "--data.train_size", "64", "--data.valid_size", "32"]
    tiny += ["--data.test_size", "32", "--generator.hidden", "4", "--evaluate.samples", "20", "--mle.epochs", "2"]
    assert main(["train", "mle", *tiny, "--out", str(tmp_path / "mle")]) == 0
    small = [
        "--discriminator.widths",
        "[1,2]",
        "--discriminator.filters",
        "[3,3]",
        "--rounds",
        "1",
        "--d_pretrain",
        "1",
    ]
    small += ["--rollouts", "2", "--d_steps", "1", "--d_epochs", "1", "--from", str(tmp_path / "mle")]
    assert main(["train", "seqgan", *tiny, *small, "--out", str(tmp_path / "gan")]) == 0
    weights = [
        load_generator(checkpoint.newest(tmp_path / name / "checkpoints", tag)).state_dict()
        for name, tag in (("mle", "final"), ("gan", "pre-trained"))
    ]
    assert all(torch.equal(weights[0][k], weights[1][k]) for k in weights[0])


def test_a_run_goes_on_only_with_the_data_it_began_with(tmp_path, capsys):
    file, run = tmp_path / "ids.txt", tmp_path / "run"
    file.write_text("1 2 3 4\n2 3 1 0\n" * 40)
    argv = ["train", "mle", "--data", str(file), "--data.max_length", "4", "--mle.epochs", "1", "--out", str(run)]
    assert main(argv) == 0
    log = run / "log.jsonl"
    log.write_text("".join(log.read_text().splitlines(keepends=True)[:-1]))  # as if it had not ended
    file.write_text("1 2 3 4\n2 3 1 1\n" * 40)
    assert main(["resume", str(run)]) == 2
    assert "it began with other data" in capsys.readouterr().err


def test_samples_are_a_line_each_whatever_they_hold(tmp_path):
    """Byte pairs can write ends of lines: 106 lines were written for 100 samples."""
    made = Run.create(tmp_path / "run", {"method": "mle"}, seed=0, saving=CheckpointConfig())
    made.write_samples(["one\ntwo", "three\r", "", "four"])
    assert (tmp_path / "run" / "samples" / "step-0.txt").read_text() == "one two\nthree\n\nfour\n"


def test_training_needs_no_git(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert (
        main(["train", "seqgan", "--recipe", "seqgan-oracle-tiny", "--rounds", "0", "--out", str(tmp_path / "r")]) == 0
    )


def test_a_constant_reward_with_a_baseline_is_refused(tmp_path, capsys):
    """Every advantage was 0, and the verdict "made no difference" read like a finding."""
    argv = ["train", "seqgan", "--recipe", "seqgan-oracle-tiny", "--reward", "constant", "--baseline", "step"]
    assert main([*argv, "--out", str(tmp_path / "r")]) == 2
    assert "--baseline none" in capsys.readouterr().err
    assert not (tmp_path / "r").exists()


def test_the_peak_of_memory_is_of_this_process_and_never_less_than_what_it_holds():
    held = memory.peak(torch.device("cpu"))["peak_memory"]
    block = np.ones(100 * 2**20 // 8)  # written, so that it is there
    pages = int(Path("/proc/self/statm").read_text().split()[1]) if Path("/proc/self/statm").is_file() else 0
    after = memory.peak(torch.device("cpu"))["peak_memory"]
    assert after >= max(held, 0.99 * pages * os.sysconf("SC_PAGE_SIZE"), block.nbytes)  # the kernel counts in batches
    assert after < held + 2 * block.nbytes
