"""A run's generator as the hub reads it, with a model card written from the run: `seqforge export`."""

import json
from pathlib import Path
from typing import Any

import yaml

from seqforge.frontier import heat
from seqforge.loading import Loadable, find_checkpoint, load_generator, load_tokenizer, read_config


def model_card(run: Path, folder: Path, model: Loadable) -> str:
    """A README for the hub: what the run did, and what was measured of this checkpoint."""
    config = read_config(run)
    shared = without_folders(config)
    lines = ["---", "library_name: seqforge", f"tags: [text-generation, {config['method']}]", "---", ""]
    lines += [f"# {run.resolve().name}", "", f"Trained by `seqforge train {config['method']}` with this configuration:"]
    lines += ["", "```yaml", yaml.safe_dump(shared, sort_keys=False).strip(), "```", "", *_how_to_load(model, config)]
    scores = run / "scores.json"
    generators = json.loads(scores.read_text())["generators"] if scores.is_file() else []
    scored = [g for g in generators if "step" in g]  # the others' weights are not the checkpoint's generator
    mine = next((g for g in reversed(scored) if g["checkpoint"] == folder.name), None)
    if mine is None:
        return "\n".join([*lines, "Not scored.", ""])
    lines += ["| score | temperature | value | standard error | signature |", "|---|---|---|---|---|"]
    for s in mine["scores"]:
        error = "" if s["stderr"] is None else f"{s['stderr']:.4f}"
        sign = s["signature"].replace("|", "\\|")
        lines.append(f"| {s['name']} | {heat(s['temperature'])} | {s['value']:.4f} {s['unit']} | {error} | {sign} |")
    if mine["name"] == "final":
        lines += ["", json.loads(scores.read_text())["verdict"] or ""]
    return "\n".join(lines) + "\n"


def without_folders(config: dict[str, Any]) -> dict[str, Any]:
    """A configuration to be shown to others: of each absolute path, the name alone."""

    def shown(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: shown(v) for k, v in value.items()}
        return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value

    return shown(config)


LOAD = """```python
import torch
from tokenizers import Tokenizer

from {module} import {name}
from seqforge.sampling import sample, uniform

folder = "."
generator = {name}.from_pretrained(folder).eval()
tokenizer = Tokenizer.from_file(folder + "/tokenizer.json")
drawn = sample(generator, uniform((10, {longest}), torch.Generator().manual_seed(0)))
for ids, length in zip(drawn.ids.tolist(), drawn.lengths.tolist()):
    print(tokenizer.decode(ids[:length]))
```
"""


def _how_to_load(model: Loadable, config: dict[str, Any]) -> list[str]:
    """Python that loads the generator and draws from it; nothing of one that answers."""
    if getattr(model, "encoder", None) is not None:
        return []
    longest = config["data"]["max_length"]
    return [LOAD.format(module=type(model).__module__, name=type(model).__name__, longest=longest)]


def export(run: Path, out: Path, wanted: str | None = None) -> Path:
    """Write config.json, model.safetensors, tokenizer.json and a model card: what from_pretrained and the hub read."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out}: exists already; choose another --out")
    folder = find_checkpoint(run, wanted)
    model = load_generator(folder)
    model.save_pretrained(out)
    load_tokenizer(folder).save(str(out / "tokenizer.json"))
    (out / "README.md").write_text(model_card(run, folder, model))
    return out
