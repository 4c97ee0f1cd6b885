"""From files of any kind to a trained run: what a person brings works unchanged, or is refused in one line."""

import gzip
import json
import random
from pathlib import Path

import pytest
from formats import FORMATS, elsewhere, jsonl, lines, own_tokenizer, sentences, write  # noqa: F401

from seqforge.cli import main

MLE = ["--generator.hidden", "8", "--generator.embedding", "8", "--mle.epochs", "1", "--mle.batch", "8"]
MLE += ["--evaluate.samples", "64", "--evaluate.temperatures", "[1.0]", "--evaluate.metrics", "[bleu]"]
MLE += ["--monitor.samples", "32"]
SEQGAN = [*MLE, "--rounds", "1", "--d_pretrain", "1", "--d_samples", "32", "--rollouts", "2", "--batch", "8"]
SEQGAN += ["--discriminator.embedding", "4", "--discriminator.widths", "[1,2]", "--discriminator.filters", "[4,4]"]


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


def test_a_tokenizer_of_ones_own_trains(capsys):
    source = write("lines.txt", sentences())
    name = own_tokenizer({"[UNK]": 0, "cat": 1, "the": 7, "a": 3}, "[UNK]")
    samples, _ = trained(source, capsys, "--data.tokenizer", name)
    assert set(" ".join(samples).split()) <= {"[UNK]", "cat", "the", "a"}


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
    refused(["data", "inspect", name], capsys, *(word.replace("--data.", "--") for word in words))


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
