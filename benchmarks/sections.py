"""One function a cost: seconds of ours (at each precision) and of the plain way, medians, and the arithmetic in it."""

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from benchmarks import plain
from seqforge import corpora, discriminate, objectives, rewards
from seqforge.data.config import DataConfig
from seqforge.data.corpus import Split
from seqforge.likelihood import log_probs, weighted_nll
from seqforge.methods import cot, leakgan, scratchgan
from seqforge.methods.mle import trainable, update
from seqforge.metrics import bleu, ngrams, self_bleu
from seqforge.models.discriminators import PUBLISHED_FILTERS, PUBLISHED_WIDTHS, CNNDiscriminator
from seqforge.models.hierarchical import HierarchicalConfig, HierarchicalGenerator
from seqforge.models.lstm import LSTMGenerator
from seqforge.models.skip_lstm import SkipLSTMConfig, SkipLSTMGenerator
from seqforge.models.token_discriminator import TokenDiscriminator, TokenDiscriminatorConfig
from seqforge.models.transformer import Source, TransformerConfig, TransformerGenerator
from seqforge.sampling import GREEDY, mask_of, sample, uniform
from seqforge.settings import precision

V, T, B, N, ROWS = 5000, 20, 64, 16, 9984


def median(work: Callable[[], object], repeats: int = 3, warm: bool = True) -> float:
    """Seconds, the median of `repeats` after one that is not counted."""
    if warm:
        work()
    times = []
    for _ in range(repeats):
        begun = time.perf_counter()
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - begun)
    return statistics.median(times)


def machine_limit(dtype: torch.dtype, device: torch.device) -> float:
    """GFLOP/s of a 2048-cubed matrix product: the best of nine, as a limit is."""
    a, b = (torch.randn(2048, 2048, device=device).to(dtype) for _ in range(2))
    times = [median(lambda: a @ b, 1, warm=k == 0) for k in range(9)]
    return 2 * 2048**3 / min(times) / 1e9


def precisions(device: torch.device) -> dict[str, torch.dtype]:
    """Those that the processor computes natively: elsewhere bfloat16 takes a hundred times as long as float32."""
    native = {"bf16": torch.bfloat16} if precision("auto", device.type) == "bf16" else {}
    return {**native, "fp32": torch.float32}


def generator_flop(v: int, tokens: int, h: int = 32) -> float:
    """Of one forward pass: gates and head."""
    return 2.0 * tokens * (8 * h * h + h * v)


def discriminator_flop(sequences: int, t: int = T, e: int = 64) -> float:
    """Of one forward pass of the published discriminator: windows, highway and gate."""
    windows = sum(n * w * max(0, t - w + 1) for w, n in zip(PUBLISHED_WIDTHS, PUBLISHED_FILTERS, strict=True))
    return 2.0 * sequences * (windows * e + 2 * sum(PUBLISHED_FILTERS) ** 2)


def completions_flop(rows: int, t: int = T, e: int = 64) -> float:
    """Of the published discriminator's forward pass on `rows` completions of each prefix of 1 to T-1 tokens, looking at
    the windows that end after it.
    """
    per_filter = [
        n * w * min(t - k, t - w + 1)
        for k in range(1, t)
        for w, n in zip(PUBLISHED_WIDTHS, PUBLISHED_FILTERS, strict=True)
    ]
    return 2.0 * rows * (sum(per_filter) * e + (t - 1) * 2 * sum(PUBLISHED_FILTERS) ** 2)


def world(device: torch.device, v: int = V, t: int = T):
    rng = torch.Generator().manual_seed(1)
    ids = torch.randint(v, (ROWS, t), generator=rng).to(device)
    return LSTMGenerator(v).to(device), ids, torch.full((ROWS,), t, device=device), rng


def mle_epoch(device: torch.device) -> dict:
    """One epoch of likelihood training: 9,984 x 20 tokens, V 5,000, batch 64."""
    generator, ids, lengths, _ = world(device)
    optimizer = torch.optim.AdamW(trainable(generator), lr=0.01, weight_decay=0.0, fused=True)

    def ours(precision: str) -> None:
        for rows, n in zip(ids.split(B), lengths.split(B), strict=True):
            loss, _ = weighted_nll(generator, rows, n, objectives.mle_weight(mask_of(n, T)), precision=precision)
            update(generator, optimizer, loss, 5.0)

    other = plain.PlainGenerator(V).to(device)
    adam = torch.optim.Adam(other.parameters(), lr=0.01)
    return {
        "ours": {p: median(lambda p=p: ours(p)) for p in precisions(device)},
        "plain": median(lambda: plain.mle_epoch(other, adam, ids, B), 2),
        "gflop": 3 * generator_flop(V, ROWS * T) / 1e9,
    }


def sampling(device: torch.device) -> dict:
    """Sampling 9,984 x 20 tokens."""
    generator, _, _, rng = world(device)
    other = plain.PlainGenerator(V).to(device)
    nothing = torch.zeros(ROWS, 0, dtype=torch.long, device=device)
    return {
        "ours": {"fp32": median(lambda: sample(generator, uniform((ROWS, T), rng, device)))},
        "plain": median(lambda: plain.sample(other, nothing, T), 1, warm=False),
        "gflop": generator_flop(V, ROWS * T) / 1e9,
    }


def generator_step(device: torch.device) -> dict:
    """One policy-gradient step: batch 64, 16 rollouts, published discriminator. Plain: one rollout timed, times 16."""
    generator, ids, _, rng = world(device)
    discriminator = CNNDiscriminator(V, T).to(device)
    optimizer = torch.optim.Adam(trainable(generator), lr=1e-3, fused=True)

    def step(precision: str) -> None:
        samples, trail = rewards.sample_with_trail(generator, uniform((B, T), rng, device))
        noise = uniform((B, T - 1, N, T), rng, device)
        q = rewards.rollout_q(generator, samples, trail, discriminate.Score(discriminator, precision), noise)
        weight = objectives.reinforce_weight(q, mask_of(samples.lengths, T))
        loss, _ = weighted_nll(generator, samples.ids, samples.lengths, weight, precision=precision)
        update(generator, optimizer, loss, 5.0)

    other = plain.PlainGenerator(V).to(device)
    judge = plain.PlainDiscriminator(V, PUBLISHED_WIDTHS, PUBLISHED_FILTERS).to(device).eval().requires_grad_(False)
    tokens = B * N * sum(range(1, T))
    return {
        "ours": {p: median(lambda p=p: step(p)) for p in precisions(device)},
        "plain": N * median(lambda: plain.rollout_round(other, judge, ids[:B]), 1, warm=False),
        "gflop": (generator_flop(V, tokens) + completions_flop(B * N)) / 1e9,
    }


def discriminator_epoch(device: torch.device) -> dict:
    """One epoch of the published discriminator on 19,968 sequences, batch 64. Plain: a quarter timed, times 4."""
    _, ids, lengths, rng = world(device)
    real = (ids, lengths)
    discriminator = CNNDiscriminator(V, T).to(device)
    optimizer = torch.optim.Adam(discriminator.parameters(), lr=1e-4, fused=True)

    def ours(precision: str) -> None:
        discriminate.epoch(discriminator, optimizer, real, real, B, rng, 0.1, precision)

    other = plain.PlainDiscriminator(V, PUBLISHED_WIDTHS, PUBLISHED_FILTERS).to(device)
    adam = torch.optim.Adam(other.parameters(), lr=1e-4)
    quarter, label = ids[: 78 * B], torch.ones(78 * B, device=device)
    return {
        "ours": {p: median(lambda p=p: ours(p), 1) for p in precisions(device)},
        "plain": 4 * median(lambda: plain.discriminator_epoch(other, adam, quarter, label), 1, warm=False),
        "gflop": 3 * discriminator_flop(2 * ROWS) / 1e9,
    }


def scaling(device: torch.device) -> dict:
    """Seconds of 2,496 samples and of 39 likelihood steps of 64, against T at V 5,000 and against V at T 20."""
    found = {}
    for v, t in [(V, 10), (V, 20), (V, 40), (V, 80), (1000, T), (10_000, T), (50_000, T)]:
        generator, ids, lengths, rng = world(device, v, t)
        ids, lengths = ids[:2496], lengths[:2496]
        optimizer = torch.optim.Adam(trainable(generator), lr=0.01, fused=True)

        def steps(g=generator, o=optimizer, ids=ids, lengths=lengths, t=t) -> None:
            for rows, n in zip(ids.split(B), lengths.split(B), strict=True):
                loss, _ = weighted_nll(g, rows, n, objectives.mle_weight(mask_of(n, t)))
                update(g, o, loss, 5.0)

        drawing = median(lambda g=generator, t=t: sample(g, uniform((2496, t), rng, device)), 1)  # noqa: B023
        found[f"V {v}, T {t}"] = {"sampling": drawing, "likelihood": median(steps, 1)}
    return found


def leakgan_steps(device: torch.device) -> dict:
    """LeakGAN, batch 64, T 20, published discriminator: pre-training step, 64 samples, adversarial step."""
    seconds = {}
    for numeric in precisions(device):
        discriminator = CNNDiscriminator(V, T, dropout=0.0).to(device)
        generator = HierarchicalGenerator.of(HierarchicalConfig(), discriminator, None, 0, 1).to(device)
        generator.leak(discriminator, numeric)
        _, ids, lengths, rng = world(device)
        players, config = leakgan.Modules(generator, 0.0015), leakgan.LeakGANConfig()
        real, score = Split(ids[:B], lengths[:B]), discriminate.Score(discriminator, numeric)
        given = (generator, players, score, config, T, lambda _: rng, device, numeric)  # noqa: B023
        work = {
            "pre-training step": lambda: players.update(leakgan.likelihood_loss(generator, real, numeric)[0], 5.0),  # noqa: B023
            "64 samples": lambda: sample(generator, uniform((B, T), rng, device)),  # noqa: B023
            "adversarial step": lambda: leakgan.step(*given),  # noqa: B023
        }
        seconds |= {f"{what}, {numeric}": median(run, 5) for what, run in work.items()}
    return {"seconds": seconds}


def dialogue_replies(device: torch.device) -> dict:
    """The dialogue Transformer at the published sizes, V 10,000, sources of 20 tokens: a greedy reply of 20 tokens in
    inference mode, as `seqforge chat` makes them, 64 drawn replies of 40.
    """
    sizes = TransformerConfig(128, 256, 3, 8, 512, share=True, share_attention=True, norm="post")
    generator = TransformerGenerator.of(sizes, 10_000, None, 0, 1, encoder=True).to(device).eval()
    rng = torch.Generator().manual_seed(1)
    asked = Source(torch.randint(10_000, (B, 20), generator=rng).to(device), torch.full((B,), 20, device=device))
    one, many = uniform((1, 20), rng, device), uniform((B, 40), rng, device)
    first = asked[torch.zeros(1, dtype=torch.long, device=device)]
    greedy = torch.inference_mode()(lambda: sample(generator, one, GREEDY, context=first))
    seconds = {
        "a greedy reply": median(greedy, 41),
        "64 drawn replies": median(lambda: sample(generator, many, context=asked), 7),
    }
    return {"seconds": seconds}


def scratchgan_step(device: torch.device) -> dict:
    """ScratchGAN's published sizes: a generator step on 512 samples of 52 tokens (V 20,000), as three forward passes;
    besides, drawing the samples, their rewards, and a discriminator step. Plain: torch's LSTMs, all logits at once, 64
    rows timed, times 8.
    """
    v, t, b = 20_000, 52, 512
    generator = SkipLSTMGenerator.of(SkipLSTMConfig(300, 64, 512, 2), v, None, 0, 1, False).to(device)
    discriminator = TokenDiscriminator.of(TokenDiscriminatorConfig(512), (300, 64), v, t, 1, False).to(device)
    config = scratchgan.ScratchGANConfig(batch=b)
    g_adam = torch.optim.Adam(trainable(generator), lr=1e-4, fused=True)
    d_adam = torch.optim.Adam(trainable(discriminator), lr=1e-4, fused=True)
    rng = torch.Generator().manual_seed(1)
    fake = sample(generator, uniform((b, t), rng, device))
    advantage = torch.randn(b, t, generator=rng).to(device)

    def plain_step() -> None:
        loss = (log_probs(generator, fake.ids[:64], fake.lengths[:64]) * advantage[:64]).sum()
        g_adam.zero_grad(set_to_none=True)
        loss.backward()
        g_adam.step()

    def step(precision: str) -> None:
        scratchgan.generator_step(generator, g_adam, fake, advantage, config, precision)

    def d_step() -> None:
        scratchgan.discriminator_step(
            discriminator.train(), d_adam, Split(fake.ids, fake.lengths), fake, config, "fp32"
        )

    per_token = 364 * 512 + 2048 * (512 + 512) + 2048 * (1024 + 512) + 1024 * 364 + 364 * v
    return {
        "ours": {p: median(lambda p=p: step(p)) for p in precisions(device)},
        "plain": 8 * median(plain_step, 1),
        "gflop": 3 * 2.0 * per_token * b * t / 1e9,
        "seconds": {"512 samples": median(lambda: sample(generator, uniform((b, t), rng, device)), 1, warm=False),
                    "discriminator step": median(d_step, 1)},
    }  # fmt: skip


def cot_step(device: torch.device) -> dict:
    """Cooperative training, batch 64, generator LSTM 32, mediator LSTM 64: a step of either with its sampling, against
    T at V 5,000 and against V at T 20.
    """
    seconds, config = {}, cot.CoTConfig()
    for v, t in [(V, 10), (V, 20), (V, 40), (V, 80), (1000, T), (10_000, T), (50_000, T)]:
        generator, ids, lengths, rng = world(device, v, t)
        mediator = LSTMGenerator(v, embedding=64, hidden=64, dropout=0.2).to(device)
        optimizer, m_optimizer = (torch.optim.Adam(trainable(m), lr=1e-3, fused=True) for m in (generator, mediator))
        real = Split(ids[:B], lengths[:B])

        def teach(g=generator, m=mediator, o=m_optimizer, real=real, t=t) -> None:
            update(m, o, cot.mediator_loss(m.train(), real, sample(g.eval(), uniform((B, t), rng, device))), 5.0)  # noqa: B023

        def follow(g=generator, m=mediator, o=optimizer, t=t) -> None:
            fake = sample(g.eval(), uniform((B, t), rng, device))  # noqa: B023
            update(g, o, cot.generator_loss(g.train(), m.eval(), fake, config)[0], 5.0)

        for what, work in (("mediator", teach), ("generator", follow)):
            seconds[f"V {v}, T {t}, {what}"] = median(work, 5)
    return {"seconds": seconds}


def made_up_text(n: int, mean: int, types: int, seed: int) -> list[str]:
    """n lines of words drawn by Zipf's law, their lengths by a binomial law about `mean`."""
    rng = np.random.default_rng(seed)
    lengths = rng.binomial(2 * mean, 0.5, n).clip(1)
    p = 1 / np.arange(1, types + 1)
    words = np.array([f"w{i}" for i in range(types)])[rng.choice(types, lengths.sum(), p=p / p.sum())]
    ends = np.cumsum(lengths)
    return [" ".join(words[b - k : b]) for b, k in zip(ends, lengths, strict=True)]


def text(device: torch.device) -> dict:
    """300,000 sentences of 28 words from file to tensors; BLEU-2..5 of 5,000 of 11 words against 10,000; Self-BLEU of
    10,000.
    """
    seconds = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "news.txt"
        path.write_text("\n".join(made_up_text(300_000, 28, 6000, 1)))
        config = DataConfig(source=str(path))
        begun = time.perf_counter()
        corpora.load(config)
        seconds["read, tokenise, pack"] = time.perf_counter() - begun
    lines = [line.split() for line in made_up_text(20_000, 11, 3000, 2)]
    samples, references, many = ngrams.encode(lines[:5000], lines[5000:15_000], lines[10_000:])
    seconds["BLEU"] = median(lambda: bleu.bleu(samples, ngrams.References(references), facts={}))
    seconds["Self-BLEU"] = median(lambda: self_bleu.self_bleu(many, facts={}))
    return {"seconds": seconds}


SECTIONS: dict[str, Callable[[torch.device], dict]] = {
    "mle_epoch": mle_epoch,
    "sampling": sampling,
    "generator_step": generator_step,
    "discriminator_epoch": discriminator_epoch,
    "leakgan": leakgan_steps,
    "dialogue": dialogue_replies,
    "scratchgan": scratchgan_step,
    "cot": cot_step,
    "scaling": scaling,
    "text": text,
}
