"""Which chat template a config means: a built-in name, the user's file, or the model's own Jinja.

The core takes a template as one text: the name of a built-in one, or a JSON object. So it fits wherever a name does:
in options, in the card beside an adapter. Nothing here imports torch.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qlora_fast import _core
from qlora_fast.config import yaml
from qlora_fast.errors import ConfigError, TokenizerError
from qlora_fast.hub import untrusted

if TYPE_CHECKING:
    from qlora_fast._core import ProbeReport, WrittenTemplate

YAML_SUFFIXES = (".yaml", ".yml")
JINJA_SUFFIX = ".jinja"


@dataclass(frozen=True, slots=True)
class Own:
    """What a model's tokenizer says of itself."""

    model: str
    tokenizer: Path
    bos_token: str | None
    eos_token: str | None
    chat_template: str | None

    @property
    def prints_date(self) -> bool:
        """Whether its template asks for today's date; a fixed one is used, or every day would give other data."""
        return "strftime_now" in (self.chat_template or "")


@dataclass(frozen=True, slots=True)
class Chosen:
    """A template for the core, and what a report should say of it."""

    source: str
    note: str | None = None


def choose(template: str, own: Own) -> Chosen:
    """The template that ``template`` (a config's value) means for this model.

    Raises:
        TokenizerError: no such template, or none fits the model.
        ConfigError: a template file with mistakes in it.
    """
    if template == "auto":
        return _automatic(own)
    if template == "jinja":
        if own.chat_template is None:
            raise TokenizerError(f"`{own.model}` has no chat template of its own", hint=_name_one())
        return Chosen(jinja(own.chat_template, stop_tokens(own)))
    source = _with_stops(read(template), own)
    probes = [] if own.chat_template is None else compare(source, own)
    differing = [p["probe"] for p in probes if not p["agrees"]]
    if differing and own.chat_template is not None:
        # What `auto` would take is no other template than the model's: tools as plain text are counted row by row.
        same = _core.detect_template(own.chat_template, own.bos_token, own.eos_token)
        differing = [] if same == source else differing
    if not differing:
        return Chosen(source)
    return Chosen(
        source,
        f"template `{template}` differs from the model's own on {len(differing)} of {len(probes)} probes "
        f"({'; '.join(differing)}): see `qlora-fast template check {shlex.quote(str(own.model))} --template {shlex.quote(str(template))}`",
    )


def _automatic(own: Own) -> Chosen:
    if own.chat_template is None:
        raise TokenizerError(f"no template for `{own.model}`: it has no chat template", hint=_name_one())
    found = _core.detect_template(own.chat_template, own.bos_token, own.eos_token)
    if found is not None:
        return Chosen(found)
    # The model's own renders as itself; what has to be proved is that its answers can be found in what it prints.
    source = jinja(own.chat_template, stop_tokens(own))
    try:
        probes = [p for p in compare(source, own) if not p["refused"]]
    except TokenizerError as error:
        problem = f"no template for `{own.model}`: its own cannot be used: {error}"
        raise TokenizerError(problem, hint=_name_one()) from None
    # Tools may go wrong: rows with them are dropped by name then.
    proved = all(p["agrees"] and (p["ours"] is not None or p["probe"] == "tools") for p in probes)
    if not proved or not any(p["probe"] == "one turn" for p in probes):
        raise TokenizerError(
            f"no template for `{own.model}`: none of the built-in templates renders as its own does, and the answers "
            "cannot be distinguished from the rest in what its own template prints",
            hint=_name_one(),
        )
    return Chosen(
        source, "no built-in template renders as the model's own does: its own Jinja is used (template: jinja)"
    )


def _name_one() -> str:
    return f"name the one it was trained with: template=NAME, one of {', '.join(_core.templates())}, or a YAML file"


def jinja(text: str, stops: Sequence[str] = ()) -> str:
    """A model's own template, as the core takes it; ``stops``: tokens at which serving ends an answer."""
    return json.dumps({"jinja": text, **({"stops": list(stops)} if stops else {})}, ensure_ascii=False)


def _with_stops(source: str, own: Own) -> str:
    """The same, with the model's stops if it is a Jinja template."""
    keys = written(source)
    return jinja(keys["jinja"], stop_tokens(own)) if "jinja" in keys else source


def stop_tokens(own: Own) -> tuple[str, ...]:
    """The tokens at which serving stops: ``eos_token_id`` of generation_config.json, as the tokenizer spells them.

    Without such a file, or for ids that are no added tokens of the tokenizer: none.

    Raises:
        TokenizerError: the file is damaged.
    """
    path = own.tokenizer.parent / untrusted.GENERATION_CONFIG
    ids = untrusted.read_optional(path, untrusted.GenerationConfig, error=TokenizerError).get("eos_token_id")
    if ids is None or not own.tokenizer.is_file():
        return ()
    added = untrusted.read_json(own.tokenizer, untrusted.TokenizerFile, error=TokenizerError).get("added_tokens") or []
    wanted = ids if isinstance(ids, list) else [ids]
    return tuple(token["content"] for token in added if token["id"] in wanted)


def name_of(source: str) -> str:
    """What reports call a template."""
    if not source.startswith("{"):
        return source
    keys = written(source)
    return "jinja" if "jinja" in keys else str(keys["name"])


def read(template: str) -> str:
    """A built-in template's name, or the content of a template file, as the core takes it; such a text stays as it is.

    Raises:
        TokenizerError: there is neither such a template nor such a file.
        ConfigError: the file has mistakes in it.
    """
    if template in _core.templates() or template.startswith("{"):
        return template
    path = Path(template)
    if path.suffix in (*YAML_SUFFIXES, JINJA_SUFFIX) or path.parent != Path():
        if not path.is_file():
            raise TokenizerError(f"no template file `{path}`", hint=f"built in: {', '.join(_core.templates())}")
        return jinja(path.read_text(encoding="utf-8")) if path.suffix == JINJA_SUFFIX else read_yaml(path)
    near = get_close_matches(template, [*_core.templates(), "auto", "jinja"], n=1)
    meant = f"did you mean `{near[0]}`? " if near else ""
    raise TokenizerError(
        f"unknown template `{template}`",
        hint=f"{meant}built in: {', '.join(_core.templates())}; or auto, jinja, or a YAML file",
    )


def read_yaml(path: Path) -> str:
    """A written template (docs/templates.md).

    Raises:
        ConfigError: with all its mistakes, each with its line.
    """
    entries, problems = yaml.read(path)
    known = _core.template_keys()
    keys: dict[str, Any] = {}
    for key, entry in entries.items():
        if key not in known:
            near = get_close_matches(key, known, n=1)
            problems.append(f"{entry.place}: unknown key `{key}`" + (f"; did you mean `{near[0]}`?" if near else ""))
        elif entry.problem or not isinstance(entry.value, list if key == "control" else str | None):
            kind = "a list of tokens" if key == "control" else "text"
            problems.append(f"{entry.place}: `{key}` must be {kind}")
        elif entry.value is not None:
            keys[key] = entry.value
    keys.setdefault("name", path.stem)
    source = json.dumps(keys, ensure_ascii=False)
    for key, problem in _core.template_problems(source) if not problems else ():
        place = entries[key].place if key in entries else str(path)
        problems.append(f"{place}: `{key}` {problem}" if key else f"{place}: {problem}")
    if keys["name"] in (*_core.templates(), "auto", "jinja"):
        place = entries["name"].place if "name" in entries else str(path)
        problems.append(f"{place}: `{keys['name']}` is the name of another template; give it a `name` of its own")
    if problems:
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        raise ConfigError(
            "\n".join([f"{count} in the template", *(f"  {p}" for p in problems)]),
            hint="docs/templates.md explains the keys; `qlora-fast template show NAME` prints an example",
        )
    return source


def built_in() -> list[WrittenTemplate]:
    """The built-in templates, as they are written."""
    return [written for name in _core.templates() if (written := _core.written_template(name)) is not None]


def written(source: str) -> Mapping[str, Any]:
    """A template's keys, whether it is a built-in one's name or a JSON object."""
    keys: Mapping[str, Any] | None = json.loads(source) if source.startswith("{") else _core.written_template(source)
    return keys or {}


def as_yaml(keys: Mapping[str, Any]) -> str:
    """A written template as YAML, its line breaks spelled out."""
    lines = []
    for key, value in keys.items():
        text = value if isinstance(value, str) and value.isidentifier() else json.dumps(value, ensure_ascii=False)
        lines.append(f"{key}: {text}\n")
    return "".join(lines)


def compare(source: str, own: Own) -> list[ProbeReport]:
    """Every probe rendered by the template and by the model's own.

    Raises:
        TokenizerError: the model has no chat template, or one that is not Jinja.
    """
    if own.chat_template is None:
        raise TokenizerError(f"`{own.model}` has no chat template of its own to compare with")
    return _core.compare_templates(source, own.chat_template, own.bos_token, own.eos_token, str(own.tokenizer))
