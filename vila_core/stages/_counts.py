"""The token counts that a training plans its packs with: those of its own tokenizer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from vila_core.errors import UserError
from vila_core.store import is_in_artifact

if TYPE_CHECKING:
    from vila_core.data.corpus import Corpus
    from vila_core.data.encode import Encoder
    from vila_core.data.token_counts import Counted


def counted_corpora(
    corpora: Mapping[str, Corpus], encoder: Encoder, templates: Mapping[str, str]
) -> dict[str, Corpus]:
    """Return the corpora with the token counts of the encoder's tokenizer, each by its template.

    `templates` names those that are not laid out as they were prepared. Raises UserError where
    nobody has counted them so, Damaged for a file of counts that was changed.
    """
    from vila_core.data.token_counts import Counted

    found: dict[str, Corpus] = {}
    for name, corpus in corpora.items():
        template = templates.get(name, corpus.template)
        prepared = Counted.of(corpus.manifest)
        wanted = Counted.by(encoder.with_template(template))
        # Corpora of earlier versions don't say what counted them: packing notices a wrong count.
        if wanted == prepared or (prepared is None and template == corpus.template):
            found[name] = corpus
            continue
        again = corpus.counted_by(wanted)
        if again is None:
            raise UserError(_not_counted(corpus, prepared, wanted, encoder))
        found[name] = again
    return found


def _not_counted(
    corpus: Corpus, prepared: Counted | None, wanted: Counted, encoder: Encoder
) -> str:
    if corpus.template != wanted.template:
        what = f"template '{wanted.template}': it was prepared with '{corpus.template}'"
    elif prepared and prepared.tokenizer == wanted.tokenizer:
        what = "the chat template of the model's tokenizer: it was prepared with another one"
    else:
        what = "the tokenizer of the model: it was prepared with another one"
    folder = None if corpus.remote else corpus.folder
    place = encoder.tokenizer.name_or_path or "MODEL"
    options = f"--tokenizer {place}"
    if corpus.template != wanted.template:
        options += f" --template {wanted.template}"
    if "/artifacts/" in corpus.uri if folder is None else is_in_artifact(folder):
        fix = (
            f"prepare.tokenizer: {place}, and prepare anew. Or, as the data of a run are never "
            f"changed: copy the folder, vila data count COPY {options}, and name the copy in "
            "`data` of the training task."
        )
    elif folder is None:
        fix = f"vila data count FOLDER {options}, where it was uploaded from; then upload again."
    else:
        fix = f"vila data count {folder} {options}"
    return (
        f"corpus '{corpus.name}' ({corpus.uri}): its tokens were not counted with {what}.\n"
        f"  fix: {fix}"
    )
