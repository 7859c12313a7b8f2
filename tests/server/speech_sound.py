"""Sound that a speech detector takes for speech: pulses of a voice through the resonances of vowels."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.signal import lfilter

RATE = 16_000
VOWELS = ((730, 1090, 2440), (270, 2290, 3010), (300, 870, 2240), (530, 1840, 2480))
"""Frequencies of the first three resonances, in Hz."""

BANDWIDTH_HZ, PITCH_HZ, SYLLABLE_S, GAP_S, PAUSE_S = 90, 130, 0.18, 0.05, 0.7


def spoken(words: int, seed: int) -> npt.NDArray[np.float32]:
    """`words` words of three syllables each, with pauses between; equal for equal seeds."""
    rng = np.random.default_rng(seed)
    pause = np.zeros(int(RATE * PAUSE_S))
    parts = [pause]
    for _ in range(words):
        for _ in range(3):
            count = int(RATE * SYLLABLE_S)
            pitch = PITCH_HZ * np.linspace(1, 0.85, count) + 3 * rng.normal()
            sound = np.diff(np.floor(np.cumsum(pitch) / RATE), prepend=0) + 0.02 * rng.standard_normal(count)
            for resonance in VOWELS[rng.integers(len(VOWELS))]:
                radius = np.exp(-np.pi * BANDWIDTH_HZ / RATE)
                poles = [1, -2 * radius * np.cos(2 * np.pi * resonance / RATE), radius**2]
                sound = lfilter([1], poles, sound)
            hiss = int(RATE * GAP_S)
            parts.append(0.4 * sound / np.abs(sound).max() * np.hanning(count) ** 0.4)
            parts.append(0.08 * rng.standard_normal(hiss) * np.hanning(hiss))
        parts.append(pause)
    whole = np.concatenate(parts)
    return (whole + 0.001 * rng.standard_normal(len(whole))).astype(np.float32)
