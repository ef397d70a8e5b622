"""A written chat template as Jinja, so that a model can be served with the template that it was trained with.

Servers (vLLM, llama.cpp, transformers) read the chat template of a model's folder. Where a model was trained with another one
than its own, that one has to be in the folder. What is written here is compared with the core's rendering on its probe
conversations before it is used: see :func:`trained_template`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from qlora_fast.data import templates
from qlora_fast.data.tokenizer import Tokenizer, own_template

_SPECIAL = ("tools", "thoughts", "prompt, thinking")
"""Probes of what a template may leave out: everything else must be rendered equally."""


@dataclass(frozen=True, slots=True)
class Trained:
    """The chat template that a model was trained with.

    Attributes:
        text: the Jinja to write; None where the model's own renders the same.
        own: the model's own; None if it has none.
        lacks: what of tools and thoughts is rendered otherwise than in training, by the name of the probe.
        problem: why it cannot be written.
    """

    text: str | None
    own: str | None
    lacks: tuple[str, ...] = ()
    problem: str | None = None


def trained_template(tokenizer: Tokenizer) -> Trained:
    """The template of a training, for the files of the model.

    Raises:
        TokenizerError: the tokenizer's files cannot be read.
    """
    own = own_template(str(tokenizer.folder))
    name = templates.name_of(tokenizer.template)
    if own.chat_template is not None and tokenizer.default_system is None:
        if tokenizer.template == templates.jinja(own.chat_template):
            return Trained(None, own.chat_template)
        if all(probe["agrees"] or probe["refused"] for probe in templates.compare(tokenizer.template, own)):
            return Trained(None, own.chat_template)
    text = to_jinja(tokenizer.template, tokenizer.bos_token, tokenizer.eos_token, tokenizer.default_system)
    if tokenizer.default_system is not None:
        return Trained(text, own.chat_template)
    probes = templates.compare(tokenizer.template, replace(own, chat_template=text))
    wrong = [probe["probe"] for probe in probes if not probe["agrees"]]
    if any(probe not in _SPECIAL for probe in wrong):
        return Trained(
            None, own.chat_template, problem=f"`{name}` cannot be written as Jinja: {', '.join(wrong)} differ"
        )
    return Trained(text, own.chat_template, tuple(wrong))


def to_jinja(source: str, bos: str | None, eos: str | None, default_system: str | None = None) -> str:
    """A template as Jinja.

    Args:
        source: a built-in template's name, or a JSON object, as the core takes it.
        bos, eos: the tokenizer's tokens, written out: they may be replaced in the tokenizer's settings.
        default_system: instead of the template's own.
    """
    written = templates.written(source)
    if "jinja" in written:
        return str(written["jinja"])

    def text(part: str) -> str:
        return part.replace("{bos}", bos or "").replace("{eos}", eos or "")

    def frame(part: str, value: str) -> str:
        trim = "{content|trim}" in part
        before, _, after = part.replace("{content|trim}", "{content}").partition("{content}")
        return _sum(text(before), f"({value}) | trim" if trim else value, text(after))

    default = written.get("default_system", "") if default_system is None else default_system
    own_turn = written.get("system_in", "own_turn") == "own_turn"
    qwen_tools = written.get("tools") == "qwen"
    thinks = written.get("thinking") == "qwen3"
    joined = written.get("system_in") == "first_user_content" and "{content|trim}" in written["user"]
    place = "{{%- {} -%}}"

    def put_system(value: str, *, trim: bool = True) -> str:
        written_system = written["system"] if trim else written["system"].replace("{content|trim}", "{content}")
        part = frame(written_system, value) if written_system else "''"
        return f"{{{{- {part} -}}}}" if own_turn else place.format(f"set ns.waiting = ns.waiting + {part}")

    user = written["user"]
    plain_user = user.replace("{content|trim}", "{content}")
    question = frame(plain_user, "(ns.waiting + content) | trim") if joined else _waiting_before(user, text)
    tool = written.get("tool")
    generation = text(written.get("generation_prompt", written["assistant"].split("{content", 1)[0]))
    always = written.get("system_always", False)
    lines = [
        "{%- set ns = namespace(waiting='', query=-1) -%}",
        f"{{{{- {_quoted(text(written.get('begin', '')))} -}}}}" if written.get("begin") else "",
        "{%- if messages[0]['role'] == 'system' -%}",
        "{%- set own = messages[0]['content'] -%}{%- set rest = messages[1:] -%}{%- set given = true -%}",
        "{%- else -%}",
        f"{{%- set own = {_quoted(default)} -%}}{{%- set rest = messages -%}}{{%- set given = false -%}}",
        "{%- endif -%}",
        "{%- if tools -%}",
        *(_tools() if qwen_tools else _tools_as_text()),
        put_system("offer.text", trim=False),
        f"{{%- elif given or own or {str(always).lower()} -%}}",
        put_system("own"),
        "{%- endif -%}",
        *(_last_query() if thinks else []),
        "{%- for message in rest -%}",
        "{%- set content = message['content'] if message['content'] is string else '' -%}",
        "{%- if message['role'] == 'assistant' -%}",
        *([] if own_turn else ["{%- if ns.waiting -%}", _empty_question(user, text), "{%- endif -%}"]),
        *_answer(written["assistant"], text, thinks=thinks),
        f"{{%- if loop.last -%}}{{{{- {_quoted(text(written['end']))} -}}}}{{%- endif -%}}"
        if written.get("end")
        else "",
        "{%- elif message['role'] == 'system' -%}",
        put_system("content"),
        *(_results(user, text) if qwen_tools else _tool_turn(tool, text) if tool else []),
        "{%- else -%}",
        f"{{{{- {question} -}}}}{{%- set ns.waiting = '' -%}}",
        "{%- endif -%}",
        "{%- endfor -%}",
        *([] if own_turn else ["{%- if ns.waiting -%}", _empty_question(user, text), "{%- endif -%}"]),
        "{%- if add_generation_prompt -%}",
        f"{{{{- {_quoted(generation)} -}}}}",
        "{%- if enable_thinking is defined and not enable_thinking -%}{{- '<think>\\n\\n</think>\\n\\n' -}}{%- endif -%}"
        if thinks
        else "",
        "{%- endif -%}",
    ]
    return "\n".join(line for line in lines if line)


def _quoted(text: str) -> str:
    """A string of Jinja."""
    escaped = (
        text.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n").replace("\t", "\\t").replace("\r", "\\r")
    )
    return f"'{escaped}'"


def _sum(before: str, value: str, after: str) -> str:
    return " + ".join(
        part for part in (_quoted(before) if before else "", f"({value})", _quoted(after) if after else "") if part
    )


def _waiting_before(user: str, text: Any) -> str:
    """A question with a system prompt that waits for it, which is not trimmed with it."""
    before, _, after = user.replace("{content|trim}", "{content}").partition("{content}")
    content = "content | trim" if "{content|trim}" in user else "content"
    return _sum(text(before), f"ns.waiting + ({content})", text(after))


def _empty_question(user: str, text: Any) -> str:
    before, _, after = user.replace("{content|trim}", "{content}").partition("{content}")
    return f"{{{{- {_sum(text(before), 'ns.waiting', text(after))} -}}}}{{%- set ns.waiting = '' -%}}"


def _tool_turn(tool: str, text: Any) -> list[str]:
    return [
        "{%- elif message['role'] == 'tool' -%}",
        f"{{{{- {_waiting_before(tool, text)} -}}}}{{%- set ns.waiting = '' -%}}",
    ]


_TOOLS_BEFORE = (
    "# Tools\n\nYou may call one or more functions to assist with the user query.\n\nYou are provided with function "
    "signatures within <tools></tools> XML tags:\n<tools>"
)
_TOOLS_AFTER = (
    "\n</tools>\n\nFor each function call, return a json object with function name and arguments within "
    '<tool_call></tool_call> XML tags:\n<tool_call>\n{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call>'
)


def _tools() -> list[str]:
    """The offer of tools, after the system prompt (Qwen's)."""
    return [
        f"{{%- set offer = namespace(text=(own + '\\n\\n' if given or own else '') + {_quoted(_TOOLS_BEFORE)}) -%}}",
        "{%- for tool in tools -%}{%- set offer.text = offer.text + '\\n' + (tool | tojson) -%}{%- endfor -%}",
        f"{{%- set offer.text = offer.text + {_quoted(_TOOLS_AFTER)} -%}}",
    ]


def _tools_as_text() -> list[str]:
    """The offer of tools as JSON, where a template has no form of its own for it."""
    return ["{%- set offer = namespace(text=(own + '\\n\\n' if own else '') + (tools | tojson)) -%}"]


def _last_query() -> list[str]:
    """Thoughts are shown behind the last question only (Qwen3's rule)."""
    return [
        "{%- for message in rest -%}",
        "{%- if message['role'] == 'user' and message['content'] is string and not (message['content'].startswith('<tool_response>') and message['content'].endswith('</tool_response>')) -%}",
        "{%- set ns.query = loop.index0 -%}",
        "{%- endif -%}",
        "{%- endfor -%}",
    ]


def _answer(assistant: str, text: Any, *, thinks: bool) -> list[str]:
    trim = "{content|trim}" in assistant
    before, _, after = assistant.replace("{content|trim}", "{content}").partition("{content}")
    lines = [f"{{{{- {_quoted(text(before))} -}}}}" if before else ""]
    if thinks:
        lines += [
            "{%- set reasoning = '' -%}",
            "{%- if message.reasoning_content is string -%}{%- set reasoning = message.reasoning_content -%}",
            "{%- elif '</think>' in content -%}",
            "{%- set reasoning = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') -%}",
            "{%- set content = content.split('</think>')[-1].lstrip('\\n') -%}",
            "{%- endif -%}",
            "{%- if loop.index0 > ns.query and (loop.last or reasoning) -%}",
            "{{- '<think>\\n' + reasoning.strip('\\n') + '\\n</think>\\n\\n' -}}",
            "{%- set content = content.lstrip('\\n') -%}",
            "{%- endif -%}",
        ]
    lines.append("{{- content | trim -}}" if trim else "{{- content -}}")
    lines += [
        "{%- for call in message.tool_calls or [] -%}",
        "{%- set call = call.function or call -%}",
        "{{- ('\\n<tool_call>\\n' if content or not loop.first else '<tool_call>\\n') -}}",
        '{{- \'{"name": "\' + call.name + \'", "arguments": \' -}}',
        "{{- call.arguments if call.arguments is string else call.arguments | tojson -}}",
        "{{- '}\\n</tool_call>' -}}",
        "{%- endfor -%}",
    ]
    lines.append(f"{{{{- {_quoted(text(after))} -}}}}" if after else "")
    return lines


def _results(user: str, text: Any) -> list[str]:
    """Results of tools, several in one turn of the user (Qwen's)."""
    before, _, after = user.replace("{content|trim}", "{content}").partition("{content}")
    return [
        "{%- elif message['role'] == 'tool' -%}",
        f"{{%- if loop.first or loop.previtem['role'] != 'tool' -%}}{{{{- {_quoted(text(before))} -}}}}{{%- else -%}}{{{{- '\\n' -}}}}{{%- endif -%}}",
        "{{- '<tool_response>\\n' + content + '\\n</tool_response>' -}}",
        f"{{%- if loop.last or loop.nextitem['role'] != 'tool' -%}}{{{{- {_quoted(text(after))} -}}}}{{%- endif -%}}",
    ]
