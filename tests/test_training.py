"""`training.train` and `training.resume` from Python: what they write, what they refuse, and how they go on."""

import dataclasses
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from test_resume import Cut, assert_same, cut_at, log_of, short_report  # noqa: F401
from tokenizers import Tokenizer

from seqforge import checkpoint, corpora, training
from seqforge.cli import main
from seqforge.data.config import DataConfig
from seqforge.evaluate import EvaluateConfig
from seqforge.methods import mle
from seqforge.methods.mle import MLEConfig, MLETrainConfig, MonitorConfig
from seqforge.methods.seqgan import SeqGANConfig
from seqforge.models.kinds import GeneratorConfig
from seqforge.run import CheckpointConfig, Run
from seqforge.training import Interrupted, RunConfig, resume, train

fcntl = pytest.importorskip("fcntl")
few = pytest.mark.filterwarnings("ignore:.*(sequences to train on and|are longer than)")
pytestmark = [few, pytest.mark.filterwarnings("ignore:.*starting again from config.yaml")]

ORACLE = DataConfig(
    vocab_size=12, max_length=5, oracle_embedding=3, oracle_hidden=3, train_size=96, valid_size=32, test_size=32
)
CONFIG = RunConfig(
    seed=3, data=ORACLE, checkpoint=CheckpointConfig(seconds=0.0), evaluate=EvaluateConfig(16, [1.0, 0.8])
)
METHOD = MLETrainConfig(
    GeneratorConfig(embedding=4, hidden=4, dropout=0.2),
    MLEConfig(epochs=3, batch=32),
    MonitorConfig(every=1, samples=16),
)
ARGV = [
    *["mle", "--seed", "3", "--data.vocab_size", "12", "--data.max_length", "5", "--data.oracle_embedding", "3"],
    *["--data.oracle_hidden", "3", "--data.train_size", "96", "--data.valid_size", "32", "--data.test_size", "32"],
    *["--checkpoint.seconds", "0", "--evaluate.samples", "16", "--evaluate.temperatures", "[1.0,0.8]"],
    *["--generator.embedding", "4", "--generator.hidden", "4", "--generator.dropout", "0.2"],
    *["--mle.epochs", "3", "--mle.batch", "32", "--monitor.every", "1", "--monitor.samples", "16"],
]


def text_file(path: Path, lines: int = 80, seed: int = 1) -> Path:
    choose = random.Random(seed)
    rows = [" ".join(choose.choice("abcdefgh") * 2 for _ in range(choose.randint(1, 6))) for _ in range(lines)]
    path.write_text("\n".join(rows) + "\n")
    return path


def on_text(source: str | Path, **data) -> RunConfig:
    evaluation = EvaluateConfig(16, [1.0], metrics=["bleu"])
    saving = CheckpointConfig(seconds=0)
    return RunConfig(data=DataConfig(source=str(source), **data), checkpoint=saving, evaluate=evaluation)


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def cut(folder: Path, config: RunConfig, name: str = "log", call: int = 4) -> None:
    """A run that ends in the middle."""
    with pytest.MonkeyPatch.context() as patch:
        cut_at(patch, name, call)
        with pytest.raises(Cut):
            train("mle", config, METHOD, folder)


# --- what a run leaves --------------------------------------------------------------------------------------------


def test_from_python_as_from_the_command_line(tmp_path, capsys):
    folder = train("mle", CONFIG, METHOD, tmp_path / "python")
    assert main(["train", *ARGV, "--out", str(tmp_path / "cli")]) == 0
    configs = [(f / "config.yaml").read_text() for f in (folder, tmp_path / "cli")]
    assert configs[0] == configs[1]
    assert_same(folder, tmp_path / "cli")
    plain = yaml.safe_load(configs[0])
    assert (plain["method"], plain["seed"], plain["mle"]["epochs"], plain["from"]) == ("mle", 3, 3, None)
    assert plain["device"] in ("cpu", "cuda")  # settled: no "auto" is left
    assert plain["threads"] == torch.get_num_threads()
    assert training.build(RunConfig, plain) == training.settle(CONFIG)
    assert training.build(MLETrainConfig, plain) == METHOD


def test_every_checkpoint_has_its_tokenizer_and_the_run_its_scores_and_report(tmp_path):
    folder = train("mle", on_text(text_file(tmp_path / "t.txt")), METHOD, tmp_path / "run")
    ends = checkpoint.every(folder / "checkpoints")
    assert len(ends) >= 2
    for end in ends:
        tokenizer = Tokenizer.from_file(str(end / "generator" / "tokenizer.json"))
        assert tokenizer.token_to_id("aa") is not None
        assert tokenizer.token_to_id("<eos>") == 0
    (row,) = json.loads((folder / "scores.json").read_text())["generators"]
    assert {"nll_test", "entropy", "bleu2"} <= {s["name"] for s in row["scores"]}
    assert (folder / "report.html").read_text() == "page"
    assert [r["kind"] for r in log_of(folder)][:: len(log_of(folder)) - 1] == ["start", "end"]
    sample = max((folder / "samples").iterdir(), key=lambda p: int(p.stem.removeprefix("step-")))
    assert set(sample.read_text().split()) <= {*(c * 2 for c in "abcdefgh"), "<unk>"}


def test_without_a_folder_runs_are_numbered(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert [str(train("mle", CONFIG, METHOD)) for _ in range(2)] == ["runs/mle-1", "runs/mle-2"]


# --- what is refused ----------------------------------------------------------------------------------------------


def test_a_configuration_of_another_method_is_refused(tmp_path):
    with pytest.raises(ValueError, match="mle takes a MLETrainConfig, not a SeqGANConfig"):
        train("mle", CONFIG, SeqGANConfig(), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_an_unknown_method_is_refused(tmp_path):
    """It was a bare KeyError."""
    with pytest.raises(ValueError, match=r"unknown method 'seqgann' \(mle, .*seqgan"):
        train("seqgann", CONFIG, METHOD, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_folder_that_is_taken_is_refused_and_left_as_it_is(tmp_path):
    folder = train("mle", CONFIG, METHOD, tmp_path / "run")
    before = files_of(folder)
    with pytest.raises(ValueError, match="exists already"):
        train("mle", CONFIG, METHOD, folder)
    assert files_of(folder) == before
    assert resume(folder) is False
    assert files_of(folder) == before


def test_a_refusal_before_the_first_step_leaves_nothing(tmp_path, monkeypatch):
    def refuse(*_):
        raise ValueError("no")

    monkeypatch.setattr(mle, "pretrain", refuse)
    with pytest.raises(ValueError, match="no"):
        train("mle", CONFIG, METHOD, tmp_path / "run")
    assert not (tmp_path / "run").exists()


# --- one process at a time ----------------------------------------------------------------------------------------

HOLD = """
import fcntl, sys
held = open(sys.argv[1])
fcntl.flock(held, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""


def test_a_second_process_is_refused_and_changes_nothing(tmp_path, capsys):
    folder = tmp_path / "run"
    cut(folder, CONFIG)
    argv = [sys.executable, "-c", HOLD, str(folder / "config.yaml")]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        before = files_of(folder)
        with pytest.raises(ValueError, match="another process is training this run; wait for it, or stop it"):
            resume(folder)
        capsys.readouterr()
        assert main(["resume", str(folder)]) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1
        assert files_of(folder) == before
        other.communicate("")
    assert resume(folder)  # the lock ended with its holder


def test_the_lock_is_held_while_it_trains_and_scores_and_no_longer(tmp_path, monkeypatch):
    tried, folder, plain = [], tmp_path / "run", Run.log

    def log(self, phase, kind, **values):
        with pytest.raises(ValueError, match="another process is training this run"):
            resume(folder)
        tried.append(kind)
        plain(self, phase, kind, **values)

    monkeypatch.setattr(Run, "log", log)
    train("mle", CONFIG, METHOD, folder)
    assert tried[0] == "start"
    assert tried[-1] == "end"
    assert resume(folder) is False


def test_a_new_run_that_another_process_has_taken_up_meanwhile_is_not_removed(tmp_path, monkeypatch):
    """`train` writes config.yaml, and someone resumes that folder first: train took it for its own and removed it."""
    folder, plain, held = tmp_path / "run", Run.create, []

    def create(where, config, **options):
        made = plain(where, config, **options)
        held.append((where / "config.yaml").open())
        fcntl.flock(held[0], fcntl.LOCK_EX)
        return made

    monkeypatch.setattr(Run, "create", create)
    with pytest.raises(ValueError, match="another process is training this run"):
        train("mle", CONFIG, METHOD, folder)
    held[0].close()
    assert (folder / "config.yaml").is_file()
    assert resume(folder)


# --- TensorBoard --------------------------------------------------------------------------------------------------


def curves(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Every curve that TensorBoard would draw."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    found = accumulator.EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0}).Reload()
    return {tag: [(e.step, e.value) for e in found.Scalars(tag)] for tag in found.Tags()["scalars"]}


def logged(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """The same curves by log.jsonl."""
    found: dict[str, list[tuple[int, float]]] = {}
    for record in log_of(folder):
        figures = {k: v for k, v in record.items() if isinstance(v, float)}
        figures |= {k: score["value"] for k, score in record.get("scores", {}).items()}
        for name, value in figures.items():
            group = f"{record['phase']} health" if record["kind"] == "health" else record["phase"]
            found.setdefault(f"{group}/{name}", []).append((record["step"], pytest.approx(value, rel=1e-6)))
    return found


def live(config: RunConfig) -> RunConfig:
    pytest.importorskip("tensorboard")
    return dataclasses.replace(config, tensorboard=True)


def test_tensorboard_has_the_figures_of_the_log(tmp_path, monkeypatch):
    closed, plain = [], Run.close
    monkeypatch.setattr(Run, "close", lambda self: closed.append(self.tensorboard) or plain(self))
    folder = train("mle", live(CONFIG), METHOD, tmp_path / "run")
    found = curves(folder)
    assert found == logged(folder)
    learnt = {f"mle/{n}" for n in ("nll_train", "nll_valid", "nll_oracle", "nll_test", "entropy")}
    seen = {f"mle health/{n}" for n in ("nll_valid", "entropy", "repeated", "length")}
    assert set(found) == learnt | seen | {"mle health/repeated_train", "mle health/length_train"}
    assert [len(found[f"mle/{n}"]) for n in ("nll_train", "entropy")] == [3, 4]
    (writer,) = closed
    assert writer.file_writer is None  # closed
    without = train("mle", CONFIG, METHOD, tmp_path / "without")
    assert not (without / "tensorboard").exists()


@pytest.mark.parametrize(("name", "call"), [("log", 2), ("log", 5), ("checkpoint", 2), ("checkpoint", 4)])
def test_a_resumed_run_shows_each_figure_once(name, call, tmp_path):
    """What was logged after the last checkpoint is logged again; TensorBoard's files kept both."""
    folder = tmp_path / "run"
    cut(folder, live(CONFIG), name, call)
    assert resume(folder)
    assert curves(folder) == logged(folder)
    assert len(logged(folder)["mle/nll_train"]) == 3


# --- how it goes on -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", [2, 5])
def test_an_interrupted_run_says_how_to_go_on_and_does(at, tmp_path, monkeypatch):
    folder, plain, calls = tmp_path / "run", Run.log, []

    def log(self, phase, kind, **values):
        calls.append(kind)
        if len(calls) == at:
            raise KeyboardInterrupt
        plain(self, phase, kind, **values)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "log", log)
        with pytest.raises(Interrupted, match=f"to go on: seqforge resume {folder}"):
            train("mle", CONFIG, METHOD, folder)
    assert resume(folder) is True
    assert_same(folder, train("mle", CONFIG, METHOD, tmp_path / "whole"))
    assert resume(folder) is False


TEXTS = [
    {},
    {"tokenizer": "char", "max_length": 9, "overlong": "skip"},
    {"tokenizer": "bpe", "vocab_size": 270},
    {"tokenizer": "word", "vocab_size": 6, "lowercase": True, "limit": 60, "seed": 4},
]


@pytest.mark.parametrize("data", TEXTS)
def test_a_run_of_text_resumes_bit_for_bit_from_another_folder(data, tmp_path, monkeypatch):
    """Its files are named from where it was started, and what was found in the text is in config.yaml."""
    there, elsewhere = tmp_path / "there", tmp_path / "elsewhere"
    for place in (there, elsewhere):
        place.mkdir()
    monkeypatch.chdir(there)
    text_file(there / "mine.txt", 120)
    text_file(there / "test.txt", 30, seed=2)
    config = on_text("mine.txt", test="test.txt", **data)
    whole = train("mle", config, METHOD, "whole").resolve()
    cut(Path("run"), config)
    plain = yaml.safe_load((there / "run" / "config.yaml").read_text())
    assert plain["data"]["source"] == str(there / "mine.txt")
    assert plain["data"]["test"] == str(there / "test.txt")
    assert plain["data"]["max_length"] == corpora.load(config.data).max_length
    assert plain["data"]["tokenizer"] in ("word", "char", "bpe")
    monkeypatch.chdir(elsewhere)
    assert resume(there / "run")
    assert_same(there / "run", whole)
    ends = [checkpoint.newest(f / "checkpoints") / "generator" / "tokenizer.json" for f in (whole, there / "run")]
    assert ends[0].read_bytes() == ends[1].read_bytes()


@pytest.mark.parametrize("named", ["word", "auto", "ids"])
def test_a_file_called_like_a_tokenizer_is_not_taken_for_one(named, tmp_path, monkeypatch):
    """`--data.tokenizer word` beside a file or folder `word`: config.yaml named that path, and resume refused it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / named).mkdir()
    file = text_file(tmp_path / "mine.txt")
    if named == "ids":
        choose = random.Random(1)
        file.write_text("".join(f"{choose.randint(0, 8)} {choose.randint(0, 8)}\n" for _ in range(80)))
    cut(tmp_path / "run", on_text("mine.txt", tokenizer=named))
    kind = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["data"]["tokenizer"]
    assert kind == ("ids" if named == "ids" else "word")
    assert resume(tmp_path / "run")


CHANGES = {
    "mine.txt": "other data",
    "valid.txt": "other valid data",
    "test.txt": "other test data",
    "renamed": "other vocabulary data",
}


@pytest.mark.parametrize("changed", CHANGES)
def test_a_run_goes_on_only_with_the_data_it_began_with(changed, tmp_path):
    """Only the training ids were held to it: other validation data stop it elsewhere, other words are another text."""
    files = [text_file(tmp_path / n, k, k) for n, k in (("mine.txt", 80), ("valid.txt", 30), ("test.txt", 31))]
    config = on_text(files[0], valid=str(files[1]), test=str(files[2]))
    folder = tmp_path / "run"
    cut(folder, config)
    before = files_of(folder)
    kept = {f: f.read_text() for f in files}
    for file in files if changed == "renamed" else [tmp_path / changed]:
        text = kept[file]
        file.write_text(text.replace("aa", "zz") if changed == "renamed" else text.replace("aa", "bb", 1))
    with pytest.raises(ValueError, match=rf"it began with {CHANGES[changed]} \(digest \w+; \S+ has \w+ now\)"):
        resume(folder)
    assert files_of(folder) == before
    for file, text in kept.items():
        file.write_text(text)
    os.utime(files[0])
    assert resume(folder)


def test_a_run_without_the_newer_digests_in_its_log_goes_on(tmp_path):
    """Logs of runs begun before they were written have the training data's alone."""
    folder = tmp_path / "run"
    cut(folder, CONFIG, "checkpoint", 1)
    assert not checkpoint.every(folder / "checkpoints")
    log = folder / "log.jsonl"
    first, *rest = log.read_text().splitlines(keepends=True)
    start = {k: v for k, v in json.loads(first).items() if k not in ("valid", "test", "vocabulary")}
    log.write_text("".join([json.dumps(start) + "\n", *rest]))
    assert resume(folder)


@pytest.mark.parametrize(
    ("method", "config", "method_config"),
    [
        ("seqgan", RunConfig(), training.seqgan.SeqGANConfig(reward="typo")),
        ("pg_bleu", RunConfig(), training.pg_bleu.PGBLEUConfig(baseline="typo")),
        ("mle", RunConfig(data=DataConfig(overlong="typo")), training.mle.MLETrainConfig()),
    ],
)
def test_an_option_with_a_word_it_does_not_know_is_refused(method, config, method_config, tmp_path):
    """From Python nothing had checked it: a wrong baseline was leave-one-out without a word."""
    with pytest.raises(ValueError, match="is 'typo', but must be one of: "):
        training.train(method, config, method_config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
