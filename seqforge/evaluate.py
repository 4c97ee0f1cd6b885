"""From the checkpoints of a run to scores.json: the pre-trained and the final generator, where MLE's best epoch is
another that one too, and a verdict.
"""

import copy
import functools
import json
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from seqforge import calibration, checkpoint, frontier, portrait, scoring, tunes
from seqforge import judge as fresh
from seqforge import verdict as verdicts
from seqforge.data import tokens
from seqforge.data.corpus import Corpus, Split
from seqforge.dialogues import DialogueWorld
from seqforge.grammars import Grammar
from seqforge.loading import Loadable, find_checkpoint, load_generator, read_config
from seqforge.methods import mle
from seqforge.metrics import nll, points, replies
from seqforge.metrics.grammar import judged, share_grammatical
from seqforge.metrics.lm3 import TrigramModel, lm3_scores
from seqforge.metrics.ngrams import References
from seqforge.metrics.score import Score
from seqforge.models.generator import Generator
from seqforge.models.hierarchical import HierarchicalGenerator
from seqforge.sampling import Samples, mask_of
from seqforge.scoring import known_metrics
from seqforge.worlds import World

COLDER = 4  # temperatures, each .8 of the one before
SEED = 20170204  # of the evaluation's samples: one for all runs, so that their noise is shared


@dataclass(frozen=True)
class EvaluateConfig:
    """How the pre-trained and the final generator are scored when a run ends, and by `seqforge evaluate`.

    Args:
        samples: sequences drawn at each temperature (SeqGAN: 9,984)
        temperatures: divisors of the logits; 1 is the model as trained, below 1 sharper. What the last generator is
            held to is scored at up to four colder ones as well, until it is as little diverse as that one is
        seed: seed of the samples
        metrics: of text, at temperature 1 (fed: at all), besides the likelihoods: [quick], [all], or names as of
            `seqforge score`
        embedder: of fed and mauve: tfidf, or st:MODEL (sentence-transformers)
        when: end: when the run ends; beside: every checkpoint as it appears as well, by a second process with a thread
            of its own, against the validation set (`--evaluate beside`)
        score: what that process chooses the best checkpoint by, such as nll_valid, fed or bleu4
    """

    samples: int = 9984
    temperatures: list[float] = field(default_factory=lambda: [1.25, 1.1, 1.0, 0.9, 0.8, 0.7, 0.6, 0.5])
    seed: int = SEED
    metrics: list[str] = field(default_factory=lambda: ["quick"])
    embedder: str = "tfidf"
    when: Literal["end", "beside"] = "end"
    score: str = "nll_valid"

    def __post_init__(self):
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"evaluate.seed is {self.seed}, but must lie between 0 and 2^63 - 1")
        if self.samples < 2:
            raise ValueError(f"evaluate.samples is {self.samples}, but must be at least 2")
        known_metrics(self.metrics)
        if not self.temperatures or min(self.temperatures) <= 0:
            raise ValueError(f"evaluate.temperatures is {self.temperatures}, but must name numbers above 0")


def sweep(
    generator: Generator,
    corpus: Corpus,
    config: EvaluateConfig,
    draws: points.Draws | None = None,
    kept: dict[float, Split] | None = None,
) -> list[Score]:
    """At every temperature NLL_oracle, NLL_test and entropy, and of text the scores of its frontiers; the other text
    metrics at temperature 1. draws: a dictionary that receives what the scores of the frontiers might have been; kept:
    one that receives the samples of each temperature, and in any case of 1.
    """
    found, drawn_scores = [], {} if draws is None else draws
    tests = nll.nll_tests(generator, corpus.test, corpus.source, config.temperatures, drawn_scores, config.seed)
    text = None if corpus.oracle is not None else _text_points(corpus, config)
    for t, test in zip(config.temperatures, tests, strict=True):
        scores, drawn = nll.all_nll(generator, corpus, config.samples, config.seed, t, test, drawn_scores)
        found += scores + world_scores(corpus, drawn, config.seed, t)
        samples = Split(drawn.ids, drawn.lengths, nll.asked(corpus, config.samples))
        if kept is not None:
            kept[t] = samples
        if samples.source is not None:
            found.append(nll.perplexity(test))
        if text is not None:
            scores = text_scores(samples, corpus, config, t, novel=True)
            more, new = text(samples, t)
            drawn_scores |= new
            names = {s.name for s in scores}
            found += scores + [s for s in more if s.name not in names]
    if kept is not None and 1.0 not in kept:
        drawn = nll.draw(generator, corpus, config.samples, config.seed)
        kept[1.0] = Split(drawn.ids, drawn.lengths, nll.asked(corpus, config.samples))
    return found


def _text_points(corpus: Corpus, config: EvaluateConfig) -> Callable[[Split, float], tuple[list[Score], points.Draws]]:
    """(samples, temperature) -> scores and draws of the frontiers of text. What the corpus needs is fitted once."""
    words = tuple(scoring.vocabulary(corpus))
    model = TrigramModel(corpus.train, corpus.vocab_size)

    def texts(split: Split):
        return scoring.texts_of(split, corpus.eos_id, words)

    references = References(texts(corpus.test), max(points.BLEU))

    def of(samples: Split, t: float) -> tuple[list[Score], points.Draws]:
        facts = _facts(corpus, config, t)
        scores, draws = points.of_text(
            samples, corpus.test, model, texts, references, facts, temperature=t, seed=config.seed
        )
        if isinstance(corpus.judge, Grammar):
            kept = np.isfinite(corpus.judge.log_probs(scoring.spoken(samples, corpus)))
            draws |= points.share("grammatical", kept, t, config.seed)
        if isinstance(corpus.judge, DialogueWorld):
            draws |= points.share("right", right_replies(samples, corpus), t, config.seed)
        return scores, draws

    return of


def trigram_scores(samples: Split, corpus: Corpus, config: EvaluateConfig, temperature: float) -> list[Score]:
    """LM score and reverse LM score of trigrams: what an LSTM's take minutes for, in less than a second."""
    model = TrigramModel(corpus.train, corpus.vocab_size)
    return lm3_scores(samples, corpus.test, model, _facts(corpus, config, temperature), temperature)


def _facts(corpus: Corpus, config: EvaluateConfig, temperature: float) -> dict[str, object]:
    tok = tokens.name_of(corpus.kind, corpus.tokenizer)
    return {"temp": temperature, "seed": config.seed, "tok": tok, "data": corpus.source}


def text_scores(samples: Split, corpus: Corpus, config: EvaluateConfig, temperature: float, novel: bool) -> list[Score]:
    """The grammar's verdict where there is one, and the text metrics, all in the run's own tokens: at temperature 1 all
    that are chosen, at others of these FED alone, which has no frontier of two.

    novel: held to the training text as well; not where the samples are a part of it.
    """
    facts, words = _facts(corpus, config, temperature), scoring.vocabulary(corpus)
    fit = functools.partial(
        mle.fit_language_model, vocab_size=corpus.vocab_size, eos_id=corpus.eos_id, start_id=corpus.start_id
    )
    train = corpus.train if novel else None
    sets = scoring.Sets(samples, corpus.test, train, words, corpus.eos_id, fit, corpus.music)
    found = []
    if isinstance(corpus.judge, Grammar):
        found += judged(corpus.judge, scoring.words_of(samples, sets), facts, temperature, config.seed)
    if samples.source is not None and novel:
        found += reply_scores(samples, corpus, facts, temperature, config.seed)
    names = known_metrics(config.metrics, corpus.music is not None)
    if temperature != 1.0:
        names = [name for name in names if name == "fed"]
    unfit: dict[str, list[str]] = {}
    for name in names:
        try:
            found += scoring.score(sets, [name], facts, temperature, config.seed, embedder=config.embedder)
        except ValueError as e:  # too few sequences, or all alike: the run's other figures stand
            unfit.setdefault(str(e), []).append(name)
    for reason, left in unfit.items():
        warnings.warn(f"{', '.join(left)} {'are' if len(left) > 1 else 'is'} left out: {reason}", stacklevel=2)
    return found


def world_scores(corpus: Corpus, drawn: Samples, seed: int, temperature: float) -> list[Score]:
    """Where the rule of the world is known: the share of samples that keep it, the world's own noise aside."""
    if not isinstance(corpus.oracle, World):
        return []
    facts = {"temp": temperature, "seed": seed, "data": corpus.source}
    return [share_grammatical(corpus.oracle.well_formed(drawn.ids).cpu().numpy(), facts, temperature, seed)]


def reply_scores(
    samples: Split, corpus: Corpus, facts: dict[str, object], temperature: float, seed: int
) -> list[Score]:
    """Of replies to the first test sources: right (where a judge knows), copied, generic; at temperature 1 also BLEU
    held to the replies of the same source, and what a judge trained afresh makes of them.
    """
    found = _against_sources(samples, corpus, "test", facts, temperature, seed)
    if temperature != 1.0:
        return found
    answers: dict[tuple[int, ...], list[list[int]]] = {}
    for source, reply in zip(_rows(corpus.test.source, corpus), _rows(corpus.test, corpus), strict=True):
        answers.setdefault(tuple(source), []).append(reply)
    of_each = [answers[tuple(source)] for source in _rows(samples.source, corpus)]
    found += replies.reply_bleu(_rows(samples, corpus), of_each, facts, temperature, seed)
    learned, asked = fresh.halves(corpus.test[slice(len(samples))], samples)
    return found + fresh.judged("fresh_judge", learned, asked, corpus.vocab_size, facts, temperature, seed)


def _rows(split: Split | None, corpus: Corpus) -> list[list[int]]:
    """The ids of every row, without its last end token."""
    assert split is not None
    counts = scoring.word_lengths(split, corpus.eos_id).tolist()
    return [row[:n] for row, n in zip(split.ids.tolist(), counts, strict=True)]


def _against_sources(
    samples: Split, corpus: Corpus, split: str, facts: dict[str, object], temperature: float, seed: int
) -> list[Score]:
    assert samples.source is not None
    said, asked = corpus.decode(samples.ids, samples.lengths), corpus.turns(samples.source)
    right = right_replies(samples, corpus, split) if isinstance(corpus.judge, DialogueWorld) else None
    return replies.judged(said, asked, facts, temperature, seed, right)


def right_replies(samples: Split, corpus: Corpus, split: str = "test") -> np.ndarray:
    """(N,) bool: the world's judge accepts the reply after all turns before it; to the first sources of that split."""
    assert isinstance(corpus.judge, DialogueWorld)
    assert corpus.before is not None
    said = corpus.decode(samples.ids, samples.lengths)
    before = corpus.before[split][: len(said)]
    return np.array([corpus.judge.right(b, reply) for b, reply in zip(before, said, strict=True)], dtype=bool)


def evaluate(run: Path, corpus: Corpus, config: EvaluateConfig) -> dict[str, Any]:
    """Score the pre-trained generator, or MLE's counterpart, where there is one, and the newest; write scores.json."""
    rows, facts, draws, kept = [], read_config(run), {}, {}
    precision, stage = facts.get("precision", "fp32"), STAGES.get(facts["method"], "adversarial")
    final = find_checkpoint(run)
    before = {"pre-trained": "pre-trained", verdicts.COUNTERPART: "counterpart"}
    found_before = [(name, checkpoint.newest(run / "checkpoints", tag=tag)) for name, tag in before.items()]
    judge, models = None, {}
    for name, folder in [*found_before, ("final", final)]:
        if folder is None:
            continue
        models[name] = generator = load_generator(folder, precision).to(corpus.train.ids.device)
        if name == "final" and "final" not in checkpoint.tags_of(folder):
            name = "newest"  # the run has not ended
        found = sweep(generator, corpus, config, draws.setdefault(name, {}), kept.setdefault(name, {}))
        if corpus.music is not None:  # the last is the newest
            _write(run / "music.json", tunes.described(generator, corpus, config.seed))
        rows.append({"name": name, "step": checkpoint.step_of(folder), "checkpoint": folder.name})
        rows[-1]["scores"] = [s.as_dict() for s in found]
        if folder == final or corpus.test.source is not None:
            judge = calibration.described(folder, corpus, kept[name][1.0], precision, config.seed)
        if judge is not None and judge["pairs"] and _judge_has_learned(folder, facts):
            rows[-1]["scores"] += [s for s in judge["scores"] if s["name"] == "d_accuracy"]
        for other, model in mle_of(folder, generator, precision).items() if name == "pre-trained" else ():
            models[other] = model.to(corpus.train.ids.device)
            found = sweep(models[other], corpus, config, draws.setdefault(other, {}))
            rows.append({"name": other, "checkpoint": folder.name, "scores": [s.as_dict() for s in found]})
    held = verdicts.rival(rows)
    if rows[-1]["step"] != rows[0]["step"]:
        colder(held["scores"], models[held["name"]], rows[-1]["scores"], corpus, config, draws[held["name"]])
    (told, judged), fair = verdict(rows, stage, draws, controls_of(facts)), True
    if told and (more := unfair(verdicts.rival(rows)["name"], rows[0], run, facts)):
        told, judged, fair = verdicts.withheld(rows, more), [], False
    result = {"generators": rows, "references": references(corpus, config), "verdict": told, "judgements": judged}
    result["fair"] = fair  # whether what the last is held to is MLE
    part = run / f".{verdicts.FILE}.part"
    verdicts.save_draws(part, draws)
    os.replace(part, run / verdicts.FILE)
    _write(run / "scores.json", result)
    if judge is not None:  # of the newest
        _write(run / calibration.FILE, judge)
    _write(run / portrait.DISTRIBUTIONS, portrait.distributions(kept, corpus, config.seed))
    _write(run / portrait.NEAREST, portrait.beside_training(kept, corpus, config.seed))
    return result


def colder(
    scores: list[dict], model: Loadable, mine: list[dict], corpus: Corpus, config: EvaluateConfig, draws: points.Draws
) -> None:
    """Add to the scores of what a run is held to those of colder temperatures, until it is as little diverse as the run
    is as it is, COLDER at most: a run that has sharpened or collapsed could be held to nothing else.
    """
    axes = next(
        (a for a in frontier.AXES.values() if frontier.points_of(mine, a) and frontier.points_of(scores, a)), None
    )
    as_it_is = frontier.points_of(mine, axes).get(1.0) if axes else None
    if axes is None or as_it_is is None:
        return
    for _ in range(COLDER):
        theirs = frontier.points_of(scores, axes)
        if max(x for x, *_ in theirs.values()) >= as_it_is[0]:
            return
        below = replace(config, temperatures=[round(0.8 * min(theirs), 3)])
        scores += [s.as_dict() for s in sweep(model, corpus, below, draws)]


def mle_of(folder: Path, generator: Loadable, precision: str) -> dict[str, Loadable]:
    """By name, what the verdict holds a run with a pre-training to, where that is not the pre-trained generator: MLE's
    counterpart beside it, or the best epoch of a pre-training that went on past it.
    """
    if (player := folder / mle.COUNTERPART).is_dir():
        return {verdicts.COUNTERPART: load_generator(folder, precision, player)}
    stopped = early(folder, generator, precision)
    return {} if stopped is None else {verdicts.EARLY: stopped}


def unfair(rival: str, first: dict, run: Path, facts: dict[str, Any]) -> str | None:
    """What would make a fair opponent of the one that a run is held to, where that was still improving, by validation,
    when its likelihood training ended, or had none; None for one that is fair, or of which that is not known.
    """
    training = checkpoint.load_training(run / "checkpoints" / first["checkpoint"])
    if rival == verdicts.COUNTERPART:
        return "raise --counterpart.epochs" if mle.CUT_SHORT in training["marks"] else None
    best = training["kept"].get("mle.best")
    if rival == verdicts.EARLY or best is None or best["age"]:
        return None
    return "give --counterpart.epochs 100" if "counterpart" in facts else "raise --mle.epochs"


def early(folder: Path, generator: Loadable, precision: str) -> Loadable | None:
    """MLE stopped early: the generator of a pre-trained checkpoint with the weights of its best epoch by validation.
    None where those are its own, as after a pre-training that stopped there, or are not known.
    """
    best = checkpoint.load_training(folder)["kept"].get("mle.best") or {}
    own = generator.state_dict()
    both = {k.removeprefix("generator."): v for k, v in best.get("weights", {}).items()}  # LeakGAN's has D's as well
    weights = {k: v for k, v in both.items() if k in own}
    if weights.keys() != own.keys() or all(torch.equal(v.cpu(), own[k].cpu()) for k, v in weights.items()):
        return None
    found = copy.deepcopy(generator)
    found.load_state_dict(weights)
    if isinstance(found, HierarchicalGenerator):
        found.leak(found.leaked.discriminator, precision)
    return found


def _judge_has_learned(folder: Path, facts: dict[str, Any]) -> bool:
    """Whether the discriminator of a checkpoint has been trained at all: by itself, or for a reward that asks it."""
    done = checkpoint.load_training(folder)["done"]
    return bool(done.get("discriminator") or (done.get("adversarial") and facts.get("reward") in LEARNING))


def _write(path: Path, found: dict[str, Any]) -> None:
    """As JSON; the file appears whole."""
    part = path.with_name(f".{path.name}.part")
    part.write_text(json.dumps(found, indent=1))
    os.replace(part, path)


def references(corpus: Corpus, config: EvaluateConfig) -> list[dict]:
    """The oracle, or of text as many training sequences, scored as if a generator had written them: what a perfect one
    would reach. And the FED of one that knows no more than how often a word is and how long a text.
    """
    if corpus.oracle is None:
        real = corpus.train[slice(config.samples)]
        scores = text_scores(real, corpus, config, 1.0, novel=False)
        if corpus.test.source is not None:
            scores += _against_sources(real, corpus, "train", _facts(corpus, config, 1.0), 1.0, config.seed)
            facts = {"seed": config.seed, "data": corpus.source}  # real pairs against replies dealt anew
            learned, asked = ((s, fresh.shuffled(s, config.seed)) for s in (corpus.train, corpus.test))
            scores += fresh.judged("mismatch", learned, asked, corpus.vocab_size, facts, 1.0, config.seed)
        name = "training tunes themselves" if corpus.music else "training text itself"
        rows = {name: scores}
        if corpus.music is None and corpus.test.source is None and "fed" in known_metrics(config.metrics):
            alone = replace(config, metrics=["fed"])
            rows["unigram text of equal lengths"] = text_scores(
                unigram_text(real, corpus, config.seed), corpus, alone, 1.0, novel=False
            )
        return [{"name": name, "scores": [s.as_dict() for s in scores]} for name, scores in rows.items() if scores]
    if not (isinstance(corpus.oracle, Generator) and isinstance(corpus.oracle, nn.Module)):
        return []
    scores, drawn = nll.all_nll(corpus.oracle, corpus, config.samples, config.seed)
    scores += world_scores(corpus, drawn, config.seed, 1.0)
    return [{"name": "the oracle itself", "scores": [s.as_dict() for s in scores]}]


def unigram_text(like: Split, corpus: Corpus, seed: int) -> Split:
    """Sequences as long as these (N,T), whose tokens are each drawn by themselves from all of the training set's; end
    tokens stay where they are.
    """
    known, within = (mask_of(scoring.word_lengths(s, corpus.eos_id), s.ids.shape[1]) for s in (corpus.train, like))
    words = corpus.train.ids[known]
    picked = torch.randint(len(words), like.ids.shape, generator=torch.Generator().manual_seed(seed))
    return Split(torch.where(within, words[picked.to(words.device)], like.ids), like.lengths)


LEARNING = ("discriminator", "shuffled")  # rewards for which the discriminator goes on learning
STAGES = {
    "pg_bleu": "policy-gradient",
    "cot": "cooperative",
}  # what a method does after its pre-training, where it has no adversary


def controls_of(facts: dict[str, Any]) -> str | None:
    """How a run with this configuration gets null controls; None where its reward is no discriminator's."""
    if facts.get("reward") != "discriminator":
        return None
    if "mle" not in facts:  # no pre-training that they could share or be timed by, but MLE's counterpart
        return "--reward constant --from RUN"
    return "the same command with --reward constant" if facts.get("from") else "seqforge compare --controls RUN"


def verdict(
    rows: list[dict],
    stage: str = "adversarial",
    draws: dict[str, points.Draws] | None = None,
    controls: str | None = None,
) -> tuple[str | None, list[dict]]:
    """In a sentence, and what it rests on, a judgement a frontier: the last generator against its rival, of one seed.
    Nothing where the last is the first: no step has been made since. controls: what makes them, for the sentence.
    """
    if len(rows) < 2 or rows[-1]["step"] == rows[0]["step"]:
        return None, []
    mine, theirs = rows[-1], verdicts.rival(rows)
    held = [(draws or {}).get(r["name"], {}) for r in (mine, theirs)]
    found = verdicts.judgements(mine["scores"], theirs["scores"], *held)
    of = verdicts.opponent(theirs["name"])
    told = verdicts.sentence(mine["scores"], theirs["scores"], found, stage, of, controls)
    return told, [j.as_dict() for j in found]
