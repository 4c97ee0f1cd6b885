"""From files of any kind to a corpus, and from there to a trained run: what a person brings works unchanged."""

import dataclasses
import gzip
import json
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers

from seqforge import corpora
from seqforge.cli import main
from seqforge.corpora import load
from seqforge.data.build import texts_of
from seqforge.data.config import DataConfig

MLE = ["--generator.hidden", "8", "--generator.embedding", "8", "--mle.epochs", "1", "--mle.batch", "8"]
MLE += ["--evaluate.samples", "64", "--evaluate.temperatures", "[1.0]", "--evaluate.metrics", "[bleu]"]
MLE += ["--monitor.samples", "32"]
SEQGAN = [*MLE, "--rounds", "1", "--d_pretrain", "1", "--d_samples", "32", "--rollouts", "2", "--batch", "8"]
SEQGAN += ["--discriminator.embedding", "4", "--discriminator.widths", "[1,2]", "--discriminator.filters", "[4,4]"]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def sentences(n: int = 40, marks: str = " .", seed: int = 0) -> list[str]:
    draw = random.Random(seed)
    nouns, verbs = ["cat", "dog", "bird", "fish"], ["sees", "eats", "likes"]
    parts = lambda: (draw.choice(("the", "a")), draw.choice(nouns))  # noqa: E731
    return [
        " ".join((*parts(), draw.choice(verbs), *(w for _ in range(draw.choice((1, 2))) for w in parts()))) + marks
        for _ in range(n)
    ]


# --- the same sentences in every format ----------------------------------------------------------------------------


def lines(texts):
    return "\n".join(texts) + "\n"


def paragraphs(texts):
    return "\n\n".join(text.replace(" ", "\n", 1) for text in texts) + "\n"


def scratchgan(texts):
    return json.dumps([{"s": text, "id": i} for i, text in enumerate(texts)])


def json_texts(texts):
    return json.dumps([{"text": text} for text in texts], ensure_ascii=False)


def jsonl(texts):
    return lines(json.dumps({"text": text, "n": 1}) for text in texts)


def completions(texts):
    return lines(json.dumps({"prompt": f"say {i}", "completion": text}) for i, text in enumerate(texts))


def messages(texts):
    pairs = zip(texts[::2], texts[1::2], strict=True)
    turns = [[{"role": "user", "content": a}, {"role": "assistant", "content": b}] for a, b in pairs]
    return lines(json.dumps({"messages": turn}) for turn in turns)


def csv_table(texts):
    return lines(["id,text", *(f'{i},"{text}"' for i, text in enumerate(texts))])


def tsv_table(texts):
    return lines(["id\ttext", *(f"{i}\t{text}" for i, text in enumerate(texts))])


FORMATS = {
    "lines.txt": lines,
    "no-ending": lines,
    "paragraphs.txt": paragraphs,
    "scratchgan.json": scratchgan,
    "texts.json": json_texts,
    "texts.jsonl": jsonl,
    "completions.jsonl": completions,
    "messages.jsonl": messages,
    "table.csv": csv_table,
    "table.tsv": tsv_table,
    "lines.txt.gz": lines,
    "texts.jsonl.gz": jsonl,
    "table.csv.gz": csv_table,
    "table.parquet": None,
}


def write(name: str, texts: list[str]) -> str:
    make = FORMATS[name]
    if make is None:
        pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        pq.write_table(pa.table({"n": list(range(len(texts))), "text": texts}), name)
    else:
        raw = make(texts).encode()
        Path(name).write_bytes(gzip.compress(raw) if name.endswith(".gz") else raw)
    return name


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


# --- training on each ----------------------------------------------------------------------------------------------


def trained(source: str, capsys, *more: str) -> tuple[list[str], str]:
    """Sample lines of a run on `source`, and what it said."""
    capsys.readouterr()
    assert main(["train", "seqgan", "--data", source, *SEQGAN, *more, "--out", "run"]) == 0
    assert "<html" in Path("run/report.html").read_text()
    written = sorted(Path("run/samples").iterdir(), key=lambda p: int(p.stem.split("-")[1]))
    return written[-1].read_text().splitlines(), capsys.readouterr().err


def readable(samples: list[str], words: set[str]) -> None:
    assert len(samples) == 32
    assert set(" ".join(samples).split()) <= words | {"<unk>"}
    assert len(set(samples)) > 8


@pytest.mark.parametrize(
    "name", [n for n in FORMATS if n not in ("no-ending", "texts.json", "table.csv.gz", "lines.txt.gz")]
)
def test_any_format_trains(name, capsys):
    texts = sentences()
    samples, said = trained(write(name, texts), capsys)
    readable(samples, set(" ".join(texts).split()))
    assert "only 32 sequences to train on and 4 held out" in said


def test_attached_punctuation_is_attached_in_samples(capsys):
    samples, _ = trained(write("lines.txt", sentences(marks=".")), capsys)
    assert any("." in s for s in samples)
    assert not any(" ." in s for s in samples)


def test_a_folder_trains(capsys):
    Path("data").mkdir()
    for name, n, seed in (("train.txt", 30, 0), ("valid.txt", 6, 1), ("test.txt", 5, 2)):
        Path("data", name).write_text(lines(sentences(n, seed=seed)))
    samples, said = trained("data", capsys)
    readable(samples, set(" ".join(sentences()).split()))
    assert "only 30 sequences to train on and 5 held out" in said


@pytest.mark.parametrize("kind", ["equal", "unequal"])
def test_ids_train(kind, capsys):
    draw = random.Random(0)
    rows = [[draw.randrange(9) for _ in range(5 if kind == "equal" else draw.randrange(2, 6))] for _ in range(39)]
    Path("ids.txt").write_text(lines(" ".join(map(str, row)) for row in [*rows, [8] * 5]))
    samples, _ = trained("ids.txt", capsys)
    ids = [[int(w) for w in s.split()] for s in samples]
    assert max(max(row, default=0) for row in ids) <= 8
    assert {len(row) for row in ids} == {5} if kind == "equal" else len({len(row) for row in ids}) > 1


LANGUAGES = {
    "Arabic": ["مرحبا، كيف حالك؟", "أنا بخير، شكرا.", "هذا كتابٌ جديد!", "قال: «نعم»."],
    "Thai": ["สวัสดีครับ", "ผมชื่อสมชาย", "วันนี้อากาศดีมาก", "ขอบคุณครับ"],
    "emoji": ["👨‍👩‍👧👍😀", "🎉🎉😀", "😀👨‍👩‍👧🎉👍", "👍🏽🎉"],
    "poems": ["床 前 明 月 光", "疑 是 地 上 霜", "舉 頭 望 明 月", "低 頭 思 故 鄉"],
}


@pytest.mark.parametrize("name", LANGUAGES)
def test_any_script_trains(name, capsys):
    texts = LANGUAGES[name] * 10
    Path("text.txt").write_text(lines(texts))
    samples, _ = trained("text.txt", capsys)
    said = "".join(samples).replace("<unk>", "")
    seen = set("".join(texts))
    assert set(said) <= seen | {" "}
    assert len(set(said) & seen) > 5
    assert name == "Arabic" or not any(" " in s for s in samples)
    if name == "emoji":
        assert "👨‍👩‍👧" in said
        assert said.count("\u200d") == 2 * said.count("👨‍👩‍👧")  # families stay whole


def test_ten_lines_train_with_a_warning(capsys):
    Path("ten.txt").write_text(lines(sentences(10)))
    samples, said = trained("ten.txt", capsys)
    assert len(samples) == 32
    assert "ten.txt: only 8 sequences to train on and 1 held out" in said
    assert "thousands are needed" in said


# --- splits and vocabulary -----------------------------------------------------------------------------------------


def corpus_of(text: str | list[str], **more) -> corpora.Corpus:
    Path("text.txt").write_text(text if isinstance(text, str) else lines(text))
    return load(DataConfig(source="text.txt", **more))


quiet = pytest.mark.filterwarnings("ignore:.*(sequences to train on|sequences are longer)")


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


def own_tokenizer(types: dict[str, int], unk: str) -> str:
    tokenizer = Tokenizer(models.WordLevel(types, unk_token=unk))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.save("own.json")
    return "own.json"


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


def test_a_tokenizer_of_ones_own_trains(capsys):
    source = write("lines.txt", sentences())
    name = own_tokenizer({"[UNK]": 0, "cat": 1, "the": 7, "a": 3}, "[UNK]")
    samples, _ = trained(source, capsys, "--data.tokenizer", name)
    assert set(" ".join(samples).split()) <= {"[UNK]", "cat", "the", "a"}


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


# --- what cannot be read -------------------------------------------------------------------------------------------


def refused(argv: list[str], capsys, *words: str) -> None:
    """Exit 2, one line on stderr with these words, nothing left behind."""
    before = sorted(Path().rglob("*"))
    capsys.readouterr()
    assert main(argv) == 2
    said = [x for x in capsys.readouterr().err.splitlines() if not x.startswith("warning: ")]
    assert len(said) == 1, said
    assert said[0].startswith("seqforge: ")
    for word in words:
        assert word in said[0]
    assert sorted(Path().rglob("*")) == before


GOOD = lines(sentences(20)).encode()
BAD = {
    "invalid UTF-8": ("text.txt", GOOD + b"caf\xe9 .\n", ["text.txt:21", "0xe9", "iconv"]),
    "NUL": ("text.txt", GOOD + b"a \0 b\n", ["text.txt:21", "NUL", "remove"]),
    "empty": ("text.txt", b"", ["text.txt", "empty"]),
    "blanks only": ("text.txt", b" \n\t\n\n   \n", ["text.txt", "no sequence"]),
    "one line": ("text.txt", b"the cat sat .\n", ["text.txt", "1 sequences; at least 10", "--data.valid"]),
    "binary": ("text.txt", bytes(range(256)) * 20, ["text.txt", "binary"]),
    "a picture": ("text.txt", b"\x89PNG\r\n\x1a\n" + bytes(50), ["text.txt", "a PNG picture"]),
    "a zip": ("text.txt", b"PK\x03\x04" + bytes(50), ["text.txt", "a zip archive", "unpack"]),
    "broken gzip": ("text.gz", gzip.compress(GOOD)[:-9], ["text.gz", "broken gzip"]),
    "no such column": ("a.csv", b"title,body\nx,y\n", ["a.csv:1", "which column", "--data.column", "'body'"]),
    "mixed records": (
        "a.jsonl",
        b'{"text": "a"}\n{"text": "b"}\n{"s": "c"}\n',
        ["a.jsonl:3", "'text'", "--data.column"],
    ),
    "not an object": ("a.json", b'[{"s": "a b"}, 3]', ["a.json:1", "record 2", "a number"]),
    "broken JSON": ("a.json", b'[{"s": "a b"},\n{"s": ]', ["a.json:2", "not valid JSON"]),
    "the end token": ("text.txt", GOOD + b"the cat <eos> sat .\n", ["text.txt:21", "<eos>", "--data.eos_token"]),
    "the end token in a word": ("text.txt", GOOD + b"x<eos>y\n", ["text.txt:21", "--data.eos_token"]),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_files(kind, capsys):
    name, raw, words = BAD[kind]
    Path(name).write_bytes(raw)
    refused(["train", "seqgan", "--data", name, *SEQGAN, "--out", "new"], capsys, *words)
    refused(["data", "inspect", name], capsys, *words)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--data.max_length", "3"], ["text.txt:", "9 tokens with its end token", "is 3 (16 such)", "--data.overlong"]),
        (["--data.max_length", "0"], ["data.max_length is 0", "at least 1"]),
        (["--data.max_length", "3", "--data.overlong", "skip"], ["text.txt", "no train sequence is left"]),
        (["--data.tokenizer", "nowhere.json"], ["data.tokenizer is 'nowhere.json'", "word, punct, char, bpe, ids"]),
        (["--data.tokenizer", "text.txt"], ["text.txt", "not a tokenizer.json"]),
        (["--data.tokenizer", "ids"], ["text.txt:", "is not a token id"]),
        (["--data.vocab_size", "1"], ["data.vocab_size is 1", "at least 3"]),
        (["--data.tokenizer", "bpe", "--data.vocab_size", "100"], ["vocab_size is 100", "at least 257"]),
        (["--data.min_frequency", "9999"], ["min_frequency is 9999", "lower it"]),
        (["--data.eos_token", "the end"], ["data.eos_token is 'the end'"]),
        (["--data.eos_token", ""], ["data.eos_token is ''"]),
        (["--data.eos_token", "<unk>"], ["data.eos_token is '<unk>'", "other than"]),
        (["--data.unk_token", "not known"], ["data.unk_token is 'not known'"]),
        (["--data.unk_token", ""], ["data.unk_token is ''"]),
        (["--data.eos_token", "the"], ["text.txt:", "holds the end token the itself"]),
        (["--data.format", "ids"], ["text.txt:1", "is not a token id"]),
        (["--data.format", "csv", "--data.column", "x"], ["text.txt:1", "no column 'x'"]),
        (["--data.column", "text"], ["text.txt", "--data.column", "no columns"]),
        (["--data.valid", "nowhere.txt"], ["nowhere.txt", "no such file"]),
    ],
)
def test_options_that_do_not_fit(options, words, capsys):
    texts = [s for s in sentences(200) if len(s.split()) == 8][:20]
    Path("text.txt").write_text(lines(texts))
    refused(["train", "mle", "--data", "text.txt", *MLE, *options, "--out", "new"], capsys, *words)


def test_max_length_names_the_line_of_the_first_that_is_too_long(capsys):
    Path("test.txt").write_text("a b .\n")
    Path("valid.txt").write_text("a b .\n\na b c d e .\n")
    Path("text.txt").write_text("a b c d e .\n" * 12)
    argv = ["train", "mle", "--data", "text.txt", "--data.max_length", "7", *MLE, "--out", "new"]
    held = ["--data.valid", "valid.txt", "--data.test", "test.txt"]
    assert main([*argv, *held]) == 0
    Path("valid.txt").write_text("a b .\n\na b c d e f .\n")
    refused([*argv, *held, "--out", "other"], capsys, "valid.txt:3", "8 tokens", "max_length is 7 (1 such)")


def test_ids_beyond_the_vocabulary(capsys):
    Path("ids.txt").write_text("1 2 3\n" * 20 + "1 2 9\n")
    argv = ["train", "mle", "--data", "ids.txt", "--data.vocab_size", "9", *MLE, "--out", "new"]
    refused(argv, capsys, "ids.txt:21", "id 9 is beyond the vocabulary of 9", "--data.vocab_size")


def test_a_folder_without_a_training_file(capsys):
    Path("data").mkdir()
    Path("data/test.txt").write_bytes(GOOD)
    argv = ["train", "mle", "--data", "data", *MLE, "--out", "new"]
    refused(argv, capsys, "data: no train file", "train.txt")


def test_what_cannot_be_read_may_be_left_out_and_is_counted(capsys):
    Path("a.jsonl").write_bytes(
        jsonl(sentences(20)).encode() + b'{"text": 3}\n{"text": "caf\xe9"}\nnot json\n{"text": 4}\n'
    )
    argv = ["train", "mle", "--data", "a.jsonl", *MLE]
    refused([*argv, "--out", "new"], capsys, "a.jsonl:21", "--data.on_error skip")
    assert main([*argv, "--data.on_error", "skip", "--out", "new"]) == 0
    said = capsys.readouterr().err
    assert "left out 2 x field not text (the first: a.jsonl:21" in said
    assert "left out 1 x invalid UTF-8 (the first: a.jsonl:22" in said
    assert "left out 1 x not JSON (the first: a.jsonl:23" in said
    assert main(["data", "inspect", "a.jsonl", "--on_error", "skip", "--json"]) == 0
    skipped = json.loads(capsys.readouterr().out)["files"]["train"]["skipped"]
    assert skipped == {"field not text": 2, "invalid UTF-8": 1, "not JSON": 1}


def test_the_table_of_a_corpus_holds_its_texts():
    """End to end by hand: ids, lengths and digest of ten lines."""
    with pytest.warns(UserWarning, match="only 8 sequences"):
        corpus = corpus_of(["b a", "a"] * 5)
    assert set(map(tuple, corpus.train.ids.tolist())) == {(3, 2, 0), (2, 0, 0)}  # a: 8, b: 5 or fewer
    assert corpus.train.ids.dtype == torch.int64
    assert np.unique(corpus.train.lengths.numpy()).tolist() == [2, 3]
    assert corpus.digest == corpus.train.digest()
    assert corpus.source == "lines:text.txt"
