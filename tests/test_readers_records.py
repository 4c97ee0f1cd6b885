"""Readers of records and tables: which field is taken, which record is blamed, and what a bad one costs."""

import json
import os
import sys
import types
from pathlib import Path

import pytest
from user_files import refused

from seqforge.data.readers import files, read

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


# --- the hub -------------------------------------------------------------------------------------------


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
