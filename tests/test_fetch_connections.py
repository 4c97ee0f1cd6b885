"""Connections that break, redirects, and answers that are not the file: what fetching makes of a bad server."""

import http.client
import io
import json
import socket
import urllib.request

import pytest
from shelf import BODY, OTHER, WHOLE, Mood, corpus, digest, fetched, leftovers, one

from seqforge.data import download
from seqforge.data.download import Patience
from seqforge.data.published import PublishedFile

# ---- connections that break


@pytest.mark.parametrize("cut", [0, 1, 65_536, 65_537, 299_999])
def test_a_cut_connection_is_resumed_where_it_stopped(shelf, tmp_path, cut):
    shelf.moods["a.txt"] = [Mood(cut=cut), Mood()]
    path, said = fetched(one(shelf), tmp_path)
    assert path.read_bytes() == BODY
    kept = 300_000 - shelf.sent[1]  # Pythons differ in whether the last, short block counts
    assert kept in (cut, cut // 65_536 * 65_536)
    assert shelf.ranges() == [None, f"bytes={kept}-" if kept else None]
    assert f"a.txt: the connection ended after {kept:,} of 300,000 bytes; trying again in 0 s" in said
    assert leftovers(tmp_path) == WHOLE


def test_a_connection_that_always_breaks_leaves_the_part_for_the_next_call(shelf, tmp_path):
    shelf.moods["a.txt"] = [Mood(cut=65_536)]
    table = one(shelf, body=BODY + OTHER)
    with pytest.raises(
        ValueError, match=r"ended after 262,144 of 600,000 bytes; tried 4 times; .*a.txt.part keeps"
    ) as e:
        fetched(table, tmp_path)
    assert shelf.url("a.txt") in str(e.value)
    assert "run the same command again" in str(e.value)
    assert leftovers(tmp_path) == [".lock", "a.txt.part", "a.txt.part.json"]
    shelf.moods["a.txt"] = [Mood()]
    assert fetched(table, tmp_path)[0].read_bytes() == BODY + OTHER
    assert shelf.ranges() == [None, "bytes=65536-", "bytes=131072-", "bytes=196608-", "bytes=262144-"]


def test_the_waits_between_tries_are_those_given(shelf, tmp_path, monkeypatch):
    shelf.moods["a.txt"] = [Mood(cut=65_536)]
    waited: list[float] = []
    monkeypatch.setattr(download, "sleep", waited.append)
    with pytest.raises(ValueError, match="tried 4 times"):
        fetched(one(shelf), tmp_path, patience=Patience())
    assert waited == [1.0, 2.0, 4.0]


def test_a_server_that_says_nothing_more_is_left_after_the_timeout(shelf, tmp_path):
    shelf.moods["a.txt"] = [Mood(hang=100_000), Mood()]
    path, said = fetched(one(shelf), tmp_path, patience=Patience(timeout=2, waits=(0.0,)))
    assert path.read_bytes() == BODY
    assert shelf.ranges() == [None, "bytes=65536-"]
    assert any("the connection broke (timed out)" in s for s in said)


def test_a_length_that_lies_is_never_taken_for_a_whole_file(shelf, tmp_path):
    shelf.moods["a.txt"] = [Mood(lie=10, ranges=False)]
    with pytest.raises(ValueError, match=r"ended after 300,000 of 300,010 bytes"):
        fetched(one(shelf, digest(BODY)), tmp_path)
    shelf.moods["a.txt"] = [Mood(lie=-10)]
    with pytest.raises(ValueError, match=f"is {digest(BODY[:-10])}, but {digest(BODY)} is published"):
        fetched(one(shelf, digest(BODY)), tmp_path / "2")


def test_a_server_that_ignores_ranges_starts_over(shelf, tmp_path):
    shelf.moods["a.txt"] = [Mood(cut=65_536), Mood(ranges=False)]
    assert fetched(one(shelf), tmp_path)[0].read_bytes() == BODY
    assert shelf.ranges() == [None, "bytes=65536-"]
    assert shelf.sent == [65_536, 300_000]


@pytest.mark.parametrize("heeds", [True, False])
def test_a_file_that_changed_meanwhile_starts_over(shelf, tmp_path, heeds):
    """With If-Range the server sends all of it; one that does not know If-Range is found out by the ETag."""
    table = one(shelf)
    shelf.moods["a.txt"] = [Mood(cut=65_536)]
    with pytest.raises(ValueError, match="run the same command again"):
        fetched(table, tmp_path, patience=Patience(0.3, ()))
    shelf.files["a.txt"] = OTHER
    shelf.moods["a.txt"] = [Mood(if_range=heeds)]
    path, said = fetched(table, tmp_path)
    assert path.read_bytes() == OTHER
    assert shelf.asked[1][1]["If-Range"] == f'"{digest(BODY)[:8]}"'
    assert len(shelf.asked) == (2 if heeds else 3)
    assert any("changed since the download began" in s for s in said) is not heeds


def test_416_starts_over(shelf, tmp_path):
    table = one(shelf)
    shelf.moods["a.txt"] = [Mood(cut=200_000)]
    with pytest.raises(ValueError, match="run the same command again"):
        fetched(table, tmp_path, patience=Patience(0.3, ()))
    shelf.files["a.txt"] = BODY[:1000]
    shelf.moods["a.txt"] = [Mood(if_range=False)]
    path, said = fetched(table, tmp_path)
    assert path.read_bytes() == BODY[:1000]
    assert any("HTTP 416" in s for s in said)


@pytest.mark.parametrize(
    ("headers", "sent"),
    [({"ETag": 'W/"x"'}, None), ({"ETag": 'W/"x"', "Last-Modified": "Mon, 01 Jan 2024 00:00:00 GMT"}, "Mon, 01 Jan")],
)
def test_only_a_strong_etag_or_a_date_is_asked_to_go_on(shelf, tmp_path, headers, sent):
    shelf.moods["a.txt"] = [Mood(cut=65_536, headers=headers), Mood()]
    assert fetched(one(shelf), tmp_path)[0].read_bytes() == BODY
    assert (shelf.asked[1][1].get("If-Range") or "None").startswith(str(sent))
    assert shelf.ranges()[1] == (None if sent is None else "bytes=65536-")


@pytest.mark.parametrize("note", ["{", "[]", '{"url": "http://elsewhere/", "validator": "x", "total": 300000}'])
def test_a_part_whose_note_does_not_fit_is_not_continued(shelf, tmp_path, note):
    folder = tmp_path / "corpora" / "toy"
    folder.mkdir(parents=True)
    (folder / "a.txt.part").write_bytes(OTHER[:1000])
    (folder / "a.txt.part.json").write_text(note)
    assert fetched(one(shelf), tmp_path)[0].read_bytes() == BODY
    assert shelf.ranges() == [None]


def test_a_part_that_lacked_only_its_name_needs_no_connection(shelf, tmp_path):
    table = one(shelf)
    folder = tmp_path / "corpora" / "toy"
    folder.mkdir(parents=True)
    (folder / "a.txt.part").write_bytes(BODY)
    note = {"url": shelf.url("a.txt"), "validator": '"x"', "total": 300_000}
    (folder / "a.txt.part.json").write_text(json.dumps(note))
    assert fetched(table, tmp_path)[0].read_bytes() == BODY
    assert shelf.asked == []


@pytest.mark.parametrize(("status", "tries"), [(404, 1), (403, 1), (416, 1), (500, 4), (503, 4), (429, 4)])
def test_statuses_that_pass_are_tried_again_and_others_not(shelf, tmp_path, status, tries):
    shelf.moods["a.txt"] = [Mood(status=status)]
    with pytest.raises(ValueError, match=f"a.txt: HTTP {status} .*put a copy .*at .*corpora/toy/a.txt"):
        fetched(one(shelf), tmp_path)
    assert len(shelf.asked) == tries
    assert "a.txt" not in leftovers(tmp_path)


def test_no_server_at_all(shelf, tmp_path):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{s.getsockname()[1]}/a.txt"
    with pytest.raises(ValueError, match=r"no connection \(.*refused.*\); tried 4 times; run the same"):
        fetched(corpus(PublishedFile(url, "a.txt")), tmp_path)


# ---- redirects and answers that are not the file


def test_a_redirect_to_http_is_followed_with_its_range(shelf, tmp_path):
    table = one(shelf)
    shelf.files["b"] = BODY
    shelf.moods["a.txt"] = [Mood(location=shelf.url("b"))]
    shelf.moods["b"] = [Mood(cut=65_536), Mood()]
    assert fetched(table, tmp_path)[0].read_bytes() == BODY
    assert shelf.ranges() == [None, None, "bytes=65536-", "bytes=65536-"]


@pytest.mark.parametrize("where", ["file:///etc/hostname", "ftp://127.0.0.1/x", "data:text/plain,x"])
def test_a_redirect_elsewhere_is_refused(shelf, tmp_path, where):
    shelf.moods["a.txt"] = [Mood(location=where)]
    with pytest.raises(ValueError, match=rf"[rR]edirect.*{where}.*(not allowed|only http and https)"):
        fetched(one(shelf), tmp_path)
    assert leftovers(tmp_path) == [".lock"]


def test_https_is_never_left_for_http():
    handler = download._Redirects()
    asked = urllib.request.Request("https://127.0.0.1/a")
    headers = http.client.HTTPMessage()
    with pytest.raises(ValueError, match="but only https will do"):
        handler.redirect_request(asked, io.BytesIO(), 302, "", headers, "http://127.0.0.1/b")
    followed = handler.redirect_request(asked, io.BytesIO(), 302, "", headers, "https://127.0.0.1/b")
    assert followed is not None
    assert followed.full_url == "https://127.0.0.1/b"


def test_an_address_of_another_kind_is_refused(tmp_path):
    (tmp_path / "x").write_text("x")
    with pytest.raises(ValueError, match="only http and https addresses are fetched"):
        fetched(corpus(PublishedFile((tmp_path / "x").as_uri(), "a.txt")), tmp_path)


@pytest.mark.parametrize(
    ("mood", "told"),
    [
        (Mood(headers={"Content-Type": "text/html; charset=utf-8"}), "a web page came in place of the file"),
        (Mood(headers={"Content-Encoding": "gzip"}), "comes as gzip"),
        (Mood(length=False), "neither its length nor its checksum is known"),
    ],
)
def test_an_answer_that_cannot_be_held_to_anything_is_refused(shelf, tmp_path, mood, told):
    shelf.moods["a.txt"] = [mood]
    with pytest.raises(ValueError, match=told):
        fetched(one(shelf), tmp_path)
    assert leftovers(tmp_path) == [".lock"]


def test_without_a_length_the_checksum_tells_a_cut(shelf, tmp_path):
    shelf.moods["a.txt"] = [Mood(length=False, cut=1000), Mood(length=False)]
    table = one(shelf, digest(BODY))
    with pytest.raises(ValueError, match=digest(BODY[:1000])):
        fetched(table, tmp_path)
    assert fetched(table, tmp_path)[0].read_bytes() == BODY


def test_a_cut_in_chunks_is_noticed(shelf, tmp_path):
    shelf.moods["a.txt"] = [Mood(chunked=True, cut=1000), Mood()]
    path, said = fetched(one(shelf), tmp_path)
    assert path.read_bytes() == BODY
    assert any("the connection broke (IncompleteRead" in s for s in said)
