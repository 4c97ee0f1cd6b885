"""Fetching published corpora, from a server on this machine that misbehaves to order."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from shelf import BODY, LONG, OTHER, WHOLE, Mood, Shelf, corpus, digest, fetched, leftovers, one

from seqforge.data import download, fetch
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
            ValueError, match=r"corpora/toy/a.txt: not in the cache; fetch it by `seqforge data get toy"
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
