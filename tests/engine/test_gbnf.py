"""Grammars as llama.cpp has them, to the letter."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from llguidance.hf import from_tokenizer

from modules.engine.worker.structure.compile import compile_structure
from modules.errors import InvalidInputError
from modules.loader.transformers_loader import LoadedModel

Accepts = Callable[[str, str], bool]

LLAMA_CPP_JSON = r"""root   ::= object
value  ::= object | array | string | number | ("true" | "false" | "null") ws

object ::=
  "{" ws (
            string ":" ws value
    ("," ws string ":" ws value)*
  )? "}" ws

array  ::=
  "[" ws (
            value
    ("," ws value)*
  )? "]" ws

string ::=
  "\"" (
    [^"\\\x7F\x00-\x1F] |
    "\\" (["\\bfnrt] | "u" [0-9a-fA-F]{4}) # escapes
  )* "\"" ws

number ::= ("-"? ([0-9] | [1-9] [0-9]{0,15})) ("." [0-9]+)? ([eE] [-+]? [0-9] [1-9]{0,15})? ws

# Optional space
ws ::= | " " | "\n" [ \t]{0,20}
"""


@pytest.fixture(scope="module")
def accepts(tiny: LoadedModel) -> Accepts:
    """Whether a grammar matches a text, by the library's matcher of its Lark form."""
    tokenizer = from_tokenizer(tiny.tokenizer)  # type: ignore[arg-type]

    def accepts(grammar: str, text: str) -> bool:
        matcher = compile_structure("gbnf", grammar, tokenizer)
        ids = tiny.tokenizer(text)["input_ids"]
        return matcher.try_consume_tokens(ids) == len(ids) and matcher.is_accepting()

    return accepts


@pytest.mark.parametrize(
    ("grammar", "matching", "others"),
    [
        (
            LLAMA_CPP_JSON,
            ["{}", '{"a":"b\\n\\u0041","c":[1,2.5e1,{"x":null}]}', "{\n  }"],
            ['{"a"}', "[1]", '{"a":01}'],
        ),
        # What the library's own lexer would read differently.
        ('root ::= word "ing"\nword ::= [a-z]+', ["king", "inging"], ["ing"]),
        ('root ::= "a" "bc" | "ab" "d"', ["abc", "abd"], ["ab"]),
        ('root ::= [a-z]+ ("s" | "ed") | root ", " root', ["cats, played"], ["cat"]),
        ('root ::= root "+" root | [0-9]{2}', ["12", "12+34+56"], ["1", "12+"]),
        ('root ::= ("x" root)?', ["", "xx"], ["y"]),
        ('root ::= "ab"{2} "c"{1,} "d"{0,2} ("e" "f"){ 1 , 2 }', ["ababccdef"], ["abcd"]),
        (r'root ::= [^\x00-\x1f"\\\]] . "\x41\u00e9\U0001F600" [a-]', ["x\nAé😀-"], ["]xAé😀a"]),
        ('root ::= ("é" |\n "😀")+ # one\n  | "x" # two\n# three\n\n', ["é😀", "x"], ["", "éx"]),
        ('root ::= ""', [""], ["a"]),
        ('root ::= "#|" [#|]', ["#|#"], ["#|"]),
    ],
)
def test_a_grammar_matches_what_it_says(
    accepts: Accepts, grammar: str, matching: list[str], others: list[str]
) -> None:
    assert [text for text in matching if not accepts(grammar, text)] == []
    assert [text for text in others if accepts(grammar, text)] == []


@pytest.mark.parametrize(
    ("grammar", "said"),
    [
        ("root ::= (a", r"ends too early \(line 1\)"),
        ('a ::= "b"', "no rule root"),
        ('root := "b"', "is not GBNF"),
        ('root ::= "a" )', r"'\)' is not expected"),
        ("root ::= *", r"'\*' is not expected"),
        ('root ::= "\\q"', "is no escape"),
        ('root ::= "a"\nroot ::= "b"', r"root is defined twice \(line 2\)"),
        ("root ::= [z-a]", "range z-a is empty"),
        ("root ::= []", "no characters"),
        (r'root ::= "\ud800"', "is no character"),
        ('root ::= "a"{3,2}', "cannot be"),
        ('root ::= "a"{999999}', "repeats more than"),
        ('root ::= "a"\n\nfoo bar', r"'bar' is not expected \(line 3\)"),
        ("\n".join(f'r{i} ::= "a"' for i in range(1001)) + "\nroot ::= r1", "1,002 rules"),
        ("root ::= " + " | ".join(f'root "k{i}"' for i in range(3000)), "too long"),
    ],
)
def test_a_damaged_grammar_is_named_with_its_line(
    accepts: Accepts, grammar: str, said: str
) -> None:
    with pytest.raises(InvalidInputError, match=said):
        accepts(grammar, "")
