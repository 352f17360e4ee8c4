"""The vision tower's features of images by content, kept for conversations that show them again."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from vila_ops.serving.limits import MIB

MOST_BYTES = 512 * MIB
AT_ONCE = 16
"""Images that go through the tower together: what it holds meanwhile grows with them."""


@dataclass(frozen=True)
class Picture:
    """An image as the tower takes it, (3, H, W), known by the sha256 of its file."""

    sha256: str
    pixels: torch.Tensor = field(compare=False, repr=False)


class Features:
    """Features of images, computed once while they stay in the cache. For one thread.

    `see` turns images (N, 3, H, W) into what the tower says of them, (N, P, C). At most
    `most_bytes` are kept, where `see` leaves them; the image not shown for longest goes first.
    """

    def __init__(
        self,
        see: Callable[[torch.Tensor], torch.Tensor],
        device: torch.device,
        most_bytes: int = MOST_BYTES,
    ) -> None:
        self._see = see
        self._device = device
        self._most_bytes = most_bytes
        self._kept: OrderedDict[str, torch.Tensor] = OrderedDict()
        self._bytes = 0

    @torch.inference_mode()
    def of(self, pictures: Sequence[Picture]) -> torch.Tensor | None:
        """Return the features of each of `pictures`, (N, P, C); None where there is none."""
        if not pictures:
            return None
        different = {one.sha256: one for one in pictures}
        found = {name: self._kept[name] for name in different if name in self._kept}
        missing = [one for name, one in different.items() if name not in found]
        for start in range(0, len(missing), AT_ONCE):
            some = missing[start : start + AT_ONCE]
            pixels = torch.stack([one.pixels for one in some]).to(self._device)
            for one, its in zip(some, self._see(pixels), strict=True):
                found[one.sha256] = its.clone()  # a view would keep the whole batch in memory
        for name, its in found.items():
            self._keep(name, its)
        return torch.stack([found[one.sha256] for one in pictures])

    def _keep(self, name: str, its: torch.Tensor) -> None:
        if name in self._kept:
            self._kept.move_to_end(name)
            return
        self._kept[name] = its
        self._bytes += its.nbytes
        while self._bytes > self._most_bytes:
            _, oldest = self._kept.popitem(last=False)
            self._bytes -= oldest.nbytes
