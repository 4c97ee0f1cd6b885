"""The discriminator of a checkpoint, and whether its p(real) means what it says, for the report."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from seqforge import checkpoint, discriminate
from seqforge.data.corpus import Corpus, Split
from seqforge.metrics import calibration
from seqforge.metrics.calibration import Judged
from seqforge.models.discriminators import CNNDiscriminator
from seqforge.models.token_discriminator import TokenDiscriminator
from seqforge.models.transformer_discriminator import TransformerDiscriminator
from seqforge.sampling import mask_of

FILE = "calibration.json"
DISCRIMINATORS = {cls.__name__: cls for cls in (CNNDiscriminator, TokenDiscriminator, TransformerDiscriminator)}
ROWS = 256  # judged at once


def load_discriminator(folder: Path) -> nn.Module | None:
    """The discriminator of a checkpoint folder, ready to judge; None where its method has none."""
    config = folder / "discriminator" / "config.json"
    if not config.is_file():
        return None
    sizes = json.loads(config.read_text())
    kind = "+".join(sizes.pop("architectures", []))
    if kind not in DISCRIMINATORS:
        raise ValueError(f"{config}: a discriminator of kind {kind!r}, which is not known here")
    discriminator = DISCRIMINATORS[kind](**sizes)
    checkpoint.load_model(folder / "discriminator", discriminator)
    return discriminator.eval()


@torch.no_grad()
def probabilities(discriminator: nn.Module, split: Split, precision: str) -> tuple[Tensor, Tensor]:
    """p(real) (N,K) and which of it there is (N,K): K is 1, or of a discriminator of tokens the longest sequence."""
    with discriminate.autocast(split.ids.device, precision):
        parts = [split[slice(lo, lo + ROWS)] for lo in range(0, len(split), ROWS)]
        asked = [() if part.source is None else (part.source,) for part in parts]  # of a judge of pairs
        logits = [discriminator(p.ids, p.lengths, *a) for p, a in zip(parts, asked, strict=True)]
        p = torch.sigmoid(torch.cat(logits).float())
    if p.ndim == 1:
        return p[:, None], torch.ones_like(p, dtype=torch.bool)[:, None]
    return p, mask_of(split.lengths, p.shape[1])


def described(folder: Path, corpus: Corpus, samples: Split, precision: str, seed: int) -> dict[str, Any] | None:
    """What the checkpoint's discriminator makes of the test sequences and as many samples of its generator at
    temperature 1. None without a discriminator.
    """
    discriminator = load_discriminator(folder)
    if discriminator is None:
        return None
    n = min(len(corpus.test), len(samples))
    sides = (corpus.test[slice(n)], samples[slice(n)])
    found = [probabilities(discriminator.to(s.ids.device), s, precision) for s in sides]
    p, counted = (torch.cat(each).cpu().numpy() for each in zip(*found, strict=True))
    judged = Judged.of(p.astype(float), counted, (torch.arange(2 * n) < n).numpy())
    tokens = p.shape[1] > 1
    facts = {"temp": 1.0, "of": "tokens" if tokens else "sequences", "data": corpus.source, "test": sides[0].digest()}
    return {
        "step": checkpoint.step_of(folder),
        "kind": type(discriminator).__name__,
        "of": facts["of"],
        "pairs": corpus.test.source is not None,
        "scores": [s.as_dict() for s in calibration.scores_of(judged, facts, seed)],
        "by_chance": judged.ece_by_chance(),
        "bins": calibration.reliability(judged),
    }
