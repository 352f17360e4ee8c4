"""The vision tower's features of images, kept for the prompts that show the same image again."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence

import torch

from vila_core.eval.files import ImageRef

MOST_BYTES = 2 * 2**30
"""Holds POPE's 500 images at 576 visual tokens of 1,024 numbers in float32 (1.2 GB)."""


class ImageFeatures:
    """Features of images, computed once per batch, and once at all while they stay in the cache.

    `load` returns an image as (3, H, W); `see` turns images (N, 3, H, W) into what the tower says
    of them, (N, P, C). At most `most_bytes` are kept, in main memory; the image that was not shown
    for longest goes first.
    """

    def __init__(
        self,
        load: Callable[[ImageRef], torch.Tensor],
        see: Callable[[torch.Tensor], torch.Tensor],
        most_bytes: int = MOST_BYTES,
    ) -> None:
        self._load = load
        self._see = see
        self._most_bytes = most_bytes
        self._kept: OrderedDict[ImageRef | None, torch.Tensor] = OrderedDict()
        self._bytes = 0

    @torch.inference_mode()
    def of(self, images: Sequence[ImageRef], blind: bool, device: torch.device) -> torch.Tensor:
        """Return the features of each of `images` on `device`: (N, P, C).

        `blind`: of the mean colour (zeros after normalisation) in place of each.
        """
        wanted: list[ImageRef | None] = [None] * len(images) if blind else [*images]
        different = list(dict.fromkeys(wanted))
        missing = [image for image in different if image not in self._kept]
        found: dict[ImageRef | None, torch.Tensor] = {}
        for image in different:
            if image in self._kept:
                self._kept.move_to_end(image)
                found[image] = self._kept[image].to(device)
        if missing:
            pixels = [self._pixels(image, images[0]) for image in missing]
            features = self._see(torch.stack(pixels).to(device))
            for image, its in zip(missing, features, strict=True):
                found[image] = its
                self._keep(image, its)
        return torch.stack([found[image] for image in wanted])

    def _pixels(self, image: ImageRef | None, like: ImageRef) -> torch.Tensor:
        return torch.zeros_like(self._load(like)) if image is None else self._load(image)

    def _keep(self, image: ImageRef | None, features: torch.Tensor) -> None:
        if features.nbytes > self._most_bytes:
            return
        # A view would keep the whole batch in memory.
        self._kept[image] = features.to("cpu", copy=True)
        self._bytes += features.nbytes
        while self._bytes > self._most_bytes:
            _, oldest = self._kept.popitem(last=False)
            self._bytes -= oldest.nbytes
