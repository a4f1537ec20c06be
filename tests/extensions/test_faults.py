"""Whatever an extension does in whatever hook, it is named and off, and the chat goes on."""

from __future__ import annotations

import pytest

from modules.extensions.chat import IN_CHAT
from modules.extensions.hooks import IN_WORKER, NAMES
from modules.extensions.manager import ExtensionInfo, ExtensionManager
from tests.chats import asked
from tests.extensions.conftest import Chats, Manage, Write

pytestmark = pytest.mark.anyio

PARIS = "The capital of France is Paris."
FAULTS = {
    "raises": "raise ValueError('no')",
    "hangs": "while True: pass",
    "gives another type": "return object()",
    "ends the program": "import sys; sys.exit(3)",
}
SAID = {
    "raises": "raised ValueError: no (line 2 of script.py).",
    "hangs": "s (line 2 of script.py).",
    "gives another type": "returned a value of type object",
    "ends the program": "tried to end the program (line 2 of script.py).",
}
IN_PAGE = [h for h in NAMES if h not in {*IN_CHAT, *IN_WORKER, "setup"}]
ANYTHING_GOES = ("ui", "gives another type")
"""What it returns is nobody's."""


def info(manager: ExtensionManager, name: str = "broken") -> ExtensionInfo:
    (found,) = (one for one in manager.infos() if one.name == name)
    return found


def seconds(fault: str) -> float:
    """How long a hook may take: little where it is to be waited for."""
    return 0.3 if fault == "hangs" else 5.0


def broken(hook: str, fault: str) -> str:
    return f"def {hook}(*args, **kwargs):\n    {FAULTS[fault]}\n"


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("hook", IN_CHAT)
async def test_a_chat_goes_on_when_a_hook(
    hook: str, fault: str, write: Write, manage: Manage, chats: Chats
) -> None:
    write("broken", broken(hook, fault))
    write("sound", "def output_modifier(string):\n    return string.upper()\n")
    manager = manage("broken", "sound", seconds=seconds(fault))
    service = chats(manager)
    chat = await asked(service, "Hello")
    messages = await service.branch(chat, "owner")
    assert [m.content for m in messages] == ["Hello", PARIS]
    assert messages[-1].state == "complete"
    assert messages[-1].shown == PARIS.upper()
    failed = info(manager)
    assert failed.state == "failed"
    assert failed.error.startswith(hook)
    expected = SAID[fault]
    if hook == "custom_generate_reply" and fault != "ends the program":
        expected = expected.replace("returned a value of type object", "no generator of texts")
    assert expected in failed.error
    assert failed.remedy
    assert info(manager, "sound").state == "on"


@pytest.mark.parametrize("fault", [f for f in FAULTS if f != "gives another type"])
async def test_a_launch_goes_on_when_setup(
    fault: str, write: Write, manage: Manage, chats: Chats
) -> None:
    write("broken", broken("setup", fault))
    manager = manage("broken", seconds=seconds(fault))
    assert info(manager).state == "failed"
    assert SAID[fault] in info(manager).error
    service = chats(manager)
    chat = await asked(service, "Hello")
    assert (await service.branch(chat, "owner"))[-1].content == PARIS


@pytest.mark.parametrize(
    ("hook", "fault"),
    [(hook, fault) for hook in IN_PAGE for fault in FAULTS if (hook, fault) != ANYTHING_GOES],
)
def test_a_page_goes_on_without_what_fails_to_build(
    hook: str, fault: str, write: Write, manage: Manage
) -> None:
    write("broken", broken(hook, fault))
    manager = manage("broken", seconds=seconds(fault))
    (script,) = manager.plugins()
    with pytest.raises(Exception, match=f"The extension broken failed: {hook}"):
        manager.call_waiting(script, hook)
    assert info(manager).state == "failed"
    assert SAID[fault] in info(manager).error


@pytest.mark.parametrize(
    ("source", "error"),
    [
        ("def output_modifier(string:\n", "script.py is no Python in line 1"),
        ("import no_such_package\n", "import raised ModuleNotFoundError: No module named"),
        ("raise RuntimeError('at once')\n", "import raised RuntimeError: at once (line 1"),
        ("import sys\nsys.exit()\n", "import tried to end the program (line 2"),
        ("while True:\n    pass\n", "import did not return within"),
        ("def f():\n    return f()\nf()\n", "import raised RecursionError"),
        ("\0", "script.py is no Python"),
    ],
)
async def test_a_script_that_cannot_be_imported_is_listed_with_its_line(
    source: str, error: str, write: Write, manage: Manage, chats: Chats
) -> None:
    write("broken", source)
    manager = manage("broken", seconds=seconds("hangs" if "while" in source else ""))
    assert info(manager).state == "failed"
    assert error in info(manager).error
    assert (await asked(chats(manager), "Hello")) > 0


def test_a_missing_package_is_told_with_the_command_that_brings_it(
    write: Write, manage: Manage
) -> None:
    write("broken", "import no_such_package.part\n")
    assert "pip install no_such_package" in info(manage("broken")).remedy


def test_a_script_that_imports_from_text_generation_webui_is_told_where_from_instead(
    write: Write, manage: Manage
) -> None:
    write("broken", "from modules.text_generation import encode\n")
    assert "modules.extensions.webui" in info(manage("broken")).remedy


async def test_a_custom_reply_that_fails_midway_keeps_what_came_and_names_the_extension(
    write: Write, manage: Manage, chats: Chats
) -> None:
    write("broken", "def custom_generate_reply(*args, **kwargs):\n    yield 'Once'\n    1 / 0\n")
    service = chats(manage("broken"))
    chat = await asked(service, "Hello")
    reply = (await service.branch(chat, "owner"))[-1]
    assert (reply.content, reply.state) == ("Once", "cut")
    assert "The extension broken failed" in reply.error
    chat = await asked(service, "Hello again")
    assert (await service.branch(chat, "owner"))[-1].content == PARIS


async def test_an_extension_that_failed_can_be_switched_on_again(
    write: Write, manage: Manage, chats: Chats
) -> None:
    write("broken", broken("output_modifier", "raises"))
    manager = manage("broken")
    service = chats(manager)
    await asked(service, "Hello")
    write("broken", "def output_modifier(string):\n    return string + '!'\n")
    await manager.enable("broken")
    chat = await asked(service, "Hello")
    assert (await service.branch(chat, "owner"))[-1].shown == PARIS + "!"
