"""A figure with its signature: what it is, on how many sequences, at what temperature, from which seed and version."""

from dataclasses import asdict, dataclass

from seqforge import __version__


@dataclass(frozen=True)
class Score:
    """value +- stderr (standard error over sequences; None where there is none), in `unit`.

    interval: 95 %, by the bootstrap over sequences; None where only the standard error is known. temperature: that of
    the samples, None where they came from a file. Two scores may be compared where their signatures agree.
    """

    name: str
    value: float
    stderr: float | None
    unit: str
    temperature: float | None
    signature: str
    interval: tuple[float, float] | None = None

    def as_dict(self) -> dict:
        return asdict(self)


def signature(name: str, **facts: object) -> str:
    """`name|key:value|...|v:VERSION`, the keys in the order given."""
    return "|".join([name, *(f"{k}:{v}" for k, v in facts.items()), f"v:{__version__}"])
