"""Word vectors in text form: GloVe's (a word and its numbers a line), word2vec's and fastText's (a first line with the
count and the width); .gz of each.
"""

import gzip
from pathlib import Path

import numpy as np


def _decimal(text: str) -> bool:
    """Whether it is such as 0.25, which no word's second part is."""
    try:
        return "." in text and np.isfinite(float(text))
    except ValueError:
        return False


def read_vectors(path: str | Path, words: dict[str, int]) -> tuple[np.ndarray, np.ndarray]:
    """The vectors (N,D) of those of `words` (word -> id) that the file has, and their ids (N,), in the file's order.

    Raises ValueError naming the file and the line: another width, no number, NaN or infinite, a word twice, no word at
    all, fewer than its first line says, none of `words`.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: no such file; give the file of word vectors, such as glove.6B.300d.txt")
    vectors, ids, seen, width, promised = [], [], {}, None, 0
    with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as f:
        try:
            for at, line in enumerate(f, 1):
                word, *numbers = line.rstrip("\r\n ").split(" ")
                if at == 1 and len(numbers) == 1 and word.isdigit() and numbers[0].isdigit():
                    promised, width = int(word), int(numbers[0])  # a header
                    continue
                if not word and not numbers:
                    raise ValueError(f"{path}, line {at}: empty; each line holds a word and its numbers")
                width = len(numbers) if width is None else width
                if len(numbers) > width > 0 and not _decimal(numbers[0]):  # a word with blanks in it, as ". . ."
                    word, numbers = " ".join([word, *numbers[:-width]]), numbers[-width:]
                if len(numbers) != width or not width:
                    raise ValueError(f"{path}, line {at}: {word!r} has {len(numbers)} numbers, but others have {width}")
                if word in seen:
                    raise ValueError(f"{path}, line {at}: {word!r} is there already, in line {seen[word]}; remove one")
                seen[word] = at
                if word not in words:
                    continue
                try:
                    vector = np.array(numbers, dtype=np.float32)
                except ValueError as e:
                    raise ValueError(f"{path}, line {at}: the vector of {word!r} holds what is no number: {e}") from e
                if not np.isfinite(vector).all():
                    raise ValueError(f"{path}, line {at}: the vector of {word!r} holds NaN or an infinite number")
                vectors.append(vector)
                ids.append(words[word])
        except UnicodeDecodeError as e:
            raise ValueError(f"{path}: not text in UTF-8 ({e}); give vectors in text form, not a binary file") from e
        except (EOFError, gzip.BadGzipFile) as e:
            raise ValueError(f"{path}: a damaged .gz ({e}); fetch it again") from e
    if not seen:
        raise ValueError(f"{path}: holds no word; each line must hold a word and its numbers")
    if len(seen) < promised:
        raise ValueError(
            f"{path}: its first line says {promised} words, but it has {len(seen)}; fetch the rest, or correct the line"
        )
    if not vectors:
        raise ValueError(f"{path}: has none of the {len(words)} words of the data; are both of one language and case?")
    return np.stack(vectors), np.array(ids)
