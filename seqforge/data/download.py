"""One file over HTTP: resumed by ranges, tried again when the connection breaks, checked for its length.

FILE.part grows; FILE.part.json beside it has the address, the ETag or date that the bytes belong to, and the length.
"""

import json
import os
import re
import shutil
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from time import sleep
from urllib.parse import urlsplit

from seqforge.data.published import PublishedFile

Say = Callable[[str], None]
Progress = Callable[[str, int, int | None], None]  # file, bytes so far, bytes in all where the server tells

BLOCK = 1 << 16
PASSING = {408, 425, 429, 500, 502, 503, 504}  # HTTP statuses that may be gone at the next try


@dataclass(frozen=True)
class Patience:
    """timeout: seconds without a byte until a connection counts as broken; waits: seconds before each further try."""

    timeout: float = 30.0
    waits: tuple[float, ...] = (1.0, 2.0, 4.0)


class _Broken(Exception):
    """A transfer that may do better at the next try."""


def download(
    file: PublishedFile, part: Path, say: Say, progress: Progress | None = None, patience: Patience = Patience()
) -> None:
    """A file into `part` (its name and .part), going on where an earlier try stopped; its checksum is not looked at.

    Raises ValueError with address, reason and remedy; what has come by then stays in `part` for the next call.
    """
    say(f"{file.name}: from {file.url}")
    for wait in (*patience.waits, None):
        try:
            return _transfer(file, part, progress, patience.timeout)
        except _Broken as e:
            if wait is None:
                kept = f"{part} keeps {part.stat().st_size:,} bytes; " if part.exists() else ""
                raise ValueError(
                    f"{file.url}: {e}; tried {len(patience.waits) + 1} times; {kept}run the same command again to go "
                    f"on from there, or put a copy of the file at {part.with_suffix('')}"
                ) from e
            say(f"{file.name}: {e}; trying again in {wait:g} s")
            sleep(wait)


def drop(part: Path) -> None:
    """Remove a part and its note."""
    part.unlink(missing_ok=True)
    _note(part).unlink(missing_ok=True)


def write_whole(path: Path, text: str) -> None:
    """Under another name first, so that nobody reads half of it."""
    temporary = path.with_name(path.name + ".new")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def _transfer(file: PublishedFile, part: Path, progress: Progress | None, timeout: float) -> None:
    """One connection. Raises _Broken where another may help, ValueError where not."""
    have, validator, total = _begun(part, file.url)
    if have and have == total:  # the process was killed between the last byte and the renaming
        return
    with _open(file, part, have, validator, timeout) as response:
        done, total = _span(response, part, have, validator)
        _refuse_what_is_no_file(file, response, total, part)
        _need_space(part, None if total is None else total - done)
        if not done:
            part.unlink(missing_ok=True)  # first, so that a note never describes bytes of another file
            note = {"url": file.url, "validator": _validator(response.headers), "total": total}
            write_whole(_note(part), json.dumps(note))
        with part.open("ab") as out:
            for block in _blocks(response):
                out.write(block)
                done += len(block)
                if progress:
                    progress(file.name, done, total)
    if total is not None and done != total:
        raise _Broken(f"the connection ended after {done:,} of {total:,} bytes")


def _need_space(part: Path, more: int | None) -> None:
    free = shutil.disk_usage(part.parent).free
    if more is not None and more > free:
        raise ValueError(
            f"{part}: {more:,} bytes are still to come, but {free:,} are free; free some space, or set SEQFORGE_CACHE "
            "to a folder on another disk"
        )


class _Redirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, req, fp, code, msg, headers, newurl):
        schemes = ("https",) if urlsplit(req.full_url).scheme == "https" else ("http", "https")
        if urlsplit(newurl).scheme not in schemes:
            fp.close()
            raise ValueError(f"{req.full_url}: redirects to {newurl}, but only {' and '.join(schemes)} will do here")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _open(file: PublishedFile, part: Path, have: int, validator: str, timeout: float):
    if urlsplit(file.url).scheme not in ("http", "https"):
        raise ValueError(f"{file.url}: only http and https addresses are fetched")
    headers = {"User-Agent": "seqforge", "Accept-Encoding": "identity"}
    if have:
        headers |= {"Range": f"bytes={have}-", "If-Range": validator}
    try:
        request = urllib.request.Request(file.url, headers=headers)
        return urllib.request.build_opener(_Redirects()).open(request, timeout=timeout)
    except urllib.error.HTTPError as e:
        e.close()
        if e.code == 416:
            drop(part)
        if e.code in PASSING or (e.code == 416 and have):
            raise _Broken(f"HTTP {e.code} {e.reason}") from e
        raise ValueError(
            f"{file.url}: HTTP {e.code} {e.reason}; the publisher may have moved it: put a copy at "
            f"{part.with_suffix('')}, its checksum is looked at there too"
        ) from e
    except (OSError, HTTPException) as e:
        raise _Broken(f"no connection ({getattr(e, 'reason', None) or e or type(e).__name__})") from e


def _span(response, part: Path, have: int, validator: str) -> tuple[int, int | None]:
    """First byte of what a response holds, and bytes of the whole file where it tells."""
    if response.status != 206:
        return 0, response.length
    said = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
    if said is None or int(said[1]) != have or _validator(response.headers) not in ("", validator):
        drop(part)
        raise _Broken("the publisher's file changed since the download began, so it starts over")
    return have, int(said[2]) if said[2] != "*" else None


def _refuse_what_is_no_file(file: PublishedFile, response, total: int | None, part: Path) -> None:
    remedy = f"put a copy of the file at {part.with_suffix('')}"
    if response.headers.get("Content-Encoding", "identity") != "identity":
        raise ValueError(f"{file.url}: comes as {response.headers['Content-Encoding']}, not as it is; {remedy}")
    if file.sha256 is None and response.headers.get_content_type() == "text/html":
        raise ValueError(f"{file.url}: a web page came in place of the file (a sign-in, a parked address?); {remedy}")
    if file.sha256 is None and total is None and not response.chunked:  # a cut would look like the end
        raise ValueError(f"{file.url}: neither its length nor its checksum is known; {remedy}")


def _blocks(response) -> Iterator[bytes]:
    try:
        while block := response.read(BLOCK):
            yield block
    except (OSError, HTTPException) as e:
        raise _Broken(f"the connection broke ({e or type(e).__name__})") from e


def _validator(headers) -> str:
    """What If-Range takes: a strong ETag, else the date; "" where there is neither, and nothing can be resumed."""
    etag = headers.get("ETag", "")
    return etag if etag and not etag.startswith("W/") else headers.get("Last-Modified", "")


def _note(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def _begun(part: Path, url: str) -> tuple[int, str, int | None]:
    """Bytes there, their validator, bytes in all; (0, "", None) where it has to start over."""
    try:
        note = json.loads(_note(part).read_text(encoding="utf-8"))
        have, total = part.stat().st_size, note["total"]
        if note["url"] == url and note["validator"] and (total is None or have <= total):
            return have, note["validator"], total
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        pass
    return 0, "", None
