"""The page in a real browser: nothing logged or asked for, readable on a phone, in the dark, by ear and by key."""

import json

import pytest
from headless import chromium
from test_report import finished_run
from test_report_hierarchy import sample

from seqforge.report import build, build_many

DRAWN = True  # see conftest.py

WIDTHS, SCHEMES = (390, 1280), ("light", "dark")

# The least contrast (WCAG 2.1) of any text against what lies behind it, with the text
CONTRAST = """(() => {
  const parts = c => c.match(/[\\d.]+/g).map(Number);
  const light = c => { const [r, g, b] = parts(c).slice(0, 3).map(v => (v /= 255) <= .04045 ? v / 12.92
    : ((v + .055) / 1.055) ** 2.4); return .2126 * r + .7152 * g + .0722 * b; };
  const behind = e => { for (; e; e = e.parentElement) { const c = getComputedStyle(e).backgroundColor;
    if (parts(c).length < 4 || parts(c)[3] > .5) return c; } return 'rgb(255, 255, 255)'; };
  let worst = [99, ''];
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const e = walk.currentNode.parentElement, text = walk.currentNode.textContent.trim();
    if (!text || !e.checkVisibility() || e.closest('th.again, .spoken, .skip')) continue;
    const style = getComputedStyle(e), color = e.closest('svg') ? style.fill : style.color;
    const [a, b] = [light(color), light(behind(e))].sort((x, y) => y - x);
    if ((a + .05) / (b + .05) < worst[0]) worst = [(a + .05) / (b + .05), text];
  }
  return worst;
})()"""
OPEN_ALL = "document.querySelectorAll('details').forEach(d => d.open = true)"


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """One of every section there is, and one of two runs."""
    folder = tmp_path_factory.mktemp("pages")
    runs = [finished_run(folder / name) for name in ("a", "a-run-with-a-name-that-is-much-too-long-for-a-phone")]
    config = runs[1] / "config.yaml"
    config.write_text(config.read_text().replace("seed: 7", "seed: 8"))
    tokens = ["a", "man", "rides", "extraordinarily-long", "x"]
    (runs[0] / "hierarchy.json").write_text(json.dumps({"step": 9, "step_size": 4, "samples": [sample(tokens)]}))
    tune = {"notes": [[0, 1, 60], [1, 0.5, 64]], "quarters": 4}
    (runs[0] / "music.json").write_text(json.dumps({"real": [tune], "generated": [tune]}))
    return {"one": build(runs[0]), "many": build_many(runs, folder / "many.html")}


@pytest.fixture(scope="module")
def tab():
    with chromium() as opened:
        yield opened


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("page", ["one", "many"])
def test_nothing_is_logged_asked_for_or_wider_than_the_window(pages, tab, page, width, scheme):
    tab.open(pages[page], width, scheme)
    tab.run(OPEN_ALL)
    assert tab.run("innerWidth") == width
    assert tab.run("document.documentElement.scrollWidth") <= width
    assert tab.logged == []
    assert {url.split(":")[0] for url in tab.requests} <= {"file", "data"}
    assert len([url for url in tab.requests if url.startswith("file:")]) == 1


def test_what_goes_wrong_in_a_page_is_seen(tab, tmp_path):
    """Of these checks themselves: a page that logs, asks, overflows and is unreadable."""
    bad = (
        "<body style='background:#fff'><p style='width:900px;color:#ccc'>pale</p><img src='https://example.invalid/x'>"
    )
    (tmp_path / "bad.html").write_text(f"{bad}<script>console.error('ouch')</script>")
    tab.open(tmp_path / "bad.html", 390)
    assert "ouch" in tab.logged
    assert "https://example.invalid/x" in tab.requests
    assert tab.run("document.documentElement.scrollWidth") > 390
    assert tab.run(CONTRAST)[1] == "pale"
    assert tab.run(CONTRAST)[0] == pytest.approx(1.605, abs=0.01)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("page", ["one", "many"])
def test_all_text_has_the_contrast_that_WCAG_asks_for(pages, tab, page, scheme):
    tab.open(pages[page], 1280, scheme)
    tab.run(OPEN_ALL)
    ratio, text = tab.run(CONTRAST)
    assert ratio >= 4.5, text
    paper = {"light": "rgb(255, 255, 255)", "dark": "rgb(20, 23, 26)"}[scheme]
    assert tab.run("getComputedStyle(document.body).backgroundColor") == paper


@pytest.mark.parametrize("page", ["one", "many"])
def test_every_picture_is_heard(pages, tab, page):
    tab.open(pages[page])
    names = tab.heard("image", "img")
    assert len(names) == tab.run("document.querySelectorAll('svg').length") > 10
    assert all(len(name) > 10 for name in names)
    assert tab.run("[...document.querySelectorAll('figure')].every(f => f.querySelector('svg, details'))")
    assert "Sections" in tab.heard("navigation")
    assert tab.heard("heading")[0] == tab.run("document.querySelector('h1').textContent")


def test_the_keyboard_reaches_the_content_and_opens_the_numbers(pages, tab):
    tab.open(pages["one"])
    focused = "document.activeElement.textContent.trim()"
    tab.press("Tab")
    assert tab.run(focused) == "To the content"
    assert tab.run("document.activeElement.getBoundingClientRect().height") > 15
    tab.press("Enter", "\r")
    assert tab.run("document.activeElement.id") == "main"
    for _ in range(30):
        tab.press("Tab")
        if tab.run("document.activeElement.tagName") == "SUMMARY":
            break
    assert tab.run(focused).startswith("The numbers of nll_oracle over nll_test")
    assert tab.run("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    tab.press("Enter", "\r")
    assert tab.run("document.activeElement.parentElement.open") is True


def test_every_link_leads_somewhere(pages, tab):
    for page in pages.values():
        tab.open(page)
        links = tab.run("[...document.querySelectorAll('a')].map(a => a.getAttribute('href'))")
        assert len(links) > 3
        inner, outer = ([x for x in links if x.startswith("#") is inside] for inside in (True, False))
        assert all(tab.run(f"!!document.querySelector({json.dumps(link)})") for link in inner)
        assert [(page.parent / link).is_file() for link in outer] == [True] * (page == pages["many"])


def test_on_paper_it_is_dark_on_white_even_in_the_dark(pages, tab):
    tab.open(pages["one"], 800, "dark", media="print")
    assert tab.run("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert tab.run(CONTRAST)[0] >= 4.5
    assert not tab.run("document.querySelector('nav').checkVisibility()")
