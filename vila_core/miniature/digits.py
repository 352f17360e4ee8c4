"""Real scans: the UCI handwritten digits that scikit-learn bundles (attribution: digits.yaml)."""

from __future__ import annotations

import csv
import gzip
import io
from dataclasses import dataclass
from functools import cache
from importlib import resources

import numpy as np

from vila_core.miniature.scenes import IMAGE_SIZE

_SIDE = 8
_FULL = 16.0
_SPLIT_SEED = 1998
TEST_PER_CLASS = 40


@dataclass(frozen=True)
class Digits:
    """Scans and what they show; `ids` are rows of the vendored file, their names for life."""

    scans_NYX: np.ndarray
    labels_N: np.ndarray
    ids_N: np.ndarray

    def __len__(self) -> int:
        return len(self.ids_N)

    def take(self, rows: np.ndarray) -> Digits:
        """Return the digits at `rows`, in that order."""
        return Digits(self.scans_NYX[rows], self.labels_N[rows], self.ids_N[rows])


@cache
def load_digits() -> tuple[Digits, Digits]:
    """Return the training and the test digits: 1,397 and 400 scans, never one in both.

    The split is fixed, not configured: a scan that is for test in one run must be for test in every
    run, or models of two runs could not be compared. Each digit has 40 test scans.
    """
    blob = resources.files("vila_core.miniature").joinpath("digits.csv.gz").read_bytes()
    rows = list(csv.reader(io.StringIO(gzip.decompress(blob).decode("ascii"))))
    table = np.array(rows, dtype=np.float32)
    labels = table[:, -1].astype(np.int64)
    scans = table[:, :-1].reshape(-1, _SIDE, _SIDE) / _FULL
    every = Digits(scans, labels, np.arange(len(labels)))
    order = np.random.default_rng(_SPLIT_SEED).permutation(len(labels))
    held = [order[labels[order] == digit][:TEST_PER_CLASS] for digit in range(10)]
    test = np.sort(np.concatenate(held))
    train = np.setdiff1d(every.ids_N, test)
    return every.take(train), every.take(test)


def render_digits(digits: Digits, rng: np.random.Generator) -> np.ndarray:
    """Show the scans as pictures: uint8, shape (len(digits), 32, 32, 3).

    The block counts are enlarged to the 32 x 32 of the original bitmaps, and ink and paper get the
    brightness and the noise that drawn scenes have; the strokes themselves are not touched.
    """
    count = len(digits)
    weights = _enlarging()
    ink = np.einsum("yi,nij,xj->nyx", weights, digits.scans_NYX, weights, optimize=True)[..., None]
    paper = rng.uniform(0.0, 0.22, size=(count, 1, 1, 3)).astype(np.float32)
    pen = rng.uniform(0.7, 1.0, size=(count, 1, 1, 1)).astype(np.float32)
    images = paper * (1 - ink) + pen * ink
    images = images + rng.normal(0.0, 0.03, size=images.shape).astype(np.float32)
    return (np.clip(images, 0.0, 1.0) * 255.0 + 0.5).astype(np.uint8)


@cache
def _enlarging() -> np.ndarray:
    """Return the (32, 8) matrix of linear interpolation between the centres of the blocks."""
    step = IMAGE_SIZE // _SIDE
    place = np.clip((np.arange(IMAGE_SIZE) + 0.5) / step - 0.5, 0, _SIDE - 1)
    low = np.minimum(np.floor(place).astype(int), _SIDE - 2)
    weights = np.zeros((IMAGE_SIZE, _SIDE), dtype=np.float32)
    rows = np.arange(IMAGE_SIZE)
    weights[rows, low] = 1 - (place - low)
    weights[rows, low + 1] += place - low
    return weights
