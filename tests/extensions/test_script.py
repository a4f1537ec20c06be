"""Scripts written for text-generation-webui, with the signatures of all its years."""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any

import pytest

from modules.extensions.hooks import NAMES
from modules.extensions.script import Plugins, Script, adapted

STATE: dict[str, Any] = {"name1": "You"}


def returning(source: str) -> Callable[..., Any]:
    return eval(source)  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("source", "given"),
    [
        ("lambda string: (string,)", ("text",)),
        ("lambda string, state: (string, state)", ("text", STATE)),
        ("lambda string, state, is_chat=False: (string, state, is_chat)", ("text", STATE, True)),
        ("lambda string, is_chat=False: (string, is_chat)", ("text", True)),
        ("lambda text, *, is_final: (text, is_final)", ("text", False)),
        ("lambda *args, **kwargs: args", ("text", STATE)),
    ],
)
def test_a_modifier_gets_as_much_as_it_takes(source: str, given: tuple[Any, ...]) -> None:
    run = adapted("output_modifier", returning(source))
    assert run("text", STATE, True, False) == given


@pytest.mark.parametrize(
    ("source", "given"),
    [
        (
            "lambda question, original_question, seed, state, stopping_strings, is_chat=False: "
            "(seed, state, stopping_strings, is_chat)",
            (7, STATE, ["#"], True),
        ),
        (
            "lambda question, original_question, state, stopping_strings, is_chat=False: "
            "(question, state, stopping_strings, is_chat)",
            ("q", STATE, ["#"], True),
        ),
        ("lambda a, b, c, d: (c, d)", (STATE, ["#"])),
        ("lambda *given, is_chat: given[2:]", (7, STATE, ["#"])),
    ],
)
def test_a_custom_reply_is_given_a_seed_where_it_takes_one(
    source: str, given: tuple[Any, ...]
) -> None:
    run = adapted("custom_generate_reply", returning(source))
    assert run("q", "o", 7, STATE, ["#"], True) == given


def test_a_custom_prompt_gets_the_keywords_that_it_takes() -> None:
    more = {"history": 1, "impersonate": False, "_continue": True}
    run = adapted("custom_generate_chat_prompt", lambda user, state, **kwargs: kwargs)
    assert run("hi", STATE, more) == more
    run = adapted("custom_generate_chat_prompt", lambda user, state, history=None: history)
    assert run("hi", STATE, more) == 1
    run = adapted("custom_generate_chat_prompt", lambda user, state: user)
    assert run("hi", STATE, more) == "hi"


def test_every_hook_is_a_specification_and_plugins_are_held_to_them() -> None:
    module = types.ModuleType("all")
    for name in NAMES:
        setattr(module, name, lambda *args, **kwargs: None)
    plugins = Plugins()
    script = Script("all", module)
    plugins.register(script, "all")
    plugins.check_pending()
    assert script.hooks == NAMES
    assert all(plugins.declaring(name) == [script] for name in NAMES)
    plugins.unregister(script)
    assert not any(plugins.declaring(name) for name in NAMES)


def test_a_script_without_params_has_none() -> None:
    script = Script("bare", types.ModuleType("bare"))
    assert (script.params, script.display_name, script.is_tab) == ({}, "bare", False)
