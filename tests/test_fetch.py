"""Fetching published corpora, from a server on this machine that misbehaves to order."""

import http.client
import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import pytest
from shelf import BODY, LONG, OTHER, WHOLE, Mood, Shelf, corpus, digest, fetched, leftovers, one

from seqforge.data import download, fetch
from seqforge.data.download import Patience
from seqforge.data.published import PublishedFile

# ---- what arrives


def test_a_file_arrives_whole_with_its_licence_told_and_its_checksum_recorded(shelf, tmp_path):
    path, said = fetched(one(shelf), tmp_path)
    assert path == tmp_path / "corpora" / "toy" / "a.txt"
    assert path.read_bytes() == BODY
    assert leftovers(tmp_path) == WHOLE
    assert said[0] == "toy: toy sentences; licence: none stated; published at http://127.0.0.1"
    assert said[1] == f"a.txt: from {shelf.url('a.txt')}"
    assert said[2].startswith(f"a.txt: no checksum of it is published; its sha256 {digest(BODY)} is now recorded in")
    assert len(said) == 3
    assert (path.parent / "SHA256SUMS").read_text() == f"{digest(BODY)}  a.txt\n"
    assert shelf.asked[0][1]["Accept-Encoding"] == "identity"


def test_a_second_call_asks_for_nothing_and_says_nothing(shelf, tmp_path):
    table = one(shelf)
    fetched(table, tmp_path)
    assert fetched(table, tmp_path)[1] == []
    assert len(shelf.asked) == 1


def test_a_folder_of_files_is_completed_where_one_lacks(shelf, tmp_path):
    shelf.files |= {"a": BODY, "b": OTHER}
    table = corpus(
        PublishedFile(shelf.url("a"), "train.txt", digest(BODY)), PublishedFile(shelf.url("b"), "test.txt", None)
    )
    path, said = fetched(table, tmp_path)
    assert path == tmp_path / "corpora" / "toy"
    assert sum("licence: none stated" in s for s in said) == 1
    (path / "test.txt").unlink()
    fetched(table, tmp_path)
    assert [name for name, _ in shelf.asked] == ["a", "b", "b"]
    assert (path / "test.txt").read_bytes() == OTHER
    assert (path / "SHA256SUMS").read_text() == f"{digest(BODY)}  train.txt\n{digest(OTHER)}  test.txt\n"


def test_progress_counts_bytes(shelf, tmp_path):
    seen: list[tuple] = []
    fetched(one(shelf), tmp_path, progress=lambda *x: seen.append(x))
    assert seen[0] == ("a.txt", 65536, 300_000)
    assert seen[-1] == ("a.txt", 300_000, 300_000)


def test_an_empty_file_and_a_chunked_one_arrive(shelf, tmp_path):
    assert fetched(one(shelf, body=b""), tmp_path / "1")[0].read_bytes() == b""
    shelf.moods["a.txt"] = [Mood(chunked=True)]
    assert fetched(one(shelf), tmp_path / "2")[0].read_bytes() == BODY


def test_force_fetches_anew_and_records_the_new_checksum(shelf, tmp_path):
    table = one(shelf)
    fetched(table, tmp_path)
    shelf.files["a.txt"] = OTHER
    path, said = fetched(table, tmp_path, force=True)
    assert path.read_bytes() == OTHER
    assert any(digest(OTHER) in s for s in said)
    assert fetched(table, tmp_path)[1] == []


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


# ---- checksums


def test_a_wrong_checksum_removes_the_part_and_tells_both(shelf, tmp_path):
    with pytest.raises(ValueError, match="publisher's file changed or the download was damaged") as e:
        fetched(one(shelf, digest(OTHER)), tmp_path)
    assert all(x in str(e.value) for x in (shelf.url("a.txt"), digest(BODY), digest(OTHER)))
    assert leftovers(tmp_path) == [".lock"]


def test_a_file_that_changed_since_the_record_is_refused_until_its_line_goes(shelf, tmp_path):
    table = one(shelf)
    path, _ = fetched(table, tmp_path)
    path.unlink()
    shelf.files["a.txt"] = OTHER
    with pytest.raises(ValueError, match=f"{digest(BODY)} was recorded at the first download.* delete the line"):
        fetched(table, tmp_path)
    assert leftovers(tmp_path) == [".lock", "SHA256SUMS"]
    (path.parent / "SHA256SUMS").unlink()
    assert fetched(table, tmp_path)[0].read_bytes() == OTHER


@pytest.mark.parametrize("known", [True, False])
def test_a_file_damaged_in_the_cache_is_named(shelf, tmp_path, known):
    table = one(shelf, digest(BODY) if known else None)
    path, _ = fetched(table, tmp_path)
    path.write_bytes(BODY[:-1] + bytes([BODY[-1] ^ 1]))
    with pytest.raises(ValueError, match=rf"^{path}: its sha256 .* {digest(BODY)}; .*delete it to fetch it anew"):
        fetched(table, tmp_path)
    path.unlink()
    assert fetched(table, tmp_path)[0].read_bytes() == BODY


def test_a_file_put_there_by_hand_is_taken_and_recorded(shelf, tmp_path):
    table = one(shelf)
    (tmp_path / "corpora" / "toy").mkdir(parents=True)
    (tmp_path / "corpora" / "toy" / "a.txt").write_bytes(OTHER)
    path, said = fetched(table, tmp_path, offline=True)
    assert (shelf.asked, len(said)) == ([], 1)
    assert (path.parent / "SHA256SUMS").read_text() == f"{digest(OTHER)}  a.txt\n"


def test_a_damaged_list_of_checksums_is_named_by_its_line(shelf, tmp_path):
    table = one(shelf)
    path, _ = fetched(table, tmp_path)
    with (path.parent / "SHA256SUMS").open("a") as f:
        f.write("hello\n")
    with pytest.raises(ValueError, match=r"SHA256SUMS:2: 'hello' is not a checksum and a name; remove the line"):
        fetched(table, tmp_path)


# ---- offline, the cache's place, errors of the disk


@pytest.mark.parametrize("by_environment", [True, False])
def test_offline_opens_no_connection(shelf, tmp_path, monkeypatch, by_environment):
    table = one(shelf)
    with monkeypatch.context() as m:
        if by_environment:
            m.setenv("SEQFORGE_OFFLINE", "1")
        m.setattr(socket.socket, "connect", lambda *a: pytest.fail("a connection was opened"))
        with pytest.raises(
            ValueError, match=r"corpora/toy/a.txt: not in the cache, and offline; run `seqforge data get toy"
        ):
            fetched(table, tmp_path, offline=not by_environment)
        with pytest.raises(ValueError, match="nothing can be fetched anew"):
            fetched(table, tmp_path, offline=not by_environment, force=True)
    assert list(tmp_path.iterdir()) == []
    path, _ = fetched(table, tmp_path)
    monkeypatch.setattr(socket.socket, "connect", lambda *a: pytest.fail("a connection was opened"))
    assert fetched(table, tmp_path, offline=True) == (path, [])


def test_the_cache_lies_where_the_environment_says(monkeypatch, tmp_path):
    for name in ("SEQFORGE_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert fetch.cache_folder() == tmp_path / ".cache" / "seqforge"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert fetch.cache_folder() == tmp_path / "xdg" / "seqforge"
    monkeypatch.setenv("SEQFORGE_CACHE", str(tmp_path / "own"))
    assert fetch.cache_folder() == tmp_path / "own"


def test_a_cache_that_cannot_be_written(shelf, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"Not a directory; .*set SEQFORGE_CACHE to a folder that can be written"):
        fetched(one(shelf), tmp_path / "file")


def test_a_disk_too_small_is_told_before_and_a_full_one_after(shelf, tmp_path, monkeypatch):
    table = one(shelf)
    with monkeypatch.context() as m:
        m.setattr(download.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 299_999}))
        with pytest.raises(ValueError, match="300,000 bytes are still to come, but 299,999 are free"):
            fetched(table, tmp_path)
    # the note is written just before the part: here the part becomes a device that is always full
    monkeypatch.setattr(download, "write_whole", lambda path, text: path.with_suffix("").symlink_to("/dev/full"))
    with pytest.raises(ValueError, match="No space left on device; free some space"):
        fetched(table, tmp_path / "2")


def test_an_unknown_name_gets_the_list_and_the_nearest():
    with pytest.raises(
        ValueError, match=r"'image-cocoa' is not .*; did you mean image-coco\? there are: emnlp2017-news, "
    ):
        fetch.get("image-cocoa")
    with pytest.raises(ValueError, match=r"'zzz' is not a published corpus; there are: emnlp2017"):
        fetch.get("zzz")


# ---- several at once, and killed ones


CHILD = """
import sys, types
package = types.ModuleType("seqforge.data")  # the real one loads torch, which takes seconds
package.__path__ = [sys.argv[1]]
sys.modules["seqforge.data"] = package
from pathlib import Path
from seqforge.data import fetch
from seqforge.data.published import PublishedCorpus, PublishedFile
table = {"toy": PublishedCorpus("toy", "none stated", "here", (PublishedFile(sys.argv[3], "a.txt"),))}
fetch.get("toy", Path(sys.argv[2]), corpora=table, say=lambda line: print(line, flush=True))
"""


def child(shelf: Shelf, cache: Path) -> subprocess.Popen:
    code = [sys.executable, "-c", CHILD, str(Path(fetch.__file__).parent), str(cache), shelf.url("a.txt")]
    root = str(Path(fetch.__file__).parents[2])
    return subprocess.Popen(code, env=os.environ | {"PYTHONPATH": root}, stdout=subprocess.PIPE, text=True)


def wait_until(true) -> None:
    end = time.monotonic() + LONG
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_killed_process_leaves_nothing_half_and_the_next_asks_only_for_the_rest(shelf, tmp_path):
    table = one(shelf)
    shelf.moods["a.txt"] = [Mood(hang=200_000), Mood()]
    process = child(shelf, tmp_path)
    part = tmp_path / "corpora" / "toy" / "a.txt.part"
    wait_until(lambda: part.exists() and part.stat().st_size >= 131_072)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert leftovers(tmp_path) == [".lock", "a.txt.part", "a.txt.part.json"]
    assert part.stat().st_size == 196_608  # three blocks
    assert fetched(table, tmp_path)[0].read_bytes() == BODY
    assert shelf.ranges() == [None, "bytes=196608-"]
    assert shelf.sent == [200_000, 300_000 - 196_608]
    assert leftovers(tmp_path) == WHOLE


def test_a_second_process_waits_for_the_first(shelf, tmp_path):
    table = one(shelf)
    shelf.moods["a.txt"] = [Mood(hang=200_000), Mood()]
    first = child(shelf, tmp_path)
    part = tmp_path / "corpora" / "toy" / "a.txt.part"
    wait_until(lambda: part.exists() and part.stat().st_size == 196_608)
    second = child(shelf, tmp_path)
    assert second.stdout is not None
    assert second.stdout.readline() == "toy: another process is fetching it; waiting for it to end\n"
    assert len(shelf.asked) == 1
    first.kill()  # the lock goes with its process: the second takes over what is there
    first.communicate()
    second.communicate(timeout=LONG)
    assert second.returncode == 0
    assert shelf.ranges() == [None, "bytes=196608-"]
    assert fetched(table, tmp_path)[0].read_bytes() == BODY


def test_threads_at_once_download_once(shelf, tmp_path):
    table = one(shelf)
    found: list[bytes] = []
    threads = [
        threading.Thread(target=lambda: found.append(fetched(table, tmp_path)[0].read_bytes())) for _ in range(8)
    ]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert found == [BODY] * 8
    assert len(shelf.asked) == 1
