"""Telling a model of tools: by its template where it can, and in plain words where not."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest

from modules.chat.messages import Message, ToolCall
from modules.chat.tool_prompt import CallForm, Tool, call_schema, render_with_tools
from modules.engine.fake import CHATML
from modules.errors import TemplateError

WEATHER = Tool(
    "weather",
    "Tells the weather.",
    {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
)
QUESTION = Message("user", "Is it raining?")
CALL = ToolCall("call_abc123", "weather", '{"city": "Paris"}')
TALK = [
    QUESTION,
    Message("assistant", "", tool_calls=(CALL,)),
    Message("tool", "It rains.", call_id="call_abc123"),
]

HERMES = (
    "{% if tools %}<tools>{% for t in tools %}{{ t | tojson }}{% endfor %}</tools>{% endif %}"
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}"
    "{% for c in m.tool_calls or [] %}<tool_call>{{ c.function | tojson }}</tool_call>{% endfor %}"
    "{% endfor %}[assistant]"
)
LLAMA = (
    '{% if tools %}Respond with {"name": NAME, "parameters": OBJECT}.'
    "{% for t in tools %}{{ t | tojson(indent=4) }}{% endfor %}{% endif %}"
    "{% for m in messages %}[{{ m.role }}]{% if m.tool_calls %}"
    "{% if m.tool_calls | length > 1 %}{{ raise_exception('one call at a time') }}{% endif %}"
    '{"name": "{{ m.tool_calls[0].function.name }}", "parameters": '
    "{{ m.tool_calls[0].function.arguments | tojson }}}"
    "{% else %}{{ m.content }}{% endif %}{% endfor %}"
)
MISTRAL = (
    "{% if tools %}[AVAILABLE_TOOLS]{{ tools | tojson }}[/AVAILABLE_TOOLS]{% endif %}"
    "{% for m in messages %}{% if m.tool_calls %}[TOOL_CALLS]{{ m.tool_calls | tojson }}"
    "{% for c in m.tool_calls if c.id | length != 9 %}{{ raise_exception('id') }}{% endfor %}"
    "{% else %}{{ m.content }}{% endif %}{% endfor %}"
)
STRICT = (
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('turns') }}{% endif %}[{{ m.role }}]{{ m.content }}{% endfor %}"
)


def prompt(template: str, messages: list[Message], *tools: Tool) -> str:
    return render_with_tools(template, messages, tools, special_tokens={}).text


def form(template: str) -> CallForm:
    return render_with_tools(template, [QUESTION], [WEATHER], special_tokens={}).form


def test_a_template_that_takes_tools_gets_them_in_openais_form() -> None:
    tools = prompt(HERMES, [QUESTION], WEATHER).partition("</tools>")[0].removeprefix("<tools>")
    assert json.loads(tools) == {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "Tells the weather.",
            "parameters": WEATHER.parameters,
        },
    }


def test_calls_and_answers_go_through_such_a_template() -> None:
    text = prompt(HERMES, TALK, WEATHER)
    call = text.partition("<tool_call>")[2].partition("</tool_call>")[0]
    assert json.loads(call) == {"name": "weather", "arguments": {"city": "Paris"}}
    assert text.endswith("[tool]It rains.[assistant]")


def test_an_id_of_any_form_suits_a_template_that_wants_nine_letters() -> None:
    assert "[AVAILABLE_TOOLS]" in prompt(MISTRAL, TALK, WEATHER)


def test_several_calls_at_once_are_put_in_words_where_a_template_refuses_them() -> None:
    several = Message("assistant", "", tool_calls=(CALL, CALL))
    text = prompt(LLAMA, [QUESTION, several, TALK[2], TALK[2]], WEATHER)
    assert text.count("It rains.") == 2
    assert text.count('<tool_call>\n{"name": "weather", "arguments": {"city": "Paris"}}') == 2


@pytest.mark.parametrize("template", [CHATML, STRICT], ids=["chatml", "turns"])
def test_a_template_that_takes_no_tools_has_them_described_in_the_system_message(
    template: str,
) -> None:
    system = Message("system", "Be brief.")
    text = prompt(template, [system, *TALK], WEATHER)
    assert '"description": "Tells the weather."' in text
    assert "Be brief." in text
    assert '<tool_call>\n{"name": "weather", "arguments": {"city": "Paris"}}\n</tool_call>' in text
    assert "<tool_response>\nIt rains.\n</tool_response>" in text


def test_answers_side_by_side_become_one_message_of_the_user() -> None:
    text = prompt(STRICT, [*TALK, TALK[2], Message("user", "And?")], WEATHER)
    assert text.count("[user]") == 2


def test_without_tools_the_earlier_calls_are_still_told() -> None:
    text = prompt(CHATML, TALK)
    assert "It rains." in text
    assert "You can call" not in text


@pytest.mark.parametrize("template", [HERMES, MISTRAL, CHATML, STRICT])
def test_a_reply_goes_on_after_a_call(template: str) -> None:
    talk = [*TALK, Message("assistant", "It is")]
    made = render_with_tools(template, talk, [WEATHER], special_tokens={}, continue_final=True)
    assert made.text.endswith("It is") and "It rains." in made.text


def test_a_damaged_template_is_an_error_here_too() -> None:
    with pytest.raises(TemplateError):
        prompt("{% for %}", [QUESTION], WEATHER)


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (HERMES, CallForm("<tool_call>\n")),
        (CHATML, CallForm("<tool_call>\n")),
        (LLAMA, CallForm(key="parameters")),
        (MISTRAL, CallForm("[TOOL_CALLS]", listed=True)),
    ],
    ids=["hermes", "plain", "llama", "mistral"],
)
def test_a_call_is_expected_in_the_form_of_the_template(template: str, expected: CallForm) -> None:
    assert form(template) == expected


# -- the schema of a call -------------------------------------------------------------------

NODE: dict[str, Any] = {
    "type": "object",
    "properties": {"child": {"$ref": "#/$defs/node"}},
    "additionalProperties": False,
    "$defs": {"node": {"type": "object", "properties": {"child": {"$ref": "#"}}}},
}


def fits(call: object, *tools: Tool, form: CallForm | None = None) -> bool:
    validator = jsonschema.Draft202012Validator(call_schema(tools, form or CallForm()))
    return bool(validator.is_valid(call))


def test_a_call_is_one_of_the_tools_with_arguments_of_its_schema() -> None:
    other = Tool("now")
    assert fits({"name": "weather", "arguments": {"city": "Paris"}}, WEATHER, other)
    assert fits({"name": "now", "arguments": {}}, WEATHER, other)
    assert not fits({"name": "weather", "arguments": {}}, WEATHER, other)
    assert not fits({"name": "delete", "arguments": {}}, WEATHER, other)
    assert not fits({"name": "weather"}, WEATHER)


def test_the_form_of_the_template_is_in_the_schema() -> None:
    form = CallForm(key="parameters", listed=True)
    assert fits([{"name": "weather", "parameters": {"city": "Paris"}}], WEATHER, form=form)
    assert not fits([], WEATHER, form=form)


def test_references_of_a_tool_lead_to_its_own_schema() -> None:
    tree = Tool("tree", "", NODE)
    assert fits({"name": "tree", "arguments": {"child": {"child": {}}}}, WEATHER, tree)
    assert not fits({"name": "tree", "arguments": {"child": {"child": {"x": 1}}}}, WEATHER, tree)
