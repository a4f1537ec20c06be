"""From the grammars of llama.cpp (GBNF) to those of llguidance (Lark).

The form is that of https://github.com/ggml-org/llama.cpp/tree/master/grammars. llguidance
splits a text into lexemes before it parses, each of them as long as possible, which GBNF does
not: there `[a-z]+` may leave an `s` to the rule after it. So every lexeme is made a single
character; and a grammar whose rules do not refer back to themselves becomes one lexeme, which is
faster.
"""

from __future__ import annotations

import re
from graphlib import CycleError, TopologicalSorter
from itertools import accumulate

from modules.errors import InvalidInputError

__all__ = ["lark_from_gbnf"]

# What llguidance follows by recursion is as deep as these allow; see the stack of its threads.
_MOST_RULES = 1000
_MOST_NESTED = 32
_MOST_TIMES = 100_000

# In characters of Lark, of which a character of a literal takes eight, and levels. A rule of
# 4,000 alternatives that begin with itself took 23 s; of what is left, the worst takes some 10.
_MOST_WRITTEN, _MOST_DEEP, _MOST_RECURSIVE = 500_000, 100, 100_000

_TOKEN = re.compile(
    r"""
      (?P<space> [ \t]+ | \#[^\r\n]* | [\r\n]\s* (?=\|) )
    | (?P<newline> [\r\n]\s* )
    | (?P<define> ::= )
    | (?P<name> [A-Za-z0-9_-]+ )
    | (?P<literal> " (?: [^"\\] | \\. )* " )
    | (?P<set> \[ (?: [^\]\\] | \\. )* \] )
    | (?P<times> [*+?] | \{ \s* [0-9]{1,6} \s* (?: , \s* [0-9]{0,6} \s* )? \} )
    | (?P<bar> \| )
    | (?P<any> \. )
    | (?P<open> \( )
    | (?P<close> \) )
    """,
    re.VERBOSE | re.DOTALL,
)
_CHARACTER = re.compile(
    r"""
      \\ (?: x (?P<x>[0-9a-fA-F]{2}) | u (?P<u>[0-9a-fA-F]{4}) | U (?P<U>[0-9a-fA-F]{8}) )
    | \\ (?P<sign> [nrt"\\\[\]] )
    | (?P<plain> [^\\] )
    """,
    re.VERBOSE | re.DOTALL,
)
_REFERENCE = re.compile("<(.*?)>")
_SIGNS = {"n": "\n", "r": "\r", "t": "\t"}


def lark_from_gbnf(text: str) -> str:
    """The same grammar for llguidance. Raises InvalidInputError with the line at fault."""
    reader = _Reader(text)
    numbers: dict[str, int] = {}
    bodies: list[str] = []
    reader.skip("newline")
    while reader.kind:
        name, line = reader.take("name"), reader.line
        if name in numbers:
            raise _refused(f"the rule {name} is defined twice", line)
        numbers[name] = len(bodies)
        reader.take("define")
        reader.skip("newline")
        bodies.append(_alternatives(reader, 0))
        reader.take("newline", "")
        reader.skip("newline")
    if "root" not in numbers:
        raise _refused("it has no rule root")
    if len(bodies) > _MOST_RULES:
        raise _refused(f"it has {len(bodies):,} rules, and {_MOST_RULES:,} is the limit")
    return _joined(bodies, numbers, reader.used)


def _joined(bodies: list[str], numbers: dict[str, int], used: dict[str, int]) -> str:
    for name, line in used.items():
        if name not in numbers:
            raise _refused(f"there is no rule {name}", line)
    refers = [[numbers[name] for name in _REFERENCE.findall(body)] for body in bodies]
    lines = [f"start: R{numbers['root']}"]
    for number, body in enumerate(bodies):
        lines.append(f"R{number}: {_REFERENCE.sub(lambda m: f'R{numbers[m[1]]}', body)}")
    rules = "\n".join(lines)
    # In Lark a name in lower case is a rule, and one in upper case a lexeme.
    if _is_lexeme(bodies, refers):
        return rules
    if len(rules) > _MOST_RECURSIVE:
        raise _refused("it is too long for one whose rules refer back to themselves")
    return rules.lower()


def _is_lexeme(bodies: list[str], refers: list[list[int]]) -> bool:
    """Whether rules, written out, are one regular expression of a size that compiles soon.

    What is nested costs most: 750 levels took 0.1 s, and 1,500 took 5 s.
    """
    size, depth = [0] * len(bodies), [0] * len(bodies)
    try:
        order = list(TopologicalSorter(dict(enumerate(refers))).static_order())
    except CycleError:
        return False
    for number in order:
        body, inner = bodies[number], refers[number]
        nested = accumulate((sign == "(") - (sign == ")") for sign in body)
        size[number] = len(body) + sum(size[one] for one in inner)
        depth[number] = 1 + max(nested) + max((depth[one] for one in inner), default=0)
    return max(size) <= _MOST_WRITTEN and max(depth) <= _MOST_DEEP


class _Reader:
    """The tokens of a grammar without its spaces and comments, one after the other.

    `used` has the line of the first use of each rule.
    """

    def __init__(self, text: str) -> None:
        self.line = 1
        self.used: dict[str, int] = {}
        self._grammar = text
        self._at = 0
        self._read()

    def take(self, *kinds: str) -> str:
        """The token that comes next, which must be of one of `kinds` ("" is the end)."""
        if self.kind not in kinds:
            raise self.unexpected()
        token = self.text
        self._pass(token)
        self._read()
        return token

    def skip(self, kind: str) -> None:
        """Pass over all tokens of `kind` that come next."""
        while self.kind == kind:
            self.take(kind)

    def unexpected(self) -> InvalidInputError:
        """What to raise about the token that comes next."""
        if not self.kind:
            return _refused("it ends too early", self.line)
        shown = "the end of the line" if self.kind == "newline" else f"{self.text[:20]!r}"
        return _refused(f"{shown} is not expected", self.line)

    def _read(self) -> None:
        self.kind, self.text = "", ""
        while self._at < len(self._grammar):
            found = _TOKEN.match(self._grammar, self._at)
            if found is None:
                raise _refused(
                    f"{self._grammar[self._at : self._at + 20]!r} is not GBNF", self.line
                )
            if found.lastgroup != "space":
                self.kind, self.text = str(found.lastgroup), found[0]
                return
            self._pass(found[0])

    def _pass(self, token: str) -> None:
        self._at += len(token)
        self.line += token.count("\n")


def _alternatives(reader: _Reader, depth: int) -> str:
    """Sequences between bars; at `depth` 0 a line ends the rule, unless a bar follows."""
    if depth > _MOST_NESTED:
        raise _refused(f"parentheses are nested deeper than {_MOST_NESTED}", reader.line)
    found = [_sequence(reader, depth)]
    while reader.kind == "bar":
        reader.take("bar")
        reader.skip("newline")
        found.append(_sequence(reader, depth))
    return " | ".join(found)


def _sequence(reader: _Reader, depth: int) -> str:
    parts: list[str] = []
    while True:
        if depth:
            reader.skip("newline")
        match reader.kind, reader.text:
            case "name", name:
                reader.used.setdefault(name, reader.line)
                parts.append(f"<{reader.take('name')}>")
            case "literal", literal:
                parts.append(_group(_literal(literal[1:-1], reader.line)))
                reader.take("literal")
            case "set", characters:
                parts.append(_set(characters[1:-1], reader.line))
                reader.take("set")
            case "any", _:
                parts.append(r"/[\x{0}-\x{10ffff}]/")
                reader.take("any")
            case "open", _:
                reader.take("open")
                parts.append(f"({_alternatives(reader, depth + 1)})")
                reader.take("close")
            case "times", times if parts:
                repeated = parts[-1].endswith(("*", "+", "?", "}"))
                part = f"({parts[-1]})" if repeated else parts[-1]
                parts[-1] = part + _times(times, reader.line)
                reader.take("times")
            case _:
                return " ".join(parts) or '""'


def _group(characters: list[str]) -> str:
    return f"({' '.join(characters)})" if len(characters) > 1 else "".join(characters) or '""'


def _times(text: str, line: int) -> str:
    if text in "*+?":
        return text
    least, comma, most = re.sub(r"\s", "", text)[1:-1].partition(",")
    if max(int(least), int(most or 0)) > _MOST_TIMES:
        raise _refused(f"it repeats more than {_MOST_TIMES:,} times", line)
    if most and int(most) < int(least):
        raise _refused(f"{text} cannot be", line)
    return f"{{{least},{most}}}" if comma else f"{{{least},{least}}}"


def _literal(text: str, line: int) -> list[str]:
    return [f"/\\x{{{point:x}}}/" for point, _ in _characters(text, line)]


def _set(text: str, line: int) -> str:
    """A set in the form of llguidance's regular expressions, every character by number."""
    negated = text.startswith("^")
    characters = _characters(text.removeprefix("^"), line)
    found: list[str] = []
    while characters:
        first, _ = characters.pop(0)
        last = first
        if len(characters) > 1 and characters[0][1] == "-":
            last = characters[1][0]
            del characters[:2]
        if last < first:
            raise _refused(f"the range {chr(first)}-{chr(last)} is empty", line)
        found.append(f"\\x{{{first:x}}}-\\x{{{last:x}}}")
    if not found:
        raise _refused("a set has no characters", line)
    return f"/[{'^' * negated}{''.join(found)}]/"


def _characters(text: str, line: int) -> list[tuple[int, str]]:
    """The code point of each character, and how it is written."""
    found: list[tuple[int, str]] = []
    at = 0
    while at < len(text):
        one = _CHARACTER.match(text, at)
        if one is None:
            raise _refused(f"{text[at : at + 10]!r} is no escape", line)
        at = one.end()
        digits = one["x"] or one["u"] or one["U"]
        sign = one["sign"] and _SIGNS.get(one["sign"], one["sign"])
        point = int(digits, 16) if digits else ord(sign or one["plain"])
        if point > 0x10FFFF or 0xD800 <= point <= 0xDFFF:
            raise _refused(f"{one[0]!r} is no character", line)
        found.append((point, one[0]))
    return found


def _refused(why: str, line: int = 0) -> InvalidInputError:
    where = f" (line {line})" if line else ""
    return InvalidInputError(
        f"The grammar cannot be read: {why}{where}.",
        "Correct it; the form is that of llama.cpp (GBNF).",
        field="structure_text",
    )
