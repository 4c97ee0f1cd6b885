"""How much of the gain is the discriminator's: a run again from the same pre-training, with rewards that know nothing.

Constant, random and shuffled rewards, a frozen discriminator, and MLE trained on for as long, each with the run's own
rounds, in RUN/controls/NAME. The share of the gain that D explains is 1 - gain of the control / gain of the run, both
over the pre-trained generator on one frontier; its interval comes from the draws that all three share.
"""

import dataclasses
import math
import sys
from pathlib import Path

import numpy as np

from seqforge import evaluate, training, watch
from seqforge.compare import read_run
from seqforge.frontier import AXES, points_of
from seqforge.methods.mle import MLETrainConfig
from seqforge.models.kinds import GeneratorConfig
from seqforge.report.folder import read_log
from seqforge.settings import RunConfig, build
from seqforge.verdict import FILE, gap_draws, judge, load_draws

REWARDS = ("constant", "random", "shuffled", "frozen")


def carry_out(run: Path) -> dict[str, Path]:
    """Train every control that has not ended; name -> folder. Raises ValueError for a run that has none: not ended, a
    method whose reward is no discriminator's, or a control itself.
    """
    plain = evaluate.read_config(run)
    if plain["method"] not in training.METHODS or not watch.has_ended(run):
        raise ValueError(f"{run}: has not ended; go on by: seqforge resume {run}")
    if stopped := read_log(run / "log.jsonl")[0][-1].get("stopped"):
        raise ValueError(
            f"{run}: stopped early ({stopped}), so its controls would train longer; train without --stop-on"
        )
    check(plain["method"], plain.get("reward"), f"{run}: ")
    config, method = (
        dataclasses.replace(build(RunConfig, plain), stop_on=[]),
        build(training.METHODS[plain["method"]][0], plain),
    )
    found = {}
    for reward in REWARDS:
        changes = {"reward": reward} | ({"baseline": "none"} if reward == "constant" else {})
        found[reward] = _one(run, reward, plain["method"], config, dataclasses.replace(method, **changes), run)
    if isinstance(method.generator, GeneratorConfig):
        epochs = epochs_as_long(run)
        mle = dataclasses.replace(method.mle, epochs=epochs, patience=epochs)  # the best of all by validation NLL
        longer = MLETrainConfig(method.generator, mle, method.monitor)
        found["mle"] = _one(run, "mle", "mle", config, longer, None)
    return found


def check(method: str, reward: str | None, place: str = "") -> None:
    """Raises ValueError for a method, or a reward of it, that has no null controls."""
    if reward != "discriminator":
        what = f"reward {reward}" if reward else f"method {method}"
        raise ValueError(f"{place}{what} has no null controls; take a run whose reward is the discriminator's")


def _one(run: Path, name: str, method: str, config: RunConfig, method_config: object, start: Path | None) -> Path:
    folder = run / "controls" / name
    print(f"control {name}: {folder}", file=sys.stderr)
    if (folder / "config.yaml").is_file():
        training.resume(folder)
    else:
        training.train(method, config, method_config, folder, start)
    return folder


def epochs_as_long(run: Path) -> int:
    """Epochs of likelihood in the time of the whole run, by the time that its own took. Raises ValueError where it took
    over another's pre-training and has none.
    """
    records, _ = read_log(run / "log.jsonl")
    epochs = [r["seconds"] for r in records if r["phase"] == "mle" and r["kind"] == "train"]
    if not epochs or epochs[-1] <= 0:
        raise ValueError(f"--controls {run}: it has no pre-training of its own; give the run it took it from (--from)")
    return math.ceil(len(epochs) * max(r["seconds"] for r in records) / epochs[-1])


def share(run: Path, controls: dict[str, Path]) -> dict:
    """The gain of the run and of each control over the run's pre-trained generator, with intervals, and the share of
    the gain that D explains against each control: None where the run has no gain beyond its interval.
    """
    base, mine = (_generator(run, k) for k in (0, -1))
    found = {"run": str(run), "controls": {}}
    name = next((n for n, axes in AXES.items() if points_of(base[0], axes) and points_of(mine[0], axes)), None)
    if name is None:
        raise ValueError(f"{run}: no frontier to compare on; score it anew by: seqforge evaluate {run}")
    gain = judge(name, mine[0], base[0], mine[1], base[1])
    found |= {"frontier": name, "gain": gain.as_dict() if gain else None}
    for control, folder in controls.items():
        theirs = _generator(folder, -1)
        own = judge(name, theirs[0], base[0], theirs[1], base[1])
        against = judge(name, mine[0], theirs[0], mine[1], theirs[1])
        part = None
        if gain is not None and own is not None and gain.high < 0:
            draws = [gap_draws(name, g[0], base[0], g[1], base[1]) for g in (mine, theirs)]
            shares = [1 - c / m for m, c in zip(*draws, strict=True) if m is not None and c is not None and m < 0]
            low, high = np.percentile(shares, [2.5, 97.5])
            part = [1 - own.gap / gain.gap, float(low), float(high)]
        found["controls"][control] = {
            "gain": own.as_dict() if own else None,
            "run_against_it": against.as_dict() if against else None,
            "share_of_d": part,
        }
    return found


def _generator(run: Path, at: int) -> tuple[list[dict], dict]:
    """Scores and draws of a generator of a run."""
    row = read_run(run)[1]["generators"][at]
    return row["scores"], load_draws(run / FILE, row["name"])
