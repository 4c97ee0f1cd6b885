"""Options that would pass for something and do nothing, or stop in a word of torch's: refused by name."""

import json

import pytest
import torch

from seqforge.cli import main
from seqforge.data.config import DataConfig
from seqforge.evaluate import EvaluateConfig, verdict
from seqforge.methods.leakgan import LeakGANConfig
from seqforge.methods.mle import MLEConfig, MLETrainConfig
from seqforge.methods.seqgan import SeqGANConfig
from seqforge.sampling import Filter
from seqforge.settings import RunConfig, check_words

NAN, INFINITE = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("config", "told"),
    [
        (lambda: MLETrainConfig(mle=MLEConfig(lr=NAN)), "lr is nan"),
        (lambda: SeqGANConfig(lr=NAN), "lr is nan"),
        (lambda: SeqGANConfig(clip=INFINITE), "clip is inf"),
        (lambda: LeakGANConfig(d_l2=INFINITE), "d_l2 is inf"),
        (lambda: RunConfig(evaluate=EvaluateConfig(temperatures=[1.0, NAN])), r"temperatures is \[1.0, nan\]"),
    ],
)
def test_a_number_that_is_none_is_refused(config, told):
    """NaN is below no bound and above none."""
    with pytest.raises(ValueError, match=told + ", but must be a finite number"):
        check_words(config())


def test_the_command_line_refuses_it_too(tmp_path, capsys):
    out = tmp_path / "run"
    assert main(["train", "seqgan", "--recipe", "seqgan-oracle-tiny", "--lr", ".nan", "--out", str(out)]) == 2
    assert "lr is nan, but must be a finite number" in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize("option", [{"vocab_size": 50}, {"min_frequency": 3}, {"lowercase": True}])
def test_a_given_tokenizer_takes_no_sizes(option):
    ((name, value),) = option.items()
    with pytest.raises(ValueError, match=f"data.{name} is {value}, but own.json has its own vocabulary; leave it out"):
        DataConfig(source="x.txt", tokenizer="own.json", **option)
    DataConfig(source="x.txt", tokenizer="word", **option)


def test_when_nothing_is_left_to_draw_it_says_so():
    logits = torch.zeros(2, 3)
    assert Filter(banned=(0, 1)).probabilities(logits)[0].tolist() == [0, 0, 1]
    with pytest.raises(ValueError, match="every token is banned"):
        Filter(banned=(0, 1, 2)).probabilities(logits)


def test_a_method_without_pre_training_is_named(tmp_path, capsys):
    sizes = ["--data.vocab_size", "9", "--data.max_length", "4", "--data.train_size", "40", "--data.valid_size", "20"]
    sizes += ["--data.test_size", "20", "--generator.hidden", "4", "--mle.epochs", "1", "--monitor.samples", "8"]
    sizes += ["--evaluate.samples", "8"]
    one, two = str(tmp_path / "ss"), str(tmp_path / "pg")
    assert main(["train", "scheduled_sampling", *sizes, "--out", one]) == 0
    assert main(["train", "pg_bleu", *sizes, "--from", one, "--out", two]) == 2
    assert "its method has no pre-training to take over; give a run of mle" in capsys.readouterr().err


def test_the_verdict_names_the_stage(tmp_path):
    """PG-BLEU has no adversary."""
    sizes = ["--data.vocab_size", "9", "--data.max_length", "4", "--data.train_size", "40", "--data.valid_size", "20"]
    sizes += ["--data.test_size", "20", "--generator.hidden", "4", "--mle.epochs", "1", "--monitor.samples", "8"]
    assert (
        main(["train", "pg_bleu", *sizes, "--rounds", "1", "--evaluate.samples", "64", "--out", str(tmp_path / "pg")])
        == 0
    )
    rows = json.loads((tmp_path / "pg" / "scores.json").read_text())["generators"]
    for stage in ("policy-gradient", "adversarial"):
        said, _ = verdict(rows, stage)
        assert said is not None
        assert said.startswith(f"The {stage} stage ") or said.startswith("No verdict")
    told = json.loads((tmp_path / "pg" / "scores.json").read_text())["verdict"]
    assert "adversarial" not in told
