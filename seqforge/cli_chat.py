"""`seqforge chat`: a conversation in the terminal, or a file of prompts answered."""

import io
import re
import select
import sys
from dataclasses import replace
from pathlib import Path
from typing import get_args

import torch

from seqforge.chat import Answering, Decode, Speaker
from seqforge.data.readers.document import Flaw
from seqforge.data.readers.files import BOM, decoded
from seqforge.options import Parser

HELP = "/temperature X, /regenerate, /compare RUN (or pretrained, or off), /save FILE, /quit"


def chat_(argv: list[str]) -> int:
    """Talk with a dialogue run's generator: seqforge chat RUN."""
    parser = Parser(prog="seqforge chat", description=chat_.__doc__)
    parser.add_argument("run", type=Path, help="a run folder of `seqforge train dialogue`")
    parser.add_argument("--compare", help="a second run, or pretrained: both answer, side by side")
    parser.add_argument("--prompts", type=Path, help="answer each line of a file in place of a conversation")
    parser.add_argument("--decode", default="sample", help=f"how a reply is found: {', '.join(get_args(Decode))}")
    parser.add_argument("--temperature", type=float, default=1.0, help="divisor of the logits, with sample")
    parser.add_argument("--beams", type=int, default=5, help="hypotheses kept, with beam")
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same replies")
    parser.add_argument(
        "--checkpoint",
        help="pre-trained, counterpart (MLE's), best (by validation), final, or a step (default: the newest)",
    )
    args = parser.parse_args(argv)
    if args.decode not in get_args(Decode):
        raise ValueError(f"--decode is {args.decode!r}, but must be one of: {', '.join(get_args(Decode))}")
    if args.beams < 1:
        raise ValueError(f"--beams is {args.beams}, but must be at least 1")
    if not -(2**63) <= args.seed < 2**63:
        raise ValueError(f"--seed is {args.seed}, but must lie between -2^63 and 2^63 - 1")
    how = Answering(args.decode, _temperature(args.temperature), args.beams)
    talk = Talk(args.run, [Speaker.of(args.run, args.checkpoint)], how, torch.Generator().manual_seed(args.seed))
    if args.compare:
        talk.compare(args.compare)
    return answer_file(talk, args.prompts) if args.prompts else converse(talk)


def _temperature(text: str | float) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise ValueError(f"temperature is {text}, but must be a number above 0")
    return value


class Talk:
    """A conversation: what was said, and who answers. The first speaker's replies are the ones remembered."""

    def __init__(self, run: Path, speakers: list[Speaker], how: Answering, rng: torch.Generator):
        self.run, self.speakers, self.how, self.rng = run, speakers, how, rng
        self.turns: list[str] = []

    def answer(self, said: str) -> list[str]:
        """Every speaker's reply, printed; the turn and the first reply are remembered."""
        turns = [*self.turns, said]
        replies = [speaker.reply(turns, self.how, self.rng) for speaker in self.speakers]
        self.turns = [*turns, replies[0]]
        return replies

    def compare(self, other: str) -> None:
        second = Speaker.of(self.run, "pre-trained") if other == "pretrained" else Speaker.of(Path(other))
        self.speakers = [self.speakers[0], second]

    def command(self, line: str) -> str:
        """Carries out what begins with a slash; what to print. Raises ValueError for what is none."""
        name, _, value = line.partition(" ")
        value = value.strip()
        if name == "/temperature":
            self.how = replace(self.how, temperature=_temperature(value))
            return f"temperature {self.how.temperature:g}" + ("" if self.how.decode == "sample" else " (sample only)")
        if name == "/regenerate":
            if not self.turns:
                raise ValueError("nothing said yet")
            kept, self.turns = self.turns, self.turns[:-2]
            try:
                return self.shown(self.answer(kept[-2]))
            except BaseException:  # stopped by Ctrl-C: as it was
                self.turns = kept
                raise
        if name == "/compare":
            if value in ("", "off"):
                self.speakers = self.speakers[:1]
                return "one answers"
            self.compare(value)
            return f"{self.speakers[0].name} beside {self.speakers[1].name}"
        if name == "/save":
            if not value:
                raise ValueError("/save needs a file: /save talk.txt")
            try:
                with Path(value).open("x", encoding="utf-8") as file:
                    file.write("\n".join(map(one_line, self.turns)) + "\n")
            except FileExistsError:
                raise ValueError(f"{value}: exists already; save under another name") from None
            return f"{len(self.turns)} turns in {value}"
        raise ValueError(f"unknown command {name}; there are {HELP}")

    def shown(self, replies: list[str]) -> str:
        if len(replies) == 1:
            return replies[0]
        return "\n".join(f"{s.name}: {reply}" for s, reply in zip(self.speakers, replies, strict=True))


def converse(talk: Talk) -> int:
    """Line by line until /quit, Ctrl-D or Ctrl-C at the prompt; these two keep what was said in RUN/chat.txt."""
    print(f"{' and '.join(s.name for s in talk.speakers)} answers; {HELP}", flush=True)
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")  # a byte that is no character ends no conversation
    try:
        while (line := read_line("> ").strip()) != "/quit":
            if line:
                respond(talk, line)
    except (EOFError, KeyboardInterrupt):
        print()
        if talk.turns:
            with (talk.run / "chat.txt").open("a", encoding="utf-8") as file:
                file.write("\n".join(map(one_line, talk.turns)) + "\n\n")
            print(f"{len(talk.turns)} turns added to {talk.run / 'chat.txt'}")
    return 0


def read_line(prompt: str) -> str:
    """input(), but no Ctrl-C is lost. Python only notes one that comes between the prompt and the read, and the read
    then waits for a line; so nothing is read from a terminal before a line is there. Raises EOFError at the end.
    """
    if not sys.stdin.isatty():
        return input(prompt)
    print(prompt, end="", flush=True)
    while not select.select([sys.stdin], [], [], 0.2)[0]:
        pass  # what has been noted is raised here
    line = sys.stdin.readline()
    if not line:
        raise EOFError
    return line


def respond(talk: Talk, line: str) -> None:
    """What a line brings, printed: a reply, or why there is none. Ctrl-C meanwhile stops that reply alone."""
    try:
        print(talk.command(line) if line.startswith("/") else talk.shown(talk.answer(line)), flush=True)
    except (ValueError, OSError) as e:
        print(f"seqforge: {e}", file=sys.stderr, flush=True)
    except KeyboardInterrupt:
        print("\nstopped; the turns so far are kept", flush=True)


def answer_file(talk: Talk, path: Path) -> int:
    """Each line by itself: prompt, tab, the replies with tabs between. Raises ValueError naming a bad line."""
    for number, raw in enumerate(path.read_bytes().removeprefix(BOM).splitlines(), 1):  # of bytes: at \n, \r alone
        talk.turns = []
        try:
            if not (said := decoded(raw).strip()):
                raise Flaw("blank line", "an empty prompt", "remove the line")
            print("\t".join(map(one_line, [said, *talk.answer(said)])))
        except (Flaw, ValueError) as e:
            remedy = f"; {e.remedy}" if isinstance(e, Flaw) else ""
            raise ValueError(f"{path}:{number}: {e}{remedy}") from e
    return 0


def one_line(text: str) -> str:
    """Without tabs and line ends, which byte pairs may write within a reply."""
    return re.sub(r"[\t\r\n]+", " ", text)
