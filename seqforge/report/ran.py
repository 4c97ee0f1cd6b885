"""What ran: configuration, seeds, versions, data, time and memory; and what a stopped or foreign run lacks."""

import time
from statistics import median
from typing import Any

from seqforge import __version__
from seqforge.report.curves import read_phases
from seqforge.report.folder import Folder, number
from seqforge.report.section import Found, Section
from seqforge.report.tables import Table, config_table

NAMES = {
    "data": "data digest (training set)",
    "valid": "data digest (validation set)",
    "test": "data digest (test set)",
    "vocabulary": "vocabulary digest",
    "version": "seqforge",
}  # of the start record, where its own would not tell


def section(folder: Folder) -> Found:
    view = {"facts": facts_table(folder), "config": config_table(folder.config)}
    return Section("ran", "What ran", "section_ran.html.j2", view), missing(folder)


def facts_table(folder: Folder) -> Table:
    return Table("The run", ("what", "value"), facts(folder))


def facts(folder: Folder) -> list[tuple[str, str]]:
    """Versions, device and digests as the run itself wrote them, then how far it came and what it took."""
    start = next(iter(folder.of_kind("start")), {})
    known = {
        NAMES.get(name, name): value
        for name, value in start.items()
        if name not in ("step", "phase", "kind", "seconds", "tokens")
    }
    known.setdefault("seed", folder.config.get("seed", "not recorded"))
    steps = [s for record in folder.records if (s := number(record["step"])) is not None]
    resumes = [str(record["step"]) for record in folder.of_kind("resume")]
    end = next(iter(folder.of_kind("end")), {})
    if isinstance(best := end.get("best"), dict):
        known["best checkpoint by validation"] = f"{best.get('checkpoint')} ({best.get('score')} {best.get('value')})"
    if "stopped" in end:
        known["stopped early"] = end["stopped"]
    known["steps"] = max(steps) if steps else "not recorded"
    known |= times(folder)
    known["resumed at step"] = ", ".join(resumes) or "never"
    return [(name, str(value)) for name, value in (known | memory(folder) | tokens(folder)).items()]


def times(folder: Folder) -> dict[str, str]:
    """Wall time in all, and from the first record of each phase to the first of the next."""
    clock = [(r["phase"], r["step"], s) for r in folder.records if (s := number(r.get("seconds"))) is not None]
    if not clock:
        return {"wall time": "not recorded"}
    found = {"wall time": duration(max(s for *_, s in clock))}
    names = [phase.name for phase in read_phases(folder.records)]
    began = [min(s for p, _, s in clock if p == name) for name in names if any(p == name for p, *_ in clock)]
    ends = [*began[1:], max(s for *_, s in clock)]
    if len(names) > 1 and len(names) == len(began):
        found |= {f"time from {n} on": duration(b - a) for n, a, b in zip(names, began, ends, strict=True) if b >= a}
    return found


def memory(folder: Folder) -> dict[str, str]:
    end = next(iter(folder.of_kind("end")), {})
    names = {"peak_memory": "peak memory of the process", "peak_memory_gpu": "peak memory on the GPU"}
    return {
        name: f"{most / 2**20:,.0f} MiB" for key, name in names.items() if (most := number(end.get(key))) is not None
    }


def tokens(folder: Folder) -> dict[str, str]:
    counts = [t for r in folder.records if (t := number(r.get("tokens"))) is not None]
    speeds = [s for r in folder.records if (s := number(r.get("tokens_per_second"))) is not None]
    found = {"tokens": f"{max(counts):,.0f}"} if counts else {}
    return found | ({"tokens per second (median)": f"{median(speeds):,.0f}"} if speeds else {})


def duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min {rest} s" if hours else f"{minutes} min {rest} s"


def diverged(folder: Folder) -> str | None:
    """That a run ended in a number that is not finite, and what to try; None where it did not."""
    last = folder.records[-1] if folder.records else {}
    if (last.get("kind"), last.get("sign")) != ("warning", "nan"):
        return None
    tries = [str(one) for one in last["try"]] if isinstance(last.get("try"), list) else []
    remedy = f"train anew with {' or '.join(tries)}" if tries else "train anew with smaller steps"
    return (
        f"it diverged at step {last['step']}, {last['phase']}: {last.get('figure')} is {last.get('value')}; a resume "
        f"would come to the same, so {remedy}"
    )


def missing(folder: Folder) -> list[str]:
    told = other_version(folder.config)
    if not folder.checkpoints:
        told.append("Checkpoints: there is none, so nothing can be scored, generated or resumed from this folder.")
    if folder.records:
        told += missing_from_log(folder)
    return told


def other_version(config: dict[str, Any]) -> list[str]:
    made = config.get("seqforge")
    if made in (None, __version__):
        return []
    return [f"Whatever seqforge {made}, which made this run, wrote otherwise than {__version__}, which reports on it."]


def missing_from_log(folder: Folder) -> list[str]:
    told = []
    kinds = {record["kind"] for record in folder.records}
    if "evaluation" not in kinds:
        told.append("Curves of evaluation scores: log.jsonl has no evaluation record.")
    if "train" not in kinds:
        told.append("Training curves: log.jsonl has no train record.")
    if "start" not in kinds:
        told.append("Versions, device, commit and data digests: log.jsonl has no start record.")
    if fallen := diverged(folder):
        told.append(f"The end of the run: {fallen}.")
    elif "end" not in kinds:
        last = time.strftime("%Y-%m-%d %H:%M", time.localtime((folder.path / "log.jsonl").stat().st_mtime))
        told.append(
            f"The end of the run: log.jsonl, last written {last}, has no end record, so it is still running or was cut "
            f"off; to go on with it: seqforge resume {folder.path}"
        )
    elif not memory(folder):
        told.append("Peak memory: the end record of log.jsonl does not tell it.")
    if not any(number(record.get("tokens")) is not None for record in folder.records):
        told.append("The number of tokens: no record of log.jsonl counts them.")
    return told
