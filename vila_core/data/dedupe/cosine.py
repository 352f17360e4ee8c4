"""The cosine transform that pHash rests on, to SciPy's last bit, by numpy alone.

A hash asks only whether coefficients lie above their median, so that in pictures with symmetries,
where coefficients are zero but for rounding, the rounding decides. This does what SciPy's library
(pocketfft, Martin Reinecke's, which numpy's FFT is too) does, operation by operation: the type 2
transform of length N as a real inverse FFT of sums and differences of neighbours, then a rotation.
"""

from __future__ import annotations

import math

import numpy as np

SIDE = 32
_HALF = SIDE // 2


def _cosines() -> np.ndarray:
    """Return cos(pi i / 2N) for i = 1..N: of two angles' sum, as pocketfft rounds it."""
    quarter = math.pi / 4
    coarse = ((1.0, 0.0), (math.sin(quarter), math.cos(quarter)), (0.0, 1.0))  # (cos, sin), by 16
    values = []
    for i in range(1, SIDE + 1):
        cosine, sine = coarse[i // 16]
        fine = math.pi * (i % 16) / (2 * SIDE)
        values.append(math.cos(fine) * cosine - math.sin(fine) * sine)
    return np.array(values)


_COSINES = _cosines()


def dct(values_NS: np.ndarray) -> np.ndarray:
    """Return the cosine transform (type 2, not scaled) of each row of SIDE values, as float64."""
    x = np.array(values_NS, np.float64)
    x[:, 0] *= 2
    x[:, -1] *= 2
    even, odd = x[:, 2:-1:2].copy(), x[:, 1:-1:2].copy()
    spectrum = np.zeros((len(x), _HALF + 1), np.complex128)
    spectrum.real[:, 0], spectrum.real[:, -1] = x[:, 0], x[:, -1]
    spectrum.real[:, 1:-1], spectrum.imag[:, 1:-1] = odd + even, even - odd
    y = np.fft.irfft(spectrum, SIDE, norm="forward")  # "forward": this direction isn't scaled
    up, down = y[:, 1:_HALF], y[:, :_HALF:-1]  # y[k] and y[N - k], for k from 1
    c, s = _COSINES[: _HALF - 1], _COSINES[SIDE - 2 : _HALF - 1 : -1]
    total, difference = c * down + s * up, c * up - s * down
    y[:, 1:_HALF], y[:, :_HALF:-1] = 0.5 * (total + difference), 0.5 * (total - difference)
    y[:, _HALF] *= _COSINES[_HALF - 1]
    return y


def dct2(values_SS: np.ndarray) -> np.ndarray:
    """Return the two-dimensional transform of a square: of its columns first, then of its rows."""
    return dct(np.ascontiguousarray(dct(values_SS.T).T))
