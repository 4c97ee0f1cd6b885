"""The scores side by side, and the verdict in a sentence, or why there is none."""

from dataclasses import replace

from seqforge.report.folder import Folder, number, subjects
from seqforge.report.ran import diverged
from seqforge.report.section import Found, Section
from seqforge.report.tables import DIFFERS, Table, side_by_side, signature_table

LIKELIHOOD = ("mle", "mle_search", "scheduled_sampling", "distillation")  # methods without a stage that is judged


def section(folder: Folder) -> Found:
    if not subjects(folder.scores):
        return None, [
            "The side-by-side table: scores.json lists no generator and no reference."
        ] if folder.scores else []
    table = side_by_side(folder.scores)
    view = {
        "at_one": at_one(table),
        "table": table,
        "signatures": signature_table(folder.scores),
        "incomparable": any(row[1].endswith(DIFFERS) for row in table.rows),
    }
    return Section("scores", "Side by side", "section_scores.html.j2", view), []


def at_one(table: Table) -> Table:
    """Its rows at temperature 1, and of what has none; the whole where nothing was measured there."""
    rows = [row for row in table.rows if row[1].removesuffix(DIFFERS) in ("1", "–")]
    if not rows:
        return table
    return replace(table, caption=f"{table.caption}, at temperature 1", rows=rows)


def verdict(folder: Folder) -> str:
    """Of the run's own evaluation; where there is none, that and why."""
    told = folder.scores.get("verdict")
    steps = [int(s) for r in folder.records if (s := number(r["step"])) is not None]
    generators, now, fallen = folder.scores.get("generators") or [{}], max(steps, default=0), diverged(folder)
    last = generators[-1]
    if told and last.get("name") == "newest":
        how = fallen or f"it is at step {now} and has not ended"
        return f"Scored on its way, at step {last.get('step')}; {how}. {told}"
    if told:
        return str(told)
    if not folder.scores:
        if fallen:
            return f"No verdict: the run has not been scored, as {fallen}."
        how = "it ended" if folder.of_kind("end") else "it is still running or was cut off"
        return f"No verdict: the run has not been scored ({how}, at step {now})."
    return f"No verdict: {why_none(folder)}"


def why_none(folder: Folder) -> str:
    """Why a run that has been scored has no verdict."""
    rows = subjects({"generators": folder.scores.get("generators")})
    if folder.config.get("method") in LIKELIHOOD:
        return "a run of likelihood alone: there is no stage to judge; seqforge compare holds it beside others."
    if len(rows) < 2:
        return (
            "the run has one generator, and none trained by likelihood alone to hold it against; seqforge compare puts "
            "it beside a run of mle."
        )
    if rows[0].get("step") == rows[-1].get("step") is not None:
        return "no step of the stage has been made, so that the generator is still the pre-trained one."
    return "its generators share no frontier to be judged by."
