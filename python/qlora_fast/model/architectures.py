"""The families of models whose modules compute what our kernels do. No torch at import."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Architecture:
    """The modules of a family that compute what the kernels do, by the names of their classes in transformers.

    Attributes:
        plus_one: whether its norms multiply with 1 + weight.
    """

    norm: str | None = None
    mlp: str | None = None
    attention: str | None = None
    plus_one: bool = False

    @property
    def whole_layers(self) -> bool:
        """Whether nearly everything that a decoder layer computes is ours."""
        return None not in (self.norm, self.mlp, self.attention)


ARCHITECTURES = {
    "llama": Architecture("LlamaRMSNorm", "LlamaMLP", "LlamaAttention"),
    "mistral": Architecture("MistralRMSNorm", "MistralMLP", "MistralAttention"),
    "qwen2": Architecture("Qwen2RMSNorm", "Qwen2MLP", "Qwen2Attention"),
    "qwen3": Architecture("Qwen3RMSNorm", "Qwen3MLP", "Qwen3Attention"),
    "smollm3": Architecture("SmolLM3RMSNorm", "SmolLM3MLP", "SmolLM3Attention"),
    "gemma3": Architecture(norm="Gemma3RMSNorm", plus_one=True),
}
"""By the name of the family's module in transformers. SmolLM and SmolLM2 are Llama; Qwen2.5 is Qwen2."""
