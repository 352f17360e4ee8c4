"""Stage `alignment`: how alike images and their captions are, layer by layer of the language model.

An image and its caption are shown to the model apart, each in the same frame of words: text that
could look at the image would be alike for that reason alone. Shape letters: B items of a batch, T
tokens, D width, L layers (0: what goes into the first).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, field_validator

from vila_core.config import Frozen
from vila_core.errors import UserError, require
from vila_core.jsonio import dumps
from vila_core.miniature.words import COLORS, SHAPES
from vila_core.stages._answerers import device_of, pixels_of
from vila_core.types import QUIET, Reporter, StageResult

if TYPE_CHECKING:
    import torch

    from vila_core.eval.items import Item
    from vila_core.eval.similarity import Similarity
    from vila_core.model import VilaForConditionalGeneration, VilaProcessor

PLACE = "{}"


class Config(Frozen):
    """Which images and captions, and which words to tell apart."""

    task: str = Field(
        default="miniature_caption",
        description="prepared evaluation set whose items are one image, and answered by a caption",
    )
    frame: str = Field(
        default=f"scene {PLACE} .", description="words around an image, or {} its caption"
    )
    words: Mapping[str, tuple[str, ...]] = Field(
        default={"color": COLORS, "shape": SHAPES},
        description="kinds of words; a caption with exactly one of a kind says what its image is",
    )
    items: int | None = Field(default=None, gt=0, description="most items; default: all")
    batch_size: int = Field(default=64, gt=0, description="items in a batch")
    device: Literal["auto", "cpu", "cuda"] = Field(
        default="auto", description="auto: CUDA where present"
    )
    threads: int = Field(default=1, gt=0, description="CPU threads of torch")

    @field_validator("frame")
    @classmethod
    def _one_place(cls, frame: str) -> str:
        if frame.count(PLACE) != 1:
            raise ValueError(f"{PLACE} must stand in it once, for the image or its caption")
        return frame

    @field_validator("words")
    @classmethod
    def _something_to_tell_apart(
        cls, words: Mapping[str, tuple[str, ...]]
    ) -> Mapping[str, tuple[str, ...]]:
        for kind, group in words.items():
            if len(set(group)) < 2 or len(set(group)) < len(group):
                raise ValueError(f"{kind}: two or more words are needed, none of them twice")
        return words


@dataclass(frozen=True)
class _States:
    """What became of one item in each layer; `words` are those that its caption alone names."""

    key: str
    compared: list[Similarity]
    image_LD: torch.Tensor
    words: Mapping[str, tuple[str, torch.Tensor]]


@dataclass
class _Layer:
    compared: list[Similarity] = field(default_factory=list)
    matched: dict[str, list[bool]] = field(default_factory=dict)

    def metrics(self) -> dict[str, float]:
        values = {
            name: sum(getattr(one, name) for one in self.compared) / len(self.compared)
            for name in ("chamfer", "visual_to_text", "text_to_visual", "cosine", "distance")
        }
        matches = {f"match_{kind}": sum(hits) / len(hits) for kind, hits in self.matched.items()}
        return values | matches


def run(
    config: Config, inputs: Mapping[str, Path], out_dir: Path, report: Reporter = QUIET
) -> StageResult:
    """Compare images with their captions in every layer of `model`, on a task of `data`.

    Metrics are `alignment/<measure>@<layer>`, and `alignment/<measure>` for the mean over all
    layers but 0. Output `results`: layers.json and items.jsonl (each item in each layer). Raises
    UserError for a model that can't see, an unknown task, or items that are no captioned images.
    """
    for module in ("torch", "transformers"):
        require(module, extra="train", why="look into a model")
    import torch

    torch.set_num_threads(config.threads)
    items = _items(inputs["data"], config)
    model, processor = _open(inputs["model"], config)
    states: list[_States] = []
    with torch.inference_mode():
        for batch in _batches(items, config.batch_size):
            states += _look(batch, model, processor, config)
            report.progress(len(states), len(items), "items")
    layers = _layers(states, config)
    folder = out_dir / "results"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "items.jsonl").write_text(
        "".join(f"{dumps(line)}\n" for line in _records(states, layers)), encoding="utf-8"
    )
    table = [layer.metrics() for layer in layers]
    content = {"items": len(states), "frame": config.frame, "layers": table}
    (folder / "layers.json").write_text(dumps(content, indent=1) + "\n", encoding="utf-8")
    return StageResult({"results": folder}, _metrics(table))


def _items(data: Path, config: Config) -> Sequence[Item]:
    from vila_core.eval.items import eval_folders, load_eval_set

    there = eval_folders(data / "eval")
    if config.task not in there:
        known = ", ".join(there) or "none"
        raise UserError(f"task: the prepared data has no '{config.task}'; prepared tasks: {known}")
    items = load_eval_set(there[config.task]).items[: config.items]
    for item in items:
        if len(item.case.parts) != 1 or isinstance(item.case.parts[0], str):
            raise UserError(
                f"{item.where}: an item of one image and nothing else is needed; set `task` to a "
                "set of captions"
            )
    return items


def _batches(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _open(folder: Path, config: Config) -> tuple[VilaForConditionalGeneration, VilaProcessor]:
    from vila_core.model import load

    model, processor = load(folder)
    _placed(model, device_of(config.device))
    return model, processor


def _placed(model: torch.nn.Module, device: torch.device) -> None:
    model.to(device).eval()


def _look(
    items: Sequence[Item],
    model: VilaForConditionalGeneration,
    processor: VilaProcessor,
    config: Config,
) -> list[_States]:
    import torch

    from vila_core.eval.items import IMAGE
    from vila_core.eval.similarity import compare

    device = next(model.parameters()).device
    shown = processor.expand(config.frame.replace(PLACE, IMAGE))
    image_T = torch.tensor(processor.tokenizer(shown)["input_ids"], device=device)
    images = [item.case.parts[0] for item in items]
    pixels = torch.stack([pixels_of(one, processor) for one in images if not isinstance(one, str)])
    seen = model(
        input_ids=image_T.expand(len(items), -1),
        pixel_values=pixels.to(device),
        output_hidden_states=True,
        use_cache=False,
        logits_to_keep=1,
    )
    visual_BLTD = torch.stack(seen.hidden_states, dim=1)
    visual_BLVD = visual_BLTD[:, :, image_T == model.config.image_token_id].float()
    result = []
    read = _read([item.case.answer for item in items], model, processor, config)
    for item, visual_LVD, (text_LTD, caption, words) in zip(items, visual_BLVD, read, strict=True):
        if not caption:
            raise UserError(f"{item.where}: the caption has no tokens")
        compared = [
            compare(visual_VD, text_TD[caption])
            for visual_VD, text_TD in zip(visual_LVD, text_LTD, strict=True)
        ]
        named = {kind: (word, text_LTD[:, place]) for kind, (word, place) in words.items()}
        result.append(_States(item.key, compared, visual_LVD.mean(dim=1), named))
    return result


def _read(
    captions: Sequence[str],
    model: VilaForConditionalGeneration,
    processor: VilaProcessor,
    config: Config,
) -> Iterator[tuple[torch.Tensor, list[int], dict[str, tuple[str, int]]]]:
    """Yield each caption's states (L, T, D), the places of its tokens, and those of its words."""
    import torch

    texts = [config.frame.replace(PLACE, caption) for caption in captions]
    coded = [processor.tokenizer(text, return_offsets_mapping=True) for text in texts]
    rows = [row["input_ids"] for row in coded]
    device, longest = next(model.parameters()).device, max(map(len, rows))
    # Padding stands behind: what comes before it does not see it.
    tokens_BT = torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows], device=device)
    mask_BT = torch.tensor(
        [[1] * len(row) + [0] * (longest - len(row)) for row in rows], device=device
    )
    states = model(
        input_ids=tokens_BT,
        attention_mask=mask_BT,
        output_hidden_states=True,
        use_cache=False,
        logits_to_keep=1,
    ).hidden_states
    start = config.frame.index(PLACE)
    for states_LTD, caption, row in zip(torch.stack(states, dim=1), captions, coded, strict=True):
        spans = row["offset_mapping"]
        inside = _overlapping(spans, start, start + len(caption))
        words: dict[str, tuple[str, int]] = {}
        for kind, group in config.words.items():
            named = [
                (word, found.span())
                for word in group
                for found in re.finditer(rf"(?<!\S){re.escape(word)}(?!\S)", caption)
            ]
            if len(named) == 1:
                word, (first, end) = named[0]
                words[kind] = (word, _overlapping(spans, start + first, start + end)[-1])
        yield states_LTD.float(), inside, words


def _overlapping(spans: Sequence[tuple[int, int]], start: int, end: int) -> list[int]:
    """Return the tokens with characters between `start` and `end`."""
    return [n for n, (first, last) in enumerate(spans) if first < end and last > start]


def _layers(states: Sequence[_States], config: Config) -> list[_Layer]:
    layers = [_Layer([one.compared[n] for one in states]) for n in range(len(states[0].compared))]
    for kind, group in config.words.items():
        named = [one for one in states if kind in one.words]
        # A word that no caption names has no state to be near to.
        there = [word for word in group if any(one.words[kind][0] == word for one in named)]
        if len(there) < 2:
            continue
        for number, layer in enumerate(layers):
            layer.matched[kind] = _matched(named, kind, there, number)
    return layers


def _matched(states: Sequence[_States], kind: str, words: Sequence[str], layer: int) -> list[bool]:
    import torch

    from vila_core.eval.similarity import match

    said = [one.words[kind] for one in states]
    centroids_KD = torch.stack(
        [torch.stack([s[layer] for name, s in said if name == word]).mean(dim=0) for word in words]
    )
    right_N = torch.tensor([words.index(name) for name, _ in said], device=centroids_KD.device)
    return match(torch.stack([one.image_LD[layer] for one in states]), centroids_KD, right_N)


def _records(states: Sequence[_States], layers: Sequence[_Layer]) -> Iterator[dict[str, Any]]:
    hits = [{kind: iter(found) for kind, found in layer.matched.items()} for layer in layers]
    for one in states:
        values = [
            {
                **asdict(compared),
                **{f"match_{kind}": next(left) for kind, left in row.items() if kind in one.words},
            }
            for compared, row in zip(one.compared, hits, strict=True)
        ]
        yield {"key": one.key, "layers": values}


def _metrics(table: Sequence[Mapping[str, float]]) -> dict[str, float]:
    metrics = {
        f"alignment/{name}@{number}": value
        for number, layer in enumerate(table)
        for name, value in layer.items()
    }
    for name in table[0]:
        metrics[f"alignment/{name}"] = sum(layer[name] for layer in table[1:]) / (len(table) - 1)
    return metrics
