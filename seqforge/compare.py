"""Runs side by side: NLL_oracle at equal NLL_test, with intervals over seeds. Works on scores.json; no torch.

A temperature alone trades NLL_test for NLL_oracle, so one number says little: what counts is where the curve of a
generator over its temperatures lies against another's (Caccia et al., arXiv 1811.02549).
"""

import json
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path

import yaml
from scipy import stats

from seqforge.frontier import AXES, Axes, gap_at_one, gap_over_range, mean_interval, points_of
from seqforge.verdict import Judgement, opponent, over_seeds, reason, rival


def read_run(run: Path) -> tuple[dict, dict]:
    """config and scores of a finished run. Raises ValueError naming what is missing and how to make it."""
    if not (run / "config.yaml").is_file():
        raise ValueError(f"{run}: not a run folder (no config.yaml in it)")
    if not (run / "scores.json").is_file():
        raise ValueError(f"{run}: no scores.json yet; make it by: seqforge evaluate {run}")
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


def facts_of(scores: list[dict]) -> set[str]:
    """The signatures of a generator's scores, but for that of a discriminator, which not every run has trained."""
    return {s["signature"] for s in scores if s["name"] != "d_accuracy"}


def difference(mine: set[str], theirs: set[str]) -> tuple[str, str]:
    """Of two unlike sets of signatures, one of each that is not in the other: of the same score where there is one."""
    ours, others = sorted(mine - theirs), sorted(theirs - mine)
    pairs = [(a, b) for a in ours for b in others if a.partition("|")[0] == b.partition("|")[0]]
    if pairs:
        return pairs[0]
    lacks = "no score of that name"
    return (ours[0], lacks) if ours else (lacks, others[0])


def compare(runs: Sequence[Path], defaults: Defaults = lambda _: {}) -> dict:
    """Per group of runs: each score at temperature 1, and the gaps to MLE as good as the group's own runs have it; the
    gaps between the first group and the others, paired by seed; mean ranks. All as mean and 95 % interval over seeds,
    on the most telling frontier that all have.

    Raises ValueError where two runs' signatures differ: other data, other sample counts, other temperatures.
    """
    groups: dict[str, dict[int, dict]] = {}
    reference: tuple[Path, set[str]] | None = None
    first: dict[str, dict] = {}
    for run in runs:
        config, scores = read_run(run)
        last = scores["generators"][-1]
        if last["name"] != "final":
            raise ValueError(
                f"{run} cannot be compared: it stopped at step {last['step']}; go on by: seqforge resume {run}"
            )
        final = last["scores"]
        if reference is None:
            reference = (run, facts_of(final))
        elif facts_of(final) != reference[1]:
            a, b = difference(reference[1], facts_of(final))
            raise ValueError(
                f"{reference[0]} and {run} cannot be compared: {a} against {b}; take runs of the same data, and score "
                f"them alike by: seqforge evaluate {run}, with --samples, --temperatures, --metrics as of the other"
            )
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
        "groups": {n: {**_summary(by_seed, AXES[name]), "rank": placed[n]} for n, by_seed in groups.items()},
        "gaps": _gaps(finals, AXES[name]),
    }


def _summary(by_seed: dict[int, dict], axes: Axes) -> dict:
    plain: dict[str, list[float]] = {}
    pairs = {}
    for seed, scores in by_seed.items():
        generators = scores["generators"]
        for s in generators[-1]["scores"]:
            if s["temperature"] == 1.0:
                plain.setdefault(s["name"], []).append(s["value"])
        if len(generators) > 1:
            pairs[seed] = (generators[-1]["scores"], rival(generators)["scores"])
    return {
        "seeds": sorted(by_seed),
        "scores": {name: mean_interval(values) for name, values in plain.items()},
        "to_pretrained": _both_gaps(pairs, axes),
        "verdicts": _verdicts(by_seed),
    }


def _verdicts(by_seed: dict[int, dict]) -> list[dict]:
    """On each frontier the verdict over all seeds that have one, with its reason in words."""
    first, by_frontier = next(iter(by_seed.values())), {}
    for scores in by_seed.values():
        for found in scores.get("judgements", []):
            by_frontier.setdefault(found["frontier"], []).append(Judgement(**found))
    out = []
    for each in by_frontier.values():
        j = over_seeds(each) if len(each) > 1 else each[0]
        words = [one.word for one in each]
        out.append({**j.as_dict(), "each": words, "reason": reason(j, opponent(rival(first["generators"])["name"]))})
    return out


def _both_gaps(pairs: dict[int, tuple[list[dict], list[dict]]], axes: Axes) -> dict:
    """Both gaps of each pair of scores, as mean and interval over the seeds that have one, and p of the paired t-test
    that it is 0; those seeds are named.
    """
    ones = {seed: gap_at_one(*pair, axes) for seed, pair in pairs.items()}
    ranges = {seed: gap_over_range(*pair, axes) for seed, pair in pairs.items()}
    found = {
        "at_one": {seed: gap.value for seed, gap in ones.items() if gap is not None},
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
