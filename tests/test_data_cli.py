"""`seqforge data`: what a file holds, counted by hand; token ids turned back into text; the list of corpora."""

import json
import os
import pickle
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from seqforge import cli_data, corpora
from seqforge.cli import main
from seqforge.corpora import load
from seqforge.data import inspect, published
from seqforge.data.config import DataConfig


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def printed(argv: list[str], capsys) -> str:
    capsys.readouterr()
    assert main(["data", *argv]) == 0
    return capsys.readouterr().out


def refused(argv: list[str], capsys, *words: str) -> None:
    before = sorted(Path().rglob("*"))
    capsys.readouterr()
    assert main(["data", *argv]) == 2
    said = [x for x in capsys.readouterr().err.splitlines() if not x.startswith("warning: ")]
    assert len(said) == 1, said
    for word in words:
        assert word in said[0]
    assert sorted(Path().rglob("*")) == before


# --- inspect -------------------------------------------------------------------------------------------------------

TRAIN = ["the cat sat .", "the cat sat .", "the dog ran .", "a cat ran", "the cat sat ."]
VALID = ["the bird sat .", "the cat sat .", "a fish swam ."]
TEST = ["the dog ran .", "the bird sat .", "the dog ran .", "an owl"]


@pytest.fixture
def folder():
    Path("data").mkdir()
    for name, texts in (("train", TRAIN), ("valid", VALID), ("test", TEST)):
        Path("data", f"{name}.txt").write_text("\n".join(texts) + "\n")
    return "data"


def inspected(argv: list[str], capsys) -> dict:
    return json.loads(printed(["inspect", *argv, "--json"], capsys))


def test_counts_of_a_folder_by_hand(folder, capsys):
    found = inspected([folder], capsys)
    assert found["files"]["train"] == {
        "path": "data/train.txt",
        "format": "lines",
        "sequences": 5,
        "skipped": {},
        "characters": sum(map(len, TRAIN)),
    }
    splits = found["splits"]
    assert [splits[s]["sequences"] for s in ("train", "valid", "test")] == [5, 3, 4]
    assert [splits[s]["tokens"] for s in ("train", "valid", "test")] == [19 + 5, 12 + 3, 14 + 4]
    assert [splits[s]["mean length"] for s in ("train", "valid", "test")] == [4.8, 5.0, 4.5]
    assert splits["train"]["longest"] == 5
    # words never seen in training: bird, fish, swam of 12; bird, an, owl of 14
    assert [splits[s]["unknown rate"] for s in ("train", "valid", "test")] == [0, 3 / 12, round(3 / 14, 5)]
    assert found["duplicates"] == {"train": 2, "valid": 0, "test": 1}
    assert found["overlap"] == {
        "valid lines that are in train": 1,
        "test lines that are in train": 2,
        "test lines that are in valid": 1,
    }


def test_the_vocabulary_by_hand(folder, capsys):
    """the, cat, . four times each; sat three; ran two; a, dog once: 19 in all. Neither end nor unknown is a word."""
    found = inspected([folder], capsys)["vocabulary"]
    assert found["types"] == 7 + 2
    assert (found["never seen in training"], found["seen once"]) == (1, 2)  # never: the unknown token
    assert found["types that cover 90 %"] == 6  # 4 + 4 + 4 + 3 + 2 = 17 of 19 is 89 %
    assert found["types that cover 99 %"] == 7
    assert found["most frequent"][:5] == [".", "cat", "the", "sat", "ran"]
    assert set(found["most frequent"][5:]) == {"a", "dog"}


def test_how_many_types_cover_how_much(capsys):
    """a 89 times, b 9, c and d once: two types cover 98 of 100 words, three cover 99."""
    words = ["a"] * 89 + ["b"] * 9 + ["c", "d"]
    Path("train.txt").write_text("".join(" ".join(words[i::10]) + "\n" for i in range(10)))
    Path("held.txt").write_text("a b\n")
    found = inspected(["train.txt", "--valid", "held.txt", "--test", "held.txt"], capsys)["vocabulary"]
    assert (found["types that cover 90 %"], found["types that cover 99 %"]) == (2, 3)
    assert found["most frequent"] == ["a", "b", "c", "d"]


def test_lengths_by_hand(folder, capsys):
    assert inspected([folder], capsys)["lengths"] == [
        {"from": 4, "to": 4, "sequences": 1},
        {"from": 5, "to": 5, "sequences": 4},
    ]


@pytest.mark.parametrize("lengths", [[7] * 9, range(1, 13), range(3, 100), [1, 1000], [5, 5, 9, 40, 2]])
def test_a_histogram_counts_every_sequence_once(lengths):
    lengths = np.array(lengths)
    found = inspect.histogram(lengths)
    assert len(found) <= 12
    assert sum(b["sequences"] for b in found) == len(lengths)
    assert (found[0]["from"], found[-1]["to"]) == (lengths.min(), lengths.max())
    for b in found:
        assert b["sequences"] == ((lengths >= b["from"]) & (lengths <= b["to"])).sum()
    assert all(a["to"] + 1 == b["from"] for a, b in pairwise(found))


def test_rare_words_do_not_make_duplicates(capsys):
    """Sentences that differed in a word beyond the vocabulary were counted as duplicates."""
    Path("a.txt").write_text("".join(f"my name is word{i} .\n" for i in range(60)))
    found = inspected(["a.txt", "--vocab_size", "6"], capsys)
    assert found["duplicates"] == {"train": 0, "valid": 0, "test": 0}
    assert set(found["overlap"].values()) == {0}
    assert found["splits"]["train"]["unknown rate"] == 0.2


def test_samples_are_shown_as_read_and_as_decoded(folder, capsys):
    found = inspected([folder, "--vocab_size", "6"], capsys)["samples"]
    assert sorted(found["as read"]) == sorted(TRAIN)
    kept = {"the", "cat", ".", "sat"}
    expected = [" ".join(w if w in kept else "<unk>" for w in text.split()) for text in found["as read"]]
    assert found["as decoded"] == expected


def test_how_many_were_cut(folder, capsys):
    found = inspected([folder, "--max_length", "4", "--overlong", "truncate"], capsys)
    assert [found["splits"][s]["cut"] for s in ("train", "valid", "test")] == [4, 3, 3]
    assert found["splits"]["train"]["tokens"] == 5 * 4
    assert found["splits"]["train"]["unknown rate"] == 0


@pytest.mark.parametrize(
    ("text", "more"),
    [
        ("".join(f"the cat sat on mat {i} .\n" for i in range(60)), []),
        ("".join(f"The cat sat, on mat {i}.\n" for i in range(60)), ["--lowercase", "true"]),
        ("".join(f"The cat sat on mat {i}.\n" for i in range(60)), ["--tokenizer", "bpe"]),
        ("".join(f"{i} 2 3\n" for i in range(60)), []),
        ("".join(f"{i} 2 3{' 4' * (i % 2)}\n" for i in range(60)), []),
        ("床前明月光\n疑是地上霜\n" * 30, []),
        ("".join(f"a b c d e f g h i{i}\n" for i in range(2100)), ["--valid_size", "60", "--test_size", "60"]),
        ("".join(f"a b c d e f g h i{i}\n" for i in range(2300)), []),  # 23,000 words, of them 18,400 to train on
    ],
)
@pytest.mark.filterwarnings("ignore:.*(sequences to train on|sequences are longer)")
def test_the_settings_told_make_the_same_corpus(text, more, capsys):
    """min_frequency was looked up in the whole file, and of ids the end token was counted that --data.vocab_size does
    not count."""
    Path("a.txt").write_text(text)
    given = {k.removeprefix("--"): v for k, v in zip(more[::2], more[1::2], strict=True)}
    given = {k: True if v == "true" else int(v) if v.isdigit() else v for k, v in given.items()}
    chosen = {k.removeprefix("data."): v for k, v in inspected(["a.txt", *more], capsys)["settings"].items()}
    assert set(chosen) == {"format", "tokenizer", "vocab_size", "min_frequency", "max_length", "overlong"}
    plain, again = (load(DataConfig(source="a.txt", **(given | extra))) for extra in ({}, chosen))
    assert (again.digest, again.vocab_size, again.eos_id) == (plain.digest, plain.vocab_size, plain.eos_id)
    assert again.tokenizer.to_str() == plain.tokenizer.to_str()


def test_a_given_tokenizer_has_no_vocabulary_to_choose(capsys):
    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0, "cat": 1, "the": 2}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.save("own.json")
    Path("a.txt").write_text("the cat sat\n" * 20)
    found = inspected(["a.txt", "--tokenizer", "own.json"], capsys)
    assert found["splits"]["train"]["unknown rate"] == round(1 / 3, 5)  # its own unknown token counted for nothing
    assert (found["settings"]["data.vocab_size"], found["settings"]["data.min_frequency"]) == (None, None)
    assert found["settings"]["data.tokenizer"] == "own.json"


def test_tables_say_the_same_as_json(folder, capsys, monkeypatch):
    monkeypatch.setattr(cli_data.out, "width", 200)
    text = printed(["inspect", folder], capsys)
    for line in ("sequences 5", "unknown rate 0.25", "valid lines that are in train 1", "data.tokenizer word"):
        assert line in " ".join(text.split())
    assert "the dog ran ." in text
    assert "5-5" in text


def test_the_demo_can_be_inspected(capsys):
    found = inspected(["demo", "--train_size", "600", "--valid_size", "20", "--test_size", "20"], capsys)
    assert found["splits"]["train"]["sequences"] == 600
    assert found["splits"]["test"]["unknown rate"] == 0
    assert found["settings"]["data.min_frequency"] == 1


def test_an_oracle_is_nothing_to_look_at(capsys):
    refused(["inspect", "oracle"], capsys, "oracle is drawn, not read", "give a file")


# --- decode --------------------------------------------------------------------------------------------------------

WORDS = ["the", "cat", "sat", "on", "mat"]
IDS = "0 1 2\n3 0 4\n"
TEXT = "the cat sat\non the mat\n"
PICKLES = {
    "a list": WORDS,
    "word to id": {w: i for i, w in enumerate(WORDS)},
    "id to word": dict(enumerate(WORDS)),
    "a pair of dicts": (dict(enumerate(WORDS)), {w: i for i, w in enumerate(WORDS)}),
    "a pair the other way": [{w: i for i, w in enumerate(WORDS)}, dict(enumerate(WORDS))],
}


@pytest.fixture(autouse=True)
def ids(elsewhere):
    Path("ids.txt").write_text(IDS)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("kind", PICKLES)
def test_ids_are_decoded_with_a_pickle(kind, protocol, capsys):
    Path("v.pkl").write_bytes(pickle.dumps(PICKLES[kind], protocol))
    assert printed(["decode", "ids.txt", "--vocab", "v.pkl"], capsys) == TEXT


def test_a_pickle_of_python_2(capsys):
    """Its str are bytes; the authors' vocabularies are such files."""
    raw = b"(lp0\n" + b"".join(b"S'%s'\np%d\na" % (w.encode(), i + 1) for i, w in enumerate(["the", "caf\\xc3\\xa9"]))
    Path("v.pkl").write_bytes(raw + b".")
    Path("ids.txt").write_text("1 0\n")
    assert printed(["decode", "ids.txt", "--vocab", "v.pkl"], capsys) == "café the\n"


@pytest.mark.parametrize(
    "content", ["\n".join(WORDS), "\n".join(WORDS) + "\n", "\r\n".join(WORDS), "\ufeffthe\ncat\nsat\non\nmat\n"]
)
def test_ids_are_decoded_with_a_list_of_words(content, capsys):
    Path("v.txt").write_bytes(content.encode())
    assert printed(["decode", "ids.txt", "--vocab", "v.txt"], capsys) == TEXT


def test_words_that_look_like_a_pickle_are_words(capsys):
    Path("v.txt").write_text("\n".join(["(lp0", "cos", "N", "tR", "."]))
    assert printed(["decode", "ids.txt", "--vocab", "v.txt"], capsys) == "(lp0 cos N\ntR (lp0 .\n"


def test_ids_are_decoded_with_a_tokenizer(capsys):
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate([*WORDS, "</s>"])}, unk_token="the"))
    tokenizer.save("own.json")
    Path("ids.txt").write_text("0 1 2 5\n3 0 4\n")
    assert printed(["decode", "ids.txt", "--tokenizer", "own.json"], capsys) == TEXT
    assert printed(["decode", "ids.txt", "--tokenizer", "own.json", "--out", "text.txt"], capsys) == ""
    assert Path("text.txt").read_text() == TEXT


def test_ids_are_decoded_with_a_run(capsys, monkeypatch):
    texts = ["the cat, really, sat.", "a dog ran!"] * 10
    Path("text.txt").write_text("\n".join(texts))
    argv = ["train", "mle", "--data", "text.txt", "--generator.hidden", "4", "--mle.epochs", "1", "--out", "run"]
    argv += ["--evaluate.samples", "9", "--evaluate.temperatures", "[1.0]", "--evaluate.metrics", "[length]"]
    assert main([*argv, "--monitor.samples", "9"]) == 0
    corpus = load(DataConfig(source="text.txt"))
    Path("ids.txt").write_text("".join(" ".join(map(str, corpus.tokenizer.encode(t).ids)) + " 0\n" for t in texts))
    assert printed(["decode", "ids.txt", "--tokenizer", "run"], capsys).splitlines() == texts


@pytest.mark.parametrize(("source", "content"), [("--vocab", "v.txt"), ("--tokenizer", "own.json")])
def test_ids_beyond_the_vocabulary_are_named_by_line(source, content, capsys):
    Path("v.txt").write_text("\n".join(WORDS))
    Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="the")).save("own.json")
    Path("ids.txt").write_text(IDS + "\n4 5\n")  # 5 is the id that an added end token would have
    argv = ["decode", "ids.txt", source, content]
    refused(
        [*argv, "--out", "text.txt"], capsys, "ids.txt:4", "id 5 is beyond the vocabulary of 5", "give the tokenizer"
    )


class Evil:
    def __reduce__(self):
        return os.mkdir, ("executed",)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("within", [False, True])
def test_a_pickle_that_would_run_code_is_refused_and_runs_nothing(protocol, within, capsys):
    """Of protocol 0 it was taken for a list of words."""
    raw = pickle.dumps([*WORDS, Evil()] if within else Evil(), protocol)
    Path("v.pkl").write_bytes(raw)
    pickle.loads(raw)
    assert Path("executed").is_dir()  # the payload is live
    Path("executed").rmdir()
    refused(["decode", "ids.txt", "--vocab", "v.pkl"], capsys, "v.pkl", "would run", "mkdir", "only lists and dicts")
    assert not Path("executed").exists()


@pytest.mark.parametrize(
    ("what", "words"),
    [
        (3, ["holds int"]),
        ([], ["no word"]),
        ({}, ["no word"]),
        (["a", 3], ["holds list"]),
        ({"a": "b"}, ["does not join words and numbers"]),
        ({"a": 0, "b": 2}, ["not 0 to 1"]),
        ({"a": 0, "b": 0}, ["not 0 to", "each once"]),
        (["a", "a"], ["v.pkl:2", "'a', as id 0"]),
    ],
)
def test_pickles_that_are_no_vocabulary(what, words, capsys):
    Path("v.pkl").write_bytes(pickle.dumps(what))
    refused(["decode", "ids.txt", "--vocab", "v.pkl"], capsys, "v.pkl", *words)


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"the\ncaf\xe9\n", ["v.txt:2", "0xe9", "iconv"]),
        (b"the\n\nsat\n", ["v.txt:2", "empty"]),
        (b"the\ncat\nthe\n", ["v.txt:3", "'the', as id 0"]),
        (b"", ["v.txt:1", "empty"]),
        (pickle.dumps(WORDS)[:-3], ["v.txt", "refused"]),
    ],
)
def test_lists_that_are_no_vocabulary(raw, words, capsys):
    Path("v.txt").write_bytes(raw)
    refused(["decode", "ids.txt", "--vocab", "v.txt"], capsys, *words)


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ([], ["one of --tokenizer and --vocab"]),
        (["--vocab", "nowhere"], ["nowhere", "no such file"]),
        (["--tokenizer", "nowhere"], ["nowhere", "tokenizer.json or a run folder"]),
        (["--tokenizer", "ids.txt"], ["ids.txt", "not a tokenizer.json"]),
        (["--vocab", "v.txt", "--tokenizer", "t.json"], ["one of --tokenizer and --vocab"]),
    ],
)
def test_decode_without_a_vocabulary(argv, words, capsys):
    refused(["decode", "ids.txt", *argv], capsys, *words)


def test_decode_what_is_no_file_of_ids(capsys):
    Path("v.txt").write_text("\n".join(WORDS))
    Path("ids.txt").write_text("0 1\n2 x\n")
    refused(["decode", "ids.txt", "--vocab", "v.txt"], capsys, "ids.txt:2", "'x' is not a token id")
    refused(["decode", "nowhere.txt", "--vocab", "v.txt"], capsys, "nowhere.txt", "no such file")


# --- the rest ------------------------------------------------------------------------------------------------------


def test_get_without_a_name_lists_the_corpora(capsys):
    text = printed(["get"], capsys)
    for name, corpus in published.CORPORA.items():
        assert f"{name} " in text
        assert corpus.licence in text


def test_get_of_a_name_that_is_unknown_or_not_there(capsys, tmp_path):
    name = next(iter(published.CORPORA))
    refused(["get", f"{name}x"], capsys, f"{name}x", name)
    refused(["get", name, "--offline", "--cache", str(tmp_path)], capsys, name)


def test_commands_are_listed_and_the_nearest_is_named(capsys):
    assert "inspect" in printed(["--help"], capsys)
    refused(["inspekt", "x"], capsys, "did you mean inspect?")
    assert main(["data"]) == 2


def test_inspection_opens_no_run(capsys):
    """It looks only: nothing is written beside the file."""
    Path("a.txt").write_text("the cat sat .\n" * 20)
    before = sorted(Path().rglob("*"))
    inspected(["a.txt"], capsys)
    assert sorted(Path().rglob("*")) == before
    assert corpora.WORLDS == ("oracle", "demo", "dialogues", "agreement", "copying", "brackets")


# --- options that a command does not have, or that have no part in it -----------------------------------------------


def test_remedies_name_the_options_of_the_command(capsys):
    """`data inspect` advised --data.column, which it then did not know."""
    Path("t.csv").write_text("a,b\n" + "one two,three four\n" * 20)
    refused(["inspect", "t.csv"], capsys, "pass one of these by --column: ")
    Path("t.txt").write_text("one two three\n")
    vocabulary = Path("v.txt")
    vocabulary.write_text("a\nb\n")
    capsys.readouterr()
    assert main(["data", "decode", "t.txt", "--vocab", "v.txt"]) == 2
    said = capsys.readouterr().err
    assert "t.txt:1" in said
    assert "--data" not in said


@pytest.mark.parametrize("options", [["--condition", "turns"], ["--history", "3"], ["--max_source", "4"]])
def test_inspect_refuses_what_it_does_not_show(options, folder, capsys):
    refused(["inspect", folder, *options], capsys, f"leave out {options[0]}")
    refused(["inspect", "dialogues"], capsys, "dialogues is drawn, not read")


@pytest.mark.parametrize(
    ("source", "options", "named"),
    [
        ("demo", ["--data.test", "mine.txt"], "data.test is mine.txt, but demo is drawn, not read"),
        ("oracle", ["--data.limit", "7"], "data.limit is 7, but oracle is drawn"),
        ("agreement", ["--data.oracle_file", "nope.pkl"], "data.oracle_file is "),
        ("mine.txt", ["--data.oracle_file", "nope.pkl"], "but mine.txt is no oracle"),
    ],
)
def test_options_without_a_part_in_the_source_are_refused(source, options, named, capsys):
    """The figures were on the oracle's test set, and the user's file was not even opened."""
    Path("mine.txt").write_text("".join(f"a line {k}\n" for k in range(60)))
    assert main(["train", "mle", "--data", source, *options, "--out", "run"]) == 2
    said = capsys.readouterr().err
    assert named in said
    assert not Path("run").exists()


def test_a_column_counts_for_the_files_that_have_one(capsys):
    """Text drawn by `generate` could not be scored against the column of a table that it was trained on."""
    rows = [f"{k},sentence number {k} of them" for k in range(60)]
    Path("train.csv").write_text("\n".join(["id,review", *rows]) + "\n")
    Path("test.txt").write_text("sentence number 3 of them\nanother sentence\n")
    config = DataConfig("train.csv", column="review", test="test.txt")
    assert len(load(config).test) == 2
    argv = ["score", "--samples", "test.txt", "--references", "train.csv", "--metrics", "bleu"]
    assert main([*argv, "--column", "review", "--json"]) == 0
    capsys.readouterr()
    assert main(["score", "--samples", "test.txt", "--references", "test.txt", "--column", "review"]) == 2
    assert "--column review was given, but the file is read as lines" in capsys.readouterr().err
