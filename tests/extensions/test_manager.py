"""Which extensions are on, in which order, and how they are set."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from modules.errors import ExtensionError, InvalidInputError, NotFoundError
from modules.extensions.chosen import chosen_of
from modules.extensions.manager import ExtensionManager
from modules.settings import Origins, Settings, read_launch
from tests.extensions.conftest import Manage, Write

pytestmark = pytest.mark.anyio

SCRIPT = '''
"""Says things loudly.

More about it.
"""

from pathlib import Path

Path(__file__).with_name("imported").write_text("yes")
params = {"display_name": "Loud", "is_tab": True, "level": 3, "word": "Oh", "rate": 0.5}
seen = []


def setup():
    seen.append(dict(params))


def output_modifier(string):
    return string.upper()
'''


def imported(tmp_path: Path, name: str) -> bool:
    return (tmp_path / "extensions" / name / "imported").exists()


def states(manager: ExtensionManager) -> dict[str, str]:
    return {info.name: info.state for info in manager.infos()}


def test_an_extension_that_is_off_is_told_and_not_imported(
    write: Write, manage: Manage, tmp_path: Path
) -> None:
    write("loud", SCRIPT)
    (info,) = manage().infos()
    assert not imported(tmp_path, "loud")
    assert (info.name, info.display_name, info.about) == ("loud", "Loud", "Says things loudly.")
    assert (info.state, info.hooks, info.has_ui) == ("off", ("setup", "output_modifier"), False)
    assert info.params == {"level": 3, "word": "Oh", "rate": 0.5}


def test_those_that_are_on_come_first_in_their_order(write: Write, manage: Manage) -> None:
    for name in ("a", "b", "c"):
        write(name, "")
    manager = manage("c", "a")
    assert list(states(manager).items()) == [("c", "on"), ("a", "on"), ("b", "off")]
    assert [script.name for script in manager.plugins()] == ["c", "a"]


async def test_they_can_be_switched_on_and_off_while_it_runs(
    write: Write, manage: Manage, tmp_path: Path
) -> None:
    write("loud", SCRIPT)
    manager = manage()
    version = manager.changed.version
    await manager.enable("loud")
    assert imported(tmp_path, "loud")
    assert [script.name for script in manager.declaring("output_modifier")] == ["loud"]
    await manager.disable("loud")
    assert manager.declaring("output_modifier") == []
    assert states(manager) == {"loud": "off"}
    assert manager.changed.version == version + 2


async def test_an_edited_script_is_what_the_next_switching_on_runs(
    write: Write, manage: Manage
) -> None:
    write("a", "from .part import text\ndef custom_css():\n    return text\n")
    folder = manage()._folder / "a"
    (folder / "part.py").write_text("text = 'one'")
    manager = manage("a")
    assert manager.call_waiting(manager.plugins()[0], "custom_css") == "one"
    await manager.disable("a")
    (folder / "part.py").write_text("text = 'other'")
    await manager.enable("a")
    assert manager.call_waiting(manager.plugins()[0], "custom_css") == "other"


async def test_params_are_set_from_settings_before_setup_and_by_hand_afterwards(
    write: Write, manage: Manage
) -> None:
    write("loud", SCRIPT)
    manager = manage("loud", loud={"level": 5, "unknown": 1})
    (script,) = manager.plugins()
    assert script.module.seen[0]["level"] == 5
    assert "unknown" not in script.params
    await manager.set_param("loud", "rate", 1)
    assert script.params["rate"] == 1.0
    await manager.disable("loud")
    await manager.enable("loud")
    assert manager.plugins()[0].params["rate"] == 1.0
    assert dict(manager.infos()[0].params) == {"level": 5, "word": "Oh", "rate": 1.0}


@pytest.mark.parametrize(
    ("key", "value"), [("level", "3"), ("level", True), ("level", None), ("word", ["Oh"])]
)
async def test_a_param_keeps_its_kind(
    key: str, value: object, write: Write, manage: Manage
) -> None:
    write("loud", SCRIPT)
    manager = manage("loud")
    with pytest.raises(InvalidInputError) as caught:
        await manager.set_param("loud", key, value)
    assert caught.value.field == f"loud-{key}"


@pytest.mark.parametrize(("name", "key"), [("loud", "nothing"), ("loud", "is_tab"), ("no", "x")])
async def test_what_is_not_there_is_not_set(
    name: str, key: str, write: Write, manage: Manage
) -> None:
    write("loud", SCRIPT)
    with pytest.raises(NotFoundError):
        await manage("loud").set_param(name, key, 1)


async def test_a_name_that_is_no_extension_is_told_and_a_launch_goes_on(
    write: Write, manage: Manage
) -> None:
    write("a", "")
    manager = manage("missing", "a")
    assert states(manager) == {"a": "on", "missing": "failed"}
    with pytest.raises(ExtensionError):
        await manager.enable("missing")
    with pytest.raises(NotFoundError):
        await manager.enable("../a")


def test_folders_without_a_script_and_foreign_names_are_no_extensions(
    manage: Manage, tmp_path: Path
) -> None:
    for name in ("empty", ".hidden", "with.dot"):
        (tmp_path / "extensions" / name).mkdir(parents=True)
    (tmp_path / "extensions" / ".hidden" / "script.py").touch()
    (tmp_path / "extensions" / "with.dot" / "script.py").touch()
    (info,) = manage().infos()
    assert (info.name, info.error) == ("with.dot", "The folder's name has a dot in it.")


# -- a launch ----------------------------------------------------------------------------


def launch(tmp_path: Path, yaml: str, *flags: str) -> tuple[Settings, Origins]:
    file = tmp_path / "settings.yaml"
    file.write_text(yaml)
    folder = ["--extension-dir", str(tmp_path / "extensions")]
    return read_launch(["--settings", str(file), *folder, *flags], {})


def test_those_of_the_command_line_come_before_those_of_the_file(
    write: Write, tmp_path: Path
) -> None:
    chosen = chosen_of(*launch(tmp_path, "extensions: [a, b]", "--extensions", "c", "b"))
    assert (chosen.names, chosen.withheld) == (("c", "b", "a"), ())


@pytest.mark.parametrize("flag", [["--share"], ["--listen"], ["--subpath", "/proxy/7860"]])
def test_where_others_reach_the_page_only_the_command_line_counts(
    flag: list[str], write: Write, tmp_path: Path
) -> None:
    write("a", "")
    settings, origins = launch(tmp_path, "extensions: [a, b]", "--extensions", "b", *flag)
    chosen = chosen_of(settings, origins)
    assert (chosen.names, chosen.withheld) == (("b",), ("a",))
    manager = ExtensionManager(tmp_path / "extensions", chosen)
    manager.start()
    info = next(one for one in manager.infos() if one.name == "a")
    assert info.state == "off"
    assert "settings.yaml alone" in info.error
    assert "--extensions a" in info.remedy


def test_keys_of_the_file_are_params_of_the_extension_with_the_longest_name(
    write: Write, tmp_path: Path
) -> None:
    write("a", "")
    write("a-b", "")
    yaml = "a-level: 3\na-b-level: [1, x]\na-some key: true\n"
    chosen = chosen_of(*launch(tmp_path, yaml))
    assert chosen.params == {"a": {"level": 3, "some key": True}, "a-b": {"level": [1, "x"]}}


def test_the_settings_that_a_context_is_built_from_reach_its_extensions(
    write: Write, settings: Settings, tmp_path: Path
) -> None:
    from modules.engine.fake import FakeEngine
    from modules.extensions.manager import open_extensions

    write("loud", SCRIPT)
    chosen = dataclasses.replace(
        settings, extension_dir=tmp_path / "extensions", extensions=("loud",)
    )
    origins = Origins(extensions=("loud",), extension_params={"loud-word": "Ah"})
    manager = open_extensions(chosen, origins, FakeEngine())
    assert manager.infos()[0].params["word"] == "Ah"
