"""Where formulas stand in a Markdown text: `$…$`, `$$…$$`, `\\(…\\)`, `\\[…\\]`, `\\begin{align}…`.

A displayed formula begins a line and ends one, also right below a line of text, as models
like to write it. What stands between other signs in a line is left to the inline rules.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from markdown_it import MarkdownIt
from markdown_it.rules_block import StateBlock
from markdown_it.rules_inline import StateInline
from mdit_py_plugins.dollarmath import dollarmath_plugin

__all__ = ["formula_is_open", "math_plugin"]

_ENVIRONMENT = (
    r"\\begin\{(?P<name>(?:equation|multline|gather|align|alignat|flalign|eqnarray|"
    r"[pbBvV]?matrix)\*?)\}"
)
_OPENER = re.compile(rf"\$\$|\\\[|{_ENVIRONMENT}")
_CONTAINER = re.compile(r"[\s>*+\-\d.)]*")
_LABEL = re.compile(r"[ \t]*(?:\(([^()$\n]{1,40})\))?[ \t]*")


def math_plugin(parser: MarkdownIt) -> None:
    """Teach `parser` formulas: tokens `math_inline`, `math_inline_double` and `math_block`."""
    parser.use(dollarmath_plugin, allow_space=False, allow_digits=False, double_inline=True)
    ends = ["paragraph", "reference", "blockquote", "list"]
    parser.block.ruler.at("math_block", _display_math, {"alt": ends})
    parser.inline.ruler.before("escape", "math_brackets", _bracket_math)


def formula_is_open(lines: Sequence[str]) -> bool:
    """Whether a displayed formula begins in these lines of a text and does not end in them."""
    closer = ""
    for line in lines:
        text = line[_CONTAINER.match(line).end() :]  # type: ignore[union-attr]  # matches ""
        if closer:
            closer = "" if closer in line else closer
        elif opened := _OPENER.match(text):
            closer = _closer(opened)
            closer = "" if closer in text[opened.end() :] else closer
    return bool(closer)


def _closer(opened: re.Match[str]) -> str:
    if opened["name"]:
        return f"\\end{{{opened['name']}}}"
    return "$$" if opened[0] == "$$" else "\\]"


def _display_math(state: StateBlock, begin: int, end: int, silent: bool) -> bool:
    first = _line(state, begin)
    opened = _OPENER.match(first)
    if opened is None or state.is_code_block(begin):
        return False
    closer, rows = _closer(opened), [first[opened.end() :]]
    for line in range(begin, end):
        if line > begin:
            row = _line(state, line)
            outside = row and state.sCount[line] < state.blkIndent
            if outside or (closer != "$$" and row.startswith(opened[0])):
                return False
            rows.append(row)
        content, found, rest = rows[-1].partition(closer)
        if found:
            label = _LABEL.fullmatch(rest)
            rows[-1] = content
            if label is None or not "".join(rows).strip():
                return False
            if not silent:
                _push(state, (begin, line + 1), opened, "\n".join(rows), label[1])
            return True
    return False


def _line(state: StateBlock, line: int) -> str:
    return state.src[state.bMarks[line] + state.tShift[line] : state.eMarks[line]]


def _push(
    state: StateBlock, place: tuple[int, int], opened: re.Match[str], latex: str, label: str | None
) -> None:
    token = state.push("math_block", "math", 0)
    token.block = True
    token.map = list(place)
    token.content = f"{opened[0]}{latex}{_closer(opened)}" if opened["name"] else latex
    if label:
        token.content += rf"\qquad\text{{({label})}}"
    state.line = place[1]


def _bracket_math(state: StateInline, silent: bool) -> bool:
    for opener, closer, kind in (
        ("\\(", "\\)", "math_inline"),
        ("\\[", "\\]", "math_inline_double"),
    ):
        if state.src.startswith(opener, state.pos):
            end = state.src.find(closer, state.pos + 2, state.posMax)
            content = state.src[state.pos + 2 : end]
            if end < 0 or not content.strip():
                return False
            if not silent:
                token = state.push(kind, "math", 0)
                token.content = content
            state.pos = end + 2
            return True
    return False
