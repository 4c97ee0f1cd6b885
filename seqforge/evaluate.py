"""From the checkpoints of a run to scores.json: the pre-trained and the final generator, with a verdict."""

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from tokenizers import Tokenizer
from torch import nn

from seqforge import checkpoint
from seqforge.compare import at_equal_diversity
from seqforge.data.corpus import Corpus
from seqforge.metrics import nll
from seqforge.metrics.score import Score
from seqforge.models.generator import Generator
from seqforge.models.lstm import LSTMGenerator

SEED = 20170204  # of the evaluation's samples: one for all runs, so that their noise is shared


@dataclass(frozen=True)
class EvaluateConfig:
    """How the pre-trained and the final generator are scored when a run ends, and by `seqforge evaluate`.

    Args:
        samples: sequences drawn at each temperature (SeqGAN: 9,984)
        temperatures: divisors of the logits; 1 is the model as trained, below 1 sharper (0.667 is an inverse of 1.5)
        seed: seed of the samples
    """

    samples: int = 9984
    temperatures: list[float] = field(default_factory=lambda: [1.25, 1.0, 0.8, 0.667, 0.5])
    seed: int = SEED

    def __post_init__(self):
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"evaluate.seed is {self.seed}, but must lie between 0 and 2^63 - 1")
        if self.samples < 2:
            raise ValueError(f"evaluate.samples is {self.samples}, but must be at least 2")
        if not self.temperatures or min(self.temperatures) <= 0:
            raise ValueError(f"evaluate.temperatures is {self.temperatures}, but must name numbers above 0")


def read_config(run: Path) -> dict[str, Any]:
    """config.yaml of a run folder. Raises ValueError where there is none."""
    path = run / "config.yaml"
    if not path.is_file():
        raise ValueError(f"{run}: not a run folder (no config.yaml in it); give the folder that `seqforge train` named")
    try:
        config = yaml.safe_load(path.read_text())
    except yaml.YAMLError as e:
        raise ValueError(f"{path}: not readable as YAML ({e}); restore it or train anew") from e
    if not isinstance(config, dict) or "method" not in config:
        raise ValueError(f"{path}: names no method; restore it or train anew")
    for key in ("seed", "from", "data", "checkpoint", "evaluate"):
        if key not in config or (key in ("data", "checkpoint", "evaluate") and not isinstance(config[key], dict)):
            raise ValueError(f"{path}: `{key}` is {config.get(key, 'missing')}; restore it or train anew")
    return config


def load_generator(folder: Path) -> LSTMGenerator:
    """The generator of a checkpoint folder, ready to sample."""
    config = json.loads((folder / "generator" / "config.json").read_text())
    generator = LSTMGenerator(**config)
    checkpoint.load_model(folder / "generator", generator)
    return generator.eval()


def load_tokenizer(folder: Path) -> Tokenizer:
    return Tokenizer.from_file(str(folder / "generator" / "tokenizer.json"))


def find_checkpoint(run: Path, wanted: str | None = None) -> Path:
    """A whole checkpoint of a run: "final" or the newest by default, or the one tagged or named `wanted`."""
    checkpoints = run / "checkpoints"
    read_config(run)
    if wanted is None:
        found = checkpoint.newest(checkpoints)
    elif wanted in ("pre-trained", "final"):
        found = checkpoint.newest(checkpoints, tag=wanted)
    else:
        found = checkpoints / (wanted if wanted.startswith("step-") else f"step-{wanted}")
        if not found.is_dir():
            names = ", ".join(p.name for p in checkpoint.every(checkpoints)) or "none"
            raise ValueError(f"{run}: no checkpoint {wanted}; there are: {names}")
        checkpoint.verify(found)
    if found is None:
        raise ValueError(f"{run}: no whole checkpoint{f' tagged {wanted}' if wanted else ''} yet; let it train longer")
    return found


def sweep(generator: Generator, corpus: Corpus, config: EvaluateConfig) -> list[Score]:
    """NLL_oracle, NLL_test and entropy at every temperature."""
    found = [nll.all_nll(generator, corpus, config.samples, config.seed, t)[0] for t in config.temperatures]
    return [score for scores in found for score in scores]


def evaluate(run: Path, corpus: Corpus, config: EvaluateConfig) -> dict[str, Any]:
    """Score the pre-trained generator (where there is one) and the newest, and write run/scores.json."""
    rows = []
    final = find_checkpoint(run)
    for name in ("pre-trained", "final"):
        folder = checkpoint.newest(run / "checkpoints", tag="pre-trained") if name == "pre-trained" else final
        if folder is None:
            continue
        generator = load_generator(folder).to(corpus.train.ids.device)
        scores = [s.as_dict() for s in sweep(generator, corpus, config)]
        rows.append({"name": name, "step": checkpoint.step_of(folder), "checkpoint": folder.name, "scores": scores})
    result = {"generators": rows, "references": references(corpus, config), "verdict": verdict(rows)}
    part = run / ".scores.json.part"
    part.write_text(json.dumps(result, indent=1))
    os.replace(part, run / "scores.json")
    return result


def references(corpus: Corpus, config: EvaluateConfig) -> list[dict]:
    """The oracle scored as if it were a generator: what a perfect one would reach."""
    if not (isinstance(corpus.oracle, Generator) and isinstance(corpus.oracle, nn.Module)):
        return []
    scores, _ = nll.all_nll(corpus.oracle, corpus, config.samples, config.seed)
    return [{"name": "the oracle itself", "scores": [s.as_dict() for s in scores]}]


def verdict(rows: list[dict]) -> str | None:
    """In a sentence: did the adversarial stage lower NLL_oracle more than a temperature does? One run, one seed."""
    if len(rows) < 2 or not any(s["name"] == "nll_oracle" for s in rows[0]["scores"]):
        return None
    found = at_equal_diversity(rows[1]["scores"], rows[0]["scores"])
    before, after = ({s["name"]: s["value"] for s in r["scores"] if s["temperature"] == 1.0} for r in rows)
    if found is None or not before or not after:
        return (
            "The two generators share no range of NLL_test at these temperatures, and neither beats the other on both."
        )
    difference, error = found
    plain = f"NLL_oracle {before['nll_oracle']:.3f} -> {after['nll_oracle']:.3f}, "
    plain += f"NLL_test {before['nll_test']:.3f} -> {after['nll_test']:.3f}"
    low, high = difference - 1.96 * error, difference + 1.96 * error
    if high < 0:
        word = "The adversarial stage helped"
    elif low > 0:
        word = "The adversarial stage did not help"
    else:
        word = "The adversarial stage made no difference that this run can tell"
    return (
        f"{word}: at equal NLL_test its NLL_oracle is {difference:+.3f} nats per token (95 % interval {low:+.3f} to "
        f"{high:+.3f}, sampling error only, one seed) against the pre-trained generator with a temperature; "
        f"at temperature 1: {plain}."
    )


def model_card(run: Path) -> str:
    """A README for the hub, written from what the run did and measured."""
    config = read_config(run)
    lines = ["---", "library_name: seqforge", f"tags: [text-generation, {config['method']}]", "---", ""]
    lines += [f"# {run.resolve().name}", "", f"Trained by `seqforge train {config['method']}` with this configuration:"]
    lines += ["", "```yaml", yaml.safe_dump(config, sort_keys=False).strip(), "```", ""]
    scores = run / "scores.json"
    if scores.is_file():
        found = json.loads(scores.read_text())
        lines += ["| score | temperature | value | standard error | signature |", "|---|---|---|---|---|"]
        for s in found["generators"][-1]["scores"]:
            error = "" if s["stderr"] is None else f"{s['stderr']:.4f}"
            sign = s["signature"].replace("|", "\\|")
            lines.append(f"| {s['name']} | {s['temperature']} | {s['value']:.4f} {s['unit']} | {error} | {sign} |")
        lines += ["", found["verdict"] or ""]
    return "\n".join(lines) + "\n"


def export(run: Path, out: Path, wanted: str | None = None) -> Path:
    """Write config.json, model.safetensors, tokenizer.json and a model card: what from_pretrained and the hub read."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out}: exists already; choose another --out")
    folder = find_checkpoint(run, wanted)
    load_generator(folder).save_pretrained(out)
    load_tokenizer(folder).save(str(out / "tokenizer.json"))
    (out / "README.md").write_text(model_card(run))
    return out
