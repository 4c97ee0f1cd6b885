"""Readers of user data: what each format gives, and what is said about bad input."""

import gzip
import json
import os
import sys
import types
from pathlib import Path

import pytest

from seqforge.data import readers
from seqforge.data.readers import Document, files, folder_files, read
from seqforge.data.readers.document import OVERLONG


@pytest.fixture
def put(tmp_path, monkeypatch):
    """Writes a file into the current folder, text or bytes, and gives its name."""
    monkeypatch.chdir(tmp_path)

    def write(name: str, content: str | bytes) -> str:
        data = content.encode() if isinstance(content, str) else content
        (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
        return name

    return write


def refused(path: str, *words: str, **options) -> str:
    with pytest.raises(ValueError, match=r".") as caught:
        read(path, **options)
    said = str(caught.value)
    assert said.startswith(path)
    for word in words:
        assert word in said
    return said


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


# --- records -------------------------------------------------------------------------------------------


def test_scratchgan_json(put):
    records = [{"s": "a b , c", "t": ["x", "y"]}, {"s": "d", "t": []}, {"s": " ", "t": []}]
    found = read(put("train.json", json.dumps(records)))
    assert (found.format, found.texts, found.numbers, found.contexts) == ("json", ["a b , c", "d"], [1, 2], None)
    assert found.skipped == {"empty text": 1}
    assert found.place(1) == "train.json: record 2"
    assert read(put("b.json", '[{"s": "short", "text": "long"}]')).texts == ["short"]
    assert read("b.json", column="text").texts == ["long"]
    assert read(put("c.json", '[{"text": "t", "sentence": "x"}]')).texts == ["t"]
    assert read(put("d.json", '[{"id": 1, "sentence": "x"}]')).texts == ["x"]


def test_json_is_read_record_by_record_whatever_the_blocks(put, monkeypatch):
    records = [{"s": f"söng {i} " + "x" * i, "n": [10**i, {"a": None}]} for i in range(40)]
    text = ",\n".join(json.dumps(r, ensure_ascii=i % 2 == 0) for i, r in enumerate(records))
    name = put("a.json", f" [\n{text}\n] \n")
    monkeypatch.setattr(files, "BLOCK", 5)
    assert read(name, format="json").texts == [r["s"].strip() for r in records]
    found = read(put("b.json", '[{"s": "a"}, 123456789012, {"s": "b"}]'), on_error="skip")
    assert (found.texts, found.skipped) == (["a", "b"], {"not an object": 1})  # a number cut in two is one number


def test_numbers_of_any_size_and_nan_do_no_harm(put):
    assert read(put("a.json", '[{"s": "x", "n": ' + "7" * 9000 + ', "m": [NaN, -Infinity]}]')).texts == ["x"]
    assert read(put("a.jsonl", '{"text": "x", "n": ' + "7" * 9000 + "}")).texts == ["x"]


def test_jsonl_text(put):
    found = read(put("a.jsonl", '{"text": "a\\nb"}\n\n{"text": "c", "s": "no"}\n'))
    assert (found.format, found.texts, found.numbers, found.skipped) == (
        "jsonl",
        ["a\nb", "c"],
        [1, 3],
        {"blank line": 1},
    )


def test_prompt_and_completion(put):
    found = read(put("a.jsonl", '{"prompt": "p ", "completion": " c"}\n{"prompt": "", "completion": "d"}\n'))
    assert (found.texts, found.contexts) == (["c", "d"], ["p", None])
    assert read("a.jsonl", column="completion").contexts is None


def test_messages(put):
    talk = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "ho"},
        {"role": "user", "content": "hu"},
    ]
    found = read(put("a.jsonl", json.dumps({"messages": talk}) + "\n" + json.dumps({"messages": talk[1:]})))
    assert found.texts == ["hi", "ho", "hu", "ho", "hu"]
    assert found.contexts == [None, "hi", "ho", None, "ho"]
    assert found.numbers == [1, 1, 1, 2, 2]
    assert read("a.jsonl", most=2).texts == ["hi", "ho"]
    bad = json.dumps({"messages": [{"role": "user", "content": "x"}, {"role": "tool", "content": None}]})
    refused(put("b.jsonl", bad), "b.jsonl:1: `messages` must be a list")
    assert read(put("c.jsonl", bad + "\n" + json.dumps({"messages": talk})), on_error="skip").texts == [
        "hi",
        "ho",
        "hu",
    ]


MIXED = r"""{"text": "a"}
[1]
{"s": "b"}
{"text": 5}
{"text": "a
{"text": "\ud800"}
{"text": "b"}
{"text": "\u0000"}
"""


def test_mixed_jsonl(put):
    name = put("a.jsonl", MIXED)
    refused(name, "a.jsonl:2: a record must be an object", "a list", "--data.on_error skip")
    found = read(name, on_error="skip")
    assert (found.texts, found.numbers) == (["a", "b"], [1, 7])
    reasons = ["not an object", "field missing", "field not text", "not JSON", "not valid text", "NUL byte"]
    assert found.skipped == dict.fromkeys(reasons, 1)
    assert found.first_skipped["field missing"] == "a.jsonl:3: no field 'text'; the fields are 's'"
    assert found.first_skipped["field not text"] == "a.jsonl:4: field 'text' holds a number, not text"
    refused(name, "a.jsonl:1: no field 'body'", "--data.column", column="body")


def test_mixed_json(put):
    name = put("a.json", '[\n{"s": "a"},\n"b",\n{"t": []}, {"s":\n 5},\n{"s": "c"}\n]')
    refused(name, "a.json:3: record 2: a record must be an object", "not text")
    found = read(name, on_error="skip")
    assert (found.texts, found.numbers) == (["a", "c"], [1, 5])
    assert found.first_skipped["field missing"].startswith("a.json:4: record 3: no field 's'")
    assert found.first_skipped["field not text"].startswith("a.json:4: record 4: ")
    refused(put("b.json", '[{"x": 1}]'), "b.json:1: record 1: none of the fields is known", "'x'", "--data.column")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[\n{"s": "a"},\n{"s": "b"\n', "a.json:4: not valid JSON (Expecting ',' delimiter)"),
        ('[\n{"s": "a"}\n{"s": "b"}]', "a.json:3: not valid JSON (',' or ']' expected)"),
        ('[\n{"s": "a"},\n]', "a.json:3: not valid JSON (Expecting value)"),
        ('[{"s": "a"}]\n\n!', "a.json:3: not valid JSON (something comes after the list)"),
        ('[{"s": "a"}', "a.json:1: not valid JSON (the list is not closed)"),
        ('[{"s": "a"}\n', "a.json:2: not valid JSON (the list is not closed)"),
        ('[\n{"s": "a"},\n{"s": "b}]\n\n', "a.json:3: not valid JSON (Invalid control character at)"),
        ("[" * 100_000, "a.json:1: not valid JSON (nested too deeply)"),
        ("[{" + '"a":[{' * 100_000, "a.json:1: not valid JSON (nested too deeply)"),
        ('{"data": [{"s": "a"}],\n"x": 1}', "a.json:1: a JSON file must hold a list"),
        ("\n\nhello", "a.json:3: a JSON file must hold a list"),
        ("[]", "a.json: no sequence in it"),
    ],
)
def test_broken_json(put, text, said):
    for on_error in ("stop", "skip"):
        refused(put("a.json", text), said, on_error=on_error)


def test_a_json_record_without_an_end_is_not_read_to_the_end(put, monkeypatch):
    monkeypatch.setattr("seqforge.data.readers.records.RECORD", 1000)
    monkeypatch.setattr(files, "BLOCK", 100)
    name = put("a.json", '[{"s": "a"},\n{"s": "' + "x" * 50_000)
    refused(name, "a.json:2: not valid JSON (no end of the record within 1,000 characters: Unterminated string")


def test_json_with_bytes_that_are_not_utf8(put):
    name = put("a.json", b'[{"s": "a", "t": ["\xe9"]},\n{"s": "b"}]')
    refused(name, "a.json:1: record 1: 0xe9 is not UTF-8", "iconv")
    assert read(name, on_error="skip").texts == ["b"]


# --- tables --------------------------------------------------------------------------------------------

CSV = 'id,text\r\n1,"a, ""b"""\r\n2,"two\r\nlines"\r\n\r\n3, "c"\r\n4,\r\n'


def test_csv(put):
    found = read(put("a.csv", CSV))
    assert (found.format, found.texts, found.numbers) == ("csv", ['a, "b"', "two\nlines", "c"], [2, 3, 6])
    assert found.skipped == {"blank line": 1, "empty text": 1}
    assert read("a.csv", column="id").texts == ["1", "2", "3", "4"]
    assert read("a.csv", column="0").texts == ["id", "1", "2", "3", "4"]
    refused("a.csv", "a.csv:1: no column 'body'", "'id', 'text'", "--data.column", column="body")
    refused("a.csv", "a.csv:1: no column 2; there are 2", column="2")


def test_csv_columns_by_default(put):
    assert read(put("a.csv", "title\none\ntwo\n")).texts == ["one", "two"]
    assert read(put("b.csv", "x,s,sentence\n1,2,3\n")).texts == ["3"]
    refused(put("c.csv", "x,y\n1,2\n"), "c.csv:1: which column holds the text?", "'x', 'y'", "--data.column")
    refused(put("d.csv", "x;text\n1;2\n"), "d.csv:1: one column, 'x;text'", "--data.column 0")
    refused(put("e.csv", "text\na, b\n"), "e.csv:2: 2 cells, but the first row has 1", "--data.format lines")
    assert read("e.csv", column="0", on_error="skip").texts == ["text"]


def test_an_unclosed_quote_swallows_nothing(put):
    text = 'id,text\n1,"a\nb"\n2,"open\n3,c\n4,d\n5,"e" x\n6,f\n'
    said = 'a.csv:4: a quote (") is opened here and closed within a cell, in line 7'
    refused(put("a.csv", text), said, "--data.on_error skip")
    found = read("a.csv", on_error="skip")
    assert (found.texts, found.numbers) == (["a\nb", "c", "d", "f"], [2, 5, 6, 8])
    assert found.skipped == {"unclosed quote": 1, "bad quoting": 1}
    refused(put("b.csv", text[: text.index("5")]), 'b.csv:4: a quote (") is opened here and not closed')
    assert read("b.csv", on_error="skip").texts == ["a\nb", "c", "d"]


def test_the_line_of_the_quote_left_open_is_named_and_not_that_of_the_row(put):
    text = 'a,text\n"x ""y""\nz",q"r,"s\n""t\n'
    refused(
        put(
            "a.csv",
            text,
        ),
        "a.csv:3: a quote",
        format="csv",
        column="text",
    )


def test_a_quote_left_open_in_a_huge_file(put, monkeypatch):
    seen = []

    def counted(path):
        for line in files.raw_lines(path):
            seen.append(line)
            yield line

    monkeypatch.setattr("seqforge.data.readers.tables.OVERLONG", 2000)
    monkeypatch.setattr("seqforge.data.readers.tables.raw_lines", counted)
    name = put("a.csv", 'text\nfirst\n"open\n' + "word\n" * 100_000)
    refused(name, "a.csv:3: a quote")
    assert len(seen) < 1000
    found = read(name, on_error="skip")
    assert (len(found.texts), found.skipped) == (100_001, {"unclosed quote": 1})


def test_csv_leaves_the_limit_of_the_module_as_it_was(put):
    import csv

    before = csv.field_size_limit()
    assert len(read(put("a.csv", "text\n" + "x" * 200_000)).texts[0]) == 200_000
    assert csv.field_size_limit() == before


def test_tsv(put):
    name = put("a.tsv", 'id\ttext\n1\tsay "a"\n2\t"b ""c"""\n3\t"d" or "e"\n\t\n4\n5\t"f\n')
    refused(name, "a.tsv:6: 1 cells, but the first row has 2")
    found = read(name, on_error="skip")
    assert found.texts == ['say "a"', 'b "c"', '"d" or "e"', '"f']
    assert found.numbers == [2, 3, 4, 7]
    assert found.skipped == {"empty text": 1, "wrong number of cells": 1}


def test_parquet(put, monkeypatch):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    plain = pyarrow.array(["a", " b ", None, "", "e"])
    table = pyarrow.table({"id": [1, 2, 3, 4, 5], "text": plain, "kind": plain.dictionary_encode()})
    put("x", "")
    parquet.write_table(table, "a.parquet", row_group_size=2)
    refused("a.parquet", "a.parquet: record 3: no value", "--data.on_error skip")
    found = read("a.parquet", on_error="skip")
    assert (found.format, found.texts, found.numbers) == ("parquet", ["a", "b", "e"], [1, 2, 5])
    assert found.skipped == {"field missing": 1, "empty text": 1}
    assert found.place(2) == "a.parquet: record 5"
    for column in ("kind", "2"):
        assert read("a.parquet", column=column, on_error="skip").texts == ["a", "b", "e"]
    assert read("a.parquet", most=2).texts == ["a", "b"]
    refused("a.parquet", "column 'id' holds int64, not text", "'text'", column="id")
    refused("a.parquet", "no column 'body'", "'id', 'text', 'kind'", column="body")
    data = Path("a.parquet").read_bytes()
    assert read(put("packed.gz", data), on_error="skip").texts == ["a", "b", "e"]
    assert read(put("named.txt", data), most=1).format == "parquet"
    refused(put("cut.parquet", data[:-20]), "cut.parquet: not a Parquet file")
    refused(put("text.parquet", "hello\n"), "text.parquet: not a Parquet file")
    buffers = pyarrow.array([b"ok", b"\xff", b"a\0b"]).buffers()
    parquet.write_table(pyarrow.table({"text": pyarrow.StringArray.from_buffers(3, *buffers[1:])}), "bad.parquet")
    refused("bad.parquet", "bad.parquet: record 2: 0xff is not UTF-8")
    assert read("bad.parquet", on_error="skip").skipped == {"invalid UTF-8": 1, "NUL byte": 1}
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    refused("a.parquet", "pip install 'seqforge[parquet]'")


def test_a_small_parquet_file_of_many_rows_is_no_way_to_fill_the_memory(put, monkeypatch):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    put("x", "")
    parquet.write_table(pyarrow.table({"text": pyarrow.array(["the same words"]).take([0] * 200_000)}), "a.parquet")
    assert os.path.getsize("a.parquet") < 20_000
    assert len(read("a.parquet").texts) == 200_000
    monkeypatch.setattr(files, "ROOM", 1 << 20)
    refused("a.parquet", "decompression bomb")


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


# --- folders and the hub -------------------------------------------------------------------------------


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


def hub(monkeypatch, records):
    """A `datasets` library of one dataset. Gives what it was asked for."""
    asked = []

    def load_dataset(name, config, split, streaming):
        asked.append((name, config, split, streaming))
        if name == "none":
            raise FileNotFoundError("no dataset of that name")
        return iter(records)

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    return asked


def test_hub(monkeypatch):
    asked = hub(monkeypatch, [{"text": "a", "label": 1}, {"text": "b", "label": 0}, {"text": None, "label": 0}])
    found = read("hf:someone/set:small@test", on_error="skip")
    assert (found.format, found.texts, found.numbers) == ("hf", ["a", "b"], [1, 2])
    assert found.skipped == {"field not text": 1}
    assert read("hf:set", most=1).place(0) == "hf:set: record 1"
    assert asked == [("someone/set", "small", "test", True), ("set", None, "train", True)]
    refused("hf:set", "hf:set: record 3: field 'text' holds nothing, not text")
    refused("hf:set", "hf:set: record 1: field 'label' holds a number", column="label")
    refused("hf:none", "hf:none: FileNotFoundError: no dataset of that name", "network")
    refused("hf:@x", "hf:@x: names no dataset")


def test_hub_without_the_library(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    refused("hf:set", "pip install 'seqforge[hf]'")


def test_every_format_has_its_reader():
    assert {*readers.PLAIN, *readers.FIELDS, "auto", "hf", "midi"} == {*readers.Format.__args__}
