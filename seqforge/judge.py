"""An independent judge of replies: a discriminator that no generator has met, trained afresh for each question.

fresh_judge: real replies against a generator's, to the same sources; one half is the best a generator can do. Half of
the test pairs train the judge, the other half are judged.
mismatch: real pairs against sources with replies dealt anew; how much the data tell of what belongs together. Training
pairs train the judge, test pairs are judged. Both accuracies count the two sides alike.
"""

import numpy as np
import torch

from seqforge import discriminate
from seqforge.data.corpus import Split
from seqforge.metrics import bootstrap
from seqforge.metrics.ngrams import scored
from seqforge.metrics.score import Score
from seqforge.models.transformer_discriminator import TransformerDiscriminator, TransformerDiscriminatorConfig

SIZES = TransformerDiscriminatorConfig(embedding=32, hidden=32, layers=2, heads=4, dropout=0.0)
STEPS, BATCH, LR = 200, 64, 0.003  # one recipe, so that figures of different generators may be compared
LEAST = 100  # pairs from which, and about which, it is worth asking

Pairs = tuple[Split, Split]  # real, and what it is to be told from; row by row the same sources


def shuffled(real: Split, seed: int) -> Split:
    """The same sources, with the replies of other rows (by a shift of a random order: no row keeps its own)."""
    order = torch.randperm(len(real), generator=torch.Generator().manual_seed(seed))
    other = torch.empty_like(order)
    other[order] = order.roll(1)
    other = other.to(real.ids.device)
    return Split(real.ids[other], real.lengths[other], real.source)


def halves(real: Split, fake: Split) -> tuple[Pairs, Pairs]:
    """The first half of both sides to learn from, the second to be asked about."""
    first, second = slice(len(real) // 2), slice(len(real) // 2, None)
    return (real[first], fake[first]), (real[second], fake[second])


def told_apart(learned: Pairs, asked: Pairs, vocab_size: int, seed: int) -> np.ndarray:
    """Of the pairs asked about, row by row, the share of its two sides that a judge of those learned gets right: 0, one
    half or 1.
    """
    judge = TransformerDiscriminator.of(SIZES, vocab_size, seed, pair=True).to(learned[0].ids.device)
    optimizer = torch.optim.AdamW(judge.parameters(), lr=LR, weight_decay=0.01, fused=True)
    rng = torch.Generator().manual_seed(seed)
    real, fake = (discriminate.batch_of(side) for side in learned)
    for _ in range(max(1, round(STEPS * BATCH / 2 / len(learned[0])))):
        discriminate.epoch(judge, optimizer, real, fake, BATCH, rng)
    score = discriminate.Score(judge.eval())
    right = [score(*discriminate.batch_of(side)) > 0.5 for side in asked]
    return (right[0].double() + (~right[1]).double()).div(2).cpu().numpy()


def judged(
    name: str,
    learned: Pairs,
    asked: Pairs,
    vocab_size: int,
    facts: dict[str, object],
    temperature: float | None,
    seed: int,
) -> list[Score]:
    """The accuracy under that name; nothing where there are too few pairs."""
    if min(len(learned[0]), len(asked[0])) < LEAST:
        return []
    right = told_apart(learned, asked, vocab_size, seed)
    spread = bootstrap.of_mean(right, seed)
    return [scored(name, right.mean(), spread, "", temperature, facts, n=len(right), seed=seed)]
