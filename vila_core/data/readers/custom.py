"""Formats from outside this package: `my_package.corpora:READER` or `my_corpus.py:READER`."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from vila_core.data.readers.common import Convert, Options
from vila_core.data.readers.records import Broken, Filtered
from vila_core.data.sample import Sample, Text
from vila_core.errors import UserError, VilaError
from vila_core.images import BadImage

EXAMPLE = "my_package.my_module:READER or my_corpus.py:READER"


class Guarded:
    """A converter of the user's own, whose mistakes are told with the place in the user's code."""

    def __init__(
        self,
        name: str,
        make: Callable[[Path, Path | None, Options], Convert],
        path: Path,
        images: Path | None,
        options: Options,
    ) -> None:
        self._name = name
        self._convert = make(path, images, options)

    def __call__(self, key: str, value: Any) -> Sample | Sequence[Sample]:
        """Return what the converter made. Raises UserError for what it should not have raised."""
        try:
            return _proven(self._convert(key, value))
        except (Broken, Filtered, BadImage, VilaError, UnicodeEncodeError):
            raise
        except Exception as error:
            frame = traceback.extract_tb(error.__traceback__)[-1]
            raise UserError(
                f"format '{self._name}': it failed on the record of {key}: "
                f"{type(error).__name__}: {error}\n"
                f"  at {frame.filename}:{frame.lineno}, in {frame.name}\n"
                "  fix: check what the record holds, and raise Broken if it can't be used"
            ) from error


def _proven(made: Any) -> Sample | Sequence[Sample]:
    """Return what a converter made if it is samples, of text and bytes. Raises TypeError."""
    for sample in [made] if isinstance(made, Sample) else made:
        if not isinstance(sample, Sample):
            raise TypeError(f"a Sample is expected, found {type(sample).__name__}")
        for part in sample.parts:
            if isinstance(part, Text) and not isinstance(part.text, str):
                raise TypeError(f"the text of a part is {type(part.text).__name__}")
        if not all(isinstance(image, bytes) for image in sample.images):
            raise TypeError("an image is not bytes")
    return made


def is_custom(name: str) -> bool:
    """Return whether a format's name says where its reader is."""
    return ":" in name


def load(name: str) -> object:
    """Return the object that `name` means. Raises UserError when it isn't there.

    The module is run as Python code, once in a process: it is the user's own.
    """
    place, _, attribute = name.rpartition(":")
    if not place or not attribute.isidentifier():
        raise UserError(f"format '{name}': expected {EXAMPLE}")
    module = _from_file(name, place) if place.endswith(".py") else _module(name, place)
    try:
        return getattr(module, attribute)
    except AttributeError:
        have = ", ".join(one for one in vars(module) if one.isupper()) or "nothing in capitals"
        raise UserError(
            f"format '{name}': {module.__file__} defines no {attribute}; it has {have}"
        ) from None


def code_file(name: str) -> Path | None:
    """Return the file of a custom format's module, to notice when it changes."""
    load(name)
    place = name.rpartition(":")[0]
    file = sys.modules[_name(place) if place.endswith(".py") else place].__file__
    return Path(file) if file else None


def _module(name: str, place: str) -> ModuleType:
    try:
        return importlib.import_module(place)
    except Exception as error:  # the module's own mistakes as well
        raise UserError(
            f"format '{name}': the module {place} can't be imported: "
            f"{type(error).__name__}: {error}\n"
            "  fix: install its package into this environment, or name its file: path/to/file.py"
        ) from error


def _from_file(name: str, place: str) -> ModuleType:
    path, known = Path(place).expanduser().resolve(), _name(place)
    if known in sys.modules:
        return sys.modules[known]
    if not path.is_file():
        raise UserError(f"format '{name}': {path} is no file")
    spec = importlib.util.spec_from_file_location(known, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[known] = module  # dataclasses and pickles look their module up by name
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[known]
        raise UserError(
            f"format '{name}': {path} can't be run: {type(error).__name__}: {error}"
        ) from error
    return module


def _name(place: str) -> str:
    """Return the name under which a file is a module: the same in every process."""
    path = str(Path(place).expanduser().resolve())
    return f"vila_format_{hashlib.sha256(path.encode()).hexdigest()[:16]}"
