"""Make one batch of a pack: samples end to end, with their boundaries."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from vila_core.data.encode import IGNORE, Encoded
from vila_core.types import Batch


def collate(
    encoded: Sequence[Encoded],
    pixels_CHW: Sequence[torch.Tensor],
    keys: Sequence[str],
    image_shape: Sequence[int],
) -> Batch:
    """Join encoded samples into one row of T tokens; S samples, N images.

    Tensors: `input_ids`, `labels`, `position_ids` (1, T) int64, positions restarting at 0 in each
    sample; `cu_seqlens` (S + 1,) int32, where samples start, and T; `pixel_values` (N, 3, H, W)
    float32 in reading order, with N = 0 a tensor of shape (0, *image_shape).
    """
    lengths = [len(sample.input_ids) for sample in encoded]
    boundaries = np.concatenate([[0], np.cumsum(lengths)])
    images = [len(sample.image_places) for sample in encoded]
    labels_T = np.concatenate([sample.labels for sample in encoded])
    positions_T = np.concatenate([np.arange(length, dtype=np.int64) for length in lengths])
    tensors = {
        "input_ids": torch.from_numpy(np.concatenate([sample.input_ids for sample in encoded]))[
            None
        ],
        "labels": torch.from_numpy(labels_T)[None],
        "position_ids": torch.from_numpy(positions_T)[None],
        "cu_seqlens": torch.from_numpy(boundaries.astype(np.int32)),
        "pixel_values": torch.stack(list(pixels_CHW))
        if pixels_CHW
        else torch.zeros(0, *image_shape),
    }
    return Batch(
        tensors,
        supervised=float(np.count_nonzero(labels_T != IGNORE)),
        num_tokens=int(boundaries[-1]),
        num_images=len(pixels_CHW),
        sample_keys=tuple(keys),
        num_image_tokens=sum(map(_image_tokens, encoded)),
        sample_lengths=tuple(lengths),
        sample_images=tuple(images),
    )


def _image_tokens(sample: Encoded) -> int:
    if not len(sample.image_places):
        return 0
    image_token = sample.input_ids[sample.image_places[0]]
    return int(np.count_nonzero(sample.input_ids == image_token))
