"""Packs with many language models: exact, or refused. Never samples that see each other."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from tests.model.folders import SHAPE, TEXT, TOWER
from vila_core.model import VilaConfig, VilaForConditionalGeneration
from vila_core.model.attention import LONG, PackLayout, packed_attention

LENGTHS = (5, 19, 1, 3, LONG + 11, 19)
GPT2 = {"n_embd": 32, "n_layer": 3, "n_head": 4, "vocab_size": 64, "n_positions": 256}
EXACT: dict[str, dict[str, Any]] = {
    "llama": TEXT,
    "qwen2": TEXT,
    "qwen3": {**TEXT, "head_dim": 8},
    "phi3": {**TEXT, "pad_token_id": 0},
    "gemma": {**TEXT, "head_dim": 8},
    "mixtral": {**TEXT, "num_local_experts": 4},
    "gpt2": GPT2,
    "gpt_neox": {**SHAPE, "vocab_size": 64},
    # Windows shorter than the samples.
    "mistral": {**TEXT, "sliding_window": 4},
    "gemma3_text": {**TEXT, "head_dim": 8, "sliding_window": 4},
}
REFUSED: dict[str, dict[str, Any]] = {
    "stablelm": TEXT,  # attention code of its own, which ignores what is registered
    "falcon": {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4},
    "gemma2": TEXT,  # soft caps
    "gpt_oss": {**TEXT, "num_local_experts": 4},  # sinks
    "mamba": {"hidden_size": 32, "num_hidden_layers": 3, "vocab_size": 64},
}


def make(kind: str, settings: dict[str, Any]) -> VilaForConditionalGeneration:
    config = VilaConfig(
        vision_config={"model_type": "clip_vision_model", **TOWER},
        text_config={"model_type": kind, **settings},
        image_token_id=64,
    )
    torch.manual_seed(0)
    model = VilaForConditionalGeneration(config)
    with torch.no_grad():
        for parameter in model.language_model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.2)
    return model.eval()


def pack() -> tuple[list[torch.Tensor], dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(3)
    ids = [torch.randint(4, 64, (1, length), generator=generator) for length in LENGTHS]
    bounds = torch.tensor([0, *LENGTHS]).cumsum(0).int()
    return ids, {"input_ids": torch.cat(ids, 1), "cu_seqlens": bounds}


@pytest.mark.parametrize("kind", EXACT)
def test_packs_equal_the_plain_model_sample_by_sample(kind: str) -> None:
    """The reference is transformers' own eager attention, without any of our code."""
    model = make(kind, EXACT[kind])
    plain = AutoModelForCausalLM.from_config(
        AutoConfig.for_model(kind, **EXACT[kind]), attn_implementation="eager"
    ).eval()
    plain.load_state_dict(model.language_model.state_dict())
    ids, packed = pack()
    with torch.no_grad():
        logits = model(**packed).logits[0].split(LENGTHS)
        for one, ours in zip(ids, logits, strict=True):
            torch.testing.assert_close(
                ours, plain(one, use_cache=False).logits[0], atol=5e-5, rtol=0
            )


@pytest.mark.parametrize("kind", REFUSED)
def test_models_that_would_leak_are_refused(kind: str) -> None:
    with pytest.raises(ValueError, match=f"language model '{kind}' is not supported"):
        make(kind, REFUSED[kind])


def test_a_layer_that_ignores_the_pack_is_noticed() -> None:
    """LFM2 has convolutions between its attention layers: they run on into the next sample."""
    layers = ["conv", "full_attention", "conv"]
    model = make("lfm2", {**TEXT, "layer_types": layers})
    with pytest.raises(ValueError, match="in only 1 of its 3 layers"):
        model(**pack()[1])


def test_recomputed_activations_give_the_same_gradients() -> None:
    model = make("llama", TEXT).train()
    _, packed = pack()

    def gradients() -> list[torch.Tensor]:
        model.zero_grad()
        model(**packed).logits.square().sum().backward()
        return [p.grad.clone() for p in model.language_model.parameters() if p.grad is not None]

    plain = gradients()
    model.activation_checkpointing_enable()
    for mine, other in zip(gradients(), plain, strict=True):
        torch.testing.assert_close(mine, other)


@pytest.mark.parametrize("bounds", [[0, 3], [1, 5], [0, 3, 3, 5], [0, 4, 2, 5], [0]])
def test_wrong_boundaries_are_refused(bounds: list[int]) -> None:
    with pytest.raises(ValueError, match="does not rise from 0 to 5 tokens"):
        PackLayout(torch.tensor(bounds, dtype=torch.int32), 5)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("window", [None, 7])
def test_variable_length_attention_equals_the_cpu(window: int | None) -> None:
    lengths = torch.tensor([0, *LENGTHS]).cumsum(0).int()
    torch.manual_seed(0)
    tensors = [torch.randn(1, heads, sum(LENGTHS), 16).bfloat16() for heads in (4, 2, 2)]
    outputs = []
    for device in ("cpu", "cuda"):
        layout = PackLayout(lengths.to(device), sum(LENGTHS))
        on_device = [tensor.to(device) for tensor in tensors]
        out, _ = packed_attention(
            torch.nn.Identity(), *on_device, None, sliding_window=window, pack_layout=layout
        )
        outputs.append(out.cpu().float())
    torch.testing.assert_close(outputs[0], outputs[1], atol=2e-2, rtol=0)
