"""Every checkpoint of a run scored once, as it appears: `seqforge evaluate RUN --watch`, beside the training.

In RUN/evaluations: step-N.json (the scores), step-N.txt (samples), best.json; and RUN/evaluations.csv, a row each. Any
number of evaluators may watch one run, on one machine or over a shared folder: who evaluates holds the lock of that
checkpoint, which ends with the process that holds it, and a result appears whole or not at all. No clock is compared.
What is measured is held to the validation set, so that a checkpoint may be chosen by it.
"""

import contextlib
import csv
import dataclasses
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from seqforge import calibration, checkpoint, corpora, evaluate, loading
from seqforge.data.corpus import Corpus, Split
from seqforge.evaluate import EvaluateConfig
from seqforge.metrics import nll
from seqforge.settings import RunConfig, build, settle

HIGHER_IS_BETTER = (
    "bleu",
    "reverse_bleu",
    "distinct",
    "unique",
    "ms_jaccard",
    "mauve",
    "embsim",
    "grammatical",
    "reply_bleu",
    "right",
)
LOWER_IS_BETTER = (
    "nll",
    "fed",
    "lm",
    "reverse_lm",
    "self_bleu",
    "true_nll",
    "copies",
    "near_duplicates",
    "length_dist",
)
IN_SHORT = ("nll_valid", "nll_oracle", "entropy", "bleu4", "self_bleu4", "fed", "grammatical", "right")
TRIES = 3
LINES = 100  # samples kept of each checkpoint


def check_score(score: str) -> None:
    """Raises ValueError for a score by which no checkpoint can be chosen."""
    if not score.startswith(HIGHER_IS_BETTER + LOWER_IS_BETTER):
        raise ValueError(
            f"--score {score} (evaluate.score): neither more nor less of it is better; such as nll_valid, fed or bleu4"
        )


def watch(
    run: Path,
    changed: Callable[[RunConfig], RunConfig] = lambda stored: stored,
    seconds: float = 5.0,
    training: int | None = None,
) -> int:
    """Score each new checkpoint until the training has ended and all have a result; how many this process scored.

    Waits for a folder that is not there yet. changed: what to do otherwise than the run's configuration says; its
    evaluate.score is what the best checkpoint is chosen by, on the validation set. training: the process that started
    this one, which may be killed: then the training has ended as well.
    Raises ValueError where the folder vanishes, or no result has such a score.
    """
    _wait_for(run / "config.yaml", seconds)
    stored = changed(build(RunConfig, loading.read_config(run)))
    config, score = stored.evaluate, stored.evaluate.score
    check_score(score)
    threads = torch.get_num_threads()
    stored = settle(stored)
    torch.set_num_threads(threads)  # this process's own, not the training's
    corpus = corpora.load(stored.data).to(stored.device)
    scored, waiting, failed = 0, False, Counter()
    while True:
        before, ended = scored, False
        try:
            killed = training is not None and os.getppid() != training
            ended = has_ended(run) or killed  # before the listing: what is listed after the end is all there is
            (run / "evaluations").mkdir(exist_ok=True)
            for folder in _unscored(run):
                if not scored:  # now the log has begun
                    corpora.check(run, corpus)
                scored += _score(folder, corpus, config, stored.precision, score, failed)
        except FileNotFoundError:
            if (run / "config.yaml").is_file():
                raise
        if not (run / "config.yaml").is_file():
            raise ValueError(f"{run}: removed while it was watched; {scored} checkpoints had been scored")
        if scored == before:
            if ended and not _unscored(run):
                summarise(run, score, ended=True)
                return scored
            if not waiting:
                print(f"waiting for the next checkpoint of {run}, until its training has ended ...", file=sys.stderr)
            waiting = True
            time.sleep(seconds)


def _unscored(run: Path) -> list[Path]:
    """Those with a generator: none is there yet while MLE's counterpart is trained."""
    saved = [c for c in checkpoint.every(run / "checkpoints") if (c / "generator").is_dir()]
    return [c for c in saved if not _scored(c)]


def _scored(folder: Path) -> bool:
    """Whether there is a result of the weights that the checkpoint holds now."""
    try:
        of = json.loads(result_of(folder).read_text()).get("weights")
    except OSError:
        return False
    return of is None or of == checkpoint.weights_of(folder)  # None: of before it was written down


def _score(
    folder: Path, corpus: Corpus, config: EvaluateConfig, precision: str, score: str, failed: Counter[str]
) -> bool:
    """Score a checkpoint and write its result; False where another evaluator does or has done so, it is gone, or it was
    replaced meanwhile, or the system failed (as a shared folder does for a moment), which `failed` counts: at the last
    of TRIES that is its result.
    """
    with checkpoint.claimed(folder) as mine:
        if not mine or not folder.is_dir() or _scored(folder):
            return False
        weights = checkpoint.weights_of(folder)
        try:
            found = assess(folder, corpus, config, precision)
        except OSError as e:
            failed[folder.name] += 1
            if failed[folder.name] < TRIES:
                print(f"{folder.name}: {e}; it is tried again", file=sys.stderr)
                return False
            found = {"checkpoint": folder.name, "step": checkpoint.step_of(folder), "error": str(e)}
        if weights != checkpoint.weights_of(folder):
            return False
        _write(result_of(folder), json.dumps({**found, "weights": weights}, indent=1))
        print(f"{folder.parent.parent.name} {folder.name}  {in_short(found)}", file=sys.stderr)
        summarise(folder.parent.parent, score)
        return True


def _wait_for(path: Path, seconds: float) -> None:
    if not path.is_file():
        print(f"waiting for {path.parent} ...", file=sys.stderr)
    while not path.is_file():
        time.sleep(min(seconds, 1.0))


def has_ended(run: Path) -> bool:
    """Whether the last record of the log says so."""
    log = run / "log.jsonl"
    lines = log.read_text().splitlines() if log.is_file() else []
    try:
        return bool(lines) and json.loads(lines[-1])["kind"] == "end"
    except ValueError:  # cut off in the middle of a line
        return False


def result_of(folder: Path) -> Path:
    """Where the scores of a checkpoint folder are or will be."""
    return folder.parent.parent / "evaluations" / f"{folder.name}.json"


def assess(folder: Path, corpus: Corpus, config: EvaluateConfig, precision: str) -> dict[str, Any]:
    """The scores of a checkpoint at temperature 1, against the validation set; or {"error": why there are none}. Raises
    OSError where the system fails.
    """
    found: dict[str, Any] = {"checkpoint": folder.name, "step": checkpoint.step_of(folder)}
    try:
        checkpoint.verify(folder)
        generator = loading.load_generator(folder, precision).to(corpus.train.ids.device)
        before = corpus.before and {**corpus.before, "test": corpus.before["valid"]}
        held = dataclasses.replace(corpus, test=corpus.valid, before=before)
        test = nll.nll_tests(generator, held.test, held.source, [1.0])[0]
        scores, drawn = nll.all_nll(generator, held, config.samples, config.seed, 1.0, test)
        scores = [dataclasses.replace(s, name=s.name.replace("nll_test", "nll_valid")) for s in scores]
        samples = Split(drawn.ids, drawn.lengths, nll.asked(held, config.samples))
        if corpus.oracle is None:
            scores += evaluate.text_scores(samples, held, config, 1.0, novel=True)
            scores += evaluate.trigram_scores(samples, held, config, 1.0)
        found["scores"] = [s.as_dict() for s in scores]
        found["discriminator"] = mean_probabilities(folder, corpus, samples, precision)
        lines = corpus.decode(drawn.ids[:LINES], drawn.lengths[:LINES])
        _write(result_of(folder).with_suffix(".txt"), "\n".join(lines) + "\n")
    except ValueError as e:
        return {"checkpoint": folder.name, "step": checkpoint.step_of(folder), "error": str(e)}
    return found


def mean_probabilities(folder: Path, corpus: Corpus, samples: Split, precision: str) -> dict[str, float]:
    """Mean p(real) that the checkpoint's discriminator gives training, validation and generated sequences; {} without
    one. Of a discriminator of tokens, the mean over tokens.
    """
    discriminator = calibration.load_discriminator(folder)
    if discriminator is None:
        return {}
    discriminator.to(corpus.train.ids.device)
    few = slice(len(samples))
    sides = {"p_train": corpus.train[few], "p_valid": corpus.valid[few], "p_generated": samples}
    found = {name: calibration.probabilities(discriminator, split, precision) for name, split in sides.items()}
    return {name: float((p * counted).sum() / counted.sum()) for name, (p, counted) in found.items()}


def in_short(found: dict[str, Any]) -> str:
    """The figures of a result on a line."""
    chosen = {k: v for k, v in row_of(found).items() if k in IN_SHORT or k.startswith("p_") or k == "error"}
    return "  ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in chosen.items())


def row_of(found: dict[str, Any]) -> dict[str, Any]:
    """A result as a row of the CSV."""
    row = {"checkpoint": found["checkpoint"], "step": found["step"], **found.get("discriminator", {})}
    row |= {s["name"]: s["value"] for s in found.get("scores", [])}
    return row | ({"error": found["error"]} if "error" in found else {})


def results(run: Path) -> list[dict[str, Any]]:
    """All results so far, by step."""
    found = [json.loads(p.read_text()) for p in (run / "evaluations").glob("step-*.json")]
    return sorted(found, key=lambda r: r["step"])


def summarise(run: Path, score: str, ended: bool = False) -> None:
    """Write evaluations.csv anew from all results, and best.json from those whose checkpoint is still there; one
    evaluator at a time. Raises ValueError where the training has ended and no result has the score.
    """
    with checkpoint.locked(run / "evaluations" / "summary.lock"):
        rows = [row_of(r) for r in results(run)]
        names = list(dict.fromkeys(name for row in rows for name in row))
        part = run / ".evaluations.csv.part"
        with part.open("w", newline="", encoding="utf-8") as f:
            writer = csv.DictWriter(f, names)
            writer.writeheader()
            writer.writerows(rows)
        os.replace(part, run / "evaluations.csv")
        known = [r for r in rows if score in r]
        if ended and rows and not known and not all("error" in r for r in rows):
            raise ValueError(f"--score {score}: no result has it; there are: {', '.join(names[2:])}")
        known = [r for r in known if (run / "checkpoints" / r["checkpoint"]).is_dir()]
        if known:
            sign = -1 if score.startswith(HIGHER_IS_BETTER) else 1
            best = min(known, key=lambda r: sign * r[score])
            chosen = {"checkpoint": best["checkpoint"], "step": best["step"], "score": score, "value": best[score]}
            _write(run / "evaluations" / "best.json", json.dumps(chosen, indent=1))


def _write(path: Path, text: str) -> None:
    """A file that appears whole or not at all."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)


@contextlib.contextmanager
def beside(run: Path, threads: int = 1) -> Iterator[None]:
    """An evaluator in a process of its own for as long as the body runs, and until it has scored the last checkpoint;
    ended with the body where that fails, and by itself, once nothing is left to score, where this process is killed. It
    writes to evaluations/log.txt.
    """
    (run / "evaluations").mkdir(exist_ok=True)
    quiet = {**os.environ, "OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE"}
    command = [sys.executable, "-m", "seqforge.cli", "evaluate", str(run), "--watch", "--threads", str(threads)]
    command += ["--training", str(os.getpid())]
    with (run / "evaluations" / "log.txt").open("a") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=quiet, start_new_session=True)
        try:
            yield
            print(f"waiting for the evaluator ({run / 'evaluations.csv'}) ...", file=sys.stderr)
            if process.wait():
                last = (run / "evaluations" / "log.txt").read_text().strip().rpartition("\n")[2]
                raise ValueError(f"the evaluator stopped: {last}. To go on with it: seqforge evaluate {run} --watch")
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()
