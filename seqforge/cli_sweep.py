"""seqforge sweep: variants of a recipe with several seeds, and their tables."""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from seqforge import options, seeds, sweep
from seqforge.frontier import AXES
from seqforge.report.figures import styled, write_png, write_whole
from seqforge.report.map import ONE_SEED, Field, map_figure
from seqforge.sweep import Held, Trial
from seqforge.tables import COMPARED, out

SHOWN = [*COMPARED, "reverse_bleu4", "bleu5", "self_bleu5", "unique_sequences"]


class _Parser(argparse.ArgumentParser):
    """The one that leaves alone what it does not know; its errors are one line."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(message)


def sweep_(argv: list[str]) -> int:
    """Run variants of a recipe, several seeds each, in every cell of a grid where there is one, and table them:
    seqforge sweep NAME --out DIR. Options that are not its own go to every run. What has finished is kept: the same
    command goes on where it was cut off."""
    parser = _Parser(prog="seqforge sweep", description=sweep_.__doc__, allow_abbrev=False)
    parser.add_argument("name", help=f"a shipped sweep ({', '.join(sweep.names())}) or a YAML file")
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs, of sweep.csv and sweep.md")
    parser.add_argument("--seeds", help="such as 1,2,3 (default: the sweep's)")
    parser.add_argument(
        "--variants", help="some of the variants, by comma, and what those are held to and start from (default: all)"
    )
    parser.add_argument("--threads", type=int, default=0, help="CPU threads of each run; 0: torch's choice")
    parser.add_argument(
        "--at-once", type=int, default=1, help="cells and seeds side by side, one thread each; 0: one a free core"
    )
    args, more = parser.parse_known_args(argv)
    plan = sweep.read(args.name)
    chosen_seeds = seeds.parse(args.seeds) if args.seeds else plan["seeds"]
    chosen = args.variants.split(",") if args.variants else []
    planned = sweep.trials(plan, args.out, chosen_seeds, chosen, more)
    for trial in planned[: len(planned) // len(chosen_seeds)]:
        options.parse_train(trial.argv[0], trial.argv[1:])  # a wrong option is named before the first run
    at_once = seeds.at_once(args.at_once, len(planned))
    args.out.mkdir(parents=True, exist_ok=True)
    sweep.remember(planned, args.out)
    done, begun = [t for t in planned if sweep.finished(t)], time.monotonic()
    old = len(done)
    print(f"{old} of {len(planned)} runs have finished", file=sys.stderr)
    for trial in sweep.carry_out([t for t in planned if not sweep.finished(t)], args.threads, at_once):
        done.append(trial)
        left = (time.monotonic() - begun) / (len(done) - old) * (len(planned) - len(done))
        print(f"{len(done)}/{len(planned)}  {trial.folder}  {left / 60:.0f} min left", file=sys.stderr)
        if len(done) == len(planned) or not plan["grid"]:
            _tell(args.out, plan, sorted(done, key=planned.index))
    _tell(args.out, plan, sorted(done, key=planned.index))
    print((args.out / "sweep.md").read_text(), end="")
    note = f"± half the 95 % interval over seeds, where there are several; all figures: {args.out / 'sweep.csv'}"
    out.print(note, markup=False, soft_wrap=True)
    return 0


def _tell(folder: Path, plan: dict[str, Any], done: Sequence[Trial]) -> None:
    """The tables, and the map where a grid was held to a variant."""
    rows, versus = sweep.table(done), plan["versus"]
    held = sweep.verdicts(done, versus) if versus else []
    text = sweep.verdict_table(held, versus) + "\n" if held else ""
    sweep.write(folder, rows, text + sweep.markdown(rows, SHOWN), held)
    if held and plan["grid"]:
        with styled():
            figure = _map(plan, held)
            write_whole(folder / "map.png", lambda path: write_png(figure, path))


def _map(plan: dict[str, Any], held: Sequence[Held]):
    """Rows: the values of the grid's first axis; columns: the combinations of the others."""
    rows = list(dict.fromkeys(h.cell[0] for h in held))
    columns = list(dict.fromkeys(h.cell[1:] for h in held))
    fields, frontier = [], None
    for variant in dict.fromkeys(h.variant for h in held):
        gap, half = (np.full((len(rows), len(columns)), np.nan) for _ in range(2))
        words = [["" for _ in columns] for _ in rows]
        for h in held:
            if h.variant == variant and h.judgement is not None:
                r, c = rows.index(h.cell[0]), columns.index(h.cell[1:])
                gap[r, c], half[r, c] = h.judgement.gap, (h.judgement.high - h.judgement.low) / 2
                words[r][c] = h.judgement.word if h.judgement.by == "seeds" else ONE_SEED
                frontier = h.judgement.frontier
        fields.append(Field(variant, gap, half, words))
    unit = AXES[frontier].unit if frontier else ""
    return map_figure(fields, rows, [" ".join(c) for c in columns], plan["versus"], unit)


def _commands() -> int:
    """What one process of a sweep does: the command lines on its standard input, a JSON list, until one fails."""
    from seqforge.cli import main  # which imports this module

    codes = (main(command) for command in json.load(sys.stdin))
    return next((code for code in codes if code), 0)


if __name__ == "__main__":
    sys.exit(_commands())
