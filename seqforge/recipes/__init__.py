"""Ready settings, one YAML each: `purpose`, rough `time` on two cores, `method`, and any option of that method."""

import difflib
from pathlib import Path
from typing import Any

import yaml

_HERE = Path(__file__).parent


def names() -> list[str]:
    """The shipped recipes."""
    return sorted(p.stem for p in _HERE.glob("*.yaml"))


def path_of(name: str) -> Path:
    """A shipped recipe's file, or a file of the user's own. Raises ValueError with the nearest known name."""
    shipped, own = _HERE / f"{name}.yaml", Path(name)
    if shipped.is_file():
        return shipped
    if own.is_file():
        return own
    near = difflib.get_close_matches(name, names(), 1, 0.4)
    hint = f"; did you mean {near[0]}?" if near else ""
    raise ValueError(f"no recipe {name!r}, shipped or file{hint} (`seqforge recipes` lists them)")


def read(name: str) -> dict[str, Any]:
    """A recipe as a mapping."""
    path = path_of(name)
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as e:
        raise ValueError(f"recipe {path}: not readable as YAML ({e})") from e
    if not isinstance(found, dict):
        raise ValueError(f"recipe {path}: expected a mapping of options, such as `rounds: 20`")
    return found
