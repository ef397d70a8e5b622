"""How far a run is: all its state besides weights, optimizer and random generators."""

from __future__ import annotations

from dataclasses import dataclass, field

Log = dict[str, float]


@dataclass(slots=True)
class Progress:
    """Where a run stands: everything beside weights, optimizer and random state that a resumed run needs."""

    update: int = 0
    log_history: list[Log] = field(default_factory=list)
    best_metric: float | None = None
    best_update: int | None = None
    evaluations_since_best: int = 0
    window_loss: float = 0.0
    window_tokens: int = 0
    seconds: float = 0.0
