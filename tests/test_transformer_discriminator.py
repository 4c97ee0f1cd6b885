"""Transformer discriminators: sizes, padding, order, the logit's range, and that pairs can be told apart."""

import json

import pytest
import torch
from torch import nn
from worlds import rng

from seqforge import discriminate, objectives
from seqforge.cli import main
from seqforge.models.kinds import DiscriminatorConfig
from seqforge.models.transformer import Source
from seqforge.models.transformer_discriminator import TransformerDiscriminator, TransformerDiscriminatorConfig

V = 9
SIZES = {"embedding": 6, "hidden": 8, "layers": 2, "heads": 2, "dropout": 0.0}


def made(**more):
    return TransformerDiscriminator(V, **{**SIZES, **more}, seed=1).eval().requires_grad_(False)


def sides(rows=6, seed=1):
    lengths = [torch.randint(1, 6, (rows,), generator=rng(seed + k)) for k in (0, 1)]
    ids = [torch.randint(V, (rows, 5), generator=rng(seed + k)) for k in (2, 3)]
    return ids[0], lengths[0], Source(ids[1], lengths[1])


def count(model):
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("norm", ["pre", "post"])
@pytest.mark.parametrize("pair", [False, True])
def test_padding_and_order_change_nothing(norm, pair):
    judge = made(norm=norm, pair=pair)
    ids, lengths, source = sides()
    expected = judge(ids, lengths, source if pair else None)
    assert expected.shape == (6,)
    junk = torch.randint(V, (6, 8), generator=rng(9))
    reply, asked = junk.clone(), junk.flip(0).clone()
    for row in range(6):
        reply[row, : lengths[row]] = ids[row, : lengths[row]]
        asked[row, : source.lengths[row]] = source.ids[row, : source.lengths[row]]
    order = torch.randperm(6, generator=rng(4))
    for rows in (torch.arange(6), order):
        given = Source(asked, source.lengths)[rows] if pair else None
        assert torch.allclose(judge(reply[rows], lengths[rows], given), expected[rows], atol=1e-5)
    for row in range(6):
        one = torch.tensor([row])
        alone = judge(ids[one, : lengths[row]], lengths[one], source[one] if pair else None)
        assert torch.allclose(alone, expected[one], atol=1e-5)


def test_both_sides_and_the_order_of_tokens_count():
    judge = made(pair=True)
    ids, lengths, source = sides()
    lengths = torch.full_like(lengths, 5)
    plain = judge(ids, lengths, source)
    other = Source((source.ids + 1) % V, source.lengths)
    for changed in (
        judge((ids + 1) % V, lengths, source),
        judge(ids, lengths, other),
        judge(ids.flip(1), lengths, source),
    ):
        assert ((changed - plain).abs() > 1e-5).all()
    with pytest.raises(AssertionError, match="takes a source"):
        judge(ids, lengths)
    with pytest.raises(AssertionError, match="another none"):
        made()(ids, lengths, source)


@pytest.mark.parametrize("pair", [False, True])
def test_shared_layers_make_the_parameters_independent_of_their_number(pair):
    counts = [count(made(pair=pair, layers=n)) for n in (1, 2, 7)]
    h, f = 8, 16
    attention, forward, norm = 4 * (h * h + h), 2 * h * f + f + h, 2 * h
    own = attention + forward + 2 * norm + norm  # a layer and the last norm
    total = V * 6 + (6 * h + h) + own + (h * h + h) + (h + 1)
    assert counts == [total + pair * (own + attention + norm)] * 3
    assert count(made(pair=pair, share=False, layers=3)) > counts[0]


def test_the_logit_is_that_of_the_mean_of_the_replys_tokens_written_out():
    """Row by row, over the tokens alone; in training some of what the last layer reads is dropped."""
    judge, (ids, lengths, source) = made(pair=True, dropout=0.5), sides()
    seen = []
    judge.reply.register_forward_hook(lambda *call: seen.append(call[-1][0]))
    found = judge(ids, lengths, source)
    for row, n in enumerate(lengths.tolist()):
        mean = sum(seen[0][row, t] for t in range(n)) / n
        x = judge.mix.weight @ mean + judge.mix.bias
        x = x * (1 + torch.erf(x / 2**0.5)) / 2
        assert float(judge.out.weight[0] @ x + judge.out.bias) == pytest.approx(float(found[row]), abs=1e-5)
    kept = []
    judge.out.register_forward_hook(lambda _, read, __: kept.append(read[0]))
    judge.train()(*(ids.repeat(50, 1), lengths.repeat(50)), source[torch.arange(6).repeat(50)])
    assert (kept[0] == 0).double().mean().item() == pytest.approx(0.5, abs=0.05)


def test_the_logit_can_say_no():
    """The original's last activation keeps its probability above one half."""
    judge, (ids, lengths, source) = made(pair=True), sides(40)
    with torch.no_grad():
        nn.init.normal_(judge.out.weight, 0.0, 2.0, generator=rng(3))
        logit = judge(ids, lengths, source)
    assert logit.min() < -0.5
    assert logit.max() > 0.5


@pytest.mark.parametrize("pair", [False, True])
def test_it_learns_what_only_the_right_side_tells(pair):
    """Alone: sequences that begin with 1. Pairs: replies that repeat the first token of their source."""
    rows = 512
    ids = torch.randint(3, (rows, 4), generator=rng(1))
    lengths = torch.randint(2, 5, (rows,), generator=rng(2))
    source = Source(torch.randint(3, (rows, 3), generator=rng(3)), torch.full((rows,), 3))
    label = torch.rand(rows, generator=rng(4)) < 0.5
    right = source.ids[:, 0] if pair else torch.ones(rows, dtype=torch.long)
    ids[:, 0] = torch.where(label, right, (right + torch.randint(1, 3, (rows,), generator=rng(5))) % 3)
    torch.manual_seed(0)
    judge = TransformerDiscriminator(V, **{**SIZES, "embedding": 16, "hidden": 16}, pair=pair, seed=1)
    optimizer = torch.optim.Adam(judge.parameters(), lr=0.01)
    for _ in range(60):
        for part in torch.randperm(rows // 2, generator=rng(6)).split(64):
            logit = judge(ids[part], lengths[part], source[part] if pair else None)
            optimizer.zero_grad()
            objectives.discriminator_loss(logit, label[part]).backward()
            optimizer.step()
    held = torch.arange(rows // 2, rows)
    with torch.no_grad():
        logit = judge.eval()(ids[held], lengths[held], source[held] if pair else None)
    assert ((logit > 0) == label[held]).float().mean() > 0.85


def test_the_shared_training_step_takes_it():
    judge = TransformerDiscriminator(V, **SIZES, seed=1)
    ids, lengths, _ = sides(16)
    optimizer = torch.optim.Adam(judge.parameters(), lr=0.01)
    before = discriminate.Score(judge)(ids, lengths)
    discriminate.step(judge, optimizer, (ids[:8], lengths[:8]), (ids[8:], lengths[8:]), 0.1, "fp32")
    after = discriminate.Score(judge)(ids, lengths)
    assert (after[:8] - before[:8]).mean() > (after[8:] - before[8:]).mean()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"heads": 3}, "discriminator.heads is 3, which does not divide discriminator.hidden 64"),
        ({"layers": 0}, "discriminator.layers is 0"),
        ({"dropout": 1.0}, "discriminator.dropout is 1.0"),
    ],
)
def test_sizes_that_cannot_be_are_refused(options, told):
    with pytest.raises(ValueError, match=told):
        TransformerDiscriminatorConfig(**options)


def test_seqgan_takes_it_and_its_score_sheet_knows_it(tmp_path):
    tiny = ["--discriminator", "transformer", "--discriminator.hidden", "8", "--discriminator.embedding", "8"]
    more = ["--mle.epochs", "1", "--rounds", "1", "--d_pretrain", "1", "--evaluate.samples", "64"]
    assert (
        main(["train", "seqgan", "--recipe", "seqgan-oracle-tiny", *tiny, *more, "--out", str(tmp_path / "run")]) == 0
    )
    judged = json.loads((tmp_path / "run" / "calibration.json").read_text())
    assert judged["kind"] == "TransformerDiscriminator"
    assert not judged["pairs"]
    records = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [r["phase"] for r in records if "d_loss" in r] == ["discriminator", "adversarial"]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"hidden": 8}, "discriminator.hidden is 8, but a discriminator of kind cnn has none"),
        ({"kind": "transformer", "hidden": 9}, "discriminator.heads is 4"),
    ],
)
def test_options_of_another_kind_are_refused(options, told):
    with pytest.raises(ValueError, match=told):
        DiscriminatorConfig(**options)
