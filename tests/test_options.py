"""Options, recipes and config.yaml: what is given, what it stands for, and what a run was made with."""

import json
from pathlib import Path

import pytest
import yaml

from seqforge import checkpoint, cli_runs, options, recipes
from seqforge.cli import main

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


def printed(argv: list[str], capsys) -> str:
    capsys.readouterr()
    assert main(argv) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("spelt", [["--data", "ids.txt"], ["--data=ids.txt"]])
def test_data_is_the_source_not_a_configuration(spelt, capsys):
    """jsonargparse reads `--data FILE` as a YAML file of the group's options; a file of ids is even valid YAML."""
    Path("ids.txt").write_text("1 2 3 4\n" * 30)
    argv = [*TINY, *spelt, "--data.max_length", "4", "--data.vocab_size", "9", "--out", "run"]
    assert main([*argv, "--mle.epochs", "1", "--rounds", "0"]) == 0
    data = yaml.safe_load(Path("run/config.yaml").read_text())["data"]
    assert (data["source"], data["max_length"], data["vocab_size"]) == (str(Path("ids.txt").resolve()), 4, 9)


def test_data_before_and_after_its_keys():
    for argv in (["--data.max_length", "9", "--data", "a.txt"], ["--data", "a.txt", "--data.max_length", "9"]):
        data = options.parse_train("seqgan", argv).data
        assert (data.source, data.max_length) == ("a.txt", 9)


@pytest.mark.parametrize("spelt", [["--generator", "transformer"], ["--generator=transformer"]])
def test_a_kind_stands_for_its_group(spelt):
    assert options.parse_train("seqgan", [*spelt, "--generator.hidden", "8"]).generator.kind == "transformer"
    assert options.parse_train("cot", ["--mediator", "transformer", *spelt]).mediator.kind == "transformer"
    assert options.parse_train("distillation", ["--teacher", "transformer"]).teacher.kind == "transformer"
    assert options.parse_train("seqgan", ["--discriminator", "transformer"]).discriminator.kind == "transformer"
    assert options.parse_train("cot", ['--generator={"hidden": 8}']).generator.hidden == 8


def test_the_command_line_overrides_the_recipe_wherever_it_stands():
    for argv in (
        ["--rounds", "9", "--recipe", "demo"],
        ["--recipe", "demo", "--rounds=9"],
        ["--recipe=demo", "--rounds=9"],
    ):
        values = options.parse_train("seqgan", argv)
        assert values.rounds == 9
        assert values.batch == recipes.read("demo")["batch"]
        assert values.mle.epochs == recipes.read("demo")["mle"]["epochs"]
        assert values.mle.lr == 0.01


def test_a_recipe_on_ones_own_data_leaves_its_world_behind(recwarn):
    """A demo's 1,000 token types made a third of a text unknown."""
    assert recipes.read("demo")["data"]["vocab_size"]
    mine = options.parse_train("seqgan", ["--recipe", "demo", "--data", "mine.txt"])
    (said,) = [str(w.message) for w in recwarn]
    assert mine.data.vocab_size is None
    assert mine.data.max_length is None
    assert mine.mle.epochs == recipes.read("demo")["mle"]["epochs"]
    assert (
        "recipe demo: not taken over for mine.txt, being its world's: data.oracle_seed 7, data.vocab_size 1000" in said
    )
    given = options.parse_train("seqgan", ["--recipe", "demo", "--data=mine.txt", "--data.vocab_size", "70"])
    assert given.data.vocab_size == 70
    recwarn.clear()
    same = options.parse_train("seqgan", ["--recipe", "demo", "--data", "oracle"])
    assert same.data.vocab_size == recipes.read("demo")["data"]["vocab_size"]
    captions = recipes.read("captions-seqgan")["data"]
    copy = options.parse_train(
        "seqgan", ["--recipe", "captions-seqgan", "--data", "my/captions"]
    )  # a copy of what it names
    assert {k: copy.data[k] for k in captions if k != "source"} == {k: v for k, v in captions.items() if k != "source"}
    assert not recwarn.list


@pytest.mark.parametrize("spelt", [["bleu,lm"], ["[bleu,lm]"]])
def test_lists_are_spelt_as_in_the_other_commands(spelt):
    found = options.parse_train("seqgan", ["--evaluate.metrics", *spelt, "--evaluate.temperatures=1.0,0.8"])
    assert found.evaluate.metrics == ["bleu", "lm"]
    assert found.evaluate.temperatures == [1.0, 0.8]
    assert options.parse_train("seqgan", ["--evaluate.temperatures", "0.7"]).evaluate.temperatures == [0.7]


def test_config_yaml_is_the_effective_configuration(run):
    config = yaml.safe_load((run / "config.yaml").read_text())
    recipe = recipes.read("seqgan-oracle-tiny")
    assert (config["method"], config["recipe"], config["from"]) == ("seqgan", "seqgan-oracle-tiny", None)
    assert (config["rounds"], config["mle"]["epochs"]) == (2, 2)  # overridden
    defaults = {"layers": 1, "dropout": 0.0, "init_std": 0.1, "kind": "lstm", "heads": 4, "feedforward": 0}
    assert config["generator"] == {**defaults, "share": False, "norm": "pre", **recipe["generator"]}
    assert config["data"]["train_size"] == recipe["data"]["train_size"]
    assert config["baseline"] == "none"  # a default
    assert config["threads"] >= 1


def test_training_from_config_yaml_gives_the_same(run):
    assert main(["train", "seqgan", "--recipe", str(run / "config.yaml"), "--out", "again"]) == 0
    ours, theirs = (checkpoint.newest(f / "checkpoints", tag="final") for f in (run, Path("again")))
    for player in ("generator", "discriminator"):
        name = f"{player}/model.safetensors"
        assert (ours / name).read_bytes() == (theirs / name).read_bytes()
    assert (run / "scores.json").read_text() == Path("again/scores.json").read_text()


def test_folders_are_numbered():
    for _ in range(2):
        assert main([*TINY, "--mle.epochs", "0", "--rounds", "0", "--d_pretrain", "0"]) == 0
    assert sorted(p.name for p in Path("runs").iterdir()) == ["seqgan-1", "seqgan-2"]


def test_mle_on_its_own(capsys):
    argv = ["train", "mle", "--data.vocab_size", "20", "--data.max_length", "5", "--data.train_size", "128"]
    argv += ["--data.valid_size", "32", "--data.test_size", "32", "--mle.epochs", "2", "--evaluate.samples", "64"]
    text = printed([*argv, "--monitor.samples", "32", "--out", "run"], capsys)
    assert "nll_oracle" in text
    assert [r["name"] for r in json.loads(Path("run/scores.json").read_text())["generators"]] == ["final"]


def test_recipes_lists_all_with_purpose_and_time(capsys, monkeypatch):
    monkeypatch.setattr(cli_runs.out, "width", 400)
    lines = printed(["recipes"], capsys).splitlines()
    for name in recipes.names():
        (line,) = [x for x in lines if x.split()[:1] == [name]]
        r = recipes.read(name)
        assert " ".join(r["purpose"].split()) in " ".join(line.split())
        assert line.rstrip().endswith(r["time"])


def test_recipes_shows_one(capsys):
    assert yaml.safe_load(printed(["recipes", "demo"], capsys)) == recipes.read("demo")
