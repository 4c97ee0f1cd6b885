"""Archives that are fetched and unpacked, and the table of published corpora."""

import io
import stat
import zipfile
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from shelf import BODY, Shelf, corpus, fetched, leftovers

from seqforge.data import fetch
from seqforge.data.published import CORPORA, PublishedCorpus, PublishedFile

# ---- archives


def zipped(*members: tuple[str | zipfile.ZipInfo, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as z:
        for name, body in members:
            z.writestr(name, body)
    return out.getvalue()


def archive(shelf: Shelf, body: bytes, sha256: str | None = None) -> dict[str, PublishedCorpus]:
    shelf.files["x.zip"] = body
    return corpus(PublishedFile(shelf.url("x.zip"), "tunes.zip", sha256, unpack=True), main="tunes/in/MIDI")


GOOD = [("in/MIDI/a.mid", b"MThd"), ("in/MIDI/deep/b.mid", BODY), ("in/..odd..name", b"x")]


def test_an_archive_is_unpacked_beside(shelf, tmp_path):
    table = archive(shelf, zipped(*GOOD))
    path, _ = fetched(table, tmp_path)
    assert path == tmp_path / "corpora" / "toy" / "tunes" / "in" / "MIDI"
    assert (path / "deep" / "b.mid").read_bytes() == BODY
    assert leftovers(tmp_path) == [".lock", "SHA256SUMS", "tunes", "tunes.zip"]
    assert fetched(table, tmp_path)[1] == []


def test_an_archive_whose_unpacking_was_cut_short_is_unpacked_again(shelf, tmp_path):
    table = archive(shelf, zipped(*GOOD))
    path, _ = fetched(table, tmp_path)
    (path.parents[1]).rename(path.parents[2] / "tunes.unpacking")
    (path.parents[2] / "tunes.unpacking" / "stray").write_text("x")
    fetched(table, tmp_path, offline=True)
    assert sorted(p.name for p in path.parents[1].iterdir()) == ["in"]
    assert leftovers(tmp_path) == [".lock", "SHA256SUMS", "tunes", "tunes.zip"]
    assert len(shelf.asked) == 1


def test_force_replaces_what_was_unpacked(shelf, tmp_path):
    table = archive(shelf, zipped(*GOOD))
    fetched(table, tmp_path)
    shelf.files["x.zip"] = zipped(("in/MIDI/new.mid", b"MThd"))
    path, _ = fetched(table, tmp_path, force=True)
    assert [p.name for p in path.iterdir()] == ["new.mid"]


def link(name: str, mode: int = stat.S_IFLNK) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.create_system, info.external_attr = 3, (mode | 0o777) << 16
    return info


@pytest.mark.parametrize(
    ("bad", "told"),
    [
        ("../../evil", "would lie outside"),
        ("in/../../../evil", "would lie outside"),
        ("/tmp/evil", "would lie outside"),
        ("C:/evil", "would lie outside"),
        ("in\\..\\evil", "would lie outside"),
        (link("in/link"), "is a link or a device"),
        (link("in/pipe", stat.S_IFIFO), "is a link or a device"),
    ],
)
def test_an_unsafe_archive_is_refused_whole(shelf, tmp_path, bad, told):
    table = archive(shelf, zipped(*GOOD, (bad, b"/etc/passwd")))
    with pytest.raises(ValueError, match=f"x.zip: its member .* {told}"):
        fetched(table, tmp_path / "a" / "b")
    assert leftovers(tmp_path / "a" / "b") == [".lock"]
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == [".lock"]


@pytest.mark.parametrize(("limit", "value"), [("MOST_BYTES", 300_004), ("MOST_MEMBERS", 2)])
def test_an_archive_over_the_limits_is_refused(shelf, tmp_path, monkeypatch, limit, value):
    table = archive(shelf, zipped(*GOOD))  # 3 members of 4 + 300,000 + 1 bytes
    with monkeypatch.context() as m:
        m.setattr(fetch, limit, value)
        with pytest.raises(ValueError, match="3 members of 300,005 bytes in all, but at most"):
            fetched(table, tmp_path)
        m.setattr(fetch, limit, value + 1)
        fetched(table, tmp_path)


def test_a_member_larger_than_it_states_is_not_unpacked(shelf, tmp_path):
    """The limit counts stated sizes; a member that holds more must end in an error, not on the disk."""
    body = zipped(("in/MIDI/bomb", bytes(1_000_000)))
    lying = body.replace((1_000_000).to_bytes(4, "little"), (10).to_bytes(4, "little"))
    assert lying != body
    with pytest.raises(ValueError, match="not a sound zip archive"):
        fetched(archive(shelf, lying), tmp_path)
    assert leftovers(tmp_path) == [".lock"]


def test_a_name_that_is_file_and_folder_is_told(shelf, tmp_path):
    with pytest.raises(ValueError, match="not a sound zip archive"):
        fetched(archive(shelf, zipped(("in", b"x"), ("in/a", b"y"))), tmp_path)
    assert leftovers(tmp_path) == [".lock"]


def test_an_interrupt_while_unpacking_loses_no_download(shelf, tmp_path, monkeypatch):
    table = archive(shelf, zipped(*GOOD))

    def interrupt(self, path):
        raise KeyboardInterrupt

    with monkeypatch.context() as m:
        m.setattr(zipfile.ZipFile, "extractall", interrupt)
        with pytest.raises(KeyboardInterrupt):
            fetched(table, tmp_path)
    assert leftovers(tmp_path) == [".lock", "tunes.zip.part", "tunes.zip.part.json"]
    assert (fetched(table, tmp_path)[0] / "a.mid").read_bytes() == b"MThd"
    assert len(shelf.asked) == 1


def test_what_is_no_archive_is_neither_kept_nor_recorded(shelf, tmp_path):
    table = archive(shelf, b"<html>gone</html>")
    with pytest.raises(
        ValueError, match=r"x.zip: not a sound zip archive \(File is not a zip file\); put a sound one at"
    ):
        fetched(table, tmp_path)
    assert leftovers(tmp_path) == [".lock"]
    (tmp_path / "corpora" / "toy" / "tunes.zip").write_bytes(zipped(*GOOD)[:-30])
    with pytest.raises(ValueError, match=r"tunes.zip: not a sound zip archive"):
        fetched(table, tmp_path)
    assert leftovers(tmp_path) == [".lock", "tunes.zip"]


@pytest.mark.parametrize("members", [[("out/a.mid", b"MThd")], []])
def test_an_archive_without_the_place_we_know_is_told(shelf, tmp_path, members):
    with pytest.raises(ValueError, match=r"tunes/in/MIDI: not in what http://127.0.0.1 sends now"):
        fetched(archive(shelf, zipped(*members)), tmp_path)


# ---- the table


def test_the_table_is_the_one_published():
    raw = "https://raw.githubusercontent.com"
    scratchgan = "https://storage.googleapis.com/deepmind-scratchgan-data"
    assert {name: [f.url for f in c.files] for name, c in CORPORA.items()} == {
        "emnlp2017-news": [
            f"{scratchgan}/{x}" for x in ("train.json", "valid.json", "test.json", "glove_emnlp2017.txt")
        ],
        "image-coco": [
            f"{raw}/geek-ai/Texygen/master/data/image_coco.txt",
            f"{raw}/geek-ai/Texygen/master/data/testdata/test_coco.txt",
        ],
        "tang-poems": [f"{raw}/geek-ai/Texygen/master/data/shi.txt"],
        "obama-speeches": [f"{raw}/samim23/obama-rnn/master/input.txt"],
        "nottingham": ["https://github.com/jukedeck/nottingham-dataset/archive/refs/heads/master.zip"],
        "dailydialog": ["http://yanran.li/files/ijcnlp_dailydialog.zip"],
        "seqgan-oracle": [f"{raw}/LantaoYu/SeqGAN/master/save/target_params_py3.pkl"],
    }
    known = {f.name: f.sha256[:8] for c in CORPORA.values() for f in c.files if f.sha256}
    assert known == {
        "train.txt": "2c0fd1f0",
        "test.txt": "72e25c9f",
        "shi.txt": "ac03c5fb",
        "target_params_py3.pkl": "5ac794a6",
    }
    assert all(len(bytes.fromhex(f.sha256)) == 32 for c in CORPORA.values() for f in c.files if f.sha256)


@pytest.mark.parametrize("name", CORPORA)
def test_every_corpus_can_be_used_once_it_is_there(name, tmp_path):
    """`main` lies within a file of the table or in what an archive unpacks to, and no host is strange."""
    corpus = CORPORA[name]
    tops = {"."} | {f.name for f in corpus.files} | {Path(f.name).stem for f in corpus.files if f.unpack}
    assert (Path(corpus.main).parts or (".",))[0] in tops
    assert all(f.unpack == f.name.endswith(".zip") for f in corpus.files)
    assert corpus.licence
    assert corpus.about
    hosts = {"storage.googleapis.com", "raw.githubusercontent.com", "github.com", "yanran.li"}
    assert {urlsplit(x).hostname for x in (corpus.publisher, *(f.url for f in corpus.files))} <= hosts


def test_how_to_use_it():
    assert CORPORA["tang-poems"].use(Path("/a b/shi.txt")) == "--data '/a b/shi.txt'"
    assert CORPORA["seqgan-oracle"].use(Path("/c/o.pkl")) == "--data.oracle_file /c/o.pkl"
