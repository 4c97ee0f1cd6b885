"""What a user installs is what was tested: the wheel holds the recipes and the page, and runs where nothing else is."""

import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("target", ["demo", "test", "slow", "check", "bench"])
def test_make_has_the_target(target):
    text = (ROOT / "Makefile").read_text()
    assert re.search(rf"^{target}: \$\(STAMP\)  ## \w", text, re.MULTILINE)
    assert target in re.search(r"^\.PHONY:(.*)$", text, re.MULTILINE)[1].split()


@pytest.mark.skipif(shutil.which("make") is None, reason="no make here")
@pytest.mark.parametrize(("target", "command"), [("demo", "train seqgan --recipe demo"), ("test", "-m pytest")])
def test_make_runs_the_command(target, command):
    done = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True, check=True)
    assert command in done.stdout


def test_torch_is_pinned_for_tests_and_open_for_users():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert "torch>=2.6" in project["dependencies"]
    pins = dict(re.findall(r"^([\w-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
    assert pins["torch"] == "2.13.0"
    named = [re.match(r"[\w-]+", d)[0] for d in project["dependencies"] + project["optional-dependencies"]["dev"]]
    assert set(named) - {"build"} <= set(pins)
    assert project["scripts"] == {"seqforge": "seqforge.cli:main"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from a copy, so that no build folder is left in the tree."""
    home = tmp_path_factory.mktemp("wheel")
    skip = shutil.ignore_patterns(".git", ".venv", "runs", "build", "dist", "*.egg-info", "__pycache__", ".*_cache")
    shutil.copytree(ROOT, home / "tree", ignore=skip)
    for name in ("README.md",):  # named in pyproject.toml
        assert (home / "tree" / name).is_file(), f"no {name} yet"
    argv = [sys.executable, "-m", "build", "--wheel", "--outdir", home / "dist", home / "tree"]
    subprocess.run(argv, check=True, capture_output=True, text=True)
    (found,) = (home / "dist").glob("*.whl")
    return found


@pytest.mark.slow
def test_the_wheel_holds_what_the_package_reads(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    for pattern in ("seqforge/recipes/*.yaml", "seqforge/report/*.j2", "seqforge/**/*.py"):
        shipped = {p.relative_to(ROOT).as_posix() for p in ROOT.glob(pattern)}
        assert shipped
        assert shipped <= names
    assert any(n.endswith("/licenses/LICENSE") for n in names)
    assert not [n for n in names if n.startswith(("tests/", "benchmarks/", "docs/"))]


@pytest.mark.slow
def test_the_wheel_runs_in_an_empty_environment(wheel, tmp_path):
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "env"], check=True)
    pip = [tmp_path / "env/bin/python", "-m", "pip", "install", "--quiet", "-c", ROOT / "constraints.txt", wheel]
    subprocess.run(pip, check=True, capture_output=True, text=True)
    seqforge = tmp_path / "env/bin/seqforge"

    def run(*argv: str) -> str:
        done = subprocess.run([seqforge, *argv], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "seqgan-oracle-tiny" in run("recipes")
    text = run("train", "seqgan", "--recipe", "seqgan-oracle-tiny", "--out", "run")
    assert "nll_oracle" in text
    assert (tmp_path / "run" / "report.html").stat().st_size > 10_000
    assert len(run("generate", "run", "-n", "3").splitlines()) == 3
