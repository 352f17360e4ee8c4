"""Take a picture of a page with a headless Chromium, which must be installed.

For example: `python docs/images/page.py data.html docs/images/inspect.png 1100x1000`.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image


def take(page: Path, picture: Path, width: int, height: int) -> None:
    """Write `picture`, a PNG of 128 colours, of what a window of that size shows of `page`."""
    with tempfile.TemporaryDirectory() as folder:
        raw = Path(folder) / "raw.png"
        command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
        command += [f"--window-size={width},{height}", f"--screenshot={raw}"]
        subprocess.run([*command, page.resolve().as_uri()], check=True, capture_output=True)
        with Image.open(raw) as image:
            image.convert("RGB").quantize(128).save(picture, optimize=True)


if __name__ == "__main__":
    width, _, height = (sys.argv[3] if len(sys.argv) > 3 else "1100x1000").partition("x")
    take(Path(sys.argv[1]), Path(sys.argv[2]), int(width), int(height))
