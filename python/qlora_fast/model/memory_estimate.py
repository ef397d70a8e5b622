"""What a run will need of a GPU's memory, part by part, from the model's config.json alone. No torch, no weights.

::

    weights      embedding and head 16 bits, always; linear layers 16 bits, or 4 with their constants
    adapter      weights and gradient in fp32, and the 16-bit copies that the model multiplies with
    optimizer    AdamW's two moments
    activations  what the backward pass needs of a row: proportional to its tokens
    logits       one chunk of them: never all
    workspace    gradients on their way, and a layer's weights while they are in 16 bits
    gathered     layers that are complete on this GPU for a moment, where it holds a share of the base, or none of it
    context      what CUDA takes for itself (a typical figure)

Weights, adapter and optimizer are counted, and the tests hold them to 1 % of a real model's; activations are counted for
the layers below, and the tests hold them to 5 %. The sum is what is alive at the same time; what the allocator keeps
unused comes on top.

Legend: D hidden width, H and G widths of queries and of keys, F width inside the MLP, V vocabulary, R rank.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from math import prod
from typing import Any

from qlora_fast.config import Config
from qlora_fast.errors import ConfigError

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
"""Model types whose layers are the ones counted here."""
LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
CHUNK_LOGITS = 1 << 26
"""Logits of one chunk; :mod:`qlora_fast.train.loss` has the same number (a test compares them)."""
CHUNK_BYTES = 256 << 20
"""Of logits that kernels overwrite with their gradient; likewise."""
CONTEXT = 500_000_000
"""CUDA's own memory with torch's kernels loaded: 0.3 to 0.6 GB on usual cards."""
_BLOCK, _OUTER = 64, 256
"""bitsandbytes: weights that share a scale, and scales that share one when they are quantized too."""
_ALIGN = 256
"""Values at whose multiples each matrix of the adapter starts."""


@dataclass(frozen=True, slots=True)
class Shape:
    """The numbers of a decoder's config.json that memory depends on."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    vocab: int
    tied: bool
    qkv_bias: bool = False
    out_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Shape:
        """From the content of a config.json.

        Raises:
            ConfigError: a kind of model whose layers are not counted here.
        """
        kind = config.get("model_type")
        if kind not in FAMILIES:
            raise ConfigError(
                f"the memory of a `{kind}` model is not estimated; only that of {', '.join(FAMILIES)}",
                hint="`qlora-fast train … --dry-run` loads the model and measures",
            )
        heads = int(config["num_attention_heads"])
        bias = bool(config.get("attention_bias", False))
        return cls(
            layers=int(config["num_hidden_layers"]),
            hidden=int(config["hidden_size"]),
            heads=heads,
            kv_heads=int(config.get("num_key_value_heads") or heads),
            head_dim=int(config.get("head_dim") or int(config["hidden_size"]) // heads),
            ffn=int(config["intermediate_size"]),
            vocab=int(config["vocab_size"]),
            tied=bool(config.get("tie_word_embeddings", False)),
            qkv_bias=kind == "qwen2" or bias,
            out_bias=bias,
            mlp_bias=bool(config.get("mlp_bias", False)),
            qk_norm=kind == "qwen3",
        )

    def linear(self) -> dict[str, tuple[int, int]]:
        """(out, in) of each linear layer of a block."""
        q, kv = self.heads * self.head_dim, self.kv_heads * self.head_dim
        d, f = self.hidden, self.ffn
        sizes = ((q, d), (kv, d), (kv, d), (d, q), (f, d), (f, d), (d, f))
        return dict(zip(LINEAR, sizes, strict=True))

    @property
    def embedding(self) -> int:
        """Parameters of the token embedding, and of the head if it is another matrix."""
        return self.vocab * self.hidden * (1 if self.tied else 2)

    @property
    def body(self) -> int:
        """Parameters of all linear layers but the head."""
        return self.layers * sum(map(prod, self.linear().values()))

    @property
    def small(self) -> int:
        """Parameters of norms and biases."""
        sizes = self.linear()
        a_layer = 2 * self.hidden + 2 * self.head_dim * self.qk_norm
        a_layer += self.qkv_bias * sum(sizes[name][0] for name in LINEAR[:3]) + self.out_bias * sizes["o_proj"][0]
        a_layer += self.mlp_bias * sum(sizes[name][0] for name in LINEAR[4:])
        return self.layers * a_layer + self.hidden

    @property
    def parameters(self) -> int:
        return self.embedding + self.body + self.small


@dataclass(frozen=True, slots=True)
class Method:
    """How it is trained. ``tokens`` are those of the longest row; ``supervised`` those of them that are learned."""

    tokens: int = 2048
    supervised: int | None = None
    bits: int | None = None
    double: bool = True
    width: int = 2
    """Bytes of a weight that is not quantized, and of an activation."""
    rank: int = 8
    targets: Sequence[str] = LINEAR
    dropout: bool = False
    mask_width: int = 1
    """Bytes of a value of a dropout mask: 1 on a GPU, as wide as an activation on a CPU."""
    dora: bool = False
    whole: Sequence[str] = ()
    """Modules that are trained in full."""
    optimizer_bits: int = 32
    checkpointing: bool = False
    kernels: bool = False
    """Whether norms, rotation and gate run by our kernels, which keep nothing in fp32, and logits are overwritten."""

    @classmethod
    def of(
        cls,
        config: Config,
        tokens: int,
        supervised: int | None = None,
        width: int | None = None,
        kernels: bool | None = None,
    ) -> Method:
        """As the config says.

        Args:
            width: of the dtype that ``auto`` came to; 2 if it is not known.
            kernels: whether our kernels run; if it is not known, on a GPU they do, unless the config says ``off``.
        """
        return cls(
            tokens=tokens,
            supervised=supervised,
            bits=config.quantization_bit,
            double=config.double_quantization,
            width=width or (4 if config.precision == "fp32" else 2),
            rank=config.lora_rank,
            targets=LINEAR if list(config.lora_target) == ["all"] else tuple(config.lora_target),
            dropout=config.lora_dropout > 0,
            dora=config.use_dora,
            whole=tuple(config.additional_target),
            optimizer_bits=8 if "8bit" in config.optim else 32,
            checkpointing=config.gradient_checkpointing == "true",
            kernels=config.kernels == "auto" if kernels is None else kernels,
        )

    def over(self, tokens: int) -> Method:
        """The same with a longest row of so many tokens."""
        return replace(self, tokens=tokens)

    def recomputing(self) -> Method:
        """The same with gradient checkpointing."""
        return replace(self, checkpointing=True)


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes, part by part; ``embedding``, ``linear`` and ``constants`` are the weights."""

    embedding: int
    linear: int
    constants: int
    adapter: int
    optimizer: int
    activations: int
    logits: int
    workspace: int
    context: int = CONTEXT
    gathered: int = 0

    @property
    def weights(self) -> int:
        return self.embedding + self.linear + self.constants

    @property
    def total(self) -> int:
        return sum(getattr(self, f.name) for f in fields(self))


def estimate(shape: Shape, method: Method) -> Memory:
    """The parts of a LoRA or QLoRA run on one GPU."""
    trained = _trained(shape, method)
    copies = 0 if method.width == 4 else 2 * method.width
    linear, constants = quantized(shape, method)
    # cos and sin of the positions are computed again from two small tables.
    small = (shape.small * method.width) + 4 * shape.head_dim
    learned = method.tokens if method.supervised is None else method.supervised
    chunk = min(learned, max(64, (CHUNK_BYTES // method.width if method.kernels else CHUNK_LOGITS) // shape.vocab))
    logit = method.width if method.kernels else 4 + (method.width if method.width < 4 else 0)
    return Memory(
        embedding=shape.embedding * method.width,
        linear=linear + small,
        constants=constants,
        adapter=trained * (8 + copies),
        optimizer=trained * 8 if method.optimizer_bits == 32 else trained * 2 + trained // _OUTER * 8,
        activations=activations(shape, method),
        logits=chunk * shape.vocab * logit,
        workspace=3 * method.tokens * shape.ffn * method.width
        + (shape.hidden * shape.ffn * method.width if method.bits else 0),
    )


def variants(shape: Shape, config: Config, tokens: int) -> dict[str, Memory]:
    """The config's run in 16 bits (or 32, if it says so) and in 4, with and without gradient checkpointing."""
    own = Method.of(config, tokens)
    wide = "32 bits" if own.width == 4 else "16 bits"
    return {
        f"{name}{', checkpointing' if checkpointing else ''}": estimate(
            shape, replace(own, bits=bits, checkpointing=checkpointing)
        )
        for name, bits in ((wide, None), ("4 bits", 4))
        for checkpointing in (False, True)
    }


def activations(shape: Shape, method: Method) -> int:
    """What autograd keeps of one row for its backward pass."""
    learned = method.tokens if method.supervised is None else method.supervised
    rotary = 2 * shape.head_dim * method.width
    around = method.tokens * rotary + learned * (shape.hidden * method.width + 8)
    layer = method.tokens * _of_a_token(shape, method)
    if method.checkpointing:
        return shape.layers * method.tokens * shape.hidden * method.width + layer + around
    return shape.layers * layer + around


def full_fine_tuning(shape: Shape) -> int:
    """16-bit weights and gradients, fp32 weights and two moments: 16 bytes per parameter, before any activation."""
    return 16 * shape.parameters


def _of_a_token(shape: Shape, method: Method) -> int:
    """Bytes that a layer keeps of a token.

    A frozen linear layer needs its weights and not its input; the adapter beside it does.
    """
    e, d, f = method.width, shape.hidden, shape.ffn
    h, g = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    sizes = {name: size for name, size in shape.linear().items() if name in method.targets}
    # The norms compute in fp32 and keep what they were given; the outputs of both go into adapters. A kernel keeps its input.
    kept = 2 * e * d if method.kernels else 2 * 4 * d + 2 * 4
    if shape.qk_norm:
        kept += e * (h + g) if method.kernels else 4 * (h + g) + 4 * (shape.heads + shape.kv_heads)
    # Attention: queries, keys, values, its output, and the logarithm of its sum.
    kept += e * (2 * h + 2 * g) + 4 * shape.heads
    # The MLP: gate, its activation (a kernel computes it again), and up.
    kept += e * f * (2 if method.kernels else 3)
    kept += e * method.rank * len(sizes)
    if method.dropout:
        # Each adapter drops for itself: a mask and a copy of its input.
        kept += sum((method.mask_width + e) * inner for _, inner in sizes.values())
    else:
        # Adapters that share an input share the copy.
        kept += e * d * bool({"q_proj", "k_proj", "v_proj"} & set(sizes))
        kept += e * d * bool({"gate_proj", "up_proj"} & set(sizes))
        kept += e * h * ("o_proj" in sizes) + e * f * ("down_proj" in sizes)
    if method.dora:
        kept += sum(3 * e * size[0] for size in sizes.values())
    return kept


def _trained(shape: Shape, method: Method) -> int:
    """Trained values, with the gaps between the matrices."""
    sizes = shape.linear()
    matrices: list[int] = []
    for name in method.targets:
        if name in sizes:
            out, inner = sizes[name]
            matrices += [method.rank * inner, out * method.rank] + [out] * method.dora
        elif name not in ("embed_tokens", "lm_head"):
            raise ConfigError(f"`{name}` is no linear layer of this kind of model", hint=f"it has {', '.join(LINEAR)}")
    a_layer = sum(-(-size // _ALIGN) * _ALIGN for size in matrices)
    return shape.layers * a_layer + len(method.whole) * shape.vocab * shape.hidden


def quantized(shape: Shape, method: Method) -> tuple[int, int]:
    """Bytes of the linear layers, and of the constants that their quantization needs."""
    if method.bits is None:
        return shape.body * method.width, 0
    if method.bits == 8:
        # LLM.int8(): a scale a row.
        return shape.body, 4 * shape.layers * sum(out for out, _ in shape.linear().values())
    constants = 0
    for size in map(prod, shape.linear().values()):
        blocks = -(-size // _BLOCK)
        code = 16 * 4
        if method.double:
            # 8-bit scales, their own scales and code book, and the mean that was taken off.
            constants += blocks + -(-blocks // _OUTER) * 4 + 256 * 4 + 4 + code
        else:
            constants += blocks * 4 + code
    return shape.body // 2, shape.layers * constants
