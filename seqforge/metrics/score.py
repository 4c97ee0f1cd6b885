"""A figure with its signature: what it is, on how many sequences, at what temperature, from which seed and version."""

from dataclasses import asdict, dataclass

from seqforge import __version__


@dataclass(frozen=True)
class Score:
    """value +- stderr (standard error over sequences; None where there is none), in `unit`.

    Two scores may be compared where their signatures agree.
    """

    name: str
    value: float
    stderr: float | None
    unit: str
    temperature: float
    signature: str

    def as_dict(self) -> dict:
        return asdict(self)


def signature(name: str, **facts: object) -> str:
    """`name|key:value|...|v:VERSION`, the keys in the order given."""
    return "|".join([name, *(f"{k}:{v}" for k, v in facts.items()), f"v:{__version__}"])
