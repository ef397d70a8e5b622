"""``qlora-fast chat``: chat with an adapter, with several in turn, or with a base model."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import click

from qlora_fast.cli import console, progress
from qlora_fast.cli.arguments import Place, verify_option

if TYPE_CHECKING:
    from qlora_fast.chat.commands import Chat
    from qlora_fast.hub.manifest import Verify


@click.command("chat", short_help="Chat with an adapter.")
@click.argument("names", type=Place(), metavar="RUN|CHECKPOINT|ADAPTER|MODEL...", nargs=-1, required=True)
@click.option(
    "--prompt",
    "prompts",
    multiple=True,
    help="Ask this and exit; may be repeated, each in its own conversation. `-`: all of stdin.",
)
@click.option("--system", help="System prompt instead of the one of the training.")
@click.option(
    "--temperature", type=click.FloatRange(min=0), default=0.0, show_default=True, help="0: the most likely token."
)
@click.option("--top-p", type=click.FloatRange(0, 1, min_open=True), default=1.0, show_default=True,
              help="Choose among the most likely tokens whose probabilities sum to this.")  # fmt: skip
@click.option(
    "--max-new-tokens", type=click.IntRange(min=1), default=256, show_default=True, help="Tokens of an answer, at most."
)
@click.option("--thinking/--no-thinking", default=False, help="Let a thinking model think.")
@click.option("--seed", type=int, default=0, show_default=True, help="Equal seeds give equal answers.")
@click.option(
    "--quantization-bit", "bits", type=click.Choice(["4", "8"]), help="Load the base model quantized, as QLoRA does."
)
@click.option("--base", metavar="MODEL", type=Place(), help="Base model, if it is no longer where it was at training.")
@verify_option
@click.option(
    "--json", "as_json", is_flag=True, help="Print answers as JSON on stdout; needs --prompt or piped questions."
)
def command(
    names: tuple[str, ...],
    prompts: tuple[str, ...],
    system: str | None,
    temperature: float,
    top_p: float,
    max_new_tokens: int,
    thinking: bool,
    seed: int,
    bits: str | None,
    base: str | None,
    verify: Verify | None,
    as_json: bool,
) -> None:
    """Chat with the adapter of a run, of a checkpoint, or of another program, or with a base model. The chat template that
    the adapter was trained with is used.

    \b
    qlora-fast chat runs/base
    qlora-fast chat runs/base/checkpoint-40
    qlora-fast chat saves/exp2 saves/exp4                 /adapter exp4 switches to the other one
    qlora-fast chat runs/base --prompt "Who are you?"     with several adapters, each answers
    qlora-fast chat runs/base --json < questions.txt      one question per line, each in its own conversation
    qlora-fast chat smollm2-135m-instruct

    In the chat: /adapter /again /clear /system /set /help /exit. Ctrl-C stops an answer, Ctrl-D ends the chat.
    """
    asked: Iterable[str] | None = None
    if prompts:
        asked = [console.read_input() if prompt == "-" else prompt for prompt in prompts]
    elif not console.input_is_terminal():
        asked = [line for line in console.read_input().splitlines() if line.strip()]
    elif as_json:
        raise click.UsageError("--json needs --prompt, or questions on stdin")

    with progress.shown(waiting=f"loading {', '.join(names)}"):
        from qlora_fast.chat.commands import open_chat
        from qlora_fast.chat.session import Sampling

        sampling = Sampling(temperature, top_p, max_new_tokens)
        chat = open_chat(
            names,
            base=base,
            system=system,
            thinking=thinking,
            sampling=sampling,
            bits=None if bits is None else int(bits),
            seed=seed,
            verify=verify,
        )
    if asked is not None:
        _answer_each(chat, list(asked), as_json)
    else:
        _converse(chat)


def _answer_each(chat: Chat, questions: list[str], as_json: bool) -> None:
    """Each question in its own conversation, from the same seed: no answer depends on another. Each adapter answers."""
    from qlora_fast.chat.commands import BASE

    answers: list[dict[str, Any]] = []
    adapters = [name for name in chat.adapters if name != BASE] or [BASE]
    for question, adapter in itertools.product(questions, adapters):
        chat.use(adapter)
        chat.clear()
        if as_json:
            started = time.perf_counter()
            text = "".join(chat.ask(question))
            answers.append(
                {
                    "prompt": question,
                    "adapter": adapter,
                    "answer": text,
                    "tokens": chat.session.generated,
                    "stopped": chat.session.stopped,
                    "seconds": round(time.perf_counter() - started, 3),
                }
            )
            continue
        if len(questions) > 1 and adapter == adapters[0]:
            console.out(f"> {question}")
        if len(adapters) > 1:
            console.out_piece(f"{adapter}> ")
        _say(chat, question)
    if as_json:
        sampling = chat.sampling
        console.out_json(
            {
                "adapter": ", ".join(adapters),
                "system": chat.system,
                "temperature": sampling.temperature,
                "top_p": sampling.top_p,
                "max_new_tokens": sampling.max_new_tokens,
                "seed": chat.seed,
                "answers": answers,
            }
        )


def _converse(chat: Chat) -> None:
    """Until Ctrl-D or /exit. An error in one turn does not end the chat."""
    from qlora_fast.errors import QloraFastError

    others = [name for name in chat.adapters if name != chat.active]
    console.note(f"{chat.active} is active; /adapter also has {', '.join(others)}" if others else chat.active)
    console.note("/help lists the commands; Ctrl-C stops an answer, Ctrl-D ends the chat\n")
    while True:
        try:
            line = console.ask(f"{chat.active}> " if len(chat.adapters) > 2 else "you> ")
        except EOFError:
            console.note("")
            return
        except KeyboardInterrupt:
            console.note("\n(Ctrl-D or /exit ends the chat)")
            continue
        if not line.strip():
            continue
        try:
            question: str | None = line
            if line.startswith("/"):
                shown, question = chat.command(line)
                for part in shown.splitlines():
                    console.note(part)
            if question is not None:
                _say(chat, question)
        except EOFError:
            return
        except KeyboardInterrupt:
            console.out()
            console.note("(stopped)")
        except QloraFastError as error:
            console.fail(error)


def _say(chat: Chat, question: str) -> None:
    for piece in chat.ask(question):
        console.out_piece(piece)
    console.out()
    if chat.session.stopped == "length":
        console.note(f"(stopped after {chat.session.generated} tokens, the limit of --max-new-tokens)")
