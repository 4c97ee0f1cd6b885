"""No bytes make a reader do anything but give sequences or say, with the path, why not."""

import gzip
import io
import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seqforge.data.readers import Document, read

SUFFIXES = ["txt", "json", "jsonl", "csv", "tsv", "parquet", "txt.gz", "csv.gz", "dat"]
FORMATS = ["auto", "lines", "paragraphs", "ids", "json", "jsonl", "csv", "tsv", "parquet"]
WORDS = ["a", "b c", "17 4", "", " ", '"', '""', "ü", "\u2028", ",", "\t", "\\", "{", "[", "\0", "\x1f", "x" * 50, "😀"]
POLICIES = st.sampled_from(["stop", "skip"])
texts = st.lists(st.sampled_from(WORDS), max_size=4).map("".join)


def outcome(data: bytes, suffix: str, **options) -> Document | str:
    """What `read` gives, or what it says; anything else it raises fails the test."""
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder, f"file.{suffix}"))
        Path(path).write_bytes(data)
        try:
            found = read(path, **options)
        except ValueError as e:
            said = str(e)
            found = None
    if found is None:
        assert path in said
        return said
    assert len(found.texts) == len(found.numbers) > 0
    assert all(t and t == t.strip() and "\0" not in t and t.encode() for t in found.texts)
    assert found.numbers == sorted(found.numbers)
    assert found.numbers[0] >= 1
    assert found.skipped.keys() == found.first_skipped.keys()
    assert all(n > 0 for n in found.skipped.values())
    assert found.contexts is None or len(found.contexts) == len(found.texts)
    return found


def jsonl(rows: list[str]) -> bytes:
    return "\n".join(json.dumps({"text": r}, ensure_ascii=len(r) % 2 == 0) for r in rows).encode()


def csv_file(rows: list[str]) -> bytes:
    return ("id,text\n" + "".join(f'{i},"{r}"\n' for i, r in enumerate(rows))).encode()


def parquet_file(rows: list[str]) -> bytes:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    sink = io.BytesIO()
    parquet.write_table(pyarrow.table({"text": rows}), sink)
    return sink.getvalue()


MAKERS = {
    "txt": lambda rows: "\n".join(rows).encode(),
    "json": lambda rows: json.dumps([{"s": r, "t": ["x"]} for r in rows]).encode(),
    "jsonl": jsonl,
    "csv": csv_file,
    "tsv": lambda rows: ("id\ttext\n" + "".join(f"{i}\t{r}\n" for i, r in enumerate(rows))).encode(),
    "txt.gz": lambda rows: gzip.compress("\n".join(rows).encode()),
    "json.gz": lambda rows: gzip.compress(json.dumps([{"s": r} for r in rows]).encode()),
    "parquet": parquet_file,
}


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300), st.sampled_from(SUFFIXES), st.sampled_from(FORMATS), POLICIES)
def test_any_bytes(data, suffix, format, policy):
    outcome(data, suffix, format=format, on_error=policy)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.sampled_from([*WORDS, "\n", "\r", "\r\n", '"text":', "}", "]", ":", "text,id\n", "0"]), max_size=30),
    st.sampled_from(SUFFIXES),
    st.sampled_from(FORMATS),
    st.sampled_from([None, "text", "0", "3"]),
    POLICIES,
)
def test_any_text(parts, suffix, format, column, policy):
    outcome("".join(parts).encode(), suffix, format=format, column=column, on_error=policy)


@settings(max_examples=200, deadline=None)
@given(st.data(), st.sampled_from(sorted(MAKERS)), st.lists(texts, min_size=1, max_size=8), POLICIES)
def test_whole_files_cut_and_with_bytes_flipped(data, suffix, rows, policy):
    whole = bytearray(MAKERS[suffix](rows))
    for at in data.draw(st.lists(st.integers(0, max(0, len(whole) - 1)), max_size=4)):
        whole[at : at + 1] = data.draw(
            st.sampled_from([b"", b"\0", b'"', b"\xff", b"\n", b"{}", b"[", b"\\ud800", b"9"])
        )
    outcome(bytes(whole[: data.draw(st.integers(0, len(whole)))]), suffix, on_error=policy)


@settings(max_examples=100, deadline=None)
@given(st.lists(texts, min_size=1, max_size=8), st.sampled_from(["json", "jsonl", "parquet"]))
def test_what_was_written_is_read(rows, suffix):
    good = [r.strip() for r in rows if r.strip() and "\0" not in r]
    found = outcome(MAKERS[suffix](rows), suffix, on_error="skip")
    assert (found.texts if isinstance(found, Document) else []) == good


@settings(max_examples=100, deadline=None)
@given(st.lists(texts, min_size=1, max_size=6), st.integers(1, 6))
def test_the_head_is_the_head(rows, most):
    whole = outcome(jsonl(rows), "jsonl", on_error="skip")
    head = outcome(jsonl(rows), "jsonl", on_error="skip", most=most)
    if isinstance(whole, Document) and isinstance(head, Document):
        assert head.texts == whole.texts[:most]
    else:
        assert isinstance(whole, str)
        assert isinstance(head, str)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.text(alphabet='ab,"\n ', max_size=8), min_size=1, max_size=8))
def test_csv_as_the_csv_module_writes_it(rows):
    import csv

    sink = io.StringIO()
    csv.writer(sink).writerows([["id", "text"], *enumerate(rows)])
    found = outcome(sink.getvalue().encode(), "csv")
    assert (found.texts if isinstance(found, Document) else []) == [r.strip() for r in rows if r.strip()]
