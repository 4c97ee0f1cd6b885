"""Who may import whom. Arrows are read from the source, lazy imports within functions included."""

import ast
import functools
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

import pytest

import seqforge

ROOT = Path(seqforge.__file__).parent

# module -> what of ours it may import; as in .gitignore the last pattern that fits decides, `!` forbids
TABLE = {
    "seqforge": "",
    "seqforge.run": "seqforge.checkpoint seqforge.progress seqforge.health seqforge.ranges",
    "seqforge.health": "seqforge.signs seqforge.ranges",
    "seqforge.ranges": "",
    "seqforge.signs": "",
    "seqforge.checkpoint": "",
    "seqforge.progress": "",
    "seqforge.recipes": "",
    "seqforge.objectives": "",
    "seqforge.candidates": "",
    "seqforge.data*": "seqforge.data* seqforge.ranges",
    "seqforge.models*": "seqforge.models* seqforge.ranges",
    "seqforge.sampling": "seqforge.models.generator seqforge.models.heads",
    "seqforge.likelihood": "seqforge.sampling seqforge.models.generator seqforge.models.heads",
    "seqforge.rewards": "seqforge.sampling seqforge.models.generator",
    "seqforge.discriminate": "seqforge.objectives seqforge.sampling seqforge.models.generator seqforge.data.corpus "
    "seqforge.run",
    "seqforge.loading": "seqforge.checkpoint seqforge.models*",
    "seqforge.chat": "seqforge.loading seqforge.pairs seqforge.sampling seqforge.data* seqforge.models*",
    "seqforge.judge": "seqforge.discriminate seqforge.data.corpus seqforge.metrics* seqforge.models*",
    "seqforge.turing": "seqforge.metrics.calibration",
    "seqforge.turing_server": "seqforge.turing seqforge.checkpoint seqforge.report.page",
    "seqforge.memory": "",
    "seqforge.calibration": "seqforge.checkpoint seqforge.discriminate seqforge.data.corpus seqforge.metrics* "
    "seqforge.models* seqforge.sampling",
    "seqforge.portrait": "seqforge.scoring seqforge.data.corpus seqforge.metrics*",
    "seqforge.hierarchy": "seqforge.objectives seqforge.sampling seqforge.models* seqforge.data.corpus seqforge.run",
    "seqforge.oracles": "seqforge.models* seqforge.data* seqforge.sampling",
    "seqforge.worlds": "seqforge.data.corpus seqforge.sampling seqforge.models.generator",
    "seqforge.corpora": "seqforge.oracles seqforge.worlds seqforge.grammars seqforge.dialogues seqforge.pairs "
    "seqforge.data*",
    "seqforge.pairs": "seqforge.data*",
    "seqforge.dialogues": "seqforge.pairs seqforge.grammars seqforge.data*",
    "seqforge.grammars": "",
    "seqforge.generate": "seqforge.sampling seqforge.models.generator seqforge.data*",
    "seqforge.tunes": "seqforge.data* seqforge.sampling seqforge.models.generator seqforge.report.rolls",
    "seqforge.scoring": "seqforge.metrics* seqforge.data*",
    "seqforge.metrics*": "seqforge seqforge.metrics* seqforge.likelihood seqforge.sampling seqforge.models.generator "
    "seqforge.data*",
    "seqforge.methods*": "* !seqforge.evaluate !seqforge.compare !seqforge.report* "
    "!seqforge.methods* seqforge.methods.mle",
    "seqforge.watch": "* !seqforge.report* !seqforge.methods* !seqforge.training",
    "seqforge.evaluate": "* !seqforge.report* !seqforge.methods* seqforge.methods.mle",
    "seqforge.export": "seqforge.loading seqforge.frontier seqforge.verdict",
    "seqforge.frontier": "",
    "seqforge.verdict": "seqforge.frontier",
    "seqforge.compare": "*",
    "seqforge.report*": "*",
    "seqforge.training": "*",
    "seqforge.settings": "seqforge.corpora seqforge.data* seqforge.evaluate seqforge.run seqforge.health",
    "seqforge.sweep": "seqforge.recipes seqforge.compare seqforge.frontier seqforge.verdict seqforge.report.folder",
    "seqforge.tables": "seqforge.frontier",
    "seqforge.seeds": "",
    "seqforge.controls": "*",
    "seqforge.options": "*",
    "seqforge.cli*": "*",
    "seqforge.__main__": "seqforge.cli",
}
# nothing but these imports one of them
COMMAND_LINE = (
    "seqforge.__main__",
    "seqforge.cli",
    "seqforge.cli_chat",
    "seqforge.cli_runs",
    "seqforge.cli_data",
    "seqforge.cli_sweep",
    "seqforge.cli_turing",
    "seqforge.options",
    "seqforge.tables",
)
NO_TORCH = (
    "seqforge.compare",
    "seqforge.frontier",
    "seqforge.verdict",
    "seqforge.turing",
    "seqforge.report*",
)  # nor anything of ours that imports it


def read_sources(root: Path = ROOT) -> dict[str, str]:
    """Module name -> source; a package is its __init__."""
    found = {}
    for path in sorted(root.rglob("*.py")):
        parts = ("seqforge", *path.relative_to(root).with_suffix("").parts)
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path.read_text(encoding="utf-8")
    return found


@functools.cache
def written(source: str) -> list[tuple[int, str, tuple[str, ...]]]:
    """What a source imports anywhere: (level of a relative import, module, names)."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [(0, alias.name, ()) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found.append((node.level, node.module or "", tuple(alias.name for alias in node.names)))
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called in ("import_module", "__import__"):
                found.append((0, str(node.args[0].value), ()))
    return found


def imported(module: str, sources: dict[str, str]) -> set[str]:
    """Full names of the modules that a module imports; of `from package import name`, the submodule where it is one."""
    is_package = any(m.startswith(module + ".") for m in sources)
    around = module.split(".") if is_package else module.split(".")[:-1]
    found = set()
    for level, name, names in written(sources[module]):
        base = ".".join([*around[: len(around) - level + 1], *filter(None, [name])]) if level else name
        found |= {f"{base}.{n}" if f"{base}.{n}" in sources else base for n in names or ("",)}
    return found


def ours(module: str, sources: dict[str, str]) -> set[str]:
    return {n for n in imported(module, sources) if n == "seqforge" or n.startswith("seqforge.")}


def loads_torch(module: str, sources: dict[str, str]) -> bool:
    """Whether importing it brings in torch, through what it imports and through the packages it lies in."""
    seen, todo = set(), {module}
    while todo:
        name = todo.pop()
        seen.add(name)
        if any(n.split(".")[0] == "torch" or n == "safetensors.torch" for n in imported(name, sources)):
            return True
        parts = name.split(".")
        packages = {".".join(parts[:i]) for i in range(1, len(parts))}
        todo |= ((ours(name, sources) | packages) & sources.keys()) - seen
    return False


def allowed(importer: str, target: str) -> bool:
    verdict = importer in COMMAND_LINE or target not in COMMAND_LINE
    row = next((r for pattern, r in TABLE.items() if fnmatch(importer, pattern)), "")
    decided = False
    for pattern in row.split():
        if fnmatch(target, pattern.removeprefix("!")):
            decided = not pattern.startswith("!")
    return verdict and decided


def violations(sources: dict[str, str]) -> list[str]:
    found = []
    for module in sources:
        if not any(fnmatch(module, pattern) for pattern in TABLE):
            found.append(f"{module}: has no row in the table of tests/test_imports.py; add one")
        arrows = ours(module, sources) - {module}
        found += [f"{module} -> {target}" for target in sorted(arrows) if not allowed(module, target)]
        if any(fnmatch(module, pattern) for pattern in NO_TORCH) and loads_torch(module, sources):
            found.append(f"{module} -> torch")
    return found


def test_every_import_is_one_that_the_table_allows():
    assert violations(read_sources()) == []


def test_the_walk_sees_the_arrows_that_are_there():
    sources = read_sources()
    assert {"seqforge.cli", "seqforge.methods.seqgan", "seqforge.models.lstm", "seqforge.report"} <= sources.keys()
    assert ours("seqforge.rewards", sources) == {"seqforge.sampling", "seqforge.models.generator"}
    assert ours("seqforge.run", sources) == {
        "seqforge.checkpoint",
        "seqforge.progress",
        "seqforge.health",
        "seqforge.ranges",
    }
    assert {"seqforge.methods.mle", "seqforge.objectives", "seqforge.run"} <= ours("seqforge.methods.seqgan", sources)
    assert {"torch", "torch.nn"} <= imported("seqforge.objectives", sources)
    assert loads_torch("seqforge.evaluate", sources)
    assert not loads_torch("seqforge.compare", sources)


@pytest.mark.parametrize(
    ("module", "line", "told"),
    [
        ("run", "from seqforge.sampling import sample", "seqforge.run -> seqforge.sampling"),
        ("checkpoint", "from seqforge import run", "seqforge.checkpoint -> seqforge.run"),
        ("progress", "import seqforge.run", "seqforge.progress -> seqforge.run"),
        ("objectives", "from .models import lstm", "seqforge.objectives -> seqforge.models.lstm"),
        ("objectives", "from seqforge import __version__", "seqforge.objectives -> seqforge"),
        ("models.lstm", "from seqforge.sampling import draw", "seqforge.models.lstm -> seqforge.sampling"),
        ("models", "from ..sampling import draw", "seqforge.models -> seqforge.sampling"),
        ("sampling", "from seqforge.models.lstm import LSTMState", "seqforge.sampling -> seqforge.models.lstm"),
        ("rewards", "from seqforge import discriminate", "seqforge.rewards -> seqforge.discriminate"),
        ("discriminate", "def f():\n    from seqforge import rewards", "seqforge.discriminate -> seqforge.rewards"),
        ("data.corpus", "from seqforge.oracles import load_oracle", "seqforge.data.corpus -> seqforge.oracles"),
        ("oracles", "from seqforge.metrics import Score", "seqforge.oracles -> seqforge.metrics"),
        ("corpora", "import importlib; importlib.import_module('seqforge.run')", "seqforge.corpora -> seqforge.run"),
        ("metrics.nll", "from seqforge.methods.mle import train", "seqforge.metrics.nll -> seqforge.methods.mle"),
        ("methods.mle", "from seqforge.methods import seqgan", "seqforge.methods.mle -> seqforge.methods.seqgan"),
        ("methods.seqgan", "from seqforge import evaluate", "seqforge.methods.seqgan -> seqforge.evaluate"),
        ("methods.seqgan", "from seqforge import compare", "seqforge.methods.seqgan -> seqforge.compare"),
        ("methods.seqgan", "from seqforge.report import build", "seqforge.methods.seqgan -> seqforge.report"),
        ("evaluate", "from seqforge.methods.seqgan import train", "seqforge.evaluate -> seqforge.methods.seqgan"),
        ("evaluate", "from seqforge import report", "seqforge.evaluate -> seqforge.report"),
        ("evaluate", "from seqforge import cli", "seqforge.evaluate -> seqforge.cli"),
        ("report.page", "from seqforge.cli import main", "seqforge.report.page -> seqforge.cli"),
        ("compare", "import torch", "seqforge.compare -> torch"),
        ("frontier", "import torch", "seqforge.frontier -> torch"),
        ("verdict", "from seqforge import compare", "seqforge.verdict -> seqforge.compare"),
        ("compare", "from seqforge.data import corpus", "seqforge.compare -> torch"),
        ("compare", "import seqforge.data.tokens", "seqforge.compare -> torch"),  # by the package it lies in
        ("report.figures", "from torch import Tensor", "seqforge.report.figures -> torch"),
        ("report.folder", "from seqforge import evaluate", "seqforge.report.page -> torch"),  # at second hand
        ("stray", "x = 1", "seqforge.stray: has no row in the table of tests/test_imports.py; add one"),
    ],
)
def test_a_planted_arrow_is_caught(module, line, told):
    sources = read_sources() | {"seqforge.data.tokens": ""}
    name = f"seqforge.{module}"
    sources[name] = sources.get(name, "") + f"\n{line}\n"
    assert told in violations(sources)


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("methods.seqgan", "from seqforge.methods import mle"),
        ("methods.mle", "from seqforge import corpora, run"),
        ("evaluate", "from seqforge.methods import mle"),
        ("evaluate", "from seqforge import compare"),
        ("metrics.nll", "from seqforge import __version__"),
        ("cli", "from seqforge.methods import seqgan"),
        ("compare", "import numpy"),
    ],
)
def test_an_allowed_arrow_is_not(module, line):
    sources = read_sources()
    sources[f"seqforge.{module}"] += f"\n{line}\n"
    assert violations(sources) == violations(read_sources())


def test_comparing_and_reporting_load_no_torch():
    code = "import sys, seqforge.compare, seqforge.report; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT.parent, timeout=600).returncode == 0
