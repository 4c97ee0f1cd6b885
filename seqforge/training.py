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
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

try:
    import fcntl
except ImportError:  # Windows has none
    fcntl = None

from seqforge import __version__, checkpoint, corpora, evaluate
from seqforge.data.corpus import Corpus
from seqforge.evaluate import EvaluateConfig
from seqforge.methods import mle, pg_bleu, scheduled_sampling, seqgan
from seqforge.run import CheckpointConfig, Run, pre_trained

METHODS: dict[str, tuple[type, Callable, str]] = {
    "mle": (mle.MLETrainConfig, mle.train, "maximum likelihood by teacher forcing"),
    "scheduled_sampling": (
        scheduled_sampling.ScheduledSamplingConfig,
        scheduled_sampling.train,
        "likelihood that reads more and more of the generator's own tokens (Bengio et al. 2015)",
    ),
    "pg_bleu": (pg_bleu.PGBLEUConfig, pg_bleu.train, "policy gradient on BLEU, SeqGAN's baseline (Yu et al. 2017)"),
    "seqgan": (seqgan.SeqGANConfig, seqgan.train, "policy gradient on a CNN discriminator's verdict (Yu et al. 2017)"),
}


@dataclass(frozen=True)
class RunConfig:
    """Where and how a run is carried out.

    Args:
        seed: seed of everything random in the run except its data (see --data.seed)
        device: where to compute; auto takes a GPU if there is one
        precision: of the discriminator's matrix products, training and scoring; auto is bf16 where the processor has it
        threads: CPU threads; 0 is torch's choice, one for each core unless OMP_NUM_THREADS says otherwise
        tensorboard: also write the curves for TensorBoard, into the run folder
        data: what to train on
        checkpoint: when the run is saved
        evaluate: how the generators are scored at the end
    """

    seed: int = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    threads: int = 0
    tensorboard: bool = False
    data: corpora.DataConfig = field(default_factory=corpora.DataConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)

    def __post_init__(self):
        if self.threads < 0:
            raise ValueError(f"threads is {self.threads}, but must be 0 (one for each core) or more")
        if self.seed < 0:
            raise ValueError(f"seed is {self.seed}, but must be 0 or more")


class Interrupted(Exception):
    """Ctrl-C while it trained; the run can go on."""


def train(
    method: str,
    config: RunConfig,
    method_config: Any,
    folder: str | Path | None = None,
    start: str | Path | None = None,
    recipe: str | None = None,
) -> Path:
    """Train, score and report; returns the run folder. `start`: a run whose pre-training this one takes over.

    Without a folder: runs/METHOD-1, -2, ... Raises ValueError naming the value and the remedy; a run refused before its
    first step leaves nothing behind.
    """
    expected = METHODS[method][0]
    if not isinstance(method_config, expected):
        raise ValueError(f"{method} takes a {expected.__name__}, not a {type(method_config).__name__}")
    settled = settle(config)
    corpus = corpora.load(config.data)  # messages name files as they were given
    _check_start(start, corpus)
    settled = dataclasses.replace(settled, data=corpora.effective(settled.data, corpus))
    source = str(Path(start).resolve()) if start else None
    facts = {"seqforge": __version__, "method": method, "recipe": recipe, "from": source}
    plain = {**facts, **dataclasses.asdict(settled), **dataclasses.asdict(method_config)}
    folder = Path(folder) if folder else _free_folder(method)
    run = Run.create(folder, plain, **_run_options(settled))
    try:
        with _alone(folder):
            if start:
                run.start_from(Path(start))
            _carry_out(run, plain, settled, method_config, corpus)
    except ValueError:
        if not checkpoint.every(folder / "checkpoints") and run.step == run.first_step:
            shutil.rmtree(folder)  # refused before the first step: as if never started
        raise
    return folder


def resume(folder: str | Path) -> bool:
    """Go on with a run that was cut off, bit for bit. False where it has finished already."""
    folder = Path(folder)
    plain = evaluate.read_config(folder)
    if plain["method"] not in METHODS:
        raise ValueError(f"{folder / 'config.yaml'}: unknown method {plain['method']!r} ({', '.join(METHODS)})")
    try:
        config, method_config = build(RunConfig, plain), build(METHODS[plain["method"]][0], plain)
    except TypeError as e:
        raise ValueError(f"{folder / 'config.yaml'}: {e}; restore it or train anew") from e
    if _has_ended(folder):
        return False
    config = settle(config)
    with _alone(folder):
        corpus = corpora.load(config.data)
        _check_data(folder, corpus)
        run = Run.resume(folder, **_run_options(config))
        if plain["from"] and not run.done:
            run.start_from(Path(plain["from"]))
        _carry_out(run, plain, config, method_config, corpus)
    return True


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One process trains a run at a time. The lock is on config.yaml and ends with the process."""
    with (folder / "config.yaml").open() as held:
        if fcntl is not None:
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as e:
                raise ValueError(f"{folder}: another process is training this run; wait for it, or stop it") from e
        yield


def _carry_out(run: Run, plain: dict, config: RunConfig, method_config: Any, corpus: Corpus) -> None:
    """Train, score, report; the same for a new run and a resumed one."""
    corpus = corpus.to(run.device)
    run.extra_files["tokenizer.json"] = corpus.tokenizer.to_str()
    if config.tensorboard:
        run.tensorboard = _tensorboard(run.folder)
    with contextlib.closing(run):
        if run.once("start"):
            run.log("start", "start", data=corpus.digest, **_versions(run, config.threads))
        print(f"run {run.folder}", file=sys.stderr)
        try:
            METHODS[plain["method"]][1](method_config, corpus, run)
        except KeyboardInterrupt as e:
            raise Interrupted(f"interrupted; to go on: seqforge resume {run.folder}") from e
        print("scoring the generators ...", file=sys.stderr)
        evaluate.evaluate(run.folder, corpus, config.evaluate)
        run.log("end", "end")
        write_report(run.folder)


def write_report(folder: Path) -> Path:
    """report.html and curves.png of a run folder."""
    from seqforge import report

    page = report.build(folder)
    with contextlib.suppress(ValueError):  # a run without a single curve has no picture
        report.curves_png(folder, folder / "curves.png")
    return page


def build(cls: type, values: dict[str, Any]) -> Any:
    """A dataclass from nested plain values."""
    fields = {f.name: f.type for f in dataclasses.fields(cls)}
    hints = {name: dataclass_of(cls, name) for name in fields}
    for k, v in values.items():
        if hints.get(k) and not isinstance(v, dict):
            raise TypeError(f"{k} is {v}, but must hold options")
    return cls(**{k: build(inner, v) if (inner := hints[k]) else v for k, v in values.items() if k in fields})


def dataclass_of(cls: type, name: str) -> type | None:
    """The dataclass that a field holds, if it is a group of options."""
    default = next(f for f in dataclasses.fields(cls) if f.name == name).default_factory
    return default if isinstance(default, type) and dataclasses.is_dataclass(default) else None


def settle(config: RunConfig) -> RunConfig:
    """Every "auto" resolved and every path absolute, so that the run goes on alike from any folder; threads are set."""
    where = device(config.device)
    if where == "cuda":
        torch.backends.cudnn.allow_tf32 = False  # the generator's numbers are float32's
    if config.threads:
        torch.set_num_threads(config.threads)
    data = config.data
    names = ("source", "oracle_file", "valid", "test", "tokenizer")
    paths = {k: v for k in names if (v := getattr(data, k)) and v not in corpora.WORLDS and Path(v).exists()}
    data = dataclasses.replace(data, **{k: str(Path(v).resolve()) for k, v in paths.items()})
    numeric = precision(config.precision, where)
    return dataclasses.replace(config, device=where, precision=numeric, threads=torch.get_num_threads(), data=data)


def device(name: str) -> str:
    """The device a name means on this machine. Raises ValueError for a GPU that is not there."""
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: this machine or this build of torch has no GPU; use --device cpu or auto")
    return ("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name


def precision(name: str, device: str) -> str:
    """bf16 by "auto" only where the processor computes it natively."""
    if name != "auto":
        return name
    if device == "cuda":
        native = torch.cuda.is_bf16_supported()
    else:
        tests = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
        native = any(getattr(torch.cpu, name, lambda: False)() for name in tests)
    return "bf16" if native else "fp32"


def _run_options(config: RunConfig) -> dict[str, Any]:
    return {
        "seed": config.seed,
        "saving": config.checkpoint,
        "device": config.device,
        "precision": config.precision,
    }


def _check_data(folder: Path, corpus: Corpus) -> None:
    """A run goes on only with the data it began with, by the digest in its log."""
    log = folder / "log.jsonl"
    first = log.read_text().partition("\n")[0] if log.is_file() else ""
    try:
        began = json.loads(first)["data"] if first else corpus.digest
    except (ValueError, KeyError):
        return  # cut off, or not a start record: nothing to hold it to
    if began != corpus.digest:
        raise ValueError(
            f"{folder}: it began with other data (digest {began}; {corpus.source} is {corpus.digest} now); "
            "bring the file back as it was, or train anew"
        )


def _check_start(start: str | Path | None, corpus: Corpus) -> None:
    """A pre-training can be taken over only where it saw the same training data."""
    if start is None:
        return
    config = evaluate.read_config(Path(start))
    pre_trained(Path(start))
    other = corpora.load(build(RunConfig, config).data)
    if other.digest != corpus.digest:
        raise ValueError(
            f"--from {start}: it was trained on other data ({other.source}, digest {other.digest}; here "
            f"{corpus.source}, {corpus.digest}); give the same --data options"
        )


def _has_ended(folder: Path) -> bool:
    """Whether the log's last record says so."""
    log = folder / "log.jsonl"
    lines = log.read_text().splitlines() if log.is_file() else []
    try:
        return bool(lines) and json.loads(lines[-1])["kind"] == "end"
    except ValueError:  # cut off in the middle of a line
        return False


def _free_folder(method: str) -> Path:
    n = 1
    while (folder := Path("runs") / f"{method}-{n}").exists():
        n += 1
    return folder


def _tensorboard(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as e:
        raise ValueError("--tensorboard: not installed; pip install 'seqforge[tensorboard]'") from e
    return SummaryWriter(str(folder / "tensorboard"))


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
