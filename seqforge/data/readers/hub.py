"""Datasets of the Hugging Face hub, by name, through `datasets`."""

import importlib
from collections.abc import Iterator
from typing import Any

from seqforge.data.readers.document import Document, Found
from seqforge.data.readers.records import Taker

PREFIX = "hf:"


def read_hub(found: Found, column: str | None) -> Document:
    """hf:NAME[:CONFIG][@SPLIT], the split being `train` unless it is given. Fields are found as in JSONL.

    Raises ValueError where `datasets` is missing and for whatever it raises (no such name, no network).
    """
    taker = Taker(found, "hf", column)
    for number, record in enumerate(_records(found.path), 1):
        taker.take(record, number, found.place(number))
        if found.full:
            break
    return found.document("hf", taker.with_context)


def parse_name(path: str) -> tuple[str, str | None, str]:
    """hf:NAME[:CONFIG][@SPLIT] -> name, configuration, split."""
    name, _, split = path.removeprefix(PREFIX).partition("@")
    name, _, config = name.partition(":")
    if not name:
        raise ValueError(f"{path}: names no dataset; write hf:NAME, hf:NAME:CONFIG or hf:NAME:CONFIG@SPLIT")
    return name, config or None, split or "train"


def _records(path: str) -> Iterator[Any]:
    name, config, split = parse_name(path)
    try:
        datasets = importlib.import_module("datasets")
    except ImportError as e:
        raise ValueError(f"{path}: datasets of the hub need their library: pip install 'seqforge[hf]'") from e
    try:
        yield from datasets.load_dataset(name, config, split=split, streaming=True)
    except Exception as e:  # network, name, configuration, split: the library has no one kind for them
        remedy = "check the name, the configuration and the split (hf:NAME:CONFIG@SPLIT) and the network"
        raise ValueError(f"{path}: {type(e).__name__}: {str(e)[:300]}; {remedy}") from e
