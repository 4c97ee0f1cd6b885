from pathlib import Path

import pytest
import torch
from markupsafe import Markup

from seqforge.report import figures, learning

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def an_idle_machine(monkeypatch):
    """Whatever else runs beside the tests: no word of advice on stderr."""
    monkeypatch.setattr("os.getloadavg", lambda: (0.0, 0.0, 0.0), raising=False)


@pytest.fixture(autouse=True, scope="module")
def undrawn(request):
    """Pages without their pictures, which are most of a tiny run's time; `DRAWN = True` in a module asks for them."""
    with pytest.MonkeyPatch.context() as patch:
        if not getattr(request.module, "DRAWN", False):
            patch.setattr(figures.Picture, "svg", lambda self: Markup('<svg aria-label="{}"></svg>').format(self.label))
            patch.setattr(learning, "curves_figure", lambda *_: None)
            patch.setattr(learning, "write_png", lambda _, path: Path(path).touch())
        yield
