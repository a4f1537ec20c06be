"""From what a user wrote to what llguidance follows, within bounds, or a sentence why not."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from modules.engine.worker.structure.gbnf import lark_from_gbnf
from modules.errors import InvalidInputError

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

__all__ = ["compile_structure", "first_line"]

# The items count for recursive grammars, whose lexemes are single characters: with a vocabulary
# of 49,152 tokens the usual 50,000 do not suffice. The library counts some 20 of them a µs.
_MOST_ITEMS = 1_000_000
_FUEL = 1_000_000

# Some grammars take time by the square of this. A schema of 36 KiB had over 20,000.
_MOST_SYMBOLS = 50_000
_MOST_ITEMS_AT_ONCE = 10_000

# A model that is unsure of the next key would fill the rest of its reply with white space.
_SPACE = r" ?(\n[ \t]{0,40})?"

# A multiple is found by an automaton of as many states as the factor has remainders: 10,000 take
# 60 ms, and 1,000,000 took 13 s.
_MOST_REMAINDERS = 10_000

# 3,000 that all mean the schema itself took 80 s.
_MOST_ALTERNATIVES = 500


def compile_structure(kind: str, text: str, tokenizer: LLTokenizer) -> LLMatcher:
    """The matcher at the beginning of a reply of the structure `kind`, as `SamplingParams` has it.

    Raises InvalidInputError for a text that is damaged, too complex, or asks for what the
    library cannot hold a reply to. How long that takes is for the caller to watch.
    """
    from llguidance import LLMatcher, LLParserLimits

    # A lone surrogate, half of a broken emoji, has no UTF-8 form.
    text = text.encode("utf-8", "replace").decode("utf-8")
    limits = LLParserLimits(
        max_items_in_row=_MOST_ITEMS_AT_ONCE,
        step_max_items=_MOST_ITEMS,
        step_lexer_fuel=_FUEL,
        max_grammar_size=_MOST_SYMBOLS,
        verbose_errors=False,
    )
    matcher = LLMatcher(tokenizer, _grammar(kind, text), log_level=0, limits=limits)
    if not matcher.is_error():
        # Now, and not in mid-reply: most of what is too complex shows at the first token.
        matcher.compute_logit_bias()
    if matcher.is_error():
        message = matcher.get_error()
        raise _refused(kind, first_line(message) if kind == "gbnf" else _explained(message))
    return matcher


def first_line(message: str) -> str:
    """The library's complaint without its dumps, as a part of a sentence."""
    return (message.strip().splitlines() or ["unknown"])[0][:200].rstrip(".")


def _grammar(kind: str, text: str) -> str:
    from llguidance import LLMatcher, regex_to_lark

    if kind != "json" and not text.strip():
        raise InvalidInputError(
            f"The structure {kind} has no text.",
            "Write it, or choose another structure.",
            field="structure_text",
        )
    match kind:
        case "json":
            return _from_schema('{"type": "object"}')
        case "json_schema":
            _check_schema(text)
            return _from_schema(text)
        case "regex":
            # \d and the like mean ASCII, as whoever writes them expects.
            return LLMatcher.grammar_from_lark(f"start: /{regex_to_lark(text, 'dws')}/")
        case _:
            return LLMatcher.grammar_from_lark(lark_from_gbnf(text))


def _from_schema(schema: str) -> str:
    from llguidance import LLMatcher

    try:
        return LLMatcher.grammar_from_json_schema(schema, {"whitespace_pattern": _SPACE})
    except ValueError as error:
        raise _refused("json_schema", first_line(str(error))) from None


def _check_schema(text: str) -> None:
    try:
        schema = json.loads(text, object_hook=_bounded, parse_constant=_bounded)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise _refused("json_schema", f"it is not JSON: {error.msg} ({place})") from None
    except (RecursionError, ValueError):  # deeper, or with longer numbers, than Python reads
        raise _refused("json_schema", "it is not JSON that can be read") from None
    if not isinstance(schema, dict):
        raise _refused("json_schema", "it is not an object in braces")


def _bounded(part: Any) -> Any:
    """A part of a schema, if it is such as the library can work with."""
    if isinstance(part, str):
        raise _refused("json_schema", f"{part} is not JSON")
    factor = part.get("multipleOf")
    if isinstance(factor, int | float) and _remainders(factor) > _MOST_REMAINDERS:
        raise _refused("json_schema", f"multipleOf {factor} is too large")
    for key in ("anyOf", "oneOf", "allOf"):
        parts = part.get(key)
        if isinstance(parts, list) and len(parts) > _MOST_ALTERNATIVES:
            why = f"{key} has {len(parts):,} parts, and {_MOST_ALTERNATIVES} is the limit"
            raise _refused("json_schema", why)
    return part


def _remainders(factor: float) -> int:
    # Powers of ten are digits at the end, which cost nothing.
    _, digits, _ = Decimal(str(factor)).normalize().as_tuple()
    return int("".join(map(str, digits)))


def _explained(message: str) -> str:
    """What the library says of a schema or a regular expression, in one line, and where."""
    lines = message.strip().splitlines()
    for place, line in enumerate(lines[1:-1], start=1):
        if line.strip().strip("^") == "":
            at = lines[place - 1][len(line) - len(line.lstrip()) :]
            return f"{lines[place + 1].removeprefix('error: ').rstrip('.')}, at {at[:30]!r}"
    return first_line(message).rpartition("(in regex): ")[2]


def _refused(kind: str, why: str) -> InvalidInputError:
    names = {"regex": "regular expression", "gbnf": "grammar"}
    return InvalidInputError(
        f"The {names.get(kind, 'JSON schema')} cannot be used: {why}.",
        "Correct or simplify it.",
        field="structure_text",
    )
