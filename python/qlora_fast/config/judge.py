"""What becomes of each key that was read: taken, translated, ignored or refused; and of all of them together."""

from __future__ import annotations

from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

from qlora_fast.config import yaml
from qlora_fast.config.checks import EXCLUSIVE, without_effect
from qlora_fast.config.config import Config, InvalidConfigError
from qlora_fast.config.convert import Text, convert
from qlora_fast.config.foreign import (
    NOT_FOR_EYES,
    RENAMED,
    RULES,
    Fate,
    Translation,
    by_rule,
    foreign_key,
    foreign_value,
    other_command,
)
from qlora_fast.config.keys import KEYS, TYPES, about
from qlora_fast.config.paths import expanded


@dataclass(slots=True)
class Verdict:
    """What became of one key that was read."""

    key: str
    value: Any
    place: str
    fate: Fate
    reason: str = ""
    becomes: dict[str, str] = field(default_factory=dict)
    """The settings that a translated key stands for."""


@dataclass(slots=True)
class Reading:
    """Everything that was found out about a config, whether it loads or not."""

    verdicts: list[Verdict]
    problems: list[str]
    config: Config | None


class Judge:
    """Decides about each entry in turn, and about all of them together at the end."""

    def __init__(self, entries: dict[str, yaml.Entry], problems: list[str]) -> None:
        self._entries, self.problems = entries, problems
        self.values: dict[str, Any] = {}
        """What is set, by the key it has here, as the type of its key."""
        self._verdicts: dict[str, Verdict] = {}
        self._sources: dict[str, yaml.Entry] = {}

    def judge(self) -> Reading:
        self.decide()
        self.problems += other_command({name: entry.value for name, entry in self._entries.items()})
        self._resolve_exclusive()
        verdicts = list(self._verdicts.values())
        if self.problems:
            return Reading(verdicts, self.problems, None)
        try:
            config = Config(**self.values)
        except InvalidConfigError as error:
            for name, problem in error.problems:
                self._problem(name, problem)
            return Reading(verdicts, self.problems, None)
        for name, reason in without_effect(config, list(self._entries)).items():
            self._verdicts[name].fate, self._verdicts[name].reason = "ignored", reason
        return Reading(verdicts, self.problems, config)

    def decide(self) -> None:
        """Each entry by itself."""
        for name, entry in self._entries.items():
            shown = "…" if name.endswith(NOT_FOR_EYES) else "{…}" if entry.problem else entry.value
            verdict = self._verdicts[name] = Verdict(name, shown, entry.place, "used")
            if name in KEYS:
                self._own(verdict, entry)
            else:
                self._foreign(verdict, entry)

    def _resolve_exclusive(self) -> None:
        """Of two exclusive settings from different layers, that of the command line or of the extending file is taken."""
        for pair in EXCLUSIVE:
            if pair.clash(self.values) and {pair.first, pair.second} <= set(self._sources):
                names = sorted((pair.first, pair.second), key=lambda name: self._sources[name].layer)
                loser, winner = (self._sources[name] for name in names)
                if loser.layer < winner.layer:
                    del self.values[names[0]]
                    self._overridden(loser.place, winner.place)

    def _overridden(self, place: str, by: str) -> None:
        for verdict in self._verdicts.values():
            if verdict.place == place:
                verdict.fate, verdict.reason = "ignored", f"{by} overrides it"

    def _own(self, verdict: Verdict, entry: yaml.Entry) -> None:
        name = verdict.key
        if entry.problem:
            self._problem(name, entry.problem)
        elif entry.value is None:
            verdict.reason = "unset: the default"  # `key:` and `key: null`
        elif isinstance(entry.value, str) and (translation := foreign_value(name, entry.value)):
            self._apply(verdict, translation)
        else:
            self._set(name, entry.value, entry)

    def _foreign(self, verdict: Verdict, entry: yaml.Entry) -> None:
        name = verdict.key
        text = entry.value if isinstance(entry.value, str) else str(entry.value)
        if entry.value is None and entry.problem is None and (name in RULES or foreign_key(name, "")):
            verdict.fate, verdict.reason = "ignored", "unset"
        elif translation := foreign_key(name, text):
            self._apply(verdict, translation)
        elif name in RULES:
            self._apply(verdict, by_rule(RULES[name], text))
        else:
            near = [RENAMED[name]] if name in RENAMED else get_close_matches(name, KEYS, n=1, cutoff=0.6)
            verdict.fate = "unknown"
            verdict.reason = f"did you mean `{near[0]}`?" if near else "no such setting"
            hint = f"; did you mean `{near[0]}`?" if near else ""
            self.problems.append(f"{_at(verdict.place)}unknown key `{name}`{hint}")

    def _apply(self, verdict: Verdict, translation: Translation) -> None:
        verdict.fate, verdict.reason = translation.fate, translation.reason
        if translation.fate == "refused":
            self.problems.append(f"{_at(verdict.place)}{_refusal(verdict)}")
        if not translation.key:
            return
        own, target = self._entries[verdict.key], self._entries.get(translation.key)
        if target is not None and target.value is not None and translation.key != verdict.key:
            said = foreign_value(translation.key, str(target.value))
            if (said.value if said and said.key else target.value) == translation.value:
                verdict.becomes = {translation.key: translation.value}
            elif target.layer > own.layer:
                self._overridden(own.place, target.place)
            elif target.layer < own.layer:
                verdict.becomes = {translation.key: translation.value}
                self._set(translation.key, translation.value, own)
                self._overridden(target.place, own.place)
            else:
                self._problem(verdict.key, f"contradicts `{translation.key}` at {target.place}")
            return
        verdict.becomes = {translation.key: translation.value}
        self._set(translation.key, translation.value, own)

    def _set(self, name: str, raw: Text, source: yaml.Entry) -> None:
        earlier = self._sources.get(name)
        if earlier is not None and earlier.layer > source.layer:
            self._overridden(source.place, earlier.place)
            return
        self._sources[name] = source
        value, problem = convert(raw, TYPES[name])
        if problem is None and about(name).path:
            value, problem = expanded(value)
        if problem:
            self._problem(name, problem)
        else:
            self.values[name] = value

    def _problem(self, name: str, problem: str) -> None:
        source = self._sources.get(name) or self._entries.get(name)
        place = source.place if source is not None else ""
        self.problems.append(f"{_at(place)}`{name}` {problem}")
        if name in self._verdicts:
            self._verdicts[name].fate, self._verdicts[name].reason = "refused", problem


def _at(place: str) -> str:
    return f"{place}: " if place else ""


def _refusal(verdict: Verdict) -> str:
    said = f"`{verdict.key}: {verdict.value}`"
    rule = RULES.get(verdict.key)
    hint = f"; only {rule.harmless[0]} is" if rule and len(rule.harmless) == 1 else ""
    return f"{said} is not supported{hint}: {verdict.reason}"
