"""Text to token ids and back, through Hugging Face `tokenizers`. A tokenizer holds its own way back to readable text.

Kinds: `word` (split at blanks), `punct` (words, numbers and punctuation marks apart; decoding joins them again), `char`
(what a reader takes for one character, of any script), `bpe` (byte pairs trained on the corpus: no unknown token),
or a tokenizer.json of one's own. Id 0 is the end token, which also starts a sequence; id 1 is the unknown token.
"""

import hashlib
import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

Kind = Literal["word", "punct", "char", "bpe"]
BPE_TYPES = 4096
ALL_TYPES = 2**31
CHUNK = 20_000  # texts encoded at once: what a tokenizer returns takes fifty times the text's memory

# numbers with their separators, abbreviations, words with inner signs (don't, and/or, AT&T), dashes
# and dots in a row, and whatever else a reader sees as one sign
_PUNCT = r"\d+(?:[.,:/]\d+)+|(?:[A-Za-z]\.){2,}|\w+(?:['’\-&/@]\w+)*|-{2,}|\.{2,}|(?!\s)\X"
_NO_SPACE_BEFORE = r" +(?=[.,!?;:)\]}%”’»…،؛؟۔।॥。，！？；：、](?: |\z|[.,!?;:)\]}%”’»…،؛؟۔।॥]))"
_NO_SPACE_AFTER = r"(?<=[(\[{“‘«$£#¿¡]) +"
# a straight quote opens where an odd number of them follows, else it closes
_AFTER_OPENING_QUOTE = r'(?<=") +(?=[^"]*"(?:[^"]*"[^"]*")*[^"]*\z)'
_BEFORE_CLOSING_QUOTE = r' +(?="[^"]*(?:"[^"]*"[^"]*)*\z)'


@dataclass(frozen=True)
class Encoded:
    """Sequences end to end: ids (sum of lengths,) int32, lengths (N,). No end tokens yet."""

    ids: np.ndarray
    lengths: np.ndarray


def choose_kind(texts: Sequence[str]) -> tuple[Kind, bool]:
    """The kind that suits these texts, and whether blanks between characters mean anything.

    Characters set apart by blanks, and text with hardly a blank in it, are taken by character; text whose punctuation
    stands apart already by word; other text by word and punctuation.
    """
    words = [w for text in texts[:500] for w in text[:2000].split()[:200]]
    if not words:
        return "word", True
    alone = np.mean([len(w) == 1 and not (w.isascii() and w.isalnum()) for w in words])
    if alone > 0.9:
        return "char", False
    if len(words) < 1.2 * len(texts[:500]):
        return "char", True
    unspaced = sum(sum(map(_unspaced_script, w[:200])) for w in words)
    if unspaced > 0.5 * sum(len(w[:200]) for w in words):
        return "char", True
    marks = [w for w in words if unicodedata.category(w[-1]).startswith("P")]
    if not marks or np.mean([len(w) == 1 for w in marks]) > 0.8:
        return "word", True
    return "punct", True


def _unspaced_script(c: str) -> bool:
    """Scripts that do not set words apart: Chinese, Japanese, Thai, Lao, Khmer, Burmese, Tibetan."""
    ranges = ((0x0E00, 0x0FFF), (0x1000, 0x109F), (0x1780, 0x17FF), (0x3040, 0x30FF), (0x3400, 0x9FFF))
    return any(low <= ord(c) <= high for low, high in ranges) or ord(c) >= 0x20000


def train_tokenizer(
    kind: Kind,
    texts: Sequence[str],
    vocab_size: int | None = None,
    min_frequency: int = 1,
    eos: str = "<eos>",
    unk: str = "<unk>",
    lowercase: bool = False,
    blanks: bool = True,
) -> Tokenizer:
    """A tokenizer for these texts, its types ordered by how often they occur.

    vocab_size counts the end and the unknown token. Types beyond it, or rarer than min_frequency, become `unk`.
    Raises ValueError where the sizes leave no room, or a text holds the end token itself.
    """
    assert kind in get_args(Kind)
    if vocab_size is not None and vocab_size < 3:
        raise ValueError(f"data.vocab_size is {vocab_size}, but must be at least 3: the end, the unknown, and a word")
    if kind == "bpe":
        return _train_bpe(texts, vocab_size or BPE_TYPES, min_frequency, eos, lowercase)
    tokenizer = _wordlevel({unk: 0}, unk, kind, lowercase, blanks)
    trainer = trainers.WordLevelTrainer(vocab_size=ALL_TYPES, min_frequency=min_frequency, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    found = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    words = [w for w, _ in found if w not in (eos, unk)]
    if not words:
        raise ValueError(f"data.min_frequency is {min_frequency}, but no token occurs so often; lower it")
    types = [eos, unk, *words][:vocab_size]
    tokenizer = _wordlevel({w: i for i, w in enumerate(types)}, unk, kind, lowercase, blanks)
    tokenizer.add_special_tokens([eos])
    return tokenizer


def _wordlevel(types: dict[str, int], unk: str, kind: Kind, lowercase: bool, blanks: bool) -> Tokenizer:
    tokenizer = Tokenizer(models.WordLevel(types, unk_token=unk))
    split, unknown = pre_tokenizers.WhitespaceSplit(), re.escape(unk)  # a sample's own "<unk>" is one token when read
    if lowercase:
        tokenizer.normalizer = normalizers.Lowercase()  # type: ignore[assignment]
    if kind == "word":
        tokenizer.pre_tokenizer = split  # type: ignore[assignment]
    elif kind == "punct":
        tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(f"{unknown}|{_PUNCT}"), "removed", invert=True)  # type: ignore[assignment]
        tokenizer.decoder = _joining_decoder()  # type: ignore[assignment]
    else:
        each = pre_tokenizers.Split(Regex(rf"{unknown}|\X"), "isolated")
        tokenizer.pre_tokenizer = each if blanks else pre_tokenizers.Sequence([split, each])  # type: ignore[assignment]
        tokenizer.decoder = decoders.Fuse()  # type: ignore[assignment]
    return tokenizer


def _joining_decoder() -> decoders.Sequence:
    """Tokens with blanks between, but none before a closing mark or after an opening one; straight quotes in pairs."""
    return decoders.Sequence(
        [
            decoders.Replace(Regex(r"\A"), " "),
            decoders.Fuse(),
            decoders.Replace(Regex(r"\A +"), ""),
            decoders.Replace(Regex(_NO_SPACE_BEFORE), ""),
            decoders.Replace(Regex(_NO_SPACE_AFTER), ""),
            decoders.Replace(Regex(_AFTER_OPENING_QUOTE), ""),
            decoders.Replace(Regex(_BEFORE_CLOSING_QUOTE), ""),
        ]
    )


def _train_bpe(texts: Sequence[str], vocab_size: int, min_frequency: int, eos: str, lowercase: bool) -> Tokenizer:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    if vocab_size < len(alphabet) + 1:
        raise ValueError(f"data.vocab_size is {vocab_size}, but byte pairs need at least {len(alphabet) + 1}")
    tokenizer = Tokenizer(models.BPE())
    if lowercase:
        tokenizer.normalizer = normalizers.Lowercase()  # type: ignore[assignment]
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # type: ignore[assignment]
    tokenizer.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=max(2, min_frequency),
        special_tokens=[eos],
        initial_alphabet=alphabet,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


USUAL_ENDS = ("<eos>", "</s>", "<|endoftext|>", "<|end_of_text|>", "[SEP]")


def read_tokenizer(path: Path) -> Tokenizer:
    """A tokenizer.json as it is, but for padding and truncation, which are ours."""
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as e:  # the library raises bare Exceptions
        raise ValueError(f"{path}: not a tokenizer.json ({e}); give a file that Hugging Face tokenizers wrote") from e
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def open_tokenizer(path: Path, eos: str) -> tuple[Tokenizer, int]:
    """A tokenizer.json, and the id of its end token: `eos`, else one of the usual names, else `eos` is added to it."""
    tokenizer = read_tokenizer(path)
    for name in (eos, *USUAL_ENDS):
        found = tokenizer.token_to_id(name)
        if found is not None:
            tokenizer.add_special_tokens([name])  # decoding leaves it out
            return tokenizer, found
    taken = set(tokenizer.get_vocab().values())
    tokenizer.add_special_tokens([eos])
    found = tokenizer.token_to_id(eos)
    assert found is not None
    if found in taken:  # the library numbers it by how many there are
        raise ValueError(f"{path}: it leaves out ids, so that no end token can be added to it; give it one of its own")
    return tokenizer, found


def size_of(tokenizer: Tokenizer) -> int:
    """The largest id + 1: what tables need. A tokenizer of one's own may leave ids out."""
    return max(tokenizer.get_vocab().values()) + 1


def unknown_id(tokenizer: Tokenizer, unk: str) -> int | None:
    """The id that stands for unknown words: by the name the tokenizer itself has for it, else by `unk`."""
    return tokenizer.token_to_id(getattr(tokenizer.model, "unk_token", None) or unk)


def name_of(kind: str, tokenizer: Tokenizer) -> str:
    """What signatures call it: its kind or file, and 8 hex digits of a sha256 over its types."""
    types = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    digest = hashlib.sha256("\n".join(f"{i} {w}" for w, i in types).encode("utf-8", "surrogatepass"))
    return f"{Path(kind).name}-{digest.hexdigest()[:8]}"


def encode(tokenizer: Tokenizer, texts: Sequence[str]) -> Encoded:
    """Ids of every text, without an end token; a chunk at a time."""
    ids, lengths = [np.zeros(0, np.int32)], []
    for lo in range(0, len(texts), CHUNK):
        rows = [e.ids for e in tokenizer.encode_batch_fast(list(texts[lo : lo + CHUNK]), add_special_tokens=False)]
        lengths += [len(r) for r in rows]
        ids.append(np.fromiter((i for r in rows for i in r), np.int32, sum(map(len, rows))))
    return Encoded(np.concatenate(ids), np.array(lengths, dtype=np.int64))


def read_ids(
    texts: Sequence[str], place: Callable[[int], str], vocab_size: int | None, remedy: str = "raise --data.vocab_size"
) -> Encoded:
    """SeqGAN's file format: token ids separated by blanks. Raises ValueError naming place, value and remedy."""
    ids: list[int] = []
    lengths = []
    for i, text in enumerate(texts):
        words = text.split()
        bad = next((w for w in words if not (w.isascii() and w.isdigit() and len(w) < 10)), None)
        if bad is not None:
            raise ValueError(f"{place(i)}: {bad[:40]!r} is not a token id; expected numbers from 0 separated by spaces")
        row = [int(w) for w in words]
        if vocab_size is not None and row and max(row) >= vocab_size:
            raise ValueError(f"{place(i)}: id {max(row)} is beyond the vocabulary of {vocab_size}; {remedy}")
        ids += row
        lengths.append(len(row))
    return Encoded(np.array(ids, dtype=np.int32), np.array(lengths, dtype=np.int64))


def vocabulary(words: Sequence[str], path: str) -> Tokenizer:
    """A tokenizer that decodes: word i is id i. Raises ValueError where a word stands twice or is empty, or none is."""
    if not words:
        raise ValueError(f"{path}: no word in it; give one word for every id")
    seen: dict[str, int] = {}
    for i, word in enumerate(words):
        if not word or word in seen:
            told = f"is {word!r}, as id {seen[word]} is" if word else "is empty"
            raise ValueError(f"{path}:{i + 1}: the word of id {i} {told}; every id needs a word of its own")
        seen[word] = i
    tokenizer = Tokenizer(models.WordLevel(seen, unk_token=words[0]))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # type: ignore[assignment]
    return tokenizer
