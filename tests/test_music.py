"""MIDI in: files to tunes to words and back, held to mido's reading; folders with what people have in them."""

import dataclasses
import random
from pathlib import Path

import mido
import numpy as np
import pytest
from music_files import by_mido, folder, melody, save

from seqforge import corpora
from seqforge.cli import main
from seqforge.corpora import load
from seqforge.data import midi, music
from seqforge.data.config import DataConfig
from seqforge.data.music import MusicConfig, encoding_of, phrases, valid
from seqforge.data.readers.document import Flaw

ENCODINGS = ("melody", "remi", "tsd", "midilike", "structured")
TUNE = [(0.0, 0.5, 60), (0.5, 0.5, 60), (1.5, 1.0, 64), (2.5, 0.25, 67), (3.0, 2.0, 72)]


def read(path: Path, config: MusicConfig = MusicConfig()) -> midi.Tune:
    return midi.read_midi(path, config.track_number, config.grid, config.seconds)[0]


def test_the_melody_encoding_by_hand(tmp_path):
    path = save(tmp_path / "a.mid", TUNE)
    words = "C4 _ C4 _ rest rest E4 _ _ _ G4 rest C5 _ _ _ _ _ _ _"
    assert " ".join(encoding_of(MusicConfig()).encode(read(path))) == words
    paper = MusicConfig(holds=False)
    plain = "C4 C4 C4 C4 rest rest E4 E4 E4 E4 G4 rest C5 C5 C5 C5 C5 C5 C5 C5"
    assert " ".join(encoding_of(paper).encode(read(path, paper))) == plain
    assert len(encoding_of(paper).vocabulary()) == 88 + 1
    assert len(encoding_of(MusicConfig()).vocabulary()) == 88 + 2
    merged = encoding_of(paper).decode(plain.split())  # without holds the two Cs are one
    assert merged.notes[:, :3].tolist() == [[0, 4, 60], [6, 4, 64], [10, 1, 67], [12, 8, 72]]


def test_seconds_are_those_of_the_tempo(tmp_path):
    """The paper samples every 0.4 s: at 75 quarters a minute a quarter is two steps, at 150 one."""
    config = MusicConfig(holds=False, seconds=0.4, tokens=32)
    notes = [(0.0, 1.0, 60), (1.0, 2.0, 62)]
    for tempo, words in ((75, "C4 C4 D4 D4 D4 D4"), (150, "C4 D4 D4")):
        tune = read(save(tmp_path / "a.mid", notes, tempo=tempo), config)
        assert encoding_of(config).encode(tune) == words.split()
        midi.write_midi(encoding_of(config).decode(words.split()), tmp_path / "b.mid")
        found = [(s / 2, d / 2) for s, d, _ in by_mido(tmp_path / "b.mid")]  # at 120 a quarter is 0.5 s
        assert np.allclose(found, [(s * 60 / tempo, d * 60 / tempo) for s, d, _ in notes], atol=1e-3)


def test_the_highest_note_is_the_melody(tmp_path):
    path = save(tmp_path / "a.mid", [(0.0, 2.0, 60), (0.5, 0.5, 67)])
    assert encoding_of(MusicConfig()).encode(read(path)) == ["C4", "_", "G4", "_", "C4", "_", "_", "_"]
    path = save(tmp_path / "b.mid", [(0.0, 2.0, 67), (0.5, 0.5, 60)])  # the lower one comes later
    assert encoding_of(MusicConfig()).encode(read(path)) == ["G4", *"_______"]


def test_percussion_is_left_out(tmp_path):
    file = mido.MidiFile(save(tmp_path / "a.mid", TUNE, [(0.0, 1.0, 36), (1.0, 1.0, 38)]))
    file.tracks[1][:] = [m.copy(channel=9) if not m.is_meta else m for m in file.tracks[1]]
    file.save(tmp_path / "b.mid")
    assert len(midi.read_midi(tmp_path / "a.mid", None, 4)[0].notes) == len(TUNE) + 2
    assert midi.read_midi(tmp_path / "b.mid", None, 4)[0].notes[:, 2].tolist() == [p for _, _, p in TUNE]
    del file.tracks[0]
    file.save(tmp_path / "c.mid")
    with pytest.raises(Flaw, match="has no note"):
        midi.read_midi(tmp_path / "c.mid", None, 4)


def test_loudness_and_signatures_are_written(tmp_path):
    """Two bars of 3/4, then 4/4, as mido reads them."""
    bars = midi.bars_of([(0, 3, 4), (24, 4, 4)], 1, 4, 40)
    tune = midi.Tune(np.array([[0, 4, 60, 33], [24, 8, 62, 101]]), bars, 4.0, 40)
    midi.write_midi(tune, tmp_path / "a.mid")
    file, signatures, loud = mido.MidiFile(tmp_path / "a.mid"), [], []
    for track in file.tracks:
        now = 0
        for message in track:
            now += message.time
            if message.type == "time_signature":
                signatures.append((now / file.ticks_per_beat, message.numerator, message.denominator))
            if message.type == "note_on" and message.velocity:
                loud.append(message.velocity)
    assert signatures == [(0, 3, 4), (6, 4, 4)]
    assert loud == [33, 101]


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("grid", [4, 12])
def test_round_trip_within_half_a_step(encoding, grid, tmp_path):
    """Off the grid, over several signatures; half a step, which a whole step would not pass."""
    config = MusicConfig(encoding=encoding, grid=grid, track="melody")
    draw = random.Random(grid)
    notes = [(s + draw.uniform(-0.4, 0.4) / grid, d * 0.999, p) for s, d, p in melody(9) if s]
    save(tmp_path / "a.mid", notes, signatures=((0, 3, 4), (6, 6, 8), (15, 2, 2), (23, 4, 4)))
    tune = read(tmp_path / "a.mid", config)
    words = encoding_of(config).encode(tune)
    assert valid(encoding_of(config), words)
    assert set(words) <= set(encoding_of(config).vocabulary())
    midi.write_midi(encoding_of(config).decode(words), tmp_path / "b.mid")
    before, after = by_mido(tmp_path / "a.mid"), by_mido(tmp_path / "b.mid")
    assert [p for _, _, p in before] == [p for _, _, p in after]
    gap = abs(np.array(before)[:, :2] - np.array(after)[:, :2]).max()
    assert 0.05 / grid < gap <= 0.5 / grid + 1e-3


@pytest.mark.parametrize("encoding", ENCODINGS[1:])
def test_all_notes_of_all_tracks_and_their_signatures(encoding, tmp_path):
    config = MusicConfig(encoding=encoding)
    chords = [(0.0, 3.0, 48), (0.0, 3.0, 59), (3.0, 6.0, 50)]
    path = save(tmp_path / "a.mid", TUNE, chords, signatures=((0, 6, 8),))
    tune = encoding_of(config).decode(encoding_of(config).encode(read(path, config)))
    found = sorted((s / 4, d / 4, p) for s, d, p, _ in tune.notes.tolist())
    assert found == by_mido(path) == sorted(TUNE + chords)
    if encoding != "structured":  # it has no signatures
        assert tune.bars[0].tolist() == [0, 6, 8]


def test_loudness_is_kept_where_asked_for(tmp_path):
    config = MusicConfig(encoding="remi", velocities=16)
    path = save(tmp_path / "a.mid", TUNE)
    words = encoding_of(config).encode(read(path, config))
    assert any(w.startswith("Velocity_") for w in words)
    assert abs(encoding_of(config).decode(words).notes[:, 3] - 80).max() <= 4
    assert not valid(encoding_of(config), words[:-2])  # ends in a pitch without loudness and length


def test_validity():
    holds, remi = encoding_of(MusicConfig()), encoding_of(MusicConfig(encoding="remi"))
    for words, right in (
        ("C4 _ rest", True),
        ("_ C4", False),
        ("C4 rest _", False),
        ("rest rest", False),
        ("C4 <unk>", False),
        ("", False),
    ):
        assert valid(holds, words.split()) == right, words
    good = "Bar_None TimeSig_4/4 Position_0 Pitch_60 Duration_1.0.4"
    for words, right in (
        (good, True),
        (f"{good} Position_4 Pitch_62", False),
        (f"{good} Position_0 Pitch_62 Duration_1.0.4", False),  # time stands still
        (f"{good} Duration_1.0.4", False),
        (f"{good} <unk>", False),
        ("Bar_None TimeSig_4/4", False),
        (f"Duration_1.0.4 {good}", False),  # of no note; miditok counts no error in a first token
    ):
        assert valid(remi, words.split()) == right, words
        remi.decode(words.split())  # whatever it is, it decodes


def test_bars_and_their_signatures():
    """3/4 for two bars, cut short in the second by 2/2, which is written as 4/4."""
    bars = midi.bars_of([(0, 3, 4), (20, 2, 2)], 1, 4, 50)
    assert bars.tolist() == [[0, 3, 4], [12, 2, 4], [20, 4, 4], [36, 4, 4]]
    with pytest.raises(Flaw, match=r"bar 1 \(7/16\) cannot be written in steps of 1/4"):
        music.check_bars(midi.Tune(np.zeros((0, 4), int), midi.bars_of([(0, 7, 16)], 1, 4, 50), 4.0, 50))


def test_phrases_of_bars_and_of_tokens(tmp_path):
    tune = read(save(tmp_path / "a.mid", melody(9)))
    lengths = [p.end for p in phrases(tune, MusicConfig(bars=4))]
    assert lengths == [64, 64]  # the ninth bar is less than half of four
    assert [p.end for p in phrases(tune, MusicConfig(bars=2))] == [32, 32, 32, 32, 16]
    assert [p.end for p in phrases(tune, MusicConfig(tokens=60))] == [60, 60]
    assert [p.end for p in phrases(tune, MusicConfig(bars=0))] == [tune.end]
    config = MusicConfig(encoding="remi", tokens=70)
    counts = [len(encoding_of(config).encode(p)) for p in phrases(tune, config)]
    assert max(counts) <= 70
    assert min(counts[:-1]) > 35
    assert sum(p.end for p in phrases(tune, config)) == tune.end


def test_a_note_over_the_end_of_a_phrase_is_cut_there():
    tune = midi.Tune(np.array([[0, 10, 60, 90], [10, 4, 62, 90]]), midi.bars_of([], 1, 4, 14), 4.0, 14)
    assert tune.cut(8, 12).notes.tolist() == [[0, 2, 60, 90], [2, 2, 62, 90]]


def test_transposed_copies_stay_on_the_piano():
    tune = midi.Tune(np.array([[0, 1, 107, 90]]), np.zeros((0, 3), int), 4.0, 1)
    assert tune.moved(1).notes[0, 2] == 108
    assert tune.moved(2) is None


# --- folders ---------------------------------------------------------------------------------------------------------


def test_tunes_are_held_out_whole(tmp_path):
    """Every phrase of a tune in one set; copies in other keys of the training set alone."""
    folder(tmp_path / "tunes", 30)
    config = DataConfig(source=str(tmp_path / "tunes"), music=MusicConfig(bars=2, transpose=2))
    documents, corpus = corpora.documents_and_corpus(config)
    files = {name: {place.split(":")[0] for place in d.places} for name, d in documents.items()}
    assert {name: len(found) for name, found in files.items()} == {"train": 24, "valid": 3, "test": 3}
    assert not files["train"] & files["valid"]
    assert not files["train"] & files["test"]
    assert len(corpus.train) == 24 * 4 * 5
    assert len(corpus.test) == 3 * 4
    assert documents["train"].place(1).endswith("phrase 1, moved by +1 semitones")
    assert corpus.unk_id not in corpus.test.ids  # all 88 pitches have an id
    assert corpus.vocab_size == 88 + 2 + 2
    assert corpora.load(corpora.effective(config, corpus)).digest == corpus.digest


def test_what_is_no_tune_is_named_and_the_rest_used(tmp_path):
    tunes = folder(tmp_path / "tunes")
    whole = (tunes / "tune00.mid").read_bytes()
    (tunes / "notes.txt").write_text("a list of tunes\n")
    (tunes / "cut.mid").write_bytes(whole[: len(whole) // 2])
    (tunes / "empty.mid").write_bytes(b"")
    (tunes / "words.mid").write_text("not a tune at all")
    save(tunes / "silent.mid", [])
    config = DataConfig(source=str(tunes))
    with pytest.warns(UserWarning, match="left out") as told:
        corpus = load(config)
    text = "\n".join(str(w.message) for w in told)
    for name in ("notes.txt", "cut.mid", "empty.mid", "words.mid", "silent.mid"):
        assert text.count(name) == 1, name
    assert "broken MIDI: cut.mid (cannot be read" in text
    assert "no note: silent.mid" in text
    assert len(corpus.train) == 10 * 2
    for name in ("cut.mid", "empty.mid", "words.mid", "silent.mid"):
        (alone := tmp_path / name.replace(".", "-")).mkdir()
        (tunes / name).rename(alone / name)
        with pytest.raises(ValueError, match="no MIDI file in it that can be used"):
            load(dataclasses.replace(config, source=str(alone), format="midi"))
        with pytest.raises(ValueError, match=rf"{name}: .*; mend it, or pass --data.on_error skip"):
            load(dataclasses.replace(config, source=str(alone), on_error="stop"))


def test_a_file_cut_anywhere_is_broken(tmp_path):
    """Also between two tracks, where what is left reads well: the first line of its header says how many there are."""
    whole = save(tmp_path / "a.mid", melody(2), [(0.0, 8.0, 48)]).read_bytes()
    second = whole.rindex(b"MTrk")
    for size in (14, 20, second - 1, second, second + 8, len(whole) - 1):
        (tmp_path / "cut.mid").write_bytes(whole[:size])
        with pytest.raises(Flaw, match="cannot be read"):
            read(tmp_path / "cut.mid")
    assert len(midi.read_midi(tmp_path / "a.mid", None, 4)[0].notes) == len(melody(2)) + 1


def test_folders_of_train_valid_and_test_and_folders_below(tmp_path):
    for name, n in (("train", 5), ("valid", 2), ("test", 3)):
        folder(tmp_path / "a" / name, n)
    assert [len(s) for s in (lambda c: (c.train, c.valid, c.test))(load(DataConfig(source=str(tmp_path / "a"))))] == [
        10,
        4,
        6,
    ]
    folder(tmp_path / "b" / "jigs")
    folder(tmp_path / "b" / "reels")
    corpus = load(DataConfig(source=str(tmp_path / "b")))
    assert len(corpus.train) + len(corpus.test) + len(corpus.valid) == 24 * 2
    save(tmp_path / "b" / "one.mid", TUNE)
    with (
        pytest.warns(UserWarning, match="24 MIDI files lie in folders below"),
        pytest.raises(ValueError, match="1 tunes; at"),
    ):
        load(DataConfig(source=str(tmp_path / "b")))


def test_text_beside_midi_stays_text(tmp_path):
    (tmp_path / "train.txt").write_text("a b c\n" * 20)
    save(tmp_path / "one.mid", TUNE)
    assert load(DataConfig(source=str(tmp_path))).music is None


def test_notes_no_piano_has_are_counted(tmp_path):
    tunes = folder(tmp_path / "tunes")
    save(tunes / "low.mid", [*melody(8), (2.0, 1.0, 5)])
    with pytest.warns(UserWarning, match=r"left out 1 of \d+ notes, which no piano has"):
        load(DataConfig(source=str(tunes)))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--data.music.grid", "0"], "data.music.grid is 0, but must be between 1 and 96"),
        (["--data.music.track", "flute"], "data.music.track is 'flute'"),
        (["--data.music.track", "7"], "there is no number 7"),
        (["--data.music.seconds", "0.4"], "give --data.music.encoding melody and --data.music.tokens"),
        (["--data.music.velocities", "4"], "the melody encoding has no loudness"),
        (["--data.tokenizer", "bpe"], "choose by --data.music.encoding"),
        (["--data.vocab_size", "9"], "MIDI has no such thing"),
        (["--data.music.encoding", "remy"], "remy"),
    ],
)
def test_bad_options_are_named(options, told, tmp_path, capsys):
    folder(tmp_path / "tunes", 2)
    assert main(["train", "mle", "--data", str(tmp_path / "tunes"), *options]) == 2
    assert told in capsys.readouterr().err
