"""Random Jinja, from a seed: expressions of every operator, filter, test and method, and templates of statements.

Each kind of value has a rule; one time in twelve a rule asks for any kind, so that what fails is tried as well.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

VARIABLES = {
    "s": "Hello, wide World",
    "t": "  two\nlines\tand a tab \n",
    "u": "Grüße, 世界! ‘é’ 👩‍🚀",
    "e": "",
    "n": 7,
    "z": 0,
    "f": 2.5,
    "b": True,
    "nothing": None,
    "xs": [3, 1, 2],
    "words": ["pear", "Apple", "fig", "apple"],
    "mixed": [1, "a", None, 2.0, True, ["x"]],
    "d": {"b": 1, "a": "one", "list": [1, 2], "items": "hidden", "nested": {"k": "v"}},
    "empty": {},
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi </think> there"},
        {"role": "assistant", "content": "Yo", "tool_calls": [{"function": {"name": "f", "arguments": {"x": 1}}}]},
        {"role": "tool", "content": '{"r": [1.5, "é"]}'},
    ],
}
STRINGS = [
    "''",
    "'a'",
    "'abc'",
    "' x '",
    "'a,b,,c'",
    "'</think>'",
    '"it\'s"',
    "'a\\nb'",
    "'%s and %d'",
    "'{} {}'",
    "'Ab1'",
    "'é世'",
]
FILL = ["", ", ' '", ", '*'"]
INDENT = ["", "2", "2, true", "1, false, true", "first=true", "'> '"]
TRUNCATE = ["5", "9, true", "6, false, '…'", "4, leeway=0"]
JSON = ["", "indent=2", "ensure_ascii=true", "sort_keys=true", "separators=(',', ':')"]
SEPARATORS = ["','", "' '", "none", "'</think>'", "'o'"]
SELECT = ["", ", 'equalto', 'user'", ", 'defined'"]
OF_DICT = ["items|list", "list", "dictsort", "dictsort(by='value')"]
AFFIX = ["('a', 'H')", "'e', 1"]
TWO = ["(1, 2)", "xs", "'ab'", "d"]
NUMBERS = ["0", "1", "2", "-1", "3", "10", "1.5", "-2.25", "0.1", "1e3", "100"]


class Grammar:
    """Expressions and templates of one seed."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)

    def pick(self, *options: str) -> str:
        return self.random.choice(options)

    def sometimes(self, rule: Callable[[int], str], depth: int) -> str:
        return self.any(depth) if self.random.random() < 1 / 12 else rule(depth)

    # --- values by kind

    def any(self, depth: int) -> str:
        rules = [self.text, self.text, self.number, self.truth, self.sequence, self.mapping, self.odd]
        return self.random.choice(rules)(depth)

    def odd(self, depth: int) -> str:
        return self.pick(
            "none", "missing", "nothing", "d.missing", "range(3)", "(1, 'a')", "()", "xs|first", "true", "false"
        )

    def number(self, depth: int) -> str:
        if depth <= 0:
            return self.pick("n", "z", "f", *NUMBERS)
        text, left, right = self.text, self.sometimes(self.number, depth - 1), self.sometimes(self.number, depth - 1)
        sequence = self.sometimes(self.sequence, depth - 1)
        return self.pick(
            f"({left} + {right})",
            f"({left} - {right})",
            f"({left} * {right})",
            f"({left} / {right})",
            f"({left} // {right})",
            f"({left} % {right})",
            f"(2 ** {self.pick('0', '1', '3', '-1', '0.5')})",
            f"-{left}",
            f"({left})|abs",
            f"({self.any(depth - 1)})|int",
            f"({self.any(depth - 1)})|int(default={self.pick('3', 'none')})",
            f"({self.any(depth - 1)})|float",
            f"({left})|round",
            f"({left})|round({self.pick('1', '2')}, '{self.pick('common', 'floor', 'ceil')}')",
            f"({self.any(depth - 1)})|length",
            f"({sequence})|count",
            f"({sequence})|sum",
            f"({sequence})|min",
            f"({sequence})|max",
            f"({text(depth - 1)}).count({text(0)})",
            f"({text(depth - 1)}).{self.pick('find', 'rfind', 'index', 'rindex')}({text(0)})",
            f"({sequence}).index({self.any(0)})",
            f"({sequence}).count({self.any(0)})",
        )

    def text(self, depth: int) -> str:
        if depth <= 0:
            return self.pick("s", "t", "u", "e", *STRINGS)
        of = f"({self.sometimes(self.text, depth - 1)})"
        small, number = self.text(0), self.pick("0", "1", "2", "5", "12", "-1", "none")
        chars = self.pick("' '", "'\\n'", "'ab'", "'.!'", "'0'")
        return self.pick(
            f"({of} + {self.text(depth - 1)})",
            f"({self.any(depth - 1)} ~ {self.any(depth - 1)})",
            f"({of} * {self.pick('0', '2', '-1')})",
            f"{of}.{self.method()}()",
            f"{of}.{self.pick('strip', 'lstrip', 'rstrip')}({chars})",
            f"{of}.{self.pick('removeprefix', 'removesuffix')}({small})",
            f"{of}.replace({small}, {self.text(0)}{self.pick('', ', 1', ', -1')})",
            f"{of}.{self.pick('center', 'ljust', 'rjust')}({number}{self.pick(*FILL)})",
            f"{of}.zfill({number})",
            f"{of}.expandtabs({self.pick('', '2')})",
            f"{small}.join({self.sometimes(self.words, depth - 1)})",
            f"{of}.format({self.any(0)}, {self.any(0)})",
            f"'{self.pick('{0}', '{1}{0}', '{!r}', '{:>6}', '{:05d}', '{:.2f}', '{:,}', '{0[0]}', '{a}')}'.format({self.any(0)}, {self.any(0)})",
            f"('{self.pick('%s', '%5s', '%-5s|', '%d', '%03d', '%.1f', '%r', '%%', '%x', '%(a)s')}' % {self.any(0)})",
            f"('%s %s' % ({self.any(0)}, {self.any(0)}))",
            f"('%s' % {self.odd(0)})",
            f"({self.text(depth - 1)})[{self.slice()}]",
            f"{of}[{number}]",
            f"({self.any(depth - 1)})|{self.pick('string', 'trim', 'upper', 'lower', 'capitalize', 'title')}",
            f"{of}|trim({chars})",
            f"{of}|replace({small}, {self.any(0)}{self.pick('', ', 1')})",
            f"{of}|indent({self.pick(*INDENT)})",
            f"{of}|truncate({self.pick(*TRUNCATE)})",
            f"{of}|center({self.pick('9', '12')})",
            f"{of}|reverse",
            f"({of}|{self.pick('safe', 'e', 'escape', 'forceescape')})",
            f"({of}|{self.pick('safe', 'e')} {self.pick('+', '~')} {self.text(depth - 1)})",
            f"({self.text(depth - 1)} + {of}|safe)",
            f"'%s-%s'|format({self.any(0)}, {self.any(0)})",
            f"({self.any(depth - 1)})|tojson({self.pick(*JSON)})",
            f"({self.sometimes(self.sequence, depth - 1)})|join({self.pick('', small)})",
            f"({self.any(depth - 1)})|default({self.text(0)}{self.pick('', ', true')})",
            f"({self.text(depth - 1)} if {self.truth(depth - 1)} else {self.text(depth - 1)})",
            f"({self.text(depth - 1)} if {self.truth(depth - 1)})",
        )

    def method(self) -> str:
        return self.pick(
            "upper", "lower", "capitalize", "title", "swapcase", "strip", "lstrip", "rstrip", "isdigit", "isalpha",
            "isalnum", "isspace", "isupper", "islower", "istitle", "isascii", "isdecimal", "isnumeric", "isidentifier",
            "isprintable", "casefold",
        )  # fmt: skip

    def slice(self) -> str:
        part = ["", "0", "1", "2", "-1", "-2", "9", "none"]
        choose = self.random.choice
        return self.pick(
            f"{choose(part)}:{choose(part)}", f"{choose(part)}:{choose(part)}:{self.pick('', '2', '-1', '1')}"
        )

    def words(self, depth: int) -> str:
        if depth <= 0:
            return self.pick("words", "['a', 'b']", "[]", "'xyz'", "d", "('p', 'q')")
        of = self.text(depth - 1)
        return self.pick(
            f"({of}).split()",
            f"({of}).{self.pick('split', 'rsplit')}({self.pick(*SEPARATORS)}{self.pick('', ', 1', ', 0')})",
            f"({of}).splitlines({self.pick('', 'true')})",
            f"({of}).{self.pick('partition', 'rpartition')}({self.pick(*SEPARATORS)})",
            f"({of})|list",
            f"({self.words(depth - 1)})|map('{self.pick('upper', 'trim', 'length', 'string', 'first')}')|list",
            f"({self.words(depth - 1)})|sort{self.pick('', '(true)', '(case_sensitive=true)')}",
            f"({self.words(depth - 1)})|unique|list",
        )

    def sequence(self, depth: int) -> str:
        if depth <= 0:
            return self.pick(
                "xs", "words", "mixed", "messages", "[1, 2]", "[]", "('a', 2)", "range(4)", "[[1], [2, 3]]"
            )
        of = f"({self.sometimes(self.sequence, depth - 1)})"
        return self.pick(
            self.words(depth),
            f"[{self.any(depth - 1)}, {self.any(depth - 1)}]",
            f"({self.any(depth - 1)}, {self.any(depth - 1)})",
            f"({of} + {self.sequence(depth - 1)})",
            f"({of} * {self.pick('0', '2')})",
            # What is no sequence: Jinja2 fails, or prints nothing where the compiler knows the value.
            f"({self.sequence(depth - 1)})[{self.slice()}]",
            f"{of}|{self.pick('list', 'reverse|list', 'sort', 'unique|list', 'select|list', 'reject|list')}",
            f"{of}|{self.pick('select', 'reject')}('{self.pick('string', 'number', 'defined', 'none', 'odd')}')|list",
            f"{of}|select('{self.pick('equalto', 'ne', 'gt', 'in')}', {self.any(0)})|list",
            f"messages|{self.pick('selectattr', 'rejectattr')}('{self.pick('role', 'tool_calls', 'content.0')}'{self.pick(*SELECT)})|list",
            f"messages|map(attribute='{self.pick('role', 'content', 'nope', 'tool_calls.0.function.name')}'{self.pick('', ', default=1')})|list",
            f"{of}|batch({self.pick('1', '2', '3, 0')})|list",
            f"{of}|slice({self.pick('1', '2', '3, 0')})|list",
            f"({self.mapping(depth - 1)})|{self.pick(*OF_DICT)}",
            f"({self.mapping(depth - 1)}).{self.pick('keys', 'values', 'items')}()|list",
            f"range({self.pick('3', '1, 4', '5, 0, -2', '0')})|list",
        )

    def mapping(self, depth: int) -> str:
        if depth <= 0:
            return self.pick("d", "empty", "messages[0]", "{}", "{'k': 1}", "{1: 'x', 'y': none}", "dict(a=1)")
        return self.pick(
            f"{{{self.text(0)}: {self.any(depth - 1)}, 'z': {self.any(depth - 1)}}}",
            f"dict({self.mapping(depth - 1)}, extra={self.any(depth - 1)})",
            f"({self.mapping(depth - 1)}).copy()",
        )

    def truth(self, depth: int) -> str:
        if depth <= 0:
            return self.pick("true", "false", "b", "n > 3", "s", "e", "none")
        left, right = self.any(depth - 1), self.any(depth - 1)
        return self.pick(
            f"({left} {self.pick('==', '!=')} {right})",
            f"({self.number(depth - 1)} {self.pick('<', '<=', '>', '>=')} {self.sometimes(self.number, depth - 1)})",
            f"({self.text(depth - 1)} {self.pick('<', '>=')} {self.text(depth - 1)})",
            f"({left} {self.pick('in', 'not in')} {self.sometimes(self.sequence, depth - 1)})",
            f"({self.text(0)} {self.pick('in', 'not in')} {self.text(depth - 1)})",
            f"({left} in {self.mapping(depth - 1)})",
            f"({left} {self.pick('and', 'or')} {right})",
            f"(not {left})",
            f"({self.number(0)} < {self.number(0)} <= {self.number(0)})",
            f"({left} is {self.pick('', 'not ')}{self.check()})",
            f"({self.number(depth - 1)} is divisibleby {self.pick('2', '3', '0')})",
            f"({left} is {self.pick('eq', 'in', 'lt')}({right}))",
            f"({left} is sameas {self.pick('none', 'true', 'false')})",
            f"({self.text(depth - 1)}).{self.pick('startswith', 'endswith')}({self.pick(self.text(0), *AFFIX)})",
            f"('{self.pick('upper', 'tojson', 'nope', 'odd')}' is {self.pick('filter', 'test')})",
        )

    def check(self) -> str:
        return self.pick(
            "defined", "undefined", "none", "boolean", "true", "false", "integer", "float", "number", "string", "mapping",
            "sequence", "iterable", "callable", "lower", "upper", "odd", "even", "escaped",
        )  # fmt: skip

    # --- statements

    def template(self, depth: int) -> str:
        return "".join(self.statement(depth) for _ in range(self.random.randint(1, 4)))

    def tag(self, inner: str) -> str:
        return "{%" + self.pick("", "-", "", "+") + f" {inner} " + self.pick("", "-", "") + "%}"

    def blank(self) -> str:
        return self.pick("", "\n", "  ", "\n  ", "text ", "\n\n")

    def printed(self, expression: str) -> str:
        return "{{" + self.pick("", "-") + f" {expression} " + self.pick("", "-") + "}}"

    def statement(self, depth: int) -> str:
        body = self.template(depth - 1) if depth > 0 else self.printed(self.any(1))
        other = self.printed(self.any(1))
        loop = self.printed(
            "loop."
            + self.pick(
                "index", "index0", "first", "last", "length", "revindex", "revindex0", "previtem", "nextitem", "depth"
            )
        )
        tag, blank, name = self.tag, self.blank, self.pick("v", "w", "x")
        return blank() + self.pick(
            self.printed(self.any(2)),
            f"{tag('if ' + self.truth(1))}{blank()}{body}{tag('elif ' + self.truth(1))}{other}{tag('else')}{blank()}{other}{tag('endif')}",
            f"{tag(f'for {name} in ' + self.sequence(1))}{blank()}{body}{loop}{tag('else')}none{tag('endfor')}",
            f"{tag(f'for k, {name} in ' + self.mapping(0) + '.items()')}{self.printed('k')}={self.printed(name)}{body}{tag('endfor')}",
            f"{tag(f'for {name} in ' + self.sequence(1) + f' if {name} is ' + self.check())}{body}{loop}{tag('endfor')}",
            f"{tag(f'for {name} in [1, 2, 3, 4]')}{tag(f'if {name} == 2')}{tag(self.pick('continue', 'break'))}{tag('endif')}{self.printed(name)}{tag('endfor')}",
            f"{tag(f'set {name} = ' + self.any(2))}{self.printed(name)}",
            f"{tag(f'set {name}, y = ' + self.pick(*TWO))}{self.printed('y')}",
            f"{tag(f'set {name}')}{body}{tag('endset')}{self.printed(name + '|length')}",
            f"{tag(f'set {name} | upper | trim')}{body}{tag('endset')}{self.printed(name)}",
            f"{tag('set ns = namespace(a=1, b=' + self.any(0) + ')')}{tag('for i in xs')}{tag('set ns.a = ns.a + i')}{tag('endfor')}{self.printed('ns.a')}{self.printed('ns.c')}",
            f"{tag(f'set {name} = 0')}{tag('for i in xs')}{tag(f'set {name} = {name} + i')}{self.printed(name)}{tag('endfor')}{self.printed(name)}",
            f"{tag('macro m(a, b=' + self.any(0) + ')')}[{blank()}{self.printed('a')}|{self.printed('b')}{body}]{tag('endmacro')}{self.printed('m(' + self.pick(self.any(0), 'b=1', '1, 2', '1, a=2', '') + ')')}",
            f"{tag('macro c(a)')}<{self.printed('caller(a)' if self.random.random() < 0.7 else 'caller()')}>{tag('endmacro')}{tag('call(q) c(' + self.any(0) + ')')}{self.printed('q')}{body}{tag('endcall')}",
            f"{tag('macro o()')}{self.printed('varargs')}{self.printed('kwargs')}{tag('endmacro')}{self.printed('o(1, k=2)')}",
            f"{tag('filter upper')}{body}{tag('endfilter')}",
            f"{tag('with a = ' + self.any(1) + ', b = n')}{self.printed('a')}{self.printed('b')}{body}{tag('endwith')}",
            f"{tag('generation')}{body}{tag(f'set {name} = 5')}{tag('endgeneration')}{self.printed(name)}",
            f"{{#{self.pick('', '-')} {{{{ a comment }}}} {self.pick('', '-')}#}}{blank()}",
            f"{{% raw %}}{blank()}{{{{ s }}}}{{% endraw %}}{blank()}",
            f"{tag('for r in range(3)')}{self.printed('loop.cycle(1, 2)')}{self.printed('loop.changed(r // 2)')}{tag('endfor')}",
            "{{ raise_exception('no: ' ~ s) }}" if self.random.random() < 0.3 else self.printed("s"),
        )
