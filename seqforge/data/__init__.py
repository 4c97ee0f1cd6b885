"""Sequences as tensors: corpora, id files, tokenizers."""

from seqforge.data.corpus import Corpus, Split

__all__ = ["Corpus", "Split"]
