"""seqforge sweep: variants of a recipe with several seeds, and their table."""

import argparse
import sys
from pathlib import Path
from typing import NoReturn

from seqforge import options, sweep
from seqforge.tables import COMPARED, out

SHOWN = [*COMPARED, "reverse_bleu4", "bleu5", "self_bleu5", "unique_sequences"]


class _Parser(argparse.ArgumentParser):
    """The one that leaves alone what it does not know; its errors are one line."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(message)


def sweep_(argv: list[str]) -> int:
    """Run variants of a recipe, several seeds each, and table them: seqforge sweep NAME --out DIR. Options that are not
    its own go to every run. What has finished is kept: the same command goes on where it was cut off."""
    parser = _Parser(prog="seqforge sweep", description=sweep_.__doc__, allow_abbrev=False)
    parser.add_argument("name", help=f"a shipped sweep ({', '.join(sweep.names())}) or a YAML file")
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs, of sweep.csv and sweep.md")
    parser.add_argument("--seeds", help="such as 1,2,3 (default: the sweep's)")
    parser.add_argument("--variants", help="some of the variants, by comma (default: all)")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads of each run; 0: torch's choice")
    args, more = parser.parse_known_args(argv)
    plan = sweep.read(args.name)
    try:
        seeds = [int(s) for s in args.seeds.split(",")] if args.seeds else plan["seeds"]
    except ValueError as e:
        raise ValueError(f"--seeds {args.seeds}: give numbers such as 1,2,3") from e
    chosen = args.variants.split(",") if args.variants else []
    planned = sweep.trials(plan, args.out, seeds, chosen, more)
    for trial in planned:
        options.parse_train(trial.argv[0], trial.argv[1:])  # a wrong option is named before the first run
    args.out.mkdir(parents=True, exist_ok=True)
    for at, trial in enumerate(planned, 1):
        print(f"{at}/{len(planned)}  {trial.folder}", file=sys.stderr)
        sweep.carry_out(trial, args.threads)
        rows = sweep.table(planned[:at])
        sweep.write(args.out, rows, sweep.markdown(rows, SHOWN))
    print((args.out / "sweep.md").read_text(), end="")
    out.print(
        f"± half the 95 % interval over seeds; all figures: {args.out / 'sweep.csv'}", markup=False, soft_wrap=True
    )
    return 0
