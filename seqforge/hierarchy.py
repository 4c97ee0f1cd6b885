"""What a hierarchical generator does with a few samples, for the report (report/hierarchy.py draws it)."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from seqforge.data.corpus import Corpus
from seqforge.models.hierarchical import HierarchicalGenerator
from seqforge.objectives import goal_cosine
from seqforge.run import derive_seed
from seqforge.sampling import sample, uniform


@torch.no_grad()
def described(generator: HierarchicalGenerator, corpus: Corpus, seed: int, sequences: int = 3) -> dict[str, Any]:
    """Of each sample of L tokens: how alike the goals of its steps are (L,L), the path of the feature on its two
    principal axes (L+1,2) with their share of its variance, the cosine of each goal with the change that came (L,).
    """
    rng = torch.Generator().manual_seed(derive_seed(seed, "hierarchy"))
    drawn = sample(generator, uniform((sequences, corpus.max_length), rng, corpus.train.ids.device))
    seen = generator.unroll(drawn.ids)
    alignment = goal_cosine(seen.goals, seen.features, drawn.lengths, generator.step)
    found = []
    for row, n in enumerate(drawn.lengths.tolist()):
        goals = F.normalize(seen.goals[row, :n], dim=-1)
        path, explained = principal_path(seen.features[row, : n + 1])
        found.append(
            {
                "tokens": [corpus.tokenizer.id_to_token(i) or str(i) for i in drawn.ids[row, :n].tolist()],
                "similarity": _rounded(goals @ goals.T),
                "trajectory": _rounded(path),
                "explained": _rounded(explained),
                "alignment": _rounded(alignment[row, :n]),
            }
        )
    return {"step_size": generator.step, "samples": found}


def principal_path(points: Tensor) -> tuple[Tensor, Tensor]:
    """Points (N,F) on their two principal axes (N,2), and the share of the variance on each (2,)."""
    centred = (points - points.mean(0)).double()
    u, s, _ = torch.linalg.svd(centred, full_matrices=False)
    axes = F.pad(u * s, (0, max(0, 2 - len(s))))[:, :2]
    share = F.pad(s.square() / s.square().sum().clamp_min(1e-30), (0, 2))[:2]
    return axes, share


def _rounded(x: Tensor) -> list:
    """Nested lists with four decimals."""
    return [_rounded(row) for row in x] if x.ndim > 1 else [round(v, 4) for v in x.tolist()]
