"""The language model's head with its loss in one step, so that no table of all logits is kept.

Logits are made, turned into their own gradient and used up chunk by chunk. That saves the largest
tensors of a training step (supervised tokens x vocabulary, several times over) and the time to move
them (with 4,096 words on CPU a quarter less in fp32 and half in bf16, head and loss together).

Shape letters: N supervised tokens, D width, V words, C tokens of one chunk.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.overrides import handle_torch_function, has_torch_function

from vila_core.model.linear import Linear, fits, linear, product, product_of_columns

PLAIN_HEADS = ("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM")
"""transformers' classes whose logits are their `lm_head` of the last hidden states and no more."""
CHUNK = {"cpu": 1 << 21, "cuda": 1 << 27}
"""Logits per chunk: what stays in a CPU's cache; on a GPU what keeps the matrix units busy."""


class LossHead(Linear):
    """A linear head that gives logits, or with `targets` the summed loss of predicting them."""

    def forward(  # type: ignore[override]
        self,
        hidden: torch.Tensor,
        targets: torch.Tensor | None = None,
        weights: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return logits (..., V), or for hidden (N, D) and targets (N,) the loss sum, a scalar.

        `weights` (N,) multiply each token's loss.
        """
        if targets is None:
            return linear(hidden, self.weight, self.bias)
        return linear_cross_entropy(hidden, self.weight, self.bias, targets, weights)


def loss_head(language_model: Any) -> LossHead | None:
    """Return the model's head as a LossHead; None for a model that does more than apply it.

    The head becomes one in place: same parameters, same name. It stays a module that is called,
    because ZeRO-3 gathers a module's parameters when the module is called.
    """
    if type(language_model).__name__ not in PLAIN_HEADS:
        return None
    head = language_model.lm_head
    if type(head) in (nn.Linear, Linear):
        head.__class__ = LossHead
    return head if isinstance(head, LossHead) else None


def target_loss(
    language_model: Any,
    places_N: torch.Tensor,
    targets_N: torch.Tensor,
    weights_N: torch.Tensor | None,
    inputs: dict[str, Any],
) -> torch.Tensor:
    """Return the summed loss of predicting `targets_N` at `places_N` of the one row in `inputs`.

    Models outside of `PLAIN_HEADS` make the logits of these places themselves.
    """
    head = loss_head(language_model)
    if head is not None:
        hidden_TD = language_model.model(**inputs).last_hidden_state[0]
        return head(hidden_TD.index_select(0, places_N), targets_N, weights_N)
    logits_NV = language_model(logits_to_keep=places_N, **inputs).logits[0].float()
    if weights_N is None:
        return F.cross_entropy(logits_NV, targets_N, reduction="sum")
    losses_N = F.cross_entropy(logits_NV, targets_N, reduction="none")
    return (losses_N * weights_N.float()).sum()


def linear_cross_entropy(
    hidden_ND: torch.Tensor,
    weight_VD: torch.Tensor,
    bias_V: torch.Tensor | None,
    targets_N: torch.Tensor,
    weights_N: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return the cross-entropy of `targets_N` under softmax(hidden @ weight.T + bias), summed.

    The loss is computed in fp32, whatever the dtype of the products. Its gradient is found in the
    forward pass, so a second derivative does not exist.
    """
    given = (hidden_ND, weight_VD)
    if has_torch_function(given):  # inside the counter of FLOPs: it takes `model_flops`
        return handle_torch_function(
            linear_cross_entropy, given, hidden_ND, weight_VD, bias_V, targets_N, weights_N
        )
    return _LinearCrossEntropy.apply(hidden_ND, weight_VD, bias_V, targets_N, weights_N)  # type: ignore[return-value]


def _model_flops(
    _loss: torch.Tensor, hidden_ND: torch.Tensor, weight_VD: torch.Tensor, *_: Any
) -> tuple[float, list[torch.Tensor]]:
    """Count one product of both; what needs a gradient is counted by `FlopCounter`."""
    return 2.0 * hidden_ND.numel() * weight_VD.shape[0], [hidden_ND, weight_VD]


linear_cross_entropy.model_flops = _model_flops  # type: ignore[attr-defined]


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: torch.Tensor,
        weight_VD: torch.Tensor,
        bias_V: torch.Tensor | None,
        targets_N: torch.Tensor,
        weights_N: torch.Tensor | None,
    ) -> torch.Tensor:
        wants_hidden, wants_weight, wants_bias = ctx.needs_input_grad[:3]
        device = hidden_ND.device.type
        # Autocast, seen by hand: inside of a Function the products are written with `out`.
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
        dtype = dtype or hidden_ND.dtype
        hidden, weight = hidden_ND.to(dtype), weight_VD.to(dtype)
        grad_hidden = torch.empty_like(hidden) if wants_hidden else None
        # Summed over chunks in fp32 as a product of bf16 matrices would be inside.
        grad_weight = torch.zeros_like(weight_VD, dtype=torch.float32) if wants_weight else None
        grad_bias = None
        if bias_V is not None and wants_bias:
            grad_bias = torch.zeros_like(bias_V, dtype=torch.float32)
        loss = torch.zeros((), dtype=torch.float32, device=hidden.device)
        fast = fits(hidden, weight)
        rows = max(16, CHUNK.get(device, CHUNK["cuda"]) // weight.shape[0])
        for start in range(0, len(targets_N), rows):
            part = slice(start, start + rows)
            hidden_CD, targets_C1 = hidden[part], targets_N[part, None]
            scores_CV = product(hidden_CD, weight) if fast else torch.mm(hidden_CD, weight.T)
            scores_CV = scores_CV.float()
            if bias_V is not None:
                scores_CV += bias_V
            # log(sum(exp(scores))), from the softmax: its largest is exp(0) over the sum.
            highest_C1 = scores_CV.amax(1, keepdim=True)
            chosen_C1 = scores_CV.gather(1, targets_C1) - highest_C1
            grad_CV = torch.softmax(scores_CV, 1)
            losses_C1 = -grad_CV.amax(1, keepdim=True).log() - chosen_C1
            if weights_N is None:
                loss += losses_C1.sum()
                grad_CV.scatter_add_(1, targets_C1, torch.full_like(chosen_C1, -1.0))
            else:
                weights_C1 = weights_N[part, None].float()
                loss += (losses_C1 * weights_C1).sum()
                grad_CV *= weights_C1
                grad_CV.scatter_add_(1, targets_C1, -weights_C1)
            if grad_bias is not None:
                grad_bias += grad_CV.sum(0)
            grad_CV = grad_CV.to(dtype)
            if grad_hidden is not None:
                if fast:
                    grad_hidden[part] = product(grad_CV, weight.T)
                else:
                    torch.mm(grad_CV, weight, out=grad_hidden[part])
            if grad_weight is not None:
                if fast:
                    grad_weight += product_of_columns(grad_CV, hidden_CD)
                elif dtype == torch.float32:
                    grad_weight.addmm_(grad_CV.T, hidden_CD)
                else:
                    grad_weight += torch.mm(grad_CV.T, hidden_CD)
        ctx.save_for_backward(grad_hidden, grad_weight, grad_bias)
        ctx.dtypes = (
            hidden_ND.dtype,
            weight_VD.dtype,
            bias_V.dtype if bias_V is not None else None,
        )
        return loss

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_loss: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # type: ignore[override]
        """Scale what the forward pass found, in place: it can run only once."""
        scaled = [
            None if grad is None else grad.mul_(grad_loss.to(grad.dtype)).to(dtype)
            for grad, dtype in zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        ]
        return (*scaled, None, None)
