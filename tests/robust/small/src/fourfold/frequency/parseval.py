"""Parseval: a transform keeps the energy."""

import numpy as np


def pair(length: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A random signal and its orthonormal spectrum, both (length,)."""
    signal = np.random.default_rng(seed).normal(size=length)
    return signal, np.fft.fft(signal, norm="ortho")


def difference(signal: np.ndarray, spectrum: np.ndarray) -> float:
    """Relative difference of the energies."""
    energy = np.square(signal).sum()
    return float(abs(np.square(np.abs(spectrum)).sum() - energy) / energy)
