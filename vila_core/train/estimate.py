"""What a training will need before it starts: model FLOPs of packs, and memory of a rank.

Plain arithmetic over a model's shape; nothing is allocated and no torch is imported. FLOPs follow
`flops.FlopCounter` (2 per multiply-add, causal attention half, frozen weights without gradient).
Memory follows what the engines and autograd hold: see docs/explanation/planning.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from vila_core.errors import UserError

PARTS = ("vision_tower", "projector", "language_model")
BUCKET = 500_000_000  # elements; see DeepSpeedEngine._settings
STAGE3_LIVE = 1_000_000_000  # DeepSpeed's stage3_max_live_parameters
STAGE3_SUB_GROUP = 1_000_000_000  # DeepSpeed's sub_group_size: updated at a time
FP32, BF16 = 4, 2
KERNEL = 0.55 * 2**20  # a product that oneDNN compiled for its shape, on CPU (measured)
BLOCK, BLOCKED_LONGEST = 128, 1024  # of `model.causal`, which needs torch to be imported
ERROR = (-0.12, 0.12)
"""Between these the estimate of memory stays of what was measured in tests: true peaks of small
models in one process on a CPU, plain engine and ZeRO 0 to 3, fp32 and bf16 (estimate / peak - 1).
"""


@dataclass(frozen=True)
class Tower:
    """A CLIP or SigLIP tower: sizes in elements, `tokens` per image with a class token if any."""

    layers: int
    width: int
    ffn: int
    tokens: int
    patches: int
    patch_inputs: int  # 3 x patch size squared
    image_size: int
    pools: bool  # an attention-pooling head runs although its output isn't used
    exact_gelu: bool  # quick_gelu keeps one tensor more for the backward pass


@dataclass(frozen=True)
class Language:
    """A decoder of Llama's kind."""

    layers: int
    width: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    vocabulary: int
    linear: int  # weights of all linear layers but the head
    loss_chunks: Mapping[str, int] | None  # logits at a time by device; None: all of them


@dataclass(frozen=True)
class Shape:
    """All that the arithmetic needs of a model."""

    parameters: Mapping[str, int]  # by part
    tower: Tower
    projector: str
    tokens_per_image: int
    language: Language

    @property
    def total(self) -> int:
        """Parameters of the whole model."""
        return sum(self.parameters.values())

    def trained(self, trains: Iterable[str]) -> int:
        """Parameters of the parts that train."""
        return sum(self.parameters[part] for part in set(trains))


@dataclass(frozen=True)
class Load:
    """What packs hold, in sums over `packs` of them. `squares`: of the samples' lengths."""

    packs: float
    tokens: float
    images: float
    supervised: float
    squares: float
    text_only: float = 0.0  # packs without an image: one grey image runs in each

    def per_pack(self) -> Load:
        """Return the mean pack."""
        values = (self.tokens, self.images, self.supervised, self.squares, self.text_only)
        return Load(1.0, *(value / self.packs for value in values))


@dataclass(frozen=True)
class Memory:
    """Bytes of one rank at its fullest moment."""

    weights: float
    gradients: float
    optimizer: float  # AdamW's moments, and fp32 master weights where they are kept apart
    activations: float
    activations_checkpointed: float
    logits: float
    buffers: float  # communication buckets, gathered parameters, bf16 copies of autocast
    tower: float  # of the tower's forward pass, over before the language model's begins

    def total(self, *, checkpointing: bool = False) -> float:
        """Return the sum, with or without activation checkpointing."""
        activations = self.activations_checkpointed if checkpointing else self.activations
        kept = self.weights + self.gradients + self.optimizer + self.buffers
        return kept + max(activations + self.logits, self.tower)


def shape_of(model: Any) -> Shape:
    """Return the shape of a `VilaForConditionalGeneration`, also of one on the meta device.

    Raises UserError for a mixture of experts, whose FLOPs depend on more than shapes.
    """
    config, vision, text = model.config, model.config.vision_config, model.config.text_config
    if any(getattr(text, name, None) for name in ("num_experts", "num_local_experts")):
        raise UserError(f"language model '{text.model_type}': mixtures of experts can't be planned")
    from vila_core.model.head import CHUNK, PLAIN_HEADS

    head = model.get_output_embeddings()
    linear = sum(
        module.weight.numel()
        for module in model.language_model.modules()
        if type(module).__name__ == "Linear" and module is not head
    )
    patches = config.grid**2
    return Shape(
        parameters={
            part: sum(p.numel() for p in getattr(model, part).parameters()) for part in PARTS
        },
        tower=Tower(
            layers=vision.num_hidden_layers,
            width=vision.hidden_size,
            ffn=vision.intermediate_size,
            tokens=patches + int(vision.model_type == "clip_vision_model"),
            patches=patches,
            patch_inputs=3 * vision.patch_size**2,
            image_size=vision.image_size,
            pools=getattr(model.vision_tower, "head", None) is not None,
            exact_gelu=vision.hidden_act != "quick_gelu",
        ),
        projector=config.projector,
        tokens_per_image=config.tokens_per_image,
        language=Language(
            layers=text.num_hidden_layers,
            width=text.hidden_size,
            heads=text.num_attention_heads,
            kv_heads=text.num_key_value_heads,
            head_dim=getattr(text, "head_dim", None)
            or text.hidden_size // text.num_attention_heads,
            ffn=text.intermediate_size,
            vocabulary=text.vocab_size,
            linear=linear,
            loss_chunks=CHUNK if type(model.language_model).__name__ in PLAIN_HEADS else None,
        ),
    )


def flops(shape: Shape, load: Load, trains: Iterable[str]) -> float:
    """Return the model FLOPs of forward and backward passes over `load`."""
    trained = set(trains)
    images = load.images + load.text_only
    language, tower_trains = shape.language, "vision_tower" in trained
    # A product costs its forward again for each operand that needs a gradient.
    into = 1  # something before or in the language model always trains: gradients flow through it
    times = 1 + into + ("language_model" in trained)
    linear = 2 * language.linear * load.tokens * times
    head = 2 * language.width * language.vocabulary * load.supervised * times
    attention_width = language.heads * language.head_dim
    attention = 2 * attention_width * language.layers * load.squares * (1 + 2 * into)
    tower = _tower_flops(shape.tower, tower_trains) * images
    projector = _projector_flops(shape, "projector" in trained, tower_trains) * images
    return linear + head + attention + tower + projector


def _tower_flops(tower: Tower, trains: bool) -> float:
    """Forward (and backward) FLOPs of one image through the tower."""
    width, tokens = tower.width, tower.tokens
    weights = 4 * width**2 + 2 * width * tower.ffn
    layer = 2 * tokens * weights + 4 * tokens**2 * width
    whole = tower.layers * layer
    if tower.pools:
        whole += 2 * (2 * tokens + 2) * width**2 + 4 * tokens * width + 4 * width * tower.ffn
    stem = 2 * tower.patches * tower.patch_inputs * width
    return whole * (3 if trains else 1) + stem * (2 if trains else 1)


def _projector_flops(shape: Shape, trains: bool, tower_trains: bool) -> float:
    """Forward (and backward) FLOPs of one image through the projector."""
    kind, into, out = shape.projector, shape.tower.width, shape.language.width
    places = shape.tokens_per_image
    first = 1 + trains + tower_trains
    later = 1 + trains + (trains or tower_trains)
    if kind == "linear":
        return 2 * places * into * out * first
    if kind == "downsample":
        return 2 * places * 4 * into * out * first
    if kind == "mlp_downsample":  # the norm before its first layer trains too
        return 2 * places * (4 * into * out + out * out) * later
    if kind == "transformer":
        block = 2 * places * 12 * into**2 + 4 * places**2 * into
        return (block + 2 * places * into * out) * later
    depth = 2 if kind == "mlp2x_gelu" else int(kind[3:-6])
    return 2 * places * (into * out * first + (depth - 1) * out * out * later)


def memory(
    shape: Shape,
    largest: Load,
    trains: Iterable[str],
    *,
    precision: str,
    zero_stage: int,
    ranks: int,
    cpu: bool = False,
) -> Memory:
    """Return the bytes that one of `ranks` ranks holds with `largest` as its pack.

    The gradients of earlier micro-batches are taken to be there while the largest one runs: with
    one pack per rank and step, the true peak is lower.
    """
    trained = set(trains)
    # As the engines do it: at stage 0 bf16 is autocast over fp32 weights.
    pure, autocast = precision == "bf16" and zero_stage > 0, precision == "bf16" and not zero_stage
    element = BF16 if pure else FP32
    total, train = shape.total, shape.trained(trained)
    shard = train / ranks
    moments = 2 * FP32 * (train if zero_stage == 0 else shard)
    masters = FP32 * shard if zero_stage else 0
    saved = _Saved(shape, largest, trained, pure=pure, autocast=autocast, cpu=cpu)
    return Memory(
        weights=element * total / (ranks if zero_stage == 3 else 1),
        gradients={
            0: FP32 * train,
            1: (FP32 + BF16 if pure else FP32) * train,  # bf16 ones are added up in fp32
            2: FP32 * shard,
            3: element * shard,
        }[zero_stage],
        optimizer=moments + masters,
        activations=saved.activations(),
        activations_checkpointed=saved.checkpointed(),
        logits=saved.logits(),
        buffers=_buffers(shape, trained, element, zero_stage, ranks, autocast)
        + (_kernels(trained) if cpu and precision == "fp32" else 0),
        tower=saved.tower_pass(),
    )


def _buffers(
    shape: Shape, trained: set[str], element: int, stage: int, ranks: int, autocast: bool
) -> float:
    total, train = shape.total, shape.trained(trained)
    bucket = min(BUCKET, total)
    if stage == 0:
        reduced = FP32 * min(bucket, train) if ranks > 1 else 0
        # Autocast's copies of weights last from the forward pass to the backward pass.
        language = shape.language
        head = language.width * language.vocabulary if not language.loss_chunks else 0
        cast = language.linear + head
        copies = BF16 * (cast + shape.parameters["projector"]) if autocast else 0
        return max(reduced, copies)
    if stage < 3:  # a bucket, and the flat fp32 gradient that the update reads
        return element * bucket + FP32 * train / ranks
    live = element * min(total, STAGE3_LIVE) if ranks > 1 else 0
    return element * bucket + live + FP32 * min(train / ranks, STAGE3_SUB_GROUP)


def _kernels(trained: set[str]) -> float:
    """The compiled products of one pack's shapes: four in a layer, four each in tower and rest."""
    return KERNEL * (4 * (2 + ("language_model" in trained)) + 8)


class _Saved:
    """Bytes of what autograd keeps for the backward pass of one pack.

    Elements kept per token, for width D, attention width A, key and value width K, ffn I. Norms:
    input (fp32), and where the language model trains, normalised and output (2 norms a layer).
    Attention: query, key, value, output, log-sum. MLP: gate, its activation, up, and where it
    trains their product. A frozen linear layer keeps no input.
    """

    def __init__(
        self,
        shape: Shape,
        load: Load,
        trained: set[str],
        *,
        pure: bool,
        autocast: bool,
        cpu: bool,
    ) -> None:
        self.shape, self.load, self.trained, self.cpu = shape, load, trained, cpu
        self.images = load.images or 1.0  # without one, a grey image runs
        self.residual = BF16 if pure else FP32  # one element of what flows between layers
        self.low = BF16 if pure or autocast else FP32  # one element within a layer
        self.autocast = autocast
        self.trains = "language_model" in trained
        self.fused = cpu and self.residual == FP32 and shape.language.loss_chunks is not None

    def layer(self) -> float:
        """One layer of the language model."""
        language, low = self.shape.language, self.low
        attention = language.heads * language.head_dim
        shared = language.kv_heads * language.head_dim
        if self.cpu and shared != attention:
            shared = attention  # CPU kernels get repeated keys and values
        kept = FP32 * language.heads * self.load.tokens  # the log-sums of flash attention
        blocked = self.cpu and self.load.squares <= BLOCKED_LONGEST * self.load.tokens
        if blocked:
            # Our kernel's probabilities: of each block of queries, up to its end. A sample's last
            # block is part of one: on average BLOCK^2 / 12 less, for tokens^2 / squares samples.
            blocks = (self.load.squares + BLOCK * self.load.tokens) / 2
            blocks -= BLOCK**2 / 12 * self.load.tokens**2 / max(self.load.squares, 1.0)
            kept = low * language.heads * blocks
        outputs = 2 if self.cpu and self.trains else 1  # on CPU samples are put back in order
        outputs -= blocked  # our kernel goes backward without its output
        attended = low * ((1 + outputs) * attention + 2 * shared)
        mlp = low * language.ffn * (4 if self.trains else 3)
        # Autocast casts a layer's input for each of query, key and value, gate and up.
        casts = 3 * BF16 * language.width if self.autocast and self.trains else 0
        return self.load.tokens * (2 * self._norm() + attended + mlp + casts) + kept

    def _norm(self) -> float:
        width = self.shape.language.width
        kept = FP32 * width + FP32
        if not self.trains:
            return kept
        # Our own norm (CPU, fp32) keeps the normalised values alone.
        return kept + (self.low + self.residual * (not self.fused)) * width

    def _ends(self, *, recomputed: bool = False) -> float:
        """Last norm, the head's input, position tables, image features and pixels."""
        language, load = self.shape.language, self.load
        if language.loss_chunks:  # the loss keeps the gradients of the head's input and weights
            head = self.low * load.supervised * language.width
            head += FP32 * language.vocabulary * language.width * self.trains
        else:
            head = self.low * load.supervised * language.width * self.trains
        positions = 2 * FP32 * load.tokens * language.head_dim
        # The last norm's output is only kept where the head reads it.
        twice = self.trains and not self.fused
        norm = load.tokens * ((FP32 + self.residual * twice) * language.width + FP32)
        pixels = FP32 * load.images * 3 * self.shape.tower.image_size**2
        return head + positions + norm + pixels + self._projector() + self._tower(recomputed)

    def _projector(self) -> float:
        if not self.trained & {"projector", "vision_tower"}:
            return 0.0
        shape, kind = self.shape, self.shape.projector
        into, out, places = shape.tower.width, shape.language.width, shape.tokens_per_image
        if kind == "linear":
            kept = into
        elif kind == "downsample":
            kept = 4 * into
        elif kind == "mlp_downsample":
            kept = 8 * into + 2 * out
        elif kind == "transformer":
            kept = 18 * into
        else:
            depth = 2 if kind == "mlp2x_gelu" else int(kind[3:-6])
            kept = into + 2 * (depth - 1) * out
        return self.images * places * kept * self.low

    def _tower(self, recomputed: bool) -> float:
        if "vision_tower" not in self.trained:
            return 0.0
        tower = self.shape.tower
        layer = 8 * tower.width + (2 if tower.exact_gelu else 3) * tower.ffn
        kept = tower.layers * tower.width + layer if recomputed else tower.layers * layer
        return self.images * tower.tokens * kept * self.low

    def tower_pass(self) -> float:
        """The frozen tower's forward pass: all hidden states, and what one layer works with."""
        tower = self.shape.tower
        works = (tower.layers + 1) * tower.width + 4 * tower.width + 2 * tower.ffn
        return self.images * tower.tokens * works * self.low

    def logits(self) -> float:
        """What the loss works with, beside what it keeps."""
        language = self.shape.language
        logits = self.load.supervised * language.vocabulary
        if not language.loss_chunks:  # log-probabilities, their gradient, the logits' gradient
            return 3 * FP32 * logits
        chunk = min(logits, language.loss_chunks["cpu" if self.cpu else "cuda"])
        return chunk * (FP32 + (2 * BF16 if self.low == BF16 else 0))

    def activations(self) -> float:
        """Everything is kept."""
        return self.shape.language.layers * self.layer() + self._ends()

    def checkpointed(self) -> float:
        """Only layers' inputs are kept; one layer at a time is computed again."""
        language = self.shape.language
        inputs = language.layers * self.load.tokens * language.width * self.residual
        return inputs + self.layer() + self._ends(recomputed=True)
