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
def no_rendering(request):
    """Pages are built and their pictures composed, but not rendered, which is most of a tiny run's time.

    `RENDERS = True` in a module asks for the whole.
    """
    with pytest.MonkeyPatch.context() as patch:
        if not getattr(request.module, "RENDERS", False):
            patch.setattr(figures, "inline_svg", unrendered)
            patch.setattr(learning, "write_png", lambda figure, path: Path(path).touch())
        yield


def unrendered(figure, prefix: str, label: str) -> Markup:
    return Markup('<svg role="img" aria-label="{}"></svg>').format(label)
