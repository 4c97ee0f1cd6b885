"""Files as users bring them, written for the tests of the readers, and what is said of bad ones."""

import gzip
from pathlib import Path

import pytest

from seqforge.data.readers import read


def write(name: str, content: str | bytes) -> str:
    """A file in the current folder, packed where its name says so. Gives the name."""
    data = content.encode() if isinstance(content, str) else content
    Path(name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return name


def refused(path: str, *words: str, **options) -> str:
    """What is said of a file that cannot be read: first its path, then these words."""
    with pytest.raises(ValueError, match=r".") as caught:
        read(path, **options)
    said = str(caught.value)
    assert said.startswith(path)
    for word in words:
        assert word in said
    return said
