"""What ships, runs: every recipe is read as its method would read it, and two are held to what they promise."""

import dataclasses
import re
import time

import pytest
import yaml

from seqforge import options, recipes
from seqforge.cli import main
from seqforge.settings import RunConfig, build
from seqforge.training import METHODS


def configured(name: str) -> tuple[RunConfig, object]:
    """The two configurations that `train METHOD --recipe NAME` would run with."""
    method = recipes.read(name)["method"]
    values = options.parse_train(method, ["--recipe", name]).as_dict()
    for key in ("recipe", "out", "from"):
        values.pop(key)
    return build(RunConfig, values), build(METHODS[method][0], values)


def test_the_promised_recipes_are_there():
    expected = {"demo", "seqgan-oracle-published", "seqgan-oracle", "seqgan-oracle-tiny"}
    assert expected <= set(recipes.names())


@pytest.mark.parametrize("name", recipes.names())
def test_every_recipe_parses_and_arrives(name):
    recipe = recipes.read(name)
    assert recipe["method"] in METHODS
    assert len(recipe["purpose"]) > 10
    assert re.fullmatch(r"\d+ (s|min|h)", recipe["time"])
    config, method_config = configured(name)
    plain = {**dataclasses.asdict(config), **dataclasses.asdict(method_config)}
    for key, value in recipe.items():
        if key in ("method", "purpose", "time"):
            continue
        if isinstance(value, dict):
            assert {k: plain[key][k] for k in value} == value
        else:
            assert plain[key] == value


@pytest.mark.parametrize("name", [n for n in recipes.names() if recipes.read(n)["method"] == "seqgan"])
def test_windows_fit_the_sequences(name):
    """Refused only when the discriminator is built, after data were drawn."""
    config, method_config = configured(name)
    assert max(method_config.discriminator.widths) <= (config.data.max_length or 20)  # text is longer than its windows


def test_published_is_what_the_authors_ran():
    """sequence_gan.py, generator.py and discriminator.py of LantaoYu/SeqGAN; the lag is dead code there."""
    config, seqgan = configured("seqgan-oracle-published")
    data = config.data
    assert (data.source, data.vocab_size, data.max_length, data.train_size) == ("oracle", 5000, 20, 9984)
    g = seqgan.generator
    assert (g.embedding, g.hidden, g.layers, g.dropout, g.init_std) == (32, 32, 1, 0.0, 0.1)
    d = seqgan.discriminator
    assert d.embedding == 64
    assert d.widths == [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 15, 20]
    assert d.filters == [100, 200, 200, 200, 200, 100, 100, 100, 100, 100, 160, 160]
    assert sum(d.filters) == 1720
    assert d.dropout == 0.25
    m = seqgan.mle
    assert (m.epochs, m.batch, m.lr, m.clip) == (120, 64, 0.01, 5.0)
    assert (m.patience, m.shuffle, m.weight_decay, m.lr_decay) == (0, False, 0.0, 1.0)
    assert (seqgan.rounds, seqgan.g_steps, seqgan.batch, seqgan.rollouts) == (200, 1, 64, 16)
    assert (seqgan.lr, seqgan.clip, seqgan.reduction, seqgan.baseline) == (0.01, 5.0, "sum", "none")
    assert (seqgan.reward, seqgan.rollout_lag, seqgan.teacher_forcing) == ("discriminator", 0.0, 0)
    assert (seqgan.d_pretrain, seqgan.d_steps, seqgan.d_epochs) == (50, 5, 3)
    assert (seqgan.d_samples or data.train_size, seqgan.d_batch, seqgan.d_lr) == (9984, 64, 1e-4)
    # 0.2/2 |W|^2 on two columns a, b; gradients of a and b are opposite, so |a|^2 + |b|^2 = |a-b|^2 / 2: 0.1/2 |w|^2
    assert seqgan.d_l2 == 0.1
    assert config.evaluate.samples == 9984


def test_best_recipe_keeps_the_task_and_the_generator():
    """`seqgan-oracle` may choose its schedule, not an easier world or a larger model."""
    if "seqgan-oracle" not in recipes.names():
        pytest.fail("no recipe seqgan-oracle yet")
    (mine, my_method), (theirs, their_method) = configured("seqgan-oracle"), configured("seqgan-oracle-published")
    assert mine.data == theirs.data
    assert my_method.generator == dataclasses.replace(their_method.generator, dropout=my_method.generator.dropout)
    assert my_method.reward == "discriminator"
    assert mine.evaluate.samples == 9984


def test_tiny_trains_in_under_20_seconds(tmp_path):
    """CPU seconds, as another process may hold the core."""
    begun = time.process_time()
    out = tmp_path / "run"
    assert main(["train", "seqgan", "--recipe", "seqgan-oracle-tiny", "--out", str(out)]) == 0
    assert time.process_time() - begun < 20
    assert (out / "report.html").is_file()
    scores = yaml.safe_load((out / "scores.json").read_text())
    assert [g["name"] for g in scores["generators"]] == ["pre-trained", "final"]


def test_a_power_of_ten_is_a_number(tmp_path):
    """YAML 1.1 reads 1e-4 as a word: the comparison of a word with 0 ended in a traceback."""
    path = tmp_path / "mine.yaml"
    path.write_text("method: seqgan\nd_lr: 1e-4\nmle: {lr: 5e-3}\n")
    values = options.parse_train("seqgan", ["--recipe", str(path)]).as_dict()
    assert (values["d_lr"], values["mle"]["lr"]) == (0.0001, 0.005)


def test_an_own_file_is_a_recipe_too(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("method: seqgan\ndata: oracle\nrounds: 7\nmle: {epochs: 2}\n")
    values = options.parse_train("seqgan", ["--recipe", str(path), "--mle.lr", "0.5"]).as_dict()
    assert (values["rounds"], values["mle"]["epochs"], values["mle"]["lr"]) == (7, 2, 0.5)
    assert values["data"]["source"] == "oracle"
    assert values["batch"] == 64
