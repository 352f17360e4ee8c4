"""One array file, byte for byte the same whatever version of Python writes it."""

import hashlib
import io

import numpy as np

from vila_core.data.arrays import write_arrays

EXPECTED = "fc5fceff43b7f759065d3acfe03f5ee2c85588b0ed20b4b36a635107444bb723"


def test_the_bytes_are_those_of_every_version_and_numpy_reads_them():
    given = {
        "numbers": np.arange(5, dtype=np.int64),
        "digests": np.zeros((2, 32), np.uint8),
        "words": np.array(["a", "bc"]),
    }
    file = io.BytesIO()
    write_arrays(file, **given)
    # Written by Python 3.11.2 and 3.11.7 alike; np.savez gives two files of different bytes there.
    assert hashlib.sha256(file.getvalue()).hexdigest() == EXPECTED
    file.seek(0)
    with np.load(file, allow_pickle=False) as found:
        assert list(found) == list(given)
        for name, array in given.items():
            assert found[name].dtype == array.dtype
            assert np.array_equal(found[name], array)
