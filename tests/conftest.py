from pathlib import Path

import pytest
import torch
from markupsafe import Markup
from shelf import serving
from user_files import write

from seqforge.report import figures, learning

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def an_idle_machine(monkeypatch):
    """Whatever else runs beside the tests: no word of advice on stderr."""
    monkeypatch.setattr("os.getloadavg", lambda: (0.0, 0.0, 0.0), raising=False)


PLACES = [(figures.Picture, "svg"), (learning, "curves_figure"), (learning, "write_png")]
DRAWING = [getattr(*place) for place in PLACES]
STUBS = [
    lambda picture: Markup('<svg aria-label="{}"></svg>').format(picture.label),
    lambda *_: None,
    lambda _, path: Path(path).touch(),
]


@pytest.fixture(autouse=True, scope="module")
def undrawn(request):
    """Pages without their pictures, which are most of a tiny run's time. `DRAWN = True` in a module asks for them, the
    fixture `drawn` for one test.
    """
    with pytest.MonkeyPatch.context() as patch:
        for place, stub in zip(PLACES, STUBS, strict=True):
            if not getattr(request.module, "DRAWN", False):
                patch.setattr(*place, stub)
        yield


@pytest.fixture
def drawn(monkeypatch):
    for place, drawing in zip(PLACES, DRAWING, strict=True):
        monkeypatch.setattr(*place, drawing)


@pytest.fixture
def shelf(monkeypatch):
    """A server whose files and moods a test sets."""
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.delenv("SEQFORGE_OFFLINE", raising=False)
    with serving() as server:
        yield server


@pytest.fixture
def put(tmp_path, monkeypatch):
    """Writes a file into the current folder, text or bytes, and gives its name."""
    monkeypatch.chdir(tmp_path)
    return write
