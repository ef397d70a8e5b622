"""``qlora-fast chat``: talk to an adapter, or to a base model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from qlora_fast.cli import console

if TYPE_CHECKING:
    from qlora_fast.generate import ChatSession, Sampling


@click.command("chat", short_help="Talk to an adapter.")
@click.argument("run_or_adapter", metavar="RUN_OR_ADAPTER")
@click.option("--prompt", "prompts", multiple=True, help="Ask this and exit; may be given again, each by itself.")
@click.option("--system", help="System prompt instead of the template's own.")
@click.option(
    "--temperature", type=click.FloatRange(min=0), default=0.0, show_default=True, help="0: the likeliest token."
)
@click.option("--top-p", type=click.FloatRange(0, 1, min_open=True), default=1.0, show_default=True)
@click.option("--max-new-tokens", type=click.IntRange(min=1), default=256, show_default=True)
@click.option("--thinking/--no-thinking", default=False, help="Let a thinking model think.")
@click.option("--base", help="Base model, if it is no longer where it was at training.")
def command(
    run_or_adapter: str,
    prompts: tuple[str, ...],
    system: str | None,
    temperature: float,
    top_p: float,
    max_new_tokens: int,
    thinking: bool,
    base: str | None,
) -> None:
    """Talk to the adapter of a run; the template stored with it is used. A base model's name works as well.

    \b
    qlora-fast chat runs/base
    qlora-fast chat runs/base --prompt "Who are you?"
    qlora-fast chat smollm2-135m-instruct --prompt "Who are you?"
    """
    session, sampling = _session(run_or_adapter, base, thinking, temperature, top_p, max_new_tokens)
    first = [{"role": "system", "content": system}] if system is not None else []
    if prompts:
        for prompt in prompts:
            session.turns = list(first)  # type: ignore[arg-type]
            if len(prompts) > 1:
                console.out(f"> {prompt}")
            _print_reply(session, prompt, sampling)
        return
    session.turns = list(first)  # type: ignore[arg-type]
    console.note("/clear forgets the conversation, /exit or Ctrl-D ends it\n")
    while True:
        try:
            text = click.prompt("you", prompt_suffix="> ", err=True)
        except click.Abort:
            console.note("")
            return
        if text.strip() in ("/exit", "/quit"):
            return
        if text.strip() == "/clear":
            session.turns = list(first)  # type: ignore[arg-type]
            continue
        _print_reply(session, text, sampling)


def _session(
    name: str, base: str | None, thinking: bool, temperature: float, top_p: float, max_new_tokens: int
) -> tuple[ChatSession, Sampling]:
    from dataclasses import replace

    import torch

    from qlora_fast import base_model, generate
    from qlora_fast.config import Config
    from qlora_fast.model import pick_device, pick_dtype
    from qlora_fast.preparation import Tokenizer, tokenizer_of

    folder = Path(name)
    adapter = folder if folder.is_dir() and not (folder / "config.json").is_file() else None
    if adapter is not None:
        card = generate.read_card(adapter)
        base = base or card["base_model"]
        tokens = base_model.tokenizer_folder(base)
        generate.check_tokenizer(card, base_model.digest(tokens / "tokenizer.json"), base)
        tokenizer = Tokenizer(tokens, card["template"], card["bos_token"], card["eos_token"], card["default_system"])
    else:
        base = base or name
        tokenizer = tokenizer_of(replace(Config(), model_name_or_path=base))
    device = pick_device()
    torch.manual_seed(0)
    model = generate.load_chat_model(base_model.model_path(base), adapter, pick_dtype("auto", device), device)
    return generate.ChatSession(model, tokenizer, thinking), generate.Sampling(temperature, top_p, max_new_tokens)


def _print_reply(session: ChatSession, text: str, sampling: Sampling) -> None:
    for piece in session.reply(text, sampling):
        console.out_piece(piece)
    console.out()
