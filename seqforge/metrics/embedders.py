"""Sequences -> features (N,D), for the distances between sets of texts (FED, MAUVE).

An embedder takes token lists or strings (strings are split at white space, token lists joined by one space where
a model wants text). Its `name` says what was computed and goes into the signature of every score made with it.
"""

import importlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
from scipy import sparse
from scipy.sparse.linalg import svds

Text = str | Sequence[str]
Gram = tuple[str, ...]

LIMIT = 20_000  # n-grams kept, the most frequent
DENSE = 512  # up to so many rows or columns the whole decomposition is taken
RANK_TOLERANCE = 1e-6  # of the largest singular value; a direction below it is noise of the decomposition


@dataclass(frozen=True)
class Embedder:
    """`name`, and a callable texts -> (N,D) float64."""

    name: str
    embed: Callable[[Sequence[Text]], np.ndarray]

    def __call__(self, texts: Sequence[Text]) -> np.ndarray:
        return self.embed(texts)


def embedder(spec: str, references: Sequence[Text]) -> Embedder:
    """`tfidf` (fitted on the references) or `st:MODEL` (sentence-transformers). Raises ValueError for another spec."""
    if spec == "tfidf":
        return tfidf(references)
    if spec.startswith("st:") and len(spec) > 3:
        return sentence_transformer(spec[3:])
    raise ValueError(f"embedder {spec!r} is not known; pass tfidf, or st:MODEL for a sentence-transformers model")


def tokens_of(text: Text) -> Sequence[str]:
    return text.split() if isinstance(text, str) else text


def ngrams(tokens: Sequence[str], orders: Sequence[int]) -> list[Gram]:
    """Every n-gram of every order, as often as it occurs."""
    return [gram for n in orders for gram in zip(*(tokens[i:] for i in range(n)), strict=False)]


def fit_idf(
    references: Sequence[Text], orders: Sequence[int], limit: int = LIMIT
) -> tuple[dict[Gram, int], np.ndarray]:
    """Column of each kept n-gram, and idf (F,): ln((1 + N) / (1 + documents with it)) + 1 for N references.

    Kept are the `limit` most frequent by total count, ties in alphabetical order.
    """
    total, documents = Counter(), Counter()
    for text in references:
        grams = ngrams(tokens_of(text), orders)
        total.update(grams)
        documents.update(set(grams))
    kept = sorted(total, key=lambda gram: (-total[gram], gram))[:limit]
    found = np.array([documents[gram] for gram in kept], dtype=np.float64)
    return {gram: column for column, gram in enumerate(kept)}, np.log((1 + len(references)) / (1 + found)) + 1


def tfidf_rows(
    texts: Sequence[Text], columns: dict[Gram, int], idf: np.ndarray, orders: Sequence[int]
) -> sparse.csr_array:
    """(N,F): count times idf, each row divided by its Euclidean norm. A text without a known n-gram is a row of zeros.

    The same numbers as scikit-learn's TfidfVectorizer(smooth_idf=True, norm="l2", sublinear_tf=False).
    """
    value, column, ends = [], [], [0]
    for text in texts:
        counts = Counter(columns[gram] for gram in ngrams(tokens_of(text), orders) if gram in columns)
        column += counts.keys()
        value += counts.values()
        ends.append(len(column))
    columns_of = np.array(column, dtype=np.int64)
    weight = np.array(value, dtype=np.float64) * idf[columns_of]
    rows = np.repeat(np.arange(len(texts)), np.diff(ends))
    norm = np.sqrt(np.bincount(rows, weight**2, minlength=len(texts)))
    return sparse.csr_array((weight / norm[rows], columns_of, ends), shape=(len(texts), len(idf)))


def principal_directions(matrix: sparse.csr_array, dims: int, seed: int) -> np.ndarray:
    """(F,D): the right singular vectors of the D largest singular values; the largest entry of each is positive.

    D is `dims`, or fewer where the matrix has fewer independent rows.
    """
    smaller = min(cast("tuple[int, int]", matrix.shape))
    if smaller <= max(DENSE, dims):  # the iteration needs more rows than directions, and restarts at random if it ends
        _, value, right = np.linalg.svd(matrix.toarray(), full_matrices=False)
    else:
        _, value, right = svds(matrix, k=dims, v0=np.random.default_rng(seed).standard_normal(smaller))
    order = np.argsort(-value)[:dims]
    right = np.asarray(right)[order[value[order] > RANK_TOLERANCE * value.max()]]
    largest = right[np.arange(len(right)), np.abs(right).argmax(1)]
    return (right * np.sign(largest)[:, None]).T


def tfidf(references: Sequence[Text], dims: int = 128, orders: Sequence[int] = (1, 2), seed: int = 0) -> Embedder:
    """Tf-idf of n-grams fitted on the references, reduced to `dims` by a truncated SVD without centring (LSA).

    See `fit_idf`, `tfidf_rows` and `principal_directions` for the formulas. `seed` is that of the SVD's start vector.
    Raises ValueError for fewer than 2 references or 2 different n-grams.
    """
    columns, idf = fit_idf(references, orders)
    if len(references) < 2 or len(columns) < 2:
        raise ValueError(
            f"tf-idf needs 2 references with 2 different n-grams, not {len(references)} with {len(columns)}; "
            "give more references"
        )
    directions = principal_directions(tfidf_rows(references, columns, idf, orders), dims, seed)
    name = f"tfidf,orders={'+'.join(map(str, orders))},dims={directions.shape[1]},fit={len(references)},seed={seed}"
    return Embedder(name, lambda texts: tfidf_rows(texts, columns, idf, orders) @ directions)


def sentence_transformer(model: str) -> Embedder:
    """A pretrained sentence encoder of the library sentence-transformers. Raises ValueError where it is missing."""
    try:
        library = importlib.import_module("sentence_transformers")
    except ImportError as error:
        raise ValueError(
            f"the embedder st:{model} needs sentence-transformers; run pip install 'seqforge[embeddings]'"
        ) from error
    encoder = library.SentenceTransformer(model)

    def embed(texts: Sequence[Text]) -> np.ndarray:
        sentences = [text if isinstance(text, str) else " ".join(text) for text in texts]
        return np.asarray(encoder.encode(sentences, show_progress_bar=False), dtype=np.float64)

    return Embedder(f"st:{model}", embed)
