"""Runs side by side: NLL_oracle at equal NLL_test, with intervals over seeds. Works on scores.json, and of one seed on
draws.npz; no torch.

A temperature alone trades NLL_test for NLL_oracle, so one number says little: what counts is where the curve of a
generator over its temperatures lies against another's (Caccia et al., arXiv 1811.02549).
"""

import json
import statistics
import zipfile
import zlib
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import NamedTuple

import yaml
from scipy import stats

from seqforge.frontier import AXES, Axes, gap_over_range, mean_interval, points_of
from seqforge.verdict import FILE, Draws, Judgement, collapsed, judge, load_draws, opponent, over_seeds, reason, rival


def read_run(run: Path) -> tuple[dict, dict]:
    """config and scores of a finished run. Raises ValueError naming what is missing, or another version's, and how to
    make it.
    """
    if not (run / "config.yaml").is_file():
        raise ValueError(f"{run}: not a run folder (no config.yaml in it)")
    if not (run / "scores.json").is_file():
        raise ValueError(f"{run}: no scores.json yet; a run makes it as it ends, or: seqforge evaluate {run}")
    try:
        config = yaml.safe_load((run / "config.yaml").read_text())
        _check_keys("it", config, ("method", "seed"))
    except (ValueError, yaml.YAMLError) as e:
        raise ValueError(f"{run / 'config.yaml'}: {e}; restore the file that the training wrote, or train anew") from e
    try:
        scores = json.loads((run / "scores.json").read_text())
        _check_scores(scores)
        return config, scores
    except (ValueError, TypeError) as e:
        raise ValueError(f"{run / 'scores.json'}: {e}; make it anew by: seqforge evaluate {run}") from e


def _check_scores(scores: dict) -> None:
    """Raises ValueError, or TypeError, for what `seqforge evaluate` does not write."""
    _check_keys("it", scores, ("generators",))
    if not scores["generators"]:
        raise ValueError("it has no generator")
    for generator in scores["generators"]:
        _check_keys("a generator", generator, ("name", "scores"))
        for score in generator["scores"]:
            _check_keys(
                f"a score of {generator['name']}", score, ("name", "value", "stderr", "temperature", "signature")
            )
    for judgement in scores.get("judgements") or []:
        _check_keys("a judgement", judgement, Judgement.__dataclass_fields__)
        if more := judgement.keys() - Judgement.__dataclass_fields__.keys():
            raise ValueError(f"a judgement has {', '.join(sorted(more))}, which is not known here")


def _check_keys(what: str, held: object, names: Collection[str]) -> None:
    if not isinstance(held, dict):
        raise ValueError(f"{what} is {held!r:.40}, not a mapping")
    if lacking := [name for name in names if name not in held]:
        raise ValueError(f"{what} has no {', '.join(lacking)}")


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


class Side(NamedTuple):
    """A generator of a run, with its scores."""

    run: Path
    name: str
    scores: list[dict]

    def draws(self) -> Draws:
        """What the scores might have been; {} where the file is missing or damaged."""
        try:
            return load_draws(self.run / FILE, self.name)
        except (OSError, ValueError, LookupError, EOFError, zipfile.BadZipFile, zlib.error):
            return {}

    def as_it_is(self) -> "Side":
        """At temperature 1 alone."""
        return self._replace(scores=[s for s in self.scores if s["temperature"] == 1.0])


class Scored(NamedTuple):
    """A run, with its scores.json."""

    run: Path
    scores: dict

    @property
    def final(self) -> Side:
        return self._side(self.scores["generators"][-1])

    @property
    def rival(self) -> Side:
        return self._side(rival(self.scores["generators"]))

    def _side(self, generator: dict) -> Side:
        return Side(self.run, generator["name"], generator["scores"])


def compare(runs: Sequence[Path], defaults: Defaults = lambda _: {}) -> dict:
    """Per group of runs: each score at temperature 1, and the gaps to MLE as good as the group's own runs have it; the
    gaps between the first group and the others, paired by seed; mean ranks. All as mean and half the 95 % interval over
    seeds, of one seed over its samples, on the most telling frontier that all have. A score that one run of a group
    lacks is named in `left_out`.

    Raises ValueError where two runs' signatures differ: other data, other sample counts, other temperatures.
    """
    groups: dict[str, dict[int, Scored]] = {}
    seen: list[tuple[Path, list[dict]]] = []
    first: dict[str, dict] = {}
    for run in runs:
        config, scores = read_run(run)
        last = scores["generators"][-1]
        if last["name"] != "final":
            raise ValueError(
                f"{run} cannot be compared: it was scored at step {last.get('step')}, before its end; let it end, or "
                f"go on by: seqforge resume {run}"
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
        group[config["seed"]] = Scored(run, scores)
    finals = {name: {seed: scored.final for seed, scored in g.items()} for name, g in groups.items()}
    every = [side.scores for g in finals.values() for side in g.values()]
    name = next((n for n, axes in AXES.items() if all(points_of(scores, axes) for scores in every)), "oracle")
    placed = ranks({n: {seed: side.scores for seed, side in g.items()} for n, g in finals.items()}, AXES[name])
    return {
        "frontier": name,
        "groups": {n: {**_summary(by_seed, name), "rank": placed[n]} for n, by_seed in groups.items()},
        "gaps": _gaps(finals, name),
    }


def _summary(by_seed: dict[int, Scored], frontier: str) -> dict:
    plain: dict[str, list[dict]] = {}
    for scored in by_seed.values():
        for s in scored.final.as_it_is().scores:
            plain.setdefault(s["name"], []).append(s)
    fair = {seed: one for seed, one in by_seed.items() if one.scores.get("fair", True)}
    pairs = {seed: (one.final, one.rival) for seed, one in fair.items() if len(one.scores["generators"]) > 1}
    verdicts = _verdicts({seed: by_seed[seed].scores for seed in pairs})
    return {
        "seeds": sorted(by_seed),
        "scores": {name: _mean(each) for name, each in plain.items() if len(each) == len(by_seed)},
        "left_out": sorted(name for name, each in plain.items() if len(each) < len(by_seed)),
        "to_pretrained": _both_gaps(pairs, frontier),
        "verdicts": verdicts,
        "verdict": _told(next((v for v in verdicts if v["frontier"] == frontier), None), by_seed, pairs),
    }


def _mean(each: list[dict]) -> tuple[float, float | None]:
    """A score of several seeds as mean and half its interval; of one seed that over its samples, where it has one."""
    if len(each) > 1:
        return mean_interval([s["value"] for s in each])
    (one,) = each
    if ends := one.get("interval"):
        return one["value"], (ends[1] - ends[0]) / 2
    return one["value"], None if one["stderr"] is None else 1.96 * one["stderr"]


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


Pairs = dict[int, tuple[Side, Side]]  # seed -> the one, and what it is held to


def _told(verdict: dict | None, by_seed: dict[int, Scored], pairs: Pairs) -> dict | None:
    """`verdict`, on the frontier that the runs are compared on, as a word and its reason; no word where only one seed
    of several has a part in it. None for runs that are held to nothing.
    """
    withheld = [seed for seed, one in by_seed.items() if not one.scores.get("fair", True)]
    if not pairs and not withheld:
        return None
    if verdict is None:
        told = {seed: by_seed[seed].scores.get("verdict") for seed in sorted([*pairs, *withheld])}
        each = [f"Seed {seed}: {sentence}" for seed, sentence in told.items() if sentence]
        return {"word": "no verdict", "reason": " ".join(["no seed has one on the frontier compared.", *each])}
    word, why, shared = f"{verdict['word']} MLE", verdict["reason"], verdict["seeds"]
    if len(shared) == 1 < len(by_seed):
        word, why = "no verdict", f"only seed {shared[0]} of {len(by_seed)} shares a range with its MLE: {why}"
    elif others := ", ".join(str(seed) for seed in sorted(pairs) if seed not in shared):
        why += f" Seeds without a shared range, not counted: {others}."
    if others := ", ".join(map(str, sorted(withheld))):
        why += f" Seeds without a fair opponent, not counted: {others}."
    for seed, (mine, theirs) in sorted(pairs.items()):
        if fallen := collapsed(mine.scores, theirs.scores, opponent(theirs.name)):
            why += f" Seed {seed}: {fallen}"
    return {"word": word, "reason": why}


def _both_gaps(pairs: Pairs, frontier: str) -> dict:
    """The gap of each generator as it is, and over its temperatures, to what it is held to."""
    ones = {seed: (mine.as_it_is(), theirs) for seed, (mine, theirs) in pairs.items()}
    return {"at_one": _gap(ones, frontier), "over_range": _gap(pairs, frontier)}


def _gap(pairs: Pairs, frontier: str) -> dict:
    """Mean and half the 95 % interval over the seeds that share a range, which are named, and p of the paired t-test
    that it is 0. Of one seed the interval is that of its samples drawn again (by: bootstrap or parts, see verdict.py);
    where there is none there is no number either, but a reason.
    """
    each = {seed: gap_over_range(mine.scores, theirs.scores, AXES[frontier]) for seed, (mine, theirs) in pairs.items()}
    values = {seed: gap for seed, gap in each.items() if gap is not None}
    found = {"seeds": sorted(values), "gap": None, "by": None, "p": paired_p(list(values.values())), "reason": None}
    if len(values) > 1:
        return found | {"gap": mean_interval(list(values.values())), "by": "seeds"}
    if not values:
        return found
    mine, theirs = pairs[found["seeds"][0]]
    j = judge(frontier, mine.scores, theirs.scores, mine.draws(), theirs.draws())
    if j is None:
        return found | {"reason": _undrawn(frontier, mine, theirs)}
    return found | {"gap": (j.gap, (j.high - j.low) / 2), "by": j.by}


def _undrawn(frontier: str, *sides: Side) -> str:
    """Why a gap of one seed has no interval."""
    lacking = dict.fromkeys(s.run for s in sides if AXES[frontier].quality not in {name for name, _ in s.draws()})
    if lacking:
        how = " and ".join(f"seqforge evaluate {run}" for run in lacking)
        return f"one seed, and no {FILE} to tell its interval by; make it by: {how}"
    return (
        "one seed, and too few of its samples drawn again share a range to tell its interval; evaluate with more "
        "samples or temperatures, or train more seeds"
    )


def paired_p(differences: Sequence[float]) -> float | None:
    """Two-sided p of Student's paired t-test; None for fewer than two pairs, or differences that are all alike."""
    if len(differences) < 2 or max(differences) == min(differences):
        return None
    return float(stats.ttest_1samp(differences, 0.0).pvalue)  # pyright: ignore


def _gaps(groups: dict[str, dict[int, Side]], frontier: str) -> list[dict]:
    """The first group's generators less every other's, paired by seed."""
    names, out = list(groups), []
    for other in names[1:]:
        shared = sorted(groups[names[0]].keys() & groups[other].keys())
        pairs = {s: (groups[names[0]][s], groups[other][s]) for s in shared}
        out.append({"of": names[0], "against": other, **_both_gaps(pairs, frontier)})
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
