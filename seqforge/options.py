"""From flags and recipes to configurations. Flags, types and help come from the dataclasses of the methods."""

import argparse
import difflib
import functools
import itertools
import json
import re
import warnings
from argparse import Action
from typing import Any, NoReturn, get_args

from jsonargparse import ArgumentParser, DefaultHelpFormatter, Namespace

from seqforge import recipes
from seqforge.corpora import WORLDS
from seqforge.models.kinds import Judge, Kind
from seqforge.settings import RunConfig, keys_of
from seqforge.training import METHODS

PLAYERS = "--(generator|mediator|teacher|discriminator)"  # groups of options that may have a kind


class Help(DefaultHelpFormatter):
    """Types in words: jsonargparse shows `<class 'Path'>`, and the address of a function that parses."""

    def _get_type_str(self, action: Action) -> str | None:
        found = super()._get_type_str(action)
        if found is None:
            return None
        return "names by comma" if found.startswith("<function") else found.replace("<class 'Path'>", "path")


class Parser(ArgumentParser):
    """Errors are one ValueError, which names the nearest known option."""

    def __init__(self, *args, **kwargs):
        kwargs.setdefault("formatter_class", Help)
        super().__init__(*args, allow_abbrev=False, **kwargs)  # `--recip X` must not pass for --recipe

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        raise ValueError(_nearest_named(one_line(message), self))


def one_line(message: str) -> str:
    return re.sub(r"\s+", " ", message).strip()


def _nearest_named(message: str, parser: ArgumentParser) -> str:
    """Add "did you mean" where the message names an option that is not known."""
    known = [o for a in parser._actions for o in a.option_strings]
    found = re.search(r"[Uu]nrecognized arguments?: (--[^\s=]+)", message)
    near = difflib.get_close_matches(found.group(1), known, 1, 0.5) if found else []
    return f"{message}; did you mean {near[0]}?" if near else message


@functools.cache
def _train_parser(method: str, config: type, purpose: str) -> Parser:
    """Made once a process: it takes as long as a tiny step of training, and a sweep's process trains many runs."""
    parser = Parser(prog=f"seqforge train {method}", description=f"{method}: {purpose}.")
    parser.add_argument("--recipe", help="a shipped recipe's name (see `seqforge recipes`) or a YAML file of your own")
    parser.add_argument("--out", help="folder of the run; without it runs/METHOD-1, -2, ...")
    parser.add_argument("--from", help="a run whose finished pre-training this one takes over, as controls do")
    parser.add_argument(
        "--with-controls", action="store_true", help="then its null controls: `seqforge compare --controls`"
    )
    parser.add_argument("--seeds", help="several seeds, such as 1,2,3: a run each in one folder, with one report")
    parser.add_argument(
        "--at-once", type=int, default=0, help="with --seeds: how many at a time, one thread each; 0: cores free"
    )
    parser.add_class_arguments(RunConfig, None)
    parser.add_class_arguments(config, None)
    for action in parser._actions:  # jsonargparse would read these as files; `--data X` is the source
        if action.help and "Path to a configuration file" in action.help:
            short = action.option_strings == ["--data"]
            action.help = "short for --data.source" if short else argparse.SUPPRESS
    return parser


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for k, v in values.items():
        flat |= _flat(v, f"{prefix}{k}.") if isinstance(v, dict) else {f"{prefix}{k}": v}
    return flat


def _recipe_values(name: str, method: str) -> dict[str, Any]:
    """A recipe as flat values, checked against the options of the method."""
    recipe = recipes.read(name)
    if recipe.get("method") != method:
        raise ValueError(f"recipe {name} is for `{recipe.get('method')}`, not for `{method}`")
    facts = ("method", "purpose", "time", "seqforge", "recipe")  # the last two: a run's config.yaml is a recipe too
    body = {k: v for k, v in recipe.items() if k not in facts}
    if isinstance(body.get("data"), str):
        body["data"] = {"source": body["data"]}
    known = (keys_of(RunConfig) | keys_of(METHODS[method][0])) | {"from"}
    groups = {key.rpartition(".")[0] for key in known} - {""}
    for key, value in _flat(body).items():
        if key in groups:
            raise ValueError(f"recipe {name}: {key} is {value}, but must hold options, such as `{key}: {{...}}`")
        if key not in known:
            near = difflib.get_close_matches(key, known, 1, 0.4)
            raise ValueError(f"recipe {name}: unknown key {key}" + (f"; did you mean {near[0]}?" if near else ""))
    return _flat(body)


def _expand(argv: list[str]) -> list[str]:
    """What stands for a group: `--data X` is `--data.source X`, `--generator transformer` is `--generator.kind
    transformer`; and so the other players, `--evaluate`, `--condition`, `--tensorboard`. `--stop-on a,b` is
    `--stop_on=[a,b]`.
    """
    kinds = {*get_args(Kind), *get_args(Judge)}
    argv = [
        f"{a}.kind" if re.fullmatch(PLAYERS, a) and b in kinds else a
        for a, b in zip(argv, [*argv, ""][1:], strict=True)
    ]
    argv = [re.sub(rf"^({PLAYERS})=({'|'.join(kinds)})$", r"\1.kind=\3", a) for a in argv]
    argv = [re.sub(r"^--data(=|$)", r"--data.source\1", a) for a in argv]
    argv = [re.sub(r"^--condition(=|$)", r"--data.condition\1", a) for a in argv]
    argv = [re.sub(r"^--evaluate(=|$)", r"--evaluate.when\1", a) for a in argv]
    argv = [part for a in argv for part in (a.split("=", 1) if a.startswith("--stop-on=") else [a])]
    while "--stop-on" in argv[:-1]:
        at = argv.index("--stop-on")
        argv = [*argv[:at], f"--stop_on=[{argv[at + 1].strip('[]')}]", *argv[at + 2 :]]
    bare = [a == "--tensorboard" and not re.match(r"[^-]", b) for a, b in zip(argv, [*argv, ""][1:], strict=True)]
    return [f"{a}=true" if flag else a for a, flag in zip(argv, bare, strict=True)]


def parse_train(method: str, argv: list[str]) -> Namespace:
    parser = _train_parser(method, METHODS[method][0], METHODS[method][2])
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    early.add_argument("--recipe", nargs="?")
    recipe, argv = early.parse_known_args(argv)[0].recipe, _listed(_expand(argv), parser)
    if recipe and "--help" not in argv and "-h" not in argv:
        values = {k: v for k, v in _recipe_values(recipe, method).items() if v is not None}
        values = _without_world(recipe, values, argv)
        argv = [f"--{k}={v if isinstance(v, str) else json.dumps(v)}" for k, v in values.items()] + argv
    return parser.parse_args(argv)


def _listed(argv: list[str], parser: Parser) -> list[str]:
    """`--evaluate.metrics bleu,lm` is `--evaluate.metrics [bleu,lm]`, as the other commands take it."""
    lists = {o for a in parser._actions if "list[" in str(getattr(a, "_typehint", "")) for o in a.option_strings}
    found, before = [], ""
    for word in argv:
        name, equals, value = word.partition("=") if word.startswith("--") else ("", "", word)
        bare = before in lists if not name else bool(equals) and name in lists
        found.append(f"{name}{equals}[{value}]" if bare and not value.startswith(("[", "{")) else word)
        before = word
    return found


OF_A_WORLD = ("vocab_size", "max_length", "reach", "train_size")  # and all that begins with oracle


def _without_world(recipe: str, values: dict[str, Any], argv: list[str]) -> dict[str, Any]:
    """A recipe's values without what describes the synthetic world that it names, where the data are a file's."""
    sources = [b for a, b in itertools.pairwise(argv) if a == "--data.source"]
    sources += [a.partition("=")[2] for a in argv if a.startswith("--data.source=")]
    if values.get("data.source", "oracle") not in WORLDS or not sources or sources[-1] in WORLDS:
        return values
    left = {k: v for k, v in values.items() if k.startswith(("data.oracle", *(f"data.{name}" for name in OF_A_WORLD)))}
    if left:
        told = ", ".join(f"{k} {v}" for k, v in left.items())
        warnings.warn(f"recipe {recipe}: not taken over for {sources[-1]}, being its world's: {told}", stacklevel=3)
    return {k: v for k, v in values.items() if k not in left}


def known(word: str, words: list[str], kind: str) -> str:
    if word in words:
        return word
    near = difflib.get_close_matches(word, words, 1, 0.4)
    hint = f"; did you mean {near[0]}?" if near else ""
    raise ValueError(f"unknown {kind} {word!r}{hint} ({kind}s: {', '.join(words)})")
