"""A run from its configuration to its report: what `seqforge train` and `seqforge resume` do, for Python as well.

from seqforge.training import RunConfig, train
folder = train("seqgan", RunConfig(data=DataConfig(source="captions.txt")), SeqGANConfig(rounds=20), "runs/mine")
"""

import contextlib
import dataclasses
import json
import platform
import shutil
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

try:
    import fcntl
except ImportError:  # Windows has none
    fcntl = None

from seqforge import __version__, checkpoint, corpora, evaluate, loading, memory, pairs, watch
from seqforge.data.config import DataConfig
from seqforge.data.corpus import Corpus
from seqforge.health import Watch
from seqforge.methods import (
    cot,
    dialogue,
    distillation,
    leakgan,
    mle,
    mle_search,
    pg_bleu,
    scheduled_sampling,
    scratchgan,
    seqgan,
)
from seqforge.run import NotFinite, Part, Run, group_of, start_of
from seqforge.settings import RunConfig, build, check_words, keys_of, settle

METHODS: dict[str, tuple[type, Callable, str]] = {
    "mle": (mle.MLETrainConfig, mle.train, "maximum likelihood by teacher forcing"),
    "mle_search": (
        mle_search.MLESearchConfig,
        mle_search.train,
        "the best of many likelihood trainings within a budget, by validation NLL",
    ),
    "scheduled_sampling": (
        scheduled_sampling.ScheduledSamplingConfig,
        scheduled_sampling.train,
        "likelihood that reads more and more of the generator's own tokens (Bengio et al. 2015)",
    ),
    "pg_bleu": (pg_bleu.PGBLEUConfig, pg_bleu.train, "policy gradient on BLEU, SeqGAN's baseline (Yu et al. 2017)"),
    "seqgan": (seqgan.SeqGANConfig, seqgan.train, "policy gradient on a CNN discriminator's verdict (Yu et al. 2017)"),
    "leakgan": (
        leakgan.LeakGANConfig,
        leakgan.train,
        "a manager that reads the discriminator's features sets goals to a worker (Guo et al. 2018)",
    ),
    "scratchgan": (
        scratchgan.ScratchGANConfig,
        scratchgan.train,
        "no pre-training; a recurrent discriminator rewards every token (de Masson d'Autume et al. 2019)",
    ),
    "cot": (
        cot.CoTConfig,
        cot.train,
        "exact divergence to a mediator language model of real and generated text (Lu et al. 2018)",
    ),
    "distillation": (
        distillation.DistillationConfig,
        distillation.train,
        "a student of likelihood-trained teachers' whole next-token distributions (Hinton et al. 2015)",
    ),
    "dialogue": (
        dialogue.DialogueConfig,
        dialogue.train,
        "a Transformer that answers, by policy gradient on a judge of (source, reply)",
    ),
}


class Interrupted(Exception):
    """Ctrl-C while it trained; the run can go on."""


def default_options(method: str) -> dict[str, Any]:
    """A method's options where none is given, as config.yaml would have them; nothing of a method unknown here."""
    configs = [RunConfig(), METHODS[method][0]()] if method in METHODS else []
    return {k: v for config in configs for k, v in dataclasses.asdict(config).items()}


def train(
    method: str,
    config: RunConfig,
    method_config: Any,
    folder: str | Path | None = None,
    start: str | Path | None = None,
    recipe: str | None = None,
    controlled: bool = False,
) -> Path:
    """Train, score and report; returns the run folder. `start`: a run whose pre-training this one takes over.
    controlled: null controls are to follow (controls.py), also where it is resumed; the folder remembers that.

    Without a folder: runs/METHOD-1, -2, ... Raises ValueError naming the value and the remedy; a run refused before its
    first step leaves nothing behind.
    """
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r} ({', '.join(METHODS)})")
    expected = METHODS[method][0]
    if not isinstance(method_config, expected):
        raise ValueError(f"{method} takes a {expected.__name__}, not a {type(method_config).__name__}")
    check_words(config)
    check_words(method_config)
    config = dataclasses.replace(config, data=_condition(config.data, getattr(expected, "pairs", False), method))
    watch.check_score(config.evaluate.score)
    corpora.refuse_idle(config.data)
    settled = settle(config)
    if hasattr(method_config, "settled"):  # of files that the method reads besides the data
        method_config = method_config.settled(str(corpora.path_of(config.data)))
    corpus = corpora.load(config.data)  # messages name files as they were given
    part = _taken_over(method_config)
    if start and part == "counterpart" and not method_config.counterpart.epochs:
        warnings.warn(f"--from {start}: nothing is taken over, since counterpart.epochs is 0", stacklevel=2)
        start = None
    _check_start(start, part, config.seed, method_config, corpus)
    settled = dataclasses.replace(settled, data=corpora.effective(settled.data, corpus))
    source = str(Path(start).resolve()) if start else None
    facts = {"seqforge": __version__, "method": method, "recipe": recipe, "from": source}
    plain = {**facts, **dataclasses.asdict(settled), **dataclasses.asdict(method_config)}
    folder = Path(folder) if folder else free_folder(method)
    run = Run.create(folder, plain, **_run_options(settled, expected))
    with _alone(folder):  # outside of what removes the folder: another process may have it
        try:
            if controlled:
                (folder / CONTROLS).mkdir()
            if start:
                run.start_from(Path(start), part)
            _carry_out(run, plain, settled, method_config, corpus)
        except ValueError:
            if not _has_begun(run):
                shutil.rmtree(folder)  # refused before the first step: as if never started
            raise
    return folder


CONTROLS = "controls"  # in a run folder: its null controls, a run each; empty where they are still to come


def has_controls(folder: Path) -> bool:
    """Whether null controls of a run were asked for, or have begun."""
    return (folder / CONTROLS).is_dir()


def _has_begun(run: Run) -> bool:
    """Whether there is anything to keep of it."""
    return run.step > run.first_step or bool(checkpoint.every(run.folder / "checkpoints"))


def resume(folder: str | Path) -> bool:
    """Go on with a run that was cut off, bit for bit. False where it has finished already."""
    folder = Path(folder)
    plain = loading.read_config(folder)
    if plain["method"] not in METHODS:
        raise ValueError(f"{folder / 'config.yaml'}: unknown method {plain['method']!r} ({', '.join(METHODS)})")
    if "counterpart" not in plain:  # begun before there was one
        plain["counterpart"] = {"epochs": 0}
    try:
        config, method_config = build(RunConfig, plain), build(METHODS[plain["method"]][0], plain)
    except TypeError as e:
        raise ValueError(f"{folder / 'config.yaml'}: {e}; restore it or train anew") from e
    if watch.has_ended(folder):
        return False
    config = settle(config)
    with _alone(folder):
        corpus = corpora.load(config.data)
        corpora.check(folder, corpus)
        run = Run.resume(folder, **_run_options(config, METHODS[plain["method"]][0]))
        if plain["from"] and not run.done:
            run.start_from(Path(plain["from"]), _taken_over(method_config))
        _carry_out(run, plain, config, method_config, corpus)
    return True


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One process trains a run at a time. The lock is on config.yaml and ends with the process."""
    if fcntl is None:
        yield
        return
    with (folder / "config.yaml").open() as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as e:
            raise ValueError(f"{folder}: another process is training this run; wait for it, or stop it") from e
        yield


def _carry_out(run: Run, plain: dict, config: RunConfig, method_config: Any, corpus: Corpus) -> None:
    """Train, score, report; the same for a new run and a resumed one."""
    corpus = corpus.to(run.device)
    run.extra_files["tokenizer.json"] = corpus.tokenizer.to_str()
    if corpus.train.source is not None:
        run.extra_files[pairs.ASKED] = pairs.asked(corpus, config.data.condition == "label")
    if config.tensorboard:
        run.tensorboard = _tensorboard(run.folder)
    with contextlib.closing(run):
        if run.once("start"):
            run.log("start", "start", **corpora.digests(corpus), **_versions(run, config.threads))
        print(f"run {run.folder}", file=sys.stderr)
        try:
            with watch.beside(run.folder) if config.evaluate.when == "beside" else contextlib.nullcontext():
                try:
                    METHODS[plain["method"]][1](method_config, corpus, run)
                except KeyboardInterrupt as e:
                    raise Interrupted(f"interrupted; to go on: seqforge resume {run.folder}") from e
                stopped, best = run.health.stopped, run.health.best
                if stopped:
                    print(f"stopped: {stopped}", file=sys.stderr)
                print("scoring the generators ...", file=sys.stderr)
                evaluate.evaluate(run.folder, corpus, config.evaluate)
                ended = {"stopped": stopped, "best": best, **memory.peak(run.device)}
                run.log("end", "end", **{name: value for name, value in ended.items() if value})
        except NotFinite:
            if config.report and _has_begun(run):
                write_report(run.folder)  # how far it came, and what to try
            raise
        finally:
            if config.report and watch.has_ended(run.folder):  # whatever became of an evaluator beside
                write_report(run.folder)


def write_report(folder: Path) -> Path:
    """report.html and curves.png of a run folder."""
    from seqforge import report

    page = report.build(folder)
    with contextlib.suppress(ValueError):  # a run without a single curve has no picture
        report.curves_png(folder, folder / "curves.png")
    return page


def _run_options(config: RunConfig, method: type) -> dict[str, Any]:
    return {
        "seed": config.seed,
        "saving": config.checkpoint,
        "device": config.device,
        "precision": config.precision,
        "health": Watch(config.health, config.stop_on, keys_of(method)),
    }


def _taken_over(method_config: Any) -> Part:
    """What `--from RUN` gives to this configuration: where there is no pre-training, MLE's counterpart."""
    alone = getattr(method_config, "from_scratch", False) and not getattr(
        getattr(method_config, "mle", None), "epochs", 0
    )
    return "counterpart" if alone else "pre-training"


ALIKE = ("seed", "generator", "vectors", "freeze", "counterpart")  # options that decide what the counterpart is


def _check_start(start: str | Path | None, part: Part, seed: int, method_config: Any, corpus: Corpus) -> None:
    """A pre-training can be taken over only where it saw the same training data; MLE's counterpart only where it is
    that of this very generator.
    """
    if start is None:
        return
    config = loading.read_config(Path(start))
    start_of(Path(start), part)
    if part == "counterpart":
        here = {**dataclasses.asdict(method_config), "seed": seed}
        for name in ALIKE:
            if name in here and here[name] != config.get(name):
                raise ValueError(
                    f"--from {start}: its MLE counterpart is of another {name} ({config.get(name)}; here "
                    f"{here[name]}); give the same options, or leave --from out"
                )
    other = corpora.load(build(RunConfig, config).data)
    mine, theirs = corpora.digests(corpus), corpora.digests(other)
    for name in ("data", "vocabulary"):
        if mine[name] != theirs[name]:
            raise ValueError(
                f"--from {start}: it was trained on other data ({other.source}, {name} digest {theirs[name]}; here "
                f"{corpus.source}, {mine[name]}); give the same --data options"
            )


def _condition(data: DataConfig, pairs: bool, method: str) -> DataConfig:
    """What is answered: turns where a method needs pairs and nothing is said; nothing else for the others."""
    if pairs:
        return dataclasses.replace(data, condition="turns") if data.condition == "none" else data
    if data.condition != "none":
        raise ValueError(f"data.condition is {data.condition}, but {method} answers nothing; use `train dialogue`")
    return data


def free_folder(method: str) -> Path:
    n = 1
    while (folder := Path("runs") / f"{method}-{n}").exists():
        n += 1
    return folder


def _tensorboard(folder: Path) -> Any:
    """A writer that begins with the figures of the log: a resumed run shows each of them once."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as e:
        raise ValueError("--tensorboard: not installed; pip install 'seqforge[tensorboard]'") from e
    shutil.rmtree(folder / "tensorboard", ignore_errors=True)
    writer, log = SummaryWriter(str(folder / "tensorboard")), folder / "log.jsonl"
    for line in log.read_text().splitlines() if log.is_file() else []:
        record = json.loads(line)
        if record["kind"] == "warning":  # told in words
            continue
        group = group_of(record["phase"], record["kind"])
        figures = {k: v for k, v in record.items() if isinstance(v, float) and k != "seconds"}
        figures |= {k: score["value"] for k, score in record.get("scores", {}).items()}
        for name, value in figures.items():
            writer.add_scalar(f"{group}/{name}", value, record["step"])
    return writer


def _versions(run: Run, threads: int) -> dict[str, Any]:
    """What ran, for the log. The commit is that of a source checkout, null for an installed wheel."""
    here = Path(__file__).parent.parent
    commit = None
    if shutil.which("git") and (here / "pyproject.toml").is_file():
        git = subprocess.run(["git", "-C", here, "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
        commit = git.stdout.strip() or None
    return {
        "version": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "device": str(run.device),
        "precision": run.precision,
        "threads": threads,
        "seed": run.seed,
        "commit": commit,
        "date": time.strftime("%Y-%m-%d"),
    }
