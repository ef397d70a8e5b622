"""Runs side by side, and whether their evaluations differ by more than chance. No torch.

Two runs are compared sample by sample. With d_i = (summed loss of the one − of the other) on sample i and t_i its
supervised tokens, the difference of their eval losses is D = Σd / Σt, a ratio of two sums over samples. The samples, not
the tokens, are what was drawn at random: tokens of one answer are easy or hard together. The standard error is the
jackknife's, √((n−1)/n · Σ((d_i − D·t_i) / (1 − t_i/Σt))²) / Σt, and the interval Student's, with the degrees of freedom of as
many samples of equal length as these are worth ((Σt)²/Σt², Kish 1965): a few long answers are not many samples.

The intervals of a table hold together (Bonferroni): with 95 %, one table in twenty says something false somewhere, not
one of its lines in twenty.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from qlora_fast.runs.eval_samples import Samples

Verdict = Literal["better", "worse", "no difference that this data can show"]
MIN_SAMPLES = 6
"""Below this the interval would depend on the shape of the distribution, which is unknown."""


@dataclass(frozen=True, slots=True)
class Difference:
    """Eval loss of a run minus that of the baseline, with the interval that it lies in; negative is better."""

    mean: float
    low: float
    high: float
    samples: int
    tokens: int

    @property
    def verdict(self) -> Verdict:
        if self.high < 0:
            return "better"
        return "worse" if self.low > 0 else "no difference that this data can show"


@dataclass(frozen=True, slots=True)
class Incomparable:
    """Why two evaluations are not compared."""

    reason: str


def compare(run: Samples, baseline: Samples, *, confidence: float = 0.95) -> Difference | Incomparable:
    """The paired difference of two evaluations of the same samples, whatever their order."""
    ours, theirs = _paired(run, baseline)
    if len(ours) < len(run) or len(ours) < len(baseline):
        return Incomparable(f"evaluated on other samples: {len(ours)} in common of {len(run)} and {len(baseline)}")
    d, t = run.loss[ours] - baseline.loss[theirs], run.tokens[ours].astype(np.float64)
    n, tokens = len(d), float(t.sum())
    if tokens == 0:
        return Incomparable("these samples have no supervised tokens")
    worth = tokens**2 / float((t**2).sum())
    if worth < MIN_SAMPLES:
        return Incomparable(f"{n} samples are too few for an interval (weighted by length they count as {worth:.1f})")
    mean = float(d.sum()) / tokens
    without = (d - mean * t) / (1 - t / tokens)
    error = math.sqrt((n - 1) / n * float((without**2).sum())) / tokens
    reach = student_quantile(0.5 + confidence / 2, worth - 1) * error
    return Difference(mean, mean - reach, mean + reach, n, int(tokens))


def joint_confidence(comparisons: int, confidence: float = 0.95) -> float:
    """What each of several intervals must hold with, so that all of them hold with ``confidence`` (Bonferroni)."""
    return 1 - (1 - confidence) / max(comparisons, 1)


def student_quantile(p: float, degrees: float) -> float:
    """Quantile of Student's t, by the Cornish-Fisher series (Abramowitz and Stegun 26.7.5); good to 1e-2 from 5 degrees."""
    z = NormalDist().inv_cdf(p)
    terms = (
        z,
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return float(sum(term / degrees**k for k, term in enumerate(terms)))


def _paired(run: Samples, baseline: Samples) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Positions of the samples that both have. A sample that occurs twice in both pairs twice."""
    ours, theirs = _places(run.ids), _places(baseline.ids)
    common = [key for key in ours if key in theirs]
    return np.array([ours[k] for k in common], dtype=np.int64), np.array([theirs[k] for k in common], dtype=np.int64)


def _places(ids: Sequence[str]) -> dict[tuple[str, int], int]:
    seen: Counter[str] = Counter()
    places = {}
    for place, key in enumerate(ids):
        places[key, seen[key]] = place
        seen[key] += 1
    return places
