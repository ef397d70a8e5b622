"""The typed face of the Rust core (`make lint` checks it against the built module)."""

from collections.abc import Callable, Sequence
from os import PathLike
from typing import Final, Literal, final

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "BUILD_PROFILE",
    "ChatEncoder",
    "EpochPlan",
    "Tokenizer",
    "__version__",
    "compare_templates",
    "detect_template",
    "fingerprint",
    "look",
    "merge",
    "mix",
    "pack",
    "packing_lower_bound",
    "padding",
    "plan_epoch",
    "prepare",
    "prepare_share",
    "report_names",
    "review",
    "split",
    "template_keys",
    "template_problems",
    "templates",
    "written_template",
]

__version__: Final[str]
BUILD_PROFILE: Final[Literal["release", "debug"]]

def prepare(options: str, progress: Callable[[str, int, int], object] | None = None) -> str: ...
def prepare_share(
    options: str, number: int, count: int, progress: Callable[[str, int, int], object] | None = None
) -> str: ...
def merge(options: str, progress: Callable[[str, int, int], object] | None = None) -> str: ...
def fingerprint(options: str) -> str: ...
def look(
    options: str, file: int, rows: Sequence[int], progress: Callable[[str, int, int], object] | None = None
) -> str: ...
def templates() -> list[str]: ...
def template_keys() -> list[str]: ...
def written_template(name: str) -> str | None: ...
def template_problems(template: str) -> list[tuple[str, str]]: ...
def compare_templates(
    template: str, chat_template: str, bos_token: str | None, eos_token: str | None, tokenizer: str
) -> list[str]: ...
def detect_template(chat_template: str, bos_token: str | None, eos_token: str | None) -> str | None: ...

@final
class Tokenizer:
    """Text → ids. A text never gives a control token, whatever it says."""

    def __new__(cls, path: str, *, engine: str = "auto") -> Tokenizer: ...
    @property
    def engine(self) -> str: ...
    @property
    def reason(self) -> str | None:
        """Why a slower engine runs, if one does."""

    def encode_batch(self, texts: Sequence[str], *, threads: int = 0) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
        """All ids concatenated, and ``[len(texts) + 1]`` offsets; 0 threads are all cores."""

@final
class ChatEncoder:
    def __new__(
        cls,
        tokenizer: str,
        template: str,
        *,
        engine: str = "auto",
        default_system: str | None = None,
        bos_token: str | None = None,
        eos_token: str | None = None,
    ) -> ChatEncoder: ...
    @property
    def engine(self) -> str: ...
    def encode(
        self, conversation: str, *, add_generation_prompt: bool = False, enable_thinking: bool = False
    ) -> tuple[NDArray[np.int32], NDArray[np.int32]]: ...
    def segments(
        self, conversation: str, *, add_generation_prompt: bool = False, enable_thinking: bool = False
    ) -> list[tuple[str, str, bool]]: ...
    def encode_text(self, text: str) -> list[int]: ...
    def stop_ids(self) -> list[int]: ...

@final
class EpochPlan:
    @property
    def sample_ids(self) -> NDArray[np.int64]: ...
    @property
    def row_offsets(self) -> NDArray[np.int64]: ...
    @property
    def update_offsets(self) -> NDArray[np.int64]: ...
    @property
    def supervised(self) -> NDArray[np.int64]: ...
    @property
    def tokens(self) -> NDArray[np.int64]: ...
    @property
    def digest(self) -> str: ...

def plan_epoch(
    lengths: NDArray[np.uint32],
    supervised: NDArray[np.uint32],
    *,
    packing: str,
    samples_per_update: int,
    micro_batch_size: int,
    max_tokens_per_row: int,
    rows_per_update: int,
    world_size: int,
    seed: int,
    epoch: int,
) -> EpochPlan: ...
def split(
    rows: int, val_size: float, seed: int, groups: NDArray[np.int64] | None = None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]: ...
def mix(sizes: list[int], weights: list[float], strategy: str, seed: int) -> list[NDArray[np.int64]]: ...
def pack(lengths: NDArray[np.uint32], capacity: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]: ...
def packing_lower_bound(lengths: NDArray[np.uint32], capacity: int) -> int: ...
def padding(lengths: NDArray[np.uint32], supervised: NDArray[np.uint32], options: str) -> str: ...
def review(folder: str | PathLike[str], options: str) -> str: ...
def report_names() -> tuple[list[str], list[str], list[str]]: ...
