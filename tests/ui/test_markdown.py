"""What a model writes becomes a page that is safe, whole, and the same while it grows."""

from __future__ import annotations

import re
from html import unescape
from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modules.ui.formula import formula
from modules.ui.markdown import GrowingMarkdown, render_blocks


def page(text: str) -> str:
    return "".join(render_blocks(text))


def words(html: str) -> str:
    """The text of a page, as a reader sees it."""
    return unescape(re.sub("<[^>]*>", "", html))


# -- what is shown ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "html"),
    [
        ("**bold** and *italic*", "<strong>bold</strong> and <em>italic</em>"),
        ("# Title", "<h1>Title</h1>"),
        ("- a\n- b", "<li>a</li>\n<li>b</li>"),
        ("~~gone~~", "<s>gone</s>"),
        ("a\nb", "a<br />\nb"),
        ("`x < y`", "<code>x &lt; y</code>"),
        ("| a | b |\n|---|---|\n| 1 | 2 |", '<div class="table"><table>'),
        ("> said", "<blockquote>"),
    ],
)
def test_markdown_becomes_html(text: str, html: str) -> None:
    assert html in page(text)


def test_each_top_level_block_is_a_block() -> None:
    assert len(render_blocks("# a\n\nb\n\n- c\n- d\n\n```\ne\n\nf\n```\n\n$$\ng\n$$")) == 5


@pytest.mark.parametrize("text", ["", "\n\n", "  \n"])
def test_nothing_has_no_blocks(text: str) -> None:
    assert render_blocks(text) == ()


def test_code_is_highlighted_and_can_be_copied() -> None:
    html = page("```python\ndef f(): pass\n```")
    assert '<span class="k">def</span>' in html
    assert 'data-act="copy-code"' in html
    assert "<span>python</span>" in html


@pytest.mark.parametrize("info", ["nosuchlanguage", "", "{.x #y}", '"><b>', "x" * 500])
def test_code_in_no_known_language_is_shown_as_it_is(info: str) -> None:
    html = page(f"```{info}\nif a < b:\n```")
    assert "if a &lt; b:" in html
    assert "<b>" not in html


def test_links_open_elsewhere_and_tell_nothing() -> None:
    html = page("[x](https://example.org/a?b=1&c=2)")
    assert 'href="https://example.org/a?b=1&amp;c=2"' in html
    assert 'rel="noopener noreferrer nofollow"' in html


def test_pictures_become_links_so_that_nothing_is_fetched() -> None:
    html = page("![a cat](https://example.org/cat.png)")
    assert '<a href="https://example.org/cat.png"' in html
    assert "a cat</a>" in html
    assert "<img" not in html


# -- formulas ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "$x^2$", "$$x^2$$", "\\(x^2\\)", "\\[x^2\\]", "\\[\nx^2\n\\]", "$$\nx^2\n$$",
        "$$\n\nx^2\n\n$$",
        "\\begin{align}x^2\\end{align}", "so $x^2$ it is", "so \\(x^2\\) it is", "- a\n  \\[x^2\\]",
        "The formula:\n\\[\nx^2\n\\]\nwhere", "The formula:\n$$\nx^2\n$$\nwhere",
        "> $$\n> x^2\n> $$",
        "so \\[x^2\\] it is", "\\[x^2\\] it is", "\\begin{equation*}\nx^2\n\\end{equation*}",
    ],
)  # fmt: skip
def test_latex_becomes_mathml(text: str) -> None:
    html = page(text)
    assert html.count("<math") == 1
    assert "<msup>" in html


@pytest.mark.parametrize(
    "text",
    [
        "it costs $5 and $10", "a $ b $ c", "\\[", "\\[ x", "$$", "$$$$", "$$\n$$", "\\(\\)",
        "`$x$`",
        "```\n$$x$$\n```", "\\begin{align}", "\\end{align}", "    $$x$$", "\\begin{foo}x\\end{foo}",
    ],
)  # fmt: skip
def test_what_is_no_formula_is_left_alone(text: str) -> None:
    assert "<math" not in page(text)


def test_text_behind_a_formula_is_not_lost() -> None:
    for text in ("\\[x\\] TAIL", "$$x$$ TAIL", "\\begin{align}x\\end{align} TAIL", "\\(x\\) TAIL"):
        assert "TAIL" in words(page(text))


def test_the_number_of_an_equation_is_shown() -> None:
    for text in ("\\[E=mc^2\\] (17)", "$$E=mc^2$$ (17)", "$$\nE=mc^2\n$$ (17)"):
        assert page(text).count("<math") == 1
        assert "(17)" in words(page(text))


def test_a_formula_in_a_list_does_not_swallow_what_follows_the_list() -> None:
    html = page("- \\[ x\n\nTAIL\n\n\\]")
    assert "<p>TAIL</p>" in html
    assert "<math" not in html


@pytest.mark.parametrize(
    "latex", ["\\frac", "{", "}", "\\left(", "^", "\\nosuch{x}", "\\", "&", "{" * 500]
)
def test_a_formula_that_does_not_parse_is_shown_as_it_was_written(latex: str) -> None:
    html = formula(latex, display=False)
    assert html.startswith('<span class="math">')
    assert "<math" in html or f"<code>{latex.replace('&', '&amp;')}</code>" in html


def test_a_very_long_formula_is_shown_as_it_was_written() -> None:
    assert "<math" not in formula("x" * 4001, display=True)


# -- safety -----------------------------------------------------------------------------

HTML = (
    "a blockquote br button code del div em h1 h2 h3 h4 h5 h6 hr li ol p pre s span strong table "
    "tbody td th thead tr ul"
)
MATHML = (
    "math menclose mfrac mi mmultiscripts mn mo mover mpadded mphantom mprescripts mroot mrow "
    "mspace msqrt mstyle msub msubsup msup mtable mtd mtext mtr munder munderover none"
)
ALLOWED = frozenset(f"{HTML} {MATHML}".split())
ATTACKS = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "<svg/onload=alert(1)>",
    "<iframe srcdoc='<script>alert(1)</script>'>",
    "<math><mtext><table><mglyph><style><img src=x onerror=alert(1)>",
    "<a href='javascript:alert(1)'>x</a>",
    "<!--><script>alert(1)</script>-->",
    "<b onmouseover=alert(1)>x</b>",
    "&lt;script&gt;alert(1)&lt;/script&gt;",
    "&#60;img src=x onerror=alert(1)&#62;",
    '"><img src=x onerror=alert(1)>',
    "]]><script>alert(1)</script>",
    "</code></pre><script>alert(1)</script>",
    "\x00<scr\x00ipt>alert(1)</script>",
]
PLACES = [
    "{}", "a {} b", "# {}", "- {}", "> {}", "| {} |\n|---|\n| {} |", "`{}`", "```\n{}\n```",
    "```{}\nx\n```", "```html\n{}\n```", "```python\n{}\n```", "    {}", "**{}**", "[{}](http://x)",
    "[x]({})", "[x](<{}>)", '[x](http://y "{}")', "![{}](http://x)", "![x]({})", '![x](y "{}")',
    "<http://x/{}>", "[{}]: http://x\n\n[{}]", "[a]: {}\n\n[a]", "${}$", "$${}$$", "\\({}\\)",
    "\\[{}\\]", "\\[{}\\] ({})", "$$x$$ ({})", "\\begin{{align}}{}\\end{{align}}", "$\\text{{{}}}$",
    "$\\mathrm{{{}}}$", "$\\color{{{}}}{{x}}$", "$\\href{{{}}}{{x}}$", "$\\class{{{}}}{{x}}$",
    "$\\style{{{}}}{{x}}$", "$\\operatorname{{{}}}$", "$\\hspace{{{}}}$", "$\\tag{{{}}}$",
    "$\\begin{{array}}{{{}}}x\\end{{array}}$", "$\\unicode{{{}}}$", "$x\\label{{{}}}$",
]  # fmt: skip


class Guard(HTMLParser):
    """Fails at a tag, an attribute or an address that no reply may bring into the page."""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in ALLOWED, tag
        for name, value in attrs:
            assert not name.startswith("on"), name
            if name in ("href", "src"):
                assert name == "href"
                assert tag == "a"
                assert safe_address(value or "")
            if name == "style":
                assert re.fullmatch(r"text-align:(left|center|right)", value or "")

    def handle_comment(self, data: str) -> None:
        raise AssertionError(data)

    def handle_decl(self, decl: str) -> None:
        raise AssertionError(decl)

    def handle_pi(self, data: str) -> None:
        raise AssertionError(data)


def safe_address(address: str) -> bool:
    scheme, colon, _ = re.sub(r"[\x00-\x20]", "", address).partition(":")
    return not colon or scheme.lower() not in ("javascript", "vbscript", "data", "file")


def guard(html: str) -> None:
    parser = Guard()
    parser.feed(html)
    parser.close()


@pytest.mark.parametrize("place", PLACES)
def test_no_html_of_a_model_survives(place: str) -> None:
    for attack in ATTACKS:
        guard(page(place.format(attack, attack)))


@pytest.mark.parametrize(
    "address",
    [
        "javascript:alert(1)", "JaVaScRiPt:alert(1)", "java\tscript:alert(1)",
        " javascript:alert(1)",
        "&#106;avascript:alert(1)", "&#x6A;avascript&colon;alert(1)", "javascript&#58;alert(1)",
        "\x01javascript:alert(1)", "vbscript:x", "data:text/html,<script>alert(1)</script>",
        "data:text/html;base64,PHNjcmlwdD4=", "file:///etc/passwd", "javascript%3Aalert(1)",
        "\\javascript:alert(1)", "jav&#x09;ascript:alert(1)", "data:image/svg+xml,<svg onload=x>",
    ],
)  # fmt: skip
@pytest.mark.parametrize(
    "place", ["[x]({})", "[x](<{}>)", "<{}>", "![x]({})", "[![x]({})]({})", "$\\href{{{}}}{{x}}$"]
)
def test_no_address_runs_code(place: str, address: str) -> None:
    guard(page(place.format(address, address)))


def test_html_in_the_text_of_a_formula_is_text() -> None:
    html = page("$\\text{<img src=x onerror=alert(1)>}$")
    assert "&lt;img" in html
    guard(html)


SNIPPETS = st.sampled_from(
    [*ATTACKS, "$", "$$", "\\[", "\\]", "\\(", "\\)", "\\text{", "}", "`", "```", "[", "](", ")",
    "!",
     "\n", "\n\n", "> ", "- ", "| ", "\\begin{align}", "\\end{align}", "&", "\\\\", '"', "'",
     "javascript:"]
)  # fmt: skip


@settings(derandomize=True, deadline=None, max_examples=300)
@given(st.lists(SNIPPETS, max_size=14).map("".join))
def test_no_mixture_of_attacks_and_markdown_survives(text: str) -> None:
    guard(page(text))


# -- growing ----------------------------------------------------------------------------


def check_growth(text: str, cuts: list[int]) -> None:
    growing, seen = GrowingMarkdown(), list[str]()
    for cut in [*cuts, len(text)]:
        first = growing.update(text[:cut])
        seen[first:] = growing.blocks[first:]
        assert seen == growing.blocks == list(render_blocks(text[:cut])), repr(text[:cut])


WHOLE = """# A title

Some *text* with `code`, $x^2$ and a [link](http://x).
More of it:
1. one
2. two

   still two

- a
- b
---
| a | b |
|---|:-:|
| 1 | 2 |
after the table

```python
def f():

    return 1
```
The formula:
\\[
\\frac{a}{b}
\\]
and
$$
x

y
$$
\\begin{align}
a &= b \\\\
c &= d
\\end{align}

> quoted
lazily

    indented

Setext
======
[a]: http://reference
see [a]
"""


def test_a_growing_text_is_at_every_length_what_it_would_be_at_once() -> None:
    check_growth(WHOLE, list(range(len(WHOLE))))


@pytest.mark.parametrize(
    "text",
    [
        "- a\n---x", "a\n#b", "a\n```x`y", "p\n| a | b |\n|---|---|x", "a\n***b",
        "[a]\n\n[a]: http://x",
        "$$\na\n\nb\nc\nd\n$$\n\nc", "\\begin{align}\na\n\nb\nc\nd\n\\end{align}",
        "\\[a\n\nb\nc\nd\n\\]",
        "> $$\n> a\n>\n> b\n\nc\nd\ne", "- $$\n  a\n\n  b\n  c\n  $$\n\nd\ne\nf",
        "\\[a\n\nb\\]\n\nc\n\nd\n\ne", "a\n\n\n\nb\n\nc\n\nd", "a\r\n\r\nb\r\n\r\nc\r\n",
        "- $$x$$\n- b\n\nc\n\nd\n\ne", "a\u2028b\n\nc\x0bd\n\ne\x85f\n\ng\n\nh",
        "\x00\n\na\n\nb\n\nc\n\n",
    ],
)  # fmt: skip
def test_a_block_is_final_only_when_no_letter_can_change_it(text: str) -> None:
    check_growth(text, list(range(len(text))))


PIECES = st.sampled_from(
    ["a", "b ", "\n", "\n\n", "\n", "- ", "* ", "1. ", "2) ", "# ", "> ", "    ", "  ", "```",
    "~~~", "---",
     "***", "===", "| a | b |\n", "|---|---|\n", "| ", "|", "$$", "$", "\\[", "\\]", "\\(", "\\)",
     "\\begin{align}", "\\end{align}", "[a]", "[a]: http://x\n", "**", "`", "\t", "\\", " (1)",
     "\r\n"]
)  # fmt: skip


@settings(derandomize=True, deadline=None, max_examples=300)
@given(st.lists(PIECES, max_size=24).map("".join), st.data())
def test_any_text_grows_to_what_it_would_be_at_once(text: str, data: st.DataObject) -> None:
    cuts = data.draw(st.lists(st.integers(0, len(text)), max_size=12).map(sorted))
    check_growth(text, cuts)


@settings(derandomize=True, deadline=None, max_examples=60)
@given(st.lists(PIECES, max_size=16).map("".join))
def test_any_text_grows_letter_by_letter(text: str) -> None:
    check_growth(text, list(range(len(text))))


def test_a_finished_block_is_not_touched_again() -> None:
    growing = GrowingMarkdown()
    growing.update("one\n\ntwo\n\nthree\n\n")
    assert growing.update("one\n\ntwo\n\nthree\n\nfour") >= 2


def test_a_text_that_is_changed_where_it_was_finished_is_parsed_anew() -> None:
    growing = GrowingMarkdown()
    growing.update("one\n\ntwo\n\nthree\n\nfour")
    assert growing.update("ONE\n\ntwo") == 0
    assert growing.blocks == list(render_blocks("ONE\n\ntwo"))
    growing.update("ONE\n\ntwo\n\nthree")
    assert growing.blocks == list(render_blocks("ONE\n\ntwo\n\nthree"))
