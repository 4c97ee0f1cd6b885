"""The page of several runs, and their pictures."""

from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
from test_report import Page, described, finished_run, log_records, record, scores_json, write_log
from test_report_sections import configure, write

from seqforge.cli import main
from seqforge.report import build, build_many, many_png, pictures_png
from seqforge.report.page import MOST_WARNINGS
from seqforge.training import default_options
from seqforge.verdict import FILE, save_draws


def many(*runs):
    return Page(build_many(runs, runs[0].parent / "many.html", default_options).read_text(encoding="utf-8"))


def seeded(tmp_path, name, seed, **changes):
    run = finished_run(tmp_path / name)
    configure(run, seed=seed, **changes)
    return run


def test_seeds_share_a_page_with_their_frontier_and_each_its_curves(tmp_path):
    a, b = seeded(tmp_path, "a", 1), seeded(tmp_path, "b", 2)
    page = many(a, b)
    labels = [svg["aria-label"] for svg in page.all("svg")]
    assert page.open == []
    assert labels[0].startswith("nll_oracle over nll_test")
    assert "a, pre-trained, a, final, b, pre-trained, b, final" in labels[0]
    assert sum(label.startswith("Reliability") for label in labels) == 2
    assert len(page.all("details")) == len(labels) + 2
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    assert "nll_oracle 8.790 ± 0.000" in page.text


def test_seeds_made_before_and_after_an_option_came_to_be_are_one_group(tmp_path):
    """The page took them for two experiments, though `compare` did not."""
    old, new = seeded(tmp_path, "old", 1), seeded(tmp_path, "new", 2, baseline="leave-one-out")
    other = seeded(tmp_path, "other", 3, baseline="none")
    assert "(baseline" not in many(old, new).text
    assert "(baseline none)" in many(old, new, other).text


def test_the_gap_at_equal_diversity_is_a_row_a_pair_of_groups(tmp_path):
    """The curves are y = 9.1 - 3 (x - 8.605) and y = 8.79 - 3 (x - 8.645): from 8.645 on .19 apart."""
    scores = scores_json()
    for one in scores["generators"][1]["scores"]:
        one["value"] -= 0.25 if one["name"] == "nll_test" else 0
    runs = [seeded(tmp_path, name, seed) for seed, name in enumerate("ab", 1)]
    for run in runs:
        write(run, "scores.json", scores)
    text = many(*runs).text
    assert "NLL_oracle at equal NLL_test, the one less the other; below 0 the one is better" in text
    assert "seqgan its MLE −0.190 ± 0.000 – 1, 2" in text


def test_runs_of_different_data_are_shown_one_by_one_and_the_reason_is_told(tmp_path):
    a, b = seeded(tmp_path, "a", 1), seeded(tmp_path, "b", 2)
    write(b, "scores.json", (a / "scores.json").read_text().replace("|v:0.1", "|data:other|v:0.1"))
    page = many(a, b)
    assert "Nothing is compared: " in page.text
    assert "data:other" in page.text
    frontiers = [svg["aria-label"] for svg in page.all("svg") if svg["aria-label"].startswith("nll_oracle over")]
    assert len(frontiers) == 2  # each on axes of its own
    assert not [label for label in frontiers if "a, final" in label]


def test_a_run_that_is_not_scored_yet_is_shown_beside_those_that_are(tmp_path):
    runs = [seeded(tmp_path, name, seed) for seed, name in enumerate("abc")]
    for name in ("scores.json", *described()):
        (runs[1] / name).unlink()
    page = many(*runs)
    assert "b is not among those compared: it has no scores yet." in page.text
    assert "nll_oracle 8.790 ± 0.000" in page.text
    assert "Not here, of b" in page.text
    page = many(*runs[:2])
    assert "Nothing is compared: that takes two runs" in page.text
    write(runs[2], "scores.json", {"generators": [{"name": "final"}]})
    assert "Nothing is compared: " in many(runs[0], runs[2]).text


def test_warnings_and_an_early_stop_of_each_run_are_shown(tmp_path):
    """The page of seeds hid a collapse, and that a run had been stopped for it."""
    a, b = seeded(tmp_path, "a", 1), seeded(tmp_path, "b", 2)
    told = "collapse: entropy is 0.1, below 1.2, since step 900"
    records = [r for r in log_records() if r["kind"] not in ("warning", "end")]
    warned = [record(900 + k, "adversarial", "warning", message=f"{told} ({k})") for k in range(MOST_WARNINGS + 3)]
    write_log(b, [*records, *warned, record(2000, "end", "end", stopped=told)])
    page = many(a, b)
    assert "Step 1000, adversarial: entropy fell <b>fast</b> & far" in page.text
    assert f"Stopped early: {told}" in page.text
    assert f"Step 999, adversarial: {told} (99)" in page.text
    assert f"{told} (100)" not in page.text
    assert "3 more stand in log.jsonl." in page.text
    write_log(b, records)
    page = many(a, b)
    assert "Stopped early:" not in page.text
    assert "Warnings: the log holds none." in page.text


@pytest.mark.parametrize(
    ("method", "names"),
    [
        ("pg_bleu", ("bleu", "gradient_norm")),
        ("leakgan", ("reward_mean", "worker_norm", "manager_norm")),
        ("scratchgan", ("reward", "d_accuracy", "g_norm")),
        ("cot", ("divergence", "mediator_nll_valid")),
    ],
)
def test_each_method_has_its_reward_accuracy_and_gradients_on_the_page_of_several(tmp_path, method, names):
    """It showed what SeqGAN calls them, and nothing in the place of the others'."""
    runs = [seeded(tmp_path, name, seed, method=method) for seed, name in enumerate("ab")]
    values = dict.fromkeys(names, 0.5)
    for run in runs:
        write_log(run, [record(step, "adversarial", "train", **values, other=1.0) for step in (10, 20)])
    page = many(*runs)
    labels = [svg["aria-label"].split(":")[0] for svg in page.all("svg")]
    assert {name: labels.count(name) for name in names} == dict.fromkeys(names, 2)
    assert "other" not in labels
    assert page.text.count("the curves of other.") == 2


def test_what_stands_on_a_runs_own_page_is_named_with_the_way_there(tmp_path):
    """Lengths, n-grams and samples were neither shown nor named."""
    a, b = seeded(tmp_path, "a run", 1), seeded(tmp_path, "b", 2)
    page = many(a, b)
    parts = "Side by side; The discriminator; Lengths and n-grams; Samples; the curves of nll_train, d_loss."
    assert f"More is on its own page (seqforge report {a}): {parts}" in page.text
    build(a)
    (tmp_path / "elsewhere").mkdir()
    for out in (tmp_path / "many.html", tmp_path / "elsewhere" / "many.html"):
        page = Page(build_many([a, b], out, default_options).read_text())
        (link,) = [one["href"] for one in page.all("a") if not one["href"].startswith("#")]
        assert (out.parent / unquote(link)).resolve() == (a / "report.html").resolve()
        assert " " not in link
        assert f"More is on its own page of a run: {parts}" in page.text
        assert f"More is on its own page (seqforge report {b}): {parts}" in page.text
    page = Page(build_many([a, b], a / "report.html", default_options).read_text())  # in the place of its own
    assert not [one for one in page.all("a") if not one["href"].startswith("#")]


def test_a_gap_of_one_seed_has_its_sampling_error_or_the_reason_why_not(tmp_path):
    runs = [seeded(tmp_path, "a", 1), seeded(tmp_path, "b", 1, reward="random")]
    scores = scores_json()
    for one in scores["generators"][1]["scores"]:
        one["value"] -= 0.25 if one["name"] == "nll_test" else 0
    for run in runs:
        write(run, "scores.json", scores)
    page = many(*runs)
    why = f"one seed, and no draws.npz to tell its interval by; make it by: seqforge evaluate {runs[0]}."
    assert f"seqgan against its MLE: left out: {why}" in page.text
    assert "seqgan its MLE – – 1 " in page.text
    moves = np.random.default_rng(0).normal(0, 0.02, 400)
    for run in runs:
        draws = {
            g["name"]: {
                (s["name"], s["temperature"]): s["value"] + moves * (g["name"] == "final" and s["name"] == "nll_oracle")
                for s in g["scores"]
            }
            for g in scores["generators"]
        }
        save_draws(run / FILE, draws)
    page = many(*runs)
    assert f"seqgan its MLE −0.190 ± {1.96 * moves.std(ddof=1):.3f} – 1 (sampling error of one seed)" in page.text
    assert "left out" not in page.text
    assert "nll_oracle 8.790 ± 0.010" in page.text


@pytest.mark.usefixtures("drawn")
def test_png_of_several_runs_writes_the_joint_pictures_and_each_runs_under_its_name(tmp_path, capsys):
    runs = [seeded(tmp_path, "a", 1), seeded(tmp_path / "c", "a", 2), seeded(tmp_path, "b b", 3)]
    into = tmp_path / "pictures"
    assert main(["report", *map(str, runs), "--png", str(into)]) == 0
    files = sorted(into.iterdir())
    assert [Path(line) for line in sorted(capsys.readouterr().out.split())] == files
    own = {p.name for p in pictures_png(runs[0], tmp_path / "alone")}
    wanted = {"frontier-oracle.png"} | {f"{name}-{p}" for name in ("a-1", "a-2", "b_b") for p in own}
    assert {f.name for f in files} == wanted
    assert len(own) == 16
    assert all(f.read_bytes().startswith(b"\x89PNG\r\n\x1a\n") for f in files)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_png_of_runs_that_cannot_be_compared_writes_each_ones_and_says_why(tmp_path, monkeypatch):
    monkeypatch.setattr("seqforge.report.figures.Picture.png", lambda _, path: path.touch())
    a, b = seeded(tmp_path, "a", 1), seeded(tmp_path, "b", 2)
    write(b, "scores.json", (a / "scores.json").read_text().replace("|v:0.1", "|data:other|v:0.1"))
    with pytest.warns(UserWarning, match="Nothing is compared: .*data:other"):
        found = many_png([a, b], tmp_path / "pictures", default_options)
    assert {p.name.split("-")[0] for p in found} == {"a", "b"}
    bare = [tmp_path / name for name in ("c", "d")]
    for run in bare:
        run.mkdir()
        (run / "config.yaml").write_text("method: mle\n")
    with pytest.warns(UserWarning, match="c: there is nothing to draw yet"):  # noqa: SIM117
        with pytest.raises(ValueError, match="c: there is nothing to draw yet; train first"):
            many_png(bare, tmp_path / "x")
