"""``qlora-fast chat``: talk to an adapter, to several in turn, or to a base model."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import click

from qlora_fast.cli import console

if TYPE_CHECKING:
    from qlora_fast.chat.commands import Chat


@click.command("chat", short_help="Talk to an adapter.")
@click.argument("names", metavar="RUN|ADAPTER|MODEL...", nargs=-1, required=True)
@click.option(
    "--prompt",
    "prompts",
    multiple=True,
    help="Ask this and exit; may be given again, each by itself. `-`: all of stdin.",
)
@click.option("--system", help="System prompt instead of the template's own.")
@click.option(
    "--temperature", type=click.FloatRange(min=0), default=0.0, show_default=True, help="0: the likeliest token."
)
@click.option("--top-p", type=click.FloatRange(0, 1, min_open=True), default=1.0, show_default=True,
              help="Choose among the likeliest tokens that make up this share.")  # fmt: skip
@click.option("--max-new-tokens", type=click.IntRange(min=1), default=256, show_default=True, help="Longest answer.")
@click.option("--thinking/--no-thinking", default=False, help="Let a thinking model think.")
@click.option("--seed", type=int, default=0, show_default=True, help="Equal seeds give equal answers.")
@click.option(
    "--quantization-bit", "bits", type=click.Choice(["4", "8"]), help="Load the base quantized, as QLoRA did."
)
@click.option("--base", help="Base model, if it is no longer where it was at training.")
@click.option("--json", "as_json", is_flag=True, help="Answers as JSON on stdout; with --prompt or piped questions.")
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
    as_json: bool,
) -> None:
    """Talk to the adapter of a run; the template stored with it is used. A base model's name works as well.

    \b
    qlora-fast chat runs/base
    qlora-fast chat saves/exp2 saves/exp4                 /adapter exp4 lets the other one speak
    qlora-fast chat runs/base --prompt "Who are you?"     of several adapters each answers
    qlora-fast chat runs/base --json < questions.txt      one question a line, each by itself
    qlora-fast chat smollm2-135m-instruct

    In the chat: /adapter /again /clear /system /set /help /exit. Ctrl-C stops an answer, Ctrl-D ends the chat.
    """
    asked: Iterable[str] | None = None
    if prompts:
        asked = [console.read_all() if prompt == "-" else prompt for prompt in prompts]
    elif not console.input_is_terminal():
        asked = [line for line in console.read_all().splitlines() if line.strip()]
    elif as_json:
        raise click.UsageError("--json needs --prompt, or questions on stdin")

    with console.progress(waiting=f"loading {', '.join(names)}"):
        from qlora_fast.chat.commands import open_chat
        from qlora_fast.chat.session import Sampling

        sampling = Sampling(temperature, top_p, max_new_tokens)
        chat = open_chat(
            names, base=base, thinking=thinking, sampling=sampling, bits=None if bits is None else int(bits), seed=seed
        )
    chat.system = system
    if asked is not None:
        _one_by_one(chat, list(asked), as_json)
    else:
        chat.clear()
        _talk(chat)


def _one_by_one(chat: Chat, questions: list[str], as_json: bool) -> None:
    """Each question in a conversation of its own, from the same seed: no answer depends on the others. Of several adapters
    each answers."""
    from qlora_fast.chat.commands import BASE

    answers: list[dict[str, Any]] = []
    adapters = [name for name in chat.speakers if name != BASE] or [BASE]
    for question, adapter in itertools.product(questions, adapters):
        chat.use(adapter)
        chat.clear()
        if as_json:
            started = time.perf_counter()
            text = "".join(chat.session.reply(question, chat.sampling))
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


def _talk(chat: Chat) -> None:
    """Until Ctrl-D or /exit. Nothing that goes wrong with one turn ends the chat."""
    from qlora_fast.errors import QloraFastError

    others = [name for name in chat.speakers if name != chat.speaker]
    console.note(f"{chat.speaker} speaks; /adapter has also {', '.join(others)}" if others else chat.speaker)
    console.note("/help shows the commands; Ctrl-C stops an answer, Ctrl-D ends the chat\n")
    while True:
        try:
            line = console.ask(f"{chat.speaker}> " if len(chat.speakers) > 2 else "you> ")
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
                if shown:
                    console.note(shown)
            if question is not None:
                _say(chat, chat.ask(question))
        except EOFError:
            return
        except KeyboardInterrupt:
            console.out()
            console.note("(stopped)")
        except QloraFastError as error:
            console.fail(error)


def _say(chat: Chat, question: str) -> None:
    for piece in chat.session.reply(question, chat.sampling):
        console.out_piece(piece)
    console.out()
    if chat.session.stopped == "length":
        console.note(f"(cut after {chat.session.generated} tokens: --max-new-tokens)")
