"""`seqforge score`: two files in, the figures of the metric functions out, signatures that tell them apart."""

import json
import random
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu
from tokenizers import Tokenizer, models, pre_tokenizers

from seqforge import scoring
from seqforge.cli import main
from seqforge.corpora import load
from seqforge.data.config import DataConfig
from seqforge.data.corpus import Split
from seqforge.evaluate import EvaluateConfig, references, text_scores, unigram_text
from seqforge.methods import mle
from seqforge.metrics import embedders, lm
from seqforge.metrics.bleu import bleu, bleu_f1, reverse_bleu
from seqforge.metrics.distinct import distinct
from seqforge.metrics.embsim import embsim
from seqforge.metrics.frechet import fed
from seqforge.metrics.lengths import lengths
from seqforge.metrics.mauve import mauve
from seqforge.metrics.ms_jaccard import ms_jaccard
from seqforge.metrics.ngrams import References, encode
from seqforge.metrics.novelty import novelty
from seqforge.metrics.self_bleu import self_bleu
from seqforge.models.lstm import LSTMConfig
from seqforge.sampling import mask_of


def sentences(n: int, seed: int, nouns: str = "cat dog bird fish") -> list[str]:
    draw = random.Random(seed)
    pick: Callable[[str], str] = lambda words: draw.choice(words.split())  # noqa: E731
    return [
        " ".join([pick("the a"), pick(nouns), pick("sees eats"), pick("the a"), pick(nouns), *draw.choice([[], ["."]])])
        for _ in range(n)
    ]


SAMPLES, REAL, TRAIN = sentences(30, 1), sentences(40, 2, "cat dog whale"), sentences(50, 3)


@pytest.fixture(autouse=True)
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, texts in (("samples", SAMPLES), ("real", REAL), ("train", TRAIN)):
        Path(f"{name}.txt").write_text("\n".join(texts) + "\n")


@pytest.fixture
def tiny_language_model(monkeypatch):
    monkeypatch.setattr(mle, "LANGUAGE_MODEL", LSTMConfig(embedding=4, hidden=8))
    monkeypatch.setattr(mle, "LANGUAGE_MODEL_TRAINING", mle.MLEConfig(epochs=1, batch=8, lr=0.01))


def scored(capsys, *more: str, samples="samples.txt", references="real.txt") -> dict[str, dict]:
    capsys.readouterr()
    assert main(["score", "--samples", samples, "--references", references, "--json", *more]) == 0
    found = json.loads(capsys.readouterr().out)
    assert len({s["name"] for s in found}) == len(found)
    return {s["name"]: s for s in found}


def refused(capsys, *words: str, argv=(), samples="samples.txt", references="real.txt") -> None:
    before = sorted(Path().rglob("*"))
    capsys.readouterr()
    assert main(["score", "--samples", samples, "--references", references, *argv]) == 2
    told = capsys.readouterr()
    said = [x for x in told.err.splitlines() if not x.startswith("warning: ")]
    assert (len(said), told.out) == (1, "")
    for word in words:
        assert word in said[0]
    assert sorted(Path().rglob("*")) == before


def split(texts: list[str]) -> list[list[str]]:
    return [t.split() for t in texts]


# --- the figures ---------------------------------------------------------------------------------------------------


def test_the_figures_are_those_of_the_metric_functions(capsys):
    """Signatures and intervals as well, though the ids of the tokens are others here."""
    found = scored(capsys, "--train", "train.txt")
    mine, real, train = encode(split(SAMPLES), split(REAL), split(TRAIN))
    common: dict = {"facts": {"tok": "word"}, "seed": 1}
    index = References(real)
    embed = embedders.embedder("tfidf", split(REAL))
    features = {"samples_features": embed(split(SAMPLES)), "reference_features": embed(split(REAL))}
    expected = [
        *bleu(mine, index, **common),
        *self_bleu(mine, **common),
        *reverse_bleu(mine, index, **common),
        *bleu_f1(mine, index, **common),
        *distinct(mine, **common),
        *ms_jaccard(mine, real, **common),
        *novelty(mine, train, **common),
        *lengths(mine, real, **common),
        *fed(**features, embedder=embed.name, **common),
    ]
    assert list(found) == [s.name for s in expected]
    for s in expected:
        assert found[s.name]["value"] == pytest.approx(s.value, abs=1e-12), s.name
        assert found[s.name]["signature"] == s.signature
        assert found[s.name]["interval"] == (pytest.approx(s.interval, abs=1e-12) if s.interval else None)
        assert found[s.name]["temperature"] is None


def test_the_slow_ones_too(capsys, tiny_language_model):
    found = scored(capsys, "--train", "train.txt", "--metrics", "[mauve,embsim,lm,reverse_lm]")
    embed = embedders.embedder("tfidf", split(REAL))
    common: dict = {"facts": {"tok": "word"}, "seed": 1}
    features = {"samples_features": embed(split(SAMPLES)), "reference_features": embed(split(REAL))}
    expected = mauve(**features, embedder=embed.name, **common) + embsim(split(SAMPLES), split(REAL), **common)
    assert list(found) == [*[s.name for s in expected], "lm_score", "reverse_lm"]
    for s in expected:
        assert found[s.name]["value"] == pytest.approx(s.value, abs=1e-9)
        assert found[s.name]["signature"] == s.signature


def test_the_language_model_scores(capsys, tiny_language_model):
    """Ids in the order of frequency over all files, as the command numbers them, with 0 for the end."""
    found = scored(capsys, "--train", "train.txt", "--metrics", "[lm,reverse_lm]", "--seed", "3")
    counts: dict[str, int] = {}
    for w in " ".join(SAMPLES + REAL + TRAIN).split():
        counts[w] = counts.get(w, 0) + 1
    ids = {w: i + 2 for i, w in enumerate(sorted(counts, key=lambda w: (-counts[w], w)))}

    def table(texts: list[str]) -> Split:
        rows = [[ids[w] for w in t.split()] + [0] for t in texts]
        width = max(map(len, rows))
        padded = torch.tensor([row + [0] * (width - len(row)) for row in rows])
        return Split(padded, torch.tensor([len(row) for row in rows]))

    def fit(train: Split, valid: Split, seed: int):
        return mle.fit_language_model(train, valid, seed, vocab_size=len(ids) + 2, eos_id=0, start_id=0)

    (fluent,) = lm.lm_score(table(SAMPLES), table(TRAIN), fit, {}, seed=3)
    (covering,) = lm.reverse_lm_score(table(SAMPLES), table(REAL), fit, {}, seed=3)
    assert found["lm_score"]["value"] == pytest.approx(fluent.value, abs=1e-6)
    assert found["reverse_lm"]["value"] == pytest.approx(covering.value, abs=1e-6)
    assert abs(fluent.value - covering.value) > 1e-3


@pytest.mark.parametrize("smoothing", ["method1", "none"])
@pytest.mark.filterwarnings("ignore:\\s*The hypothesis contains 0 counts")
def test_bleu_is_nltks(smoothing, capsys):
    found = scored(capsys, "--metrics", "[bleu]", "--smoothing", smoothing)
    real, function = split(REAL), SmoothingFunction().method1 if smoothing == "method1" else None
    for n in (2, 3, 4, 5):
        each = [sentence_bleu(real, s, weights=[1 / n] * n, smoothing_function=function) for s in split(SAMPLES)]
        assert found[f"bleu{n}"]["value"] == pytest.approx(np.mean(each), abs=1e-9)
        assert f"|smooth:{smoothing}|" in found[f"bleu{n}"]["signature"]


def test_the_first_samples_and_references_alone(capsys):
    found = scored(capsys, "--n", "9", "--refs", "5", "--metrics", "[bleu,self_bleu,length]")
    Path("few.txt").write_text("\n".join(SAMPLES[:9]) + "\n")
    Path("some.txt").write_text("\n".join(REAL[:5]) + "\n")
    again = scored(capsys, "--metrics", "[bleu,self_bleu,length]", samples="few.txt", references="some.txt")
    assert found == again
    assert "|n:9|refs:5|" in found["bleu2"]["signature"]
    assert found["bleu4"]["value"] != scored(capsys, "--metrics", "[bleu]")["bleu4"]["value"]


def test_by_hand(capsys):
    Path("samples.txt").write_text("a b c d\na b\na a b\n")
    Path("real.txt").write_text("a b c d\nx y z\n")
    Path("train.txt").write_text("a b\nc c c\n")
    found = scored(capsys, "--train", "train.txt")
    assert found["copies"]["value"] == pytest.approx(1 / 3)
    assert (found["longest_shared"]["value"], found["longest_shared_max"]["value"]) == (2, 2)
    assert found["length"]["value"] == 3
    assert found["length_references"]["value"] == 3.5
    assert found["distinct1"]["value"] == pytest.approx(4 / 9)
    assert found["distinct2"]["value"] == pytest.approx(4 / 6)  # ab bc cd aa of 3 + 1 + 2
    assert found["unique_sequences"]["value"] == 1


def test_the_table_tells_the_same(capsys):
    found = scored(capsys)
    assert main(["score", "--samples", "samples.txt", "--references", "real.txt"]) == 0
    text = capsys.readouterr().out
    for name, s in found.items():
        assert re.search(rf"^{name} +{s['value']:.4f} ", text, re.MULTILINE), name
        assert s["signature"] in text.replace("\n", "")


def test_quick_is_the_default_and_all_is_all(capsys, tiny_language_model):
    quick = scored(capsys)
    assert not {"copies", "mauve", "lm_score"} & set(quick)
    assert quick == scored(capsys, "--metrics", "[quick]")
    added = scored(capsys, "--train", "train.txt")
    assert set(added) - set(quick) == {"copies", "near_duplicates", "longest_shared", "longest_shared_max"}
    assert {k: (round(v["value"], 9), v["signature"]) for k, v in added.items() if k in quick} == {
        k: (round(v["value"], 9), v["signature"]) for k, v in quick.items()
    }
    everything = scored(capsys, "--train", "train.txt", "--metrics", "[all]")
    assert set(everything) - set(added) == {"mauve", "embsim", "lm_score", "reverse_lm"}
    assert set(added) < set(everything)


def test_a_seed_moves_intervals_alone(capsys):
    one, other = (scored(capsys, "--metrics", "[bleu,distinct]", "--seed", seed) for seed in ("1", "2"))
    for name in one:
        assert one[name]["value"] == other[name]["value"]
        assert one[name]["interval"] != other[name]["interval"] or one[name]["stderr"] == 0
        assert "|seed:2|" in other[name]["signature"]


# --- tokens and signatures -----------------------------------------------------------------------------------------


def test_references_are_called_the_same_whatever_they_are_held_against(capsys):
    """The digest was taken of ids that depend on the samples, so that no two models' figures could be compared."""
    Path("other.txt").write_text("\n".join(sentences(30, 9, "zebra cat ox")) + "\n")
    one, other = scored(capsys), scored(capsys, samples="other.txt")
    assert one["bleu4"]["value"] != other["bleu4"]["value"]
    assert {s["signature"] for n, s in one.items() if n != "fed"} == {
        s["signature"] for n, s in other.items() if n != "fed"
    }
    assert scored(capsys, references="train.txt")["bleu4"]["signature"] != one["bleu4"]["signature"]


def own(name: str, words: str) -> str:
    types = {w: i for i, w in enumerate(["<unk>", *words.split()])}
    tokenizer = Tokenizer(models.WordLevel(types, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    Path(name).parent.mkdir(exist_ok=True)
    tokenizer.save(name)
    return name


def test_other_tokenizers_have_other_signatures(capsys):
    """Two tokenizers of one's own went by the same name, as both files are called tokenizer.json."""
    small, large = (
        own("one/tokenizer.json", "the a cat"),
        own("two/tokenizer.json", "the a cat dog bird fish whale sees eats ."),
    )
    names = ["auto", "word", "punct", "char", small, large]
    found = [scored(capsys, "--metrics", "[self_bleu,distinct,bleu]", "--tokenizer", name) for name in names]
    found.append(scored(capsys, "--metrics", "[self_bleu,distinct,bleu]", "--tokenizer", "word", "--lowercase"))
    assert found[0] == found[1]
    for metric in ("self_bleu4", "distinct2", "bleu2"):
        assert len({f[metric]["signature"] for f in found}) == len(found) - 1
    assert found[4]["distinct1"]["value"] < found[5]["distinct1"]["value"] == found[1]["distinct1"]["value"]
    assert "one" not in found[4]["bleu2"]["signature"]


def test_lower_case(capsys):
    Path("samples.txt").write_text("The CAT sat\nA DOG ran\n")
    Path("real.txt").write_text("the cat sat\na dog ran\nno more\n")
    assert scored(capsys, "--metrics", "[bleu]", "--lowercase")["bleu3"]["value"] == pytest.approx(1)
    assert scored(capsys, "--metrics", "[bleu]")["bleu3"]["value"] < 0.3


@pytest.mark.parametrize(
    ("samples", "real", "more", "length", "told"),
    [
        ("The cat sat.\nA dog!\n", "The cat, the dog.\nA cat ran.\n", [], 3.5, "tok:punct|"),
        ("床前明月光\n疑是\n", "疑是地上霜\n低頭思故鄉\n", [], 3.5, "tok:char|"),
        ("床 前 明 月\n疑 是\n", "疑 是 地 上\n低 頭\n", [], 3, "tok:char|"),
        ("17 4 0\n3 3 3 9 9\n", "1 2 3\n17 4 0\n", [], 4, "tok:word|"),
        ("a b c\na\n", "a b\nc b\n", ["--tokenizer", "char"], 3, "tok:char|"),
        ('{"text": "a b"}\n{"text": "c d"}\n', "a b c\nd e f\n", [], 2, "tok:word|"),
    ],
)
def test_files_are_read_as_for_training(samples, real, more, length, told, capsys):
    Path("samples.txt").write_text(samples)
    Path("real.txt").write_text(real)
    found = scored(capsys, "--metrics", "[length]", *more)
    assert found["length"]["value"] == length
    assert told in found["length"]["signature"]


# --- what cannot be scored -----------------------------------------------------------------------------------------


def test_a_file_held_against_itself(capsys):
    refused(capsys, "real.txt", "the same sequences", "--references", samples="real.txt")
    Path("copy.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in REAL))
    refused(capsys, "copy.jsonl and real.txt", "the same sequences", samples="copy.jsonl")


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--metrics", "[blue]"], ["unknown metric 'blue'", "self_bleu", "all"]),
        (["--metrics", "[bleu,lm]"], ["--metrics lm", "--train FILE"]),
        (["--metrics", "[novelty]"], ["--metrics novelty", "--train FILE"]),
        (["--n", "31"], ["asked for 31 samples, but samples.txt has 30"]),
        (["--n", "0"], ["asked for 0 samples"]),
        (["--n", "1"], ["1 samples", "at least 2"]),
        (["--refs", "41"], ["asked for 41 references, but real.txt has 40"]),
        (["--smoothing", "method9"], ["smoothing", "method9"]),
        (["--tokenizer", "words"], ["--tokenizer words", "word, punct, char, ids"]),
        (["--tokenizer", "real.txt"], ["real.txt", "not a tokenizer.json"]),
        (["--embedder", "bert"], ["bert", "tfidf"]),
        (["--train", "nowhere.txt"], ["nowhere.txt", "no such file"]),
        (["--column", "text"], ["samples.txt", "no columns"]),
        (["--format", "jsonl"], ["samples.txt:1", "not a JSON object"]),
    ],
)
def test_options_that_do_not_fit(argv, words, capsys):
    refused(capsys, *words, argv=argv)


def test_lower_case_is_a_tokenizers_own_matter(capsys):
    argv = ["--lowercase", "--tokenizer", own("t/t.json", "the a")]
    refused(capsys, "--lowercase", "t/t.json", "leave one of them out", argv=argv)


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"", ["empty"]),
        (b"a b\ncaf\xe9\n", [":2", "0xe9"]),
        (b"a b\n", ["1 samples", "at least 2"]),
        (b" \n", ["no seq"]),
    ],
)
def test_files_that_cannot_be_scored(raw, words, capsys):
    Path("samples.txt").write_bytes(raw)
    refused(capsys, *words)


def test_a_line_too_long_to_score_is_named(capsys):
    Path("samples.txt").write_text("a b\n" + "a " * 3000 + "\n")
    refused(capsys, "samples.txt:2: 3000 tokens", "at most 2048")


def test_what_cannot_be_read_may_be_left_out(capsys):
    Path("samples.txt").write_bytes(b"a b\ncaf\xe9\nc d\n")
    found = scored(capsys, "--on_error", "skip", "--metrics", "[length]")
    assert "|n:2|" in found["length"]["signature"]


# --- the same metrics of a run -------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.*sequences to train on")
def test_unigram_text_knows_lengths_and_frequencies_alone():
    corpus = load(DataConfig(source="demo", train_size=4000, valid_size=50, test_size=3000))
    real = corpus.train[slice(3000)]
    floor = unigram_text(real, corpus, 1)
    assert torch.equal(floor.lengths, real.lengths)
    ends = real.ids == corpus.eos_id
    assert torch.equal(floor.ids == corpus.eos_id, ends)
    within, whole = (mask_of(s.lengths, s.ids.shape[1]) & (s.ids != corpus.eos_id) for s in (real, corpus.train))
    assert not floor.ids[~within & ~ends].any()
    n = int(within.sum())
    share, seen = (
        torch.bincount(ids, minlength=corpus.vocab_size) for ids in (corpus.train.ids[whole], floor.ids[within])
    )
    expected = n * share / share.sum()
    assert ((seen - expected).abs() <= 4.5 * (expected + 1).sqrt()).all()
    assert float((floor.ids[within] == real.ids[within]).float().mean()) < 0.5
    config = EvaluateConfig(samples=3000, metrics=["length", "fed"], seed=1)
    rows = {r["name"]: {s["name"]: s["value"] for s in r["scores"]} for r in references(corpus, config)}
    assert rows.keys() == {"training text itself", "unigram text of equal lengths"}
    salad, real_scores = rows["unigram text of equal lengths"], rows["training text itself"]
    assert "length" not in salad
    assert salad["fed"] > 2 * real_scores["fed"]
    assert len(references(corpus, EvaluateConfig(samples=600, metrics=["length"]))) == 1


def test_text_scores_of_a_run_are_those_of_the_files(capsys):
    """The run's own tokens: unknown words count as one, and the signature says which tokenizer it was."""
    held = {"valid": "train.txt", "test": "real.txt"}
    corpus = load(DataConfig(source="train.txt", tokenizer="word", **held))
    ids = [[*corpus.tokenizer.encode(t).ids, 0] for t in SAMPLES]
    drawn = Split(torch.tensor([r + [0] * (7 - len(r)) for r in ids]), torch.tensor([len(r) for r in ids]))
    config = EvaluateConfig(metrics=["quick"], seed=1)
    found = {s.name: s for s in text_scores(drawn, corpus, config, 1.0, novel=True)}
    Path("read.txt").write_text("".join(t.replace("whale", "<unk>") + "\n" for t in REAL))
    plain = scored(capsys, "--train", "train.txt", "--tokenizer", "word", references="read.txt")
    assert set(found) == set(plain)
    for name, s in found.items():
        assert s.value == pytest.approx(plain[name]["value"], abs=1e-9), name
        assert (s.temperature, "|tok:word-" in s.signature) == (1.0, True)
    assert not {s.name for s in text_scores(drawn, corpus, config, 1.0, novel=False)} & {"copies", "longest_shared"}
    assert [s.name for s in text_scores(drawn, corpus, config, 0.5, novel=True)] == ["fed"]  # the frontier's
    smaller = load(DataConfig(source="train.txt", tokenizer="word", vocab_size=6, **held))
    fewer = Split(drawn.ids.clamp_max(5), drawn.lengths)
    other = {s.name: s for s in text_scores(fewer, smaller, config, 1.0, novel=True)}
    assert other["self_bleu4"].signature != found["self_bleu4"].signature


@pytest.mark.filterwarnings("ignore:.*sequences to train on")
def test_a_metric_that_cannot_be_taken_leaves_the_others(capsys):
    corpus = load(DataConfig(source="train.txt", tokenizer="word", valid="real.txt", test="real.txt"))
    alike = Split(torch.tensor([[2, 3, 0]] * 30), torch.full((30,), 3))
    config = EvaluateConfig(metrics=["length", "reverse_lm", "distinct"], seed=1)
    with pytest.warns(UserWarning, match=r"reverse_lm is left out: .*at least 20 distinct samples, but there are 1"):
        found = text_scores(alike, corpus, config, 1.0, novel=True)
    assert {"length", "unique_sequences"} <= {s.name for s in found}


def test_known_metrics():
    assert scoring.known_metrics(["all"]) == scoring.QUICK + scoring.SLOW
    assert scoring.known_metrics(["lm", "quick", "bleu"]) == ["lm", *scoring.QUICK]
    with pytest.raises(ValueError, match="unknown metric 'x'"):
        scoring.known_metrics(["bleu", "x"])


@pytest.mark.filterwarnings("ignore:.*sequences to train on")
def test_what_is_kept_of_the_references_is_not_taken_for_others():
    held = {"valid": "train.txt", "tokenizer": "word"}
    config = EvaluateConfig(metrics=["fed"], seed=1)

    def value(test: str) -> float:
        corpus = load(DataConfig(source="train.txt", test=test, **held))
        (score,) = text_scores(corpus.valid, corpus, config, 1.0, novel=True)
        return score.value

    first = value("real.txt")
    assert value("train.txt") != first
    assert value("real.txt") == first
