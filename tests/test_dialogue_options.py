"""The dialogue method: every option changes what it should, and what is judged is what was asked."""

import json

import numpy as np
import pytest
import torch

from seqforge import checkpoint, corpora, discriminate, evaluate, loading
from seqforge import judge as fresh
from seqforge.data.config import DataConfig
from seqforge.data.corpus import Split
from seqforge.evaluate import EvaluateConfig
from seqforge.likelihood import log_probs
from seqforge.methods import dialogue
from seqforge.methods.dialogue import DialogueConfig
from seqforge.methods.mle import MLEConfig, MonitorConfig
from seqforge.models.transformer import TransformerConfig
from seqforge.models.transformer_discriminator import TransformerDiscriminatorConfig
from seqforge.run import CheckpointConfig, Run
from seqforge.sampling import mask_of

SIZES = {"embedding": 8, "hidden": 8, "heads": 2}
BASE = {"generator": TransformerConfig(**SIZES), "discriminator": TransformerDiscriminatorConfig(**SIZES)}
BASE |= {"mle": MLEConfig(epochs=1, batch=16), "monitor": MonitorConfig(every=0, samples=8, lines=0)}
BASE |= {"rounds": 2, "batch": 12, "d_pretrain": 1, "d_samples": 32, "d_batch": 16, "lr": 0.01}


@pytest.fixture(scope="module")
def corpus():
    return corpora.load(
        DataConfig(source="dialogues", condition="turns", train_size=60, valid_size=20, test_size=40, seed=1)
    )


def trained(folder, corpus, **options):
    run = Run.create(folder, {"method": "dialogue"}, seed=1, saving=CheckpointConfig(seconds=1e9))
    dialogue.train(DialogueConfig(**{**BASE, **options}), corpus, run)
    return folder


def weights(folder, player):
    final = checkpoint.newest(folder / "checkpoints", tag="final")
    return (final / player / "model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def plain(tmp_path_factory, corpus):
    """The runs that the others are held against: of two rounds, and without any."""
    home = tmp_path_factory.mktemp("plain")
    return {rounds: trained(home / str(rounds), corpus, rounds=rounds) for rounds in (0, 2)}


def test_the_same_seed_gives_the_same_bits(plain, corpus, tmp_path):
    again = trained(tmp_path / "run", corpus)
    for player in ("generator", "discriminator"):
        assert weights(again, player) == weights(plain[2], player)


@pytest.mark.parametrize(
    ("player", "rounds", "options"),
    [
        *[("generator", 2, o) for o in ({"teacher": 0.5}, {"baseline": "none"}, {"rollouts": 2}, {"value": "log"})],
        *[("generator", 2, o) for o in ({"adversary": "penalty"}, {"lr": 0.02}, {"clip": 1e-9}, {"g_steps": 2})],
        *[("generator", 2, o) for o in ({"batch": 13}, {"reward": "constant"}, {"reward": "random"})],
        *[("generator", 2, o) for o in ({"reward": "shuffled"}, {"reward": "frozen"}, {"rounds": 1})],
        *[("discriminator", 0, o) for o in ({"decode": "greedy"}, {"d_pretrain": 2}, {"d_batch": 8}, {"d_lr": 1e-3})],
        *[("discriminator", 0, o) for o in ({"d_weight_decay": 0.5}, {"d_l2": 0.5}, {"reward": "constant"})],
        *[("discriminator", 2, o) for o in ({"d_steps": 2}, {"d_epochs": 2}, {"d_samples": 30}, {"reward": "frozen"})],
    ],
    ids=str,
)
def test_an_option_changes_what_it_should(player, rounds, options, plain, corpus, tmp_path):
    run = trained(tmp_path / "run", corpus, **{"rounds": rounds, **options})
    assert weights(run, player) != weights(plain[rounds], player)


def norms(folder):
    records = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [r["gradient_norm"] for r in records if "gradient_norm" in r]


def test_beside_a_reward_without_information_the_gradient_is_the_teachers_times_its_weight(corpus, tmp_path):
    """A constant less its mean is 0: what is left is the cross-entropy, once and three times."""
    same = {"reward": "constant", "baseline": "step", "rounds": 1}
    one, three = (norms(trained(tmp_path / str(w), corpus, **same, teacher=w))[0] for w in (1.0, 3.0))
    assert one > 0
    assert three == pytest.approx(3 * one, rel=1e-4)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [0.25, 0.5]),
        ({"value": "log"}, [-1.386294, -0.693147]),
        ({"adversary": "penalty"}, [-1.386294, -0.693147]),
    ],
)
def test_the_verdict_by_hand(options, expected):
    p_real = lambda ids, lengths, source: torch.tensor([0.25, 0.5])  # noqa: E731
    score = dialogue.verdict(p_real, DialogueConfig(**options))
    assert score(None, None, None).tolist() == pytest.approx(expected, abs=1e-6)
    never = dialogue.verdict(lambda *_: torch.zeros(1), DialogueConfig(adversary="penalty"))
    assert never(None, None, None).isfinite().all()


def test_a_greedy_answer_is_the_likeliest_token_at_every_step(plain, corpus, tmp_path):
    generator = loading.load_generator(checkpoint.newest(plain[0] / "checkpoints", tag="pre-trained"))
    run = Run.create(tmp_path / "run", {"method": "dialogue"}, seed=1)
    dialogue.write_generated(generator, corpus, "greedy", run)
    made = dialogue.read_generated(run.folder / "generated.jsonl", corpus)
    with torch.no_grad():
        first, state = generator.start(len(made), corpus.train.source)
        later, _ = generator.extend(made.ids[:, :-1], state)
    best = torch.log_softmax(torch.cat([first[:, None], later], 1), -1).amax(-1)
    taken = log_probs(generator, made.ids, made.lengths, context=corpus.train.source).detach()
    inside = mask_of(made.lengths, corpus.max_length)
    assert torch.allclose(taken[inside], best[inside], atol=1e-5)


def test_the_discriminator_sees_each_reply_beside_the_source_it_answers(plain, corpus, tmp_path, monkeypatch):
    """Fresh fakes to train on, and unseen ones that it is measured on."""
    asked, seen = [], []
    sample, epoch, measure = discriminate.sample, discriminate.epoch, discriminate.held_out_accuracy

    def sampled(*args, context, **more):
        asked.append(context.ids)
        return sample(*args, context=context, **more)

    def passed(discriminator, optimizer, real, fake, *rest):
        seen.append(fake[2].ids)
        return epoch(discriminator, optimizer, real, fake, *rest)

    def measured(score, real, fake):
        assert torch.equal(real[2].ids, fake[2].ids)
        seen.append(fake[2].ids)
        return measure(score, real, fake)

    for name, spy in (("sample", sampled), ("epoch", passed), ("held_out_accuracy", measured)):
        monkeypatch.setattr(discriminate, name, spy)
    trained(tmp_path / "run", corpus)
    seen = seen[1:]  # the first pass is over the generated file
    assert len(asked) == len(seen) == 4
    assert all(torch.equal(a, b) for a, b in zip(asked, seen, strict=True))
    assert not torch.equal(asked[0], asked[2])  # other sources every round


# --- the judge ----------------------------------------------------------------------------------------------------


def test_the_judge_is_asked_about_pairs_that_it_was_not_trained_on(monkeypatch):
    """In the first half the short replies are generated, in the second the real ones: what it learned is all wrong."""
    monkeypatch.setattr(fresh, "STEPS", 40)
    config = DataConfig(source="dialogues", condition="turns", train_size=40, valid_size=20, test_size=200)
    long = corpora.load(config).test
    short = torch.ones_like(long.lengths)
    late = torch.arange(200) >= 100
    real = Split(long.ids, torch.where(late, short, long.lengths), long.source)
    fake = Split(long.ids, torch.where(late, long.lengths, short), long.source)
    found = fresh.told_apart(*fresh.halves(real, fake), 60, 1)
    assert len(found) == 100
    assert found.mean() < 0.1


def test_mismatch_asks_about_replies_dealt_anew(monkeypatch):
    """The same pairs on both sides would be one half, exactly, and without a spread."""
    monkeypatch.setattr(fresh, "STEPS", 10)
    config = DataConfig(source="dialogues", condition="turns", train_size=120, valid_size=20, test_size=100)
    rows = evaluate.references(corpora.load(config), EvaluateConfig(samples=20, metrics=["length"]))
    (score,) = [s for s in rows[0]["scores"] if s["name"] == "mismatch"]
    assert score["interval"][1] > score["interval"][0]
    assert np.isfinite(score["value"])
