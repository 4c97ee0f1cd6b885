"""A run folder read back: its configuration, a checkpoint of it, the generator and the tokenizer in that."""

import json
from pathlib import Path
from typing import Any, get_args

import yaml
from tokenizers import Tokenizer

from seqforge import checkpoint
from seqforge.models.hierarchical import HierarchicalGenerator
from seqforge.models.lstm import LSTMGenerator
from seqforge.models.skip_lstm import SkipLSTMGenerator
from seqforge.models.transformer import TransformerGenerator


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


Loadable = LSTMGenerator | HierarchicalGenerator | SkipLSTMGenerator | TransformerGenerator
GENERATORS = {cls.__name__: cls for cls in get_args(Loadable)}


def load_generator(folder: Path, precision: str = "fp32", player: Path | None = None) -> Loadable:
    """The generator of a checkpoint folder, ready to sample; `precision` is that of the features leaked to it. player:
    another than its usual one.
    """
    player = player or player_of(folder)
    config = json.loads((player / "config.json").read_text())
    name = "+".join(config.pop("architectures", ["LSTMGenerator"]))
    if name not in GENERATORS:
        raise ValueError(f"{player / 'config.json'}: a generator of kind {name!r}, which is not known here")
    generator = GENERATORS[name](**config)
    checkpoint.load_model(player, generator)
    if isinstance(generator, HierarchicalGenerator):
        generator.leak(generator.leaked.discriminator, precision)
    return generator.eval()


def load_tokenizer(folder: Path) -> Tokenizer:
    return Tokenizer.from_file(str(player_of(folder) / "tokenizer.json"))


def player_of(folder: Path) -> Path:
    """Where a checkpoint has its generator, or MLE's counterpart of one, which stands alone in a checkpoint of its own.
    Raises ValueError where there is neither: the counterpart is still being trained.
    """
    player = folder / ("counterpart" if "counterpart" in checkpoint.tags_of(folder) else "generator")
    if not player.is_dir():
        raise ValueError(f"{folder}: holds no generator; take a later checkpoint, or let it get further")
    return player


def find_checkpoint(run: Path, wanted: str | None = None) -> Path:
    """A whole checkpoint of a run: by default "final" or the newest that has a generator, or the one tagged or named
    `wanted`; "best" is the best by validation.
    """
    checkpoints = run / "checkpoints"
    read_config(run)
    if wanted is None:
        found = checkpoint.newest(checkpoints, having="generator")
    elif wanted in ("pre-trained", "counterpart", "final"):
        found = checkpoint.newest(checkpoints, tag=wanted)
        if found is None and checkpoint.newest(checkpoints, tag="final"):
            marked = {tag for p in checkpoint.every(checkpoints) for tag in checkpoint.tags_of(p)}
            raise ValueError(f"{run}: a run without a {wanted} generator; there are: {', '.join(sorted(marked))}")
    else:
        if wanted == "best" and (wanted := checkpoint.best_of(run)) is None:
            raise ValueError(
                f"{run}: no best checkpoint named yet; let it train to its first look at the validation set"
            )
        found = checkpoints / (wanted if wanted.startswith("step-") else f"step-{wanted}")
        if not found.is_dir():
            names = ", ".join(p.name for p in checkpoint.every(checkpoints)) or "none"
            raise ValueError(f"{run}: no checkpoint {wanted}; there are: {names}")
        checkpoint.verify(found)
    if found is None:
        raise ValueError(f"{run}: no whole checkpoint{f' tagged {wanted}' if wanted else ''} yet; let it train longer")
    return found
