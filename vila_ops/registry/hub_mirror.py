"""The mirror on the Hugging Face Hub: versions are tags that stay, aliases are tags that move."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from components.registry import HistoryEntry, Registry, Version
from vila_core.errors import require
from vila_core.store import Store
from vila_ops.registry.delivering import Undelivered
from vila_ops.registry.export import write_folder
from vila_ops.registry.mirror_settings import HuggingFace
from vila_ops.registry.webhooks import retry_after


def mirror(
    store: Store, target: HuggingFace, name: str, model: str, entry: HistoryEntry
) -> dict[str, Any]:
    """Bring the version of a move to the Hub, unless it is there, and point the alias's tag at it.

    Raises Undelivered with what the Hub said, UserError for a token that is not there.
    """
    require("huggingface_hub", extra="train", why="mirror to the Hugging Face Hub")
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    repo = target.repo.replace("{model}", model)
    token = target.token.read(f"huggingface.{name}.token")
    api = HfApi(endpoint=target.endpoint, token=token, library_name="vila")
    version = Registry(store).version(model, entry.version)
    try:
        api.create_repo(repo, private=target.private, exist_ok=True)
        return {"repo": repo, "commit": _bring(api, store, target, repo, version, entry)}
    except HfHubHTTPError as error:
        answer = error.response
        text = f"{repo}: the Hub answered {answer.status_code}: {error.server_message or error}"
        raise Undelivered(text, retry_after(answer.headers.get("retry-after"))) from None


def _bring(
    api: Any, store: Store, target: HuggingFace, repo: str, version: Version, entry: HistoryEntry
) -> str:
    """Return the commit that the alias's tag is at in the end."""
    own, alias = f"version-{version.number}", str(entry.alias)
    refs = api.list_repo_refs(repo)
    tags = {tag.name: tag.target_commit for tag in refs.tags}
    if alias == own or any(branch.name == alias for branch in refs.branches):
        raise Undelivered(f"{repo}: '{alias}' can't be a tag there; it names something else")
    commit = tags.get(own)
    if commit is None:
        commit = _upload(api, store, target, repo, version)
        api.create_tag(repo, tag=own, revision=commit, tag_message=version.name, exist_ok=True)
    if tags.get(alias) != commit:
        if alias in tags:
            api.delete_tag(repo, tag=alias)
        why = f"{entry.kind} of entry {entry.seq}: {entry.why}"[:500]
        api.create_tag(repo, tag=alias, revision=commit, tag_message=why)
    return commit


def _upload(api: Any, store: Store, target: HuggingFace, repo: str, version: Version) -> str:
    with tempfile.TemporaryDirectory(prefix="vila-hub-") as scratch:
        folder = Path(scratch) / "folder"
        write_folder(store, version, folder, target.layout)
        done = api.upload_folder(
            repo_id=repo,
            folder_path=folder,
            commit_message=f"{version.name} of artifact {version.artifact.sha256}",
            delete_patterns=["*"],  # what an earlier version had and this one has not
        )
    return str(done.oid)
