"""What ships, runs: every recipe is read as its method would read it, and two are held to what they promise."""

import dataclasses
import re
import time
from typing import Any

import pytest
import yaml

from seqforge import options, recipes
from seqforge.cli import main
from seqforge.settings import RunConfig, build
from seqforge.training import METHODS

DRAWN = True  # see conftest.py


def configured(name: str) -> tuple[RunConfig, object]:
    """The two configurations that `train METHOD --recipe NAME` would run with."""
    method = recipes.read(name)["method"]
    values = options.parse_train(method, ["--recipe", name]).as_dict()
    for key in ("recipe", "out", "from"):
        values.pop(key)
    return build(RunConfig, values), build(METHODS[method][0], values)


def within(value: object, plain: Any) -> object:
    """What stands in `plain` where `value` has something, group by group."""
    return {k: within(v, plain[k]) for k, v in value.items()} if isinstance(value, dict) else plain


def test_the_promised_recipes_are_there():
    expected = {"demo", "seqgan-oracle-published", "seqgan-oracle", "seqgan-oracle-tiny", "leakgan-tiny"}
    expected |= {f"music-{name}" for name in ("mle", "seqgan", "leakgan", "tiny")}
    tasks = ("oracle20", "oracle40", "captions")
    expected |= {f"leakgan-{task}{kind}" for task in tasks for kind in ("", "-published")}
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
        assert within(value, plain[key]) == value


@pytest.mark.parametrize("name", [n for n in recipes.names() if recipes.read(n)["method"] in ("seqgan", "leakgan")])
def test_windows_fit_the_sequences(name):
    """Refused only when the discriminator is built, after data were drawn. So are blocks and goals."""
    config, method_config = configured(name)
    length = config.data.max_length or 20  # text is longer than its windows
    assert max(method_config.discriminator.widths) <= length
    if recipes.read(name)["method"] == "leakgan":
        assert method_config.generator.step <= length
        assert method_config.generator.goal <= sum(method_config.discriminator.filters)


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


LEAKGAN = {  # E and H, length, features, embedding of the discriminator, learning rate, rounds to one of likelihood
    "leakgan-oracle20-published": (32, 20, 1720, 64, 0.0015, 0),
    "leakgan-oracle40-published": (64, 40, 1880, 64, 0.0005, 0),
    "leakgan-captions-published": (128, 32, 1880, 256, 0.001, 15),
}


@pytest.mark.parametrize("name", LEAKGAN)
def test_published_leakgan_is_what_its_authors_ran(name):
    """Main.py, LeakGANModel.py and Discriminator.py of CR-Gjx/LeakGAN; their inverse temperatures 1.5 and 0.8."""
    width, length, features, embedding, lr, interleaved = LEAKGAN[name]
    config, leakgan = configured(name)
    g, d, m = leakgan.generator, leakgan.discriminator, leakgan.mle
    assert config.data.max_length == length
    assert (g.embedding, g.hidden, g.goal, g.step, g.goals) == (width, width, 16, 4, "block")
    assert (g.dropout, g.init_std, d.dropout, d.embedding) == (0.0, 0.1, 0.0, embedding)
    assert d.widths[:12] == [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 15, 20]
    assert d.filters[:12] == [100, 200, 200, 200, 200, 100, 100, 100, 100, 100, 160, 160]
    assert sum(d.filters) == features
    assert (m.batch, m.lr, m.clip, m.patience, m.weight_decay, m.lr_decay) == (64, lr, 5.0, 0, 0.0, 1.0)
    assert (leakgan.lr, leakgan.clip, leakgan.rounds, leakgan.batch, leakgan.rollouts) == (lr, 5.0, 800, 64, 4)
    assert (leakgan.reward, leakgan.delta, leakgan.extrinsic, leakgan.baseline) == ("discriminator", 16.0, 0.0, "none")
    assert (leakgan.d_pretrain, leakgan.d_steps, leakgan.d_epochs, leakgan.d_batch) == (5, 5, 3, 64)
    assert (leakgan.d_samples, leakgan.d_lr, leakgan.d_l2) == (10_000 if "captions" in name else 0, 5e-5, 0.0)
    assert leakgan.d_temperature == pytest.approx(1 / 1.5, abs=1e-3)
    assert leakgan.temperature == (1.25 if "captions" in name else 1.0)
    assert leakgan.mle_every == interleaved
    if "oracle" in name:
        assert (config.data.vocab_size, config.data.train_size) == (5000, 9984)
        assert (m.epochs, leakgan.d_every) == (80, 8)
    else:
        assert leakgan.mle_steps == 80_000 // 64 // 20
    assert {1.0, 0.667} <= set(config.evaluate.temperatures)


@pytest.mark.parametrize("name", ["leakgan-oracle20", "leakgan-oracle40"])
def test_a_shorter_leakgan_keeps_the_task_and_the_sizes(name):
    (mine, my_method), (theirs, their_method) = configured(name), configured(f"{name}-published")
    assert mine.data == theirs.data
    paper = dataclasses.replace(their_method.generator, goals="window", dropout=my_method.generator.dropout)
    assert my_method.generator == paper
    assert my_method.reward == "discriminator"


def test_best_recipe_keeps_the_task_and_the_generator():
    """`seqgan-oracle` may choose its schedule, not an easier world or a larger model."""
    if "seqgan-oracle" not in recipes.names():
        pytest.fail("no recipe seqgan-oracle yet")
    (mine, my_method), (theirs, their_method) = configured("seqgan-oracle"), configured("seqgan-oracle-published")
    assert mine.data == theirs.data
    assert my_method.generator == dataclasses.replace(their_method.generator, dropout=my_method.generator.dropout)
    assert my_method.reward == "discriminator"
    assert mine.evaluate.samples == 9984


@pytest.mark.parametrize("name", ["seqgan-oracle-tiny", "leakgan-tiny"])
def test_tiny_trains_in_under_20_seconds(name, tmp_path):
    """CPU seconds, as another process may hold the core."""
    begun = time.process_time()
    out, method = tmp_path / "run", recipes.read(name)["method"]
    assert main(["train", method, "--recipe", name, "--out", str(out)]) == 0
    assert time.process_time() - begun < 20
    expected = {"config.yaml", "log.jsonl", "checkpoints", "samples", "scores.json", "report.html", "curves.png"}
    assert (expected | ({"hierarchy.json"} if method == "leakgan" else set())) <= {p.name for p in out.iterdir()}
    scores = yaml.safe_load((out / "scores.json").read_text())
    assert [g["name"] for g in scores["generators"] if g["name"] != "MLE counterpart"] == ["pre-trained", "final"]


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
