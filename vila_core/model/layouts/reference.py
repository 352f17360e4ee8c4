"""Load an exported folder with the other library, and compute its logits in float32.

Nothing here uses our model, our renaming or our projectors: names are cut by hand and the projector
is written out a second time, so that a mistake of ours shows as a difference.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
    LlavaForConditionalGeneration,
)

from vila_core.errors import VilaError
from vila_core.jsonio import read_object
from vila_core.model.layouts.files import read_tensors

Logits = Callable[[torch.Tensor, torch.Tensor | None], torch.Tensor]
"""From ids (T), an image's once per visual token, and pixels (N, 3, H, W), to logits (T, words)."""


def tokenizer_of(folder: Path, layout: str) -> Any:
    """Load the tokenizer that was written, without any of ours."""
    place = folder / "llm" if layout == "vila15" else folder
    return AutoTokenizer.from_pretrained(str(place), local_files_only=True)


def load(folder: Path, layout: str, image_token_id: int) -> Logits:
    """Return the logits of the folder's model. Raises VilaError when it does not load whole."""
    if layout.startswith("transformers"):
        return _llava(folder)
    return _parts(folder, layout, image_token_id)


def _llava(folder: Path) -> Logits:
    llava: Any = LlavaForConditionalGeneration
    model, found = llava.from_pretrained(
        str(folder),
        dtype=torch.float32,
        local_files_only=True,
        use_safetensors=True,
        output_loading_info=True,
    )
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if found.get(kind):
            raise VilaError(f"transformers finds {kind} in what was written: {sorted(found[kind])}")
    model.eval()

    def logits(ids_T: torch.Tensor, pixels: torch.Tensor | None) -> torch.Tensor:
        return model(input_ids=ids_T[None], pixel_values=pixels).logits[0]

    return logits


def _parts(folder: Path, layout: str, image_token_id: int) -> Logits:
    """Put the two released layouts together from transformers' language model and tower."""
    root = read_object(folder / "config.json")
    if layout == "vila15":
        language = _from_folder(AutoModelForCausalLM, folder / "llm")
        tower = _from_folder(AutoModel, folder / "vision_tower")
        projector = {
            name.removeprefix("layers."): tensor.float()
            for name, tensor in read_tensors(folder / "mm_projector").items()
        }
        kind = read_object(folder / "mm_projector" / "config.json")["mm_projector_type"]
    else:
        tensors = read_tensors(folder)
        language, tower = _from_flat(root, tensors)
        start = "model.mm_projector."
        projector = {
            name[len(start) :]: tensor.float()
            for name, tensor in tensors.items()
            if name.startswith(start)
        }
        kind = root["mm_projector_type"]
    layer, select = root["mm_vision_select_layer"], root["mm_vision_select_feature"]

    def logits(ids_T: torch.Tensor, pixels: torch.Tensor | None) -> torch.Tensor:
        is_image_T = ids_T == image_token_id
        embedded_TD = language.get_input_embeddings()(ids_T.masked_fill(is_image_T, 0))
        if pixels is not None:
            features = tower(pixels, output_hidden_states=True).hidden_states[layer]
            features = features[:, 1:] if select == "patch" else features
            embedded_TD[is_image_T] = project(features, projector, kind).flatten(0, 1)
        return language(inputs_embeds=embedded_TD[None]).logits[0]

    return logits


def project(features: torch.Tensor, weights: dict[str, torch.Tensor], kind: str) -> torch.Tensor:
    """Apply a released projector to (N, P, C), from its weights alone."""
    if kind == "linear":
        return F.linear(features, weights["weight"], weights["bias"])
    hidden = features
    if kind == "mlp_downsample":
        hidden = F.layer_norm(
            _merge(features), weights["1.weight"].shape, weights["1.weight"], weights["1.bias"]
        )
    numbers = sorted(
        {int(name.split(".")[0]) for name, tensor in weights.items() if tensor.dim() == 2}
    )
    for place, number in enumerate(numbers):
        hidden = F.gelu(hidden) if place else hidden
        hidden = F.linear(hidden, weights[f"{number}.weight"], weights[f"{number}.bias"])
    return hidden


def _merge(features: torch.Tensor) -> torch.Tensor:
    """Lay 2x2 patches end to end, column of blocks by column; beyond the edge there are zeros."""
    side = round(features.shape[1] ** 0.5)
    zero = torch.zeros_like(features[:, 0])

    def patch(row: int, column: int) -> torch.Tensor:
        return features[:, row * side + column] if row < side and column < side else zero

    steps = range(0, side, 2)
    tokens = [
        torch.cat([patch(row + down, column + right) for down in (0, 1) for right in (0, 1)], -1)
        for column in steps
        for row in steps
    ]
    return torch.stack(tokens, 1)


def _from_folder(auto: Any, folder: Path) -> Any:
    model, found = auto.from_pretrained(
        str(folder), dtype=torch.float32, local_files_only=True, output_loading_info=True
    )
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if found.get(kind):
            raise VilaError(f"transformers finds {kind} in {folder.name}: {sorted(found[kind])}")
    return model.eval()


def _from_flat(root: dict[str, Any], tensors: dict[str, torch.Tensor]) -> tuple[Any, Any]:
    """Build both halves from the file's config and load them from its names."""
    kind = {"llava_mistral": "mistral", "llava_qwen": "qwen2"}.get(root["model_type"], "llama")
    values = {key: value for key, value in root.items() if not key.startswith("mm_")}
    for key in ("model_type", "vision_config", "architectures", "dtype", "torch_dtype"):
        values.pop(key, None)
    language: Any = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **values))
    vision = json.loads(json.dumps(root["vision_config"]))
    tower: Any = AutoModel.from_config(AutoConfig.for_model(vision.pop("model_type"), **vision))
    start = "model.vision_tower.vision_tower.vision_model."
    eyes = {n[len(start) :]: t.float() for n, t in tensors.items() if n.startswith(start)}
    text = {
        name: tensor.float()
        for name, tensor in tensors.items()
        if not name.startswith(("model.vision_tower.", "model.mm_projector."))
    }
    if root.get("tie_word_embeddings"):
        text["lm_head.weight"] = text["model.embed_tokens.weight"]
    try:
        language.float().load_state_dict(text)
        tower.float().load_state_dict(eyes)
    except RuntimeError as error:
        raise VilaError(f"transformers can't load what was written: {error}") from None
    return language.eval(), tower.eval()
