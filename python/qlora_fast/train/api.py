"""``qlora_fast.train`` and ``qlora_fast.evaluate``: training and evaluation as calls from Python."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from qlora_fast.config import Config, load, of
from qlora_fast.errors import ConfigError


def train(
    config: Config | str | Path | None = None,
    *,
    on_log: Callable[[dict[str, float]], None] | None = None,
    **settings: Any,
) -> dict[str, Any]:
    """Train a LoRA or QLoRA adapter: what ``qlora-fast train`` does.

    Args:
        config: a YAML file, or a :class:`Config`; None to take everything from ``settings``.
        on_log: called with each log entry: ``step``, ``epoch``, and ``loss``, ``learning_rate``, ``grad_norm``,
            ``tokens_per_second`` or, of an evaluation, ``eval_loss`` and ``perplexity``.
        settings: config keys; they override those of a file.

    Returns:
        What ``all_results.json`` in ``output_dir`` holds: ``train_loss`` (mean cross-entropy of a supervised token, in
        nats), ``train_steps`` (optimizer steps), ``train_runtime`` (seconds), ``eval_loss`` and ``perplexity`` if there
        was an evaluation, ``memory`` (bytes), ``ended`` (why the run ended), and more.

    Raises:
        ConfigError: a setting is unknown, out of its limits or contradicts another one; all problems at once.
        DataError, TokenizerError: data or tokenizer cannot be used.
        ArtifactError: ``output_dir`` holds another run, or a checkpoint is damaged.
        TrainingError: the loss is not finite, or memory does not suffice.
        Interrupted: a signal came; a checkpoint was written.

    Example:
        >>> results = qlora_fast.train(
        ...     dataset="data.json", model_name_or_path="models/tiny", output_dir="runs/doc", max_steps=2
        ... )
        >>> results["train_steps"]
        2
    """
    from qlora_fast.train import run

    if isinstance(config, Config):
        if settings:
            raise ConfigError(
                "settings are given beside a Config",
                hint="give them to Config, or name the YAML file instead of the Config",
            )
        chosen = config
    else:
        chosen = of(**settings) if config is None else load(config, settings).config
    return run.train(chosen, run.Watch() if on_log is None else run.Watch(on_log=on_log))


def evaluate(
    run: str | Path,
    dataset: str | Path | Sequence[str | Path] | None = None,
    *,
    base: bool = False,
    name: str | None = None,
    **settings: Any,
) -> dict[str, Any]:
    """Evaluate an adapter, or a base model: what ``qlora-fast evaluate`` does.

    Args:
        run: a run's folder, ``best``, ``last`` or a checkpoint in it, an adapter's folder, or a base model's name.
        dataset: files to evaluate on; None for the samples that the run held out.
        base: evaluate the base model without the adapter.
        name: of this evaluation, for ``qlora-fast compare --on``; default: the name of the first file.
        settings: config keys that override those of the run, such as ``per_device_eval_batch_size``.

    Returns:
        ``eval_loss`` (mean cross-entropy of a supervised token, in nats), ``perplexity``, ``eval_accuracy`` (share of
        supervised tokens that were the most likely one), ``eval_samples``, ``eval_tokens``, ``eval_runtime`` (seconds), and
        more. The scores of each sample are in ``eval_samples.jsonl`` in the run's folder, or in ``eval/NAME`` there.

    Raises:
        ArtifactError: no such run, or its data has changed.
        ConfigError: no samples to evaluate on.
        TokenizerError: the base model has another tokenizer than the one that the adapter was trained with.

    Example:
        >>> results = qlora_fast.evaluate("runs/mine", "test.json")
        >>> results["perplexity"] > 1
        True
    """
    from qlora_fast.train import evaluate_run

    given = [dataset] if isinstance(dataset, str | Path) else dataset
    files = None if given is None else [str(file) for file in given]
    subject = evaluate_run.subject_of(str(run), base_only=base, settings=settings)
    return evaluate_run.score(subject, data=files, name=name).results
