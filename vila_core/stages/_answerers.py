"""The models that can be evaluated, opened as `Answerer`s: ours, any of transformers, an endpoint.

Imports nothing heavy at the top: the command line reads the configs.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, field_validator, model_validator

from vila_core.config import Frozen
from vila_core.data.by_content import content_of
from vila_core.data.templates import NAMES, TOKENIZER
from vila_core.errors import UserError, require

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from vila_core.eval.adapters.chat_client import ChatClient
    from vila_core.eval.answerer import Answerer
    from vila_core.eval.files import ImageRef
    from vila_core.eval.generate import Generator
    from vila_core.eval.judge import Judge
    from vila_core.model import VilaForConditionalGeneration, VilaProcessor

DEFAULT_TEMPLATE = "vicuna_v1"
"""VILA's and LLaVA-1.5's template, where neither the config nor the tokenizer says another."""


_AT_ONCE = 16
"""Prompts at once, at most, of models whose images and sizes are not known here."""
_EMBEDDED = 64  # images that go through the vision tower at once


class Endpoint(Frozen):
    """An OpenAI-compatible chat endpoint."""

    url: str = Field(description="base URL, for example http://localhost:8000/v1")
    model: str = Field(min_length=1, description="the model's name there")
    key_env: str = Field(
        default="OPENAI_API_KEY",
        description="environment variable with the key; the key itself is never stored",
    )
    concurrency: int = Field(default=8, gt=0, description="requests at a time")
    timeout_s: float = Field(default=120.0, gt=0, description="seconds to wait for an answer")
    retries: int = Field(
        default=6, ge=0, description="further tries when it is busy, limits the rate or breaks off"
    )

    @field_validator("url")
    @classmethod
    def _http(cls, url: str) -> str:
        if not url.startswith(("http://", "https://")):
            raise ValueError("an endpoint's URL starts with http:// or https://")
        if "@" in url.split("//", 1)[1].split("/", 1)[0]:
            raise ValueError("no user or password in the URL: put the key into the environment")
        return url.rstrip("/")


class AnswererConfig(Frozen):
    """How a model is opened and run."""

    template: str | None = Field(
        default=None,
        description="of conversations; default: the tokenizer's own where it has one, else "
        f"{DEFAULT_TEMPLATE}",
    )
    batch_size: int = Field(default=128, gt=0, description="prompts answered at once, at most")
    batch_tokens: int = Field(
        default=32_768,
        gt=0,
        description="tokens in a batch, at most; lower it when memory runs out",
    )
    precision: Literal["fp32", "bf16"] = Field(
        default="fp32", description="of weights and activations"
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        default="auto", description="auto: CUDA where present"
    )
    threads: int = Field(default=1, gt=0, description="CPU threads of torch, per process")

    @field_validator("template")
    @classmethod
    def _known(cls, template: str | None) -> str | None:
        if template is not None and template not in NAMES:
            raise ValueError(f"known templates are {', '.join(NAMES)}")
        return template


class MeasuredConfig(AnswererConfig):
    """Which benchmark, with which files, of which model: what all stages of benchmarks share."""

    benchmark: str = Field(description="name, for example pope")
    data: str = Field(description="folder or s3://bucket/prefix with the official files")
    model: str | None = Field(
        default=None,
        description="a model's folder, or artifact+URI; default: the task's input `model`",
    )
    endpoint: Endpoint | None = Field(default=None, description="asked instead of a model")

    @model_validator(mode="after")
    def _one_model(self) -> MeasuredConfig:
        if self.model is not None and self.endpoint is not None:
            raise ValueError("model and endpoint are both set; keep one of them")
        return self

    def cache_key(self) -> dict[str, Any]:
        """Return the resolved config; of a model by its content, only what names the content."""
        content = content_of(self.model) if self.model else None
        return super().cache_key() | ({"model": content} if content else {})

    def outside(self) -> list[Path | str]:
        """Return where the official files are, and a model's own folder."""
        places = [place_of(self.data)]
        if self.model is not None and content_of(self.model) is None:
            places.append(place_of(self.model))
        return places


def place_of(text: str) -> Path | str:
    """Return a URI as it is, anything else as a path."""
    return text if "://" in text else Path(text).expanduser()


@dataclass(frozen=True)
class ModelOpener:
    """Opens the model in a folder, in this process or another one."""

    folder: Path
    config: AnswererConfig

    def __call__(self) -> Answerer:
        """Return the model. Raises UserError for a folder that holds none, or a missing device."""
        return open_folder(self.folder, self.config)


@dataclass(frozen=True)
class EndpointOpener:
    """Opens an endpoint."""

    endpoint: Endpoint

    def __call__(self) -> Answerer:
        """Return the endpoint. Nothing is asked yet."""
        return open_endpoint(self.endpoint)


def open_endpoint(endpoint: Endpoint) -> Answerer:
    """Return the endpoint; its key comes from the environment. Nothing is asked yet."""
    from vila_core.eval.adapters.endpoint import EndpointAnswerer

    return EndpointAnswerer(_client(endpoint))


def open_judge(endpoint: Endpoint) -> Judge:
    """Return the endpoint as a judge of answers. Nothing is asked yet."""
    from vila_core.eval.adapters.endpoint import EndpointJudge

    return EndpointJudge(_client(endpoint))


def _client(endpoint: Endpoint) -> ChatClient:
    from vila_core.eval.adapters.endpoint import chat_client

    return chat_client(
        endpoint.url,
        endpoint.model,
        key_env=endpoint.key_env,
        concurrency=endpoint.concurrency,
        timeout_s=endpoint.timeout_s,
        retries=endpoint.retries,
    )


def open_folder(folder: Path, config: AnswererConfig) -> Answerer:
    """Open a VILA folder, a vision-language model of transformers, or a plain language model.

    Raises UserError for a folder that holds no model, and for a device that isn't there.
    """
    for module in ("torch", "transformers"):
        require(module, extra="train", why="evaluate a model")
    import torch
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    torch.set_num_threads(config.threads)
    device, dtype = placing(config)
    kind = model_type(folder)
    if kind == "vila":
        return _ours(folder, config, device, dtype)
    if _is_vision_language(kind):
        return _of_transformers(folder, config, device, dtype)
    return _language(folder, config, device, dtype)


def placing(config: AnswererConfig) -> tuple[torch.device, torch.dtype]:
    """Return the device and the precision that a config asks for. Raises UserError."""
    import torch

    dtype = torch.bfloat16 if config.precision == "bf16" else torch.float32
    return device_of(config.device), dtype


def device_of(name: Literal["auto", "cpu", "cuda"]) -> torch.device:
    """Return a device by name, auto being CUDA where present. Raises UserError."""
    import torch

    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("device: cuda is set, but torch finds no CUDA device; use device: auto")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def model_type(folder: Path) -> str:
    """Return what a model's config.json says that it is. Raises UserError when it is none."""
    path = folder / "config.json"
    try:
        return str(json.loads(path.read_text(encoding="utf-8"))["model_type"])
    except OSError as error:
        raise UserError(f"{path}: can't be read ({error.strerror}); is this a model?") from None
    except (ValueError, TypeError, KeyError):
        raise UserError(f"{path}: names no model_type; it is no transformers config") from None


def _ours(
    folder: Path, config: AnswererConfig, device: torch.device, dtype: torch.dtype
) -> Generator:
    from vila_core.data.asking import Layout
    from vila_core.eval.generate import Generator
    from vila_core.model import load

    model, processor = load(folder)
    name = _template(config, processor.tokenizer)

    class Seeing(Generator):
        """Our own model, which can also say how alike images are to its vision tower."""

        def embed(self, images: Sequence[ImageRef]) -> NDArray[np.float32]:
            """Return the mean feature of each image, (N, C), for RICES."""
            return _embed(model, [pixels_of(image, processor) for image in images], device)

    return Seeing(
        _placed(model, device, dtype),
        processor.tokenizer,
        processor.expand,
        lambda image: pixels_of(image, processor),
        config.batch_size,
        config.batch_tokens,
        Layout(name, processor.tokenizer),
        {"kind": "vila", "template": name, **_imported_from(folder)},
        model.tower_features,
    )


def _imported_from(folder: Path) -> dict[str, str]:
    """Return the layout that the model had before it was imported, if it was."""
    from vila_core.jsonio import read_object
    from vila_core.model.layouts.contents import ORIGIN

    path = folder / ORIGIN
    return {"imported_from": str(read_object(path)["layout"])} if path.is_file() else {}


def _language(
    folder: Path, config: AnswererConfig, device: torch.device, dtype: torch.dtype
) -> Generator:
    from transformers import AutoModelForCausalLM

    from vila_core.data.asking import Layout
    from vila_core.eval.generate import Generator
    from vila_core.model import load_tokenizer

    try:
        model = AutoModelForCausalLM.from_pretrained(
            str(folder), dtype=dtype, local_files_only=True, use_safetensors=True
        )
        tokenizer = load_tokenizer(folder)
    except (OSError, ValueError) as error:
        raise UserError(
            f"{folder}: can't be loaded as a causal language model with safetensors weights and a "
            f"tokenizer: {error}"
        ) from None
    name = _template(config, tokenizer)
    return Generator(
        _placed(model, device, dtype),
        tokenizer,
        batch_size=config.batch_size,
        batch_tokens=config.batch_tokens,
        layout=Layout(name, tokenizer),
        identity={"kind": "language model", "template": name},
    )


def _placed(model: torch.nn.Module, device: torch.device, dtype: torch.dtype) -> torch.nn.Module:
    return model.to(device, dtype).eval()


def _is_vision_language(kind: str) -> bool:
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

    return kind in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES


def _of_transformers(
    folder: Path, config: AnswererConfig, device: torch.device, dtype: torch.dtype
) -> Answerer:
    from transformers import AutoModelForImageTextToText, AutoProcessor

    from vila_core.eval.adapters.transformers_vlm import TransformersAnswerer

    try:
        model = AutoModelForImageTextToText.from_pretrained(
            str(folder), dtype=dtype, local_files_only=True, use_safetensors=True
        )
        processor = AutoProcessor.from_pretrained(str(folder), local_files_only=True)
    except (OSError, ValueError) as error:
        raise UserError(
            f"{folder}: can't be loaded as a vision-language model of transformers with "
            f"safetensors weights and a processor: {error}"
        ) from None
    return TransformersAnswerer(
        _placed(model, device, dtype), processor, batch_size=min(config.batch_size, _AT_ONCE)
    )


def _template(config: AnswererConfig, tokenizer: Any) -> str:
    own = TOKENIZER if getattr(tokenizer, "chat_template", None) else DEFAULT_TEMPLATE
    return config.template or own


def pixels_of(image: ImageRef, processor: VilaProcessor) -> torch.Tensor:
    """Return an image as the model takes it, (3, H, W). Raises UserError for one that is broken."""
    from vila_core.eval.files import read_image
    from vila_core.images import BadImage

    try:
        return processor.transform_bytes(read_image(image))
    except BadImage as error:
        raise UserError(f"{image}: {error}; replace it or drop the items that show it") from None


def _embed(
    model: VilaForConditionalGeneration, pixels: Sequence[torch.Tensor], device: torch.device
) -> NDArray[np.float32]:
    import numpy as np
    import torch

    with torch.inference_mode():
        rows = [
            model.image_features(torch.stack([*pixels[start : start + _EMBEDDED]]).to(device)).mean(
                1
            )
            for start in range(0, len(pixels), _EMBEDDED)
        ]
    return np.concatenate([row.float().cpu().numpy() for row in rows])


def fetch_model(place: str) -> Path:
    """Return the folder of a model: itself, or that of an artifact (`artifact+URI`), fetched.

    Raises UserError for a folder that isn't there.
    """
    if place.startswith("artifact+"):
        from vila_core.store import ArtifactRef, fetch, open_store

        uri = place.removeprefix("artifact+")
        store, _, sha256 = uri.rpartition("/artifacts/")
        return fetch(open_store(store), ArtifactRef(uri, sha256))
    folder = Path(place).expanduser()
    if not folder.is_dir():
        raise UserError(f"model: {place}: there is no such folder")
    return folder
