"""What stands past the end of a sequence changes no bit of any method's run: parameters, log, samples, scores."""

import dataclasses
import json
import sys
from pathlib import Path

import pytest
import torch
from ragged import CNN, EOS, HORIZON, VOCAB, ragged_corpus
from worlds import alive, rng

from seqforge import checkpoint, evaluate, likelihood, loading, sampling, training
from seqforge.evaluate import EvaluateConfig
from seqforge.methods.cot import CoTConfig
from seqforge.methods.dialogue import DialogueConfig
from seqforge.methods.distillation import DistillationConfig
from seqforge.methods.leakgan import LeakGANConfig
from seqforge.methods.mle import CounterpartConfig, MLEConfig, MLETrainConfig, MonitorConfig
from seqforge.methods.mle_search import MLESearchConfig
from seqforge.methods.pg_bleu import PGBLEUConfig
from seqforge.methods.scheduled_sampling import ScheduledSamplingConfig
from seqforge.methods.scratchgan import ScratchGANConfig
from seqforge.methods.seqgan import SeqGANConfig
from seqforge.models.hierarchical import HierarchicalConfig
from seqforge.models.kinds import GeneratorConfig
from seqforge.models.lstm import LSTMConfig
from seqforge.models.skip_lstm import SkipLSTMConfig
from seqforge.models.token_discriminator import TokenDiscriminatorConfig
from seqforge.models.transformer import TransformerConfig
from seqforge.models.transformer_discriminator import TransformerDiscriminatorConfig
from seqforge.run import CheckpointConfig, Run
from seqforge.sampling import Samples, mask_of

SIZES = {
    "generator": LSTMConfig(embedding=6, hidden=6, dropout=0.2, init_std=0.3),
    "mle": MLEConfig(epochs=2, batch=16, lr_decay=0.5, patience=1),
    "monitor": MonitorConfig(every=1, samples=32, lines=8),
}
ROUNDS = {**SIZES, "rounds": 2, "batch": 12}
PLAYERS = {**ROUNDS, "discriminator": CNN, "d_pretrain": 1, "d_batch": 16, "d_lr": 0.01}
COOPERATIVE = {**SIZES, "mediator": LSTMConfig(embedding=6, hidden=6, dropout=0.2, init_std=0.3), "rounds": 2}
COOPERATIVE |= {"steps": 2, "batch": 12, "patience": 1}
COUNTERPART = CounterpartConfig(epochs=1, batch=12)
TAUGHT = {**SIZES, "teacher": COOPERATIVE["mediator"], "rounds": 2, "steps": 2, "batch": 12}
FROM_SCRATCH = {
    "generator": SkipLSTMConfig(trainable=5, hidden=6, dropout=0.2),
    "discriminator": TokenDiscriminatorConfig(hidden=6, dropout=0.2),
    "monitor": SIZES["monitor"],
    "counterpart": COUNTERPART,
    **{"rounds": 2, "steps": 2, "batch": 12, "lr": 0.01, "d_lr": 0.01},
}
MANAGED = HierarchicalConfig(embedding=6, hidden=6, goal=3, step=2, dropout=0.2, init_std=0.3)
HIERARCHY = {**{k: v for k, v in PLAYERS.items() if k != "generator"}, "d_every": 1}
ATTENTIVE = GeneratorConfig(kind="transformer", embedding=6, hidden=6, heads=2, layers=2, dropout=0.2)
ANSWERS = {k: v for k, v in PLAYERS.items() if k not in ("generator", "discriminator")}
ANSWERS["generator"] = TransformerConfig(embedding=6, hidden=6, heads=2, dropout=0.2)
ANSWERS["discriminator"] = TransformerDiscriminatorConfig(embedding=6, hidden=6, heads=2)
TINY = {
    "mle": [
        MLETrainConfig(**SIZES),
        MLETrainConfig(**{**SIZES, "mle": MLEConfig(epochs=2, batch=16, label_smoothing=0.2, average=0.9)}),
        MLETrainConfig(**{**SIZES, "generator": ATTENTIVE}),
    ],
    "mle_search": [MLESearchConfig(monitor=SIZES["monitor"], budget=7, epochs=2, hidden=[6, 4], batch=[16])],
    "scheduled_sampling": [ScheduledSamplingConfig(**SIZES, slope=0.5)],
    "pg_bleu": [
        PGBLEUConfig(**ROUNDS, rollouts=2, baseline="leave-one-out"),
        PGBLEUConfig(**ROUNDS, rollouts=0, baseline="step", reduction="mean", teacher_forcing=1),
    ],
    "seqgan": [
        SeqGANConfig(**PLAYERS, rollouts=2, rollout_lag=0.5, reduction="mean"),
        SeqGANConfig(**PLAYERS, rollouts=0, teacher_forcing=1, g_steps=2),
        SeqGANConfig(**PLAYERS, rollouts=1, reward="shuffled"),
        SeqGANConfig(**PLAYERS, reward="random", baseline="step"),
        SeqGANConfig(**PLAYERS, reward="constant", baseline="none"),
        SeqGANConfig(**{**PLAYERS, "generator": ATTENTIVE}, rollouts=2),
    ],
    "leakgan": [
        LeakGANConfig(**HIERARCHY, generator=MANAGED, rollouts=2, mle_every=1, mle_steps=1, extrinsic=0.5),
        LeakGANConfig(
            **HIERARCHY, generator=dataclasses.replace(MANAGED, goals="block"), rollouts=1, d_temperature=0.7
        ),
        LeakGANConfig(**HIERARCHY, generator=MANAGED, rollouts=0, reward="shuffled", baseline="leave-one-out"),
    ],
    "scratchgan": [
        ScratchGANConfig(**FROM_SCRATCH, accumulate=5, l2=0.01),
        ScratchGANConfig(**FROM_SCRATCH, reward_at="end", gamma=1.0, moving="slow", clip=0.1),
        ScratchGANConfig(**FROM_SCRATCH, reward="shuffled", moving="none"),
    ],
    "dialogue": [
        DialogueConfig(**ANSWERS, rollouts=2),
        DialogueConfig(**ANSWERS, adversary="penalty", teacher=0.0, decode="greedy"),
        DialogueConfig(**ANSWERS, reward="shuffled", value="log"),
    ],
    "cot": [
        CoTConfig(**COOPERATIVE, counterpart=COUNTERPART, m_pretrain=1, average=0.9),
        CoTConfig(**COOPERATIVE, counterpart=COUNTERPART, gradient="whole", mediator_reads="real", g_steps=2),
        CoTConfig(**COOPERATIVE, counterpart=COUNTERPART, gradient="whole", baseline="none", m_steps=2, lr_decay=0.5),
    ],
    "distillation": [
        DistillationConfig(**TAUGHT, teachers=2, average=0.9),
        DistillationConfig(**TAUGHT, reads="real", patience=1, lr_decay=0.5),
        DistillationConfig(**TAUGHT, reads="both"),
    ],
}


def tiny_configurations(method: str) -> list:
    if method not in TINY:
        pytest.fail(f"add a tiny configuration for {method} to TINY in {Path(__file__).name}")
    return TINY[method]


def garble_samples(patch: pytest.MonkeyPatch) -> None:
    """Whatever is sampled has other tokens past its end, wherever `complete` has been imported to."""
    plain = sampling.complete

    def complete(*args, **kwargs):
        drawn = plain(*args, **kwargs)
        noise = torch.randint(VOCAB, drawn.ids.shape, generator=rng(5))
        return Samples(
            torch.where(mask_of(drawn.lengths, drawn.ids.shape[1]), drawn.ids, noise), drawn.lengths, drawn.logp
        )

    for name, module in list(sys.modules.items()):
        if name.startswith("seqforge") and getattr(module, "complete", None) is plain:
            patch.setattr(module, "complete", complete)


def watch_weights(patch: pytest.MonkeyPatch) -> list[float]:
    """The largest weight past an end in each loss that is taken, wherever `weighted_nll` has been imported to."""
    plain, plain_of, seen = likelihood.weighted_nll, likelihood.weighted_nll_of, []

    def note(lengths, weight):
        seen.append(float((weight * ~mask_of(lengths, weight.shape[1])).abs().max()))

    def weighted_nll(generator, ids, lengths, weight, *args, **kwargs):
        note(lengths, weight)
        return plain(generator, ids, lengths, weight, *args, **kwargs)

    def weighted_nll_of(head, hidden, ids, lengths, weight, *args):
        note(lengths, weight)
        return plain_of(head, hidden, ids, lengths, weight, *args)

    for name, module in list(sys.modules.items()):
        if name.startswith("seqforge") and getattr(module, "weighted_nll", None) is plain:
            patch.setattr(module, "weighted_nll", weighted_nll)
        if name.startswith("seqforge") and getattr(module, "weighted_nll_of", None) is plain_of:
            patch.setattr(module, "weighted_nll_of", weighted_nll_of)
    return seen


def trained(method: str, config, folder: Path, garbage: bool) -> dict:
    """All that a run leaves: parameters, random states, log, samples and scores."""
    corpus = ragged_corpus(garbage, getattr(type(config), "pairs", False))
    with pytest.MonkeyPatch.context() as patch:
        if garbage:
            garble_samples(patch)
        weights = watch_weights(patch)
        run = Run.create(folder, {"method": method}, seed=1, saving=CheckpointConfig(seconds=1e9))
        training.METHODS[method][1](config, corpus, run)
        assert max(weights, default=0.0) == 0, "a loss gave weight to what stands past an end"
        final = checkpoint.newest(folder / "checkpoints", tag="final")
        config = EvaluateConfig(samples=40, temperatures=[1.0], metrics=["bleu"])
        scores = evaluate.sweep(loading.load_generator(final), corpus, config)
    lines = (folder / "log.jsonl").read_text().splitlines()
    return {
        "log": [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in lines],
        "models": {str(p.relative_to(final)): p.read_bytes() for p in sorted(final.rglob("*.safetensors"))},
        "kept": repr(checkpoint.load_training(final)["kept"]),
        "samples": {p.name: p.read_text() for p in sorted((folder / "samples").iterdir())},
        "scores": scores,
    }


CASES = [
    pytest.param(method, i, marks=[pytest.mark.slow] if i else [])
    for method in training.METHODS
    for i in range(len(TINY.get(method, [None])))
]


@pytest.mark.parametrize(("method", "which"), CASES)
def test_padding_changes_nothing_in_any_method(method, which, tmp_path):
    config = tiny_configurations(method)[which]
    clean, dirty = (trained(method, config, tmp_path / str(g), g) for g in (False, True))
    assert clean["models"]
    assert any(r["kind"] == "train" for r in clean["log"])
    for what, found in clean.items():
        assert found == dirty[what], f"{what} of {method} depends on what stands past the ends"


def test_the_twins_differ_past_their_ends_alone_and_a_token_within_them_would_be_seen(tmp_path):
    clean, dirty = ragged_corpus(False), ragged_corpus(True)
    for name in ("train", "valid", "test"):
        a, b = getattr(clean, name), getattr(dirty, name)
        inside = alive(a.lengths, HORIZON)
        assert torch.equal(a.ids[inside], b.ids[inside])
        assert (a.ids[~inside] != b.ids[~inside]).float().mean() > 0.5
        assert b.ids[~inside].eq(EOS).any()
        assert 1 in a.lengths
        assert HORIZON in a.lengths
    config = TINY["mle"][0]
    found = trained("mle", config, tmp_path / "a", False)
    changed = ragged_corpus(False)
    changed.train.ids[0, 0] = (changed.train.ids[0, 0] + 1) % VOCAB
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys.modules[__name__], "ragged_corpus", lambda *_: changed)
        other = trained("mle", config, tmp_path / "b", False)
    assert all(found[k] != other[k] for k in ("log", "models", "kept", "scores"))


def test_a_method_without_a_configuration_here_is_named(monkeypatch):
    monkeypatch.setitem(training.METHODS, "newgan", training.METHODS["mle"])
    with pytest.raises(pytest.fail.Exception, match="add a tiny configuration for newgan"):
        tiny_configurations("newgan")
