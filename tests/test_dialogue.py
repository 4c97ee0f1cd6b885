"""The dialogue method: its adversarial gradient against enumeration, its stages, and that what it trains on is real."""

import json
import math

import numpy as np
import pytest
import torch
import yaml
from nltk.translate.bleu_score import corpus_bleu
from worlds import every_sequence, far, gradients, rng

from seqforge import checkpoint, corpora, discriminate, evaluate, rewards, verdict
from seqforge import judge as fresh
from seqforge.cli import main
from seqforge.data.config import DataConfig
from seqforge.data.corpus import Split
from seqforge.likelihood import log_probs, sequence_nll
from seqforge.methods import dialogue
from seqforge.methods.dialogue import DialogueConfig, adversarial_loss
from seqforge.metrics import nll, replies
from seqforge.models.transformer import Source, TransformerGenerator
from seqforge.models.transformer_discriminator import TransformerDiscriminator
from seqforge.sampling import Samples, mask_of, sample, uniform

SOURCE = [[1, 2, 0], [2, 0, 0]]


@pytest.fixture
def world():
    """V=3, T=3: a generator, a judge of pairs, and every reply to each of two sources."""
    sizes = {"embedding": 4, "hidden": 4, "layers": 2, "heads": 2, "dropout": 0.0}
    generator = TransformerGenerator(3, **sizes, encoder=True, eos_id=2, seed=1).double().eval()
    generator.head.weight.data.mul_(2)
    judge = TransformerDiscriminator(3, **sizes, pair=True, seed=2).double().eval()
    judge.out.weight.data.mul_(5)
    ids, lengths = every_sequence(3, 3, eos_id=2)
    n = len(ids)
    source = Source(torch.tensor(SOURCE).repeat_interleave(n, 0), torch.tensor([3, 2]).repeat_interleave(n))
    return generator, judge, ids.repeat(2, 1), lengths.repeat(2), source


def enumerated(generator, reward, ids, lengths, source):
    """Gradient of -E[reward], the mean over the two sources of a sum over all replies."""
    logp = log_probs(generator, ids, lengths, context=source).sum(1)
    assert logp.exp().sum().item() == pytest.approx(2, abs=1e-12)
    return gradients(-(logp.exp() * reward).sum() / 2, generator)


@pytest.mark.parametrize("options", [{}, {"value": "log"}, {"adversary": "penalty"}])
@pytest.mark.parametrize("baseline", [0.0, 0.4])
def test_without_cross_entropy_the_gradient_is_the_enumerated_one(world, options, baseline):
    """The estimator's mean over all replies, each by its probability; a constant baseline leaves it as it is."""
    generator, judge, ids, lengths, source = world
    p_real = discriminate.Score(judge)
    score = dialogue.verdict(lambda *batch: p_real(*batch).double(), DialogueConfig(**options))
    reward = score(ids, lengths, source)
    truth = enumerated(generator, reward, ids, lengths, source)
    assert max(float(g.abs().max()) for g in truth.values()) > 1e-3
    p = log_probs(generator, ids, lengths, context=source).sum(1).exp().detach()
    mean: dict[str, torch.Tensor] = {}
    for row in range(len(ids)):
        one = torch.tensor([row])
        drawn = Samples(ids[one], lengths[one], torch.zeros(1, 3))
        judged = rewards.ByRow(score, source[one])
        q = rewards.rollout_q(generator, drawn, [], judged, torch.zeros(1, 2, 0, 3)) - baseline
        loss = adversarial_loss(generator, drawn, q * mask_of(drawn.lengths, 3), source[one], "none")
        for name, g in gradients(loss * lengths[row], generator).items():  # `mean` divides by the tokens
            mean[name] = mean.get(name, 0) + p[row] / 2 * g
    assert far(mean, truth) <= 1e-6
    wrong = enumerated(generator, reward.flip(0), ids, lengths, source)
    assert far(wrong, truth) > 1e-3


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_step_follows_the_rewards_sign(world, sign):
    generator, _, _, _, source = world
    asked = source[torch.zeros(64, dtype=torch.long)]
    drawn = sample(generator, uniform((64, 3), rng(3)), context=asked)
    liked = (drawn.ids[:, 0] == 1).double()
    q = sign * liked[:, None] * mask_of(drawn.lengths, 3)
    before = -sequence_nll(generator, torch.tensor([[1, 2, 0]]), torch.tensor([2]), context=source[torch.tensor([0])])
    loss = adversarial_loss(generator, drawn, q, asked, "step")
    optimizer = torch.optim.SGD(generator.parameters(), lr=0.1)
    loss.backward()
    assert sum(float(p.grad.abs().sum()) for p in generator.parameters() if p.grad is not None) > 0
    optimizer.step()
    after = -sequence_nll(generator, torch.tensor([[1, 2, 0]]), torch.tensor([2]), context=source[torch.tensor([0])])
    assert (after[0, 0] - before[0, 0]) * sign > 0


def test_rollouts_are_judged_beside_their_own_source(world):
    """A judge that knows the source alone: whatever is drawn, the value is that of the row."""
    generator, _, _, _, source = world
    asked = source[torch.tensor([0, 20, 1, 25])]
    samples, trail = rewards.sample_with_trail(generator, uniform((4, 3), rng(1)), context=asked)
    judge = rewards.ByRow(lambda ids, lengths, s: s.ids[:, 0].double(), asked)
    q = rewards.rollout_q(generator, samples, trail, judge, uniform((4, 2, 5, 3), rng(2)))
    assert torch.allclose(q.double(), asked.ids[:, :1].double() * mask_of(samples.lengths, 3))


def test_samples_answer_their_own_source_however_they_are_cut_into_chunks(world):
    generator, _, _, _, source = world
    asked = source[torch.randint(len(source), (50,), generator=rng(1))]
    noise = uniform((50, 3), rng(2))
    whole = sample(generator, noise, context=asked)
    for rows in (1, 7):
        cut = sample(generator, noise, rows=rows, context=asked)
        assert torch.equal(cut.ids, whole.ids)
    nll = sequence_nll(generator, whole.ids, whole.lengths, context=asked)
    assert torch.allclose(-nll.float(), whole.logp.float(), atol=1e-5)
    parts = sequence_nll(generator, whole.ids, whole.lengths, rows=256, context=asked)
    assert torch.allclose(parts, nll, atol=1e-12)


# --- whole runs ---------------------------------------------------------------------------------------------------

TINY = ["train", "dialogue", "--recipe", "dialogue-tiny", "--data.train_size", "200", "--evaluate.samples", "60"]


def records(folder, phase):
    read = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [r for r in read if r["phase"] == phase and r["kind"] == "train"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dialogue") / "run"
    assert main([*TINY, "--out", str(folder)]) == 0
    return folder


def test_all_stages_leave_what_they_say(run):
    mle = [r["nll_valid"] for r in records(run, "mle")]
    assert mle[-1] < mle[0]
    assert len(records(run, "discriminator")) == 2
    rounds = [r for r in records(run, "adversarial") if "reward_mean" in r]
    assert len(rounds) == 3
    assert all(r["gradient_norm"] > 0 for r in rounds)
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["data"]["condition"] == "turns"
    made = [json.loads(line) for line in (run / "generated.jsonl").read_text().splitlines()]
    assert len(made) == 200
    real = corpora.load(DataConfig(**{**config["data"]}))
    assert [m["completion"] for m in made] == real.decode(real.train.ids, real.train.lengths)
    assert len({m["generated"] for m in made}) > 5
    fake = dialogue.read_generated(run / "generated.jsonl", real)
    assert real.decode(fake.ids, fake.lengths)[:50] == [m["generated"] for m in made][:50]


def test_the_scores_hold_replies_to_what_they_answer(run):
    scores = json.loads((run / "scores.json").read_text())["generators"][-1]["scores"]
    found = {s["name"]: s for s in scores if s["temperature"] == 1.0}
    assert {"right", "copied", "generic", "nll_test", "distinct2", "reply_bleu4", "bleu4", "d_accuracy"} <= found.keys()
    assert found["perplexity"]["value"] == pytest.approx(math.exp(found["nll_test"]["value"]), rel=1e-9)
    before, *_ = json.loads((run / "scores.json").read_text())["generators"]
    assert before["name"] == "pre-trained"
    assert "d_accuracy" in {s["name"] for s in before["scores"]}
    (real,) = json.loads((run / "scores.json").read_text())["references"]
    assert {s["name"]: s["value"] for s in real["scores"]}["right"] == 1.0
    draws = verdict.load_draws(run / verdict.FILE, "final")  # of the frontier of right replies over NLL_test
    for s in scores:
        if s["name"] in ("right", "nll_test"):
            assert abs(draws[s["name"], s["temperature"]].mean() - s["value"]) < 0.05
    assert all(f["interval"][0] <= f["value"] <= f["interval"][1] for k, f in found.items() if k in ("right", "copied"))


@pytest.mark.parametrize(("wrong", "share"), [(0, 1.0), (25, 0.75), (100, 0.0)])
def test_right_answers_are_counted_against_their_own_conversation(wrong, share):
    config = DataConfig(source="dialogues", condition="turns", train_size=40, valid_size=20, test_size=100)
    corpus = corpora.load(config)
    ids, lengths = corpus.test.ids.clone(), corpus.test.lengths.clone()
    ids[:wrong, 0], lengths[:wrong] = corpus.eos_id, 1  # nothing said
    assert len(nll.asked(corpus, 5000)) == 100  # each source once
    scores = evaluate.reply_scores(Split(ids, lengths, corpus.test.source), corpus, {}, 1.0, 1)
    assert scores[0].name == "right"
    assert scores[0].value == share


def test_a_fresh_judge_tells_what_there_is_to_tell(monkeypatch):
    """The same replies on both sides: one half, exactly. Replies cut short: nearly all."""
    monkeypatch.setattr(fresh, "STEPS", 40)
    config = DataConfig(source="dialogues", condition="turns", train_size=40, valid_size=20, test_size=200)
    real = corpora.load(config).test
    assert fresh.told_apart(*fresh.halves(real, real), 60, 1).tolist() == [0.5] * 100
    short = Split(real.ids, torch.ones_like(real.lengths), real.source)
    (score,) = fresh.judged("fresh_judge", *fresh.halves(real, short), 60, {}, 1.0, 1)
    assert score.value > 0.9
    assert score.interval[0] <= score.value <= score.interval[1]
    assert fresh.judged("fresh_judge", *fresh.halves(real[slice(198)], short), 60, {}, 1.0, 1) == []


def test_shuffled_pairs_are_the_same_replies_to_other_sources():
    order = torch.arange(50)
    asked = Split(order[:, None], torch.ones(50, dtype=torch.long))
    real = Split(order[:, None], torch.ones(50, dtype=torch.long), asked)
    dealt = fresh.shuffled(real, 1)
    assert sorted(dealt.ids[:, 0].tolist()) == order.tolist()
    assert not (dealt.ids[:, 0] == order).any()
    assert torch.equal(dealt.source.ids, asked.ids)


@pytest.mark.parametrize("order", [2, 4])
def test_reply_bleu_is_nltks_corpus_bleu(order):
    draw = rng(5)
    references = [[torch.randint(4, (n,), generator=draw).tolist() for n in (6, 9)[: 1 + k % 2]] for k in range(40)]
    said = [torch.randint(4, (5 + k % 5,), generator=draw).tolist() for k in range(40)]
    rows = replies.bleu_rows(said, references, 4)
    weights = torch.randint(3, (40,), generator=draw).numpy()
    for each in (np.ones(40, int), weights):
        doubled = [k for k in range(40) for _ in range(each[k])]
        truth = corpus_bleu([references[k] for k in doubled], [said[k] for k in doubled], (1 / order,) * order)
        assert replies.corpus_bleu(rows, each, order) == pytest.approx(truth, rel=1e-9)
    own = replies.reply_bleu([r[0] for r in references], references, {}, 1.0)
    assert [s.value for s in own] == [1.0, 1.0]
    assert replies.corpus_bleu(replies.bleu_rows([[9, 9]], [[[1, 2]]], 2), np.ones(1, int), 2) == 0.0
    assert replies.bleu_rows([[7]], [[[7, 8], [7, 7, 7]]], 2).tolist() == [[1, 0, 1, 0, 1, 2]]  # no pair in one token
    assert replies.corpus_bleu(replies.bleu_rows([[]], [[[1, 2]]], 2), np.ones(1, int), 2) == 0.0


def test_copied_and_generic_by_hand():
    sources = [["how are you ?"], ["how are you ?"], ["a b c d"], ["yes"]]
    assert replies.copied(["how are you ?", "are you", "b c d", "yes"], sources).tolist() == [True, False, True, True]
    assert replies.copied(["c d e", "ow are you", "", "no"], sources).tolist() == [False] * 4
    two = [["one two", "three four five"]] * 4
    assert replies.copied(["one two", "three four five", "two three four", "four five"], two).tolist() == [
        True,
        True,
        False,
        False,
    ]
    assert replies.generic(["a"] * 3 + [str(i) for i in range(97)]).tolist() == [True] * 3 + [False] * 97
    assert not replies.generic(["a"] * 2 + [str(i) for i in range(98)]).any()


@pytest.mark.slow
def test_stages_one_by_one_end_where_one_run_ends(run, tmp_path):
    """Each takes over the one before, and does nothing twice."""
    last = None
    for stage in dialogue.STAGES:
        folder = tmp_path / stage
        start = ["--from", str(last)] if last else []
        assert main([*TINY, "--stage", stage, *start, "--out", str(folder)]) == 0
        phases = [phase for phase in ("mle", "discriminator", "adversarial") if records(folder, phase)]
        assert phases == {
            "pretrain-generator": ["mle"],
            "generate": [],
            "pretrain-discriminator": ["discriminator"],
        }.get(stage, ["adversarial"])
        assert (folder / "generated.jsonl").is_file() == (stage != "pretrain-generator")
        last = folder
    assert (last / "generated.jsonl").read_bytes() == (run / "generated.jsonl").read_bytes()
    for tag, before in (("pre-trained", tmp_path / "pretrain-discriminator"), ("final", last)):
        ends = [checkpoint.newest(f / "checkpoints", tag=tag) for f in (before, run)]
        for name in ("generator", "discriminator"):
            a, b = ((e / name / "model.safetensors").read_bytes() for e in ends)
            assert a == b


def test_the_generated_file_is_taken_over_not_written_again(run, tmp_path, capsys):
    """Its discriminator learns from what RUN's generator answered, also where someone has mended that by hand."""
    first, second = tmp_path / "first", tmp_path / "second"
    assert main([*TINY, "--stage", "generate", "--out", str(first)]) == 0
    file = first / "generated.jsonl"
    mended = [json.loads(line) | {"generated": "mended"} for line in file.read_text().splitlines()]
    file.write_text("".join(json.dumps(row) + "\n" for row in mended))
    more = ["--stage", "pretrain-discriminator", "--decode", "greedy", "--from", str(first)]
    assert main([*TINY, *more, "--out", str(second)]) == 0
    assert (second / "generated.jsonl").read_bytes() == file.read_bytes()
    assert "decode greedy: the replies of" in capsys.readouterr().err
    file.write_text("".join(json.dumps(row) + "\n" for row in mended[:-1]))
    assert main([*TINY, *more, "--out", str(tmp_path / "third")]) == 2
    assert f"{file}: 199 replies to 200 sources; remove it" in " ".join(capsys.readouterr().err.split())


SLOW = [pytest.param(reward, marks=pytest.mark.slow) for reward in ("random", "frozen")]


@pytest.mark.parametrize("reward", ["constant", "shuffled", *SLOW])
def test_null_controls(reward, run, tmp_path):
    more = ["--reward", reward, "--rounds", "2", "--rollouts", "0", "--baseline", "none", "--adversary", "reward"]
    assert main([*TINY, "--from", str(run), *more, "--out", str(tmp_path / "run")]) == 0
    trained = [r for r in records(tmp_path / "run", "adversarial") if "d_loss" in r]
    assert len(trained) == (2 if reward == "shuffled" else 0)
    scores = json.loads((tmp_path / "run" / "scores.json").read_text())["generators"][-1]["scores"]
    assert "d_accuracy" in {s["name"] for s in scores}  # of the one taken over
    if reward == "constant":
        assert {r["reward_mean"] for r in records(tmp_path / "run", "adversarial")} == {0.5}


def test_classes_as_the_source(tmp_path, capsys):
    """`--condition label`: what is drawn for a class is of that class."""
    path = tmp_path / "texts.jsonl"
    words = {"good": "nice fine great", "bad": "poor awful sad"}
    rows = [
        {"label": k, "text": f"{v.split()[i % 3]} {v.split()[i // 3 % 3]}"} for i in range(90) for k, v in words.items()
    ]
    path.write_text("\n".join(json.dumps({**r, "text": f"{r['text']} {i % 7}"}) for i, r in enumerate(rows)))
    argv = [*TINY[:4], "--data", str(path), "--condition", "label", "--data.tokenizer", "word", "--mle.epochs", "12"]
    assert main([*argv, "--stage", "generate", "--out", str(tmp_path / "run")]) == 0
    made = [json.loads(line) for line in (tmp_path / "run" / "generated.jsonl").read_text().splitlines()]
    fits = [m["generated"].split()[:1][0] in words[m["prompt"]] for m in made if m["generated"]]
    assert sum(fits) / len(fits) > 0.8
    (tmp_path / "labels.txt").write_text("good\nterrible\n")
    assert main(["chat", str(tmp_path / "run"), "--prompts", str(tmp_path / "labels.txt")]) == 2
    said = capsys.readouterr()
    assert said.out.splitlines()[-1].startswith("good\t")
    assert "labels.txt:2: run has no label 'terrible'; its labels: bad, good" in said.err
    draw = ["generate", str(tmp_path / "run"), "-n", "20"]
    assert main([*draw, "--label", "good"]) == 0
    drawn = capsys.readouterr().out.splitlines()
    assert len(drawn) == 20
    assert sum(line.split()[:1] == [w] for line in drawn for w in words["good"].split()) > 14
    for more, told in (([], "name a label: --label"), (["--label", "x"], "its labels: bad, good")):
        assert main([*draw, *more]) == 2
        assert told in capsys.readouterr().err
    assert main([*draw, "--label", "good", "--prompt", "nice"]) == 2
    assert "--prompt: does not go with --label" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--adversary", "penalty", "--rollouts", "2"], "adversary penalty is -log D of whole replies"),
        (["--rounds", "-1"], "rounds is -1"),
        (["--data", "oracle"], "oracle has no dialogues"),
        (["--stage", "nix"], "stage"),
        (["--reward", "constant", "--teacher", "0", "--baseline", "step"], "leaves no gradient"),
    ],
)
def test_settings_that_cannot_be_are_refused(more, told, tmp_path, capsys):
    assert main([*TINY, *more, "--out", str(tmp_path / "run")]) == 2
    assert told in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_other_methods_take_no_pairs(tmp_path, capsys):
    argv = ["train", "mle", "--data", "demo", "--data.condition", "turns", "--out", str(tmp_path / "run")]
    assert main(argv) == 2
    assert "mle answers nothing; use `train dialogue`" in capsys.readouterr().err


def test_a_generated_file_of_other_data_is_refused(run, tmp_path):
    config = yaml.safe_load((run / "config.yaml").read_text())
    corpus = corpora.load(DataConfig(**{**config["data"], "train_size": 100}))
    with pytest.raises(ValueError, match="200 replies to 100 sources; remove it"):
        dialogue.read_generated(run / "generated.jsonl", corpus)
    (tmp_path / "bad.jsonl").write_text("{}\n")
    with pytest.raises(ValueError, match=r"bad\.jsonl: not readable"):
        dialogue.read_generated(tmp_path / "bad.jsonl", corpus)


def test_a_generated_reply_may_hold_what_unicode_calls_a_line_end(run, tmp_path):
    """Byte pairs write any character. JSON leaves these as they are, and the file was cut within a record."""
    corpus = corpora.load(DataConfig(**yaml.safe_load((run / "config.yaml").read_text())["data"]))
    texts = ["tom\u2028tom", "tom\x85", *["tom"] * (len(corpus.train) - 2)]
    rows = [json.dumps({"generated": text}, ensure_ascii=False) for text in texts]
    (tmp_path / "made.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    assert len(dialogue.read_generated(tmp_path / "made.jsonl", corpus)) == len(corpus.train)


def test_pairs_in_a_discriminators_step_keep_their_sources():
    """Real and fake rows answer other sources: swapped, the step is another."""

    def made():
        judge = TransformerDiscriminator(5, embedding=4, hidden=4, heads=2, dropout=0.0, pair=True, seed=1)
        return judge, torch.optim.SGD(judge.parameters(), lr=0.1)

    ids, lengths = torch.randint(5, (8, 3), generator=rng(1)), torch.full((8,), 3)
    a, b = (Split(torch.randint(5, (8, 2), generator=rng(k)), torch.full((8,), 2)) for k in (2, 3))
    losses = []
    for first, second in ((a, b), (b, a)):
        judge, optimizer = made()
        stats = discriminate.step(judge, optimizer, (ids, lengths, first), (ids, lengths, second), 0.0, "fp32")
        losses.append(float(stats[0]))
        logit = torch.cat([made()[0](ids, lengths, first), -made()[0](ids, lengths, second)])
        assert losses[-1] == pytest.approx(float(torch.nn.functional.softplus(-logit).mean().detach()), abs=1e-6)
    assert losses[0] != losses[1]
