"""The page outlives the run: what it shows must be what the run wrote, and what it lacks must be named."""

import json
import math
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml

from seqforge.frontier import ORACLE
from seqforge.report import build, curves_png
from seqforge.report.curves import MOST_DRAWN, MOST_LISTED, read_curves, read_phases
from seqforge.report.folder import read_log
from seqforge.report.frontier import free_side, frontier_lines
from seqforge.report.tables import show, side_by_side

TEMPERATURES = (0.7, 1.0, 1.3)


def record(step, phase, kind, **extra):
    return {"step": step, "phase": phase, "kind": kind, "seconds": step / 10, **extra}


def score(name, value, temperature=1.0, n=9984, stderr: float | None = 0.005):
    signature = f"{name}|n:{n}|temp:{temperature}|seed:7|v:0.1"
    unit = "nats per token"
    return {"name": name, "value": value, "stderr": stderr, "unit": unit, "temperature": temperature} | {
        "signature": signature
    }


def evaluation(step, phase, oracle, test):
    scores = {name: score(name, value) for name, value in (("nll_oracle", oracle), ("nll_test", test))}
    return record(step, phase, "evaluation", scores=scores)


def log_records():
    start = dict(version="0.1.0", torch="2.13.0", python="3.11.7", device="cpu", threads=1, seed=7, commit="abc1234")
    yield record(0, "mle", "start", precision="float32", **start)
    for step in range(0, 801, 40):
        fall = math.exp(-step / 300)
        speed = 41000.0 + step
        yield record(
            step, "mle", "train", epoch=step / 40, nll_train=4 + fall, nll_valid=4.2 + fall, tokens_per_second=speed
        )
        yield evaluation(step, "mle", 9.1 + 1.3 * fall, 8.6 + fall)
    for step in range(820, 1001, 20):
        yield record(step, "discriminator", "train", d_loss=0.69 - step / 4000, d_accuracy=0.5 + (step - 800) / 500)
    yield record(1000, "adversarial", "warning", message="entropy fell <b>fast</b> & far")
    for step in range(1010, 2001, 10):
        wave = math.sin(step / 30) / 20
        values = {"reward_mean": 0.3 + step / 8000 + wave, "d_accuracy": 0.8 + wave, "entropy": 3.1 - step / 2000}
        yield record(step, "adversarial", "train", gradient_norm=1 + 4 * abs(wave), d_loss=0.4 + wave, **values)
        if step % 100 == 0:
            yield evaluation(step, "adversarial", 9.19 - step / 5000, 8.67 + step / 9000)
    yield record(2000, "adversarial", "end", tokens=1234567, peak_memory=512 * 2**20)


def scores_json():
    def frontier(oracle, test):
        for at in TEMPERATURES:
            yield score("nll_oracle", oracle + 1.2 * (at - 1), at)
            yield score("nll_test", test + 2 * (at - 0.95) ** 2, at)

    generators = [("pre-trained", 800, 9.1, 8.6), ("final", 2000, 8.79, 8.89)]
    return {
        "generators": [
            {"name": name, "step": step, "checkpoint": f"checkpoints/step-{step}"}
            | {"scores": [*frontier(oracle, test), score("self_bleu_4", 0.4321, stderr=None)]}
            for name, step, oracle, test in generators
        ],
        "references": [{"name": "the oracle itself", "scores": [score("nll_oracle", 5.77, n=100)]}],
        "verdict": "Adversarial training helped: nll_oracle fell by 0.31 nats.",
    }


def described():
    """What `seqforge evaluate` writes for the report besides scores."""

    def one(name, value, low, high):
        return {"name": name, "value": value, "interval": [low, high], "signature": f"{name}|n:100|v:0.1"}

    parts = [(0.0, 10, 30, 0.06, 0.25), (0.4, 30, 40, 0.45, 3 / 7), (0.9, 60, 30, 0.97, 2 / 3)]
    names = ("from", "real", "generated", "p", "share")
    bins = [
        {**dict(zip(names, b, strict=True)), "to": b[0] + 0.1, "low": b[4] - 0.1, "high": b[4] + 0.1} for b in parts
    ]
    scores = [one("d_accuracy", 0.65, 0.6, 0.7), one("d_ece", 0.21, 0.15, 0.27)]
    judged = {"step": 2000, "kind": "CNNDiscriminator", "of": "sequences", "pairs": False, "by_chance": 0.04}
    sets = ("held-out data", "pre-trained", "final")
    ranks = {"types": 3, "occurrences": 10, "ranks": [[1, 0.5], [2, 0.3], [3, 0.2]]}
    known = {"known": one("known1", 0.9, 0.85, 0.95), "covered": one("covered1", 0.8, 0.7, 0.9)}
    apart = {name: [one("length_distance", 0.5, 0.2, 0.8)] for name in sets[1:]}
    lengths = {"edges": [3, 4, 5], "counts": {name: [60, 40] for name in sets}, "scores": apart}
    held = {"held-out data": {**ranks, "known": known["known"]}}
    near = {"text": "he had a dog", "spans": [[3, 12]], "row": 4, "like": 0.8}
    sample = {"text": "she had a dog", "spans": [[4, 13]], "near": near}
    columns = [{"temperature": t, "samples": [sample]} for t in (0.7, 1.0)]
    generators = [{"name": name, "temperatures": columns} for name in sets[1:]]
    grams = [{"order": 1, "of": {**held, **{name: {**ranks, **known} for name in sets[1:]}}}]
    looked = {"training": [50, 50], "least": 3, "seed": 7, "asked": None}
    return {
        "calibration.json": {**judged, "scores": scores, "bins": bins},
        "distributions.json": {"sequences": 100, "training": [50, 50], "lengths": lengths, "ngrams": grams},
        "nearest.json": {**looked, "generators": generators},
    }


def write_log(run, records):
    (run / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in records), encoding="utf-8")


@pytest.fixture
def run(tmp_path):
    return finished_run(tmp_path / "seqgan-small")


def finished_run(run):
    """The folder of a run that has ended, as a method would leave it."""
    (run / "samples").mkdir(parents=True)
    (run / "checkpoints/step-2000").mkdir(parents=True)
    config = {"method": "seqgan", "seed": 7, "data": {"path": "poems.txt", "max_length": 20}, "note": None}
    (run / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    write_log(run, log_records())
    (run / "scores.json").write_text(json.dumps(scores_json()), encoding="utf-8")
    for name, content in described().items():
        (run / name).write_text(json.dumps(content), encoding="utf-8")
    for step in (200, 800, 2000):
        lines = [f"sequence {row} of {step}" for row in range(30)]
        lines[1] = "<script>alert('boo')</script> & <img src=x onerror=y>"
        (run / f"samples/step-{step}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return run


class Page(HTMLParser):
    """Tags, attributes and text of a page, read as a browser would."""

    void = frozenset({"meta", "link", "br", "img"})

    def __init__(self, html):
        super().__init__()
        self.tags, self.words, self.open = [], [], []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.void:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag
        if tag in ("td", "th", "li", "p", "h1", "h2", "h3"):
            self.words.append(" ")

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self):
        return re.sub(r"\s+", " ", "".join(self.words))

    def all(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]


def page_of(run, **kwargs):
    return Page(build(run, **kwargs).read_text(encoding="utf-8"))


def test_a_whole_run_shows_its_numbers_in_reading_order(run):
    path = build(run)
    assert path == run / "report.html"
    page = Page(path.read_text(encoding="utf-8"))
    assert page.open == []
    parts = ["seqgan · seqgan-small", "helped: nll_oracle fell", "A lower temperature writes", "Scores side by side"]
    parts += [
        "All panels share",
        "At step 2000 it gets",
        "Of 100 held-out",
        "Under each sample",
        "The run",
        "entropy fell <b>",
    ]
    places = [page.text.index(part, 1) for part in parts]
    assert places == sorted(places)
    for value in ("9.1000 ± 0.0050", "8.7900 ± 0.0050", "0.4321", "poems.txt", "data.max_length", "abc1234", "2.13.0"):
        assert value in page.text
    for value in (
        "1,234,567",
        "512 MiB",
        "3 min 20 s",
        "nll_test|n:9984|temp:0.7|seed:7|v:0.1",
        "discriminator from step 820",
    ):
        assert value in page.text
    assert "Not in this report" not in page.text


@pytest.mark.usefixtures("drawn")
def test_every_known_curve_has_a_described_picture_and_its_numbers(run):
    page = page_of(run)
    labels = [svg["aria-label"] for svg in page.all("svg")]
    names = ["nll_oracle", "nll_test", "nll_train", "nll_valid", "d_accuracy", "d_loss", "reward_mean", "entropy"]
    assert [label.split(":")[0] for label in labels][1:10] == [*names, "gradient_norm"]
    assert labels[1] == "nll_oracle: 10.4 at step 0, 8.79 at step 2000; lowest 8.79, highest 10.4"
    assert len(labels) == len(page.all("figure")) == 10 + 2 + 3 + 1  # curves, discriminator, lengths and n-grams, ranks
    assert all(svg["role"] == "img" and svg["aria-label"] for svg in page.all("svg"))
    assert len(page.all("details")) == len(labels) + 3  # of each; all temperatures, signatures, pre-trained samples
    assert len(page.all("table")) == len(page.all("caption")) == len(labels) + 5
    assert all("scope" in cell for cell in page.all("th"))


def test_the_page_asks_nobody_for_anything(run):
    html = build(run).read_text(encoding="utf-8")
    assert "http://" not in html
    assert "https://" not in html
    assert "@import" not in html
    page = Page(html)
    addresses = [attrs[key] for _, attrs in page.tags for key in ("src", "href", "xlink:href") if key in attrs]
    assert addresses
    assert all(address.startswith(("data:", "#")) for address in addresses)
    assert len(html) < 3_000_000


def test_ids_are_unique_and_every_reference_finds_its_own(run):
    html = build(run).read_text(encoding="utf-8")
    ids = [attrs["id"] for _, attrs in Page(html).tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    used = re.findall(r'url\(#([^)]+)\)|xlink:href="#([^"]+)"|aria-labelledby="([^"]+)"', html)
    assert used
    assert {"".join(names) for names in used} <= set(ids)


@pytest.mark.usefixtures("drawn")
def test_pictures_take_the_colours_of_the_page(run):
    """Else axes would be black on black in a dark window."""
    html = build(run).read_text(encoding="utf-8")
    pictures = re.findall(r"<svg.*?</svg>", html, flags=re.DOTALL)
    for picture in pictures:
        ElementTree.fromstring(picture.replace("xlink:", ""))
        assert not re.findall(r"#[0-9a-f]{6}\b(?=[;\"])", picture)
        assert "currentColor" in picture
    assert "var(--series-2)" in pictures[0]


def test_samples_names_and_messages_are_escaped(run):
    scores = scores_json()
    scores["generators"][0]["name"] = "<i>x</i> $a$"
    (run / "scores.json").write_text(json.dumps(scores), encoding="utf-8")
    page = page_of(run)
    tags = {tag for tag, _ in page.tags}
    assert not tags & {"script", "img", "b", "i"}
    assert "<script>alert('boo')</script> & <img src=x onerror=y>" in page.text
    assert "entropy fell <b>fast</b> & far" in page.text
    assert "<i>x</i> $a$" in page.text


def test_samples_are_the_first_lines_of_the_last_two_files(run):
    text = page_of(run).text
    assert "sequence 19 of 2000" in text
    assert "sequence 19 of 800" in text
    assert "sequence 20 of 2000" not in text
    assert "sequence 0 of 200 " not in text
    assert "samples/step-2000.txt, the first 20 of 30 lines" in text


def test_a_log_cut_by_a_crash_is_read_to_its_last_whole_line(run):
    whole = (run / "log.jsonl").read_text(encoding="utf-8")
    (run / "log.jsonl").write_text(whole.rsplit("\n", 2)[0] + '\n{"step": 2010, "pha', encoding="utf-8")
    text = page_of(run).text
    count = whole.count("\n")
    assert f"log.jsonl:{count}: the last line is cut off" in text
    assert "no end record" in text
    assert "8.7900 ± 0.0050" in text


def test_a_broken_line_in_the_middle_is_named_by_its_number(run):
    lines = (run / "log.jsonl").read_text(encoding="utf-8").split("\n")
    lines[4] = lines[4][:30]
    (run / "log.jsonl").write_text("\n".join(lines), encoding="utf-8")
    records, told = read_log(run / "log.jsonl")
    assert len(records) == len(lines) - 2
    assert told == ["log.jsonl: 1 line(s) are not records and are left out: 5."]


def test_a_run_with_only_a_configuration_still_gives_a_page(tmp_path):
    (tmp_path / "config.yaml").write_text("method: mle\nseed: 3\n", encoding="utf-8")
    page = page_of(tmp_path)
    assert page.open == []
    missing = page.text[page.text.rindex("Not in this report") :]
    for name in ("no log.jsonl", "no scores.json", "no samples/step-N.txt"):
        assert name in missing
    assert "seed 3" in page.text


def test_parts_that_are_missing_are_named(run):
    (run / "scores.json").write_text(
        json.dumps({"generators": [], "references": [], "verdict": None}), encoding="utf-8"
    )
    write_log(run, [r for r in log_records() if r["kind"] == "warning"])
    missing = page_of(run).text.split("Not in this report")[-1]
    for part in ("evaluation scores", "Training curves", "Versions", "end of the run", "tokens", "side-by-side"):
        assert part in missing
    assert "quality-diversity picture" in missing
    assert "No verdict: the run has one generator" in page_of(run).text
    (run / "scores.json").write_text('{"generators": [', encoding="utf-8")
    assert "scores.json is not valid JSON" in page_of(run).text


@pytest.mark.usefixtures("drawn")
def test_the_same_run_gives_the_same_bytes(run, tmp_path):
    """In another process too, and under a matplotlibrc that would have it otherwise."""
    here = build(run).read_bytes()
    (tmp_path / "matplotlibrc").write_text("axes.facecolor: red\nlines.linewidth: 9\nfont.size: 20\n", encoding="utf-8")
    program = (
        f"from pathlib import Path; from seqforge.report import build; build(Path({str(run)!r}), Path('x/b.html'))"
    )
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True, env=environment(tmp_path))
    assert (tmp_path / "x/b.html").read_bytes() == here


def environment(folder):
    root = str(Path(__file__).parents[1])
    return {"PYTHONPATH": root, "MATPLOTLIBRC": str(folder), "MPLCONFIGDIR": str(folder), "PYTHONHASHSEED": "5"}


def test_the_page_needs_no_torch(run):
    program = f"import sys; from pathlib import Path; from seqforge.report import build; build(Path({str(run)!r}));"
    program += "print([name for name in ('torch', 'matplotlib.pyplot') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_no_half_page_is_left_behind(run):
    build(run)
    assert [path.name for path in run.iterdir() if "report" in path.name] == ["report.html"]
    with pytest.raises(ValueError, match=r"samples: is a folder; give the path"):
        build(run, run / "samples")


def test_a_folder_that_is_no_run_is_refused_with_the_remedy(tmp_path):
    with pytest.raises(ValueError, match=r"no config\.yaml.*give the folder a training wrote"):
        build(tmp_path)
    with pytest.raises(ValueError, match=r"no config\.yaml"):
        curves_png(tmp_path, tmp_path / "a.png")
    (tmp_path / "config.yaml").write_text("just words", encoding="utf-8")
    with pytest.raises(ValueError, match="'just words' is not a mapping"):
        build(tmp_path)


@pytest.mark.usefixtures("drawn")
def test_curves_png(run, tmp_path):
    path = curves_png(run, tmp_path / "pictures/curves.png")
    first = path.read_bytes()
    assert first.startswith(b"\x89PNG\r\n\x1a\n")
    assert curves_png(run, path).read_bytes() == first
    (run / "log.jsonl").unlink()
    with pytest.raises(ValueError, match="no train or evaluation record to draw"):
        curves_png(run, path)


@pytest.mark.usefixtures("drawn")
def test_a_long_training_stays_a_small_page(run):
    names = [f"loss_{at}" for at in range(30)]
    steps = range(5000)
    write_log(run, [record(s, "mle", "train", **dict.fromkeys(names, math.sin(s) + s / 500)) for s in steps])
    path = build(run)
    assert path.stat().st_size < 3_000_000
    text = Page(path.read_text(encoding="utf-8")).text
    assert f"({MOST_LISTED} of 5000 records; all are in log.jsonl)" in text
    assert f"Each drawn point is the mean of {math.ceil(5000 / MOST_DRAWN)} records" in text
    assert "loss_29 (train)" in text.split("Not in this report")[-1]


@pytest.mark.usefixtures("drawn")
def test_one_record_of_each_kind_is_enough_for_every_picture(run, tmp_path):
    """A zero-width axis of steps, a phase without length, curves of one point: all happen in the first minute."""
    write_log(run, [evaluation(5, "mle", 9.0, 8.0), record(5, "adversarial", "train", d_loss=0.5)])
    one = {"name": "final", "scores": [score("nll_oracle", 9.0), score("nll_test", 8.0)]}
    (run / "scores.json").write_text(json.dumps({"generators": [one, one]}), encoding="utf-8")
    labels = [svg["aria-label"].split(":")[0] for svg in page_of(run).all("svg")]
    assert labels[1:4] == ["nll_oracle", "nll_test", "d_loss"]
    assert len(labels) == 10
    assert curves_png(run, tmp_path / "one.png").stat().st_size > 1000


def test_a_label_stands_where_the_curve_is_not():
    assert free_side((0, 0), [(1, 0)]) == (-1, 0)
    assert free_side((0, 0), [(3, 4), (3, -4)]) == (-1, 0)
    assert free_side((0, 0), [(-2, 0), (5, 0)]) == (0, 1)  # a straight line: beside it
    assert free_side((0, 0), [(0, 0)]) == free_side((0, 0), [])  # temperatures that changed nothing


@pytest.mark.usefixtures("drawn")
def test_values_that_are_not_numbers_are_counted_not_drawn(run):
    losses = [1.0, float("nan"), None, True, 2.0]
    write_log(run, [record(s, "mle", "train", d_loss=loss, g_loss=None) for s, loss in enumerate(losses)])
    curves, left_out = read_curves(read_log(run / "log.jsonl")[0])
    assert [tuple(point) for point in curves[0].points] == [(0, 1.0, None), (4, 2.0, None)]
    assert curves[0].notes() == ["2 value(s) are not finite numbers and are left out."]
    assert left_out == ["g_loss (train, no finite value)"]
    assert "g_loss (train, no finite value)" in page_of(run).text


def test_a_resumed_run_shows_each_step_once():
    steps = [(0, 1.0), (10, 2.0), (20, 3.0), (10, 2.5), (20, 3.5), (30, 4.0)]
    records = [record(step, "mle", "train", loss=value) for step, value in steps]
    (curve,), _ = read_curves(records)
    assert [(p.step, p.value) for p in curve.points] == [(0, 1.0), (10, 2.5), (20, 3.5), (30, 4.0)]


def test_a_phase_ends_where_the_next_begins():
    turns = [(0, "mle"), (50, "discriminator"), (60, "adversarial"), (70, "discriminator"), (80, "adversarial")]
    records = [record(step, phase, "train", loss=1.0) for step, phase in turns]
    assert read_phases(records) == [("mle", 0, 50), ("discriminator", 50, 60), ("adversarial", 60, 80)]
    assert read_phases([]) == []


def test_the_table_has_a_row_a_score_and_temperature_and_marks_what_does_not_compare():
    table = side_by_side(scores_json())
    assert table.head == ("score", "temperature", "pre-trained, step 800", "final, step 2000", "the oracle itself")
    assert [row[:2] for row in table.rows] == [
        ("nll_oracle (nats per token)", "0.7 (1/T 1.43)"),
        ("nll_oracle (nats per token)", "1 †"),  # the reference was measured on 100 samples only
        ("nll_oracle (nats per token)", "1.3 (1/T 0.769)"),
        ("nll_test (nats per token)", "0.7 (1/T 1.43)"),
        ("nll_test (nats per token)", "1"),
        ("nll_test (nats per token)", "1.3 (1/T 0.769)"),
        ("self_bleu_4 (nats per token)", "1"),
    ]
    assert table.rows[1][2:] == ("9.1000 ± 0.0050", "8.7900 ± 0.0050", "5.7700 ± 0.0050")
    assert table.rows[-1][2:] == ("0.4321", "0.4321", "–")


def test_the_frontier_pairs_scores_by_temperature():
    scores = {"generators": [{"name": "g", "scores": [score("nll_test", 8.0, 1.3), score("nll_oracle", 9.5, 1.3)]}]}
    scores["generators"][0]["scores"] += [score("nll_oracle", 9.0, 0.7), score("nll_test", float("nan"), 0.7)]
    (line,) = frontier_lines(scores, ORACLE)
    assert line.points == [(1.3, 8.0, 0.005, 9.5, 0.005)]
    assert frontier_lines({"references": [{"name": "r", "scores": [score("nll_oracle", 9.0)]}]}, ORACLE) == []


@pytest.mark.parametrize(
    ("value", "stderr", "text"),
    [
        (9.10312, 0.00512, "9.1031 ± 0.0051"),
        (-1.25, 0.25, "−1.25 ± 0.25"),
        (123.4, 31.0, "123 ± 31"),
        (5.0, 0.0999, "5.000 ± 0.100"),
        (0.43218, None, "0.4322"),
        (123456.7, None, "123457"),
        (1e-7, None, "1e-07"),
        (2.0, 0.0, "2"),
        (None, 0.1, "not finite"),
    ],
)
def test_a_number_has_the_digits_its_error_supports(value, stderr, text):
    assert show(value, stderr) == text
