"""LaTeX to MathML that is safe to put into a page."""

from __future__ import annotations

import html
from functools import lru_cache
from xml.etree.ElementTree import Element, tostring

import latex2mathml.converter

__all__ = ["formula"]

_MAX_CHARS = 4_000
# fmt: off
_ATTRIBUTES = frozenset({
    "accent", "align", "close", "columnalign", "columnlines", "columnspacing", "depth", "display",
    "displaystyle", "fence", "form", "height", "largeop", "linethickness", "lspace", "mathcolor",
    "mathsize", "mathvariant", "maxsize", "minsize", "movablelimits", "notation", "open",
    "rowlines", "rowspacing", "rspace", "scriptlevel", "separators", "side", "stretchy",
    "symmetric", "voffset", "width", "xmlns",
})
# fmt: on


@lru_cache(maxsize=2048)
def formula(latex: str, *, display: bool) -> str:
    """The formula as HTML; one that does not parse is shown as it was written."""
    tag = "div" if display else "span"
    return f'<{tag} class="math">{_mathml(latex, display)}</{tag}>'


def _mathml(latex: str, display: bool) -> str:
    source = f"<code>{html.escape(latex)}</code>"
    if len(latex) > _MAX_CHARS:
        return source
    try:
        # The library's own serializer undoes the escaping of the text in a formula, which
        # would let \text{<img onerror=...>} through; so only its tree is used.
        tree = latex2mathml.converter.convert_to_element(
            latex, display="block" if display else "inline"
        )
    except Exception:  # noqa: BLE001 - it raises whatever it meets, IndexError included
        return source
    _clean(tree)
    return tostring(tree, encoding="unicode")


def _clean(element: Element) -> None:
    """Decode the library's character references, and keep only known attributes."""
    if element.text:
        element.text = html.unescape(element.text)
    if element.tail:
        element.tail = html.unescape(element.tail)
    for name in set(element.attrib) - _ATTRIBUTES:
        del element.attrib[name]
    for child in element:
        _clean(child)
