"""Published corpora into a cache: checksums, archives, offline use.

    CACHE/corpora/NAME/FILE            whole and checked, always
                       FILE.part       a download under way, or broken off: the next call goes on from it
                       SHA256SUMS      what `sha256sum -c` reads: the published checksums, and those of first downloads

A lock file keeps two processes from writing the same part; it needs flock, which Windows has not.
"""

import contextlib
import difflib
import functools
import hashlib
import lzma
import os
import re
import shutil
import stat
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath

from seqforge.data.download import Patience, Progress, Say, download, drop, write_whole
from seqforge.data.published import CORPORA, PublishedCorpus, PublishedFile

if sys.platform != "win32":
    import fcntl

MOST_BYTES = 2 * 10**9  # of an archive, unpacked
MOST_MEMBERS = 50_000
UNSOUND = (  # what zipfile raises of damage, encryption, unknown methods, and one name for a file and a folder
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, NotImplementedError, RuntimeError),
    *(NotADirectoryError, IsADirectoryError, FileExistsError),
)
SUMS = "SHA256SUMS"

Load = Callable[[PublishedFile, Path], None]  # a file into a part


def cache_folder() -> Path:
    """$SEQFORGE_CACHE, else $XDG_CACHE_HOME/seqforge, else ~/.cache/seqforge."""
    if own := os.environ.get("SEQFORGE_CACHE"):
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "seqforge"


def get(
    name: str,
    cache: Path | None = None,
    offline: bool = False,
    force: bool = False,
    say: Say = print,
    progress: Progress | None = None,
    corpora: Mapping[str, PublishedCorpus] = CORPORA,
    patience: Patience = Patience(),
) -> Path:
    """Fetch what the cache lacks of a published corpus, check all of it -> the path to train on.

    offline (or SEQFORGE_OFFLINE=1): open no connection. force: fetch anew, and record new checksums where none are
    published. Raises ValueError with place and remedy: unknown name, not in the cache, wrong checksum, address that
    fails, unsafe archive, cache that cannot be written.
    """
    if name not in corpora:
        near = difflib.get_close_matches(name, corpora, 1)
        meant = f"; did you mean {near[0]}?" if near else ";"
        raise ValueError(f"{name!r} is not a published corpus{meant} there are: {', '.join(corpora)}")
    corpus, folder = corpora[name], (cache or cache_folder()) / "corpora" / name
    load = functools.partial(download, say=say, progress=progress, patience=patience)
    if offline or os.environ.get("SEQFORGE_OFFLINE", "") not in ("", "0"):
        _need_cached(name, corpus, folder, force)
        load = _refuse_to_load
    try:
        if force or not _is_whole(corpus, folder):
            with _locked(folder, name, say):
                _fetch(name, corpus, folder, force, say, load)
    except BrokenPipeError:  # of `say`: nobody reads what we print
        raise
    except OSError as e:
        raise ValueError(
            f"{e.filename or folder}: {e.strerror or e}; free some space or mend the folder, or set SEQFORGE_CACHE to "
            "a folder that can be written"
        ) from e
    if not (folder / corpus.main).exists():
        raise ValueError(f"{folder / corpus.main}: not in what {corpus.publisher} sends now; look for its new place")
    return folder / corpus.main


def read_sums(path: Path) -> dict[str, str]:
    """A file in `sha256sum`'s format -> name: sha256. Raises ValueError naming the line that is not."""
    if not path.exists():
        return {}
    found = {}
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        said = re.fullmatch(r"([0-9a-f]{64}) [ *](.+)", line)
        if said is None:
            raise ValueError(f"{path}:{number}: {line[:40]!r} is not a checksum and a name; remove the line")
        found[said[2]] = said[1]
    return found


def sha256(path: Path) -> str:
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def _need_cached(name: str, corpus: PublishedCorpus, folder: Path, force: bool) -> None:
    if force:
        raise ValueError(f"{name}: offline, so nothing can be fetched anew; leave out one of the two")
    for file in corpus.files:
        if not (folder / file.name).exists():
            raise ValueError(
                f"{folder / file.name}: not in the cache; fetch it by `seqforge data get {name}` (needs a connection, "
                f"and SEQFORGE_OFFLINE unset), or put a copy of {file.url} there"
            )


def _refuse_to_load(file: PublishedFile, part: Path) -> None:
    raise ValueError(f"{part.with_suffix('')}: removed meanwhile, and offline; put it back")


def _is_whole(corpus: PublishedCorpus, folder: Path) -> bool:
    """Whether all is there, checked and unpacked. Writes nothing, so a cache may be read-only.

    Raises ValueError where a file is not what was published or recorded.
    """
    sums, whole = read_sums(folder / SUMS), True
    for file in corpus.files:
        path, expected = folder / file.name, file.sha256 or sums.get(file.name)
        if path.exists() and expected:
            _verify(path, expected)
        whole &= path.exists() and expected is not None and (not file.unpack or _unpacked(path).is_dir())
    return whole


def _fetch(name: str, corpus: PublishedCorpus, folder: Path, force: bool, say: Say, load: Load) -> None:
    """What the cache lacks, or with `force` everything, under the lock."""
    sums, told = read_sums(folder / SUMS), False
    for file in corpus.files:
        path, recorded = folder / file.name, None if force else sums.get(file.name)
        if force or not path.exists():
            if not told:
                say(f"{name}: {corpus.about}; licence: {corpus.licence}; published at {corpus.publisher}")
            told = True
            found = _load(file, path, recorded, load)
        else:
            found = _verify(path, file.sha256 or recorded)
        if file.unpack and not _unpacked(path).is_dir():  # before the record: what does not unpack is not recorded
            os.replace(_unpack(path, str(path)), _unpacked(path))
        if sums.get(file.name) != found:
            sums[file.name] = found
            write_whole(folder / SUMS, "".join(f"{digest}  {of}\n" for of, digest in sums.items()))
        if recorded is None and file.sha256 is None:
            say(
                f"{file.name}: no checksum of it is published; its sha256 {found} is now recorded in {folder / SUMS}, "
                "and later calls hold the file to it"
            )


def _load(file: PublishedFile, path: Path, recorded: str | None, load: Load) -> str:
    """Download, check, and only then give it its name -> sha256."""
    part = path.with_name(path.name + ".part")
    load(file, part)
    found = sha256(part)
    try:
        _hold_to(file, found, recorded, path)
        unpacked = _unpack(part, file.url) if file.unpack else None
    except ValueError:
        drop(part)
        raise
    if unpacked and _unpacked(path).exists():  # before the new archive: the two must never disagree
        shutil.rmtree(_unpacked(path))
    with part.open("r+b") as f:
        os.fsync(f.fileno())
    os.replace(part, path)
    drop(part)
    if unpacked:
        os.replace(unpacked, _unpacked(path))
    return found


def _hold_to(file: PublishedFile, found: str, recorded: str | None, path: Path) -> None:
    if file.sha256 not in (None, found):
        raise ValueError(
            f"{file.url}: its sha256 is {found}, but {file.sha256} is published; the publisher's file changed or the "
            f"download was damaged, and it was removed: run it again, or put a copy of the right file at {path}"
        )
    if file.sha256 is None and recorded not in (None, found):
        raise ValueError(
            f"{file.url}: its sha256 is {found}, but {recorded} was recorded at the first download; the publisher's "
            "file changed or the download was damaged, and it was removed: run it again, or delete the line of "
            f"{path.name} in {path.with_name(SUMS)} to accept the new one"
        )


def _verify(path: Path, expected: str | None) -> str:
    found = sha256(path)
    if expected not in (None, found):
        raise ValueError(
            f"{path}: its sha256 is {found}, but should be {expected}; the file was changed or damaged: delete it to "
            "fetch it anew"
        )
    return found


# ---- archives


def _unpacked(path: Path) -> Path:
    return path.with_suffix("")


def _unpack(archive: Path, place: str) -> Path:
    """NAME.zip or NAME.zip.part -> the folder NAME.unpacking with what it holds, to be renamed by the caller.

    place: of the archive, for messages. Raises ValueError where it is damaged, unsafe or too large.
    """
    final = archive.with_name(archive.name.removesuffix(".part"))
    target = final.with_suffix(".unpacking")
    shutil.rmtree(target, ignore_errors=True)
    try:
        with zipfile.ZipFile(archive) as opened:
            _check_members(place, opened.infolist())
            target.mkdir()
            opened.extractall(target)
    except BaseException as e:
        shutil.rmtree(target, ignore_errors=True)
        if isinstance(e, UNSOUND):
            raise ValueError(f"{place}: not a sound zip archive ({e}); put a sound one at {final}") from e
        raise
    return target


def _check_members(place: str, members: list[zipfile.ZipInfo]) -> None:
    """zipfile reads no more of a member than the size it states, so the stated sizes may be trusted as a limit."""
    size = sum(m.file_size for m in members)
    if size > MOST_BYTES or len(members) > MOST_MEMBERS:
        raise ValueError(
            f"{place}: {len(members):,} members of {size:,} bytes in all, but at most {MOST_MEMBERS:,} and "
            f"{MOST_BYTES:,} are unpacked; unpack it by hand if you trust it"
        )
    for m in members:
        parts, kind = PurePosixPath(m.filename), stat.S_IFMT(m.external_attr >> 16)
        if parts.is_absolute() or ".." in parts.parts or re.search(r"\\|^[A-Za-z]:", m.orig_filename):
            raise ValueError(f"{place}: its member {m.filename!r} would lie outside the folder; do not unpack it")
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise ValueError(f"{place}: its member {m.filename!r} is a link or a device; do not unpack it")


# ---- the lock


@contextlib.contextmanager
def _locked(folder: Path, name: str, say: Say) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("a") as lock:
        if sys.platform != "win32":
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                say(f"{name}: another process is fetching it; waiting for it to end")
                fcntl.flock(lock, fcntl.LOCK_EX)
        yield
