"""The metrics of tunes against values worked out by hand, and against plain sums over all pairs."""

import itertools

import numpy as np
import pytest

from seqforge.data import midi
from seqforge.data.midi import Tune
from seqforge.data.music import MusicConfig, encoding_of
from seqforge.metrics import music
from seqforge.metrics.music import Tunes, music_scores

COMMON = {"facts": {"tok": "melody"}, "temperature": 1.0, "seed": 1}


def tune(*notes: tuple[int, int, int], end: int | None = None, grid: float = 4.0) -> Tune:
    rows = np.array([(*n, 90) for n in notes], dtype=np.int64).reshape(-1, 4)
    end = end or int((rows[:, 0] + rows[:, 1]).max(initial=0))
    return Tune(midi.ordered(rows), midi.bars_of([], 1, grid, end), grid, end)


def tunes(*each: Tune) -> Tunes:
    return Tunes(list(each), np.array([len(t.notes) > 0 for t in each]))


def value(name: str, samples: Tunes, real: Tunes | None = None, which: int = 0) -> float:
    score = music_scores(name, samples, real or samples, "abcd", **COMMON)[which]
    low, high = score.interval
    assert low <= score.value <= high
    assert score.signature.startswith(score.name.replace("_", "-") + "|")
    assert "seed:1" in score.signature
    return score.value


SCALE = [(4 * i, 4, p) for i, p in enumerate((60, 62, 64, 65, 67, 69, 71))]


def test_scale_consistency():
    assert value("scale_consistency", tunes(tune(*SCALE), tune(*SCALE))) == 1
    off = tune(*SCALE, (28, 4, 61))  # C, C#, D, E, F, G, A, B: seven of eight in C major
    assert value("scale_consistency", tunes(off, off)) == 7 / 8
    minor = [(4 * i, 4, p) for i, p in enumerate((57, 59, 60, 62, 64, 65, 67))]
    mixed = tunes(tune(*SCALE), tune(*minor), tune(end=4), off)
    assert value("scale_consistency", mixed) == pytest.approx((1 + 1 + 7 / 8) / 3)


def test_polyphony_counts_pitches_where_any_sounds():
    chord = tune((0, 4, 60), (0, 4, 64), (0, 2, 67), (8, 2, 60), end=16)  # 2 steps of 3, 2 of 2, 2 of 1
    twice = tune((0, 4, 60), (0, 4, 60))  # one pitch
    assert value("polyphony", tunes(chord, chord)) == 12 / 6
    assert value("polyphony", tunes(chord, twice)) == 1.5


def test_empty_bars_and_their_references():
    gap, full = tune((0, 4, 60), (40, 8, 60), end=64), tune((0, 64, 60))  # bars 2 and 4 of four
    assert value("empty_bars", tunes(gap, full)) == 2 / 8
    assert value("empty_bars", tunes(full, full), tunes(gap, gap), which=1) == 2 / 4


def test_repetition_of_groups_of_four_notes():
    assert value("repetition", tunes(tune(*[(i, 1, 60) for i in range(8)]))) == 4 / 5
    again = [(60, 1), (62, 2), (64, 1), (65, 1)] * 2
    onsets = itertools.accumulate((d for _, d in again), initial=0)
    rows = [(on, d, p) for on, (p, d) in zip(onsets, again, strict=False)]
    assert value("repetition", tunes(tune(*rows), tune(*SCALE))) == 1 / (5 + 4)
    growing = [(n * (n - 1) // 2, n, 60) for n in range(1, 9)]  # the same pitch, each longer than the one before
    assert value("repetition", tunes(tune(*growing))) == 0
    with pytest.raises(ValueError, match="repetition: none of 1 tunes has notes enough"):
        value("repetition", tunes(tune((0, 1, 60))))


@pytest.mark.parametrize("name", ["empty_bars", "repetition", "pitch_mse", "pitch_class_distance"])
def test_signatures_count_all_samples(name):
    """Also those that have nothing to count: else two seeds of one experiment could not be compared."""
    full, silent = tune(*[(i, 1, 60) for i in range(16)]), tune(end=16)
    score = music_scores(name, tunes(full, full, silent), tunes(full, full), "abcd", **COMMON)[0]
    assert "|n:3|" in score.signature


def test_distances_by_hand():
    mine = tunes(tune((0, 4, 60), (4, 4, 62)), tune((0, 4, 60), (4, 4, 60)))  # C 3/4, D 1/4
    real = tunes(tune((0, 2, 72), (2, 6, 76)), tune((0, 2, 60), (8, 6, 64)))  # C 1/2, E 1/2
    assert value("pitch_class_distance", mine, real) == pytest.approx(1 / 2)  # 1/4 from C, 1/4 from D, to E
    assert value("note_length_distance", mine, real) == pytest.approx(0.5)  # all of 4 steps; half of 2, half of 6
    assert value("inter_onset_distance", mine, real) == pytest.approx(0.75)  # 4 and 4; 2 and 8: (2 + 4) / 2 steps
    for name in music.DISTANCES:
        assert value(name, mine, mine) == 0


def test_notes_struck_together_have_no_gap_between_them():
    alone = [(4 * i, 4, 60) for i in range(5)]
    chords = [(4 * i, 4, p) for i in range(5) for p in (60, 64)]
    assert value("inter_onset_distance", tunes(tune(*chords)), tunes(tune(*alone))) == 0
    assert value("inter_onset_distance", tunes(tune(*alone)), tunes(tune(*[(8 * i, 4, 60) for i in range(5)]))) == 1


def test_beyond_64_quarters_a_length_counts_as_64():
    of = {quarters: tunes(tune((0, 4 * quarters, 60))) for quarters in (32, 63, 64, 100)}
    assert value("note_length_distance", of[100], of[64]) == 0
    assert value("note_length_distance", of[100], of[63]) == 1
    assert value("note_length_distance", of[32], of[100]) == 32


def test_note_bleu_holds_samples_to_references():
    """A word is a pitch with its length: half the notes are as they should be, and no two of them stand together."""
    real, half = tune(*SCALE), tune(*[(on, 4 if i % 2 else 3, p) for i, (on, _, p) in enumerate(SCALE)])
    assert value("note_bleu", tunes(real), tunes(real)) == 1
    assert value("note_bleu", tunes(half), tunes(real)) < 0.3
    assert value("note_self_bleu", tunes(half, half), tunes(real)) == 1


def test_the_grid_does_not_matter():
    fine = [tune(*[(12 * on // 4, 12 * d // 4, p) for on, d, p in SCALE], grid=12.0)] * 2
    coarse = [tune(*SCALE)] * 2
    for name in ("scale_consistency", "polyphony", "empty_bars", "repetition"):
        assert value(name, tunes(*fine)) == value(name, tunes(*coarse))
    wide, real = ((0, 12, 60), (12, 24, 62)), ((0, 24, 60), (24, 24, 62))
    other = [tuple(tuple(x // 3 if k < 2 else x for k, x in enumerate(n)) for n in notes) for notes in (wide, real)]
    ours = value("note_length_distance", tunes(tune(*wide, grid=12.0)), tunes(tune(*real, grid=12.0)))
    assert ours == pytest.approx(value("note_length_distance", tunes(tune(*other[0])), tunes(tune(*other[1])))) == 0.5


def test_pitch_mse_is_the_mean_over_all_pairs():
    draw = np.random.default_rng(0)
    sides = []
    for n in (4, 5):
        some = [[(i, 1, int(draw.integers(55, 80))) for i in range(7) if draw.random() < 0.7] for _ in range(n)]
        sides.append(tunes(*[tune(*notes, end=int(draw.integers(7, 9))) for notes in some]))
    each = []
    for a in sides[0].tunes:
        gaps = [(p - q) ** 2 for b in sides[1].tunes for i, _, p, _ in a.notes for j, _, q, _ in b.notes if i == j]
        each.append(np.mean(gaps))
    assert value("pitch_mse", *sides) == pytest.approx(np.mean(each))


def test_note_bleu_is_the_same_for_every_encoding(tmp_path):
    notes = [tune(*SCALE), tune(*SCALE[::-1])]
    rows = [tune(*[(4 * i, 4, p) for i, (_, _, p) in enumerate(t.notes[:, :3].tolist())]) for t in notes]
    found = []
    for name in ("melody", "remi"):
        config = MusicConfig(encoding=name)
        sides = [[encoding_of(config).encode(t) for t in rows], [encoding_of(config).encode(tune(*SCALE))] * 2]
        found.append([Tunes.of_words(words, config) for words in sides])
        assert found[-1][0].sound.all()
    scores = [music_scores("note_bleu", *sides, "abcd", **COMMON) for sides in found]
    assert [s.name for s in scores[0]] == ["note_bleu2", "note_bleu3", "note_bleu4", "note_bleu5"]
    assert [s.value for s in scores[0]] == [s.value for s in scores[1]]
    assert value("note_self_bleu", found[0][1]) == 1


def test_validity_counts_what_needs_repair():
    words = [["C4", "_"], ["_", "C4"], ["rest"], ["C4", "<unk>"]]
    assert value("validity", Tunes.of_words(words, MusicConfig())) == 1 / 4


def test_without_a_note_the_reason_is_told():
    nothing, some = tunes(tune(end=4)), tunes(tune(*SCALE))
    with pytest.raises(ValueError, match="the samples have no notes"):
        value("pitch_class_distance", nothing, some)
    with pytest.raises(ValueError, match="no sample sounds"):
        value("pitch_mse", nothing, some)
