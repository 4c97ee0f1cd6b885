"""Likelihood scores by hand and against all sequences of a tiny world; and signatures that tell what was measured."""

import math

import pytest
import torch
from worlds import every_sequence, garbled, plain_log_probs, rng, tiny

import seqforge
from seqforge.data.corpus import Corpus, Split, ids_tokenizer
from seqforge.likelihood import sequence_nll
from seqforge.metrics import Score
from seqforge.metrics.nll import all_nll, entropy, mean_and_stderr, nll_oracle, nll_test
from seqforge.metrics.score import signature
from seqforge.oracles import oracle_corpus, seeded_oracle
from seqforge.sampling import Filter, Samples, sample, uniform


def world(eos_id=None, oracle_seed=1, **facts):
    """A corpus whose test set is every sequence once."""
    ids, lengths = every_sequence(eos_id=eos_id)
    split = Split(ids, lengths)
    facts = {"source": "every sequence", "digest": "0", "oracle": tiny(oracle_seed, eos_id), **facts}
    return Corpus(split, split, split, 3, 4, 0, eos_id, tokenizer=ids_tokenizer(3), **facts)


def by_name(scores):
    return {s.name: s for s in scores}


def test_the_mean_is_over_tokens_and_the_error_over_sequences_by_hand():
    """Sums 3 and 3 over 2 and 1 tokens: mean 2; residuals 3-2*2 = -1 and 3-2*1 = 1; error sqrt(2 * 2/1) / 3."""
    nll, lengths = torch.tensor([[1.0, 2.0], [3.0, 0.0]]), torch.tensor([2, 1])
    mean, stderr = mean_and_stderr(nll, lengths)
    assert mean == pytest.approx(2.0, abs=1e-12)
    assert stderr == pytest.approx(2 / 3, abs=1e-12)
    assert mean_and_stderr(nll[:1], lengths[:1]) == (1.5, None)


def test_for_equal_lengths_it_is_the_standard_error_of_the_sequences_means():
    nll = torch.rand(500, 6, generator=rng(1), dtype=torch.float64)
    mean, stderr = mean_and_stderr(nll, torch.full((500,), 6))
    assert mean == pytest.approx(float(nll.mean()), abs=1e-12)
    assert stderr == pytest.approx(float(nll.mean(1).std() / 500**0.5), rel=1e-9)


def test_the_error_of_a_mean_over_unequal_lengths_is_its_spread_over_repetitions():
    lengths = torch.randint(1, 9, (300, 200), generator=rng(2))
    total = lengths + 2 * torch.rand(300, 200, generator=rng(3)) + lengths * torch.randn(300, 200, generator=rng(4))
    found = [mean_and_stderr(t[:, None], n) for t, n in zip(total, lengths, strict=True)]
    means, errors = torch.tensor([m for m, _ in found]), torch.tensor([e for _, e in found])
    assert float(means.std()) == pytest.approx(float(errors.mean()), rel=0.15)


@pytest.mark.parametrize("eos_id", [None, 2])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_nll_test_is_the_mean_over_tokens_at_the_temperature(eos_id, temperature):
    corpus, generator = world(eos_id), tiny(2, eos_id)
    logp = plain_log_probs(generator, corpus.test.ids, corpus.test.lengths, temperature)
    score = nll_test(generator, corpus.test, "here", temperature)
    assert score.value == pytest.approx(-(logp.sum() / corpus.test.lengths.sum()).item(), abs=1e-9)
    assert (score.name, score.unit, score.temperature) == ("nll_test", "nats per token", temperature)
    other = Split(garbled(corpus.test.ids, corpus.test.lengths), corpus.test.lengths) if eos_id else corpus.test
    assert nll_test(generator, other, "here", temperature) == score


@pytest.mark.parametrize("eos_id", [None, 2])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_nll_oracle_and_entropy_are_the_true_ones_within_their_error(eos_id, temperature):
    """E over the generator's sequences at the temperature of -log p of the oracle at 1, and of its own at its own."""
    corpus, generator, n = world(eos_id), tiny(3, eos_id, init_std=0.7), 20_000
    ids, lengths = every_sequence(eos_id=eos_id)
    own = plain_log_probs(generator, ids, lengths, temperature).detach().sum(1)
    oracle = plain_log_probs(corpus.oracle, ids, lengths).detach().sum(1)
    tokens = (own.exp() * lengths).sum()
    found = by_name(all_nll(generator, corpus, n, 4, temperature)[0])
    for name, logp in (("nll_oracle", oracle), ("entropy", own)):
        true = float(-(own.exp() * logp).sum() / tokens)
        spread = (own.exp() * (-logp - true * lengths).square()).sum().sqrt() / tokens
        assert abs(found[name].value - true) <= 4.5 * found[name].stderr
        assert found[name].stderr == pytest.approx(float(spread) / n**0.5, rel=0.05)
        assert found[name].temperature == temperature
    assert abs(found["nll_oracle"].value - found["entropy"].value) > 10 * found["entropy"].stderr


def test_the_oracles_own_samples_have_its_entropy():
    oracle = tiny(5)
    corpus = world(oracle_seed=5)
    ids, lengths = every_sequence()
    logp = plain_log_probs(oracle, ids, lengths).detach().sum(1)
    true = float(-(logp.exp() * logp).sum() / 4)
    scores, drawn = all_nll(oracle, corpus, 20_000, 6)
    found = by_name(scores)
    assert found["nll_oracle"].value == pytest.approx(found["entropy"].value, abs=1e-6)
    assert abs(found["nll_oracle"].value - true) <= 4.5 * found["nll_oracle"].stderr
    assert 0 < found["nll_oracle"].stderr < 0.01
    assert drawn.ids.shape == (20_000, 4)


def test_scores_are_of_the_samples_that_come_with_them():
    corpus, generator = world(2), tiny(6, 2)
    scores, drawn = all_nll(generator, corpus, 200, 7, 0.8)
    expected = sample(generator, uniform((200, 4), rng(7)), Filter(temperature=0.8))
    assert torch.equal(drawn.ids, expected.ids)
    found = by_name(scores)
    assert list(found) == ["nll_oracle", "nll_test", "entropy"]
    nll = sequence_nll(corpus.oracle, drawn.ids, drawn.lengths)
    assert (found["nll_oracle"].value, found["nll_oracle"].stderr) == mean_and_stderr(nll, drawn.lengths)
    assert (found["entropy"].value, found["entropy"].stderr) == mean_and_stderr(-drawn.logp, drawn.lengths)
    other = Samples(garbled(drawn.ids, drawn.lengths), drawn.lengths, drawn.logp)
    assert nll_oracle(corpus.oracle, other, {}, 1.0) == nll_oracle(corpus.oracle, drawn, {}, 1.0)
    assert entropy(other, {}, 1.0) == entropy(drawn, {}, 1.0)


def test_without_an_oracle_there_is_no_nll_oracle():
    scores, _ = all_nll(tiny(), world(oracle=None), 20, 0)
    assert [s.name for s in scores] == ["nll_test", "entropy"]


# --- signatures ----------------------------------------------------------------------------------------------------


def test_a_signature_lists_its_facts_and_the_version():
    assert signature("x", n=3, temp=0.5) == f"x|n:3|temp:0.5|v:{seqforge.__version__}"
    score = Score("x", 1.5, None, "nats per token", 1.0, "x|v:0")
    assert score.as_dict() == {
        **{"name": "x", "value": 1.5, "stderr": None, "unit": "nats per token"},
        **{"temperature": 1.0, "signature": "x|v:0", "interval": None},
    }


def signatures(corpus=None, samples=20, seed=0, temperature=1.0):
    found = all_nll(tiny(7), corpus or world(), samples, seed, temperature)[0]
    return {s.name: s.signature for s in found}


def test_signatures_agree_where_the_same_was_measured_and_only_there():
    plain = signatures()
    assert plain == signatures()
    assert all(s.startswith(f"{name}|") and seqforge.__version__ in s for name, s in plain.items())
    assert [s.split("|")[1] for s in plain.values()] == ["n:20", "n:81", "n:20"]
    for other in (signatures(temperature=0.9), signatures(world(source="elsewhere"))):
        assert not set(plain.values()) & set(other.values())
    for other in (signatures(samples=21), signatures(seed=1)):  # the test set is the same
        assert [k for k in plain if plain[k] != other[k]] == ["nll_oracle", "entropy"]


def test_a_smaller_test_set_is_another_measurement():
    corpus = world()
    fewer = Corpus(**{**corpus.__dict__, "test": corpus.test[:40]})
    assert signatures(fewer)["nll_test"] != signatures(corpus)["nll_test"]


def test_the_digest_of_a_split_is_of_its_tokens_and_lengths():
    ids, lengths = every_sequence(eos_id=2)
    digest = Split(ids, lengths).digest()
    assert Split(garbled(ids, lengths), lengths).digest() == digest
    changed = ids.clone()
    changed[5, 0] = (changed[5, 0] + 1) % 3
    assert Split(changed, lengths).digest() != digest
    longer = lengths.clone()
    longer[0] += 1  # one more token, which is 0 as the padding is
    assert Split(ids, longer).digest() != digest
    assert Split(ids.flip(0), lengths.flip(0)).digest() != digest


@pytest.mark.parametrize("other", [{"length": 6}, {"seed": 1}])
def test_other_sequences_from_the_same_oracle_are_another_measurement(other):
    """A generator scored on sequences of 20 tokens was comparable with one on 40, and with one on another test set."""
    oracle, sizes = seeded_oracle(0, 3, 3, 4), {"sizes": (10, 5, 20), "length": 4, "seed": 0}
    a, b = (signatures(oracle_corpus(oracle, **facts)) for facts in (sizes, {**sizes, **other}))
    assert a["nll_test"] != b["nll_test"]
    if "length" in other:
        assert not set(a.values()) & set(b.values())


def test_values_are_finite_for_a_generator_that_is_almost_sure():
    generator = tiny(8)
    with torch.no_grad():
        generator.head.weight.mul_(60)
    scores, _ = all_nll(generator, world(), 500, 9)
    assert all(math.isfinite(s.value) and math.isfinite(s.stderr) for s in scores)
    assert by_name(scores)["entropy"].value < 0.2 < 5 < by_name(scores)["nll_test"].value
