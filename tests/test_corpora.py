"""From files of any kind to a corpus: what is in it, in whichever format it came, its splits and its vocabulary."""

import dataclasses
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from formats import FORMATS, elsewhere, lines, own_tokenizer, sentences, write  # noqa: F401

from seqforge import corpora
from seqforge.corpora import load
from seqforge.data.build import texts_of
from seqforge.data.config import DataConfig


@pytest.mark.parametrize("marks", [" .", "."])
@pytest.mark.filterwarnings("ignore:.*sequences to train on")
def test_the_same_sentences_in_every_format_are_the_same_corpus(marks):
    """Texts in a JSON list were always split at blanks: punctuation clung to its word, unlike in any other format."""
    texts = sentences(marks=marks)
    found = {name: load(DataConfig(source=write(name, texts))) for name in FORMATS}
    first = found["lines.txt"]
    assert first.kind == ("word" if marks == " ." else "punct")
    for name, corpus in found.items():
        assert corpus.digest == first.digest, name
        assert corpus.tokenizer.get_vocab() == first.tokenizer.get_vocab(), name
        assert sorted(corpus.decode(corpus.test.ids, corpus.test.lengths)) == sorted(
            first.decode(first.test.ids, first.test.lengths)
        )
    assert load(DataConfig(source=write("lines.txt", sentences(marks=marks, seed=1)))).digest != first.digest


# --- splits and vocabulary -----------------------------------------------------------------------------------------


def corpus_of(text: str | list[str], **more) -> corpora.Corpus:
    Path("text.txt").write_text(text if isinstance(text, str) else lines(text))
    return load(DataConfig(source="text.txt", **more))


quiet = pytest.mark.filterwarnings(
    "ignore:.*(sequences to train on|sequences are longer|training sequences too|are unknown)"
)


@quiet
def test_the_vocabulary_is_that_of_the_training_split_alone():
    Path("valid.txt").write_text("the whale sees a dog .\n" * 2)
    Path("test.txt").write_text("a squid .\n" * 2)
    corpus = corpus_of(["the dog sees a cat .", "a cat ."] * 9, valid="valid.txt", test="test.txt")
    assert set(corpus.tokenizer.get_vocab()) == {"<eos>", "<unk>", "the", "dog", "sees", "a", "cat", "."}
    assert corpus.vocab_size == 8
    assert corpus.decode(corpus.valid.ids, corpus.valid.lengths) == ["the <unk> sees a dog ."] * 2
    assert corpus.unk_id == 1
    assert int((corpus.test.ids == 1).sum()) == 2
    held = corpus_of([f"word{i} again" for i in range(40)])  # drawn from the same file
    train = set(" ".join(held.decode(held.train.ids, held.train.lengths)).split())
    assert set(held.tokenizer.get_vocab()) == train | {"<eos>", "<unk>"}
    assert held.decode(held.test.ids, held.test.lengths) == ["<unk> again"] * 4


@quiet
def test_what_is_held_out_is_drawn_once_and_from_the_seed():
    texts = [f"line {i}" for i in range(100)]
    corpus = corpus_of(texts, valid_size=7)
    parts = [corpus.decode(s.ids, s.lengths) for s in (corpus.train, corpus.valid, corpus.test)]
    assert [len(p) for p in parts] == [83, 7, 10]
    everything = texts_of(*_documents(valid_size=7))
    assert sorted(t for part in everything.values() for t in part) == sorted(texts)
    assert everything["train"] == parts[0]
    assert corpus_of(texts, valid_size=7).digest == corpus.digest
    assert corpus_of(texts, valid_size=7, seed=1).digest != corpus.digest


def _documents(**more):
    config = DataConfig(source="text.txt", **more)
    return corpora.documents_and_corpus(config)[0], config


def test_repeats_that_reach_into_the_sets_held_out_are_told(recwarn):
    """1,000 lines of which 40 differ: all of the test set had been trained on, and nothing said so."""
    text = [f"line number {k % 40} of a file" for k in range(1000)]
    corpus_of(text)
    told = "100 of the 100 valid and 100 of the 100 test sequences are training sequences too"
    assert any(told in str(w.message) for w in recwarn)
    recwarn.clear()
    apart = corpus_of(text, repeats="apart")
    rows = {name: {tuple(r) for r in getattr(apart, name).ids.tolist()} for name in ("train", "valid", "test")}
    assert len(rows["train"]) == 32
    assert not rows["train"] & (rows["valid"] | rows["test"])
    assert (len(apart.valid), len(apart.test)) == (100, 100)  # whole groups of 25
    assert not [w for w in recwarn if "training sequences too" in str(w.message)]


@quiet
def test_repeats_apart_leave_out_of_training_what_a_file_of_its_own_holds(tmp_path):
    (tmp_path / "train.txt").write_text("".join(f"line number {k}\n" for k in range(30)))
    (tmp_path / "test.txt").write_text("line number 3\nline number 4\nanother line\n")
    for repeats, left in (("keep", 27), ("apart", 25)):
        config = DataConfig(str(tmp_path / "train.txt"), test=str(tmp_path / "test.txt"), repeats=repeats)
        corpus = load(config)
        assert (len(corpus.train), len(corpus.valid), len(corpus.test)) == (left, 3, 3)


def test_a_vocabulary_too_small_is_told(recwarn):
    """A recipe's 20 token types on a text of 1,500 made a third of it unknown, without a word."""
    text = [" ".join(f"word{(7 * k + j) % 300}" for j in range(9)) for k in range(200)]
    corpus_of(text, vocab_size=20)
    told = [str(w.message) for w in recwarn if "are unknown" in str(w.message)]
    assert len(told) == 1
    assert "tokens are unknown; raise --data.vocab_size" in told[0]


@quiet
@pytest.mark.parametrize("kind", ["word", "punct", "char", "bpe"])
def test_every_sequence_ends_with_one_end_token(kind):
    texts = sentences(40, marks=".")
    corpus = corpus_of(texts, tokenizer=kind)
    for split in (corpus.train, corpus.valid, corpus.test):
        for row, n in zip(split.ids.tolist(), split.lengths.tolist(), strict=True):
            assert row[:n].count(corpus.eos_id) == 1
            assert row[n - 1] == corpus.eos_id == corpus.start_id == 0
    words = [corpus.tokenizer.encode(t).ids for t in texts]
    assert corpus.max_length == max(map(len, words)) + 1
    assert (
        corpus.decode(corpus.train.ids, corpus.train.lengths) == texts_of(*_documents(tokenizer=kind))["train"]
        or kind == "word"
    )


@quiet
def test_rare_types_become_unknown_only_where_there_is_text_enough():
    plain = [f"a b c d e f g h i once{i}" for i in range(2500)]
    large = corpus_of(plain, valid_size=10, test_size=10)
    assert set(large.tokenizer.get_vocab()) == {"<eos>", "<unk>", *"abcdefghi"}
    small = corpus_of(plain[:1000], valid_size=10, test_size=10)
    assert small.vocab_size == 11 + 980
    assert corpus_of(plain, valid_size=10, test_size=10, min_frequency=1).vocab_size == 11 + 2480


@quiet
def test_the_first_sequences_alone():
    """The limit is on what is trained on; it cut the files for validation and test as well."""
    Path("test.txt").write_text(lines(sentences(50, seed=1)))
    corpus = corpus_of(sentences(100), limit=20, test="test.txt")
    assert [len(s) for s in (corpus.train, corpus.valid, corpus.test)] == [18, 2, 50]


@quiet
@pytest.mark.parametrize("more", [{}, {"tokenizer": "bpe"}, {"max_length": 9, "overlong": "skip"}, {"lowercase": True}])
def test_the_effective_configuration_gives_the_same_corpus(more):
    corpus = corpus_of([*sentences(60, marks="."), "one Long line " * 30], **more)
    full = corpora.effective(DataConfig(source="text.txt", **more), corpus)
    again = load(full)
    assert (again.digest, again.max_length, again.eos_id) == (corpus.digest, corpus.max_length, corpus.eos_id)
    assert again.tokenizer.to_str() == corpus.tokenizer.to_str()
    assert full.tokenizer == corpus.kind != "auto"


@quiet
def test_long_ids_of_one_length_stay_without_an_end_token():
    """Cut to 256 by the automatic choice, the configuration that was kept read them anew with an end token, and the
    run could be neither resumed nor scored: its vocabulary had grown by one."""
    corpus = corpus_of("1 2 3 " * 100 + "\n" + ("3 2 1 " * 100 + "\n") * 20)
    assert (corpus.max_length, corpus.eos_id, corpus.vocab_size) == (256, None, 4)
    again = load(corpora.effective(DataConfig(source="text.txt"), corpus))
    assert (again.eos_id, again.vocab_size, again.digest) == (None, 4, corpus.digest)


@quiet
@pytest.mark.parametrize(
    ("rows", "more", "expected"),
    [
        (["1 2 3", "0 2 2"], {}, (None, 4, 3)),
        (["1 2 3", "0 2"], {}, (4, 5, 4)),  # the end token is the id after the last
        (["1 2 3", "0 2"], {"vocab_size": 9}, (9, 10, 4)),
        (["1 2 3", "0 2 2"], {"max_length": 5}, (4, 5, 5)),  # room to go on: an end token says where it ends
        (["1 2 3", "0 2 2"], {"max_length": 2, "overlong": "truncate"}, (None, 4, 2)),
        (["1 2 3", "0 2 2"], {"tokenizer": "word"}, (0, 6, 4)),
    ],
)
def test_ids(rows, more, expected):
    corpus = corpus_of(rows * 10, **more)
    assert (corpus.eos_id, corpus.vocab_size, corpus.max_length) == expected
    assert corpus.start_id == (corpus.eos_id or 0)
    assert set(corpus.decode(corpus.train.ids, corpus.train.lengths)) == (
        {"1 2", "0 2"} if "overlong" in more else set(rows)
    )


@quiet
@pytest.mark.parametrize(
    ("types", "eos", "size"),
    [
        ({"<unk>": 0, "the": 1, "cat": 2, "</s>": 3}, 3, 4),
        ({"<unk>": 0, "the": 1, "cat": 2}, 3, 4),
        ({"<unk>": 0, "the": 1, "cat": 9}, 3, 10),  # with ids left out, where the end token falls in between
    ],
)
def test_a_tokenizer_of_ones_own(types, eos, size):
    """The size was the number of types: an id beyond it broke the embedding."""
    corpus = corpus_of(["the cat", "the dog the cat"] * 10, tokenizer=own_tokenizer(types, "<unk>"))
    assert (corpus.eos_id, corpus.start_id, corpus.vocab_size, corpus.unk_id) == (eos, eos, size, 0)
    assert int(corpus.train.ids.max()) < size
    assert set(corpus.decode(corpus.train.ids, corpus.train.lengths)) == {"the cat", "the <unk> the cat"}


def test_no_end_token_can_be_added_where_its_id_is_taken():
    """It was given the id of another word, and that word's line was blamed."""
    name = own_tokenizer({"<unk>": 0, "the": 1, "cat": 3}, "<unk>")
    with pytest.raises(ValueError, match=r"own\.json: it leaves out ids, so that no end token"):
        corpus_of(["the cat"] * 20, tokenizer=name)


def test_one_very_long_line_is_cut_with_a_warning():
    texts = sentences(1000)
    texts[500] = "long " * 100_000
    with pytest.warns(
        UserWarning, match=r"text\.txt \((train|valid|test)\): 1 of \d+ .* 9 tokens and are cut.*txt:501"
    ):
        corpus = corpus_of(texts)
    assert {s.ids.shape[1] for s in (corpus.train, corpus.valid, corpus.test)} == {9}


@quiet
def test_sequences_that_are_left_out(capsys):
    texts = [*sentences(30), *["a b c d e f g h i j k ."] * 10]
    with pytest.warns(UserWarning, match="are left out"):
        corpus = corpus_of(texts, max_length=9, overlong="skip")
    assert "j k" not in " ".join(corpus.decode(corpus.train.ids, corpus.train.lengths))
    assert sum(len(s) for s in (corpus.train, corpus.valid, corpus.test)) == 30


def test_the_demo_has_the_whole_vocabulary_and_its_judge():
    config = DataConfig(source="demo", train_size=600, valid_size=20, test_size=30)
    documents, corpus = corpora.documents_and_corpus(config)
    assert [len(s) for s in (corpus.train, corpus.valid, corpus.test)] == [600, 20, 30]
    assert int((corpus.test.ids == corpus.unk_id).sum()) == 0
    assert corpus.judge is not None
    counts = Counter(w for t in documents["train"].texts for w in t.split())
    assert set(counts) <= set(corpus.tokenizer.get_vocab())
    assert corpora.settings(config, documents, corpus)["min_frequency"] == 1
    assert load(dataclasses.replace(config, seed=1)).digest != corpus.digest


def test_the_table_of_a_corpus_holds_its_texts():
    """End to end by hand: ids, lengths and digest of ten lines."""
    with pytest.warns(UserWarning, match="only 8 sequences"):
        corpus = corpus_of(["b a", "a"] * 5)
    assert set(map(tuple, corpus.train.ids.tolist())) == {(3, 2, 0), (2, 0, 0)}  # a: 8, b: 5 or fewer
    assert corpus.train.ids.dtype == torch.int64
    assert np.unique(corpus.train.lengths.numpy()).tolist() == [2, 3]
    assert corpus.digest == corpus.train.digest()
    assert corpus.source == "lines:text.txt"
