"""Runs side by side: groups, gaps and ranks over seeds, refusals, tables."""

import json
import re

import numpy as np
import pytest
import yaml
from scipy import stats
from test_frontier import LINE, curve, score

from seqforge import health
from seqforge.cli import main
from seqforge.compare import compare, difference, group_of, paired_p, ranks, read_run
from seqforge.frontier import AXES, ORACLE
from seqforge.report import comparison
from seqforge.tables import as_latex, as_markdown, comparison_tables, print_comparison
from seqforge.training import default_options
from seqforge.verdict import FILE, Judgement, save_draws


def make_run(folder, seed, final, before=None, method="seqgan", reward="discriminator"):
    """A finished run whose generators have these scores."""
    folder.mkdir()
    config = {"method": method, "seed": seed} | ({"reward": reward} if reward else {})
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    named = [("pre-trained", before), ("final", final)]
    generators = [{"name": name, "scores": scores} for name, scores in named if scores is not None]
    (folder / "scores.json").write_text(json.dumps({"generators": generators}))
    return folder


def lowered(by):
    return [(x, y - by) for x, y in LINE]


def moved(run, moves, quality="nll_oracle"):
    """Draws that move all of a generator's qualities by the same number, and nothing else; moves: by generator."""
    rows = json.loads((run / "scores.json").read_text())["generators"]
    held = {
        row["name"]: {
            (s["name"], s["temperature"]): s["value"] + moves[row["name"]] * (s["name"] == quality)
            for s in row["scores"]
        }
        for row in rows
        if row["name"] in moves
    }
    save_draws(run / FILE, held)


MOVES = np.random.default_rng(0).normal(0, 0.02, 400)
HALF = 1.96 * np.std(MOVES, ddof=1)


def two_runs(home):
    """Of one seed: the one lower by 0.2 than its MLE and by 0.3 than the other; all scatter is that of its samples."""
    runs = [make_run(home / "a", 1, curve(lowered(0.2), 0.01), curve(LINE))]
    runs += [make_run(home / "b", 1, curve(lowered(-0.1), 0.01), curve(LINE), reward="random")]
    for run, scale in zip(runs, (1, 0), strict=True):
        moved(run, {"pre-trained": 0 * MOVES, "final": scale * MOVES})
    return runs


def test_groups_of_runs_with_intervals_and_gaps_paired_by_seed(tmp_path):
    drops = {"discriminator": [0.3, 0.5, 0.1], "constant": [0.2, 0.3, 0.1]}
    runs = [
        make_run(tmp_path / f"{reward}-{seed}", seed, curve(lowered(drop)), curve(LINE), reward=reward)
        for reward, all_ in drops.items()
        for seed, drop in enumerate(all_)
    ]
    found = compare(runs)
    assert list(found["groups"]) == ["seqgan, discriminator reward", "seqgan, constant reward"]
    group = found["groups"]["seqgan, discriminator reward"]
    assert group["seeds"] == [0, 1, 2]
    half = 4.303 * 0.2 / 3**0.5  # standard deviation of 0.3, 0.5, 0.1
    for gaps in group["to_pretrained"].values():
        assert gaps["seeds"] == [0, 1, 2]
        assert gaps["gap"] == pytest.approx((-0.3, half), rel=1e-3)
    assert group["scores"]["nll_oracle"] == pytest.approx((9.0 - 0.3, half), rel=1e-3)  # at temperature 1 alone
    assert group["scores"]["nll_test"] == pytest.approx((8.0, 0.0))
    (gap,) = found["gaps"]
    assert (gap["of"], gap["against"]) == tuple(found["groups"])
    for gaps in (gap["at_one"], gap["over_range"]):
        assert gaps["seeds"] == [0, 1, 2]
        assert gaps["gap"] == pytest.approx((-0.1, 4.303 * 0.1 / 3**0.5), rel=1e-3)  # differences -0.1, -0.2, 0


def test_only_seeds_that_both_groups_have_are_paired(tmp_path):
    runs = [make_run(tmp_path / f"a{s}", s, curve(lowered(0.1 * s)), curve(LINE)) for s in (1, 2)]
    runs += [make_run(tmp_path / f"b{s}", s, curve(LINE), reward="random") for s in (2, 3)]
    found = compare(runs)
    for gaps in (found["gaps"][0], found["groups"]["seqgan, random reward"]["to_pretrained"]):
        assert {kind: gaps[kind]["p"] for kind in ("at_one", "over_range")} == {"at_one": None, "over_range": None}
    assert found["gaps"][0]["at_one"]["seeds"] == [2]
    none = {"seeds": [], "gap": None, "by": None, "p": None, "reason": None}
    assert found["groups"]["seqgan, random reward"]["to_pretrained"]["at_one"] == none


def test_runs_of_other_settings_are_other_groups_named_by_the_difference(tmp_path):
    """Runs of 50 and of 100 rounds were averaged as if they were seeds of one experiment."""
    first = {"method": "seqgan", "reward": "discriminator", "seed": 1, "rounds": 50, "mle": {"epochs": 5}}
    seen: dict = {}
    assert group_of(first, seen) == "seqgan, discriminator reward"
    assert group_of({**first, "seed": 2, "threads": 1, "from": "x"}, seen) == "seqgan, discriminator reward"
    other = {**first, "rounds": 100, "mle": {"epochs": 6}}
    assert group_of(other, seen) == "seqgan, discriminator reward (mle.epochs 6, rounds 100)"


def test_an_option_that_an_older_run_did_not_have_stands_at_its_default():
    """Seeds made before and after an option came to be were two experiments."""
    old = {"method": "cot", "mediator": {"hidden": 64}}
    new = {"method": "cot", "seed": 4, "mediator": {"hidden": 64, "kind": "lstm"}}
    other = {"method": "cot", "mediator": {"hidden": 64, "kind": "transformer"}}
    for runs in ((old, new, other), (new, old, other)):
        seen: dict = {}
        found = [group_of(run, seen, default_options) for run in runs]
        assert found == ["cot", "cot", "cot (mediator.kind transformer)"]
    assert default_options("newgan") == {}


def test_a_run_without_reward_is_called_by_its_method(tmp_path):
    assert group_of({"method": "mle"}, {}) == "mle"
    run = make_run(tmp_path / "m", 0, curve(LINE), method="mle", reward=None)
    assert compare([run])["groups"]["mle"]["scores"]["nll_test"] == (8.0, pytest.approx(1.96 * 0.5))
    assert compare([run])["gaps"] == []


@pytest.mark.parametrize("other", [curve(LINE, n=200), curve(LINE[:2])])
def test_runs_measured_otherwise_are_refused_with_both_names(tmp_path, other):
    a, b = make_run(tmp_path / "a", 0, curve(LINE)), make_run(tmp_path / "b", 1, other)
    told = f"{re.escape(str(a))} and {re.escape(str(b))} cannot be compared"
    with pytest.raises(ValueError, match=told):
        compare([a, b])
    with pytest.raises(ValueError, match="cannot be compared"):
        compare([b, a])
    if len(other) == len(curve(LINE)):
        with pytest.raises(ValueError, match=r"n:100.* against .*n:200"):
            compare([a, b])


def test_the_signatures_named_are_of_one_score():
    """With scores that only one side has, the first of each in the alphabet were named: BLEU against NLL_test."""
    mine, theirs = (
        [score(name, 1.0, 0.0, n=n) for name in (name, "nll_test")] for name, n in (("bleu2", 1), ("fed", 2))
    )
    assert difference(mine, theirs) == ("nll_test|n:1|temp:1.0", "nll_test|n:2|temp:1.0")
    assert difference(theirs, mine) == ("nll_test|n:2|temp:1.0", "nll_test|n:1|temp:1.0")
    assert difference(mine, theirs, ["bleu2", "fed"]) is None
    cooler = [*mine, score("nll_test", 0.8, 0.0, n=1)]
    assert difference(mine, cooler) == ("temperatures 1", "temperatures 0.8, 1")


def test_a_score_that_a_run_could_not_have_is_left_out_and_named(tmp_path, capsys):
    """A run whose samples were too few for one metric could be compared with no other, however it was evaluated."""
    full = [*curve(LINE), score("true_nll", 1.0, 5.0)]
    runs = [make_run(tmp_path / str(k), k, s, curve(LINE)) for k, s in enumerate((full, curve(LINE), full))]
    (group,) = compare(runs)["groups"].values()
    assert group["left_out"] == ["true_nll"]
    assert set(group["scores"]) == {"nll_test", "nll_oracle"}
    print_comparison(compare(runs))
    assert "left out, as not every run has them: true_nll" in capsys.readouterr().out


def judged(runs, frontiers):
    """Write to each run the judgements on the frontiers named: (word, gap) by name."""
    for run, found in zip(runs, frontiers, strict=True):
        held = json.loads((run / "scores.json").read_text())
        each = [
            Judgement(name, word, gap, gap - 0.05, gap + 0.05, 8.0, 10.0, "bootstrap", 400).as_dict()
            for name, (word, gap) in found.items()
        ]
        (run / "scores.json").write_text(json.dumps({**held, "judgements": each}))


def test_the_verdict_is_on_the_frontier_compared_whatever_the_first_seed_has(tmp_path):
    """A first seed without a shared range there gave the word to the next frontier: "beats" where every seed loses."""
    runs = [make_run(tmp_path / str(k), k, curve(LINE), curve(LINE)) for k in range(3)]
    losing = {"oracle": ("loses to", 0.3), "bleu": ("beats", -0.1)}
    judged(runs, ({"bleu": ("beats", -0.1)}, losing, {**losing, "oracle": ("loses to", 0.31)}))
    (group,) = compare(runs)["groups"].values()
    assert [v["frontier"] for v in group["verdicts"]] == ["oracle", "bleu"]
    assert group["verdict"]["word"] == "loses to MLE"
    assert group["verdict"]["reason"].endswith("Seeds without a shared range, not counted: 0.")


def test_one_seed_of_several_gives_no_word_and_a_collapse_is_said(tmp_path):
    """Two collapsed seeds left the third to speak for them: "beats MLE ... one seed" """
    rich, poor = (score("entropy", 1.0, value) for value in (5.0, 1.0))
    before = [*curve(LINE), rich]
    runs = [make_run(tmp_path / str(k), k, [*curve(LINE), poor if k else rich], before) for k in range(3)]
    judged(runs, ({"oracle": ("beats", -0.3)}, {}, {}))
    (group,) = compare(runs)["groups"].values()
    told = group["verdict"]
    assert told["word"] == "no verdict"
    assert told["reason"].startswith("only seed 0 of 3 shares a range")
    assert [f"Seed {k}: It has collapsed" in told["reason"] for k in range(3)] == [False, True, True]
    judged(runs, ({}, {}, {}))
    for run in runs:
        held = json.loads((run / "scores.json").read_text())
        (run / "scores.json").write_text(json.dumps({**held, "verdict": "It has collapsed."}))
    (_, gaps, verdicts) = comparison_tables(compare(runs))
    assert gaps[2][0][1] == "its MLE"
    assert verdicts[2][0][1:] == [
        "no verdict",
        "no seed has one on the frontier compared. " + " ".join(f"Seed {k}: It has collapsed." for k in range(3)),
    ]


def test_gaps_beyond_the_curve_are_no_gaps_at_equal_diversity(tmp_path):
    """Distances of a collapsed seed to the end of the other's curve were averaged with gaps at equal NLL_test."""
    worse = curve([(11.0, 9.0), (12.0, 8.5)])
    runs = [make_run(tmp_path / str(k), k, s, curve(LINE)) for k, s in enumerate((worse, curve(lowered(0.2))))]
    gap_at = compare([runs[1]])["groups"]
    with pytest.raises(ValueError, match="temperatures"):
        compare([make_run(tmp_path / "t", 5, curve(LINE)), runs[0]])
    worse = curve([(11.0, 9.0), (12.0, 8.5), (13.0, 8.4)])
    runs[0] = make_run(tmp_path / "w", 0, worse, curve(LINE))
    (group,) = compare(runs)["groups"].values()
    (alone,) = gap_at.values()
    assert group["to_pretrained"]["at_one"] == alone["to_pretrained"]["at_one"]


# --- runs of another version ---------------------------------------------------------------------------------------


def without(run, key):
    scores = json.loads((run / "scores.json").read_text())
    for s in scores["generators"][-1]["scores"]:
        del s[key]
    (run / "scores.json").write_text(json.dumps(scores))


def judged_as(run, **changes):
    """A judgement with these keys more; None: with one less."""
    one = Judgement("oracle", "beats", -0.1, -0.2, 0.0, 8.0, 9.0, "bootstrap", 400).as_dict() | changes
    scores = json.loads((run / "scores.json").read_text())
    scores["judgements"] = [{k: v for k, v in one.items() if v is not None}]
    (run / "scores.json").write_text(json.dumps(scores))


OTHER = {
    "no method": (lambda run: (run / "config.yaml").write_text("seed: 1\n"), "config.yaml: it has no method; restore"),
    "no seed": (lambda run: (run / "config.yaml").write_text("method: mle\n"), "config.yaml: it has no seed; restore"),
    "no mapping": (lambda run: (run / "config.yaml").write_text("- 1\n"), "config.yaml: it is [1], not a mapping"),
    "no signature": (lambda run: without(run, "signature"), "a score of final has no signature; make it anew by"),
    "no temperature": (lambda run: without(run, "temperature"), "a score of final has no temperature; make it anew by"),
    "judged more": (lambda run: judged_as(run, units_2=3), "a judgement has units_2, which is not known here"),
    "judged less": (lambda run: judged_as(run, units=None), "a judgement has no units; make it anew by"),
    "a list": (lambda run: (run / "scores.json").write_text("[]"), "scores.json: it is [], not a mapping"),
}


@pytest.mark.parametrize("kind", OTHER)
def test_a_run_of_another_version_is_one_line_with_the_remedy(tmp_path, capsys, kind):
    """Each ended in a traceback: KeyError, TypeError."""
    runs = two_runs(tmp_path)
    spoil, told = OTHER[kind]
    spoil(runs[1])
    assert main(["compare", *map(str, runs)]) == 2
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1
    assert str(runs[1]) in said
    assert told in said
    if "scores.json" in said:
        assert f"seqforge evaluate {runs[1]}" in said


# --- the picture ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "reward", "phase", "name"),
    [
        ("seqgan", "discriminator", "adversarial", "seqgan, discriminator reward, training"),
        ("pg_bleu", "bleu", "policy gradient", "pg_bleu, bleu reward, training"),
        ("cot", None, "cooperative", "cot, training"),
    ],
)
def test_the_picture_has_the_path_of_every_stage(tmp_path, monkeypatch, method, reward, phase, name):
    """It knew no phase but "adversarial", and said of PG-BLEU and CoT that they had measured nothing."""
    assert phase in health.STAGES
    run = make_run(tmp_path / "a", 1, curve(LINE), method=method, reward=reward)
    looks = [("mle", 5, 9.0, 9.0), ("mle", 10, 8.5, 8.6), (phase, 20, 8.6, 8.2), (phase, 30, 8.7, 7.9)]
    records = [
        {
            "step": step,
            "phase": phase_,
            "kind": "evaluation",
            "scores": {"nll_test": {"value": x}, "nll_oracle": {"value": y}},
        }
        for phase_, step, x, y in looks
    ]
    records.insert(0, {"step": 0, "phase": "mle", "kind": "evaluation", "scores": {"fed": {"value": 1.0}}})
    (run / "log.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    drawn = []
    monkeypatch.setattr(comparison, "write_png", lambda figure, _: drawn.append(figure))
    comparison.compare_png([run], tmp_path / "plot.png")
    path, last = drawn[0].axes[0].get_lines()[:2]
    assert list(zip(path.get_xdata(), path.get_ydata(), strict=True)) == [(8.5, 8.6), (8.6, 8.2), (8.7, 7.9)]
    assert last.get_label() == name


def test_the_picture_of_runs_on_a_grammar_has_the_share_of_right_samples_by_round(tmp_path, monkeypatch):
    runs = []
    for reward, last in (("discriminator", 0.4), ("constant", 0.0)):
        run = make_run(tmp_path / reward, 1, [], [], method="scratchgan", reward=reward)
        right = {"name": "grammatical", "temperature": 1.0, "value": 0.9}
        named = [("MLE counterpart", [right]), ("final", [{**right, "value": last}])]
        (run / "scores.json").write_text(json.dumps({"generators": [{"name": n, "scores": s} for n, s in named]}))
        looks = [{"step": step, "value": value} for step, value in ((12, 0.0), (17, last / 2), (22, last))]
        records = [
            {"phase": "adversarial", "kind": "evaluation", "step": x["step"], "scores": {"grammatical": x}}
            for x in looks
        ]
        (run / "log.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
        runs.append(run)
    drawn = []
    monkeypatch.setattr(comparison, "write_png", lambda figure, _: drawn.append(figure))
    comparison.compare_png(runs, tmp_path / "plot.png")
    lines = drawn[0].axes[0].get_lines()
    paths = [list(zip(line.get_xdata(), line.get_ydata(), strict=True)) for line in lines]
    assert paths[0] == [(0, 0.0), (5, 0.2), (10, 0.4)]
    assert paths[2] == [(0, 0.0), (5, 0.0), (10, 0.0)]
    assert [line.get_label() for line in lines][1::2] == [f"scratchgan, {r.name} reward, training" for r in runs]
    assert list(lines[4].get_ydata()) == [0.9, 0.9]
    assert lines[4].get_label() == "MLE counterpart"


def three_groups(home):
    """Discriminator, constant and random reward, seeds 0 to 2; the first is best in two of three."""
    drops = {"discriminator": [0.3, 0.5, 0.1], "constant": [0.2, 0.3, 0.2], "random": [0.0, 0.1, 0.05]}
    return [
        make_run(home / f"{reward}-{seed}", seed, curve(lowered(drop)), curve(LINE), reward=reward)
        for reward, all_ in drops.items()
        for seed, drop in enumerate(all_)
    ]


def test_gaps_are_tested_in_pairs_and_groups_ranked(tmp_path):
    found = compare(three_groups(tmp_path))
    assert found["frontier"] == "oracle"
    wanted = stats.ttest_rel([-0.3, -0.5, -0.1], [-0.2, -0.3, -0.2]).pvalue
    assert found["gaps"][0]["over_range"]["p"] == pytest.approx(wanted, rel=1e-6)
    assert [g["rank"] for g in found["groups"].values()] == pytest.approx([4 / 3, 5 / 3, 3.0])
    assert paired_p([0.3]) is None
    assert paired_p([0.3, 0.3]) is None


def test_groups_without_a_seed_in_common_have_no_rank(tmp_path):
    runs = [make_run(tmp_path / "a", 1, curve(LINE)), make_run(tmp_path / "b", 2, curve(LINE), reward="random")]
    assert [g["rank"] for g in compare(runs)["groups"].values()] == [None, None]


def test_groups_that_share_no_diversity_share_their_rank():
    far = [(x + 3, y) for x, y in LINE]
    assert ranks({"a": {0: curve(LINE)}, "b": {0: curve(far)}}, ORACLE) == {"a": 1.5, "b": 1.5}


def test_the_verdict_of_several_seeds_is_over_the_seeds(tmp_path):
    runs = three_groups(tmp_path)[:3]
    for run, gap in zip(runs, (-0.3, -0.5, -0.1), strict=True):
        held = json.loads((run / "scores.json").read_text())
        one = Judgement("oracle", "beats", gap, gap - 0.05, gap + 0.05, 8.0, 10.0, "bootstrap", 400)
        (run / "scores.json").write_text(json.dumps({**held, "judgements": [one.as_dict()]}))
    (group,) = compare(runs)["groups"].values()
    (told,) = group["verdicts"]
    assert (told["word"], told["by"], told["each"]) == ("ties with", "seeds", ["beats"] * 3)
    assert "-0.797 to +0.197, 3 seeds" in told["reason"]
    for shown in (as_markdown, as_latex):  # for a paper, in full
        text = shown(comparison_tables(compare(runs)))
        assert "ties with MLE" in text
        assert "-0.797 to +0.197, 3 seeds" in text
    assert r"\begin{tabular}{llp{.6\linewidth}}" in text


def test_text_is_compared_on_a_frontier_of_its_own(tmp_path):
    """LM scores have the lead over BLEU, and a share that is better when higher keeps its sign."""

    def renamed(points, sign=1, **names):
        return [{**s, "name": names[s["name"]], "value": sign * s["value"]} for s in curve(points)]

    lm = {"nll_test": "reverse_lm3", "nll_oracle": "lm3"}
    a = make_run(tmp_path / "a", 0, renamed(lowered(0.2), **lm))
    b = make_run(tmp_path / "b", 0, renamed(LINE, **lm), reward="random")
    moves = np.array([-0.03, -0.02, -0.01, 0.0, 0.0, 0.01, 0.02, 0.03])  # of eight parts
    moved(a, {"final": moves}, "lm3")
    moved(b, {"final": 0 * moves}, "lm3")
    found = compare([a, b])
    assert found["frontier"] == "lm"
    half = 2.365 * np.std(moves, ddof=1) / 8**0.5
    assert found["gaps"][0]["over_range"]["gap"] == pytest.approx((-0.2, half), rel=1e-3)
    assert found["gaps"][0]["over_range"]["by"] == "parts"
    (_, _, rows) = comparison_tables(found)[1]
    assert rows[-1][3] == f"-0.200 ± {half:.3f} (one seed)"


def test_tables_as_markdown_and_latex(tmp_path, capsys):
    runs = [str(r) for r in three_groups(tmp_path)]
    assert main(["compare", *runs, "--format", "markdown"]) == 0
    lines = capsys.readouterr().out.splitlines()
    row = next(x for x in lines if x.startswith("| seqgan, constant reward | 0, 1, 2"))
    assert "| 1.67 | 8.767 ± 0.143 | 8.000 ± 0.000 |" in row
    assert {x.count("|") for x in lines if x.startswith("| seqgan, constant reward | 0")} == {lines[2].count("|")}
    assert main(["compare", *runs, "--format", "latex"]) == 0
    text = capsys.readouterr().out
    assert r"seqgan, constant reward & 0, 1, 2 & 1.67 & 8.767 $\pm$ 0.143 & 8.000 $\pm$ 0.000 \\" in text
    assert r"nll\_oracle" in text
    assert text.count(r"\begin{tabular}") == text.count(r"\end{tabular}") == 3
    assert main(["compare", *runs, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["frontier"] == "oracle"
    assert main(["compare", *runs, "--format", "word"]) == 2
    assert "--format is 'word'" in capsys.readouterr().err


def test_a_seed_twice_in_a_group_is_refused(tmp_path):
    runs = [make_run(tmp_path / name, 4, curve(LINE)) for name in ("a", "b")]
    with pytest.raises(ValueError, match=r"b: a second run of seqgan, discriminator reward with seed 4"):
        compare(runs)


def test_folders_that_are_no_finished_run_are_refused_with_the_remedy(tmp_path):
    with pytest.raises(ValueError, match=re.escape(f"{tmp_path}: not a run folder")):
        read_run(tmp_path)
    run = make_run(tmp_path / "a", 0, curve(LINE))
    (run / "scores.json").unlink()
    with pytest.raises(
        ValueError,
        match=re.escape(f"{run}: no scores.json yet; a run makes it as it ends, or: seqforge evaluate {run}"),
    ):
        compare([run])


def test_many_scores_are_lines_of_the_table_on_the_terminal(capsys):
    """A column of two letters says nothing."""
    scores = dict.fromkeys(("right", "perplexity", "copied", "bleu3", "bleu4", "fed"), (0.123, 0.045))
    none = {"gap": None, "by": None, "p": None, "seeds": [], "reason": None}
    group = {"seeds": [1, 2], "rank": 1.0, "scores": scores, "verdicts": [], "verdict": None, "left_out": []}
    group["to_pretrained"] = {"at_one": none, "over_range": none}
    print_comparison({"groups": {"a": group, "b": group}, "gaps": [], "frontier": next(iter(AXES))})
    printed = capsys.readouterr().out
    assert "…" not in printed
    assert "perplexity  0.123 ± 0.045  0.123 ± 0.045" in printed
