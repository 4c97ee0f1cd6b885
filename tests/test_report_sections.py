"""What the sections say: of the discriminator, the samples, frontiers of text; and of runs that lack something."""

import json
import re
import shutil
from dataclasses import fields
from pathlib import Path

import pytest
import yaml
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from test_report import Page, described, finished_run, log_records, page_of, record, score, scores_json, write_log

from seqforge import __version__
from seqforge.cli import main
from seqforge.frontier import AXES
from seqforge.report import build, pictures_png
from seqforge.report.curves import read_curves
from seqforge.report.discriminator import WITHOUT
from seqforge.report.frontier import Line, Point, frontier_lines, label_temperatures
from seqforge.report.learning import GROUPS, grouped, levels
from seqforge.report.neighbours import WIDEST, pieces
from seqforge.training import METHODS


@pytest.fixture
def run(tmp_path):
    return finished_run(tmp_path / "seqgan-small")


def write(run, name, content):
    (run / name).write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")


def missing(run):
    return page_of(run).text.split("Not in this report")[-1]


def configure(run, **changes):
    config = yaml.safe_load((run / "config.yaml").read_text())
    (run / "config.yaml").write_text(yaml.safe_dump({**config, **changes}), encoding="utf-8")


# --- the discriminator -----------------------------------------------------------------------------------------------


def test_accuracy_and_calibration_are_told_with_their_intervals(run):
    page = page_of(run)
    assert "it gets 0.650 (95 % interval 0.600 to 0.700) of held-out and generated sequences right" in page.text
    assert "calibration error is 0.210 (95 % interval 0.150 to 0.270)" in page.text
    assert "would show 0.040 by chance" in page.text
    for cell in ("0.9 to 1.0", "0.970", "0.667 (0.567 to 0.767)", "60", "30"):
        assert cell in page.words
    assert "d_ece|n:100|v:0.1" in page.text
    (label,) = [svg["aria-label"] for svg in page.all("svg") if svg["aria-label"].startswith("Reliability")]
    assert label.endswith("at 0.06 0.25; at 0.45 0.43; at 0.97 0.67.")


@pytest.mark.parametrize(
    ("interval", "told"),
    [([0.47, 0.55], "no better than a coin"), ([0.97, 0.99], "nearly always right"), ([0.6, 0.7], None)],
)
def test_a_discriminator_at_chance_or_saturated_is_called_so(run, interval, told):
    found = described()["calibration.json"]
    found["scores"][0] |= {"interval": interval, "value": sum(interval) / 2}
    write(run, "calibration.json", found)
    text = page_of(run).text
    for sentence in ("no better than a coin", "nearly always right"):
        assert (sentence in text) == (sentence == told)


@pytest.mark.usefixtures("drawn")
def test_a_bin_of_real_sequences_alone_is_drawn(run):
    """Its share is 1, and Wilson's upper bound a rounding error below; no picture takes a negative length for that."""
    found = described()["calibration.json"]
    found["bins"][-1] |= {"share": 1.0, "low": 0.9, "high": 1 - 1e-16}
    found["bins"][0] |= {"share": 0.0, "low": 1e-17, "high": 0.1}
    write(run, "calibration.json", found)
    labels = [svg["aria-label"] for svg in page_of(run).all("svg")]
    assert any(label.startswith("Reliability") and " 1.00." in label for label in labels)


def test_a_method_without_a_discriminator_is_named(run):
    configure(run, method="cot")
    assert "a discriminator: cot has none (its mediator is a language model)" in missing(run)
    assert 'id="discriminator"' not in (run / "report.html").read_text()


def test_the_methods_named_as_without_one_are_those_whose_options_have_none():
    has = {name for name, (config, *_) in METHODS.items() if "discriminator" in {f.name for f in fields(config)}}
    assert METHODS.keys() - has == WITHOUT.keys()


def test_a_control_that_never_trained_it_is_told(run):
    configure(run, reward="random")
    assert "With --reward random nothing ever trained it" in page_of(run).text


# --- lengths, n-grams, samples ---------------------------------------------------------------------------------------


def test_lengths_and_ngrams_show_their_numbers(run):
    page = page_of(run)
    assert "final: 0.500 (0.200 to 0.800) tokens from the held-out data" in page.text
    for cell in ("60.0%", "0.900 (0.850 to 0.950)", "0.800 (0.700 to 0.900)"):
        assert cell in page.words
    assert "All have" not in page.text


@pytest.mark.usefixtures("drawn")
def test_sequences_of_one_length_need_no_picture_of_it(run):
    found = described()["distributions.json"]
    found["lengths"] |= {"edges": [20, 21], "counts": {"held-out data": [100], "final": [100]}}
    write(run, "distributions.json", found)
    page = page_of(run)
    assert "All have 20 tokens" in page.text
    assert not [svg for svg in page.all("svg") if svg["aria-label"].startswith("Lengths")]


def test_copied_spans_are_marked_on_both_sides(run):
    found = described()["nearest.json"]
    found["generators"][1]["temperatures"][0]["samples"][0]["text"] = "she <b>d a dog"
    write(run, "nearest.json", found)
    html = build(run).read_text()
    part = html[html.index('id="samples"') :]
    assert part.index("The final generator") < part.index("The pre-trained generator")
    assert "she <mark>&lt;b&gt;d a do</mark>g" in part
    assert "he <mark>had a dog</mark>" in part
    assert part.count("nearest, 0.80") == 4
    assert "Temperature 0.7 (1/T 1.43)" in part


def test_pieces_are_cut_at_the_spans_and_long_texts_end():
    one = {"text": "abcdef", "spans": [[0, 2], [3, 4]]}
    assert pieces(one) == [("ab", True), ("c", False), ("d", True), ("ef", False)]
    assert pieces({"text": "", "spans": []}) == []
    long = pieces({"text": "x" * (WIDEST + 5), "spans": [[0, 3]]})
    assert "".join(words for words, _ in long) == "x" * WIDEST + " …"
    for spans in ([[0, 9]], [[3, 2]], [[2, 4], [3, 5]]):
        with pytest.raises(ValueError, match="in a text of 6"):
            pieces({"text": "abcdef", "spans": spans})


@pytest.mark.parametrize("name", described())
@pytest.mark.parametrize("content", ["", "{", "[]", "{}", "null", '{"bins": 3}', "\xff"])
def test_a_file_that_is_not_what_it_should_be_is_named_and_the_rest_stands(run, name, content):
    (run / name).write_bytes(content.encode("latin-1"))
    page = page_of(run)
    assert page.open == []
    assert f"{name} cannot be read" in page.text
    assert f"make it anew by: seqforge evaluate {run}" in page.text
    assert "8.7900 ± 0.0050" in page.text


@pytest.mark.parametrize("name", described())
def test_a_figure_that_is_not_finite_is_refused(run, name):
    write(run, name, re.sub(r": ([0-9.]+)([,}\]])", r": NaN\2", json.dumps(described()[name])))
    assert f"{name} cannot be read" in page_of(run).text


@pytest.mark.parametrize("name", described())
def test_a_run_scored_before_there_was_such_a_file_says_how_to_make_it(run, name):
    (run / name).unlink()
    assert f"there is no {name}; make it by: seqforge evaluate {run}" in missing(run)


# --- frontiers and curves --------------------------------------------------------------------------------------------


def text_scores():
    def of(shift):
        for t in (0.7, 1.0, 1.3):
            yield score("reverse_lm3", 5.0 - t / 2 + shift, t)
            yield score("lm3", 3.0 + t + shift, t)
            yield score("self_bleu4", 0.8 - t / 4 - shift, t)
            yield score("bleu4", 0.5 - t / 5 - shift, t)

    judged = {"frontier": "bleu", "word": "loses to", "gap": 0.04, "low": 0.02, "high": 0.06}
    judged |= {"low_x": 0.47, "high_x": 0.62, "by": "bootstrap", "units": 400}
    generators = [{"name": n, "step": 9, "checkpoint": "step-9", "scores": [*of(s)]}
                  for n, s in (("pre-trained", 0.0), ("final", 0.1))]  # fmt: skip
    text = {"name": "training text itself", "scores": [score("bleu4", 0.4), score("self_bleu4", 0.3)]}
    return {"generators": generators, "references": [text], "verdict": "It loses.", "judgements": [judged]}


def test_a_text_run_has_both_frontiers_with_both_curves(run):
    write(run, "scores.json", text_scores())
    page = page_of(run)
    labels = [svg["aria-label"] for svg in page.all("svg")][:2]
    assert labels[0].startswith("lm3 over reverse_lm3, one curve over temperatures for each of: pre-trained, final.")
    assert labels[1].startswith("bleu4 over self_bleu4")
    assert "training text itself" in labels[1]
    assert "final: from 0.525, 0.26 at temperature 0.7 to 0.375, 0.14 at 1.3." in labels[1]
    assert "a curve nearer the upper left is better at both" in page.text
    assert (
        "Here it loses to MLE: at equal Self-BLEU-4 its BLEU-4 is -0.040 (95 % interval -0.060 to -0.020" in page.text
    )


def test_judgements_of_another_version_are_left_out(run):
    write(run, "scores.json", {**text_scores(), "judgements": [{"frontier": "bleu"}, 3, {"word": "beats"}]})
    assert "Here it" not in page_of(run).text


@pytest.mark.parametrize("broken", [{"value": None}, {"temperature": None}, {"stderr": "x"}, {"signature": 4}])
def test_scores_of_another_version_do_not_stop_the_page(run, broken):
    scores = text_scores()
    scores["generators"][1]["scores"][0] |= broken
    scores["generators"].append({"name": "odd", "scores": "none"})
    scores["references"].append("odd")
    write(run, "scores.json", scores)
    page = page_of(run)
    assert page.open == []
    assert "bleu4 over self_bleu4" in page.text
    assert frontier_lines({"generators": 7}, AXES["lm"]) == []


def test_curves_are_grouped_and_nothing_is_lost(run):
    values = {"reward": 0.3, "manager_norm": 7.0, "worker_norm": 2.0, "d_loss": 0.6, "d_accuracy": 0.7, "temper": 1.0}
    write_log(run, [record(s, "adversarial", "train", **values) for s in range(4)])
    configure(run, clip=5.0)
    text = page_of(run).text
    titles = [g.title for g in GROUPS if g.title in text.split("All panels share")[1].split("Samples")[0]]
    assert titles == [
        "The discriminator in training",
        "Reward and entropy",
        "Gradients",
        "Other figures of the training",
    ]
    assert "Clipped to 5 in 100% of the steps." in text
    assert "Clipped to 5 in 0% of the steps." in text
    labels = [svg["aria-label"].split(":")[0] for svg in Page((run / "report.html").read_text()).all("svg")]
    assert {*values} <= {*labels}


def test_a_loss_is_held_to_a_coin_only_where_it_is_that_loss(run):
    curves, _ = read_curves([record(0, "a", "train", d_loss=0.7, d_accuracy=0.5, entropy=2.0)])
    found = {c.name: levels(c, curves, {}) for c in curves}
    assert found["d_loss"] == {"a coin": pytest.approx(0.6931, abs=1e-4)}
    assert found["d_accuracy"] == {"a coin": 0.5}
    assert found["entropy"] == {}
    (alone,), _ = read_curves([record(0, "a", "train", d_loss=1.3)])
    assert levels(alone, [alone], {}) == {}


def test_the_norm_of_scratchgans_gradients_stands_with_the_gradients(run):
    curves, _ = read_curves([record(step, "adversarial", "train", g_norm=1.0, other=2.0) for step in (1, 2)])
    groups = {group.title: [p.caption for p in pictures] for group, pictures in grouped(curves, [], {})}
    assert groups == {"Gradients": ["g_norm"], "Other figures of the training": ["other"]}


# --- runs that lack something ----------------------------------------------------------------------------------------


def test_a_run_without_checkpoints_says_so(run):
    shutil.rmtree(run / "checkpoints")
    assert "Checkpoints: there is none" in missing(run)


def test_a_run_that_is_running_or_cut_off_says_how_far_it_is_and_how_to_go_on(run):
    write_log(run, [r for r in log_records() if r["step"] <= 1500 and r["kind"] != "end"])
    for name in ("scores.json", *described()):
        (run / name).unlink()
    text = page_of(run).text
    assert "No verdict: the run has not been scored (it is still running or was cut off, at step 1500)." in text
    assert f"to go on with it: seqforge resume {run}" in text
    assert re.search(r"log\.jsonl, last written \d{4}-\d\d-\d\d \d\d:\d\d, has no end record", text)
    assert "steps 1500" in text


def test_a_run_of_another_version_is_called_so(run):
    configure(run, seqforge="0.0.1")
    assert f"seqforge 0.0.1, which made this run, wrote otherwise than {__version__}" in missing(run)
    configure(run, seqforge=__version__)
    assert "which made this run" not in page_of(run).text


def test_a_run_with_one_generator_has_no_verdict_and_says_what_would_make_one(run):
    scores = scores_json()
    write(run, "scores.json", {**scores, "generators": scores["generators"][1:], "verdict": None})
    text = page_of(run).text
    assert "No verdict: the run has one generator" in text
    assert "seqforge compare MLE_RUN THIS_RUN" in text.split("Not in this report")[-1]


def test_time_by_phase_and_memory_are_told(run):
    text = page_of(run).text
    assert "time from mle on 1 min 22 s" in text  # steps 0 to 820 at a tenth of a second
    assert "time from adversarial on 1 min 40 s" in text  # 1000 to 2000
    assert "peak memory of the process 512 MiB" in text
    write_log(run, [{k: v for k, v in r.items() if k != "peak_memory"} for r in log_records()])
    assert "Peak memory: the end record" in missing(run)


# --- pictures --------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("drawn")
def test_png_writes_each_picture_of_the_page_once(run, tmp_path, capsys):
    assert main(["report", str(run), "--png", str(tmp_path / "pictures")]) == 0
    files = sorted((tmp_path / "pictures").iterdir())
    assert [Path(line) for line in sorted(capsys.readouterr().out.split())] == files
    assert len(files) == len(page_of(run).all("figure")) == 16
    assert {"frontier-oracle.png", "discriminator-reliability.png", "lengths.png", "ranks-1.png"} <= {
        f.name for f in files
    }
    assert all(f.read_bytes().startswith(b"\x89PNG\r\n\x1a\n") for f in files)
    first = files[0].read_bytes()
    pictures_png(run, tmp_path / "pictures")
    assert files[0].read_bytes() == first


def test_png_is_refused_where_it_would_do_nothing(run, tmp_path, capsys):
    assert main(["report", str(run), "--png", str(tmp_path / "x"), "--out", "y.html"]) == 2
    assert "--png: goes without --out" in capsys.readouterr().err
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="is a file; give a folder"):
        pictures_png(run, tmp_path / "file")
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare/config.yaml").write_text("method: mle\n")
    with pytest.raises(ValueError, match="nothing to draw yet"):
        pictures_png(tmp_path / "bare", tmp_path / "x")


def test_labels_of_curves_that_lie_close_cover_neither_one_another_nor_a_point():
    figure = Figure((2.4, 2.4), dpi=100)
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0.1, 0.1, 0.8, 0.8))
    heats = [1.25, 1.1, 1.0, 0.9, 0.8, 0.7, 0.6, 0.5]
    lines = [
        Line(name, [Point(t, 8 + (k + by) ** 2 / 9, None, 9 - k / 3, None) for k, t in enumerate(heats)])
        for name, by in (("mle", 0.0), ("final", 0.15))
    ]
    for line in lines:
        axes.plot([p.x for p in line.points], [p.y for p in line.points], "o")
    label_temperatures(axes, lines, ["blue", "red"])
    figure.canvas.draw()
    boxes = [text.get_window_extent() for text in axes.texts]
    assert {"1.25", "1", "0.5"} <= {text.get_text() for text in axes.texts}
    assert 6 < len(boxes) < 16
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
    spots = [axes.transData.transform((p.x, p.y)) for line in lines for p in line.points]
    assert not any(box.contains(*spot) for box in boxes for spot in spots)
