"""What a LeakGAN learnt, on the page: shown as written, left out where there is none, named where it is damaged."""

import json
import re
import warnings

import pytest
from test_report import finished_run

from seqforge.report import build
from seqforge.report.hierarchy import alignment_table, checked, read_hierarchy, ticks


def sample(tokens):
    n = len(tokens)
    return {
        "tokens": tokens,
        "similarity": [[1.0 if i == j else 0.25 for j in range(n)] for i in range(n)],
        "trajectory": [[i / 2, -i / 3] for i in range(n + 1)],
        "explained": [0.6, 0.2],
        "alignment": [0.5 - i / 10 for i in range(n)],
    }


def page_of(run, content=None):
    if content is not None:
        (run / "hierarchy.json").write_text(content if isinstance(content, str) else json.dumps(content))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return build(run).read_text()


@pytest.fixture
def run(tmp_path):
    return finished_run(tmp_path / "run")


@pytest.mark.usefixtures("drawn")
def test_samples_are_drawn_with_their_tokens(run):
    tokens = ["a", "<b>man</b>", "風", "$x$", "extraordinarily-long"]
    page = page_of(run, {"step": 9, "step_size": 4, "samples": [sample(tokens), sample(["x"] * 50)]})
    part = page[page.index('id="hierarchy"') : page.index('id="samples"')]
    assert part.count("<svg") == 6
    assert "the next 4 tokens" in re.sub(r"\s+", " ", part)
    assert "<b>man" not in part
    assert "&lt;b&gt;man" in part
    assert "extraordina…" in part
    assert "60% of the variance" in part
    assert ">0.3</td>" in part
    assert ">−0.4</td>" in part
    assert len(part) < 400_000
    assert len(re.findall(r'\bid="([^"]+)"', page)) == len(set(re.findall(r'\bid="([^"]+)"', page)))


def test_a_run_without_one_has_no_such_section(run):
    page = page_of(run)
    assert 'id="hierarchy"' not in page
    assert "hierarchy.json" not in page


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        {"step": 1, "step_size": 4},
        {"step": 1, "step_size": 4, "samples": [{**sample(["a", "b"]), "alignment": [0.5]}]},
        {"step": 1, "step_size": 4, "samples": [{**sample(["a", "b"]), "similarity": [[1, 0], [0]]}]},
        {"step": 1, "step_size": 4, "samples": [{**sample(["a"]), "explained": [float("nan"), 0]}]},
        {"step": 1, "step_size": 4, "samples": [{**sample(["a"]), "trajectory": [["0", 0], [1, 1]]}]},
        {"step": 1, "step_size": 4, "samples": [sample([])]},
    ],
)
def test_a_damaged_one_is_named_and_the_page_is_built(run, content):
    page = page_of(run, content)
    assert "What the hierarchy learnt: hierarchy.json cannot be read" in page
    assert 'id="hierarchy"' not in page


def test_labels_are_thinned_and_numbers_told():
    at, names = ticks([f"w{i}" for i in range(50)])
    assert at == list(range(0, 50, 2))
    assert names[1] == "w2"
    table = alignment_table(checked(sample(["a", "b"])), 4)
    assert table.rows == [("0", "a", "0.5"), ("1", "b", "0.4")]
    assert table.caption == "Goal and the next 4 tokens"


def test_no_file_is_nothing_wrong(tmp_path):
    assert read_hierarchy(tmp_path) == (None, [])
