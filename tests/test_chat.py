"""`seqforge chat`: replies by three ways of decoding, files of prompts, and a conversation through a terminal."""

import fcntl
import json
import os
import pty
import select
import signal
import subprocess
import sys
import termios
import threading
import time

import pytest
import torch
from worlds import every_sequence

from seqforge.chat import Answering, Speaker, beam_search
from seqforge.cli import main
from seqforge.cli_chat import Talk, answer_file, one_line, read_line
from seqforge.likelihood import log_probs
from seqforge.models.transformer import Source, TransformerGenerator


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("chat") / "run"
    more = ["--data.train_size", "400", "--mle.epochs", "6", "--rounds", "1", "--evaluate.samples", "20"]
    assert main(["train", "dialogue", "--recipe", "dialogue-tiny", *more, "--out", str(folder)]) == 0
    return folder


def prompts(tmp_path, text):
    (tmp_path / "prompts.txt").write_text(text, encoding="utf-8", errors="surrogateescape")
    return ["--prompts", str(tmp_path / "prompts.txt")]


@pytest.mark.parametrize("decode", ["greedy", "sample", "beam"])
def test_a_file_of_prompts(decode, run, tmp_path, capsys):
    argv = ["chat", str(run), *prompts(tmp_path, "it is called tom .\nwhat colour is it ?\n"), "--decode", decode]
    printed = []
    for _ in range(2):
        assert main([*argv, "--compare", "pretrained"]) == 0
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1]
    rows = [line.split("\t") for line in printed[0].splitlines()]
    assert [row[0] for row in rows] == ["it is called tom .", "what colour is it ?"]
    assert all(len(row) == 3 for row in rows)
    assert rows[1][1].startswith("it is") or decode == "sample"


def test_byte_pairs_have_every_character_yet_a_prompt_of_unseen_ones_is_refused(tmp_path):
    rows = [
        {"messages": [{"role": "u", "content": f"what is {i}"}, {"role": "a", "content": f"{i}"}]} for i in range(80)
    ]
    (tmp_path / "talk.jsonl").write_text("\n".join(map(json.dumps, rows)))
    small = ["--recipe", "dialogue-tiny", "--data", str(tmp_path / "talk.jsonl"), "--data.tokenizer", "bpe"]
    out = ["--stage", "pretrain-generator", "--evaluate.samples", "8", "--out", str(tmp_path / "run")]
    assert main(["train", "dialogue", *small, *out]) == 0
    speaker = Speaker.of(tmp_path / "run")
    assert speaker.reply(["what is 7"], Answering("greedy"), torch.Generator()) is not None
    for strange in ("日本語", "§ §", "😀"):
        with pytest.raises(ValueError, match="run knows no word of"):
            speaker.source([strange])


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("hello tom !\n\n", "prompts.txt:2: an empty prompt; remove the line"),
        ("xyzzy qwerty\n", "prompts.txt:1: run knows no word of"),
        ("hello \udcff !\n", "prompts.txt:1: 0xff at byte 7 of the line is not UTF-8; convert the file"),
    ],
)
def test_what_cannot_be_answered_is_named(text, told, run, tmp_path, capsys):
    assert main(["chat", str(run), *prompts(tmp_path, text)]) == 2
    assert told in capsys.readouterr().err


def test_prompts_are_lines_and_columns_whatever_stands_in_them(run, tmp_path, capsys):
    """Only a line end ends a prompt, not what Unicode calls one; a tab within makes no third column."""
    assert main(["chat", str(run), *prompts(tmp_path, "hello\u2028tom !\nhello\ttom !\n")]) == 0
    rows = [line.split("\t") for line in capsys.readouterr().out.removesuffix("\n").split("\n")]
    assert [row[0] for row in rows] == ["hello\u2028tom !", "hello tom !"]
    assert [len(row) for row in rows] == [2, 2]
    assert one_line("a\n\nb\tc d") == "a b c d"


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--prompts", "no.txt"], "no.txt: No such file"),
        (["--prompts", "."], ".: Is a directory"),
        (["--compare", "nix"], "nix: not a run folder"),
        (["--decode", "best"], "--decode is 'best'"),
        (["--beams", "0"], "--beams is 0"),
        (["--seed", "9" * 20], "--seed is 99999999999999999999, but must lie between"),
        (["--temperature", "0"], "above 0"),
    ],
)
def test_options_that_cannot_be(more, told, run, capsys):
    assert main(["chat", str(run), *more]) == 2
    assert told in capsys.readouterr().err


def test_generate_points_to_chat(run, capsys):
    assert main(["generate", str(run)]) == 2
    assert "seqforge chat" in capsys.readouterr().err


def test_a_beam_as_wide_as_the_world_finds_the_likeliest_reply():
    """By log-probability per token, which is often another than the likeliest as a whole."""
    sizes = {"embedding": 4, "hidden": 4, "layers": 2, "heads": 2, "dropout": 0.0}
    ids, lengths = every_sequence(3, 4, eos_id=2)
    others = 0
    for seed in range(12):
        generator = TransformerGenerator(3, **sizes, encoder=True, eos_id=2, seed=seed).eval()
        source = Source(torch.tensor([[1, 2]]), torch.tensor([2]))
        with torch.no_grad():
            logp = log_probs(generator, ids, lengths, context=source[torch.zeros(len(ids), dtype=torch.long)]).sum(1)
        best = int((logp / lengths).argmax())
        found = beam_search(generator, source, 81, 4)
        assert found.ids[0].tolist() == ids[best, : lengths[best]].tolist()
        assert found.lengths.tolist() == [int(lengths[best])]
        others += best != int(logp.argmax())
    assert others >= 3


def test_a_speaker_reads_its_history_and_no_more_than_its_source_holds(run):
    speaker = Speaker.of(run)
    turns = ["hello tom !", "it is called tom .", "what is its name ?"]
    assert speaker.source(turns).ids.tolist() == speaker.source(turns[1:]).ids.tolist()  # history 2
    assert speaker.source(turns[2:]).ids.shape[1] < speaker.source(turns).ids.shape[1]
    with pytest.warns(UserWarning, match=rf"run reads the last {speaker.max_source} of these 501 tokens; use fewer"):
        assert speaker.source([" ".join(["tom"] * 500)]).ids.shape[1] == speaker.max_source
    drawn = {speaker.reply(turns, Answering(), torch.Generator().manual_seed(k)) for k in range(12)}
    assert len(drawn) > 1
    cold = {speaker.reply(turns, Answering(temperature=0.01), torch.Generator().manual_seed(k)) for k in range(6)}
    greedy = {speaker.reply(turns, Answering("greedy"), torch.Generator().manual_seed(k)) for k in range(3)}
    assert len(greedy) == 1
    assert cold == greedy


class Echo:
    """A speaker that repeats all it was told."""

    def __init__(self, name):
        self.name = name

    def reply(self, turns, how, rng):
        return f"{self.name}({' '.join(turns)})"


def test_the_first_speakers_replies_are_remembered_and_prompts_of_a_file_are_not(tmp_path, capsys):
    talk = Talk(tmp_path, [Echo("a"), Echo("b")], Answering(), torch.Generator())
    assert talk.answer("hi") == ["a(hi)", "b(hi)"]
    assert talk.answer("yo") == ["a(hi a(hi) yo)", "b(hi a(hi) yo)"]
    assert talk.turns == ["hi", "a(hi)", "yo", "a(hi a(hi) yo)"]
    (tmp_path / "p.txt").write_text("x\ny\n")
    assert answer_file(talk, tmp_path / "p.txt") == 0
    assert capsys.readouterr().out == "x\ta(x)\tb(x)\ny\ta(y)\tb(y)\n"


# Ctrl-C counts also where the tests were put into the background, by which a shell lets it be ignored.
CHAT = """
import signal, sys
signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
signal.signal(signal.SIGINT, signal.default_int_handler)
from seqforge.cli import main
sys.exit(main(sys.argv[1:]))
"""


class Terminal:
    """A process behind a pseudo-terminal."""

    def __init__(self, argv, folder):
        self.fd, child = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-c", CHAT, *argv],
            stdin=child,
            stdout=child,
            stderr=child,
            cwd=folder,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # so that Ctrl-C reaches it
        )
        os.close(child)
        self.read = ""

    def until(self, text, seconds=300):
        end = time.monotonic() + seconds
        while text not in self.read:
            assert time.monotonic() < end, f"no {text!r} in {self.read!r}"
            if select.select([self.fd], [], [], 0.2)[0]:
                self.read += os.read(self.fd, 4096).decode(errors="replace")
        before, _, self.read = self.read.partition(text)
        return before

    def say(self, line):
        os.write(self.fd, line.encode() + b"\n")
        self.until(line)  # the echo
        return self.until("\r\n> ").strip()


def test_a_conversation_through_a_terminal(run, tmp_path):
    terminal = Terminal(["chat", str(run), "--decode", "greedy"], tmp_path)
    terminal.until("\r\n> ")
    first = terminal.say("it is called tom .")
    assert first
    assert terminal.say("/regenerate") == first  # greedy
    both = terminal.say("/compare pretrained")
    assert both == "run beside run (pre-trained)"
    lines = terminal.say("what colour is it ?").splitlines()
    assert [line.partition(":")[0] for line in lines] == ["run", "run (pre-trained)"]
    assert terminal.say("/temperature 0.5").startswith("temperature 0.5")
    assert "must be a number above 0" in terminal.say("/temperature hot")
    assert "knows no word" in terminal.say("xyzzy")
    os.write(terminal.fd, b"\xff\xfe\n")  # no characters
    assert "knows no word" in terminal.until("\r\n> ")
    assert "unknown command /nix" in terminal.say("/nix")
    assert terminal.say("/save talk.txt") == "4 turns in talk.txt"
    assert "talk.txt: exists already" in terminal.say("/save talk.txt")
    saved = (tmp_path / "talk.txt").read_text().splitlines()
    assert saved[:3] == ["it is called tom .", first, "what colour is it ?"]
    os.write(terminal.fd, b"/quit\n")
    assert terminal.process.wait(300) == 0


@pytest.mark.parametrize("key", [b"\x03", b"\x04"], ids=["ctrl-c", "ctrl-d"])
def test_ctrl_c_and_ctrl_d_end_it_in_order(key, run, tmp_path):
    terminal = Terminal(["chat", str(run)], tmp_path)
    terminal.until("\r\n> ")
    said = terminal.say("hello tom !")
    os.write(terminal.fd, key)
    assert terminal.until("turns added to").strip().endswith("2")
    assert terminal.process.wait(300) == 0
    assert (run / "chat.txt").read_text().endswith(f"hello tom !\n{said}\n\n")


def test_ctrl_c_that_interrupts_no_read_is_not_lost(monkeypatch):
    """Between the prompt and the read the signal is noted, but wakes nothing; as here, where another thread takes it.
    input() then waited for the next line, with the Ctrl-C of one test in two hundred on a loaded machine.
    """
    fd, child = pty.openpty()
    heard, lines = threading.Event(), []

    def press():
        signal.pthread_kill(threading.get_ident(), signal.SIGINT)
        if not heard.wait(10):
            lines.append(os.write(fd, b"a line\n"))

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    key = threading.Timer(0.3, press)
    with os.fdopen(child) as terminal:
        monkeypatch.setattr(sys, "stdin", terminal)
        key.start()
        with pytest.raises(KeyboardInterrupt):
            read_line("> ")
        heard.set()
        key.join()
    signal.signal(signal.SIGINT, before)
    os.close(fd)
    assert not lines, "it waited for a line"
