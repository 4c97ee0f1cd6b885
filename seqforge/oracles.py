"""Worlds whose true probabilities are known: the LSTM oracle of the synthetic benchmark (Yu et al. 2017, section 5.1).

The oracle is an LSTM generator with every parameter, biases included, drawn from N(0, 1); data are its samples.
"""

import hashlib
import io
import pickle
from pathlib import Path

import numpy as np
import torch

from seqforge.data.corpus import Corpus, Split, ids_tokenizer
from seqforge.models.lstm import LSTMGenerator
from seqforge.sampling import sample, uniform

# What a pickle of numpy arrays names, and nothing else. `encode` turns the latin-1 text of Python-2 pickles to bytes.
_ADMITTED = {
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy.core.numeric", "_frombuffer"),
    ("numpy._core.numeric", "_frombuffer"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("_codecs", "encode"),
}


class _ArraysOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str):
        if (module, name) not in _ADMITTED:
            raise ValueError(f"it would run {module}.{name}; only numpy arrays are admitted")
        if module.startswith("numpy.core"):  # numpy 2 moved it
            module = module.replace("numpy.core", "numpy._core") if hasattr(np, "_core") else module
        return super().find_class(module, name)


def load_arrays(path: Path) -> list[np.ndarray]:
    """The arrays of a pickled list, through a loader that admits numpy arrays and nothing else.

    Raises ValueError for a missing, empty or foreign file and for one that would execute anything.
    """
    remedy = "expected SeqGAN's target_params_py3.pkl: a pickled list of 15 numpy arrays"
    if not path.is_file():
        raise ValueError(f"{path}: no such file; give the oracle's parameter file by --data.oracle_file")
    raw = path.read_bytes()
    if not raw:
        raise ValueError(f"{path}: the file is empty; {remedy}")
    try:
        found = _ArraysOnly(io.BytesIO(raw), encoding="latin1").load()
    except Exception as e:  # a damaged pickle can raise nearly anything
        raise ValueError(f"{path}: refused, {e}; {remedy}") from e
    if not isinstance(found, list) or not all(isinstance(a, np.ndarray) for a in found):
        raise ValueError(f"{path}: holds {type(found).__name__}, not a list of arrays; {remedy}")
    return found


def load_oracle(path: str | Path) -> LSTMGenerator:
    """The authors' oracle: embedding, four gates as (W, U, b) in the order input, forget, output, candidate, and head.

    Their LSTM multiplies row vectors (x W + h U + b); torch's weights are those transposed, gates in the order
    input, forget, candidate, output. Layout: the file of LantaoYu/SeqGAN, target_lstm.py.
    """
    path = Path(path)
    arrays = load_arrays(path)
    shapes = [a.shape for a in arrays]
    if len(arrays) != 15 or arrays[0].ndim != 2 or arrays[2].ndim != 2:
        raise ValueError(f"{path}: {len(arrays)} arrays of shapes {shapes[:3]}...; an LSTM oracle has 15")
    (v, e), h = shapes[0], shapes[2][0]
    expected = [(v, e), *[(e, h), (h, h), (h,)] * 4, (h, v), (v,)]
    if shapes != expected:
        at = next(i for i, (a, b) in enumerate(zip(shapes, expected, strict=True)) if a != b)
        raise ValueError(f"{path}: array {at} has shape {shapes[at]}, but {expected[at]} was expected")
    if not all(a.dtype.kind == "f" and np.isfinite(a).all() for a in arrays):
        raise ValueError(f"{path}: holds numbers that are not finite floats; take a fresh copy of the file")
    t = [torch.from_numpy(np.ascontiguousarray(a, dtype=np.float32)) for a in arrays]
    order = (0, 1, 3, 2)  # i, f, o, g -> i, f, g, o
    oracle = LSTMGenerator(v, embedding=e, hidden=h, init_std=1.0)
    state = {
        "embed.weight": t[0],
        "lstm.weight_ih_l0": torch.cat([t[1 + 3 * k].t() for k in order]),
        "lstm.weight_hh_l0": torch.cat([t[2 + 3 * k].t() for k in order]),
        "lstm.bias_ih_l0": torch.cat([t[3 + 3 * k] for k in order]),
        "lstm.bias_hh_l0": torch.zeros(4 * h),
        "head.weight": t[13].t(),
        "head.bias": t[14],
    }
    oracle.load_state_dict(state)
    return oracle.requires_grad_(False).eval()


def seeded_oracle(seed: int, vocab_size: int = 5000, embedding: int = 32, hidden: int = 32) -> LSTMGenerator:
    """An oracle of the same kind from a seed: every parameter from N(0, 1)."""
    oracle = LSTMGenerator(vocab_size, embedding=embedding, hidden=hidden, init_std=1.0, seed=seed)
    return oracle.requires_grad_(False).eval()


def oracle_digest(oracle: LSTMGenerator) -> str:
    """First 8 hex digits of the sha256 over its parameters as float32, in the order of the authors' file."""
    p = {k: v.detach().cpu().float() for k, v in oracle.state_dict().items()}
    ih, hh, bias = (p[f"lstm.{n}_l0"].chunk(4) for n in ("weight_ih", "weight_hh", "bias_ih"))
    gates = [x for k in (0, 1, 3, 2) for x in (ih[k].t(), hh[k].t(), bias[k])]
    h = hashlib.sha256()
    for a in [p["embed.weight"], *gates, p["head.weight"].t(), p["head.bias"]]:
        h.update(a.contiguous().numpy().tobytes())
    return h.hexdigest()[:8]


def oracle_corpus(
    oracle: LSTMGenerator, sizes: tuple[int, int, int] = (9984, 2048, 9984), length: int = 20, seed: int = 0
) -> Corpus:
    """Training, validation and test sets drawn once from an oracle, each from a stream of its own.

    sizes: sequences of (train, valid, test); all have `length` tokens and no end token, token 0 is start and word.
    """
    for name, n in zip(("train_size", "valid_size", "test_size", "max_length"), (*sizes, length), strict=True):
        if n < 1:
            raise ValueError(f"data.{name} is {n}, but must be at least 1")
    splits = []
    for stream, n in enumerate(sizes):
        rng = torch.Generator().manual_seed(seed * 3 + stream)
        drawn = sample(oracle, uniform((n, length), rng))
        splits.append(Split(drawn.ids, drawn.lengths))
    digest = oracle_digest(oracle)
    return Corpus(
        *splits,
        vocab_size=oracle.vocab_size,
        max_length=length,
        start_id=oracle.start_id,
        eos_id=None,
        tokenizer=ids_tokenizer(oracle.vocab_size),
        source=f"oracle:{digest}",
        digest=splits[0].digest(),
        oracle=oracle,
    )
