"""The most memory that a process has held."""

import sys
from pathlib import Path

import torch

try:
    import resource
except ImportError:  # Windows has none
    resource = None


def peak(device: torch.device) -> dict[str, int]:
    """Bytes, of this process and on its GPU. {} where the system does not tell."""
    found = {}
    status = Path("/proc/self/status")
    if status.is_file():  # Linux; getrusage there may tell of the process that started this one
        line = next((x for x in status.read_text().splitlines() if x.startswith("VmHWM:")), None)
        found = {"peak_memory": int(line.split()[1]) * 1024} if line else {}
    elif resource is not None:
        unit = 1 if sys.platform == "darwin" else 1024
        found = {"peak_memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit}
    if device.type == "cuda":
        found["peak_memory_gpu"] = torch.cuda.max_memory_allocated(device)
    return found
