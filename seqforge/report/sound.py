"""A tune as sound within the page: plucked tones in an 8-bit WAV, so that a browser plays it without a network."""

import base64
import io
import wave
from collections.abc import Sequence

import numpy as np

from seqforge.report.rolls import Note

RATE = 8000  # samples a second
HARMONICS = (1.0, 0.45, 0.2, 0.08)
DECAY = 2.5  # a second
LONGEST = 20.0  # seconds: a page has a handful of tunes


def samples(notes: Sequence[Note], tempo: float = 120.0) -> np.ndarray:
    """notes in quarters -> (S,) in -1..1."""
    per = 60 / tempo
    ends = [min((on + length) * per, LONGEST) for on, length, _ in notes]
    out = np.zeros(int(RATE * (max(ends, default=0.0) + 0.1)) + 1)
    for (onset, _, pitch), end in zip(notes, ends, strict=True):
        first, last = int(onset * per * RATE), int(end * RATE)
        if last <= first:
            continue
        t = np.arange(last - first) / RATE
        frequency = 440 * 2 ** ((pitch - 69) / 12)
        heard = [(a, k * frequency) for k, a in enumerate(HARMONICS, 1) if k * frequency < RATE / 2]
        tone = sum(a * np.sin(2 * np.pi * f * t) for a, f in heard)
        edge = np.minimum(1, np.minimum(t, t[::-1]) * 200)  # no clicks
        out[first:last] += tone * np.exp(-DECAY * t) * edge
    return out / max(1e-9, abs(out).max())


def data_uri(notes: Sequence[Note]) -> str:
    """data:audio/wav;base64,..."""
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(1)
        file.setframerate(RATE)
        file.writeframes((samples(notes) * 120 + 128).astype(np.uint8).tobytes())
    return "data:audio/wav;base64," + base64.b64encode(buffer.getvalue()).decode()
