"""The curve of quality over diversity: gaps that are known, and intervals against scipy."""

import numpy as np
import pytest
import torch
from scipy import stats

from seqforge.evaluate import EvaluateConfig
from seqforge.frontier import best_points, frontier, gap_at_one, gap_over_range, mean_interval, points_of


def score(name, temperature, value, stderr=0.0, n=100):
    facts = {"name": name, "temperature": temperature, "value": value, "stderr": stderr, "unit": "nats per token"}
    return facts | {"signature": f"{name}|n:{n}|temp:{temperature}"}


def curve(points, stderr=0.0, n=100):
    """Scores of (NLL_test, NLL_oracle) points, one temperature each."""
    out = []
    for k, (x, y) in enumerate(points):
        out += [score("nll_test", 1 + k / 10, x, 0.5, n), score("nll_oracle", 1 + k / 10, y, stderr, n)]
    return out


LINE = [(8.0, 9.0), (9.0, 8.0), (10.0, 7.0)]


def test_a_frontier_is_ordered_by_nll_test_and_leaves_out_what_another_point_beats():
    points = [(10.0, 7.0), (8.0, 9.0), (9.5, 9.5), (9.0, 8.0), (10.5, 8.5)]
    assert sorted(p[:2] for p in best_points(points_of(curve(points, 0.1))).values()) == LINE
    x, y, x_error, y_error = frontier(points_of(curve(LINE, 0.1)))
    assert (np.diff(x) > 0).all()
    assert (x[0], x[-1]) == (8, 10)
    assert y == pytest.approx(17 - x)
    assert set(x_error) == {0.5}
    assert set(y_error) == {0.1}
    assert [len(a) for a in frontier({})] == [0, 0, 0, 0]
    alone = [score("nll_test", 1.0, 8.0), score("nll_oracle", 0.9, 9.0)]  # never at one temperature
    assert [len(a) for a in frontier(points_of(alone))] == [0, 0, 0, 0]


def test_a_constant_gap_is_found_with_its_error_by_hand():
    lower = [(x + 0.5, y - 0.7) for x, y in LINE]  # at 8.5, where the line stands at 8.5, it has 8.3
    assert gap_over_range(curve(lower), curve(LINE)) == pytest.approx(-0.2, abs=1e-12)
    gap = gap_at_one(curve(lower, 0.3), curve(LINE, 0.4))
    assert (gap.value, gap.kind) == (pytest.approx(-0.2, abs=1e-12), "equal diversity")
    # sampling errors .3 and .4 of NLL_oracle, and the slope 1 times those of NLL_test, .5 and .5
    assert gap.error == pytest.approx((0.3**2 + 0.4**2 + 0.5**2 + 0.5**2) ** 0.5, abs=1e-12)
    assert gap_over_range(curve(LINE), curve(lower)) == pytest.approx(0.2, abs=1e-12)


def test_a_gap_beyond_the_curve_is_said_only_where_one_beats_the_other_on_both():
    """A generator worse on both counts was once called not comparable, and then worse at "equal NLL_test"."""
    for point, value, kind in (((11.0, 7.5), 0.5, "worse on both"), ((7.0, 8.5), -0.5, "better on both")):
        gap = gap_at_one(curve([point]), curve(LINE))
        assert (gap.value, gap.kind) == (pytest.approx(value), kind)
    for point in ((11.0, 6.5), (7.0, 9.5)):
        assert gap_at_one(curve([point]), curve(LINE)) is None
    assert gap_at_one([], curve(LINE)) is None
    assert gap_at_one(curve(LINE), []) is None


def test_a_model_against_itself_with_its_logits_scaled_has_no_gap():
    """A sharper copy of a model "helped" by .024 nats, and by .13 here: chords between the points of a bent curve."""
    rng = torch.Generator().manual_seed(0)
    oracle, other = torch.randn(2000, generator=rng) * 2, torch.randn(2000, generator=rng) * 2
    # one token a sequence, so that both scores are sums; calibrated, so that sharper is worse for NLL_test
    fits = {
        a / 100: float(-(oracle.softmax(0) * ((oracle + other) * a / 100).log_softmax(0)).sum()) for a in range(1, 200)
    }
    logits = (oracle + other) * min(fits, key=fits.get)

    def scores(scale):
        out = []
        for t in EvaluateConfig().temperatures:
            log_q, log_p = (torch.log_softmax(a, 0) for a in (logits * scale / t, oracle))
            test, quality = -(log_p.exp() * log_q).sum(), -(log_q.exp() * log_p).sum()
            out += [score("nll_test", t, float(test)), score("nll_oracle", t, float(quality))]
        return out

    span = [s["value"] for s in scores(1.0) if s["name"] == "nll_oracle"]
    assert max(span) - min(span) > 1  # a curve worth the name
    for scale in (1.05, 1.15, 1.2, 1.3, 1.4):
        assert abs(gap_at_one(scores(scale), scores(1.0)).value) < 0.01
        assert abs(gap_over_range(scores(scale), scores(1.0))) < 0.01


def test_other_temperatures_on_the_same_line_make_no_gap():
    """A temperature alone walks along the curve: lower NLL_oracle, higher NLL_test, and no gain."""
    sharper = [(8.5, 8.5), (9.25, 7.75), (9.75, 7.25)]
    assert gap_over_range(curve(sharper), curve(LINE)) == pytest.approx(0, abs=1e-12)
    assert gap_at_one(curve(sharper), curve(LINE)).value == pytest.approx(0, abs=1e-12)


def test_a_gap_that_varies_is_averaged_over_the_shared_range_only():
    """y = 17 - x against y = 26 - 2 x, shared over 8.5 to 9.5: the gap x - 9 is 0 on average; over 8.5 to 9, -0.25."""
    steep = [(8.5, 9.0), (9.5, 7.0), (11.0, 4.0)]
    flat = [(7.0, 10.0), (9.5, 7.5)]
    assert gap_over_range(curve(flat), curve(steep)) == pytest.approx(0, abs=1e-12)
    shorter = [(7.0, 10.0), (9.0, 8.0)]
    assert gap_over_range(curve(shorter), curve(steep)) == pytest.approx(-0.25, abs=1e-12)


def test_a_collapsed_temperature_does_not_bend_the_curve():
    bent = [*LINE, (9.5, 12.0), (12.0, 7.5)]
    assert gap_over_range(curve(bent), curve([(8.0, 9.0), (12.0, 5.0)])) == pytest.approx(0, abs=1e-12)


def test_curves_without_a_shared_range_have_no_mean_gap():
    beyond = [(x + 2.001, y) for x, y in LINE]
    assert gap_over_range(curve(LINE), curve(beyond)) is None
    assert gap_over_range(curve(beyond), curve(LINE)) is None
    assert gap_over_range(curve(LINE), []) is None
    touching = [(x + 2, y) for x, y in LINE]
    assert gap_over_range(curve(touching), curve(LINE)) == pytest.approx(2, abs=1e-12)


@pytest.mark.parametrize("n", [2, 3, 4, 5, 8, 11, 12, 16, 21, 31, 100])
def test_intervals_over_seeds_are_students(n):
    """Beyond eleven seeds the normal's 1.96 was taken, an interval a tenth too narrow."""
    values = np.random.default_rng(n).normal(8.7, 0.1, n).tolist()
    mean, half = mean_interval(values)
    low, high = stats.t.interval(0.95, n - 1, np.mean(values), stats.sem(values))
    assert mean == pytest.approx((low + high) / 2, rel=1e-12)
    assert half == pytest.approx((high - low) / 2, rel=5e-4)


def test_one_value_has_no_interval():
    assert mean_interval([8.7]) == (8.7, None)
