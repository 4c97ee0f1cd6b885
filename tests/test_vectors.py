"""Word vectors: files of every kind, good and bad, and what ScratchGAN makes of them."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from seqforge.cli import main
from seqforge.data.vectors import read_vectors
from seqforge.loading import find_checkpoint, load_generator, load_tokenizer

WORDS = {"a": 0, "cat": 1, "sat": 2, "dog": 3}
GOOD = "cat 1 2.5 -3e-1\nzebra 0 0 0\na 4 5 6\n"


@pytest.mark.parametrize("header", ["", "3 3\n"])
@pytest.mark.parametrize("pack", [False, True])
def test_vectors_of_the_words_asked_for(header, pack, tmp_path):
    path = tmp_path / ("v.txt.gz" if pack else "v.txt")
    path.write_bytes(gzip.compress((header + GOOD).encode()) if pack else (header + GOOD).encode())
    vectors, ids = read_vectors(path, WORDS)
    assert ids.tolist() == [1, 0]
    assert np.allclose(vectors, [[1, 2.5, -0.3], [4, 5, 6]])


def test_words_with_blanks_are_read(tmp_path):
    """glove.840B.300d has some; the first stopped the run."""
    path = tmp_path / "v.txt"
    path.write_text("cat 1.5 2.5\n. . . 0.5 0.5\nat name@domain.com 0.1 0.2\na 4.0 5.0\n")
    vectors, ids = read_vectors(path, {**WORDS, ". . .": 9})
    assert ids.tolist() == [1, 9, 0]
    assert vectors.tolist() == [[1.5, 2.5], [0.5, 0.5], [4, 5]]


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "holds no word"),
        ("cat 1.5 2.5\na 1.5 2.5 3.5\n", "line 2: 'a' has 3 numbers, but others have 2"),
        ("3 3\n", "holds no word"),
        ("3 2\ncat 1 2\na 3 4\n", "its first line says 3 words, but it has 2"),
        ("cat 1 2\na 1\n", "line 2: 'a' has 1 numbers, but others have 2"),
        ("2 3\ncat 1 2\n", "line 2: 'cat' has 2 numbers, but others have 3"),
        ("cat\n", "line 1: 'cat' has 0 numbers"),
        ("cat 1 nan\n", "line 1: the vector of 'cat' holds NaN"),
        ("cat 1 inf\n", "line 1: the vector of 'cat' holds NaN or an infinite number"),
        ("cat 1 x\n", "line 1: the vector of 'cat' holds what is no number"),
        ("cat 1 2\na 3 4\ncat 1 2\n", "line 3: 'cat' is there already, in line 1"),
        ("cat 1 2\n\na 3 4\n", "line 2: "),
        ("zebra 1 2\n", "none of the 4 words"),
    ],
)
def test_bad_vectors_are_named(text, named, tmp_path):
    path = tmp_path / "v.txt"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"v\.txt") as e:
        read_vectors(path, WORDS)
    assert named in str(e.value)


def test_vectors_that_are_missing_binary_or_cut_off(tmp_path):
    with pytest.raises(ValueError, match="no such file"):
        read_vectors(tmp_path / "none.txt", WORDS)
    (tmp_path / "v.bin").write_bytes(b"\xff\xfe\x00cat\x80")
    with pytest.raises(ValueError, match="not text in UTF-8"):
        read_vectors(tmp_path / "v.bin", WORDS)
    (tmp_path / "v.txt.gz").write_bytes(gzip.compress(GOOD.encode())[:-9])
    with pytest.raises(ValueError, match="damaged"):
        read_vectors(tmp_path / "v.txt.gz", WORDS)


def scratchgan_folder(tmp_path: Path) -> Path:
    """As the authors publish theirs: train.json, valid.json and test.json of {"s": ..., "t": [...]}, and GloVe."""
    folder = tmp_path / "news"
    folder.mkdir()
    for name, lines in (
        ("train", ["a cat sat", "a dog ran off"] * 8),
        ("valid", ["a cat ran"]),
        ("test", ["a dog sat"]),
    ):
        (folder / f"{name}.json").write_text(json.dumps([{"s": line, "t": ["cats", "dogs"]} for line in lines]))
    (folder / "glove_news.txt").write_text("3 2\ncat 1 2\ndog 3 4\nhorse 5 6\n")
    return folder


def test_the_authors_folder_is_read_with_its_vectors(tmp_path, monkeypatch, capsys):
    folder, run = scratchgan_folder(tmp_path), tmp_path / "run"
    options = ["--rounds", "1", "--steps", "1", "--batch", "4", "--monitor.samples", "8", "--evaluate.samples", "8"]
    monkeypatch.chdir(folder.parent)
    assert main(["train", "scratchgan", "--data", "news", *options, "--out", str(run)]) == 0
    assert "vectors: 2 of" in capsys.readouterr().err
    plain = yaml.safe_load((run / "config.yaml").read_text())
    assert plain["vectors"] == str(folder / "glove_news.txt")  # also from another folder
    assert main(["train", "scratchgan", "--data", "news", *options, "--vectors", "none", "--out", str(run) + "2"]) == 0
    assert "vectors:" not in capsys.readouterr().err
    (folder / "glove_more.txt").write_text("cat 1 2\n")
    assert main(["train", "scratchgan", "--data", "news", *options, "--out", str(run) + "3"]) == 2
    assert "glove_more.txt or " in capsys.readouterr().err
    assert not Path(str(run) + "3").exists()


def test_vectors_fill_both_tables_and_their_coverage_is_told(tmp_path, capsys):
    (tmp_path / "text.txt").write_text("the cat sat\nthe dog sat on the cat\n" * 30)
    (tmp_path / "v.txt").write_text("cat 1 2 3\nthe 4 5 6\nzebra 0 0 0\n")
    args = ["train", "scratchgan", "--data", str(tmp_path / "text.txt"), "--rounds", "1", "--steps", "1"]
    args += ["--monitor.samples", "8", "--evaluate.samples", "20"]
    args += ["--vectors", str(tmp_path / "v.txt"), "--freeze", "true"]
    assert main([*args, "--out", str(tmp_path / "run")]) == 0
    assert "vectors: 2 of" in capsys.readouterr().err
    records = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    told = next(r for r in records if r["kind"] == "vectors")
    assert told["words"] == 2
    assert 0 < told["tokens_covered"] < 1
    folder = find_checkpoint(tmp_path / "run")
    generator, words = load_generator(folder), load_tokenizer(folder).get_vocab()
    assert generator.head.weight[words["cat"], :3].tolist() == [1, 2, 3]
    assert main([*args, "--generator.pretrained", "5", "--out", str(tmp_path / "no")]) == 2
    assert "--generator.pretrained 3" in capsys.readouterr().err
    assert not (tmp_path / "no").exists()
