"""Bad input: exit code 2, one line that names the value and the remedy, and nothing lost or half-written."""

import hashlib
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from seqforge import checkpoint
from seqforge.cli import main

TINY = ["train", "seqgan", "--recipe", "seqgan-oracle-tiny"]
PROGRESS = ("warning: ", "run ", "mle ", "discriminator ", "adversarial ", "scoring the generators")


def listing(folder: Path) -> dict[str, str]:
    """Every path below, with its content's digest."""
    return {
        p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() if p.is_file() else "folder"
        for p in sorted(folder.rglob("*"))
    }


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A finished run and one cut off in its adversarial phase."""
    from seqforge.run import Run

    home = tmp_path_factory.mktemp("base")
    argv = [*TINY, "--mle.epochs", "2", "--counterpart.epochs", "0", "--rounds", "2"]
    assert main([*argv, "--out", str(home / "done")]) == 0
    plain = Run.log

    def stop(self, phase, kind, **values):
        if phase == "adversarial" and self.step == 5:
            raise KeyboardInterrupt
        plain(self, phase, kind, **values)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "log", stop)
        assert main([*argv, "--out", str(home / "cut")]) == 130
    assert [p.name for p in checkpoint.every(home / "cut" / "checkpoints")] == ["step-3", "step-4", "step-5"]
    return home


@pytest.fixture
def home(base, tmp_path, monkeypatch):
    """A copy of those two runs, as the current folder."""
    shutil.copytree(base, tmp_path / "home")
    monkeypatch.chdir(tmp_path / "home")
    return tmp_path / "home"


def refused(argv: list[str], capsys, *words: str, changed: bool = False) -> str:
    """The one line that a refused command says. Everything in the current folder is as it was."""
    before = listing(Path())
    capsys.readouterr()
    code = main(argv)
    said = [line for line in capsys.readouterr().err.splitlines() if not line.startswith(PROGRESS)]
    assert code == 2
    assert len(said) == 1, said
    assert said[0].startswith("seqforge: ")
    for word in words:
        assert word in said[0]
    if not changed:
        assert listing(Path()) == before
    return said[0]


# --- sizes ---------------------------------------------------------------------------------------------

AT_LEAST_1 = [
    *["data.max_length", "data.vocab_size", "data.train_size", "data.valid_size", "data.test_size"],
    *["data.oracle_embedding", "data.oracle_hidden", "generator.embedding", "generator.hidden", "generator.layers"],
    *["discriminator.embedding", "mle.batch", "batch", "d_epochs", "checkpoint.newest"],
]
AT_LEAST_0 = [
    *["mle.epochs", "mle.patience", "monitor.every", "monitor.lines", "rounds", "g_steps", "rollouts"],
    *["teacher_forcing", "d_pretrain", "d_steps", "d_samples", "checkpoint.seconds", "threads", "seed", "d_l2"],
    *["mle.weight_decay"],
]
ABOVE_0 = ["lr", "d_lr", "clip", "mle.lr", "mle.clip", "generator.init_std", "mle.lr_decay"]
SIZES = [
    *[(name, value) for name in AT_LEAST_1 for value in ("0", "-3")],
    *[(name, "-1") for name in AT_LEAST_0],
    *[(name, value) for name in ABOVE_0 for value in ("0", "-0.5")],
    *[("monitor.samples", "1"), ("monitor.samples", "-1"), ("evaluate.samples", "0"), ("evaluate.samples", "1")],
    *[("d_batch", "1"), ("d_batch", "0"), ("rollout_lag", "1"), ("rollout_lag", "-0.1"), ("mle.lr_decay", "1.5")],
    *[("generator.dropout", "1"), ("generator.dropout", "-0.1"), ("discriminator.dropout", "1")],
    *[("discriminator.widths", "[0,1,2]"), ("discriminator.widths", "[]"), ("discriminator.filters", "[8,8,0]")],
    *[("discriminator.filters", "[8]"), ("evaluate.temperatures", "[0]"), ("evaluate.temperatures", "[]")],
    *[("evaluate.temperatures", "[1.0,-1.0]")],
]


@pytest.mark.parametrize(("name", "value"), SIZES)
def test_sizes_out_of_range(name, value, home, capsys):
    said = refused([*TINY, "--out", "new", f"--{name}={value}"], capsys, name)
    number = value.strip("[]").split(",")[0]
    assert number in said
    assert any(word in said for word in ("must", "between", "use "))


@pytest.mark.parametrize("name", ["lr", "mle.lr", "clip", "generator.dropout", "rollout_lag"])
@pytest.mark.parametrize("value", ["nan", "inf", "lots", "", "[1]"])
def test_numbers_that_are_none(name, value, home, capsys):
    refused([*TINY, "--out", "new", f"--{name}={value}"], capsys, name, value)


@pytest.mark.parametrize("name", ["data.seed", "data.oracle_seed", "evaluate.seed"])
def test_seeds_too_large(name, home, capsys):
    """evaluate.seed came to light only when the training was over."""
    refused([*TINY, "--out", "new", "--mle.epochs", "1", f"--{name}={10**30}"], capsys, name, str(10**30))


def test_windows_wider_than_all_sequences(home, capsys):
    argv = [*TINY, "--out", "new", "--discriminator.widths", "[9]", "--discriminator.filters", "[4]"]
    refused(argv, capsys, "discriminator.widths is [9]", "no sequence is longer than 6")


def test_windows_wider_than_the_sequences_are_left_out(home, capsys):
    argv = [*TINY, "--out", "new", "--discriminator.widths", "[1,2,9]", "--mle.epochs", "1", "--rounds", "1"]
    assert main(argv) == 0
    assert "no windows of [9] tokens, as sequences have 6" in capsys.readouterr().err


def test_a_device_that_is_not_there(home, capsys):
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    refused([*TINY, "--out", "new", "--device", "cuda"], capsys, "--device cuda", "--device cpu")


# --- oracle files --------------------------------------------------------------------------------------


class Evil:
    def __reduce__(self):
        return os.mkdir, ("executed",)


def arrays() -> list[np.ndarray]:
    v, e, h = 7, 3, 4
    shapes = [(v, e), *[(e, h), (h, h), (h,)] * 4, (h, v), (v,)]
    return [np.full(s, 0.1, dtype=np.float32) for s in shapes]


ORACLES = {
    "empty": b"",
    "text": b"17 4 0\n",
    "binary": bytes(range(256)),
    "a list of numbers": pickle.dumps([1, 2, 3]),
    "a mapping": pickle.dumps({"a": arrays()[0]}),
    "fourteen arrays": pickle.dumps(arrays()[:14]),
    "another shape": pickle.dumps([*arrays()[:13], np.zeros((5, 5), np.float32), arrays()[14]]),
    "not finite": pickle.dumps([*arrays()[:14], arrays()[14] * np.nan]),
    "no numbers": pickle.dumps([a.astype(str) for a in arrays()]),
    "objects": pickle.dumps([np.array([object], dtype=object)] * 15),
    "cut": pickle.dumps(arrays())[:200],
    "executes": pickle.dumps(Evil()),
    "executes within": pickle.dumps([*arrays(), Evil()]),
    "a zip": b"PK\x03\x04" + bytes(60),
}


@pytest.mark.parametrize("kind", ORACLES)
def test_foreign_oracle_files(kind, home, capsys):
    Path("oracle.pkl").write_bytes(ORACLES[kind])
    said = refused([*TINY, "--out", "new", "--data.oracle_file", "oracle.pkl"], capsys, "oracle.pkl")
    assert any(word in said for word in ("expected", "has 15", "fresh copy"))
    if "executes" in kind:
        assert "mkdir" in said
        assert "only numpy arrays" in said


@pytest.mark.parametrize("path", ["nowhere.pkl", "done"])
def test_missing_oracle_file(path, home, capsys):
    refused([*TINY, "--out", "new", "--data.oracle_file", path], capsys, path, "--data.oracle_file")


def test_oracle_of_another_vocabulary(home, capsys):
    Path("oracle.pkl").write_bytes(pickle.dumps(arrays()))
    argv = [*TINY, "--out", "new", "--data.oracle_file", "oracle.pkl"]
    refused(argv, capsys, "data.vocab_size is 20", "has 7", "leave out --data.vocab_size")


# --- files of ids --------------------------------------------------------------------------------------

GOOD = b"1 2 3 4 5 6\n" * 40
ID_FILES = {
    "letters": (GOOD + b"1 2 x 4 5 6\n", ["ids.txt:41", "'x'"]),
    "negative": (GOOD + b"1 2 -3 4 5 6\n", ["ids.txt:41", "'-3'"]),
    "fractions": (GOOD + b"1 2 3.5 4 5 6\n", ["ids.txt:41", "'3.5'"]),
    "beyond the vocabulary": (GOOD + b"1 2 20 4 5 6\n", ["ids.txt:41", "id 20", "vocabulary of 20", "vocab_size"]),
    "too long": (
        GOOD + b"1 2 3 4 5 6 7\n",
        ["ids.txt:", "7 tokens with its end", "max_length is 6", "--data.max_length"],
    ),
    "empty": (b"", ["ids.txt", "empty", "at least one sequence"]),
    "binary": (bytes(range(128, 256)) * 9, ["ids.txt:1", "0x80", "not UTF-8", "iconv"]),
    "nul bytes": (b"\0" * 500, ["ids.txt", "line 1", "0x00", "binary content"]),
    "too few": (b"1 2 3 4 5 6\n" * 9, ["ids.txt", "9 sequences", "at least 10"]),
    "Arabic digits": (GOOD + "١ ٢ ٣ ٤ ٥ ٦\n".encode(), ["ids.txt:41", "'١'"]),
}


@pytest.mark.parametrize("kind", ID_FILES)
def test_files_of_ids(kind, home, capsys):
    raw, words = ID_FILES[kind]
    Path("ids.txt").write_bytes(raw)
    sizes = ["--data.vocab_size", "20", "--data.max_length", "6"]
    refused([*TINY, "--out", "new", "--data", "ids.txt", *sizes], capsys, *words)


@pytest.mark.parametrize(
    ("path", "word"), [("nowhere.txt", "no such file; give a file or folder"), ("done", "no train file in it")]
)
def test_data_that_is_no_file(path, word, home, capsys):
    refused([*TINY, "--out", "new", "--data", path], capsys, path, word)


@pytest.mark.parametrize("name", ["valid_size", "test_size"])
def test_held_out_sizes_of_a_file(name, home, capsys):
    """It said that 40 sequences were too few."""
    Path("ids.txt").write_bytes(GOOD)
    refused([*TINY, "--out", "new", "--data", "ids.txt", f"--data.{name}", "0"], capsys, f"data.{name} is 0")


def test_a_good_file_of_ids_trains(home):
    """The counterpart: what the table above refuses is not refused for another reason."""
    Path("ids.txt").write_bytes(GOOD)
    argv = [*TINY, "--out", "new", "--data", "ids.txt", "--mle.epochs", "1", "--rounds", "1"]
    assert main(argv) == 0
    assert (Path("new") / "report.html").is_file()


# --- folders -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("folder", ["done", "cut", "done/config.yaml", "."])
def test_a_run_folder_that_exists(folder, home, capsys):
    refused([*TINY, "--out", folder], capsys, folder, "exists already", "--out", "seqforge resume")


@pytest.mark.parametrize("command", ["resume", "generate", "evaluate", "report", "export", "compare"])
@pytest.mark.parametrize("folder", ["nowhere", "done/checkpoints", "plain", "done/config.yaml"])
def test_folders_that_are_no_run(command, folder, home, capsys):
    Path("plain").mkdir()
    extra = ["--out", "new"] if command == "export" else []
    refused([command, folder, *extra], capsys, folder, "config.yaml", "not a run folder")


@pytest.mark.parametrize("command", ["generate", "evaluate", "export"])
def test_a_run_without_a_checkpoint(command, home, capsys):
    Path("young").mkdir()
    shutil.copy("done/config.yaml", "young")
    extra = ["--out", "new"] if command == "export" else []
    refused([command, "young", *extra], capsys, "young", "no whole checkpoint", "train longer")


CONFIGS = {
    "empty": "",
    "a list": "- 1\n",
    "not YAML": "a: [\n",
    "cut": "seqforge: 0.1.0\nmethod: seqgan\n",
    "unknown method": "method: newgan\n",
    "a word for a number": "rounds: many\n",
    "a word for a group": "data: oracle\n",
    "a number for a group": "generator: 5\n",
}


@pytest.mark.parametrize("command", ["resume", "generate", "evaluate"])
@pytest.mark.parametrize("kind", CONFIGS)
def test_a_config_that_was_spoilt(kind, command, home, capsys):
    """Hands edit files. Where a command can do without the spoilt part it may go on; else one line."""
    path = Path("cut/config.yaml")
    spoilt = CONFIGS[kind]
    if kind in ("a word for a number", "a word for a group", "a number for a group"):
        spoilt = yaml.safe_dump({**yaml.safe_load(path.read_text()), **yaml.safe_load(spoilt)})
    path.write_text(spoilt)
    before = listing(Path())
    capsys.readouterr()
    code = main([command, "cut"])
    said = [line for line in capsys.readouterr().err.splitlines() if not line.startswith(PROGRESS)]
    if code == 0:
        assert command != "resume"
        return
    assert code == 2
    assert len(said) == 1
    assert "config.yaml" in said[0] or "newgan" in said[0]
    assert listing(Path()) == before


@pytest.mark.parametrize(
    ("key", "value"), [("generator", {"hidden": 9}), ("data", {"vocab_size": 21}), ("discriminator", {"embedding": 9})]
)
def test_a_checkpoint_of_another_shape(key, value, home, capsys):
    path = Path("cut/config.yaml")
    config = yaml.safe_load(path.read_text())
    config[key] |= value
    path.write_text(yaml.safe_dump(config))
    log = Path("cut/log.jsonl").read_bytes()
    words = (
        ["other data", "bring the file back"] if key == "data" else ["another shape", "there, but", "use the sizes in"]
    )
    refused(["resume", "cut"], capsys, *words, changed=True)
    for folder in checkpoint.every(Path("cut/checkpoints")):
        checkpoint.verify(folder)
    assert [p.name for p in checkpoint.every(Path("cut/checkpoints"))] == ["step-3", "step-4", "step-5"]
    assert log.startswith(Path("cut/log.jsonl").read_bytes())


def test_a_checkpoint_whose_own_config_was_edited_is_damaged(home, capsys):
    path = Path("cut/checkpoints/step-5/generator/config.json")
    path.write_text(path.read_text().replace('"hidden": 8', '"hidden": 9'))
    assert main(["generate", "cut", "-n", "1"]) == 0
    assert "step-5/generator/config.json: damaged" in capsys.readouterr().err
    refused(["generate", "cut", "--checkpoint", "5"], capsys, "step-5/generator/config.json", "damaged")


def test_scores_that_were_spoilt(home, capsys):
    Path("done/scores.json").write_text("{")
    refused(["compare", "done"], capsys, "done/scores.json", "seqforge evaluate")


# --- --from --------------------------------------------------------------------------------------------


def test_from_a_run_whose_pre_training_goes_on(home, capsys):
    shutil.rmtree("cut/checkpoints/step-4")
    argv = [*TINY, "--out", "new", "--from", "cut"]
    refused(argv, capsys, "cut", "its pre-training has not ended yet", "let it get further")


def test_from_a_folder_that_is_no_run(home, capsys):
    refused([*TINY, "--out", "new", "--from", "nowhere"], capsys, "nowhere", "not a run folder")


def test_from_a_run_with_other_data(home, capsys):
    argv = [*TINY, "--out", "new", "--from", "done", "--data.seed", "3"]
    refused(argv, capsys, "--from done", "other data", "same --data options")


def test_from_a_run_of_another_shape(home, capsys):
    """Its step is not 0, which kept the half-made folder from being removed."""
    argv = [*TINY, "--out", "new", "--from", "done", "--generator.hidden", "9"]
    refused(argv, capsys, "done", "another shape", "there, but")


# --- generate, evaluate, compare -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["-n", "0"], ["-n is 0"]),
        (["-n", "-4"], ["-n is -4"]),
        (["-n", "x"], ["x"]),
        (["--temperature", "0"], ["temperature is 0", "above 0"]),
        (["--temperature", "nan"], ["nan"]),
        (["--top-k", "0"], ["top_k is 0"]),
        (["--top-p", "0"], ["top_p is 0"]),
        (["--top-p", "1.5"], ["top_p is 1.5"]),
        (["--checkpoint", "77"], ["no checkpoint 77", "step-4"]),
        (["--checkpoint", "../../cut/checkpoints/step-4"], ["no checkpoint"]),
        (["--seed", str(10**30)], ["seed", str(10**30)]),
        (["--out", "nowhere/text.txt"], ["nowhere", "No such file"]),
        (["--out", "cut"], ["cut"]),
        (["--out", "."], ["."]),
    ],
)
def test_generate(argv, words, home, capsys):
    refused(["generate", "done", *argv], capsys, *words)


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--samples", "0"], ["samples is 0"]),
        (["--temperatures", "[0]"], ["temperatures", "above 0"]),
        (["--temperatures", "[]"], ["temperatures"]),
        (["--temperatures", "cold"], ["temperatures", "cold"]),
        (["--seed", str(10**30)], ["seed", str(10**30)]),
    ],
)
def test_evaluate(argv, words, home, capsys):
    refused(["evaluate", "done", *argv], capsys, *words)


def test_compare_what_cannot_be_compared(home, capsys):
    refused(["compare", "done", "done"], capsys, "done", "seed 0")
    refused(["compare", "cut"], capsys, "cut", "no scores.json", "seqforge evaluate cut")
    assert main(["evaluate", "cut", "--samples", "99"]) == 0
    refused(["compare", "done", "cut"], capsys, "cut cannot be compared", "seqforge resume cut")
    shutil.copytree("done", "other")
    assert main(["evaluate", "other", "--samples", "99"]) == 0
    config = yaml.safe_load(Path("other/config.yaml").read_text())
    Path("other/config.yaml").write_text(yaml.safe_dump({**config, "seed": 1}))
    refused(["compare", "done", "other"], capsys, "cannot be compared", "n:256", "n:99")


@pytest.mark.parametrize("out", ["done", "done/config.yaml"])
def test_export_to_what_exists(out, home, capsys):
    refused(["export", "done", "--out", out], capsys, out, "exists already", "--out")


def test_a_report_where_a_folder_is(home, capsys):
    refused(["report", "done", "--out", "cut"], capsys, "cut", "folder")


# --- recipes -------------------------------------------------------------------------------------------

RECIPES = {
    "unknown key": ("method: seqgan\nmle: {epoch: 3}\n", ["mine.yaml", "mle.epoch", "did you mean mle.epochs"]),
    "unknown group": ("method: seqgan\ngenerater: {hidden: 3}\n", ["generater.hidden", "generator.hidden"]),
    "no key of a recipe": ("method: seqgan\nout: there\n", ["mine.yaml", "unknown key out"]),
    "a list": ("- 1\n", ["mine.yaml", "expected a mapping"]),
    "empty": ("", ["mine.yaml", "expected a mapping"]),
    "not YAML": ("a: [\n", ["mine.yaml", "not readable as YAML"]),
    "no method": ("rounds: 3\n", ["mine.yaml", "seqgan"]),
    "another method": ("method: mle\n", ["mine.yaml", "`mle`", "`seqgan`"]),
    "out of range": ("method: seqgan\nrounds: -3\n", ["rounds is -3", "at least 0"]),
    "a word for a number": ("method: seqgan\nrounds: lots\n", ["rounds", "lots"]),
    "a number for a group": ("method: seqgan\nmle: 5\n", ["mine.yaml", "mle"]),
    "nothing for a group": ("method: seqgan\nmle:\n", ["mine.yaml", "mle"]),
    "a fraction for a count": ("method: seqgan\nmle: {epochs: 2.5}\n", ["epochs", "2.5"]),
    "a group for a number": ("method: seqgan\nrounds: {a: 1}\n", ["mine.yaml", "rounds"]),
}


@pytest.mark.parametrize("kind", RECIPES)
def test_recipes_of_ones_own(kind, home, capsys):
    text, words = RECIPES[kind]
    Path("mine.yaml").write_text(text)
    refused(["train", "seqgan", "--recipe", "mine.yaml", "--out", "new"], capsys, *words)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("seqgan-oracle-tinny", ["seqgan-oracle-tinny", "did you mean seqgan-oracle-tiny"]),
        ("zzz", ["zzz", "seqforge recipes"]),
        ("done", ["done", "seqforge recipes"]),
        ("done/checkpoints/step-4/training.pt", ["training.pt", "not readable"]),
    ],
)
def test_recipes_that_are_none(name, words, home, capsys):
    refused(["train", "seqgan", "--recipe", name, "--out", "new"], capsys, *words)


def test_a_stray_huge_id_does_not_size_the_vocabulary(tmp_path, capsys):
    file = tmp_path / "ids.txt"
    file.write_text("1 2 3 4\n" * 30 + "1 2 3 999999999\n")
    assert main(["train", "mle", "--data", str(file), "--data.max_length", "4", "--out", str(tmp_path / "run")]) == 2
    assert "--data.vocab_size 1000000000" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
