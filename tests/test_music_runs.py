"""From a folder of MIDI to tunes one can play: training, generating, scoring, the report."""

import json
import time

import mido
import numpy as np
import pretty_midi
import pytest
from matplotlib.figure import Figure
from music_files import by_mido, folder, save

from seqforge import tunes
from seqforge.cli import main
from seqforge.data import midi, music
from seqforge.data.music import MusicConfig
from seqforge.loading import find_checkpoint, load_tokenizer
from seqforge.report import rolls, sound
from seqforge.report.figures import PAPER
from seqforge.report.music import read_music

SMALL = ["--generator.hidden", "8", "--generator.embedding", "8", "--mle.epochs", "2", "--mle.batch", "16"]
SMALL += ["--evaluate.samples", "24", "--evaluate.temperatures", "[1.0]", "--monitor.samples", "16"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run of each encoding on the same tunes, which are gone before anything is generated."""
    home = tmp_path_factory.mktemp("music")
    home_of = folder(home / "tunes", 14)
    for name, options in (("melody", []), ("remi", ["--data.music.encoding", "remi", "--data.music.bars", "1"])):
        argv = ["train", "mle", "--data", str(home_of), *SMALL, *options, "--out", str(home / name)]
        assert main(argv) == 0
    home_of.rename(home / "elsewhere")
    return home


@pytest.mark.parametrize("name", ["melody", "remi"])
def test_every_tune_opens_in_other_libraries(name, runs, tmp_path, capsys):
    out = tmp_path / "tunes"
    assert main(["generate", str(runs / name), "-n", "12", "--out", str(out), "--images", "--tempo", "90"]) == 0
    assert f"12 tunes in {out}" in capsys.readouterr().out
    files = sorted(out.glob("*.mid"))
    assert [f.name for f in files] == [f"tune-{i:03}.mid" for i in range(1, 13)]
    assert len(list(out.glob("*.png"))) == 12
    assert (out / "tune-001.png").read_bytes().startswith(b"\x89PNG")
    for file in files:
        assert mido.MidiFile(file).length >= 0
        assert pretty_midi.PrettyMIDI(str(file)).get_tempo_changes()[1][0] == pytest.approx(90, abs=1e-2)
    found = sum(len(by_mido(f)) for f in files)
    assert found == sum(len(i.notes) for f in files for i in pretty_midi.PrettyMIDI(str(f)).instruments)
    assert found > 0


def test_the_words_and_the_files_are_the_same_tunes(runs, tmp_path, capsys):
    run = str(runs / "melody")
    assert main(["generate", run, "-n", "5", "--out", str(tmp_path / "a")]) == 0
    capsys.readouterr()
    assert main(["generate", run, "-n", "5"]) == 0
    encoding = music.encoding_of(MusicConfig())
    for k, line in enumerate(capsys.readouterr().out.splitlines(), 1):
        notes = [(s / 4, d / 4, p) for s, d, p, _ in encoding.decode(line.split()).notes.tolist()]
        assert by_mido(tmp_path / "a" / f"tune-{k:03}.mid") == notes


def test_the_vocabulary_is_all_there_can_be(runs):
    words = load_tokenizer(find_checkpoint(runs / "melody")).get_vocab()
    assert {*music.encoding_of(MusicConfig()).vocabulary(), "<eos>", "<unk>"} == set(words)


@pytest.mark.parametrize(("name", "bars"), [("melody", 2), ("remi", 1)])
def test_a_midi_file_as_the_prompt(name, bars, runs, tmp_path, capsys):
    """The first bars are those of the file; what the primer holds besides is the generator's."""
    primer = save(tmp_path / "primer.mid", [(0.0, 1.0, 61), (1.0, 1.0, 63), (2.0, 2.0, 66), (4.0, 4.0, 68)])
    out = tmp_path / "out"
    argv = ["generate", str(runs / name), "-n", "3", "--prompt", str(primer), "--out", str(out)]
    assert main([*argv, "--prompt-bars", str(bars), "--max-length", "48"]) == 0
    expected = [n for n in by_mido(primer) if n[0] < 4 * bars]
    for file in out.glob("*.mid"):
        assert by_mido(file)[: len(expected) - 1] == expected[:-1]  # the last may be held on
    assert main(["generate", str(runs / name), "-n", "1", "--prompt", str(primer), "--max-length", "40"]) == 0
    assert main([*argv[:-1], str(tmp_path / "b"), "--prompt-bars", "9"]) == 2
    assert "has 2 bars; give 1 to 2" in capsys.readouterr().err


def test_a_prompt_fills_no_more_than_half_and_is_of_the_track_that_was_trained_on(tmp_path):
    """Bars of 16 tokens; the second track is higher, so that it would be the melody were the tracks joined."""
    notes = [(float(q), 1.0, 60 + q) for q in range(16)]
    path = save(tmp_path / "a.mid", notes, [(s, d, p + 24) for s, d, p in notes])
    words = music.encoding_of(MusicConfig()).encode(midi.read_midi(path, 0, 4)[0])
    for horizon, bars in ((96, 3), (95, 2), (63, 1), (1000, 4)):
        assert tunes.prompt_words(path, MusicConfig(), None, horizon) == words[: 16 * bars]
    with pytest.raises(ValueError, match="its first bar is more than half of 31 tokens; give --prompt-bars 1"):
        tunes.prompt_words(path, MusicConfig(), None, 31)
    assert tunes.prompt_words(path, MusicConfig(), 1, 31) == words[:16]


def test_what_needed_repair_is_counted(tmp_path):
    assert tunes.write(["C4 _", "_ C4", "rest"], MusicConfig(), tmp_path / "out", 120.0, False) == (3, 1)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--images"], "--images: needs a run of music and --out FOLDER"),
        (["--prompt-bars", "2"], "--prompt-bars: needs a run of music and --prompt FILE.mid"),
        (["--out", "new", "--json"], "a folder of .mid files has none"),
        (["--out", "new", "--tempo", "0.1"], "--tempo is 0.1, but must lie between 1 and 1000"),
        (["--out", "new", "--prompt", "no.mid"], "no.mid"),
        (["--prompt", "C4 Q9"], "'Q9' is not in the vocabulary"),
    ],
)
def test_options_that_do_not_fit_are_named(options, told, runs, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["generate", str(runs / "melody"), *options]) == 2
    assert told in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_a_full_folder_is_not_written_to(runs, tmp_path, capsys):
    (tmp_path / "mine.mid").write_text("")
    assert main(["generate", str(runs / "melody"), "--out", str(tmp_path)]) == 2
    assert "is not an empty folder" in capsys.readouterr().err


def test_an_empty_tune_is_a_file_too(tmp_path):
    tune = music.encoding_of(MusicConfig()).decode(["rest"] * 4)
    midi.write_midi(tune, tmp_path / "a.mid")
    assert by_mido(tmp_path / "a.mid") == []
    assert not pretty_midi.PrettyMIDI(str(tmp_path / "a.mid")).get_end_time()


def test_inspecting_a_folder(tmp_path, capsys):
    given = folder(tmp_path / "tunes", 20)
    (given / "readme.txt").write_text("tunes")
    assert main(["data", "inspect", str(given), "--music.bars", "2", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["settings"]["data.format"] == "midi"
    assert found["splits"]["train"]["sequences"] == 16 * 4
    assert found["files"]["train"]["skipped"] == {"no MIDI": 1}


def test_the_tiny_recipe_trains_on_any_folder(tmp_path):
    folder(tmp_path / "tunes", 20)
    begun = time.process_time()
    argv = ["train", "seqgan", "--recipe", "music-tiny", "--data", str(tmp_path / "tunes")]
    assert main([*argv, "--out", str(tmp_path / "run")]) == 0
    assert time.process_time() - begun < 20
    scores = json.loads((tmp_path / "run" / "scores.json").read_text())
    assert [g["name"] for g in scores["generators"]] == ["pre-trained", "MLE counterpart", "final"]
    assert main(["evaluate", str(tmp_path / "run"), "--metrics", "validity", "--samples", "8"]) == 0
    (score,) = [s for s in json.loads((tmp_path / "run" / "scores.json").read_text())["references"][0]["scores"]]
    assert (score["name"], score["value"]) == ("validity", 1.0)


def test_scoring_a_folder_of_tunes_against_another(tmp_path, capsys):
    """Equal ones in other folders: what `score` says of files is what the metrics say of tunes."""
    a, b = folder(tmp_path / "a", 6), folder(tmp_path / "b", 12)
    (a / "words.txt").write_text("no tune")
    argv = ["score", "--samples", str(a), "--references", str(b), "--train", str(b), "--json"]
    assert main(argv) == 0
    found = {s["name"]: s for s in json.loads(capsys.readouterr().out)}
    assert (found["validity"]["value"], found["copies"]["value"], found["bleu4"]["value"]) == (1, 1, 1)
    assert "tok:melody-holds-4" in found["note_bleu4"]["signature"]
    assert "n:12" in found["validity"]["signature"]  # six tunes of eight bars, four a phrase
    chords = ["--music.encoding", "remi", "--metrics", "polyphony"]
    assert main([*argv, *chords]) == 0
    found = {s["name"]: s["value"] for s in json.loads(capsys.readouterr().out)}
    assert found["polyphony"] == 4
    (tmp_path / "text.txt").write_text("a\nb\n")
    assert main(["score", "--samples", str(a), "--references", str(tmp_path / "text.txt")]) == 2
    assert "text.txt: not MIDI, but the others are" in capsys.readouterr().err
    assert main(["score", "--samples", str(a), "--references", str(tmp_path / "nix")]) == 2
    assert "nix: no such file; give folders of MIDI for all" in capsys.readouterr().err


def test_a_metric_of_tunes_on_text_is_refused(tmp_path, capsys):
    for name in ("a", "b"):
        (tmp_path / f"{name}.txt").write_text(f"some words\nand {name}\n")
    argv = ["score", "--samples", str(tmp_path / "a.txt"), "--references", str(tmp_path / "b.txt")]
    assert main([*argv, "--metrics", "polyphony"]) == 2
    assert "a metric of tunes, and these are none" in capsys.readouterr().err


# --- the report ------------------------------------------------------------------------------------------------------


def test_the_report_shows_real_and_generated_tunes(runs):
    page = (runs / "melody" / "report.html").read_text()
    shown = json.loads((runs / "melody" / "music.json").read_text())
    assert len(shown["real"]) == 2  # a tenth of 14 tunes, two phrases
    assert page.count("Held out <small>") == 2
    assert page.count("Generated <small>") == 4
    heard = sum(bool(t["notes"]) for side in shown.values() for t in side)
    assert page.count('<audio controls preload="none" src="data:audio/wav;base64,') == heard > 0
    assert "media-src data:" in page
    assert f"piano roll of {len(shown['real'][0]['notes'])} notes over" in page


def test_scores_of_tunes_beside_held_out_tunes(runs):
    scores = json.loads((runs / "remi" / "scores.json").read_text())
    names = {s["name"] for s in scores["generators"][-1]["scores"]}
    (real,) = scores["references"]
    assert real["name"] == "training tunes themselves"
    values = {s["name"]: s["value"] for s in real["scores"]}
    assert {"validity", "scale_consistency_references", "note_bleu4", "self_bleu2"} <= names | set(values)
    assert (values["validity"], values["scale_consistency"], values["empty_bars"]) == (1, 1, 0)
    assert values["polyphony"] == values["polyphony_references"] == 4  # a melody over chords of three


def test_a_tone_sounds_at_its_pitch():
    wave = sound.samples([(0.0, 2.0, 69)])
    assert len(wave) == pytest.approx(sound.RATE * 1.1, abs=2)
    spectrum = abs(np.fft.rfft(wave[: sound.RATE]))
    assert spectrum.argmax() == 440
    assert abs(wave).max() == pytest.approx(1)


def test_a_long_tune_is_heard_for_20_seconds():
    wave = sound.samples([(0.0, 1.0, 60), (30.0, 60.0, 69), (100.0, 2.0, 72)])  # quarters of half a second
    assert len(wave) == pytest.approx(sound.RATE * 20.1, abs=2)
    assert abs(wave[sound.RATE * 15 : sound.RATE * 16]).max() > 0.1


def test_a_piano_roll_has_a_bar_for_each_note_at_its_place():
    axes = Figure().add_subplot()
    rolls.draw_roll(
        axes, [(0.0, 1.0, 60), (2.0, 4.0, 72)], 8.0, PAPER, rolls.limits_of([[(0.0, 1.0, 60), (2.0, 4.0, 72)]])
    )
    boxes = [c.get_paths()[0].get_extents() for c in axes.collections]
    assert [(b.x0, (b.y0 + b.y1) / 2) for b in boxes] == [(0, pytest.approx(60)), (2, pytest.approx(72))]
    assert [b.x1 - b.x0 for b in boxes] == [pytest.approx(0.94), pytest.approx(3.76)]
    assert axes.get_xlim() == (0, 8)
    low, high = axes.get_ylim()
    assert low < boxes[0].y0 < boxes[1].y1 < high


def test_a_broken_file_of_tunes_is_told(tmp_path):
    (tmp_path / "music.json").write_text('{"real": [{"notes": [[0, 1, 300]], "quarters": 4}], "generated": []}')
    found, told = read_music(tmp_path)
    assert found is None
    assert "no tune has" in told[0]
