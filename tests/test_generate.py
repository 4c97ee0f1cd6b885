"""`seqforge generate`: prompts, lengths, distinct lines, log-probabilities, and pipes that close."""

import itertools
import json
import math
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer

from seqforge import generate
from seqforge.cli import main
from seqforge.likelihood import log_probs
from seqforge.loading import find_checkpoint, load_generator, load_tokenizer
from seqforge.models.lstm import LSTMGenerator
from seqforge.sampling import Filter

TINY = [
    "train",
    "mle",
    "--generator.hidden",
    "8",
    "--generator.embedding",
    "8",
    "--mle.epochs",
    "3",
    "--mle.batch",
    "8",
]
TINY += ["--evaluate.samples", "9", "--evaluate.temperatures", "[1.0]", "--evaluate.metrics", "[length]"]
TINY += ["--monitor.samples", "9", "--mle.lr", "0.05"]


def trained(folder: Path, name: str, content: str, *more: str) -> Path:
    (folder / f"{name}.txt").write_text(content)
    assert main([*TINY, "--data", str(folder / f"{name}.txt"), *more, "--out", str(folder / name)]) == 0
    return folder / name


def story(n: int = 60) -> str:
    draw = random.Random(0)
    parts = [("The", "A"), ("cat", "cat", "dog", "dog", "bird"), ("sees", "eats"), ("it", "you")]
    return "".join(" ".join(map(draw.choice, parts)) + draw.choice((".", ", really.")) + "\n" for _ in range(n))


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("generate")


@pytest.fixture(scope="module")
def run(home):
    """Words and punctuation; `bird` is beyond the vocabulary."""
    return trained(home, "story", story(), "--data.vocab_size", "12")


@pytest.fixture(scope="module")
def ids_run(home):
    draw = random.Random(0)
    rows = [[draw.randrange(6) for _ in range(draw.randrange(2, 6))] for _ in range(50)]
    return trained(home, "ids", "".join(" ".join(map(str, r)) + "\n" for r in [*rows, [5] * 5]))


@pytest.fixture(scope="module")
def bytes_run(home):
    return trained(home, "bytes", story().lower(), "--data.tokenizer", "bpe", "--data.vocab_size", "280")


def drawn(run: Path, capsys, *more: str, n: int = 40) -> list[str]:
    capsys.readouterr()
    assert main(["generate", str(run), "-n", str(n), *more]) == 0
    found = capsys.readouterr().out.splitlines()
    assert len(found) == n
    return found


def records(run: Path, capsys, *more: str, n: int = 40) -> list[dict]:
    return [json.loads(line) for line in drawn(run, capsys, "--json", *more, n=n)]


def refused(run: Path, capsys, *words: str, argv=()) -> None:
    before = sorted(Path().rglob("*"))
    capsys.readouterr()
    assert main(["generate", str(run), *argv]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    for word in words:
        assert word in line
    assert sorted(Path().rglob("*")) == before


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


# --- the same seed -------------------------------------------------------------------------------------------------

SETTINGS = [
    [],
    ["--prompt", "The cat"],
    ["--unique"],
    ["--temperature", "0.7", "--top-k", "5", "--min-length", "4"],
    ["--no-unk", "--max-length", "5"],
    ["--unique", "--prompt", "A"],
]


@pytest.mark.parametrize("settings", SETTINGS)
def test_the_same_seed_gives_the_same_and_few_are_the_first_of_many(settings, run, capsys):
    """Fewer distinct ones than 64 are asked for at once, and more than that in chunks."""
    whole = drawn(run, capsys, *settings, n=90)
    assert drawn(run, capsys, *settings, n=90) == whole
    assert drawn(run, capsys, *settings, n=7) == whole[:7]
    assert drawn(run, capsys, *settings, "--seed", "5", n=90) != whole


@pytest.mark.parametrize("settings", SETTINGS)
def test_rows_that_advance_together_change_nothing(settings, run, capsys, monkeypatch):
    whole = drawn(run, capsys, *settings)
    monkeypatch.setattr(generate, "chunk_rows", lambda *_: 7)
    assert drawn(run, capsys, *settings) == whole


# --- prompts -------------------------------------------------------------------------------------------------------


def test_a_prompt_is_continued(run, capsys):
    found = drawn(run, capsys, "--prompt", "The cat")
    assert all(line.startswith("The cat") for line in found)
    assert len(set(found)) > 5
    everything = [r for r in records(run, capsys, n=3000) if r["text"].startswith("The cat ")]
    after = [r["text"].split()[2] for r in everything]
    prompted = [line.split() for line in drawn(run, capsys, "--prompt", "The cat", n=3000)]
    third = [words[2] for words in prompted if len(words) > 2]
    for word in ("sees", "eats"):  # as often as after a `The cat` that the generator itself wrote
        assert third.count(word) / len(third) == pytest.approx(after.count(word) / len(after), abs=0.15)


def test_log_probabilities_are_those_of_the_tokens_after_the_prompt(run, capsys):
    folder = find_checkpoint(run)
    generator, prompt = load_generator(folder), load_tokenizer(folder).encode("The cat").ids
    for r in records(run, capsys, "--prompt", "The cat"):
        assert r["ids"][:2] == prompt
        assert len(r["logp_tokens"]) == r["tokens"] - 2 == len(r["ids"]) - 2
        exact = log_probs(generator, torch.tensor([r["ids"]]), torch.tensor([len(r["ids"])]))[0]
        assert r["logp_tokens"] == pytest.approx(exact[2:].tolist(), abs=2e-5)
        assert r["logp"] == pytest.approx(float(exact[2:].sum()), abs=1e-4)


def test_ids_as_a_prompt(ids_run, capsys):
    found = [line.split() for line in drawn(ids_run, capsys, "--prompt", "3 0")]
    assert all(words[:2] == ["3", "0"] for words in found)
    assert len({tuple(words) for words in found}) > 5


def test_bytes_as_a_prompt(bytes_run, capsys):
    assert all(line.startswith("the c") for line in drawn(bytes_run, capsys, "--prompt", "the c"))


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ("The zebra", ["--prompt", "'zebra' is not in the vocabulary"]),
        ("zebra", ["'zebra'"]),
        ("The cat <eos>", ["holds the end token <eos>", "leave it out"]),
        ("The cat " * 9, ["--prompt has 18 tokens", "shorten it"]),
    ],
)
def test_prompts_that_cannot_be_continued(prompt, words, run, capsys):
    refused(run, capsys, *words, argv=["--prompt", prompt])


@pytest.mark.parametrize(("prompt", "word"), [("3 9", "'9'"), ("cat", "'cat'"), ("1.5", "'1.5'"), ("2 <eos>", "<eos>")])
def test_prompts_that_are_no_ids(prompt, word, ids_run, capsys):
    refused(ids_run, capsys, "--prompt", word, argv=["--prompt", prompt])


def test_a_vocabulary_that_begins_with_a_zero_is_not_one_of_ids(home, capsys):
    """Such a tokenizer of one's own was taken for one of token ids, and words of several tokens were refused."""
    from tokenizers import decoders, models, pre_tokenizers

    types = {c: i for i, c in enumerate("0 abcdefghijklmnopqrstuvwxyz.,")}
    own = Tokenizer(models.BPE(types, []))
    own.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    own.decoder = decoders.Fuse()
    own.save(str(home / "own.json"))
    run = trained(home, "letters", story().lower(), "--data.tokenizer", str(home / "own.json"))
    assert all(line.startswith("the cat") for line in drawn(run, capsys, "--prompt", "the cat"))


def test_the_unknown_token_may_stand_in_a_prompt(run, capsys):
    assert all(line.startswith("The <unk>") for line in drawn(run, capsys, "--prompt", "The <unk>"))


# --- lengths -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("least", [0, 1, 2, 5, 7])
def test_least_lengths(least, run, capsys):
    """Counted with the end token."""
    found = [r["tokens"] for r in records(run, capsys, "--min-length", str(least), "--temperature", "3", n=200)]
    assert min(found) >= max(1, least)
    assert min(found) <= max(1, least) + 1  # and no longer than that


@pytest.mark.parametrize("most", [1, 3, 30])
def test_most_lengths(most, run, capsys):
    found = records(run, capsys, "--max-length", str(most), "--temperature", "2", n=200)
    assert max(r["tokens"] for r in found) == most if most < 30 else max(r["tokens"] for r in found) > 9
    for r in found:
        assert (r["ids"][-1] == 0) or len(r["ids"]) == most
        assert 0 not in r["ids"][:-1]


def test_equal_least_and_most_lengths(run, capsys):
    assert {r["tokens"] for r in records(run, capsys, "--min-length", "6", "--max-length", "6")} == {6}


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--max-length", "0"], ["--max-length 0", "max >= 1"]),
        (["--max-length", "3", "--min-length", "4"], ["--min-length is 4", "--max-length 3"]),
        (["--min-length", "-1"], ["--min-length is -1"]),
        (["--min-length", "999"], ["--min-length is 999"]),
    ],
)
def test_lengths_that_do_not_fit(argv, words, run, capsys):
    """--max-length 0 was taken for none."""
    refused(run, capsys, *words, argv=argv)


# --- distinct lines ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [3, 80, 300])
def test_distinct_lines(n, run, capsys):
    found = drawn(run, capsys, "--unique", "--temperature", "1.5", n=n)
    assert len(set(found)) == n
    plain = drawn(run, capsys, "--temperature", "1.5", n=2000)
    assert found == list(dict.fromkeys(plain))[:n]  # the same lines, those left out that came before


def test_no_further_distinct_line(run, capsys):
    argv = ["--unique", "--max-length", "1", "-n", "40", "--out", "text.txt"]
    refused(run, capsys, "--unique: only", "distinct sequences", "ask for fewer", argv=argv)
    refused(run, capsys, "--unique: only 1 distinct", argv=["--unique", "--top-k", "1", "-n", "2", "--out", "t.txt"])


# --- records -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["run", "ids_run", "bytes_run"])
def test_log_probabilities_are_teacher_forced_ones(name, request, capsys):
    folder = find_checkpoint(request.getfixturevalue(name))
    generator, tokenizer = load_generator(folder), load_tokenizer(folder)
    for r in records(request.getfixturevalue(name), capsys):
        ids = torch.tensor([r["ids"]])
        exact = log_probs(generator, ids, torch.tensor([len(r["ids"])]))[0].tolist()
        assert r["logp_tokens"] == pytest.approx(exact, abs=2e-5)
        assert r["logp"] == pytest.approx(sum(exact), abs=2e-4)
        assert r["tokens"] == len(r["ids"])
        assert r["text"] == tokenizer.decode(r["ids"])


def test_log_probabilities_at_a_temperature(run, capsys):
    generator = load_generator(find_checkpoint(run))
    for r in records(run, capsys, "--temperature", "0.5", n=9):
        ids, lengths = torch.tensor([r["ids"]]), torch.tensor([len(r["ids"])])
        assert r["logp_tokens"] == pytest.approx(log_probs(generator, ids, lengths, 0.5)[0].tolist(), abs=2e-5)
    (r,) = records(run, capsys, "--top-k", "1", n=1)
    assert r["logp"] == 0  # one token is left, so that it is certain


def test_json_lines_to_a_file(run, capsys):
    expected = drawn(run, capsys, "--json")
    assert main(["generate", str(run), "-n", "40", "--out", "a.jsonl"]) == 0
    assert Path("a.jsonl").read_text().splitlines() == expected
    assert main(["generate", str(run), "-n", "40", "--out", "a.txt"]) == 0
    assert Path("a.txt").read_text().splitlines() == [json.loads(x)["text"] for x in expected] == drawn(run, capsys)
    assert capsys.readouterr().out == ""
    assert sorted(p.name for p in Path().iterdir()) == ["a.jsonl", "a.txt"]


def test_text_is_written_as_it_is_read(home, capsys):
    """Not as \\u escapes; and one sequence a line though its text holds line ends."""
    rows = "".join(f'"né{end}à {i % 5}"\n' for i, end in zip(range(40), itertools.cycle(("\n", " "))))
    (home / "lines.csv").write_text("text\n" + rows, newline="")
    run = trained(home, "lines", "", "--data", str(home / "lines.csv"), "--data.tokenizer", "char")
    found = records(run, capsys, "--temperature", "2", n=200)
    assert any("\n" in r["text"] for r in found)
    plain = drawn(run, capsys, "--temperature", "2", n=200)
    assert plain == [" ".join(r["text"].splitlines()) for r in found]
    assert any("é" in line for line in drawn(run, capsys, "--json", "--temperature", "2"))


# --- the unknown token ---------------------------------------------------------------------------------------------


def test_never_the_unknown_token(run, capsys):
    plain = drawn(run, capsys, "--temperature", "2", n=400)
    assert any("<unk>" in line for line in plain)
    assert not any("<unk>" in line for line in drawn(run, capsys, "--temperature", "2", "--no-unk", n=400))


def test_never_the_unknown_token_of_ones_own_tokenizer(home, capsys):
    """It went by another name than <unk>, and was drawn all the same."""
    from tokenizers import models, pre_tokenizers

    own = Tokenizer(models.WordLevel({"[UNK]": 0, "The": 1, "A": 2, "sees": 3}, unk_token="[UNK]"))
    own.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    own.save(str(home / "words.json"))
    run = trained(home, "words", story(), "--data.tokenizer", str(home / "words.json"))
    assert any("[UNK]" in line for line in drawn(run, capsys))
    assert not any("[UNK]" in line for line in drawn(run, capsys, "--no-unk"))
    refused(run, capsys, "'zebra' is not in the vocabulary", argv=["--prompt", "The zebra"])


def test_ids_have_no_unknown_token(ids_run, bytes_run, capsys):
    for run in (ids_run, bytes_run):
        assert drawn(run, capsys, "--no-unk") == drawn(run, capsys)


# --- pipes ---------------------------------------------------------------------------------------------------------


def test_a_pipe_that_closes_ends_it_in_peace(run):
    """Where all lines fitted the buffer, Python itself complained of the pipe as it ended, with exit code 120."""
    argv = [sys.executable, "-m", "seqforge.cli", "generate", str(run), "-n"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "cwd": Path(__file__).parents[1]}
    pipes["env"] = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}
    few, many = (subprocess.Popen([*argv, n], **pipes) for n in ("3", "30000"))
    few.stdout.close()  # before anything is written
    assert many.stdout.readline().strip()
    many.stdout.close()
    for process in (few, many):
        assert (process.stderr.read(), process.wait()) == (b"", 0)


def test_any_number_is_a_stream(run, capsys):
    """The first come before the last are drawn."""
    folder = find_checkpoint(run)
    many = generate.generate(load_generator(folder), load_tokenizer(folder), 10**12, 9, Filter(), 0)
    first = [one.text for one in itertools.islice(many, 5)]
    assert first == drawn(run, capsys, "--max-length", "9", n=5)


def test_by_hand_from_python():
    """A generator that is certain of its next token but for the end."""
    generator = LSTMGenerator(vocab_size=3, embedding=2, hidden=2, eos_id=0, start_id=0)
    with torch.no_grad():
        for p in generator.parameters():
            p.zero_()
        generator.head.bias.copy_(torch.tensor([math.log(0.5), -torch.inf, math.log(0.5)]))
    tokenizer = Tokenizer.from_str(json.dumps(PLAIN))
    found = list(generate.generate(generator, tokenizer, 500, 3, Filter(), 0))
    assert {one.text for one in found} == {"", "b", "b b", "b b b"}
    for one in found:
        assert one.logp == pytest.approx([math.log(0.5)] * len(one.ids))
    assert sum(one.text == "" for one in found) / 500 == pytest.approx(0.5, abs=0.07)
    longer = list(generate.generate(generator, tokenizer, 9, 3, Filter(min_length=3), 0, prompt=[2]))
    assert {tuple(one.ids) for one in longer} == {(2, 2, 0), (2, 2, 2)}
    with pytest.raises(ValueError, match="only 4 distinct sequences"):
        list(generate.generate(generator, tokenizer, 5, 3, Filter(), 0, unique=True))


PLAIN = {
    "version": "1.0",
    "model": {"type": "WordLevel", "vocab": {"<eos>": 0, "a": 1, "b": 2}, "unk_token": "a"},
    "added_tokens": [
        {
            "id": 0,
            "content": "<eos>",
            "special": True,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
        }
    ],
}
