"""Image folders by shard, as mmc4's downloader leaves them: `docs_no_face_shard_17_v2_images`."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from vila_core.data.readers.files import corpus_files
from vila_core.data.readers.folder import ImageFolder, image_folder
from vila_core.data.readers.names import SUFFIXES
from vila_core.errors import UserError


class ShardFolders:
    """The image folder of each shard: beside its file, or in the image folder that is given.

    What has none is in the image folder itself. Only names that a file leads to are looked for: an
    image folder may hold millions of files.
    """

    def __init__(self, path: Path, images: Path | None) -> None:
        self._all = ImageFolder(image_folder(path, images))
        self._by_shard: dict[str, ImageFolder] = {}
        try:
            files = corpus_files(path)
        except UserError:  # is told when the records are asked for
            files = []
        for file in files:
            name = PurePosixPath(file.name)
            root = images / name.parent if images else file.path.parent
            stem = next(name.name.removesuffix(end) for end in SUFFIXES if name.name.endswith(end))
            # The downloader takes the name with `.jsonl` if it read the zip.
            for folder in (root / f"{stem}_images", root / f"{stem}.jsonl_images"):
                if folder.is_dir():
                    self._by_shard[file.shard] = ImageFolder(folder)

    def of(self, key: str) -> ImageFolder:
        """Return the folder with the images of the record with this key."""
        shard = key.partition("/")[2].rpartition("/")[0]
        return self._by_shard.get(shard, self._all)
