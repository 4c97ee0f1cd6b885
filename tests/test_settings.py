"""The process that a command runs in: what is set of it, and how it ends."""

import subprocess
import sys

import pytest

LOOP = """
import resource, torch
from seqforge.settings import keep_freed_memory
torch.set_num_threads(1)
keep_freed_memory()
def step():
    blocks = [torch.ones(3_000_000) for _ in range(6)]
for _ in range(5):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def test_the_package_runs_as_the_command_does():
    done = subprocess.run([sys.executable, "-m", "seqforge", "recipes"], capture_output=True, text=True, check=True)
    assert "mle-oracle" in done.stdout
    wrong = subprocess.run([sys.executable, "-m", "seqforge", "nonsense"], capture_output=True, text=True, check=False)
    assert wrong.returncode == 2


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's malloc")
def test_freed_memory_is_kept():
    """Blocks of 12 MB that come and go cost no new pages; by itself malloc has them made anew every time,
    in about one process of two (where its heap ends in a block that stays, it cannot give others back).
    """

    def faults() -> int:
        done = subprocess.run([sys.executable, "-c", LOOP], capture_output=True, text=True, check=True)
        return int(done.stdout)

    assert max(faults() for _ in range(4)) < 6 * 12_000_000 // 4096  # the pages of one of 20 steps
