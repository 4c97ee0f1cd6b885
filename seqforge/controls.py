"""How much of the gain is the discriminator's: a run again from the same pre-training, with rewards that know nothing.

Constant, random and shuffled rewards, a frozen discriminator, and MLE trained on for as long, each with the run's own
rounds, in RUN/controls/NAME. The share of the gain that D explains is 1 - gain of the control / gain of the run, both
over the pre-trained generator on one frontier; its interval comes from the draws that all three share, or over several
seeds from those.
"""

import dataclasses
import math
import sys
from pathlib import Path

import numpy as np

from seqforge import loading, training, watch
from seqforge.compare import check_alike, read_run
from seqforge.frontier import AXES, mean_interval, points_of
from seqforge.methods.mle import COUNTERPART, MLETrainConfig
from seqforge.models.kinds import GeneratorConfig
from seqforge.report.folder import read_log
from seqforge.settings import RunConfig, build
from seqforge.verdict import BY_PARTS, FILE, Judgement, gap_draws, judge, load_draws, over_seeds

REWARDS = ("constant", "random", "shuffled", "frozen")


def carry_out(run: Path) -> dict[str, Path]:
    """Train every control that has not ended; name -> folder. Raises ValueError for a run that has none: not ended, a
    method whose reward is no discriminator's, or a control itself.
    """
    plain = loading.read_config(run)
    if plain["method"] not in training.METHODS or not watch.has_ended(run):
        raise ValueError(f"{run}: has not ended; go on by: seqforge resume {run}")
    if stopped := read_log(run / "log.jsonl")[0][-1].get("stopped"):
        raise ValueError(
            f"{run}: stopped early ({stopped}), so its controls would train longer; train without --stop-on"
        )
    try:
        config = dataclasses.replace(build(RunConfig, plain), stop_on=[])
        method = build(training.METHODS[plain["method"]][0], plain)
    except TypeError as e:  # of another version
        raise ValueError(f"{run / 'config.yaml'}: {e}; restore it or train anew") from e
    check(plain["method"], method, f"{run}: ", plain["from"])
    epochs = epochs_as_long(run) if isinstance(method.generator, GeneratorConfig) else 0
    found = {}
    for reward in REWARDS:
        changes = {"reward": reward} | ({"baseline": "none"} if reward == "constant" else {})
        found[reward] = _one(run, reward, plain["method"], config, dataclasses.replace(method, **changes), run)
    if epochs:
        mle = dataclasses.replace(method.mle, epochs=epochs, patience=epochs)  # the best of all by validation NLL
        longer = MLETrainConfig(method.generator, mle, method.monitor)
        found["mle"] = _one(run, "mle", "mle", config, longer, None)
    else:
        print(
            f"control mle: none, since `train mle` does not train the generator of {plain['method']}", file=sys.stderr
        )
    return found


def check(method: str, config: object, place: str = "", start: object = None) -> None:
    """Raises ValueError for a run that has no null controls: a method, or a reward of it, that has none, one without
    pre-training to gain over, or one that took over (start) another's, whose time is not its own.
    """
    reward = getattr(config, "reward", None)
    if reward != "discriminator":
        what = f"reward {reward}" if reward else f"method {method}"
        raise ValueError(f"{place}{what} has no null controls; take a run whose reward is the discriminator's")
    if not hasattr(config, "mle"):
        raise ValueError(
            f"{place}method {method} has no pre-training that a gain could be held to; train it again with "
            "--reward constant, and compare both runs"
        )
    if start and isinstance(getattr(config, "generator", None), GeneratorConfig):
        raise ValueError(f"{place}took its pre-training from {start} (--from); a run with controls needs its own")


def _one(run: Path, name: str, method: str, config: RunConfig, method_config: object, start: Path | None) -> Path:
    folder = run / "controls" / name
    print(f"control {name}: {folder}", file=sys.stderr)
    if (folder / "config.yaml").is_file():
        training.resume(folder)
    else:
        training.train(method, config, method_config, folder, start)
    return folder


def epochs_as_long(run: Path) -> int:
    """Epochs of likelihood in the time of the whole run but for that of MLE's counterpart, by the time that its own
    took. Raises ValueError where it had none.
    """
    records, _ = read_log(run / "log.jsonl")
    epochs = [r["seconds"] for r in records if r["phase"] == "mle" and r["kind"] == "train"]
    if not epochs or epochs[-1] <= 0:
        raise ValueError(f"--controls {run}: it has no pre-training of its own; give one with mle.epochs above 0")
    twin = [r["seconds"] for r in records if r["phase"] == COUNTERPART]  # it comes next after those epochs
    apart = max(twin) - epochs[-1] if twin else 0.0
    return math.ceil(len(epochs) * (max(r["seconds"] for r in records) - apart) / epochs[-1])


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
        check_alike(run, mine[0], folder, theirs[0], (AXES[name].diversity, AXES[name].quality))
        own = judge(name, theirs[0], base[0], theirs[1], base[1])
        against = judge(name, mine[0], theirs[0], mine[1], theirs[1])
        part = None
        if gain is not None and own is not None and gain.high < 0:
            draws = [gap_draws(name, g[0], base[0], g[1], base[1]) for g in (mine, theirs)]
            part = _share(name, gain, own, *draws)
        found["controls"][control] = {
            "gain": own.as_dict() if own else None,
            "run_against_it": against.as_dict() if against else None,
            "share_of_d": part,
        }
    return found


def _share(
    name: str, gain: Judgement, own: Judgement, mine: list[float | None], theirs: list[float | None]
) -> list[float] | None:
    """1 - gain of the control / gain of the run, and its 95 % interval by the gains of both in each draw: percentiles
    of the bootstrap, Student's t over parts, which are far fewer and each far noisier than the whole. None where fewer
    than two draws have both.
    """
    shares = [1 - c / m for m, c in zip(mine, theirs, strict=True) if m is not None and c is not None and m < 0]
    if len(shares) < 2:
        return None
    value = 1 - own.gap / gain.gap
    if name in BY_PARTS:
        half = mean_interval(shares)[1] or 0.0
        return [value, value - half, value + half]
    low, high = np.percentile(shares, [2.5, 97.5])
    return [value, float(low), float(high)]


def shares_over_seeds(each: list[dict]) -> dict:
    """What `share` found of several seeds as one: mean gains, and the share by those, with Student's t over the seeds.

    The share's error is that of a ratio of means, in the first order: that of (control - (1 - share) run) / run. A mean
    of the seeds' own shares would be ruled by the seed whose gain is nearest to 0.
    Raises ValueError where the seeds' frontiers differ.
    """
    names = {e["frontier"] for e in each}
    if len(names) > 1:
        raise ValueError(f"the seeds have different frontiers, {', '.join(sorted(names))}; evaluate them alike")
    gains = [e["gain"] for e in each]
    gain = _over(gains)
    found = {"run": [e["run"] for e in each], "frontier": names.pop(), "gain": gain, "controls": {}}
    for control in each[0]["controls"]:
        rows = [e["controls"].get(control, {}) for e in each]
        owns = [row.get("gain") for row in rows]
        pairs = [(m["gap"], c["gap"]) for m, c in zip(gains, owns, strict=True) if m and c]
        found["controls"][control] = {
            "gain": _over(owns),
            "run_against_it": _over([row.get("run_against_it") for row in rows]),
            "share_of_d": _share_over(pairs) if gain and gain["high"] < 0 and len(pairs) > 1 else None,
        }
    return found


def _over(found: list[dict | None]) -> dict | None:
    """Judgements of several seeds as one; None where fewer than two have one."""
    held = [Judgement(**j) for j in found if j]
    return over_seeds(held).as_dict() if len(held) > 1 else None


def _share_over(pairs: list[tuple[float, float]]) -> list[float]:
    """pairs: gaps of the run and of the control, a pair a seed."""
    mine, theirs = (sum(side) / len(pairs) for side in zip(*pairs, strict=True))
    ratio = theirs / mine
    half = (mean_interval([c - ratio * m for m, c in pairs])[1] or 0.0) / abs(mine)
    return [1 - ratio, 1 - ratio - half, 1 - ratio + half]


def _generator(run: Path, at: int) -> tuple[list[dict], dict]:
    """Scores and draws of a generator of a run."""
    row = read_run(run)[1]["generators"][at]
    return row["scores"], load_draws(run / FILE, row["name"])
