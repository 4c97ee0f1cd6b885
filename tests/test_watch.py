"""Evaluators beside a training: each checkpoint scored once, whoever is killed; nothing lost, nothing half seen."""

import csv
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
import torch

from seqforge import checkpoint, watch
from seqforge.cli import main
from seqforge.loading import load_generator

TINY = ["train", "scratchgan", "--recipe", "scratchgan-tiny", "--checkpoint.every", "1", "--counterpart.epochs", "0"]
LONG = 600  # seconds: no test waits so long unless something is broken, however busy the machine
QUIET = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}


def rows_of(run: Path) -> list[dict[str, str]]:
    with (run / "evaluations.csv").open() as f:
        return list(csv.DictReader(f))


def values_of(run: Path) -> list[list[tuple[str, float]]]:
    generators = json.loads((run / "scores.json").read_text())["generators"]
    return [[(s["name"], s["value"]) for s in g["scores"]] for g in generators]


def names_of(run: Path) -> list[str]:
    return [p.name for p in checkpoint.every(run / "checkpoints")]


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("watch") / "run"
    assert main([*TINY, "--out", str(run)]) == 0
    return run


@pytest.fixture
def run(trained, tmp_path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "run"))


def evaluator(run: Path, *options: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "seqforge.cli", "evaluate", str(run), "--watch", "--poll", "0.1", *options]
    return subprocess.Popen(command, env=QUIET, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def wait_until(true) -> None:
    end = time.monotonic() + LONG
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_every_checkpoint_has_a_row_its_samples_and_the_best_is_marked(run, capsys):
    assert main(["evaluate", str(run), "--watch", "--samples", "64"]) == 0
    rows = rows_of(run)
    assert [r["checkpoint"] for r in rows] == names_of(run) == [f"step-{n}" for n in range(5)]
    for row in rows:
        assert {"nll_oracle", "nll_valid", "entropy"} <= row.keys()
        assert all(0 < float(row[p]) < 1 for p in ("p_train", "p_valid", "p_generated"))
        assert len((run / "evaluations" / f"{row['checkpoint']}.txt").read_text().splitlines()) == 64
    best = json.loads((run / "evaluations" / "best.json").read_text())
    assert best["checkpoint"] == min(rows, key=lambda r: float(r["nll_valid"]))["checkpoint"]
    before = {p.name: p.stat().st_mtime_ns for p in (run / "evaluations").glob("step-*.json")}
    assert main(["evaluate", str(run), "--watch"]) == 0
    assert before == {p.name: p.stat().st_mtime_ns for p in (run / "evaluations").glob("step-*.json")}


def test_the_score_is_that_of_the_sequences_held_out(run):
    """nll_valid of a checkpoint is what `evaluate` would say of the generator on the validation set."""
    from seqforge import corpora, loading
    from seqforge.metrics import nll
    from seqforge.settings import RunConfig, build

    watch.watch(run)
    stored = build(RunConfig, loading.read_config(run))
    corpus = corpora.load(stored.data)
    generator = loading.load_generator(run / "checkpoints" / "step-4", "float32")
    found = nll.nll_tests(generator, corpus.valid, corpus.source, [1.0])[0]
    assert float(rows_of(run)[-1]["nll_valid"]) == pytest.approx(found.value, abs=1e-5)


def test_two_evaluators_of_which_one_is_killed_twenty_times(run):
    """While checkpoints appear one after the other: exactly one row each, and one evaluation that counted."""
    source = [Path(shutil.move(p, run.parent / p.name)) for p in checkpoint.every(run / "checkpoints")]
    log, whole = run / "log.jsonl", (run / "log.jsonl").read_text()
    log.write_text(whole.rpartition('{"')[0] or whole[:-5])  # without its last record: the training goes on
    count = 24

    def appear() -> None:
        for n in range(1, count + 1):
            part = run / "checkpoints" / f".step-{n}.part"
            shutil.copytree(source[n % len(source)], part)
            part.rename(part.with_name(f"step-{n}"))
            time.sleep(0.3)
        log.write_text(whole)

    steady = evaluator(run)
    writer = threading.Thread(target=appear)
    writer.start()
    dice = random.Random(3)
    for _ in range(20):
        victim = evaluator(run)
        time.sleep(dice.uniform(0.2, 4.0) if dice.random() < 0.3 else dice.uniform(0.0, 1.0))
        victim.send_signal(signal.SIGKILL)
        victim.communicate()
    writer.join()
    _, said = steady.communicate(timeout=LONG)
    assert steady.returncode == 0, said
    assert [r["checkpoint"] for r in rows_of(run)] == [f"step-{n}" for n in range(1, count + 1)]
    assert not any(r.get("error") for r in rows_of(run))
    results = [p for p in (run / "evaluations").iterdir() if p.name.startswith("step-") and p.suffix == ".json"]
    assert len(results) == count


def test_one_killed_in_the_middle_of_an_evaluation_leaves_it_to_the_next(run):
    victim = evaluator(run, "--samples", "200000")

    def at_work() -> bool:
        with checkpoint.claimed(run / "checkpoints" / "step-0") as mine:
            return not mine

    wait_until(at_work)
    victim.send_signal(signal.SIGKILL)
    victim.communicate()
    assert not list((run / "evaluations").glob("step-*.json"))
    assert watch.watch(run) == 5
    assert [r["checkpoint"] for r in rows_of(run)] == names_of(run)


@pytest.mark.parametrize(("fails", "rows"), [(2, 5), (99, 4)])
def test_a_system_that_fails_is_tried_again_and_then_named(fails, rows, run, monkeypatch, capsys):
    plain, left = watch.assess, [fails]

    def assess(folder, *given):
        if folder.name == "step-2" and left[0]:
            left[0] -= 1
            raise OSError(116, "Stale file handle")
        return plain(folder, *given)

    monkeypatch.setattr(watch, "assess", assess)
    assert watch.watch(run, seconds=0.01) == 5
    assert [r["checkpoint"] for r in rows_of(run)] == names_of(run)
    assert sum(not r.get("error") for r in rows_of(run)) == rows
    assert capsys.readouterr().err.count("Stale file handle; it is tried again") == 2
    assert 99 - left[0] == watch.TRIES or fails == 2


def test_a_checkpoint_that_another_evaluates_is_left_to_it(run, monkeypatch):
    seen = []

    def assess(folder, *_):
        seen.append(folder.name)
        return {"checkpoint": folder.name, "step": checkpoint.step_of(folder), "error": "not today"}

    monkeypatch.setattr(watch, "assess", assess)
    (run / "evaluations").mkdir()
    with checkpoint.claimed(run / "checkpoints" / "step-2") as mine:
        assert mine
        thread = threading.Thread(target=lambda: watch.watch(run, seconds=0.05), daemon=True)
        thread.start()
        wait_until(lambda: len(seen) >= 4)
        time.sleep(0.5)  # ten looks more
        assert seen == ["step-0", "step-1", "step-3", "step-4"]
        assert thread.is_alive()  # nothing is lost if that other is killed
    thread.join(LONG)
    assert seen == ["step-0", "step-1", "step-3", "step-4", "step-2"]


def test_it_waits_for_a_folder_that_is_not_there_yet(trained, tmp_path):
    process = evaluator(tmp_path / "later", "--samples", "32")
    assert process.stderr.readline().startswith("waiting for ")
    shutil.copytree(trained, tmp_path / "part")
    (tmp_path / "part").rename(tmp_path / "later")
    _, said = process.communicate(timeout=LONG)
    assert process.returncode == 0, said
    assert len(rows_of(tmp_path / "later")) == 5


def test_a_folder_removed_while_it_is_watched_is_named(run, monkeypatch):
    monkeypatch.setattr(watch.time, "sleep", lambda _: shutil.rmtree(run))
    log = run / "log.jsonl"
    log.write_text(log.read_text().splitlines()[0] + "\n")
    with pytest.raises(ValueError, match="removed while it was watched; 5 checkpoints had been scored"):
        watch.watch(run)


def test_a_folder_removed_while_a_checkpoint_is_scored_is_named_too(run, monkeypatch):
    """It ended in "no such file: evaluations/step-2.json"."""
    plain, seen, scored = watch.assess, [], []

    def assess(folder, *args):
        if folder.name == "step-2":
            shutil.rmtree(run)
            scored.append(len(seen))
        seen.append(folder.name)
        return plain(folder, *args)

    monkeypatch.setattr(watch, "assess", assess)
    with pytest.raises(ValueError, match="removed while it was watched") as told:
        watch.watch(run)
    assert f"; {scored[0]} checkpoints had been scored" in str(told.value)
    assert scored[0] > 0


def test_a_damaged_checkpoint_has_a_row_that_says_so(run):
    (run / "checkpoints" / "step-2" / "generator" / "model.safetensors").write_bytes(b"?")
    assert watch.watch(run) == 5
    rows = rows_of(run)
    assert "damaged" in rows[2]["error"]
    assert rows[2]["nll_valid"] == ""
    assert [bool(r["error"]) for r in rows] == [False, False, True, False, False]


def test_weights_that_take_the_place_of_others_are_scored_anew(tmp_path):
    """The end of a run writes the best epoch over the last step, which kept the result of the last epoch."""
    run = tmp_path / "run"
    argv = ["train", "seqgan", "--recipe", "seqgan-oracle-tiny", "--rounds", "0", "--out", str(run)]
    assert main(argv) == 0
    assert watch.watch(run) == len(names_of(run))
    before, folder = rows_of(run)[-1], checkpoint.every(run / "checkpoints")[-1]
    generator = load_generator(folder)
    with torch.no_grad():
        generator.head.bias += torch.linspace(-3, 3, generator.vocab_size)
    models = {"generator": generator}
    text = {"tokenizer.json": (folder / "generator" / "tokenizer.json").read_text()}
    checkpoint.write(folder, models, checkpoint.load_training(folder), text, "final")
    assert watch.watch(run) == 1
    after = rows_of(run)[-1]
    assert float(after["nll_valid"]) > float(before["nll_valid"]) + 0.5
    assert watch.watch(run) == 0


def test_a_checkpoint_replaced_while_it_is_scored_has_no_result_of_either(run, monkeypatch):
    folder = checkpoint.every(run / "checkpoints")[0]
    found = iter(["a", "b", "b", "b"])
    monkeypatch.setattr(checkpoint, "weights_of", lambda _: next(found))
    monkeypatch.setattr(watch, "assess", lambda *_: {"checkpoint": folder.name, "step": 0, "error": "gone"})
    (run / "evaluations").mkdir()
    given = (folder, None, None, "fp32", "nll_valid", Counter())
    assert [watch._score(*given), watch._score(*given)] == [False, True]


def test_data_that_has_changed_since_the_training_began_is_refused(tmp_path, capsys):
    data, run = tmp_path / "data.txt", tmp_path / "run"
    data.write_text("".join(f"a line with word {k % 7}\n" for k in range(60)))
    argv = [*TINY, "--data", str(data), "--data.max_length", "6", "--rounds", "1", "--out", str(run)]
    assert main(argv) == 0
    data.write_text("".join(f"another line with word {k % 5}\n" for k in range(60)))
    assert main(["evaluate", str(run), "--watch"]) == 2
    assert "it began with other data" in capsys.readouterr().err


def test_a_run_is_scored_on_another_machine(tmp_path, capsys):
    """Its folder is shared; its data lie elsewhere there, and there is no GPU. All scores of text are in the row."""
    data, run = tmp_path / "data.txt", tmp_path / "run"
    data.write_text("".join(f"a line with word {k % 7}\n" for k in range(60)))
    argv = [*TINY, "--data", str(data), "--data.max_length", "6", "--rounds", "1", "--out", str(run)]
    assert main(argv) == 0
    before = values_of(run)
    here = data.rename(tmp_path / "moved.txt")
    config = run / "config.yaml"
    config.write_text(config.read_text().replace("device: cpu", "device: cuda"))
    capsys.readouterr()
    if not torch.cuda.is_available():
        assert main(["evaluate", str(run), "--watch", "--data", str(here)]) == 2
        assert "use --device cpu" in capsys.readouterr().err
    assert main(["evaluate", str(run), "--watch", "--device", "cpu"]) == 2
    assert "data.txt" in capsys.readouterr().err
    elsewhere = ["--device", "cpu", "--data", str(here)]
    metrics = "bleu,self_bleu,fed,lm,reverse_lm"
    assert main(["evaluate", str(run), "--watch", *elsewhere, "--metrics", metrics, "--samples", "40"]) == 0
    assert [r["checkpoint"] for r in rows_of(run)] == names_of(run)
    for row in rows_of(run):
        assert {
            "p_train",
            "p_valid",
            "p_generated",
            "fed",
            "lm_score",
            "reverse_lm",
            "lm3",
            "reverse_lm3",
        } <= row.keys()
        assert {"bleu4", "self_bleu4"} <= row.keys()
    assert main(["evaluate", str(run), *elsewhere]) == 0
    assert values_of(run) == before
    here.write_text("".join(f"another line with word {k % 5}\n" for k in range(60)))
    assert main(["evaluate", str(run), *elsewhere]) == 2
    assert "it began with other data" in capsys.readouterr().err


def test_a_score_that_there_is_not_is_named_with_those_there_are(run, capsys):
    assert main(["evaluate", str(run), "--watch", "--score", "bleu7"]) == 2
    said = capsys.readouterr().err
    assert "--score bleu7" in said
    assert "nll_valid" in said


@pytest.mark.parametrize("name", ["entropy", "p_train", "length"])
def test_a_score_without_a_better_side_is_refused(name, run, capsys):
    assert main(["evaluate", str(run), "--watch", "--score", name]) == 2
    assert f"--score {name}" in capsys.readouterr().err


@pytest.mark.parametrize(("score", "best"), [("bleu2", "step-2"), ("fed", "step-1"), ("self_bleu2", "step-3")])
def test_the_best_is_the_highest_or_the_lowest_as_the_score_has_it(score, best, tmp_path):
    (tmp_path / "evaluations").mkdir()
    for step, values in enumerate([(0.1, 0.2, 0.5), (0.4, 0.3, 0.6), (0.2, 0.5, 0.1)], 1):
        scores = [{"name": n, "value": v} for n, v in zip(("bleu2", "fed", "self_bleu2"), values, strict=True)]
        found = {"checkpoint": f"step-{step}", "step": step, "scores": scores}
        (tmp_path / "evaluations" / f"step-{step}.json").write_text(json.dumps(found))
        (tmp_path / "checkpoints" / f"step-{step}").mkdir(parents=True)
    watch.summarise(tmp_path, score)
    assert json.loads((tmp_path / "evaluations" / "best.json").read_text())["checkpoint"] == best
    assert [r["checkpoint"] for r in rows_of(tmp_path)] == ["step-1", "step-2", "step-3"]
    (tmp_path / "checkpoints" / best).rmdir()  # pruned, before an evaluator chose by this score
    watch.summarise(tmp_path, score)
    assert json.loads((tmp_path / "evaluations" / "best.json").read_text())["checkpoint"] != best
    with pytest.raises(ValueError, match="--score true_nll: no result has it"):
        watch.summarise(tmp_path, "true_nll", ended=True)
    watch.summarise(tmp_path, "true_nll")  # a later checkpoint may: no sample was grammatical yet


@pytest.mark.parametrize("options", [["--poll", "0"], ["--poll", "-1"], ["--threads", "-1"]])
def test_bad_options_are_refused(options, run, capsys):
    assert main(["evaluate", str(run), "--watch", *options]) == 2
    assert "seconds" in capsys.readouterr().err


@pytest.mark.parametrize(
    "options", [["--score", "fed"], ["--poll", "1"], ["--watch", "--json"], ["--watch", "--temperatures", "[0.5]"]]
)
def test_options_that_would_do_nothing_are_refused(options, tmp_path, capsys):
    assert main(["evaluate", str(tmp_path), *options]) == 2
    assert f"does nothing with{'' if '--watch' in options else 'out'} --watch" in capsys.readouterr().err


def test_a_clock_that_jumps_changes_nothing(run):
    for n, folder in enumerate(checkpoint.every(run / "checkpoints")):
        for path in [folder, *folder.rglob("*")]:
            os.utime(path, (10**9 - n, 10**9 - n))  # older the newer they are
    assert watch.watch(run) == 5
    assert [r["step"] for r in rows_of(run)] == ["0", "1", "2", "3", "4"]


def test_an_evaluator_beside_the_training_starts_and_stops_with_it(tmp_path):
    run = tmp_path / "run"
    chosen = ["--evaluate.score", "nll_oracle"]
    assert main([*TINY, "--evaluate", "beside", *chosen, "--out", str(run)]) == 0
    assert [r["checkpoint"] for r in rows_of(run)] == names_of(run)
    best = json.loads((run / "evaluations" / "best.json").read_text())
    assert best["score"] == "nll_oracle"
    assert best["value"] == min(float(r["nll_oracle"]) for r in rows_of(run))
    assert "step-4" in (run / "evaluations" / "log.txt").read_text()
    assert "held to the validation set" in (run / "report.html").read_text()


def test_a_score_that_no_best_can_be_chosen_by_is_refused_before_the_training(tmp_path, capsys):
    assert main([*TINY, "--evaluate.score", "entropy", "--out", str(tmp_path / "run")]) == 2
    assert "--score entropy" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_an_evaluator_whose_training_was_killed_scores_what_is_there_and_ends(run):
    log = run / "log.jsonl"
    log.write_text(log.read_text().splitlines()[0] + "\n")  # it did not end
    waiting = evaluator(run, "--samples", "32", "--training", str(os.getpid()))
    wait_until(lambda: (run / "evaluations.csv").is_file() and len(rows_of(run)) == 5)
    with pytest.raises(subprocess.TimeoutExpired):
        waiting.wait(1.0)  # this process lives, and is its parent
    waiting.kill()
    waiting.communicate()
    shutil.rmtree(run / "evaluations")
    orphan = evaluator(run, "--samples", "32", "--training", str(2**22 + 1))  # of no process
    _, said = orphan.communicate(timeout=LONG)
    assert orphan.returncode == 0, said
    assert [r["checkpoint"] for r in rows_of(run)] == names_of(run)


@pytest.mark.parametrize("method", [pytest.param("dialogue", marks=pytest.mark.slow), "leakgan"])
def test_other_methods_and_their_discriminators_are_read(method, tmp_path):
    run = tmp_path / "run"
    assert main(["train", method, "--recipe", f"{method}-tiny", "--checkpoint.every", "2", "--out", str(run)]) == 0
    assert watch.watch(run) == len(names_of(run))
    assert not any(r.get("error") for r in rows_of(run))
    assert 0 < float(rows_of(run)[-1]["p_valid"]) < 1


def test_an_evaluator_that_fails_is_named_with_the_way_to_go_on(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(watch.sys, "executable", "/bin/false")
    assert main([*TINY, "--evaluate", "beside", "--out", str(tmp_path / "run")]) == 2
    assert "--watch" in capsys.readouterr().err
    assert (tmp_path / "run" / "report.html").is_file()  # the training itself is whole


def test_training_that_fails_takes_its_evaluator_with_it(run):
    began = []
    plain = subprocess.Popen

    def popen(*args, **kwargs):
        began.append(plain(*args, **kwargs))
        return began[-1]

    log = run / "log.jsonl"
    log.write_text(log.read_text().splitlines()[0] + "\n")  # not ended: the evaluator would wait for ever
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(watch.subprocess, "Popen", popen)
        with pytest.raises(RuntimeError, match="lost"), watch.beside(run):
            raise RuntimeError("lost")
    assert began[0].poll() is not None
    assert began[0].args[-2:] == ["--training", str(os.getpid())]
