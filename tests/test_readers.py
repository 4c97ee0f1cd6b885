"""Readers of user data: lines, paragraphs and ids, how a format is told, packed files, bad files, folders."""

import gzip
import os

import pytest
from user_files import refused

from seqforge.data import readers
from seqforge.data.readers import Document, files, folder_files, read
from seqforge.data.readers.document import OVERLONG

# --- text ----------------------------------------------------------------------------------------------


def test_lines_with_every_line_end_and_a_byte_order_mark(put):
    found = read(put("a.txt", b"\xef\xbb\xbf one two \r\n\r\nthree\rf\xc3\xbcnf\n \t\n\xe2\x80\xa8six\n\n\n"))
    assert found == Document(
        "a.txt",
        "lines",
        ["one two", "three", "fünf", "six"],
        [1, 3, 4, 6],
        None,
        {"blank line": 2},
        {"blank line": "a.txt:2: a line with nothing in it"},
    )
    assert found.place(2) == "a.txt:4"


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_where_blocks_end_changes_nothing(put, monkeypatch, size):
    name = put("a.txt", "first\r\nsecond ü\r\rlast\r")
    monkeypatch.setattr(files, "BLOCK", size)
    found = read(name, format="lines")
    assert (found.texts, found.numbers) == (["first", "second ü", "last"], [1, 2, 4])


def test_one_line_without_an_end_is_a_file(put):
    assert read(put("a.txt", "only")).texts == ["only"]


def test_most_reads_the_head_only(put):
    assert read(put("a.txt", b"one\ntwo\n\xff\n"), most=2).texts == ["one", "two"]
    refused("a.txt", "at least 1", most=0)


def test_paragraphs(put):
    text = "a\nb\n\n\nc\n  \nd\ne\nf\n\ng\n\n"
    found = read(put("a.txt", text))
    assert (found.format, found.texts, found.numbers) == ("paragraphs", ["a b", "c", "d e f", "g"], [1, 5, 7, 11])
    assert (found.skipped, found.contexts) == ({}, None)
    assert read("a.txt", most=3).texts == ["a b", "c", "d e f"]
    assert read("a.txt", format="lines").skipped == {"blank line": 4}
    bad = read(put("b.txt", b"a\n\n\xff\nb\n"), format="paragraphs", on_error="skip")
    assert (bad.texts, bad.numbers, bad.skipped) == (["a", "b"], [1, 4], {"invalid UTF-8": 1})


def test_a_blank_line_here_and_there_makes_no_paragraphs(put):
    assert read(put("a.txt", "a\n\nb\nc\n\nd\n")).format == "lines"  # two are too few
    assert read(put("b.txt", "a\n\nb\n\nc\n\nd\n\n\n")).format == "paragraphs"  # three, after 4 lines
    assert read(put("c.txt", "a\nb\nc\n\n" * 3 + "d\ne")).format == "lines"  # three after 11 lines: less than a third
    assert read(put("d.txt", "a\nb\nc\n\n" * 3)).format == "lines"  # the last one separates nothing


def test_ids(put):
    found = read(put("a.txt", "17 4 0 \n\n3\t07\n5\n"))
    assert (found.format, found.texts, found.numbers) == ("ids", ["17 4 0", "3 7", "5"], [1, 3, 4])
    assert read(put("b.txt", "1\n2\n3 4\n")).format == "lines"  # fewer than two a line
    assert read("b.txt", format="ids").texts == ["1", "2", "3 4"]
    refused(put("c.txt", "1 2\n3 -4\n"), "c.txt:2: '-4' is not a token id", "--data.on_error skip", format="ids")
    refused(put("d.txt", "1 2\n3 12345678901\n"), "d.txt:2: '12345678901' is not a token id")
    assert read("d.txt", on_error="skip").texts == ["1 2"]
    assert read(put("e.txt", "1 ²\n")).format == "lines"


# --- packed --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.txt.gz", "a\nb\n"),
        ("a.json.gz", '[{"s": "a"}, {"s": "b"}]'),
        ("a.jsonl.gz", '{"text": "a"}\n{"text": "b"}'),
        ("a.csv.gz", "text\na\nb"),
        ("a.tsv.gz", "text\na\nb"),
    ],
)
def test_gzip_of_each(put, name, content):
    packed = read(put(name, content))
    plain = read(put(name.removesuffix(".gz"), content))
    assert packed.texts == plain.texts == ["a", "b"]
    assert packed.format == plain.format


def test_the_name_does_not_make_it_gzip(put):
    os.rename(put("a.gz", "a\nb\n"), "a.txt")
    assert read("a.txt").texts == ["a", "b"]
    os.rename(put("b.txt", "a\nb\n"), "b.txt.gz")
    assert read("b.txt.gz").texts == ["a", "b"]


def test_broken_gzip(put):
    data = gzip.compress(os.urandom(1000).hex().encode())
    for bad in (data[:-4], data[:500], data[:600] + bytes([data[600] ^ 255]) + data[601:], data + b"more", data[:2]):
        for on_error in ("stop", "skip"):
            refused(put("a.txt", bad), "a.txt: broken gzip", "gzip -t", on_error=on_error)


def test_a_bomb_is_refused_and_a_well_packed_file_is_not(put, monkeypatch):
    monkeypatch.setattr(files, "ROOM", 1 << 20)
    text = b"the same words again and again\n" * 10_000
    assert len(read(put("a.txt.gz", text[: len(text) // 2])).texts) == 5000
    refused(
        put("b.txt.gz", b" " * (3 << 20)),
        "b.txt.gz: takes more than 1,048,576 bytes",
        "decompression bomb",
        "unpack it",
    )
    many = b"a\n" * 20_000  # little text, but many sequences: they fill the memory too
    refused(put("c.txt.gz", many), "decompression bomb")
    refused(put("e.txt.gz", b"\n" * 20_000 + b"a"), "decompression bomb")  # and so do lines with nothing in them
    assert len(read(put("c.txt", many)).texts) == 20_000
    other = os.urandom(40_000).hex().encode()  # packs to a hundredth only of 100 times its size
    assert read(put("d.txt.gz", b"\n".join([other] * 20))).texts == [other.decode()] * 20


# --- format --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "format"),
    [
        ("a.json", '{"text": "a"}\n{"text": "b"}\n', "jsonl"),
        ("a.jsonl", ' [\n{"text": "a"}, {"text": "b"}]', "json"),
        ("a.txt", '{"text": "a"}\n{"text": "b"}\n', "jsonl"),
        ("a.csv", '{"text": "a"}\n{"text": "b"}\n', "jsonl"),
        ("a.txt", '[{"s": "a"}, {"s": "b"}]', "json"),
        ("a.dat", "a\nb\n", "lines"),
        ("a", "a\nb\n", "lines"),
        ("A.CSV", "text\na\nb\n", "csv"),
        ("a.ndjson", '{"text": "a"}\n{"text": "b"}', "jsonl"),
    ],
)
def test_content_decides_where_the_name_is_wrong(put, name, content, format):
    found = read(put(name, content))
    assert (found.format, found.texts) == (format, ["a", "b"])


def test_the_format_can_be_given(put):
    put("a.json", "[1]\nx,text\n")
    assert read("a.json", format="lines").texts == ["[1]", "x,text"]
    assert read("a.json", format="csv", column="0", on_error="skip").texts == ["[1]"]
    refused("a.json", "unknown format 'xml'", "--data.format", format="xml")
    refused("a.json", "--data.column x was given", "no columns", format="lines", column="x")
    refused("a.json", "--data.on_error is 'stpo'", on_error="stpo")


# --- bad files -----------------------------------------------------------------------------------------


def test_invalid_utf8(put):
    name = put("a.txt", b"one\ncaf\xe9\n\nthree\nf\xfcnf\n")
    said = "a.txt:2: 0xe9 at byte 4 of the line is not UTF-8"
    refused(name, said, "iconv -f latin1 -t utf-8", "--data.on_error skip")
    found = read(name, on_error="skip")
    assert (found.texts, found.numbers) == (["one", "three"], [1, 4])
    assert found.skipped == {"invalid UTF-8": 2, "blank line": 1}
    assert found.first_skipped["invalid UTF-8"] == said
    refused(
        put("b.txt", b"\xff\n\xfe\n"), "b.txt: no sequence in it", "2 invalid UTF-8", "b.txt:1: 0xff", on_error="skip"
    )


def test_nul_bytes(put):
    name = put("a.txt", b"one\nt\0wo\nthree\n")
    refused(name, "a.txt:2: NUL byte at character 2", "--data.on_error skip")
    assert read(name, on_error="skip").skipped == {"NUL byte": 1}


def test_overlong_lines(put):
    name = put("a.txt", "é" * OVERLONG + "\n" + "é" * (OVERLONG + 1) + "\n" + "x" * (9 * OVERLONG) + "\nb\n")
    refused(name, "a.txt:2: more than 1,000,000 characters")
    found = read(name, on_error="skip")
    assert (list(map(len, found.texts)), found.numbers) == ([OVERLONG, 1], [1, 4])
    assert found.skipped == {"overlong line": 2}
    put("b.txt", ("x" * (OVERLONG // 2) + "\n") * 2 + "\nb\n")
    assert read("b.txt", format="paragraphs", on_error="skip").skipped == {"overlong line": 1}
    put("c.csv", "text\n" + "x" * (9 * OVERLONG) + "\nb\n")
    found = read("c.csv", on_error="skip")
    assert (found.texts, found.skipped) == (["b"], {"overlong line": 1})


def test_a_line_without_end_does_not_fill_the_memory(put):
    import tracemalloc

    with open(put("a.txt", ""), "wb") as file:
        for _ in range(40):
            file.write(b"x" * (1 << 20))
    tracemalloc.start()
    refused("a.txt", "a.txt:1: more than 1,000,000 characters")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20 << 20


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\x89PNG\r\n\x1a\n", "byte 0: this is a PNG picture"),
        (b"PK\x03\x04abc", "byte 0: this is a zip archive, not text; unpack"),
        (b"\x80\x04\x95abc", "byte 0: this is a pickle"),
        (gzip.compress(b"abc", mtime=0), "byte 0: this is gzip within gzip"),
        ("hello\n".encode("utf-16"), "iconv -f utf-16"),
        (b"text\nmore\n" + bytes(range(32)) * 3, "byte 10 (line 3) is 0x00: binary content"),
    ],
)
def test_binary_files(put, content, said):
    for format in ("auto", "lines", "csv"):
        refused(put("a.txt.gz", content), said, format=format, on_error="skip")


def test_nothing_in_it(put):
    for content in ("", "\ufeff"):
        refused(put("a.txt", content), "a.txt: the file is empty")
    refused(put("a.txt.gz", ""), "a.txt.gz: the file is empty")
    refused(put("b.txt", " \n\t\n\r\n"), "b.txt: no sequence in it")
    refused(put("c.csv", "text\n"), "c.csv: no sequence in it")


def test_what_is_no_file(put, tmp_path, monkeypatch):
    put("x.txt", "x")
    refused("none.txt", "none.txt: no such file")
    refused("x.txt/y", "x.txt/y: cannot be read")
    os.mkdir("folder")
    refused("folder", "folder: is a folder", "train, valid and test")
    os.mkfifo("pipe")
    refused("pipe", "pipe: is not a regular file")
    refused("/dev/zero", "is not a regular file")
    refused("a\0b", "cannot be read")
    refused("x" * 5000, "cannot be read")

    def forbidden(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(files, "open", forbidden, raising=False)
    refused("x.txt", "x.txt: cannot be read", "Permission denied")


# --- folders -------------------------------------------------------------------------------------------


def test_folder(put, tmp_path):
    for name in (
        "train.json",
        "valid.json.gz",
        "Test.csv",
        "glove_emnlp2017.txt",
        "train.bpe",
        "notes.txt",
        ".train.txt",
    ):
        put(name, "x")
    os.mkdir("dev.txt")
    found = folder_files(tmp_path)
    names = {"train": "train.json", "valid": "valid.json.gz", "test": "Test.csv", "glove": "glove_emnlp2017.txt"}
    assert found == {split: tmp_path / name for split, name in names.items()}
    put("validation.txt", "x")
    with pytest.raises(ValueError, match=r"two valid files, valid\.json\.gz and validation\.txt"):
        folder_files(tmp_path)
    os.remove("train.json")
    os.remove("validation.txt")
    with pytest.raises(ValueError, match=r"no train file in it; expected train\.txt"):
        folder_files(tmp_path)
    with pytest.raises(ValueError, match="none: not a folder"):
        folder_files(tmp_path / "none")


def test_every_format_has_its_reader():
    assert {*readers.PLAIN, *readers.FIELDS, "auto", "hf", "midi"} == {*readers.Format.__args__}
