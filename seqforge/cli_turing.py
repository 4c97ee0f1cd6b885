"""`seqforge turing`: people judge real sequences against a run's own, on a local page; and what they found."""

import json
import threading
import webbrowser
from collections.abc import Iterator
from pathlib import Path

from rich.markup import escape
from rich.table import Table

from seqforge import checkpoint, corpora, generate, loading, tunes, turing, worlds
from seqforge.options import Parser
from seqforge.report.turing import broken_lines, sentence, tables
from seqforge.sampling import Filter
from seqforge.settings import RunConfig, build
from seqforge.tables import out
from seqforge.turing_server import Desk, Server

PORT = 8421
TRIES = 10  # sequences drawn for each that is asked, so that enough are new


def turing_(argv: list[str]) -> int:
    """Let people tell real sequences from generated ones, blind, on a local page: seqforge turing RUN."""
    parser = Parser(prog="seqforge turing", description=turing_.__doc__)
    parser.add_argument("run", type=Path, help="a run folder of text whose training has ended")
    parser.add_argument("--n", type=int, default=40, help="texts that each judge sees, half of them held-out sequences")
    parser.add_argument("--temperature", type=float, default=1.0, help="divisor of the logits; below 1 is sharper")
    parser.add_argument("--seed", type=int, default=0, help="of samples and order: the same seed asks the same")
    parser.add_argument("--include", help="pretrained: half of the generated ones are its, before adversarial training")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0 lets others in")
    parser.add_argument("--port", type=int, default=PORT, help="port to listen on; 0 takes a free one")
    parser.add_argument("--no-browser", action="store_true", help="print the address, and open no browser")
    parser.add_argument("--results", action="store_true", help="print what the judges found so far, and end")
    parser.add_argument("--json", action="store_true", help="with --results: as JSON")
    args = parser.parse_args(argv)
    if args.json and not args.results:
        raise ValueError("--json does nothing without --results; give that too, or leave it out")
    if args.results:
        return _results(args.run, args.json)
    if args.include not in (None, "pretrained"):
        raise ValueError(f"--include is {args.include!r}, but must be pretrained, or left out")
    if not -(2**63) <= args.seed < 2**63:
        raise ValueError(f"--seed is {args.seed}, but must lie between -2^63 and 2^63 - 1")
    deck = deck_of(args.run, args.n, args.temperature, args.seed, args.include == "pretrained")
    with Server(Desk(args.run, deck), args.host, args.port) as server:
        print(f"{args.n} texts at temperature {args.temperature:g}; left out, both real and generated: {deck.left_out}")
        print(f"{server.address}  Ctrl-C ends it; answers go to {server.desk.path}", flush=True)
        if not args.no_browser:  # beside the server: a browser in the terminal waits for the page
            threading.Thread(target=webbrowser.open, args=(server.address,), daemon=True).start()
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            n = len(turing.read(server.desk.path)[0])
            print(f"\n{n} answers in {server.desk.path}; for a page with what they say: seqforge report {args.run}")
    return 0


def deck_of(run: Path, n: int, temperature: float, seed: int, pretrained: bool) -> turing.Deck:
    """The trials of a run. Raises ValueError for one that people cannot judge."""
    config = loading.read_config(run)
    data = config["data"]
    if data["source"] in ("oracle", *worlds.NAMES) or data.get("tokenizer") == "ids":
        raise ValueError(f"{run}: its sequences are ids, which no one can read; judge a run of text")
    if tunes.config_of(data):
        raise ValueError(f"{run}: its sequences are tunes, written in words no one can read; its report plays them")
    if config["method"] == "dialogue":
        raise ValueError(f"{run}: its generator answers, and a reply alone says little; try it by seqforge chat {run}")
    folders = {"generated": _checkpoint(run)}
    if pretrained:
        found = checkpoint.newest(run / "checkpoints", tag="pre-trained")
        if found is None:
            raise ValueError(f"--include pretrained: {run} ({config['method']}) has no generator before its last stage")
        folders["pretrained"] = found
    filter = Filter(temperature)
    corpus = corpora.load(build(RunConfig, config).data)
    corpora.check(run, corpus)
    real = corpus.decode(corpus.test.ids, corpus.test.lengths)
    drawn = {name: _texts(folder, n, corpus.max_length, filter, seed) for name, folder in folders.items()}
    return turing.deal(n, real, drawn, seed, temperature, checkpoint.step_of(folders["generated"]))


def _checkpoint(run: Path) -> Path:
    """That of the final generator. Raises ValueError where there is none yet."""
    if not checkpoint.every(run / "checkpoints"):
        raise ValueError(f"{run}: no checkpoint yet; let it train to its end")
    final = checkpoint.newest(run / "checkpoints", tag="final")
    if final is None:
        raise ValueError(f"{run}: still being trained, or cut off; wait, or go on with it: seqforge resume {run}")
    return final


def _texts(folder: Path, n: int, max_length: int, filter: Filter, seed: int) -> Iterator[str]:
    generator, tokenizer = loading.load_generator(folder), loading.load_tokenizer(folder)
    for one in generate.generate(generator, tokenizer, TRIES * n, max_length, filter, seed):
        yield one.text


def _results(run: Path, as_json: bool) -> int:
    loading.read_config(run)
    path = run / turing.FILE
    answers, broken = turing.read(path)
    if not answers:
        raise ValueError(f"{path}: no answers yet; seqforge turing {run} collects them")
    found = turing.results(answers)
    if as_json:
        print(json.dumps({**found, "broken_lines": broken}, indent=1, ensure_ascii=False))
        return 0
    for one in tables(found):
        table = Table(*one.head, title=escape(one.caption), title_justify="left", box=None, pad_edge=False)
        for row in one.rows:
            table.add_row(*map(escape, row))
        out.print(table)
    for told in [sentence(found), *broken_lines(broken)]:
        out.print(told, markup=False)
    return 0
