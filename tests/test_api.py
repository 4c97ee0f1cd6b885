"""The same from Python, as a notebook would: load data, train, sample, score, save, load."""

import json

import pytest
import torch

from seqforge import corpora
from seqforge.cli import main
from seqforge.data.config import DataConfig
from seqforge.likelihood import log_probs
from seqforge.methods import mle, seqgan
from seqforge.metrics import nll
from seqforge.models.discriminators import CNNConfig, CNNDiscriminator
from seqforge.models.lstm import LSTMConfig, LSTMGenerator
from seqforge.run import CheckpointConfig, Run
from seqforge.sampling import Filter, sample, uniform

DATA = DataConfig(
    vocab_size=20, max_length=6, oracle_embedding=4, oracle_hidden=4, train_size=512, valid_size=64, test_size=256
)
MONITOR = mle.MonitorConfig(every=0, samples=64, lines=3)


def test_load_train_sample_score_save_load(tmp_path):
    corpus = corpora.load(DATA)
    run = Run.create(tmp_path / "run", {"method": "mle"}, seed=0, saving=CheckpointConfig())
    config = mle.MLETrainConfig(LSTMConfig(hidden=16), mle.MLEConfig(epochs=8, patience=0), MONITOR)
    generator = mle.train(config, corpus, run)

    noise = uniform((500, corpus.max_length), torch.Generator().manual_seed(1))
    drawn = sample(generator, noise)
    assert drawn.ids.shape == (500, 6)
    assert torch.allclose(log_probs(generator, drawn.ids, drawn.lengths), drawn.logp, atol=1e-5)
    lines = corpus.decode(drawn.ids, drawn.lengths)
    assert lines[0] == " ".join(str(i) for i in drawn.ids[0].tolist())

    trained = {s.name: s.value for s in nll.all_nll(generator, corpus, 500, seed=1)[0]}
    blank = LSTMGenerator(20, hidden=16).eval()
    untrained = {s.name: s.value for s in nll.all_nll(blank, corpus, 500, seed=1)[0]}
    assert set(trained) == {"nll_oracle", "nll_test", "entropy"}
    assert untrained["nll_test"] == pytest.approx(torch.tensor(20.0).log().item(), abs=0.05)  # log V
    assert trained["nll_test"] < untrained["nll_test"] - 0.2

    sharp = sample(generator, noise, Filter(temperature=0.2))
    assert sharp.logp.mean() > drawn.logp.mean()

    generator.save_pretrained(tmp_path / "saved")
    again = LSTMGenerator.from_pretrained(tmp_path / "saved").eval()
    assert torch.equal(sample(again, noise).ids, drawn.ids)
    assert again.state_dict().keys() == generator.state_dict().keys()
    assert callable(again.push_to_hub)


def test_seqgan_from_python(tmp_path):
    corpus = corpora.load(DATA)
    run = Run.create(tmp_path / "run", {"method": "seqgan"}, seed=0, saving=CheckpointConfig())
    config = seqgan.SeqGANConfig(
        LSTMConfig(hidden=8),
        CNNConfig(embedding=8, widths=[1, 2, 3], filters=[8, 8, 8]),
        mle.MLEConfig(epochs=2),
        MONITOR,
        counterpart=mle.CounterpartConfig(epochs=0),
        **{"rounds": 2, "batch": 16, "rollouts": 2, "d_pretrain": 1, "d_steps": 1, "d_epochs": 1},
    )
    generator = seqgan.train(config, corpus, run)
    assert run.step == 2 + 1 + 2
    drawn = sample(generator, uniform((4, 6), torch.Generator().manual_seed(0)))
    assert torch.isfinite(drawn.logp).all()
    final = run.folder / "checkpoints" / f"step-{run.step}"
    critic = CNNDiscriminator.from_pretrained(final / "discriminator").eval()
    assert critic(drawn.ids, drawn.lengths).shape == (4,)


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("api") / "run"
    argv = ["train", "seqgan", "--recipe", "seqgan-oracle-tiny", "--mle.epochs", "2", "--rounds", "1"]
    assert main([*argv, "--out", str(folder)]) == 0
    return folder


@pytest.mark.parametrize("which", ["pre-trained", "final"])
def test_an_exported_folder_is_what_from_pretrained_reads(which, run_folder, tmp_path, capsys):
    assert main(["export", str(run_folder), "--out", str(tmp_path / "hub"), "--checkpoint", which]) == 0
    names = {p.name for p in (tmp_path / "hub").iterdir()}
    assert names == {"config.json", "model.safetensors", "tokenizer.json", "README.md"}
    generator = LSTMGenerator.from_pretrained(tmp_path / "hub").eval()
    drawn = sample(generator, uniform((10, 6), torch.Generator().manual_seed(0)))
    from tokenizers import Tokenizer

    text = Tokenizer.from_file(str(tmp_path / "hub" / "tokenizer.json")).decode_batch(drawn.ids.tolist())
    capsys.readouterr()
    assert main(["generate", str(run_folder), "-n", "10", "--checkpoint", which]) == 0
    assert capsys.readouterr().out.splitlines() == text


def test_the_model_card_is_written_from_the_run(run_folder, tmp_path):
    assert main(["export", str(run_folder), "--out", str(tmp_path / "hub")]) == 0
    card = (tmp_path / "hub" / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: seqforge\n")
    scores = json.loads((run_folder / "scores.json").read_text())
    for s in scores["generators"][-1]["scores"]:
        shown = {1.0: "1", 0.8: "0.8 (1/T 1.25)"}[s["temperature"]]
        assert f"| {s['name']} | {shown} | {s['value']:.4f} {s['unit']} |" in card
    assert "oracle_hidden: 4" in card
    assert scores["verdict"] in card


def test_the_model_card_says_how_to_load_it_and_not_where_it_was_made(tmp_path, capsys):
    """The paths of the machine went to the hub with it."""
    data = tmp_path / "private" / "data.txt"
    data.parent.mkdir()
    data.write_text("".join(f"a line with word {k}\n" for k in range(60)))
    argv = ["train", "mle", "--data", str(data), "--generator.hidden", "4", "--mle.epochs", "1", "--monitor.every", "0"]
    argv += ["--evaluate.metrics", "bleu,novelty", "--evaluate.samples", "20", "--evaluate.temperatures", "1.0"]
    assert main([*argv, "--report", "false", "--out", str(tmp_path / "run")]) == 0
    assert main(["export", str(tmp_path / "run"), "--out", str(tmp_path / "hub")]) == 0
    card = (tmp_path / "hub" / "README.md").read_text()
    assert "source: data.txt" in card
    assert str(tmp_path) not in card
    code = card.partition("```python\n")[2].partition("```")[0]
    capsys.readouterr()
    exec(code.replace('folder = "."', f"folder = {str(tmp_path / 'hub')!r}"), {})
    drawn = capsys.readouterr().out.splitlines()
    assert len([line for line in drawn if not line.startswith("Loading weights")]) == 10
    assert main(["generate", str(tmp_path / "run"), "--checkpoint", "pre-trained"]) == 2
    assert "a run without a pre-trained generator; there are: final" in capsys.readouterr().err


def test_push_makes_the_repository_and_sends_the_folder(run_folder, tmp_path, monkeypatch):
    import huggingface_hub

    calls = []

    class Api:
        def create_repo(self, repo, exist_ok):
            calls.append(("create", repo, exist_ok))

        def upload_folder(self, repo_id, folder_path):
            calls.append(("upload", repo_id, str(folder_path)))

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    out = str(tmp_path / "hub")
    assert main(["export", str(run_folder), "--out", out, "--push", "me/model"]) == 0
    assert calls == [("create", "me/model", True), ("upload", "me/model", out)]


@pytest.mark.parametrize("error", [OSError(), RuntimeError("no connection"), ValueError("401 unauthorized")])
def test_a_push_that_fails_says_why_and_where_the_export_is(error, run_folder, tmp_path, monkeypatch, capsys):
    """Without a connection there was a traceback, without a token the advice to look to the disk."""
    import huggingface_hub

    def create_repo(*_, **__):
        raise error

    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", create_repo)
    out = str(tmp_path / "hub")
    assert main(["export", str(run_folder), "--out", out, "--push", "me/model"]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"seqforge: --push me/model: {str(error) or 'OSError'}; log in by `hf auth login`")
    assert f"`hf upload me/model {out}` sends it" in said
    assert len(said.splitlines()) == 1
