"""``qlora_fast generate``: from a run's name and data files to a file of answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from qlora_fast import atomic_io
from qlora_fast.chat.answers import Answer, answer_all, questions
from qlora_fast.chat.session import Sampling, load_chat_model
from qlora_fast.config import Config
from qlora_fast.data import selection
from qlora_fast.data.dataset import PreparedDataset
from qlora_fast.data.prepare import Progress, prepare_config
from qlora_fast.data.tokenizer import Tokenizer
from qlora_fast.errors import ConfigError, DataError
from qlora_fast.hub import resolve as hub
from qlora_fast.hub.manifest import Verify
from qlora_fast.model.load import Quantization, pick_device, pick_dtype
from qlora_fast.runs import layout
from qlora_fast.runs.resolve import target_of

_UNCUT = 1 << 30
"""A cutoff_len that no row reaches: a prompt that is longer than the model reads is reported, not truncated."""
_UNANSWERED = ("empty_answer", "missing_key", "no_answer")
"""Why rows are dropped that are questions alone."""


@dataclass(frozen=True, slots=True)
class Job:
    """What is to be generated.

    Attributes:
        subject: a run, a checkpoint or adapter in it, another adapter, or a base model.
        data: files; empty for the rows that the run held out.
        out: the JSONL to write.
        base: another place of the base model.
        verify: what is verified of the adapter and of a merged model; default what the run says.
    """

    subject: str
    data: list[str]
    out: Path
    sampling: Sampling = field(default_factory=Sampling)
    batch_size: int = 8
    max_samples: int | None = None
    seed: int = 0
    base: str | None = None
    verify: Verify | None = None


def generate(
    job: Job,
    *,
    on_prepare: Progress | None = None,
    on_answer: Callable[[int, int], None] = lambda *_: None,
) -> list[Answer]:
    """Answer every row and write ``job.out``; a call that was interrupted continues where it was.

    Raises:
        QloraFastError: the subject, its base model or the data cannot be used, or ``job.out`` exists.
    """
    target = target_of(job.subject)
    config = target.config({} if job.base is None else {"model_name_or_path": job.base})
    tokenizer = target.tokenizer(job.base)
    dataset, indices = _rows(config, tokenizer, job, on_prepare)
    indices = indices[: job.max_samples]
    adapter = None if target.kind == "model" else target.adapter_folder(job.verify)
    identity = {
        "base_model": config.model_name_or_path,
        "adapter": None if adapter is None else atomic_io.sha256_of(adapter / layout.ADAPTER_WEIGHTS),
        "data": dataset.fingerprint,
        "sampling": asdict(job.sampling),
        "batch_size": job.batch_size,
        "seed": job.seed,
    }
    device = pick_device()
    model = load_chat_model(
        hub.model_path(config.model_name_or_path, target.verify_level(job.verify)),
        {} if adapter is None else {"default": adapter},
        pick_dtype(config.precision, device),
        device,
        Quantization.of(config),
    )
    return answer_all(
        model,
        tokenizer,
        questions(dataset, indices, tokenizer),
        job.out,
        job.sampling,
        identity=identity,
        limit=getattr(model.config, "max_position_embeddings", None),
        batch_size=job.batch_size,
        seed=job.seed,
        on_answer=on_answer,
    )


def _rows(
    config: Config, tokenizer: Tokenizer, job: Job, progress: Progress | None
) -> tuple[PreparedDataset, list[int]]:
    """The rows to answer, prepared so that only the last answer of each is supervised and nothing is truncated."""
    whole = replace(config, cutoff_len=_UNCUT, train_on_prompt=False, mask_history=True)
    if job.data:
        try:
            dataset = prepare_config(whole, job.data, tokenizer=tokenizer, progress=progress).reported().open()
        except DataError as error:
            if error.reason in _UNANSWERED:
                error.hint = f"{error.hint}\ngenerate compares the model's answer with the row's; any text will do"
            raise
        return dataset, list(range(len(dataset)))
    held_out = selection.load(config, tokenizer, progress) if config.has_eval else None
    if held_out is None or held_out.evals is None or not len(held_out.eval_ids):
        raise ConfigError(f"`{job.subject}` held nothing out", hint="name a data file to answer")
    # The held-out rows by their places: the run's own preparation may have truncated them.
    places = {(o.file, o.row) for o in (held_out.evals.origin(int(i)) for i in held_out.eval_ids)}
    dataset = prepare_config(whole, config.eval_dataset or None, tokenizer=tokenizer, progress=progress).open()
    kept = [i for i in range(len(dataset)) if (dataset.origin(i).file, dataset.origin(i).row) in places]
    return dataset, kept
