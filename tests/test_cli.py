"""The command line as a newcomer meets it: help, mistakes, and every command on a finished run."""

import contextlib
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from seqforge import checkpoint, cli, generate, options, training
from seqforge.cli import COMMANDS, main
from seqforge.sampling import chunk_rows
from seqforge.training import METHODS

TINY = ["train", "seqgan", "--recipe", "seqgan-oracle-tiny", "--mle.epochs", "2", "--rounds", "2"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli") / "run"
    assert main([*TINY, "--out", str(folder)]) == 0
    return folder


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Runs without --out go to the current folder."""
    monkeypatch.chdir(tmp_path)


def tree(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def printed(argv: list[str], capsys) -> str:
    capsys.readouterr()
    assert main(argv) == 0
    return capsys.readouterr().out


def refusal(argv: list[str], capsys) -> str:
    capsys.readouterr()
    assert main(argv) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("seqforge: ")
    return line


def help_of(argv: list[str], capsys) -> str:
    """--help ends the process, as argparse does it, or returns 0."""
    capsys.readouterr()
    with contextlib.suppress(SystemExit):
        assert main([*argv, "--help"]) == 0
    return capsys.readouterr().out


# --- help ----------------------------------------------------------------------------------------------

ENTRY = re.compile(r"^  (-{1,2}[a-z]\S*.*?|[a-z]\w*)(?:  +(\S.*))?$")


def entries(text: str) -> dict[str, str]:
    """Option or argument -> its help, lines joined."""
    found: dict[str, str] = {}
    name = None
    for line in text[text.index("\n\n") :].splitlines():
        if m := ENTRY.match(line):
            name = re.split(r"[ ,]", m.group(1))[0]
            found[name] = m.group(2) or ""
        elif name and line.startswith("      "):
            found[name] = f"{found[name]} {line.strip()}".strip()
        else:
            name = None
    return found


@pytest.mark.parametrize("method", METHODS)
def test_help_explains_every_option_of_training(method, capsys):
    text = help_of(["train", method], capsys)
    found = entries(text)
    parser = options._train_parser(method, METHODS[method][0], "")
    known = {o for a in parser._actions for o in a.option_strings if o.startswith("--")}
    groups = (
        "data.music",
        "generator",
        "discriminator",
        "mediator",
        "teacher",
        "mle",
        "counterpart",
        "monitor",
        "checkpoint",
        "evaluate",
        "health",
    )
    grouped = [name for name in groups if any(o.startswith(f"--{name}.") for o in known)]
    hidden = {f"--{name}" for name in grouped}  # no options themselves
    spelt = {o for o in known - hidden if not o.endswith("+") and not o.startswith("--no")}
    for option in spelt - {"--help"}:
        explained = re.sub(r"\((type|default|required)[^()]*(\([^()]*\))?[^()]*\)", "", found[option]).strip()
        assert len(explained) > 5, option
        if option not in ("--recipe", "--out", "--from", "--data", "--seeds", "--with-controls"):
            assert re.search(r"type: .*default: ", found[option]), option
    assert not hidden & set(found)
    assert "default: 9984" in found["--data.train_size"]
    assert "type: int" in found["--data.train_size"]
    assert "(s)" in found["--checkpoint.seconds"]


@pytest.mark.parametrize("command", [c for c in COMMANDS if c != "train"])
def test_help_explains_every_option_of_a_command(command, capsys):
    text = help_of([command], capsys)
    assert not re.search(r"<(class|function)", text)
    found = entries(text)
    assert found
    for option, explained in found.items():
        assert len(re.sub(r"\((type|default|required).*", "", explained).strip()) > 5, option


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_lists_every_command(flag, capsys):
    text = printed([flag], capsys)
    for name, command in COMMANDS.items():
        assert re.search(rf"^  {name} +{re.escape(command.__doc__ or 'x')}", text, re.MULTILINE)


def test_version(capsys):
    assert printed(["--version"], capsys) == f"seqforge {cli.__version__}\n"


def test_the_command_as_a_process(tmp_path):
    """Exit codes and streams are what a shell sees."""
    root = Path(__file__).parents[1]
    argv = [sys.executable, "-m", "seqforge.cli", "recipes", "nope"]
    done = subprocess.run(argv, capture_output=True, text=True, cwd=root)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("seqforge: no recipe 'nope'")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("method", METHODS)
def test_a_method_needs_no_option(method):
    """`seqforge train mle` was refused with a word of Python's: what stands beside the last of no arguments."""
    assert options.parse_train(method, [])["seed"] == 0


# --- mistakes ------------------------------------------------------------------------------------------


def test_nothing_and_train_without_a_method(capsys):
    assert main([]) == 2
    assert "commands:" in capsys.readouterr().out
    assert main(["train"]) == 2
    said = capsys.readouterr()
    assert all(name in said.out + said.err for name in METHODS)
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["trian"], ["'trian'", "did you mean train?"]),
        (["sing"], ["'sing'", "commands: train, resume"]),
        (["train", "seqgn"], ["'seqgn'", "did you mean seqgan?"]),
        (["train", "--rounds", "3"], ["method", "seqgan"]),
        (["train", "seqgan", "--rond", "3"], ["--rond", "did you mean --rounds?"]),
        (["train", "seqgan", "--rond=3"], ["--rond", "did you mean --rounds?"]),
        (["train", "seqgan", "--generator.hiden", "3"], ["did you mean --generator.hidden?"]),
        (["train", "seqgan", "--data.maxlength", "3"], ["did you mean --data.max_length?"]),
        (["train", "mle", "--rounds", "3"], ["--rounds"]),
        (["train", "seqgan", "stray"], ["stray"]),
        (["train", "seqgan", "--recipe"], ["--recipe"]),
        (["train", "seqgan", "--out"], ["--out"]),
        (["train", "seqgan", "--data"], ["--data"]),
        (["train", "seqgan", "--rounds", "three"], ["rounds", "three"]),
        (["train", "seqgan", "--reward", "discriminater"], ["reward", "discriminater", "discriminator"]),
        (["train", "seqgan", "--recipe", "seqgan-oracle-tinny"], ["did you mean seqgan-oracle-tiny?"]),
        (["train", "mle", "--recipe", "seqgan-oracle-tiny"], ["is for `seqgan`"]),
        (["generate"], ["run"]),
        (["generate", "x", "--temprature", "1"], ["did you mean --temperature?"]),
        (["compare"], ["runs"]),
        (["recipes", "demon"], ["demon", "did you mean demo?"]),
    ],
)
def test_a_mistake_is_one_line_that_names_the_nearest_known(argv, words, capsys):
    said = refusal(argv, capsys)
    for word in words:
        assert word in said
    assert not list(Path().iterdir())


@pytest.mark.parametrize("spelt", ["--recip", "--rec"])
def test_an_abbreviated_recipe_is_not_dropped(spelt):
    """It was taken for --recipe when config.yaml was written, and not when the recipe was read: the run trained with
    the defaults under the name of the recipe."""
    with pytest.raises(ValueError, match=rf"{spelt}.*did you mean --recipe"):
        options.parse_train("seqgan", [spelt, "seqgan-oracle-tiny"])


def test_a_page_only_where_one_is_wanted(capsys):
    assert main([*TINY, "--out", "plain", "--report", "false"]) == 0
    assert capsys.readouterr().out.rstrip().endswith("run plain")
    assert Path("plain/scores.json").is_file()
    assert not any(Path("plain", name).exists() for name in ("report.html", "curves.png"))
    assert printed(["report", "plain"], capsys).strip() == "plain/report.html"


def test_no_tensorboard_no_folder(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)  # also where it is installed
    assert main([*TINY, "--out", "new", "--tensorboard", "true"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "pip install 'seqforge[tensorboard]'" in line
    assert not Path("new").exists()


def test_an_interrupt_says_how_to_go_on(monkeypatch, capsys):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(training.corpora, "load", interrupt)
    assert main([*TINY, "--out", "new"]) == 130
    assert "seqforge resume" in capsys.readouterr().err
    monkeypatch.setitem(cli.COMMANDS, "chat", interrupt)
    assert main(["chat", "new"]) == 130
    assert capsys.readouterr().err == "\nseqforge: interrupted\n"  # nothing to resume


# --- generate ------------------------------------------------------------------------------------------


def test_generate_same_seed_same_text(run, capsys):
    first = printed(["generate", str(run), "-n", "20"], capsys)
    assert printed(["generate", str(run), "-n", "20"], capsys) == first
    assert printed(["generate", str(run), "-n", "20", "--seed", "1"], capsys) != first
    lines = first.splitlines()
    assert len(lines) == 20
    assert all(len(x.split()) == 6 and all(0 <= int(w) < 20 for w in x.split()) for x in lines)


def test_generate_across_chunks(run, capsys, monkeypatch):
    """How many rows advance together is a matter of the cache, not of the text."""
    whole = printed(["generate", str(run), "-n", "50"], capsys)
    assert printed(["generate", str(run), "-n", "20"], capsys).splitlines() == whole.splitlines()[:20]
    monkeypatch.setattr(generate, "chunk_rows", lambda *_: 7)
    assert printed(["generate", str(run), "-n", "50"], capsys) == whole


def test_generate_beyond_a_real_chunk(run, capsys):
    from seqforge.loading import load_generator

    each = chunk_rows(load_generator(checkpoint.newest(run / "checkpoints")), torch.device("cpu"))
    lines = printed(["generate", str(run), "-n", str(each + 3)], capsys).splitlines()
    assert len(lines) == each + 3
    assert lines[:9] == printed(["generate", str(run), "-n", "9"], capsys).splitlines()
    assert len(set(lines[-3:])) > 1


def test_generate_settings_matter(run, capsys):
    plain = printed(["generate", str(run), "-n", "50"], capsys)
    for argv in (["--temperature", "0.1"], ["--top-k", "1"], ["--top-p", "0.05"], ["--checkpoint", "pre-trained"]):
        assert printed(["generate", str(run), "-n", "50", *argv], capsys) != plain
    assert len(set(printed(["generate", str(run), "-n", "50", "--top-k", "1"], capsys).splitlines())) == 1
    assert printed(["generate", str(run), "-n", "50", "--checkpoint", "final"], capsys) == plain
    step = checkpoint.newest(run / "checkpoints").name.removeprefix("step-")
    assert printed(["generate", str(run), "-n", "50", "--checkpoint", step], capsys) == plain


def test_generate_to_a_file_all_or_nothing(run, capsys, monkeypatch):
    assert printed(["generate", str(run), "-n", "20", "--out", "text.txt"], capsys) == ""
    assert Path("text.txt").read_text() == printed(["generate", str(run), "-n", "20"], capsys)
    plain, calls = generate.decode, []

    def fail_later(*args):
        calls.append(1)
        if len(calls) == 3:
            raise OSError(28, "No space left on device")
        return plain(*args)

    before = Path("text.txt").read_text()
    monkeypatch.setattr(generate, "decode", fail_later)
    monkeypatch.setattr(generate, "chunk_rows", lambda *_: 7)
    assert main(["generate", str(run), "-n", "40", "--out", "text.txt"]) == 2
    assert Path("text.txt").read_text() == before
    assert [p.name for p in Path().iterdir()] == ["text.txt"]


# --- the other commands --------------------------------------------------------------------------------


def test_evaluate_again_gives_the_same(run, capsys):
    before = (run / "scores.json").read_text()
    found = json.loads(printed(["evaluate", str(run), "--json"], capsys))
    assert found == json.loads(before)
    assert (run / "scores.json").read_text() == before
    table = printed(["evaluate", str(run)], capsys)
    assert all(word in table for word in ("pre-trained", "final", "the oracle", "nll_oracle", "nats per token"))


def test_the_threads_of_an_evaluation_are_its_own(run, capsys):
    """The run's, of which there may have been one, stood in place of those asked for."""
    assert yaml.safe_load((run / "config.yaml").read_text())["threads"] == 1
    printed(["evaluate", str(run), "--threads", "2"], capsys)
    used = torch.get_num_threads()
    torch.set_num_threads(1)
    assert used == 2


def test_evaluate_with_other_settings_signs_them(run, tmp_path, capsys):
    import shutil

    shutil.copytree(run, tmp_path / "copy")
    argv = ["evaluate", "copy", "--samples", "99", "--temperatures", "[0.5]", "--seed", "4", "--json"]
    scores = json.loads(printed(argv, capsys))["generators"][-1]["scores"]
    assert {s["temperature"] for s in scores} == {0.5}
    by = {s["name"]: s["signature"] for s in scores}
    assert all(fact in by["nll_oracle"].split("|") for fact in ("n:99", "temp:0.5", "seed:4"))
    assert "|data:oracle:" in by["nll_oracle"]
    assert all(fact in by["nll_test"].split("|") for fact in ("n:128", "temp:0.5"))
    judged = json.loads(Path("copy/calibration.json").read_text())["scores"][0]["signature"].split("|")
    assert {"temp:1.0", "n:198", "seed:4"} <= {*judged}  # at temperature 1 also where no score is


def test_report_writes_a_page(run, capsys):
    assert printed(["report", str(run), "--out", "page.html"], capsys).strip() == "page.html"
    assert "<html" in Path("page.html").read_text()
    assert printed(["report", str(run)], capsys).strip() == str(run / "report.html")


def test_the_report_of_a_finished_run_lacks_nothing(run, capsys):
    printed(["report", str(run), "--out", "page.html"], capsys)
    page = Path("page.html").read_text()
    assert "Not in this report" not in page
    for part in ("frontier", "scores", "curves", "discriminator", "distributions", "samples", "ran"):
        assert f'<h2 id="{part}">' in page
    assert "peak memory of the process" in page
    pictures = printed(["report", str(run), "--png", "pictures"], capsys).split()
    assert len(pictures) == page.count("<svg") == page.count("<figure>")


def test_resume_of_a_finished_run_changes_nothing(run, capsys):
    before = tree(run)
    assert "has finished" in printed(["resume", str(run)], capsys)
    assert tree(run) == before


def test_export_and_its_checkpoint(run, capsys):
    assert printed(["export", str(run), "--out", "hub"], capsys).strip() == "hub"
    newest = checkpoint.newest(run / "checkpoints") / "generator"
    assert (
        checkpoint.load_file("hub/model.safetensors").keys()
        == checkpoint.load_file(newest / "model.safetensors").keys()
    )


# --- --from --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def controls(run, tmp_path_factory):
    home = tmp_path_factory.mktemp("controls")
    for reward in ("constant", "random", "shuffled", "frozen"):
        argv = [*TINY, "--seed", "1", "--from", str(run), "--reward", reward, "--out", str(home / reward)]
        assert main(argv) == 0
    return home


@pytest.mark.parametrize("reward", ["constant", "random", "shuffled", "frozen"])
def test_controls_share_the_pre_training(reward, run, controls):
    """Else a difference between them could come from the pre-training."""
    start, own = (checkpoint.newest(f / "checkpoints", tag="pre-trained") for f in (run, controls / reward))
    for player in ("generator", "discriminator"):
        name = f"{player}/model.safetensors"
        assert (start / name).read_bytes() == (own / name).read_bytes()
    ends = [checkpoint.newest(f / "checkpoints", tag="final") for f in (run, controls / reward)]
    assert ends[0].name == ends[1].name
    name = "generator/model.safetensors"
    assert (ends[0] / name).read_bytes() != (ends[1] / name).read_bytes()
    judged = "discriminator/model.safetensors"
    assert (ends[1] / judged).read_bytes() == (start / judged).read_bytes() or reward == "shuffled"
    assert yaml.safe_load((controls / reward / "config.yaml").read_text())["from"] == str(run)


@pytest.mark.parametrize("reward", ["constant", "random", "shuffled", "frozen"])
def test_a_control_logs_what_it_is(reward, controls):
    """Its record of versions, seed and data was left out, as the run it came from had one."""
    first, *rest = [json.loads(line) for line in (controls / reward / "log.jsonl").read_text().splitlines()]
    assert first["kind"] == "start"
    assert first["seed"] == 1
    assert not [r for r in rest if r["kind"] == "train" and r["phase"] == "mle"]
    assert [r["round"] for r in rest if "reward_mean" in r] == [0, 1]


def test_the_rewards_are_what_they_say(controls):
    mean = {}
    for reward in ("constant", "random"):
        lines = (controls / reward / "log.jsonl").read_text().splitlines()
        mean[reward] = [r["reward_mean"] for r in map(json.loads, lines) if "reward_mean" in r]
    assert len(set(mean["constant"])) == 1
    assert len(set(mean["random"])) == 2
    assert all(0.2 < m < 0.8 for m in mean["random"])


def test_compare_names_the_groups(run, controls, capsys):
    found = json.loads(printed(["compare", str(run), str(controls / "constant"), "--json"], capsys))
    assert list(found["groups"]) == ["seqgan, discriminator reward", "seqgan, constant reward"]
    for folder, group in zip((run, controls / "constant"), found["groups"].values(), strict=True):
        scores = json.loads((folder / "scores.json").read_text())["generators"][-1]["scores"]
        at_1 = {s["name"]: s["value"] for s in scores if s["temperature"] == 1.0}
        assert {k: v[0] for k, v in group["scores"].items()} == pytest.approx(at_1)
    assert [g["against"] for g in found["gaps"]] == ["seqgan, constant reward"]
    assert "temperature 1" in printed(["compare", str(run), "--plot", "plot.png"], capsys)
    assert Path("plot.png").read_bytes().startswith(b"\x89PNG")
