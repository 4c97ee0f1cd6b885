"""Runs side by side, one of each: the interval is that of their samples drawn again, or there is no number."""

import json

import numpy as np
import pytest
from test_compare import HALF, LINE, MOVES, curve, make_run, moved, score, three_groups, two_runs

from seqforge.cli import main
from seqforge.compare import compare
from seqforge.tables import comparison_tables, print_comparison
from seqforge.verdict import FILE, save_draws


def test_a_gap_of_one_seed_has_the_interval_of_its_samples(tmp_path, capsys):
    """It was shown bare, as if it were exact: -0.300 for two runs of one seed."""
    runs = two_runs(tmp_path)
    found = compare(runs)
    for gaps, gap in (
        (found["gaps"][0], -0.3),
        (found["groups"]["seqgan, discriminator reward"]["to_pretrained"], -0.2),
    ):
        for kind in ("at_one", "over_range"):
            assert gaps[kind]["gap"] == pytest.approx((gap, HALF), rel=1e-3)
            assert (gaps[kind]["by"], gaps[kind]["seeds"], gaps[kind]["reason"]) == ("bootstrap", [1], None)
    (first, _, scores), (title, _, rows), *_ = comparison_tables(found)
    assert "of one seed ± its sampling error" in first
    assert "of one seed ± its sampling error" in title
    assert rows[-1][2:] == [f"-0.300 ± {HALF:.3f} (one seed)"] * 2 + ["-", "1 and 1"]
    assert scores[0][3] == "8.800 ± 0.020"  # by its standard error, 0.01
    assert main(["compare", *map(str, runs), "--json"]) == 0
    (gap,) = json.loads(capsys.readouterr().out)["gaps"]
    assert gap["over_range"]["by"] == "bootstrap"


def test_a_gap_over_seeds_is_said_to_be_over_seeds_and_has_no_word_of_one(tmp_path):
    found = compare(three_groups(tmp_path))
    assert {gap[kind]["by"] for gap in found["gaps"] for kind in ("at_one", "over_range")} == {"seeds"}
    assert not [title for title, *_ in comparison_tables(found) if "one seed" in title]


@pytest.mark.parametrize("damage", ["missing", "empty", "cut", "another generator"])
def test_a_gap_of_one_seed_without_its_draws_is_no_number_and_the_reason_is_told(tmp_path, capsys, damage):
    runs = two_runs(tmp_path)
    file = runs[1] / FILE
    whole = file.read_bytes()
    file.unlink()
    if damage == "another generator":
        moved(runs[1], {"pre-trained": MOVES})
    elif damage != "missing":
        file.write_bytes(whole[:1000] if damage == "cut" else b"")
    found = compare(runs)
    (gap,) = found["gaps"]
    for kind in ("at_one", "over_range"):
        assert (gap[kind]["seeds"], gap[kind]["gap"], gap[kind]["by"]) == ([1], None, None)
        assert gap[kind]["reason"].endswith(
            f"no {FILE} to tell its interval by; make it by: seqforge evaluate {runs[1]}"
        )
    tables = {title: rows for title, _, rows in comparison_tables(found)}
    gaps = next(rows for title, rows in tables.items() if "at equal" in title)
    assert gaps[-1][2:] == ["-", "-", "-", "1 and 1"]
    assert ["seqgan, discriminator reward", "seqgan, random reward", gap["over_range"]["reason"]] in tables[
        "Gaps that are left out"
    ]
    print_comparison(found)
    printed = " ".join(capsys.readouterr().out.split())
    assert "seqgan, discriminator reward against seqgan, random reward: left out: one seed" in printed
    assert "-0.300" not in printed


def test_a_gap_whose_draws_share_no_range_says_so(tmp_path):
    """The curves do, but whatever is drawn of the one lies where the other never comes."""
    runs = two_runs(tmp_path)
    far = json.loads((runs[0] / "scores.json").read_text())["generators"][-1]["scores"]
    draws = {(s["name"], s["temperature"]): s["value"] + 5 * np.ones(400) for s in far}
    save_draws(runs[0] / FILE, {"final": draws})
    (gap,) = compare(runs)["gaps"]
    assert gap["over_range"]["gap"] is None
    assert "too few of its samples drawn again share a range" in gap["over_range"]["reason"]


def test_a_score_of_one_run_has_its_own_interval(tmp_path):
    kinds = [{"interval": [0.3, 0.7]}, {"stderr": 0.1}, {"stderr": None}]
    extra = [{**score(f"s{k}", 1.0, 0.6), **kind} for k, kind in enumerate(kinds)]
    found = compare([make_run(tmp_path / "a", 1, [*curve(LINE), *extra])])["groups"]["seqgan, discriminator reward"]
    halves = [found["scores"][f"s{k}"] for k in range(3)]
    assert halves == [(0.6, pytest.approx(0.2)), (0.6, pytest.approx(0.196)), (0.6, None)]
