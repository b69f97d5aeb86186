"""Dice: the mean of many throws."""

import numpy as np


def throw(throws: int, seed: int, faces: tuple[int, int] = (1, 6)) -> np.ndarray:
    """Throws of a die with the faces from the first to the last, (throws,)."""
    return np.random.default_rng(seed).integers(faces[0], faces[1] + 1, throws)


def memory(game: np.ndarray, shuffled: bool = False) -> float:
    """Correlation of neighbouring throws."""
    if shuffled:
        game = np.random.default_rng(0).permutation(game)
    return float(np.corrcoef(game[1:], game[:-1])[0, 1])
