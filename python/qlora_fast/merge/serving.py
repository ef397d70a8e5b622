"""How to serve a merged model: an Ollama Modelfile, and the commands for vLLM, llama.cpp and Ollama.

Ollama has a template language of its own. Ours is not translated rule by rule: the chat template is rendered with marked
contents, with and without a system prompt, and what stands between the marks is the Modelfile's template.
"""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path

from tokenizers import Tokenizer as Decoder

from qlora_fast.data.tokenizer import Tokenizer

_SYSTEM, _PROMPT, _RESPONSE = "QSYSTEMQ", "QPROMPTQ", "QRESPONSEQ"
_VLLM_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)


@dataclass(frozen=True, slots=True)
class OllamaTemplate:
    """One exchange in Ollama's words, and the system prompt that is used when none is given."""

    template: str
    system: str
    stops: list[str]


def ollama_template(tokenizer: Tokenizer) -> OllamaTemplate:
    """Derive Ollama's template from the chat template of the training."""
    plain = replace(tokenizer, default_system="")
    bare = _without_bos(_render(plain, None), tokenizer)
    full = _without_bos(_render(plain, _SYSTEM), tokenizer)
    answered = _render(plain, None, answer=_RESPONSE)
    block_at, block = _inserted(bare, full)
    head, _, tail = block.partition(_SYSTEM)
    before, rest = bare[:block_at], bare[block_at:]
    user, _, generation = rest.partition(_PROMPT)
    template = (
        f"{before}{{{{ if .System }}}}{head}{{{{ .System }}}}{tail}{{{{ end }}}}"
        f"{user}{{{{ .Prompt }}}}{generation}{{{{ .Response }}}}{answered.partition(_RESPONSE)[2]}"
    )
    own_at, own = _inserted(bare, _without_bos(_render(tokenizer, None), tokenizer))
    system = own.removeprefix(head).removesuffix(tail) if own and own_at == block_at else ""
    decoder = Decoder.from_file(tokenizer.file)
    stops = [decoder.id_to_token(i) for i in tokenizer.encoder().stop_ids()]
    return OllamaTemplate(template, system, [stop for stop in stops if stop])


def modelfile(tokenizer: Tokenizer) -> str:
    """A Modelfile that stands in the merged folder: ``ollama create NAME -f Modelfile``."""
    made = ollama_template(tokenizer)
    lines = ["FROM .", f'TEMPLATE """{made.template}"""']
    if made.system:
        lines.append(f'SYSTEM """{made.system}"""')
    lines += [f"PARAMETER stop {json.dumps(stop, ensure_ascii=False)}" for stop in made.stops]
    return "\n".join(lines) + "\n"


def commands(folder: Path, *, dtype: str, max_len: int | None) -> dict[str, list[str]]:
    """What to type to serve the merged model, by server."""
    name, place = folder.resolve().name, shlex.quote(str(folder))
    length = f" --max-model-len {max_len}" if max_len else ""
    full, small = shlex.quote(f"{name}-{dtype}.gguf"), shlex.quote(f"{name}-Q4_K_M.gguf")
    outtype = {"bf16": "bf16", "fp16": "f16", "fp32": "f32"}[dtype]
    return {
        "vLLM": [f"vllm serve {place} --served-model-name {shlex.quote(name)}{length}"],
        "llama.cpp": [
            f"python convert_hf_to_gguf.py {place} --outfile {full} --outtype {outtype}",
            f"llama-quantize {full} {small} Q4_K_M",
            f"llama-server -m {small} --jinja",
        ],
        "Ollama": [
            f"ollama create {shlex.quote(name)} -f {shlex.quote(str(folder / 'Modelfile'))}",
            f"ollama run {shlex.quote(name)}",
        ],
    }


def unmerged_command(base: str, adapter: Path, rank: int) -> str:
    """How vLLM serves the adapter beside its base: several adapters on one base need no merge at all."""
    allowed = next((r for r in _VLLM_RANKS if r >= rank), rank)
    name = adapter.resolve().name
    return (
        f"vllm serve {shlex.quote(base)} --enable-lora --max-lora-rank {allowed} "
        f"--lora-modules {shlex.quote(f'{name}={adapter}')}"
    )


def _render(tokenizer: Tokenizer, system: str | None, answer: str | None = None) -> str:
    turns = [{"role": "system", "content": system}] if system is not None else []
    turns.append({"role": "user", "content": _PROMPT})
    if answer is not None:
        turns.append({"role": "assistant", "content": answer})
    conversation = json.dumps({"messages": turns})
    segments = tokenizer.encoder().segments(conversation, add_generation_prompt=answer is None)
    return "".join(text for _, text, _ in segments)


def _without_bos(text: str, tokenizer: Tokenizer) -> str:
    """The servers put the first token themselves."""
    return text.removeprefix(tokenizer.bos_token) if tokenizer.bos_token else text


def _inserted(bare: str, full: str) -> tuple[int, str]:
    """Where ``full`` has something that ``bare`` has not, and what.

    What was put in may begin as what follows it does; of the places that fit, the leftmost is where a whole turn begins.
    """
    extra = len(full) - len(bare)
    pairs = zip(reversed(bare), reversed(full), strict=False)
    behind = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
    at = len(bare) - behind
    return at, full[at : at + extra]
