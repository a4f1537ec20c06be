"""Markdown to safe HTML, block by block.

Replies are rendered on the server, so that the page carries no parser and raw HTML from
a model never reaches it: the parser escapes it. A text becomes a list of blocks
(paragraphs, lists, code, tables); while it grows, only its last block can change, which
is what `GrowingMarkdown` and the page make use of.

Code is highlighted by pygments (classes, coloured by the page's CSS), LaTeX becomes
MathML, which browsers draw themselves.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any

import pygments
import pygments.lexers
import pygments.util
from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token
from markdown_it.utils import EnvType, OptionsDict
from pygments.formatters import HtmlFormatter

from modules.ui.formula import formula
from modules.ui.math_syntax import formula_is_open, math_plugin

__all__ = ["GrowingMarkdown", "render_blocks"]

_MAX_CHARS = 200_000  # the parser takes quadratic time for some hostile texts
_MAX_HIGHLIGHTED_CHARS = 50_000
_FORMATTER = HtmlFormatter(nowrap=True)


@lru_cache(maxsize=1024)
def render_blocks(text: str) -> tuple[str, ...]:
    """The HTML of each top-level block of `text`; a very long text stays plain."""
    if len(text) > _MAX_CHARS:
        return (f'<pre class="plain">{html.escape(text)}</pre>',)
    return tuple(block for block, _ in _render(text.replace("\r", "")))


class GrowingMarkdown:
    """Renders a text that grows, without parsing its finished blocks again.

    One that is changed where it was finished, as an extension may do, is parsed anew.
    """

    def __init__(self) -> None:
        self.blocks: list[str] = []
        self._frozen = 0  # blocks that are final
        self._parsed_from = 0  # where in the text the first block that is not final begins
        self._final = ""  # the text before it

    def update(self, text: str) -> int:
        """Take the text so far; returns the index of the first block that changed."""
        text = text.replace("\r", "")
        if not text.startswith(self._final):
            self._frozen, self._parsed_from, self._final = 0, 0, ""
        tail = text[self._parsed_from :]
        rendered = _render(tail)
        first = self._frozen
        self.blocks[first:] = [block for block, _ in rendered]
        if rendered:
            lines = tail.split("\n")
            final = _final_blocks(rendered, lines)
            self._parsed_from += sum(len(line) + 1 for line in lines[: rendered[final][1]])
            self._frozen += final
            self._final = text[: self._parsed_from] if final else self._final
        return first


def _final_blocks(rendered: list[tuple[str, int]], lines: list[str]) -> int:
    """How many blocks no further text can change, short of all.

    A block is final when the next one has begun with two whole lines (what is a rule,
    `---`, turns into text again if a letter follows; what is a table shows in its second
    line), unless a formula in it waits for its end.
    """
    final = 0
    for (block, line), (_, following) in pairwise(rendered):
        waits = not block.startswith('<div class="code"') and formula_is_open(lines[line:following])
        if waits or following + 2 >= len(lines):
            break
        final += 1
    return final


def _render(text: str) -> list[tuple[str, int]]:
    """Each block's HTML with the line that it begins on."""
    parser = _parser()
    env: dict[str, Any] = {}
    tokens = parser.parse(text, env)
    blocks, start = [], 0
    for i, token in enumerate(tokens):
        if token.level == 0 and token.nesting != 1:
            group = tokens[start : i + 1]
            line = group[0].map[0] if group[0].map else 0
            blocks.append((parser.renderer.render(group, parser.options, env), line))
            start = i + 1
    return blocks


@lru_cache(maxsize=1)
def _parser() -> MarkdownIt:
    parser = MarkdownIt("commonmark", {"html": False, "breaks": True})
    parser.enable(["table", "strikethrough"])
    # A definition far below would change what stands above it while a reply grows.
    parser.disable("reference")
    parser.use(math_plugin)
    parser.add_render_rule("fence", _fence)
    parser.add_render_rule("code_block", _fence)
    parser.add_render_rule("image", _image)
    parser.add_render_rule("link_open", _link_open)
    parser.add_render_rule("table_open", lambda *_: '<div class="table"><table>\n')
    parser.add_render_rule("table_close", lambda *_: "</table></div>\n")
    for name in ("math_inline", "math_inline_double", "math_block"):
        parser.add_render_rule(name, _formula_rule(name != "math_inline"))
    return parser


def _formula_rule(display: bool) -> Any:
    def rule(
        renderer: RendererHTML,
        tokens: Sequence[Token],
        index: int,
        options: OptionsDict,
        env: EnvType,
    ) -> str:
        return formula(tokens[index].content, display=display)

    return rule


def _fence(
    renderer: RendererHTML, tokens: Sequence[Token], index: int, options: OptionsDict, env: EnvType
) -> str:
    code = tokens[index].content
    language = (tokens[index].info.strip().split() or [""])[0][:40]
    shown = html.escape(language) if language else "text"
    return (
        f'<div class="code"><div class="code-head"><span>{shown}</span>'
        '<button type="button" data-act="copy-code">Copy</button></div>'
        f"<pre><code>{_highlight(code, language)}</code></pre></div>\n"
    )


@lru_cache(maxsize=256)
def _highlight(code: str, language: str) -> str:
    if not language or len(code) > _MAX_HIGHLIGHTED_CHARS:
        return html.escape(code)
    try:
        lexer = pygments.lexers.get_lexer_by_name(language, stripnl=False)
    except pygments.util.ClassNotFound:
        return html.escape(code)
    return str(pygments.highlight(code, lexer, _FORMATTER))


def _image(
    renderer: RendererHTML, tokens: Sequence[Token], index: int, options: OptionsDict, env: EnvType
) -> str:
    """A picture as a link: a reply must not make the reader's browser fetch anything."""
    token = tokens[index]
    source = html.escape(str(token.attrGet("src") or ""), quote=True)
    return f'<a href="{source}" {_LINK_ATTRIBUTES}>{html.escape(token.content) or source}</a>'


_LINK_ATTRIBUTES = 'target="_blank" rel="noopener noreferrer nofollow"'


def _link_open(
    renderer: RendererHTML, tokens: Sequence[Token], index: int, options: OptionsDict, env: EnvType
) -> str:
    href = html.escape(str(tokens[index].attrGet("href") or ""), quote=True)
    return f'<a href="{href}" {_LINK_ATTRIBUTES}>'
