"""Ask a model about images: find it, lay out the prompt as in its training, generate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.registry import Registry
from components.registry.verify import verified_version
from vila_core.errors import Damaged, NotFound, UserError, require
from vila_core.images import BadImage, decode
from vila_core.jsonio import read_object
from vila_core.store import ArtifactRef, Store, fetch

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MODEL_TASKS = ("sft", "pretrain", "align")
"""Whose model of a run is asked: that of the last stage which is there."""
MARK = "<image>"
PROMPT_FILE = "vila-prompt.json"
"""Where the folder of a pulled version names the template of its prompts."""


@dataclass(frozen=True)
class ModelRef:
    """Where a model is: an artifact, or a folder; and the template of its prompts, if known."""

    place: ArtifactRef | Path
    template: str | None
    origin: str


@dataclass(frozen=True)
class Found:
    """A model folder and the template of its prompts, as far as they are known."""

    folder: Path
    template: str | None
    origin: str


def refer(store: Store, name: str, *, allow_unsigned: bool = True) -> ModelRef:
    """Return where the model `miniature@candidate`, `miniature@3`, of a run, or in a folder is.

    Nothing is fetched. A version's record and history are checked; unless `allow_unsigned`, they
    must be signed by somebody trusted, where anybody is. Raises UserError when there is none and
    for what is not signed, Damaged for what was changed.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        return ModelRef(folder, _template_in(folder), str(folder))
    registry = Registry(store)
    if "@" in name:
        version = verified_version(store, name, allow_unsigned)
        return ModelRef(version.artifact, template_of(store, version.run_id), version.name)
    if name in registry.models():
        forms = ", ".join(f"{name}@{alias}" for alias in registry.aliases(name))
        raise UserError(f"{name}: which version? fix: {forms or f'{name}@1'}.")
    return _from_run(store, name)


def find_model(store: Store, name: str, *, allow_unsigned: bool = True) -> Found:
    """Return the folder of a model that `refer` knows, fetched where it is an artifact."""
    found = refer(store, name, allow_unsigned=allow_unsigned)
    place = found.place
    folder = place if isinstance(place, Path) else fetch(store, place)
    return Found(folder, found.template, found.origin)


def read_images(paths: Sequence[str]) -> list[bytes]:
    """Return the content of image files, once it is known that they can be decoded.

    Raises UserError naming the file and what is wrong with it.
    """
    images = []
    for path in paths:
        try:
            data = Path(path).read_bytes()
            decode(data)
        except OSError as error:
            raise UserError(f"{path}: can't be read: {error.strerror or error}.") from None
        except BadImage as error:
            raise UserError(f"{path}: is not a usable image: {error}.") from None
        images.append(data)
    return images


def lay_out(
    question: str, images: int, template: str, tokenizer: PreTrainedTokenizerBase | None = None
) -> str:
    """Return the prompt up to where the answer starts.

    A question without `<image>` gets its images in front, as the template's corpora have them.
    The template `tokenizer` needs the tokenizer. Raises UserError when `<image>` places and images
    differ in number, and for a chat template that can't be used.
    """
    from vila_core.data.asking import Layout

    form = Layout(template, tokenizer)
    if MARK not in question:
        before = f"scene {MARK} . " if template == "miniature" else f"{MARK}\n"
        question = before * images + question
    elif question.count(MARK) != images:
        raise UserError(
            f"the question has {question.count(MARK)} {MARK} places for {images} images; "
            f"fix: one {MARK} per image, or none at all."
        )
    return form.lay_out([(question, None)])


def ask(
    found: Found,
    images: Sequence[bytes],
    question: str,
    *,
    template: str | None,
    max_new_tokens: int,
) -> str:
    """Return the model's answer. Raises UserError for words that the model can't read.

    `images` are the contents of image files, which the processor decodes as in training.
    """
    require("torch", extra="train", why="ask a model")
    require("transformers", extra="train", why="ask a model")
    import torch
    from transformers.utils.logging import disable_progress_bar

    from vila_core.data.asking import Layout
    from vila_core.model import load

    disable_progress_bar()
    name = template or found.template or "vicuna_v1"
    model, processor = load(found.folder)
    prompt = lay_out(question, len(images), name, processor.tokenizer)
    _check_words(processor.tokenizer, prompt)
    form = Layout(name, processor.tokenizer)
    encoded = processor(prompt, list(images), add_special_tokens=form.adds_special_tokens)
    end = form.end
    stop = end_ids(end, processor.tokenizer, model.generation_config)
    with torch.inference_mode():
        untyped: Any = model  # generate is typed for models with attributes that ours need not have
        tokens = untyped.generate(
            **encoded, max_new_tokens=max_new_tokens, do_sample=False, **stop
        )[0]
    new = tokens[encoded["input_ids"].shape[1] :]
    answer = str(processor.tokenizer.decode(new, skip_special_tokens=True))
    if end and not stop:  # an end that is written as text, not as a token of its own
        answer = answer.partition(f" {end}" if name == "miniature" else end)[0]
    return answer.strip()


def end_ids(end: str, tokenizer: PreTrainedTokenizerBase, generation: Any) -> dict[str, list[int]]:
    """Return what makes `generate` stop at `end` too, if that is one token; else nothing."""
    added = {token.content: number for number, token in tokenizer.added_tokens_decoder.items()}
    if end not in added:
        return {}
    known = generation.eos_token_id if generation is not None else None
    ids = [] if known is None else [known] if isinstance(known, int) else list(known)
    return {"eos_token_id": [*ids, *({added[end]} - set(ids))]}


def _check_words(tokenizer: Any, prompt: str) -> None:
    """Refuse words outside a word-level vocabulary: the model would see nothing of them."""
    unknown = tokenizer.unk_token_id
    if unknown is None:
        return
    words = [
        word
        for word in prompt.replace(MARK, " ").split()
        if unknown in tokenizer(word)["input_ids"]
    ]
    if words:
        raise UserError(
            f"the model does not know the words: {', '.join(dict.fromkeys(words))}.\n"
            f"  fix: use its {tokenizer.vocab_size} words, for example "
            "'q color of circle' or 'q how many object'."
        )


def _from_run(store: Store, name: str) -> ModelRef:
    from vila_ops.runs import find_run, load_view

    view = load_view(store, find_run(store, name))
    for task in (view.task(wanted) for wanted in MODEL_TASKS):
        for artifact in task.artifacts if task else ():
            if artifact["name"] == "model":
                ref = ArtifactRef(uri=artifact["uri"], sha256=artifact["sha256"])
                return ModelRef(ref, template_of(store, view.run_id), view.run_id)
    raise UserError(f"run {view.run_id} has no model yet; see: vila show {view.run_id}")


def _template_in(folder: Path) -> str | None:
    """Return the template that a pulled folder names; None for other folders."""
    if not (folder / PROMPT_FILE).is_file():
        return None
    template = read_object(folder / PROMPT_FILE).get("template")
    return template if isinstance(template, str) else None


def template_of(store: Store, run_id: str) -> str | None:
    """Return the template of a run's visual instructions."""
    from vila_ops.runs import load_view

    try:
        config = load_view(store, run_id).config
    except (NotFound, Damaged, KeyError, TypeError):  # half a record, or a foreign one
        return None
    prepare = config.get("prepare", {})
    if prepare.get("source") == "miniature":
        return "miniature"
    found = [corpus for corpus in prepare.get("corpora", ()) if corpus["format"] == "llava"]
    return found[0].get("template") if found else None
