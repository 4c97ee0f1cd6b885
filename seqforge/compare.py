"""Runs side by side: NLL_oracle at equal NLL_test, with intervals over seeds. Works on scores.json; no torch.

A temperature alone trades NLL_test for NLL_oracle, so one number says little: what counts is where the curve of a
generator over its temperatures lies against another's (Caccia et al., arXiv 1811.02549).
"""

import json
import statistics
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import yaml
from scipy import stats

from seqforge.frontier import AXES, Axes, gap_at_one, gap_over_range, mean_interval, points_of
from seqforge.verdict import Judgement, collapsed, opponent, over_seeds, reason, rival


def read_run(run: Path) -> tuple[dict, dict]:
    """config and scores of a finished run. Raises ValueError naming what is missing and how to make it."""
    if not (run / "config.yaml").is_file():
        raise ValueError(f"{run}: not a run folder (no config.yaml in it)")
    if not (run / "scores.json").is_file():
        raise ValueError(f"{run}: no scores.json yet; a run makes it as it ends, or: seqforge evaluate {run}")
    try:
        config, scores = (
            yaml.safe_load((run / "config.yaml").read_text()),
            json.loads((run / "scores.json").read_text()),
        )
        if not scores["generators"]:
            raise ValueError("it has no generator")
        return config, scores
    except (ValueError, KeyError, TypeError, yaml.YAMLError) as e:
        raise ValueError(f"{run / 'scores.json'} or config.yaml: {e}; make it anew by: seqforge evaluate {run}") from e


# what may differ between the seeds of one experiment; the method sees nothing of MLE's counterpart
_OWN = {"seed", "from", "recipe", "seqforge", "threads", "device", "tensorboard", "report"}
_OWN |= {"checkpoint", "evaluate", "health", "counterpart"}


def settings_of(config: dict, prefix: str = "") -> dict[str, object]:
    """The options of a run that make it another experiment, as flat keys."""
    flat: dict[str, object] = {}
    for key, value in config.items():
        if prefix or key not in _OWN:
            flat |= settings_of(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


Defaults = Callable[[str], dict]  # method -> its options where none is given, as config.yaml would have them


def group_of(config: dict, first: dict[str, dict], defaults: Defaults = lambda _: {}) -> str:
    """What a run is called in a table: its method and reward, and what else sets it apart from the first so called.

    An option that one of the two does not have yet, made before there was one, stands at its default there.
    """
    reward = config.get("reward")
    name = f"{config['method']}, {reward} reward" if reward else str(config["method"])
    mine, theirs = settings_of(config), first.setdefault(name, settings_of(config))
    if mine.keys() != theirs.keys():
        given = settings_of(defaults(config["method"]))
        mine, theirs = given | mine, given | theirs
    apart = [f"{k} {mine.get(k)}" for k in sorted(mine.keys() | theirs.keys()) if mine.get(k) != theirs.get(k)]
    return f"{name} ({', '.join(apart)})" if apart else name


def difference(mine: list[dict], theirs: list[dict], names: Collection[str] | None = None) -> tuple[str, str] | None:
    """Of two generators' scores, a signature of each that are of one score but unlike, or the temperatures where those
    differ; None where what both have was measured alike. A score that only one of them has says nothing of that: some
    samples are too few or too much alike for it. names: of the scores that count; None: all.
    """
    sides = [
        {(s["name"], s["temperature"]): s for s in side if names is None or s["name"] in names}
        for side in (mine, theirs)
    ]
    for key in sorted(sides[0].keys() & sides[1].keys()):
        a, b = (side[key]["signature"] for side in sides)
        if a != b:
            return a, b
    a, b = ("temperatures " + ", ".join(f"{t:g}" for t in sorted({t for _, t in side})) for side in sides)
    return None if a == b else (a, b)


def check_alike(of: Path, mine: list[dict], against: Path, theirs: list[dict], names: Collection[str]) -> None:
    """Raises ValueError where the scores `names` of two generators were not measured alike."""
    if unlike := difference(mine, theirs, names):
        raise ValueError(
            f"{of} and {against} cannot be compared: {unlike[0]} against {unlike[1]}; take runs of the same data, and "
            f"score them alike by: seqforge evaluate {against}, with --samples, --temperatures, --metrics as of {of}"
        )


def compare(runs: Sequence[Path], defaults: Defaults = lambda _: {}) -> dict:
    """Per group of runs: each score at temperature 1, and the gaps to MLE as good as the group's own runs have it; the
    gaps between the first group and the others, paired by seed; mean ranks. All as mean and 95 % interval over seeds,
    on the most telling frontier that all have. A score that one run of a group lacks is named in `left_out`.

    Raises ValueError where two runs' signatures differ: other data, other sample counts, other temperatures.
    """
    groups: dict[str, dict[int, dict]] = {}
    seen: list[tuple[Path, list[dict]]] = []
    first: dict[str, dict] = {}
    for run in runs:
        config, scores = read_run(run)
        last = scores["generators"][-1]
        if last["name"] != "final":
            raise ValueError(
                f"{run} cannot be compared: it was scored at step {last['step']}, before its end; let it end, or go "
                f"on by: seqforge resume {run}"
            )
        final = last["scores"]
        names = {s["name"] for s in final} - {"d_accuracy"}  # each run's own discriminator's
        for before in seen:  # each, as the first may lack what two others have
            check_alike(*before, run, final, names)
        seen.append((run, final))
        name = group_of(config, first, defaults)
        group = groups.setdefault(name, {})
        if config["seed"] in group:
            raise ValueError(f"{run}: a second run of {name} with seed {config['seed']}")
        group[config["seed"]] = scores
    finals = {name: {k: v["generators"][-1]["scores"] for k, v in g.items()} for name, g in groups.items()}
    every = [scores for g in finals.values() for scores in g.values()]
    name = next((n for n, axes in AXES.items() if all(points_of(scores, axes) for scores in every)), "oracle")
    placed = ranks(finals, AXES[name])
    return {
        "frontier": name,
        "groups": {n: {**_summary(by_seed, name), "rank": placed[n]} for n, by_seed in groups.items()},
        "gaps": _gaps(finals, AXES[name]),
    }


def _summary(by_seed: dict[int, dict], frontier: str) -> dict:
    axes, plain = AXES[frontier], {}
    pairs = {}
    for seed, scores in by_seed.items():
        generators = scores["generators"]
        for s in generators[-1]["scores"]:
            if s["temperature"] == 1.0:
                plain.setdefault(s["name"], []).append(s["value"])
        if len(generators) > 1:
            pairs[seed] = (generators[-1]["scores"], rival(generators)["scores"])
    verdicts = _verdicts({seed: scores for seed, scores in by_seed.items() if seed in pairs})
    return {
        "seeds": sorted(by_seed),
        "scores": {name: mean_interval(values) for name, values in plain.items() if len(values) == len(by_seed)},
        "left_out": sorted(name for name, values in plain.items() if len(values) < len(by_seed)),
        "to_pretrained": _both_gaps(pairs, axes),
        "verdicts": verdicts,
        "verdict": _told(next((v for v in verdicts if v["frontier"] == frontier), None), by_seed, pairs),
    }


def _verdicts(by_seed: dict[int, dict]) -> list[dict]:
    """On each frontier, the most telling first, the verdict over all seeds that have one, with its reason in words."""
    out = []
    for frontier in AXES:
        each = {
            seed: Judgement(**found)
            for seed, scores in by_seed.items()
            for found in scores.get("judgements", [])
            if found["frontier"] == frontier
        }
        if not each:
            continue
        j = over_seeds(list(each.values())) if len(each) > 1 else next(iter(each.values()))
        of = opponent(rival(next(iter(by_seed.values()))["generators"])["name"])
        found = {**j.as_dict(), "each": [one.word for one in each.values()], "seeds": sorted(each)}
        out.append({**found, "reason": reason(j, of)})
    return out


Pairs = dict[int, tuple[list[dict], list[dict]]]  # seed -> scores of the one, and of what it is held to


def _told(verdict: dict | None, by_seed: dict[int, dict], pairs: Pairs) -> dict | None:
    """`verdict`, on the frontier that the runs are compared on, as a word and its reason; no word where only one seed
    of several has a part in it. None for runs that are held to nothing.
    """
    if not pairs:
        return None
    if verdict is None:
        told = {seed: by_seed[seed].get("verdict") for seed in sorted(pairs)}
        each = [f"Seed {seed}: {sentence}" for seed, sentence in told.items() if sentence]
        return {"word": "no verdict", "reason": " ".join(["no seed has one on the frontier compared.", *each])}
    word, why, shared = f"{verdict['word']} MLE", verdict["reason"], verdict["seeds"]
    if len(shared) == 1 < len(pairs):
        word, why = "no verdict", f"only seed {shared[0]} of {len(pairs)} shares a range with its MLE: {why}"
    elif others := ", ".join(str(seed) for seed in sorted(pairs) if seed not in shared):
        why += f" Seeds without a shared range, not counted: {others}."
    for seed, pair in sorted(pairs.items()):
        if fallen := collapsed(*pair, opponent(rival(by_seed[seed]["generators"])["name"])):
            why += f" Seed {seed}: {fallen}"
    return {"word": word, "reason": why}


def _both_gaps(pairs: Pairs, axes: Axes) -> dict:
    """Both gaps of each pair of scores, as mean and interval over the seeds that have one at equal diversity, and p of
    the paired t-test that it is 0; those seeds are named.
    """
    ones = {seed: gap_at_one(*pair, axes) for seed, pair in pairs.items()}
    ranges = {seed: gap_over_range(*pair, axes) for seed, pair in pairs.items()}
    found = {
        "at_one": {seed: gap.value for seed, gap in ones.items() if gap is not None and gap.kind == "equal diversity"},
        "over_range": {seed: value for seed, value in ranges.items() if value is not None},
    }
    return {
        name: {
            "seeds": sorted(values),
            "gap": mean_interval(list(values.values())) if values else None,
            "p": paired_p(list(values.values())),
        }
        for name, values in found.items()
    }


def paired_p(differences: Sequence[float]) -> float | None:
    """Two-sided p of Student's paired t-test; None for fewer than two pairs, or differences that are all alike."""
    if len(differences) < 2 or max(differences) == min(differences):
        return None
    return float(stats.ttest_1samp(differences, 0.0).pvalue)  # pyright: ignore


def _gaps(groups: dict[str, dict[int, list[dict]]], axes: Axes) -> list[dict]:
    """The first group's generators less every other's, paired by seed."""
    names, out = list(groups), []
    for other in names[1:]:
        shared = sorted(groups[names[0]].keys() & groups[other].keys())
        pairs = {s: (groups[names[0]][s], groups[other][s]) for s in shared}
        out.append({"of": names[0], "against": other, **_both_gaps(pairs, axes)})
    return out


def ranks(groups: dict[str, dict[int, list[dict]]], axes: Axes) -> dict[str, float | None]:
    """Mean over the seeds that all groups have of a group's rank by its frontier, 1 the best: one more for every other
    that is better on average over what the two reach, a half where they share nothing. None without such seeds.
    """
    seeds = set.intersection(*(set(g) for g in groups.values())) if groups else set()
    found: dict[str, list[float]] = {name: [] for name in groups}
    for seed in sorted(seeds):
        for name, mine in groups.items():
            gaps = [gap_over_range(mine[seed], g[seed], axes) for other, g in groups.items() if other != name]
            found[name].append(1 + sum(0.5 if gap is None or gap == 0 else float(gap > 0) for gap in gaps))
    return {name: statistics.fmean(values) if values else None for name, values in found.items()}
