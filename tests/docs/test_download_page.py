"""The page on downloading says what the code does."""

from __future__ import annotations

import re

from page_commands import ROOT

from vila_core.data.download.reasons import REASONS
from vila_core.data.download.settings import DownloadConfig

PAGE = (ROOT / "docs" / "how-to" / "download-images.md").read_text()


def test_every_reason_is_explained() -> None:
    table = PAGE.split("| reason | what happened")[1].split("\n\n")[0]
    found = {}
    for line in table.splitlines()[2:]:
        names, _, again, heals = [cell.strip() for cell in line.strip("|").split("|")]
        for name in re.findall(r"`([^`]+)`", names):
            found[name] = (heals == "yes", again == "yes")
    assert found == {name: (kind.heals, kind.again) for name, kind in REASONS.items()}


def test_every_setting_has_its_default() -> None:
    table = PAGE.split("| setting | default")[1].split("\n\n")[0]
    told: dict[str, str] = {}
    for line in table.splitlines()[2:]:
        names, defaults = [cell.strip() for cell in line.strip("|").split("|")][:2]
        keys = re.findall(r"`([^`]+)`", names)
        told |= dict(zip(keys, defaults.strip("`").split(", "), strict=True))
    own = {"format", "path", "options", "reencode", "ca_bundle", "allow_private"}  # elsewhere
    for name, field in DownloadConfig.model_fields.items():
        if name in own:
            continue
        default = "none" if field.default is None else field.default
        value = told[name]
        assert value == default or float(value) == default, name
