"""The oracle against the authors' conventions written out in numpy; what its file may and may not do; its corpora."""

import hashlib
import os
import pickle
import re

import numpy as np
import pytest
import torch
from worlds import every_sequence, plain_log_probs, rng

from seqforge import corpora
from seqforge.data.config import DataConfig
from seqforge.likelihood import log_probs, sequence_nll
from seqforge.oracles import load_oracle, oracle_corpus, oracle_digest, seeded_oracle
from seqforge.sampling import sample, uniform

V, E, H = 7, 3, 4
SHAPES = [(V, E), *[(E, H), (H, H), (H,)] * 4, (H, V), (V,)]


def arrays(seed=0):
    """embedding; W, U, b of the gates i, f, o, c; head: every number from N(0, 1)."""
    numbers = np.random.default_rng(seed)
    return [numbers.standard_normal(s).astype(np.float32) for s in SHAPES]


def write(path, what, protocol=2):
    path.write_bytes(pickle.dumps(what, protocol=protocol))
    return path


def authors_nll(a, ids):
    """-log p (B,T) as target_lstm.py: row vectors, gate = x W + h U + b, start token 0, h_0 = c_0 = 0."""
    embedding, (wi, ui, bi, wf, uf, bf, wo, uo, bo, wc, uc, bc), head, bias = a[0], a[1:13], a[13], a[14]
    sigmoid = lambda x: 1 / (1 + np.exp(-x))  # noqa: E731
    h, c = np.zeros((len(ids), H)), np.zeros((len(ids), H))
    token, out = np.zeros(len(ids), dtype=int), []
    for t in range(ids.shape[1]):
        x = embedding[token].astype(np.float64)
        i, f, o = sigmoid(x @ wi + h @ ui + bi), sigmoid(x @ wf + h @ uf + bf), sigmoid(x @ wo + h @ uo + bo)
        c = f * c + i * np.tanh(x @ wc + h @ uc + bc)
        h = o * np.tanh(c)
        logits = h @ head + bias
        token = ids[:, t]
        out.append(np.log(np.exp(logits).sum(1)) - logits[np.arange(len(ids)), token])
    return np.stack(out, 1)


@pytest.mark.parametrize("protocol", [2, 4])
def test_an_oracle_from_the_authors_file_gives_the_authors_likelihoods(tmp_path, protocol):
    a = arrays()
    oracle = load_oracle(write(tmp_path / "target_params.pkl", a, protocol))
    ids = torch.randint(V, (60, 20), generator=rng(1))
    lengths = torch.full((60,), 20)
    expected = authors_nll(a, ids.numpy())
    got = sequence_nll(oracle, ids, lengths).numpy()
    assert np.abs(got - expected).max() <= 1e-5
    assert (oracle.start_id, oracle.eos_id, oracle.vocab_size) == (0, None, V)
    assert not oracle.training
    assert not any(p.requires_grad for p in oracle.parameters())
    ends_elsewhere = authors_nll([*a[:7], *a[10:13], *a[7:10], *a[13:]], ids.numpy())  # gates in torch's order
    assert np.abs(got - ends_elsewhere).max() > 0.1


def test_a_seeded_oracle_is_the_same_machine():
    oracle = seeded_oracle(3, V, E, H)
    ids, lengths = torch.randint(V, (30, 8), generator=rng(2)), torch.full((30,), 8)
    assert torch.allclose(log_probs(oracle, ids, lengths), plain_log_probs(oracle, ids, lengths), atol=1e-5)
    values = torch.cat([p.flatten() for k, p in seeded_oracle(0).named_parameters() if "bias_hh" not in k])
    assert len(values) == 333_320
    assert float(values.mean()) == pytest.approx(0, abs=5 / 333_320**0.5)
    assert float(values.std()) == pytest.approx(1, abs=0.01)
    assert not any(p.requires_grad for p in oracle.parameters())


def test_the_digest_is_that_of_the_arrays_of_the_file(tmp_path):
    """Of the real file it is 1095de91, the beginning of the sha256 in reference/algorithms.md (checked by hand)."""
    a = arrays()
    expected = hashlib.sha256(b"".join(x.tobytes() for x in a)).hexdigest()[:8]
    assert oracle_digest(load_oracle(write(tmp_path / "a.pkl", a))) == expected
    assert oracle_digest(load_oracle(write(tmp_path / "b.pkl", arrays(1)))) != expected
    assert oracle_digest(seeded_oracle(0, V, E, H)) != oracle_digest(seeded_oracle(1, V, E, H))


def test_files_in_double_precision_and_fortran_order_are_read_alike(tmp_path):
    a = arrays()
    other = [np.asfortranarray(x.astype(np.float64)) for x in a]
    found = [oracle_digest(load_oracle(write(tmp_path / f"{i}.pkl", x))) for i, x in enumerate((a, other))]
    assert found[0] == found[1]


# --- files that are something else ---------------------------------------------------------------------------------


class Runs:
    """Unpickled, it would call `function(*arguments)`."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("place", ["alone", "in a list", "for an array"])
@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("function", ["system", "eval", "exec"])
def test_a_file_that_would_run_something_is_refused_and_runs_nothing(tmp_path, function, protocol, place):
    marker = tmp_path / "was-here"
    touch = f"__import__('pathlib').Path({str(marker)!r}).touch()"
    evil = {
        "system": Runs(os.system, f"touch {marker}"),
        "eval": Runs(eval, touch),
        "exec": Runs(exec, touch),
    }[function]
    payload = {"alone": evil, "in a list": [evil], "for an array": [*arrays()[:14], evil]}[place]
    path = write(tmp_path / "params.pkl", payload, protocol)
    pickle.loads(path.read_bytes())
    assert marker.exists()  # the payload is live
    marker.unlink()
    with pytest.raises(ValueError, match=re.escape(str(path)) + r".*would run .*only numpy arrays"):
        load_oracle(path)
    assert not marker.exists()


def wrong(at, shape):
    a = arrays()
    a[at] = np.zeros(shape, np.float32)
    return a


def poisoned(value):
    a = arrays()
    a[8][1, 2] = value
    return a


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "empty; expected SeqGAN's target_params_py3.pkl"),
        (b"3 14 15 92 65\n35 89 79 32 38\n", "refused.*expected SeqGAN's target_params_py3.pkl"),
        (pickle.dumps(arrays(), 2)[:-200], "refused.*expected SeqGAN's target_params_py3.pkl"),
        (pickle.dumps(arrays(), 2)[:40], "refused.*expected SeqGAN's target_params_py3.pkl"),
        (b"\x80\x02]q\x00" + np.random.default_rng(0).bytes(300), "refused.*expected SeqGAN's target_params_py3.pkl"),
        (pickle.dumps({"w": arrays()[0]}, 2), "holds dict, not a list of arrays.*pickled list of 15"),
        (pickle.dumps([1.0, 2.0], 2), "not a list of arrays.*pickled list of 15"),
        (pickle.dumps(tuple(arrays()), 2), "holds tuple, not a list of arrays"),
        (pickle.dumps(arrays()[:14], 2), "14 arrays.*an LSTM oracle has 15"),
        (pickle.dumps([], 2), "0 arrays.*an LSTM oracle has 15"),
        (pickle.dumps(wrong(0, (V,)), 2), "an LSTM oracle has 15|was expected"),
        (pickle.dumps(wrong(1, (E, H + 1)), 2), r"array 1 has shape \(3, 5\), but \(3, 4\) was expected"),
        (pickle.dumps(wrong(13, (V, H)), 2), r"array 13 has shape \(7, 4\), but \(4, 7\) was expected"),
        (pickle.dumps(wrong(14, (V, 1)), 2), r"array 14 has shape \(7, 1\), but \(7,\) was expected"),
        (pickle.dumps(poisoned(np.nan), 2), "not finite.*fresh copy"),
        (pickle.dumps(poisoned(-np.inf), 2), "not finite.*fresh copy"),
        (pickle.dumps([a.astype(np.int64) for a in arrays()], 2), "not finite floats.*fresh copy"),
    ],
)
def test_files_that_are_no_oracle_are_refused_by_name_and_with_a_remedy(tmp_path, content, told):
    path = tmp_path / "params.pkl"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"(?s){re.escape(str(path))}.*({told})"):
        load_oracle(path)


def test_a_missing_file_or_a_folder_is_refused_by_name(tmp_path):
    for path in (tmp_path / "none.pkl", tmp_path):
        with pytest.raises(ValueError, match=re.escape(str(path)) + ".*no such file.*--data.oracle_file"):
            load_oracle(path)


# --- corpora -------------------------------------------------------------------------------------------------------


def test_a_corpus_is_drawn_from_its_oracle_once_by_its_seed():
    oracle = seeded_oracle(0, V, E, H)
    corpus, again = (oracle_corpus(oracle, (50, 20, 30), 9, seed=4) for _ in range(2))
    for name, n in (("train", 50), ("valid", 20), ("test", 30)):
        split = getattr(corpus, name)
        assert split.ids.shape == (n, 9)
        assert split.lengths.tolist() == [9] * n
        assert torch.equal(split.ids, getattr(again, name).ids)
    assert corpus.digest == again.digest != oracle_corpus(oracle, (50, 20, 30), 9, seed=5).digest
    assert not torch.equal(corpus.train.ids[:20], corpus.valid.ids)
    assert not torch.equal(corpus.test.ids[:20], corpus.valid.ids)
    for a, b in ((4, 5), (4, 3)):  # no split of one seed is a split of another
        one, other = (oracle_corpus(oracle, (20, 20, 20), 9, seed=s) for s in (a, b))
        splits = [[c.train.ids, c.valid.ids, c.test.ids] for c in (one, other)]
        assert not any(torch.equal(x, y) for x in splits[0] for y in splits[1])
    longer = oracle_corpus(oracle, (60, 20, 30), 9, seed=4)
    assert torch.equal(longer.train.ids[:50], corpus.train.ids)
    assert (corpus.vocab_size, corpus.max_length, corpus.start_id, corpus.eos_id) == (V, 9, 0, None)
    line = corpus.decode(corpus.train.ids[:1], corpus.train.lengths[:1])[0]
    assert [int(w) for w in line.split()] == corpus.train.ids[0].tolist()


def test_its_sequences_occur_as_often_as_the_oracle_says():
    oracle = seeded_oracle(1, 3, E, H)
    ids, lengths = every_sequence(horizon=3)
    p = plain_log_probs(oracle, ids, lengths).sum(1).exp()
    n = 20_000
    drawn = oracle_corpus(oracle, (n, 1, 1), 3).train.ids
    count = torch.bincount((drawn * torch.tensor([9, 3, 1])).sum(1), minlength=27)
    assert bool(((count - n * p).abs() <= 5 * (n * p * (1 - p)).sqrt() + 1).all())


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ({"train_size": 0}, "data.train_size is 0, but must be at least 1"),
        ({"valid_size": -1}, "data.valid_size is -1, but must be at least 1"),
        ({"test_size": 0}, "data.test_size is 0"),
        ({"max_length": 0}, "data.max_length is 0"),
        ({"vocab_size": 0}, "data.vocab_size is 0, but must be at least 1"),
        ({"oracle_hidden": 0}, "data.oracle_hidden is 0, but must be at least 1"),
        ({"source": "nowhere.txt"}, "nowhere.txt: no such file; give a file or folder of your sequences"),
    ],
)
def test_settings_that_name_no_corpus_are_refused(setting, told):
    with pytest.raises(ValueError, match=re.escape(told)):
        corpora.load(DataConfig(**setting))


def test_the_oracle_of_a_configuration(tmp_path):
    sizes = dict(max_length=5, train_size=6, valid_size=7, test_size=8)
    path = write(tmp_path / "params.pkl", arrays())
    corpus = corpora.load(DataConfig(oracle_file=str(path), **sizes))
    assert (len(corpus.train), len(corpus.valid), len(corpus.test)) == (6, 7, 8)
    assert corpus.source.startswith(f"oracle:{oracle_digest(load_oracle(path))}")
    with pytest.raises(ValueError, match=r"data.vocab_size is 9, but .* has 7 token types; leave out"):
        corpora.load(DataConfig(oracle_file=str(path), vocab_size=9, **sizes))
    seeded = corpora.load(DataConfig(vocab_size=11, oracle_seed=3, oracle_embedding=E, oracle_hidden=H, **sizes))
    assert oracle_digest(seeded.oracle) == oracle_digest(seeded_oracle(3, 11, E, H))
    drawn = sample(seeded.oracle, uniform((1, 5), rng(0)))
    assert int(drawn.ids.max()) < 11


def test_a_file_of_ids_is_split_without_overlap_or_loss(tmp_path):
    rows = [[i, 2 * i, 40] for i in range(20)]
    path = tmp_path / "ids.txt"
    path.write_text("".join(" ".join(map(str, r)) + "\n" for r in rows))
    corpus = corpora.load(DataConfig(source=str(path), max_length=3))
    assert (len(corpus.train), len(corpus.valid), len(corpus.test)) == (16, 2, 2)
    found = torch.cat([corpus.train.ids, corpus.valid.ids, corpus.test.ids])
    assert sorted(found.tolist()) == rows
    assert corpus.vocab_size == 41
    assert corpus.oracle is None
    other = corpora.load(DataConfig(source=str(path), max_length=3, seed=1))
    assert not torch.equal(other.train.ids, corpus.train.ids)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("1 2 3\n" * 20 + "1 x 3\n", "ids.txt:21: 'x' is not"),
        ("1 2 3\n" * 20 + "1 -2 3\n", "ids.txt:21: '-2' is not"),
        ("1 2 3 4\n" * 20, "4 tokens, but max_length is 3 (16 such); raise --data.max_length"),
        ("1 2 3\n" * 20 + "1 2 99\n" * 20, "id 99 is beyond the vocabulary of 50; raise --data.vocab_size"),
        ("", "ids.txt: the file is empty"),
        ("1 2 3\n" * 9, "ids.txt: 9 sequences; at least 10 are needed"),
    ],
)
def test_a_bad_line_of_ids_is_named_by_its_number(tmp_path, text, told):
    path = tmp_path / "ids.txt"
    path.write_text(text)
    with pytest.raises(ValueError, match=re.escape(told)):
        corpora.load(DataConfig(source=str(path), max_length=3, vocab_size=50))
