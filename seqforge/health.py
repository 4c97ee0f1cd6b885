"""The health of a training, read from the figures that a run logs: every sign (signs.py) is told once.

A `Watch` is a fold over the log: its state is plain values, saved with every checkpoint, so that a resumed run tells
the same at the same steps. It draws no random numbers and touches no parameter. The signs and their limits:
docs/health.md.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import torch
from torch import Tensor

from seqforge import ranges, signs
from seqforge.signs import STAGES, Found, Sign

PRETRAINING = "mle"  # its last figures are what the stages are held to
KEPT = (*STAGES, PRETRAINING, "scheduled sampling", "distillation", "search")  # phases that measure what is saved
REWARDS = ("reward_mean", "reward", "bleu")  # what the methods call the mean reward of a step
AGAIN = 0.9  # a sign is gone once its figure is back within this share of its limit: one that wavers there tells once
ENTROPIES, LOOKS, STEPS = 3, 5, 20  # steps with an entropy, looks at D and steps with a reward that are judged together
LEARNT = 0.9  # of log V, an untrained generator's NLL: below it something has been learnt
HELD_OUT = 1024  # validation sequences at a look: enough for checkpoints held to the same ones, and next to no time


@dataclass(frozen=True)
class HealthConfig:
    """When a run warns. The defaults are ours, by runs in docs/results.md that were healthy and that were not.

    Args:
        watch: look for the signs; the best checkpoint by validation is kept and named without, too
        entropy: collapse: entropy of samples below this share of the pre-trained generator's; 0: never (the verdict's:
            0.5)
        entropy_unlearnt: the same without pre-training: share of the lesser of the lowest NLL_valid and the training
            set's entropy by pairs (a ScratchGAN that learns dips to 0.13 at first, one that collapses to 1e-7)
        repeats: share of samples that repeat another, above the training set's by more than this; 1: never
        lengths: mean length off the training set's by more than this share of it, once it has been within
        hacking: NLL_valid above its lowest by more than this share of it, while the reward is above what it was there
        forgetting: NLL_valid above its lowest by more than this share of it, whatever the reward
        saturated: the discriminator's accuracy on fresh samples above this, over five looks; 1: never
        chance: that accuracy below this, two standard errors added; 0.5: never
    """

    watch: bool = True
    entropy: float = 0.5
    entropy_unlearnt: float = 0.1
    repeats: float = 0.2
    lengths: float = 0.25
    hacking: float = 0.1
    forgetting: float = 0.25
    saturated: float = 0.98
    chance: float = 0.55

    def __post_init__(self):
        ranges.check(self, "health.", entropy="[0, 1]", entropy_unlearnt="[0, 1]", repeats="[0, 1]")
        ranges.check(self, "health.", saturated="[0.5, 1]", chance="[0.5, 1]")
        ranges.check(self, "health.", lengths="above 0", hacking="above 0", forgetting="above 0")


def check_signs(names: Sequence[str]) -> None:
    """Raises ValueError for a sign that there is none of."""
    for name in names:
        if name not in get_args(Sign):
            raise ValueError(f"stop_on is {name!r}, but must be of: {', '.join(get_args(Sign))}")


class Watch:
    """What a run's figures have been, which signs are up, and the best checkpoint by NLL_valid.

    options: names of those that the run has, to say what to try; stop_on: signs that end the run.
    """

    def __init__(self, config: HealthConfig | None = None, stop_on: Sequence[str] = (), options: Collection[str] = ()):
        self.config = config or HealthConfig()
        self.stop_on, self.options = tuple(stop_on), frozenset(options)
        self.look: float | None = None  # NLL_valid of the generator as it stands; none once it trains on
        self.best: dict[str, Any] = {}  # what best.json holds
        self.stopped = ""  # why the run is to end
        self._up: list[str] = []
        self._known: dict[str, float] = {}  # what later figures are held to
        self._recent: dict[str, list[tuple[int, float]]] = {}  # the last (step, value) of each figure
        self._then: list[float] = []  # rewards about where NLL_valid was lowest

    def state_dict(self) -> dict:
        names = ("best", "stopped", "_up", "_known", "_recent", "_then")
        return {name: getattr(self, name) for name in names}

    def load_state_dict(self, state: dict) -> None:
        for name, value in state.items():
            setattr(self, name, value)

    @property
    def _learnt(self) -> bool:
        """Whether there is something to forget: likelihood has been at work, or NLL_valid well below an untrained's."""
        unlearnt = self._known.get("nll_uniform", 0.0)
        return "entropy_mle" in self._known or self._known["nll_valid"] < LEARNT * unlearnt

    @property
    def improved(self) -> bool:
        """Whether the generator as it stands is the best by validation so far, and not saved."""
        return self.look is not None and (not self.best or self.look < self.best["value"])

    def saved(self, step: int) -> None:
        """A checkpoint of that step is being taken; one that was there before gives way to it."""
        if self.look is not None and (self.improved or step == self.best["step"]):
            self.best = {"checkpoint": f"step-{step}", "step": step, "score": "nll_valid", "value": self.look}

    def lacks_floor(self, phase: str) -> bool:
        """Whether nothing is known yet that the entropy can be held to: then `measure` counts the training set."""
        return self.config.watch and phase in STAGES and not {"entropy_mle", "entropy_train"} & self._known.keys()

    def read(self, step: int, phase: str, kind: str, figures: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Take in a record; the warnings it gives rise to, as records."""
        if phase not in KEPT or kind not in ("health", "train"):
            return []
        if kind == "health":
            self.look = figures["nll_valid"]
        if not self.config.watch:  # the look is for the best checkpoint all the same
            return []
        if phase not in STAGES:
            if phase == PRETRAINING and kind == "health":
                self._take_reference(figures)
            return []
        found = self._at_look(step, figures) if kind == "health" else self._at_step(step, figures)
        return [warning for one in found if (warning := self._turned(one))]

    def _take_reference(self, figures: Mapping[str, float]) -> None:
        """Of the generator that likelihood leaves: the last figures before a stage begins count."""
        self._known |= {"entropy_mle": figures["entropy"], "nll_valid": figures["nll_valid"]}
        self._arrived(figures)

    def _arrived(self, figures: Mapping[str, float]) -> None:
        if abs(figures["length"] / figures["length_train"] - 1) <= self.config.lengths:
            self._known["arrived"] = 1.0

    def _at_look(self, step: int, figures: Mapping[str, Any]) -> list[Found]:
        """The signs in monitor samples and the validation set."""
        self._known |= {name: figures[name] for name in ("entropy_train", "nll_uniform") if name in figures}
        if figures["nll_valid"] < self._known.get("nll_valid", math.inf):
            self._known["nll_valid"] = figures["nll_valid"]
            self._then = [value for _, value in self._recent.get("reward", [])]
        self._arrived(figures)
        self._recent["entropy"] = [(step, figures["entropy"])] * ENTROPIES  # so many samples speak for themselves
        rewards, limits = [value for _, value in self._recent.get("reward", [])], self.config
        nll, lowest = figures["nll_valid"], self._known["nll_valid"]
        found = [
            *signs.collapse(self._recent["entropy"], self._known, limits.entropy, limits.entropy_unlearnt),
            signs.repeats(step, figures, limits.repeats),
            signs.lengths(step, figures, limits.lengths, "arrived" in self._known),
        ]
        if self._learnt:
            found += [
                signs.hacking(step, nll, lowest, rewards, self._then, limits.hacking),
                signs.forgetting(step, nll, lowest, limits.forgetting),
            ]
        return found

    def _at_step(self, step: int, figures: Mapping[str, Any]) -> list[Found]:
        """The signs in what a step logs of its own samples and of its discriminator."""
        reward = next((figures[name] for name in REWARDS if name in figures), None)
        if reward is not None:
            self._add("reward", step, reward, STEPS)
            if len(self._then) < STEPS:
                self._then.append(reward)
        found = []
        if "entropy" in figures and len(last := self._add("entropy", step, figures["entropy"], ENTROPIES)) == ENTROPIES:
            found += signs.collapse(last, self._known, self.config.entropy, self.config.entropy_unlearnt)
        accuracy = figures.get("d_accuracy_valid", None if "d_gap" in figures else figures.get("d_accuracy"))
        if accuracy is not None and len(last := self._add("d_accuracy", step, accuracy, LOOKS)) == LOOKS:
            found += signs.told_apart(last, figures.get("d_unseen"), self.config.saturated, self.config.chance)
        return found

    def _add(self, name: str, step: int, value: float, most: int) -> list[tuple[int, float]]:
        self._recent[name] = [*self._recent.get(name, []), (step, value)][-most:]
        return self._recent[name]

    def _turned(self, found: Found) -> dict[str, Any] | None:
        """The warning where the sign is up and was not before; down once it is well within its limit again."""
        if found.sign in self._up:
            if found.excess < AGAIN:
                self._up.remove(found.sign)
            return None
        if found.excess <= 1:
            return None
        self._up.append(found.sign)
        told = f"{found.sign}: {found.text}, since step {found.since}"
        if found.sign in self.stop_on and not self.stopped:
            self.stopped = told
        plain = {"sign": found.sign, "value": found.value, "threshold": found.threshold, "since": found.since}
        return {**plain, **_advised(told, signs.remedies(found.sign, self.options))}

    def diverged(self, step: int, phase: str, figure: str, value: float, bf16: bool = False) -> dict[str, Any]:
        """The warning, as a record, where a figure or a parameter is infinite or not a number. The value is text, since
        JSON has no such number. bf16: whether the run computes in that.
        """
        options = self.options & {*signs.steps_of(figure, phase)} | ({"precision"} if bf16 else set())
        plain = {"sign": "nan", "figure": figure, "value": str(value), "since": step}
        return {**plain, **_advised(f"nan: {figure} is {value}, since step {step}", signs.remedies("nan", options))}


def _advised(told: str, tries: list[str]) -> dict[str, Any]:
    return {"message": f"{told}. Try {', '.join(tries)}" if tries else told, "try": tries}


def of_samples(ids: Tensor, lengths: Tensor, real_ids: Tensor, real_lengths: Tensor) -> dict[str, float]:
    """Repeats and mean length of samples (B,T) beside the training set's (N,T); repeats among as many of either."""
    n = min(len(ids), len(real_ids))
    pick = some(len(real_ids), n).to(real_ids.device)
    return {
        "repeated": repeated(ids[:n], lengths[:n]),
        "repeated_train": repeated(real_ids[pick], real_lengths[pick]),
        "length": float(lengths.double().mean()),
        "length_train": float(real_lengths.double().mean()),
    }


def some(total: int, most: int) -> Tensor:
    """At most so many rows of a set, the same every time and whatever the set's order."""
    return torch.randperm(total, generator=torch.Generator().manual_seed(0))[:most]


def repeated(ids: Tensor, lengths: Tensor) -> float:
    """Share of sequences that repeat an earlier one. ids (B,T), whatever stands past the end."""
    inside = torch.arange(ids.shape[1], device=ids.device) < lengths[:, None]
    rows = torch.cat([ids * inside, lengths[:, None].to(ids.dtype)], dim=1)
    return 1 - len(torch.unique(rows, dim=0)) / len(rows)


def pair_entropy(ids: Tensor, lengths: Tensor) -> float:
    """Entropy of a token given the one before, as counted in these sequences (N,T), in nats per token. An estimate from
    below where pairs are rare: a floor made of it rather misses a collapse than sees one where there is none.
    """
    inside = torch.arange(ids.shape[1], device=ids.device) < lengths[:, None]
    before = torch.cat([torch.full_like(ids[:, :1], -1), ids[:, :-1]], dim=1)[inside] + 1
    size = int(ids.max()) + 1
    return _entropy(before * size + ids[inside]) - _entropy(before)


def _entropy(keys: Tensor) -> float:
    counts = torch.unique(keys, return_counts=True)[1].double()
    return float(counts.sum().log() - (counts * counts.log()).sum() / counts.sum())
