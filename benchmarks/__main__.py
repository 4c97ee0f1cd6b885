"""python -m benchmarks [--device cuda] [SECTION ...]: each section in a process of its own, for its peak memory.

Times are medians in seconds; run it with nothing else on the machine. `--json` prints the raw figures.
"""

import argparse
import json
import os
import resource
import subprocess
import sys

os.environ.setdefault("GOMP_SPINCOUNT", "20000")

import torch

from benchmarks.sections import SECTIONS, machine_limit, precisions
from seqforge.settings import keep_freed_memory


def one(name: str, device: torch.device) -> dict:
    """The section's figures with the limit of the same process and its peak memory."""
    torch.set_flush_denormal(True)  # both as a run does
    keep_freed_memory()
    limits = {p: machine_limit(d, device) for p, d in precisions(device).items()}
    found = SECTIONS[name](device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated() / 2**20
    return {"limits": limits, "peak_mib": round(peak), **found}


def show(name: str, found: dict) -> None:
    print(f"\n{name}: {(SECTIONS[name].__doc__ or '').strip()}")
    limits = found["limits"]
    told = ", ".join(f"{value:.0f} GFLOP/s {p}" for p, value in limits.items())
    print(f"  limit {told}; peak {found['peak_mib']} MiB")
    for precision, seconds in found.get("ours", {}).items():
        least = found["gflop"] / limits[precision]
        print(
            f"  {precision}: {seconds:.2f} s, plain PyTorch {found['plain']:.2f} s "
            f"({found['plain'] / seconds:.1f} times), "
            f"least by the limit {least:.2f} s ({least / seconds:.0%} of it reached)"
        )
    for what, seconds in found.get("seconds", {}).items():
        print(f"  {what:<26}{seconds:.3f} s" if seconds < 1 else f"  {what:<26}{seconds:.2f} s")
    for case, seconds in found.items():
        if case.startswith("V "):
            print(f"  {case:<16} sampling {seconds['sampling']:.3f} s   likelihood {seconds['likelihood']:.3f} s")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("sections", nargs="*", choices=[*SECTIONS, []], help="default: all")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--json", action="store_true", help="raw figures, one JSON object")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.here:
        print(json.dumps(one(args.sections[0], torch.device(args.device))))
        return
    if not args.json:
        print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, device {args.device}")
    everything = {}
    for name in args.sections or SECTIONS:
        command = [sys.executable, "-m", "benchmarks", name, "--device", args.device, "--here"]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        everything[name] = json.loads(done.stdout)
        if not args.json:
            show(name, everything[name])
    if args.json:
        print(json.dumps(everything, indent=1))


if __name__ == "__main__":
    main()
