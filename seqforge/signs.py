"""Signs that a training goes wrong, each a pure function of figures, with what to try; health.py keeps the figures."""

import math
from collections.abc import Collection, Mapping, Sequence
from statistics import fmean, variance
from typing import Literal, NamedTuple

STAGES = ("adversarial", "policy gradient", "cooperative")  # phases after a pre-training: those that are judged
Sign = Literal["collapse", "repeats", "lengths", "hacking", "forgetting", "saturated", "chance"]
LEAST_RISE = 0.05  # of NLL_valid, in nats per token: a share of next to nothing is nothing
MANY_ERRORS = 3.0  # standard errors that a reward must have risen by
TINY = 1e-12

REMEDIES: dict[Sign | Literal["nan"], str] = {  # of those whose option a method has, the first three are told
    "collapse": "a lower --lr; --teacher_forcing 1; a larger --teacher; a smaller --mle_every; a larger --batch; "
    "a lower --d_lr; more --m_steps",
    "repeats": "--teacher_forcing 1; a larger --teacher; a smaller --mle_every; a lower --lr; a larger --batch; "
    "more --m_steps",
    "lengths": "--teacher_forcing 1; a larger --teacher; a smaller --mle_every; a lower --lr; a larger --batch; "
    "more --m_steps",
    "hacking": "--teacher_forcing 1; a larger --teacher; a smaller --mle_every; more --d_steps; a lower --lr; "
    "fewer --rounds",
    "forgetting": "--teacher_forcing 1; a larger --teacher; a smaller --mle_every; a lower --lr; fewer --rounds",
    "saturated": "a lower --d_lr; --discriminator.dropout 0.5; a larger --d_l2; fewer --d_steps",
    "chance": "a higher --d_lr; more --d_steps; more --d_pretrain; a larger --discriminator.hidden; "
    "a lower --discriminator.dropout",
    "nan": "a lower --lr; a lower --mle.lr; a lower --counterpart.lr; a lower --m_lr; a smaller --clip; "
    "a smaller --mle.clip; a smaller --counterpart.clip; a lower --d_lr; --precision fp32",
}
STEPS = {
    "mle": ("mle.lr", "mle.clip"),
    "teacher": ("mle.lr", "mle.clip"),
    "scheduled sampling": ("mle.lr", "mle.clip"),
    "counterpart": ("counterpart.lr", "counterpart.clip"),
    "discriminator": ("d_lr",),
    "d_": ("d_lr",),
    "mediator": ("m_lr", "clip"),
}  # options of the steps of what is trained, by the beginning of the name of a figure, a parameter or a phase


class Found(NamedTuple):
    """The figure of a sign at one moment: beyond its threshold where excess is above 1."""

    sign: Sign
    value: float
    threshold: float
    excess: float
    since: int
    text: str


def remedies(sign: Sign | Literal["nan"], options: Collection[str]) -> list[str]:
    """What to try of options that the run has, at most three."""
    texts = REMEDIES[sign].split("; ")
    return [text for text in texts if next(w for w in text.split() if w[:2] == "--")[2:] in options][:3]


def steps_of(figure: str, phase: str) -> tuple[str, ...]:
    """The options of the steps that made a figure, or a parameter, infinite or not a number; of both players where it
    may be either's.
    """
    found = [at for name in (figure, phase) for begins, at in STEPS.items() if name.startswith(begins)]
    if found:
        return found[0]
    return ("lr", "clip") if figure.startswith("generator") else ("lr", "clip", "d_lr")


def collapse(
    entropies: Sequence[tuple[int, float]], known: Mapping[str, float], share: float, unlearnt: float
) -> list[Found]:
    """The last (step, entropy of samples), in nats per token, all below `share` of the pre-trained generator's, or
    `unlearnt` of what is known of the data's; nothing where too little is known.
    """
    sides = {"the training set's by pairs": "entropy_train", "the lowest NLL_valid": "nll_valid"}
    if "entropy_mle" in known:
        sides = {"the pre-trained generator's": "entropy_mle"}
    else:
        share = unlearnt
    if not all(name in known for name in sides.values()):
        return []
    what = min(sides, key=lambda side: known[sides[side]])
    floor, highest = share * known[sides[what]], max(value for _, value in entropies)
    text = f"the entropy of samples is {highest:.3g} nats per token, below {floor:.3g}: {share:.3g} times {what}"
    return [Found("collapse", highest, floor, floor / max(highest, TINY), entropies[0][0], text)]


def repeats(step: int, figures: Mapping[str, float], margin: float) -> Found:
    """The share of samples that repeat another, beside that of as many training sequences."""
    mine, real = figures["repeated"], figures["repeated_train"]
    text = f"{mine:.1%} of the samples repeat another, above {real + margin:.1%} (training set: {real:.1%})"
    return Found("repeats", mine, real + margin, max(0.0, mine - real) / max(margin, TINY), step, text)


def lengths(step: int, figures: Mapping[str, float], share: float, arrived: bool) -> Found:
    """The mean length of samples beside the training set's. Where it has never been near, it has not drifted."""
    mine, real = figures["length"], figures["length_train"]
    limit = real * (1 + math.copysign(share, mine - real))
    side = "above" if mine > real else "below"
    text = f"samples have {mine:.3g} tokens in the mean, {side} {limit:.3g} (training set: {real:.3g})"
    return Found("lengths", mine, limit, abs(mine / real - 1) / share if arrived else 0.0, step, text)


def hacking(step: int, nll: float, lowest: float, now: Sequence[float], then: Sequence[float], share: float) -> Found:
    """NLL_valid (nats per token) has risen from its lowest although the reward has risen from what it was there."""
    worse = forgetting(step, nll, lowest, share)
    if not risen(now, then):
        return worse._replace(sign="hacking", excess=0.0)
    text = f"the reward rose from {fmean(then):.3g} to {fmean(now):.3g}, but {worse.text}"
    return worse._replace(sign="hacking", text=text)


def forgetting(step: int, nll: float, lowest: float, share: float) -> Found:
    """NLL_valid (nats per token) has risen from its lowest."""
    rise = max(share * lowest, LEAST_RISE)
    text = f"NLL_valid is {nll:.4g} nats per token, above {lowest + rise:.4g} (lowest: {lowest:.4g})"
    return Found("forgetting", nll, lowest + rise, (nll - lowest) / rise, step, text)


def risen(now: Sequence[float], then: Sequence[float]) -> bool:
    """Whether the mean of `now` is above that of `then` beyond chance."""
    if min(len(now), len(then)) < 3:
        return False
    error = math.sqrt(variance(now) / len(now) + variance(then) / len(then))
    return fmean(now) - fmean(then) > MANY_ERRORS * error


def told_apart(looks: Sequence[tuple[int, float]], rows: int | None, saturated: float, chance: float) -> list[Found]:
    """The mean accuracy of the last (step, accuracy) of D, on `rows` real and as many generated sequences each (None:
    so many that their number does not matter). At chance is what is below `chance` with two standard errors added.
    """
    mean, since = fmean(value for _, value in looks), looks[0][0]
    error = math.sqrt((1 + 1 / len(looks)) / rows) / 4 if rows else 0.0  # the real rows are the same at every look
    text = f"the discriminator tells {mean:.1%} of fresh samples and real sequences apart"
    high, low = (1 - saturated) / max(1 - mean, TINY), (chance - 0.5) / max(mean + 2 * error - 0.5, TINY)
    sure = f"{text}, above {saturated:.1%}: all samples look alike to it"
    unsure = f"{text}, within {chance:.1%}: its reward says little (--reward shuffled shows what it is worth)"
    return [
        Found("saturated", mean, saturated, high, since, sure),
        Found("chance", mean, chance, low, since, unsure),
    ]
