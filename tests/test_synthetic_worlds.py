"""agreement, copying, brackets: probabilities of all sequences, the entropy, and what the rule allows."""

import itertools
import math

import pytest
import torch

from seqforge import corpora
from seqforge.cli import main
from seqforge.data.config import DataConfig
from seqforge.likelihood import sequence_nll
from seqforge.sampling import sample, uniform
from seqforge.worlds import KINDS, NOISE, World, WorldState, zipf

SMALL = [("copying", 2, 3, 5), ("copying", 1, 3, 4), ("brackets", 2, 4, 6), ("brackets", 1, 2, 4)]


def nll(world: World, ids: torch.Tensor) -> torch.Tensor:
    """(B,) nats a sequence."""
    lengths = torch.full((len(ids),), ids.shape[1])
    return sequence_nll(world, ids, lengths).double().sum(1)


def everything(world: World) -> torch.Tensor:
    return torch.tensor(list(itertools.product(range(world.vocab_size), repeat=world.length)))


@pytest.mark.parametrize(("name", "reach", "size", "length"), SMALL)
def test_probabilities_of_all_sequences_sum_to_one(name, reach, size, length):
    world = World(name, reach, size, length)
    ids = everything(world)
    logp = -nll(world, ids)
    assert float(logp.exp().sum()) == pytest.approx(1, abs=1e-5)
    right = world.well_formed(ids)
    kept = (1 - NOISE + NOISE / size) ** length  # no token of a sequence that the rule forbids is likelier
    assert 0 < int(right.sum()) < len(ids)
    assert float(logp[right].exp().sum()) > kept - 1e-6
    # the rarest sequence that is right is likelier than any that is wrong twice
    assert float(logp[right].min()) > float(logp[world.allowed(ids).sum(1) <= length - 2].max())


def test_what_is_right_is_known_by_hand():
    brackets = World("brackets", 2, 4, 6)
    written = {"(0 0) (1 1) (0 0)": True, "(0 (1 1) 0) (1 1)": True, "(0 (1 0) 1) (0 0)": False}
    written |= {"(0 0) (1 1) (0 (0": False, "(0 (0 (0 0) 0) 0)": False, "0) (0 0) (0 0) (0": False}
    vocabulary = {w: i for i, w in enumerate(brackets.rule.words)}
    ids = torch.tensor([[vocabulary[w] for w in text.split()] for text in written])
    assert brackets.well_formed(ids).tolist() == list(written.values())
    copying = World("copying", 2, 5, 7)
    ids = torch.tensor([[3, 1, 3, 1, 0, 0, 0], [3, 1, 3, 2, 0, 0, 0], [0, 1, 1, 0, 2, 2, 2]])
    assert copying.allowed(ids).all(1).tolist() == [True, False, False]
    assert copying.allowed(ids)[2].tolist() == [True, True, False, False, True, True, True]
    agreement, k = World("agreement", 3, 2 * KINDS + 4, 8), KINDS
    f = 2 * k
    ids = torch.tensor([[5, f, f, k + 5, 0, f, f, k], [5, f, f, k + 4, 0, f, f, k], [5, f, k + 5, f, 0, f, f, k]])
    assert agreement.allowed(ids).all(1).tolist() == [True, False, False]


def test_a_probability_by_hand():
    """copying, V 3: Zipf's weights are 6/11, 3/11, 2/11; the second letter is the first again."""
    world = World("copying", 1, 3, 2)
    p = {(0, 0): ((1 - NOISE) * 6 / 11 + NOISE / 3) * (1 - NOISE + NOISE / 3)}
    p[2, 1] = ((1 - NOISE) * 2 / 11 + NOISE / 3) * NOISE / 3
    found = nll(world, torch.tensor(list(p)))
    assert found.tolist() == pytest.approx([-math.log(v) for v in p.values()], abs=1e-5)
    assert zipf(3).tolist() == pytest.approx([6 / 11, 3 / 11, 2 / 11])


@pytest.mark.parametrize("name", ["agreement", "copying", "brackets"])
def test_samples_are_as_probable_as_they_should_be(name):
    world = World(name, 4)
    drawn = sample(world, uniform((4000, world.length), torch.Generator().manual_seed(1)))
    own = nll(world, drawn.ids)
    assert torch.allclose(own, -drawn.logp.double().sum(1), atol=1e-3)
    first, state = world.start(len(drawn.ids))
    later, _ = world.extend(drawn.ids[:, :-1], state)
    p = torch.cat([first[:, None], later], dim=1).exp()
    possible = (p > NOISE / world.vocab_size * 1.001).double().mean()  # share of even draws that are right
    wrong = 1 - world.allowed(drawn.ids).double().mean()
    expected = NOISE * (1 - possible)
    assert abs(wrong - expected) < 4 * (expected / drawn.ids.numel()) ** 0.5 < 0.2 * expected
    for step in range(world.length):  # read in one go or token by token, from old states too
        if step == 0:
            logits, state = world.start(len(drawn.ids))
            whole = world.extend(drawn.ids[:, :-1], state)[0]
        else:
            old = state
            logits, state = world.extend(drawn.ids[:, step - 1 : step], old)
            assert torch.equal(logits[:, 0], whole[:, step - 1])
            assert torch.equal(world.extend(drawn.ids[:, step - 1 : step], old)[0], logits)


def test_rows_at_different_positions_stand_side_by_side():
    world = World("brackets", 3)
    ids = sample(world, uniform((6, world.length), torch.Generator().manual_seed(2))).ids
    _, start = world.start(6)
    lengths = torch.tensor([0, 3, 5, 1, 7, 4])
    ragged = world.extend(ids[:, :7], start, lengths)[1]
    alone = start.select(torch.tensor([0]))
    together = WorldState.cat([world.extend(ids[r : r + 1, :n], alone)[1] for r, n in enumerate(lengths.tolist())])
    assert torch.equal(ragged.memory, together.memory)
    assert torch.equal(ragged.position, lengths)
    assert torch.equal(world.extend(ids[:, 7:8], ragged)[0], world.extend(ids[:, 7:8], together)[0])
    assert torch.equal(ragged.select(torch.tensor([4, 4])).memory, ragged.memory[[4, 4]])


def test_a_run_in_a_world_knows_its_truth(tmp_path, capsys):
    more = ["--data.reach", "2", "--data.train_size", "300", "--data.valid_size", "100", "--data.test_size", "200"]
    more += ["--mle.epochs", "2", "--evaluate.samples", "200", "--evaluate.temperatures", "[1.0,0.8]"]
    assert main(["train", "mle", "--data", "copying", *more, "--out", str(tmp_path / "run")]) == 0
    said = capsys.readouterr().out
    assert "nll_oracle" in said
    assert "grammatical" in said
    assert main(["generate", str(tmp_path / "run"), "-n", "2", "--seed", "1"]) == 0
    assert all(set(line.split()) <= {f"w{i}" for i in range(20)} for line in capsys.readouterr().out.splitlines())


def test_a_corpus_is_drawn_by_its_seed():
    sizes = {"train_size": 50, "valid_size": 20, "test_size": 30}
    first, again, other = (corpora.load(DataConfig(source="brackets", seed=s, **sizes)) for s in (0, 0, 1))
    assert torch.equal(first.train.ids, again.train.ids)
    assert not torch.equal(first.train.ids, other.train.ids)
    assert first.source == "brackets:reach4:v20:t24:seed0"
    assert first.decode(torch.tensor([[0, 2, 3, 1]]), torch.tensor([4])) == ["(0 (1 1) 0)"]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--data", "agreement", "--data.reach", "24"], "agreement of reach 24"),
        (["--data", "agreement", "--data.vocab_size", "16"], "above 16"),
        (["--data", "copying", "--data.reach", "0"], "data.reach is 0"),
        (["--data", "brackets", "--data.max_length", "7"], "even data.max_length"),
        (["--data", "bracket"], "no such file"),
    ],
)
def test_sizes_that_a_rule_cannot_fill(options, told, tmp_path, capsys):
    assert main(["train", "mle", *options, "--out", str(tmp_path / "run")]) == 2
    assert told in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
