import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def an_idle_machine(monkeypatch):
    """Whatever else runs beside the tests: no word of advice on stderr."""
    monkeypatch.setattr("os.getloadavg", lambda: (0.0, 0.0, 0.0), raising=False)
