"""A model's answers to every row of a data file, in batches: what it says where the data has an answer already.

A row's prompt is what training saw before the row's last answer, token by token: the row is prepared with the adapter's own
template, and cut where its last answer begins.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer as Decoder
from torch import nn

from qlora_fast import atomic_io
from qlora_fast.chat.session import Sampling
from qlora_fast.data.dataset import PreparedDataset
from qlora_fast.data.tokenizer import Tokenizer
from qlora_fast.errors import ArtifactError, ConfigError


@dataclass(frozen=True, slots=True)
class Question:
    """One row: its place in the data, the prompt's token ids, and the answer that the data has."""

    file: str
    row: int
    line: int
    ids: list[int]
    reference: str


@dataclass(frozen=True, slots=True)
class Answer:
    """One line of the output.

    Attributes:
        file, row, line: the row in the data; rows count from 0, lines from 1.
        prompt: the rendered prompt. reference: the data's answer. answer: the model's.
        tokens: of the model's answer. stopped: ``stop``, ``length``, or ``too_long`` where the prompt alone is longer
            than the model reads.
    """

    file: str
    row: int
    line: int
    prompt: str
    reference: str
    answer: str
    tokens: int
    stopped: str


def questions(dataset: PreparedDataset, indices: Sequence[int], tokenizer: Tokenizer) -> list[Question]:
    """The rows of a dataset that was prepared with ``mask_history``: only the last answer is supervised."""
    decoder, stops = Decoder.from_file(tokenizer.file), set(tokenizer.encoder().stop_ids())
    found = []
    for index in indices:
        ids, (first, *rest) = dataset.ids(index).tolist(), dataset.spans(index).tolist()
        answer = [i for i in ids[first[0] : (rest[-1] if rest else first)[1]] if i not in stops]
        origin = dataset.origin(index)
        reference = decoder.decode(answer, skip_special_tokens=False).strip()
        found.append(Question(origin.file, origin.row, origin.line, ids[: first[0]], reference))
    return found


def answer_all(
    model: nn.Module,
    tokenizer: Tokenizer,
    asked: Sequence[Question],
    out: Path,
    sampling: Sampling,
    *,
    identity: dict[str, Any],
    limit: int | None = None,
    batch_size: int = 8,
    seed: int = 0,
    on_answer: Callable[[int, int], None] = lambda *_: None,
) -> list[Answer]:
    """Answer every question and write ``out`` as JSONL, in the order of the questions.

    What is done stands in ``.NAME.part`` beside ``out`` until all is; a later call with the same ``identity`` continues there,
    with the batches and the random numbers that it would have had.

    Args:
        identity: what the answers depend on: model, adapter, data, sampling.
        limit: the model's positions, prompt and answer together.
        on_answer: called with (questions answered, questions).

    Raises:
        ArtifactError: ``out`` exists.
    """
    if out.exists():
        raise ArtifactError(f"`{out}` exists already", hint="name another file with -o, or remove it")
    part = out.with_name(f".{out.name}.part")
    done = _continued(part, identity)
    decoder, stops = Decoder.from_file(tokenizer.file), list(tokenizer.encoder().stop_ids())
    # Prompts of similar length share a batch; the longest come first, so that memory that does not suffice shows at once.
    order = sorted(asked, key=lambda q: -len(q.ids))
    with part.open("a", encoding="utf-8") as file:
        for start in range(0, len(order), batch_size):
            batch = order[start : start + batch_size]
            if all((q.file, q.row) in done for q in batch):
                continue
            torch.manual_seed(seed + start)
            for answer in _batch(model, batch, sampling, stops, limit, decoder):
                done[answer.file, answer.row] = answer
                file.write(_line(asdict(answer)))
            file.flush()
            on_answer(len(done), len(asked))
    answers = [done[q.file, q.row] for q in asked]
    atomic_io.write_text(out, "".join(_line(asdict(answer)) for answer in answers))
    part.unlink()
    return answers


def _continued(part: Path, identity: dict[str, Any]) -> dict[tuple[str, int], Answer]:
    """What an interrupted call left, if it answered the same questions in the same way; otherwise a new file is begun."""
    head = _line(identity)
    lines = part.read_text(encoding="utf-8").splitlines(keepends=True) if part.is_file() else []
    kept: dict[tuple[str, int], Answer] = {}
    if lines and lines[0] == head:
        for text in lines[1:]:
            if not text.endswith("\n"):
                break  # the process was killed while it wrote this line
            answer = Answer(**json.loads(text))
            kept[answer.file, answer.row] = answer
    atomic_io.write_text(part, head + "".join(_line(asdict(answer)) for answer in kept.values()))
    return kept


@torch.no_grad()
def _batch(
    model: nn.Module,
    asked: Sequence[Question],
    sampling: Sampling,
    stops: Sequence[int],
    limit: int | None,
    decoder: Decoder,
) -> Iterator[Answer]:
    def answer(question: Question, ids: Sequence[int], stopped: str) -> Answer:
        said = decoder.decode(list(ids), skip_special_tokens=False).strip()
        prompt = decoder.decode(question.ids, skip_special_tokens=False)
        return Answer(question.file, question.row, question.line, prompt, question.reference, said, len(ids), stopped)

    readable = [q for q in asked if limit is None or len(q.ids) < limit]
    yield from (answer(q, [], "too_long") for q in asked if q not in readable)
    if not readable:
        return
    longest = max(len(q.ids) for q in readable)
    room = sampling.max_new_tokens if limit is None else min(sampling.max_new_tokens, limit - longest)
    device = next(model.parameters()).device
    # Padded on the left: every prompt ends where its answer begins.
    ids = torch.full((len(readable), longest), stops[0], dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, question in enumerate(readable):
        ids[row, longest - len(question.ids) :] = torch.tensor(question.ids)
        mask[row, longest - len(question.ids) :] = 1
    made = model.generate(  # type: ignore[operator]
        input_ids=ids.to(device), attention_mask=mask.to(device), generation_config=_generation(sampling, stops, room)
    )
    for question, row in zip(readable, made[:, longest:].tolist(), strict=True):
        end = next((i for i, token in enumerate(row) if token in stops), None)
        yield answer(question, row if end is None else row[:end], "length" if end is None else "stop")


def _generation(sampling: Sampling, stops: Sequence[int], room: int) -> Any:
    """All settings of the generation; those of the model's generation_config.json would change the answers."""
    from transformers import GenerationConfig

    if not stops:
        raise ConfigError("the template has no stop token, so no answer would end", hint="name another `template`")
    chosen = {"do_sample": True, "temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": 0}
    return GenerationConfig(
        max_new_tokens=room,
        eos_token_id=list(stops),
        pad_token_id=stops[0],
        **(chosen if sampling.temperature > 0 else {"do_sample": False}),
    )


def _line(content: dict[str, Any]) -> str:
    return json.dumps(content, ensure_ascii=False) + "\n"
