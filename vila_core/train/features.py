"""The features of a frozen vision tower, kept: an image that comes again costs a read, not a pass.

Every image goes through the tower alone, whether its features are then kept or not. So they depend
on the image only, never on the rest of its pack, and a training has the same bits whatever is found
in the cache: after a resume, with any number of ranks and any budget. Without the cache the images
of a pack go through the tower together; on a CPU in fp32 that gives the same bits (tested), on a
GPU the size of a batch chooses the kernel, and the results agree within rounding.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vila_core.errors import UserError
from vila_core.jsonio import digest
from vila_core.model import VilaForConditionalGeneration
from vila_core.model.vision_tower import is_frozen, tower_features
from vila_core.train.config import TrainConfig
from vila_core.train.engine import LossFn
from vila_core.train.feature_file import FeatureFile
from vila_core.types import QUIET, Batch, Reporter


class FeatureCache:
    """Features by the sha256 of an image's encoded bytes, below `out_dir/features`.

    The file is named by what else they depend on: the tower's weights, the layer, `image_settings`
    (how bytes become pixels; see `VilaProcessor.settings`), precision, device and dtype. Nothing
    of another name is read; it is deleted. `batch.image_digests` must be there.

    Raises UserError for a tower that trains. ZeRO-3, which cuts the tower up, is refused by the
    config: all ranks would have to run it together.
    """

    def __init__(
        self,
        model: VilaForConditionalGeneration,
        image_settings: Mapping[str, Any],
        config: TrainConfig,
        out_dir: Path,
        report: Reporter = QUIET,
    ) -> None:
        if not is_frozen(model.vision_tower):
            raise UserError(
                "train.cache_features: the vision tower trains, so an image's features change with "
                "every step.\n  fix: leave vision_tower out of trains, or set it to 0."
            )
        self._tower, self._config = model.vision_tower, model.config
        self._budget, self._folder, self._report = (
            config.cache_features,
            out_dir / "features",
            report,
        )
        self._context = {
            "tower": tower_digest(model.vision_tower),
            "layer": model.config.vision_feature_layer,
            "select": model.config.vision_feature_select,
            "images": dict(image_settings),
            "precision": config.precision,
        }
        self._file: FeatureFile | None = None
        self._like = torch.empty(0)  # what a record is: (1, P, C)
        self._full = False
        self._hits = 0

    def around(self, loss_fn: LossFn) -> LossFn:
        """Return `loss_fn` with the model given features in place of pixels."""

        def loss(model: Any, batch: Batch) -> torch.Tensor:
            if not batch.num_images:
                return loss_fn(model, batch)
            tensors = {**batch.tensors, "tower_features": self.features(batch)}
            del tensors["pixel_values"]
            return loss_fn(model, replace(batch, tensors=tensors))

        return loss

    def features(self, batch: Batch) -> torch.Tensor:
        """Return the tower's features of a batch's images in their order: (N, P, C)."""
        if self._file is not None:
            self._file.refresh()
        pixels = batch.tensors["pixel_values"].split(1)
        keys = batch.image_digests
        return torch.cat([self._one(*one) for one in zip(keys, pixels, strict=True)])

    def take_hits(self) -> int:
        """Return how many images were found since the last call."""
        hits, self._hits = self._hits, 0
        return hits

    def close(self) -> None:
        """Close the file; it stays for a resumed training."""
        if self._file is not None:
            self._file.close()

    def _one(self, key: bytes, pixels_1CHW: torch.Tensor) -> torch.Tensor:
        """Return one image's features, (1, P, C), on the device of its pixels."""
        if self._file is not None:
            found = torch.empty_like(self._like)
            if self._file.read(key, _bytes(found)):
                self._hits += 1
                return found.to(pixels_1CHW.device)
        made = tower_features(
            self._tower,
            pixels_1CHW,
            layer=self._config.vision_feature_layer,
            select=self._config.vision_feature_select,
        )
        self._keep(key, made.cpu().contiguous())
        return made

    def _keep(self, key: bytes, features: torch.Tensor) -> None:
        if self._full:
            return
        try:
            if self._file is None:
                self._file = self._open(features)
            self._full = not self._file.write(key, _bytes(features))
            why = f"it holds {len(self._file):,} images"
        except OSError as error:  # a cache is no reason to stop a training
            self._full, why = True, str(error)
        if self._full:
            self._report.info(f"cache_features: no more images are kept ({why})")

    def _open(self, features: torch.Tensor) -> FeatureFile:
        self._like = torch.empty_like(features)
        kind = {"dtype": str(features.dtype), "shape": list(features.shape)}
        name = digest({**self._context, **kind, "device": self._tower.device.type})[:16]
        for path in self._folder.glob("*"):
            if path.stem != name:
                path.unlink(missing_ok=True)
        file = FeatureFile(self._folder / name, features.nbytes, self._budget)
        if not file.capacity:
            raise UserError(
                f"train.cache_features: {self._budget:,} bytes have no room for one image's "
                f"features ({features.nbytes:,} bytes); give it more, or set it to 0."
            )
        self._report.info(
            f"cache_features: room for {file.capacity:,} images, {features.nbytes:,} bytes each; "
            f"{len(file):,} are there"
        )
        return file


def tower_digest(tower: nn.Module) -> str:
    """Return the sha256 of the names, kinds, shapes and all values of a module's tensors."""
    whole = hashlib.sha256()
    for name, value in sorted(tower.state_dict().items()):
        whole.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        whole.update(memoryview(_bytes(value.detach().cpu().contiguous())))
    return whole.hexdigest()


def _bytes(tensor: torch.Tensor) -> Any:
    """Return the bytes of a contiguous CPU tensor as a numpy view (uint8)."""
    return tensor.reshape(-1).view(torch.uint8).numpy()
