"""Conversations with trained generators: one reply at a time, drawn, greedy or by beam search."""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from string import whitespace
from typing import Literal

import torch
from tokenizers import Tokenizer

from seqforge import loading
from seqforge.data.corpus import decode
from seqforge.data.tokens import unknown_id
from seqforge.models.transformer import Source, TransformerGenerator
from seqforge.pairs import ASKED, source_ids
from seqforge.sampling import GREEDY, Filter, Fork, Samples, begin, complete, uniform

Decode = Literal["greedy", "sample", "beam"]


@dataclass(frozen=True)
class Answering:
    """How a reply is found: temperature and seed are those of `sample`; beams: hypotheses that beam search keeps."""

    decode: Decode = "sample"
    temperature: float = 1.0
    beams: int = 5


@dataclass(frozen=True)
class Speaker:
    """A generator that answers. history: turns it reads; max_source, max_length: tokens of source and reply; characters
    and labels: what it was asked in training (`pairs.asked`), None where an older run did not write it down.
    """

    name: str
    generator: TransformerGenerator
    tokenizer: Tokenizer
    history: int
    max_source: int
    max_length: int
    unknown: int | None
    characters: frozenset[str] | None = None
    labels: tuple[str, ...] | None = None

    @classmethod
    def of(cls, run: Path, wanted: str | None = None) -> Speaker:
        """The generator of a dialogue run. Raises ValueError for one that answers nothing."""
        folder, config = loading.find_checkpoint(run, wanted), loading.read_config(run)
        generator, tokenizer = loading.load_generator(folder), loading.load_tokenizer(folder)
        if not isinstance(generator, TransformerGenerator) or generator.encoder is None:
            raise ValueError(f"{run}: a run of {config['method']}, which answers nothing; give one of `train dialogue`")
        data = config["data"]
        history = 1 if data["condition"] == "label" else data["history"]
        sizes = (history, data["max_source"], data["max_length"])
        told = loading.player_of(folder) / ASKED
        heard = json.loads(told.read_text(encoding="utf-8")) if told.is_file() else {}
        return cls(
            f"{_name(run)}{f' ({wanted})' if wanted else ''}",
            generator,
            tokenizer,
            *sizes,
            unknown_id(tokenizer, data["unk_token"]),
            frozenset(heard["characters"]) if heard else None,
            tuple(heard["labels"]) if heard.get("labels") else None,
        )

    def source(self, turns: list[str]) -> Source:
        """The last turns as it reads them, the oldest tokens dropped where they are too many. Raises ValueError for a
        turn that it knows nothing of, and for a label that it was not trained on.
        """
        eos_id = self.generator.eos_id
        assert eos_id is not None
        latest = source_ids(self.tokenizer, eos_id, turns[-1:])
        said = self.tokenizer.decode(latest[-self.max_source :], skip_special_tokens=True)
        if self.labels and said not in self.labels:
            raise ValueError(f"{self.name} has no label {turns[-1]!r}; its labels: {', '.join(self.labels)}")
        strange = self.characters is not None and not (set(said) - set(whitespace)) & self.characters
        if strange or not set(latest) - {eos_id, self.unknown}:
            raise ValueError(f"{self.name} knows no word of {turns[-1]!r}; say it in other words")
        if (most := self.max_source) < len(latest):
            warnings.warn(f"{self.name} reads the last {most} of these {len(latest)} tokens; use fewer", stacklevel=2)
        ids = source_ids(self.tokenizer, eos_id, turns[-self.history :])[-self.max_source :]
        return Source(torch.tensor([ids]), torch.tensor([len(ids)]))

    @torch.inference_mode()
    def reply(self, turns: list[str], how: Answering, rng: torch.Generator) -> str:
        """What it answers to the last of the turns."""
        source = self.source(turns)
        if how.decode == "beam":
            found = beam_search(self.generator, source, how.beams, self.max_length)
        else:
            filter = GREEDY if how.decode == "greedy" else Filter(temperature=how.temperature)
            fork = begin(self.generator, 1, context=source)
            found = complete(self.generator, fork, uniform((1, self.max_length), rng), filter)
        return decode(self.tokenizer, found.ids, found.lengths)[0]


def _name(run: Path) -> str:
    """Of a seed of several, the folder of all of them too."""
    whole = run.resolve()
    return f"{whole.parent.name}/{whole.name}" if whole.name.startswith("seed-") else whole.name


@torch.no_grad()
def beam_search(generator: TransformerGenerator, source: Source, beams: int, horizon: int) -> Samples:
    """The likeliest reply that a beam of so many hypotheses finds, by log-probability per token; to one source.

    Hypotheses that end leave the beam; it stops where none that goes on is likelier than the best that has ended.
    """
    fork: Fork = begin(generator, 1, context=source)
    total, ids = torch.zeros(1), torch.zeros(1, 0, dtype=torch.long)
    ended: list[tuple[float, torch.Tensor]] = []
    for t in range(1, horizon + 1):
        logp = total[:, None] + torch.log_softmax(generator.head(fork.output).float(), dim=-1)
        best = logp.flatten().topk(min(beams, logp.numel()))
        row, token = best.indices // generator.vocab_size, best.indices % generator.vocab_size
        ids, total = torch.cat([ids[row], token[:, None]], dim=1), best.values
        over = (token == generator.eos_id) if t < horizon else torch.ones_like(token, dtype=torch.bool)
        ended += [(float(total[k]) / t, ids[k]) for k in over.nonzero().squeeze(1)]
        keep = (~over).nonzero().squeeze(1)
        if not len(keep) or (ended and max(ended, key=lambda e: e[0])[0] >= float(total[keep].max()) / horizon):
            break
        row, token, ids, total = row[keep], token[keep], ids[keep], total[keep]
        outputs, state = generator.extend_hidden(token[:, None], fork.state.select(row))
        fork = Fork(outputs[:, -1], state, torch.full_like(token, t))
    best_ids = max(ended, key=lambda e: e[0])[1]
    return Samples(best_ids[None], torch.tensor([len(best_ids)]), torch.zeros(1, len(best_ids)))
