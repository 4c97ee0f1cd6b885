"""Several seeds in one command: a run each, one folder, one report; and what stops them."""

import json
import re
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest
from test_report import Page
from test_training import ARGV, short_report  # noqa: F401

from seqforge import seeds
from seqforge.cli import main


def test_seeds_are_distinct_numbers():
    assert seeds.parse("1,2,3") == seeds.parse("[1, 2, 3]") == [1, 2, 3]
    for wrong in ("", "1,1", "1,01", "a", "1,-2", "1.5"):
        with pytest.raises(ValueError, match="--seeds is"):
            seeds.parse(wrong)


def test_no_more_at_once_than_seeds_or_free_cores(monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    monkeypatch.setattr("os.getloadavg", lambda: (2.9, 0, 0))
    assert [seeds.at_once(0, n) for n in (1, 3, 5)] == [1, 3, 5]
    with pytest.warns(UserWarning, match="3 of 8 cores are busy: 5 at once; --at-once 8 does not wait"):
        assert seeds.at_once(0, 9) == 5
    assert seeds.at_once(7, 9) == 7
    monkeypatch.setattr("os.getloadavg", lambda: (20.0, 0, 0))
    with pytest.warns(UserWarning, match="1 at once; --at-once 3"):
        assert seeds.at_once(0, 3) == 1
    with pytest.raises(ValueError, match="--at-once is -1"):
        seeds.at_once(-1, 3)


def shared():
    """Options of a tiny MLE, its seed left out."""
    argv = [*ARGV, "--mle.epochs", "1"]
    at = argv.index("--seed")
    return argv[:at] + argv[at + 2 :]


class Done:
    """A process that has run in this one, which spares the start of another."""

    def __init__(self, command, **_):
        self.returncode = main(command[3:])

    def poll(self):
        return self.returncode


def test_two_seeds_make_two_runs_and_one_report_and_go_on_where_one_is_missing(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(seeds, "subprocess", SimpleNamespace(Popen=Done))
    folder = tmp_path / "both"
    assert main(["train", *shared(), "--seeds", "4,5", "--at-once", "2", "--out", str(folder)]) == 0
    told = capsys.readouterr()
    assert "seed 5: done" in told.err
    assert "runs" in told.out
    scores = [json.loads((folder / f"seed-{s}" / "scores.json").read_text())["generators"][-1] for s in (4, 5)]
    assert scores[0] != scores[1]
    page = Page((folder / "report.html").read_text())
    assert "seed-4" in page.text
    assert "mle, seeds 4, 5" in page.text
    before = (folder / "seed-5" / "scores.json").read_text()
    shutil.rmtree(folder / "seed-5")
    assert main(["resume", str(folder)]) == 0
    assert (folder / "seed-5" / "scores.json").read_text() == before
    assert main(["train", *shared(), "--seeds", "4,5", "--out", str(folder)]) == 2
    assert "seqforge resume" in capsys.readouterr().err


@pytest.mark.slow
def test_seeds_in_processes_of_their_own_give_what_a_run_alone_gives(tmp_path):
    assert main(["train", *shared(), "--seeds", "4,5", "--at-once", "2", "--out", str(tmp_path / "both")]) == 0
    assert main(["train", *shared(), "--seed", "5", "--threads", "1", "--out", str(tmp_path / "alone")]) == 0
    both = tmp_path / "both" / "seed-5" / "scores.json"
    assert both.read_text() == (tmp_path / "alone" / "scores.json").read_text()


@pytest.mark.parametrize(("limit", "threads"), [(1, None), (2, "1")])
def test_side_by_side_each_has_one_thread_and_alone_it_has_the_machine(limit, threads, tmp_path, monkeypatch):
    seen = []

    class Started:
        returncode = 0

        def __init__(self, command, env, **_):
            seen.append((command[-4:], env.get("OMP_NUM_THREADS"), env["OMP_WAIT_POLICY"]))

        def poll(self):
            return 0

    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(seeds, "subprocess", SimpleNamespace(Popen=Started))
    seeds.begin(tmp_path / "f", "mle", ["--mle.lr", "1"], [4, 5])
    seeds.carry_out(tmp_path / "f", limit)
    out = [str(run) for run in seeds.runs_of((tmp_path / "f").resolve())]
    assert seen == [(["--seed", str(s), "--out", o], threads, "PASSIVE") for s, o in zip((4, 5), out, strict=True)]


def test_what_is_wrong_is_said_before_any_seed_starts(tmp_path, capsys):
    out = ["--out", str(tmp_path / "x")]
    for wrong, told in (
        (["--seeds", "1,2", "--mle.epoch", "3"], "--mle.epochs"),
        (["--seeds", "1,2", "--seed", "3"], "exclude each other"),
        (["--seeds", "1,2", "--at-once", "two"], "--at-once is -1"),
        (["--seeds"], "--seeds is ''"),
        (["--at-once", "2"], "--at-once is for several seeds"),
    ):
        assert main(["train", "mle", *wrong, *out]) == 2
        assert told in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_a_seed_that_fails_is_named_and_the_others_end(tmp_path, monkeypatch):
    def start(plan, seed, run, limit):
        log = run.with_suffix(".log").open("w")
        code = "import sys; sys.exit('seqforge: too hot')" if seed == 2 else "open('ended', 'w')"
        run.mkdir()
        return subprocess.Popen([sys.executable, "-c", code], cwd=run, stderr=log)

    monkeypatch.setattr(seeds, "_start", start)
    seeds.begin(tmp_path / "f", "mle", [], [1, 2, 3])
    with pytest.raises(ValueError, match=r"seed 2: too hot .*seed-2\.log"):
        seeds.carry_out(tmp_path / "f", 1)
    assert [(r / "ended").is_file() for r in seeds.runs_of(tmp_path / "f")] == [True, False, True]


def test_a_damaged_plan_is_told(tmp_path):
    seeds.begin(tmp_path / "f", "mle", [], [1])
    (tmp_path / "f" / seeds.FILE).write_text("{")
    with pytest.raises(ValueError, match=r"seeds.json: cannot be read"):
        seeds.runs_of(tmp_path / "f")


# --- a seed that failed


@pytest.fixture
def failed(tmp_path, monkeypatch, capsys):
    """A folder of seeds 4, 5, 6 and 7: 5 has never begun, 7 was cut off; and what was said of that."""
    folder = tmp_path / "some"

    class Some(Done):
        def __init__(self, command, **_):
            name = command[-1].rpartition("/")[2]
            if name == "seed-5":
                self.returncode = self.fail(name, "too cold")
                return
            super().__init__(command)
            if name == "seed-7":
                (folder / name / "scores.json").unlink()
                self.returncode = self.fail(name, "too hot")

        def fail(self, name, why):
            (folder / f"{name}.log").write_text(f"seqforge: {why}\n")
            return 2

    monkeypatch.setattr(seeds, "subprocess", SimpleNamespace(Popen=Some))
    code = main(["train", *shared(), "--seeds", "4,5,6,7", "--at-once", "1", "--out", str(folder)])
    return folder, code, capsys.readouterr()


def test_a_seed_that_fails_does_not_take_the_others_table_and_page(failed):
    """Its failure came first: no table, no report.html."""
    folder, code, told = failed
    assert code == 2
    assert told.err.splitlines()[-1] == f"seqforge: seed 5, 7: too cold ({folder}/seed-5.log)"
    assert f"warning: Seed 5 is missing: there is no run in {folder}/seed-5; to go on" in told.err
    assert f"warning: Seed 7 is missing: {folder}/seed-7 has no scores.json" in told.err
    assert re.search(r"^ *mle +4, 6 +1 ", told.out, re.MULTILINE)  # the table
    page = Page((folder / "report.html").read_text())
    assert "mle, seeds 4, 6" in page.text
    assert "seed-7 is not among those compared: it has no scores yet." in page.text
    assert f"Seed 5 is missing: there is no run in {folder}/seed-5" in page.text.split("Not in this report")[-1]


def test_a_folder_of_seeds_has_a_report_by_itself(failed, tmp_path, capsys):
    """`seqforge report FOLDER` ended in "no config.yaml"."""
    folder, *_ = failed
    whole = (folder / "report.html").read_text()
    (folder / "report.html").unlink()
    assert main(["report", str(folder)]) == 0
    told = capsys.readouterr()
    assert told.out.strip() == str(folder / "report.html")
    assert told.err.count("warning: Seed 5 is missing") == 1
    assert (folder / "report.html").read_text() == whole
    assert main(["report", str(folder), str(folder / "seed-7"), "--out", str(tmp_path / "x.html")]) == 0
    assert "4 runs: seed-4, seed-6, seed-7, seed-7" in (tmp_path / "x.html").read_text()
    assert main(["report", str(folder), str(folder / "seed-7")]) == 2


def test_compare_names_the_seeds_that_are_missing_and_compares_the_others(failed, capsys):
    folder, *_ = failed
    assert main(["compare", str(folder), "--json"]) == 0
    told = capsys.readouterr()
    assert json.loads(told.out)["groups"]["mle"]["seeds"] == [4, 6]
    assert [line.partition(":")[0] for line in told.err.splitlines()] == ["warning", "warning"]
    assert all(f"Seed {seed} is missing" in told.err for seed in (5, 7))
    scores = json.loads((folder / "seed-6" / "scores.json").read_text())
    scores["generators"][-1]["name"] = "newest"
    (folder / "seed-6" / "scores.json").write_text(json.dumps(scores))
    assert main(["compare", str(folder), "--json"]) == 0
    told = capsys.readouterr()
    assert json.loads(told.out)["groups"]["mle"]["seeds"] == [4]
    assert f"Seed 6 is missing: {folder}/seed-6 was scored before its end" in told.err


def test_where_no_seed_is_left_it_is_refused(tmp_path, capsys):
    folder = tmp_path / "f"
    seeds.begin(folder, "mle", [], [1, 2])
    for command in ("compare", "report"):
        assert main([command, str(folder)]) == 2
        said = capsys.readouterr().err.splitlines()
        assert said == [f"seqforge: {folder}: none of its seeds has come so far; to go on: seqforge resume {folder}"]


def test_damaged_scores_are_for_who_reads_them_to_tell(tmp_path, capsys):
    seeds.begin(tmp_path / "f", "mle", [], [1])
    run = tmp_path / "f" / "seed-1"
    run.mkdir()
    (run / "config.yaml").write_text("method: mle\nseed: 1\n")
    (run / "scores.json").write_text("{")
    assert seeds.scored(tmp_path / "f") == ([run], [])
    assert main(["compare", str(tmp_path / "f")]) == 2
    assert f"{run / 'scores.json'}" in capsys.readouterr().err
