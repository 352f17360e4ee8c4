"""Named arrays in one `.npz` file: equal arrays give equal bytes, whatever Python writes them."""

from __future__ import annotations

import zipfile
from typing import BinaryIO

import numpy as np

_LONGEST_HEADER = 1 << 16  # of an array; only decides whether a ZIP64 entry is needed


def write_arrays(file: BinaryIO, **arrays: np.ndarray) -> None:
    """Write what `np.load` reads.

    np.savez marks every entry as ZIP64, and Python 3.11.4 changed how those marks are written: the
    same arrays gave other bytes, so another digest, on 3.11.2 and 3.11.7. Here an entry is marked
    only where its size needs it, which all versions write alike.
    """
    with zipfile.ZipFile(file, "w") as archive:
        for name, array in arrays.items():
            entry = zipfile.ZipInfo(f"{name}.npy")  # dated 1980
            entry.file_size = array.nbytes + _LONGEST_HEADER
            with archive.open(entry, "w") as stream:
                np.lib.format.write_array(stream, np.asanyarray(array), allow_pickle=False)
