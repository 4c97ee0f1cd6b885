"""Calibration by hand, against scipy and scikit-learn, by simulation; and of every kind of discriminator there is."""

import json

import numpy as np
import pytest
import torch
from scipy.stats import binomtest
from worlds import HORIZON, VOCAB, every_sequence, tiny

from seqforge import calibration as described
from seqforge import checkpoint
from seqforge.data.corpus import Corpus, Split, ids_tokenizer
from seqforge.metrics.calibration import BINS, Judged, reliability, scores_of, wilson
from seqforge.models.discriminators import CNNDiscriminator
from seqforge.models.token_discriminator import TokenDiscriminator
from seqforge.models.transformer_discriminator import TransformerDiscriminator


def judged(p, real, counted=None):
    p = np.array(p, float)
    p = p[:, None] if p.ndim == 1 else p
    return Judged.of(p, np.ones_like(p, bool) if counted is None else np.array(counted), np.array(real, bool))


def ones(j):
    return np.ones(len(j.real), np.int64)


def test_accuracy_and_ece_by_hand():
    j = judged([0.95, 0.91, 0.05, 0.92, 0.04, 0.45], [1, 1, 1, 0, 0, 0])
    # real: 2 of 3 right; generated: .04 and .45 right, .92 wrong
    assert j.accuracy(ones(j)) == pytest.approx(2 / 3)
    # parts: .9 to 1 holds 3 with mean p .9266 and 2 real; 0 to .1 two, mean .045, 1 real; .4 to .5 one, .45, none
    gaps = 3 * abs(2 / 3 - 2.78 / 3) + 2 * abs(1 / 2 - 0.045) + 0.45
    assert j.ece(ones(j)) == pytest.approx(gaps / 6)
    top = reliability(j)[-1]
    assert (top["from"], top["to"], top["real"], top["generated"]) == (0.9, 1.0, 2, 1)
    assert top["p"] == pytest.approx(2.78 / 3)
    assert len(reliability(j)) == 3


def test_each_side_counts_half():
    j = judged([0.9, 0.1, 0.1, 0.1], [1, 0, 0, 0])
    assert j.accuracy(ones(j)) == 1
    j = judged([0.4, 0.1, 0.1, 0.1], [1, 0, 0, 0])
    assert j.accuracy(ones(j)) == 0.5


def test_the_ends_of_0_to_1_belong_to_the_parts_at_them():
    j = judged([1.0, 0.0], [1, 0])
    assert j.count[0, BINS - 1] == j.count[1, 0] == 1
    assert j.ece(ones(j)) == 0


def test_tokens_are_counted_by_their_own_p_and_padding_is_not():
    j = judged([[0.9, 0.8, 0.0], [0.2, 0.0, 0.0]], [1, 0], [[1, 1, 0], [1, 0, 0]])
    assert j.accuracy(ones(j)) == 1
    assert j.count.sum() == 3
    assert j.ece(ones(j)) == pytest.approx((0.1 + 0.2 + 0.2) / 3)


def test_the_interval_of_a_share_is_scipys():
    for right, n in ((0, 7), (3, 10), (40, 40), (611, 1000)):
        theirs = binomtest(right, n).proportion_ci(0.95, "wilson")
        assert wilson(right / n, n) == pytest.approx((theirs.low, theirs.high), abs=1e-4)


def test_tokens_of_one_sequence_count_as_one():
    """Ten tokens of one sequence tell no more of it than one does."""
    each = judged([0.95] * 2 + [0.05], [1, 1, 0])
    many = judged([[0.95] * 10] * 2 + [[0.05] * 10], [1, 1, 0])
    for a, b in zip(reliability(each), reliability(many), strict=True):
        assert (a["low"], a["high"]) == pytest.approx((b["low"], b["high"]))


@pytest.mark.parametrize("tokens", [1, 4])
def test_ece_by_chance_is_what_a_calibrated_one_shows(tokens):
    """Drawn many times: labels by p itself. With tokens, those of a sequence have one p and one label."""
    rng = np.random.default_rng(5)
    p = rng.uniform(0.02, 0.98, 400)
    seen, told = [], []
    for _ in range(200):
        real = rng.random(400) < p
        j = judged(np.repeat(p[:, None], tokens, 1), real)
        seen.append(j.ece(ones(j)))
        told.append(j.ece_by_chance())
    assert np.mean(seen) == pytest.approx(told[0], rel=0.05)
    assert told[0] == pytest.approx(told[-1])


def test_the_interval_covers_the_truth():
    """Over-sure by a known amount: the logit doubled. ECE by a million draws; 95 % intervals of 200 sequences."""
    rng = np.random.default_rng(3)

    def drawn(n):
        honest = rng.uniform(0.05, 0.95, n)
        return honest**2 / (honest**2 + (1 - honest) ** 2), rng.random(n) < honest

    true = judged(*drawn(200_000))
    truth = true.ece(ones(true))
    found = [scores_of(judged(*drawn(400)), {"data": "x"}, 1)[1] for _ in range(40)]
    assert sum(s.interval is not None and s.interval[0] <= truth <= s.interval[1] for s in found) >= 34
    assert found[0].name == "d_ece"
    assert found[0].signature.startswith("d-ece|data:x|n:400|bins:10|seed:1|")


def test_one_side_alone_is_refused():
    with pytest.raises(ValueError, match="2 real"):
        judged([0.1, 0.9], [1, 1])


DISCRIMINATORS = {
    "cnn": CNNDiscriminator(VOCAB, HORIZON, 4, [1, 2], [3, 3]),
    "tokens": TokenDiscriminator(VOCAB, HORIZON, trainable=4, hidden=4),
    "transformer": TransformerDiscriminator(VOCAB, 4, 4, 1, 2),
    "pairs": TransformerDiscriminator(VOCAB, 4, 4, 1, 2, pair=True),
}


def world(pairs):
    ids, lengths = every_sequence()
    source = Split(ids.flip(0), lengths.flip(0)) if pairs else None
    split = Split(ids, lengths, source)
    return Corpus(split, split, split, VOCAB, HORIZON, 0, None, ids_tokenizer(VOCAB), "every", split.digest())


@pytest.mark.parametrize("kind", DISCRIMINATORS)
def test_every_kind_of_discriminator_is_judged_by_its_own_p(kind, tmp_path):
    model, corpus = DISCRIMINATORS[kind], world(kind == "pairs")
    checkpoint.write(tmp_path / "step-7", {"generator": tiny(), "discriminator": model}, {}, {}, None)
    n = len(corpus.test) // 2
    real, fake = corpus.test[slice(n)], corpus.test[slice(n, None)]
    corpus = Corpus(**{**corpus.__dict__, "test": real})
    found = described.described(tmp_path / "step-7", corpus, fake, "fp32", 1)
    assert found is not None
    model.eval()
    with torch.no_grad():
        logits = [model(s.ids, s.lengths, *([s.source] if s.source else [])) for s in (real, fake[slice(n)])]
    p = [torch.sigmoid(x) for x in logits]
    if kind == "tokens":
        inside = torch.arange(HORIZON) < real.lengths[:, None]
        right = (p[0][inside] > 0.5).float().mean(), (p[1][inside[: len(p[1])]] <= 0.5).float().mean()
    else:
        right = (p[0] > 0.5).float().mean(), (p[1] <= 0.5).float().mean()
    scores = {s["name"]: s["value"] for s in found["scores"]}
    assert scores["d_accuracy"] == pytest.approx(float(sum(right) / 2))
    assert (found["step"], found["of"]) == (7, "tokens" if kind == "tokens" else "sequences")
    assert sum(b["real"] for b in found["bins"]) == p[0].numel()
    assert f"test:{real.digest()}" in found["scores"][0]["signature"]
    json.dumps(found)


def test_a_method_without_one_has_nothing_to_describe(tmp_path):
    checkpoint.write(tmp_path / "step-1", {"generator": tiny()}, {}, {}, None)
    corpus = world(False)
    assert described.described(tmp_path / "step-1", corpus, corpus.test, "fp32", 1) is None


def test_an_unknown_kind_is_named(tmp_path):
    checkpoint.write(tmp_path / "step-1", {"discriminator": DISCRIMINATORS["cnn"]}, {}, {}, None)
    path = tmp_path / "step-1/discriminator/config.json"
    path.write_text(path.read_text().replace("CNNDiscriminator", "Oracle"))
    with pytest.raises(ValueError, match="'Oracle', which is not known"):
        described.load_discriminator(tmp_path / "step-1")
