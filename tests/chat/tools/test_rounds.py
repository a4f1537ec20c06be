"""Chats in which the model calls tools."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from modules.access import Access
from modules.chat.library import ChatLibrary
from modules.chat.search import search
from modules.chat.service import ChatService
from modules.chat.store import StoredMessage
from modules.chat.tools.box import Tools
from modules.chat.tools.rounds import MOST_ROUNDS
from modules.chat.transfer.writing import FORMS
from modules.context import AppContext
from modules.engine.fake import FakeEngine
from modules.engine.params import SamplingParams
from modules.engine.protocol import LoadModel
from modules.errors import ForbiddenError, InvalidInputError
from modules.settings import Settings
from server import build_context
from tests.chat.tools.helpers import function, hermes, llama, saying

pytestmark = pytest.mark.anyio

PARAMS = SamplingParams(max_new_tokens=200)
CALL = hermes("probe", n=3)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two tools: one that tells what it was given, and one that notes that it ran."""
    function(tmp_path / "tools", "probe", "return f'n was {arguments.get(\"n\")}'")
    function(tmp_path / "tools", "other", f"open({str(tmp_path / 'ran')!r}, 'a').write('x')")
    return tmp_path / "tools"


@pytest.fixture
async def chats(ctx: AppContext, folder: Path) -> AsyncIterator[ChatService]:
    """Chats with these tools."""
    ctx.chats.desk.box = Tools([folder], folder / "mcp.json")
    yield ctx.chats
    await ctx.chats.close()


async def begun(chats: ChatService, *names: str, owner: str = "owner") -> int:
    chat = (await chats.create(owner)).id
    await chats.approvals.choose(chat, owner, names or ("probe", "other"))
    return chat


async def said(chats: ChatService, chat: int, text: str = "Probe it.") -> StoredMessage:
    """Say something; the reply once nobody writes it."""
    await chats.send(chat, "owner", text, PARAMS)
    return await rested(chats, chat)


async def rested(chats: ChatService, chat: int, owner: str = "owner") -> StoredMessage:
    await chats.wait(chat)
    return (await chats.branch(chat, owner))[-1]


async def decided(chats: ChatService, reply: StoredMessage, decision: str) -> StoredMessage:
    """Decide about the first call that waits; the reply once nobody writes it."""
    call = next(c for c in reply.calls if c.state == "asked")
    await chats.approvals.decide(reply.chat_id, "owner", reply.id, call.id, decision)  # type: ignore[arg-type]
    return await rested(chats, reply.chat_id)


# -- approving ----------------------------------------------------------------------------


@pytest.mark.parametrize("form", [hermes, llama])
async def test_a_call_waits_and_once_it_ran_the_reply_goes_on(
    chats: ChatService, engine: FakeEngine, form: type[hermes]
) -> None:
    engine.reply = saying(form("probe", n=3), "It was three.")
    chat = await begun(chats)
    reply = await said(chats, chat)
    assert [(c.name, c.arguments, c.state) for c in reply.calls] == [("probe", '{"n": 3}', "asked")]
    assert (reply.content, reply.state, chats.live(chat)) == ("", "complete", None)
    reply = await decided(chats, reply, "run")
    assert [(c.state, c.result) for c in reply.calls] == [("done", "n was 3")]
    assert (reply.content, reply.state) == ("It was three.", "complete")
    prompt = engine.requests[-1].prompt
    assert '"name": "probe"' in prompt and "<tool_response>\nn was 3\n</tool_response>" in prompt
    assert prompt.endswith("<|im_start|>assistant\n")


async def test_text_before_a_call_is_shown_and_stays_before_it(
    chats: ChatService, engine: FakeEngine
) -> None:
    engine.reply = saying(f"Let me look.\n{CALL}", "Three.")
    reply = await said(chats, await begun(chats))
    assert (reply.content, reply.calls[0].at) == ("Let me look.", 12)
    reply = await decided(chats, reply, "run")
    assert reply.content == "Let me look.\n\nThree."
    assert reply.calls[0].at == 12


async def test_a_refused_call_never_runs_and_the_model_is_told(
    chats: ChatService, engine: FakeEngine, tmp_path: Path
) -> None:
    engine.reply = saying(hermes("other"), "As you like.")
    reply = await decided(chats, await said(chats, await begun(chats)), "refuse")
    assert (reply.calls[0].state, reply.content) == ("refused", "As you like.")
    assert "The user refused this call." in engine.requests[-1].prompt
    assert not (tmp_path / "ran").exists()


async def test_always_runs_this_tool_unasked_in_this_chat_and_no_other_tool(
    chats: ChatService, engine: FakeEngine
) -> None:
    engine.reply = saying(CALL, "Three.", CALL, "Three again.", hermes("other"), "Done.", CALL)
    chat = await begun(chats)
    await decided(chats, await said(chats, chat), "always")
    reply = await said(chats, chat)
    assert (reply.calls[0].state, reply.content) == ("done", "Three again.")
    assert (await said(chats, chat)).waits  # another tool
    other = await begun(chats)
    engine.reply = saying(CALL)
    assert (await said(chats, other)).waits  # another chat


async def test_a_tool_that_was_changed_is_asked_about_again(
    chats: ChatService, engine: FakeEngine, folder: Path
) -> None:
    engine.reply = saying(CALL, "Three.", CALL)
    chat = await begun(chats)
    await decided(chats, await said(chats, chat), "always")
    function(folder, "probe", "return 'another thing'")
    assert (await said(chats, chat)).waits


async def test_a_tool_that_was_taken_from_the_chat_is_asked_about_again(
    chats: ChatService, engine: FakeEngine
) -> None:
    engine.reply = saying(CALL, "Three.", CALL)
    chat = await begun(chats)
    await decided(chats, await said(chats, chat), "always")
    await chats.approvals.choose(chat, "owner", ["other"])
    await chats.approvals.choose(chat, "owner", ["other", "probe"])
    assert (await said(chats, chat)).waits


async def test_several_calls_run_when_each_is_decided(
    chats: ChatService, engine: FakeEngine
) -> None:
    engine.reply = saying(f"{CALL}\n{hermes('other')}\n{hermes('probe', n=4)}", "Seven.")
    reply = await said(chats, await begun(chats))
    reply = await decided(chats, reply, "run")
    assert [c.state for c in reply.calls] == ["approved", "asked", "asked"]
    reply = await decided(chats, await decided(chats, reply, "refuse"), "run")
    assert [c.state for c in reply.calls] == ["done", "refused", "done"]
    assert [c.result for c in reply.calls] == ["n was 3", "", "n was 4"]
    assert len(engine.requests) == 2


async def test_a_call_is_decided_once(chats: ChatService, engine: FakeEngine) -> None:
    engine.reply = saying(CALL, "Three.")
    reply = await said(chats, await begun(chats))
    await decided(chats, reply, "run")
    with pytest.raises(InvalidInputError):
        await decided(chats, reply, "run")


async def test_arguments_that_do_not_fit_and_failures_are_the_tools_answer(
    chats: ChatService, engine: FakeEngine, folder: Path
) -> None:
    function(folder, "probe", "return 1 / 0")
    engine.reply = saying(hermes("probe", n="x"), CALL, "I give up.")
    chat = await begun(chats)
    reply = await decided(chats, await decided(chats, await said(chats, chat), "run"), "run")
    assert [c.state for c in reply.calls] == ["failed", "failed"]
    assert reply.calls[0].result == "The arguments do not fit: n must be integer."
    assert "ZeroDivisionError" in reply.calls[1].result
    assert reply.content == "I give up."


async def test_a_tool_that_is_not_there_is_told_and_the_other_calls_count(
    chats: ChatService, engine: FakeEngine
) -> None:
    engine.reply = saying(f"{hermes('google', q='x')}\n{CALL}", hermes("bing"), "I give up.")
    chat = await begun(chats, "probe")
    reply = await said(chats, chat)
    assert [(c.name, c.state) for c in reply.calls] == [("google", "failed"), ("probe", "asked")]
    reply = await decided(chats, reply, "run")
    assert [(c.name, c.state) for c in reply.calls[2:]] == [("bing", "failed")]
    assert reply.calls[2].result == "There is no such tool. There are: probe."
    assert reply.content == "I give up."


async def test_rounds_end(chats: ChatService, engine: FakeEngine) -> None:
    engine.reply = saying(CALL)
    chat = await begun(chats)
    reply = await decided(chats, await said(chats, chat), "always")
    assert len(reply.calls) == MOST_ROUNDS
    assert reply.state == "complete" and "<tool_call>" in reply.content  # no call any more
    assert "You can call these tools" not in engine.requests[-1].prompt


async def test_a_long_result_leaves_room_for_the_reply(
    chats: ChatService, engine: FakeEngine, folder: Path
) -> None:
    function(folder, "probe", "return 'word ' * 3000")
    engine.reply = saying(CALL, "Long.")
    reply = await decided(chats, await said(chats, await begun(chats)), "run")
    assert reply.content == "Long." and "cut to fit the context" in reply.calls[0].result


async def test_an_engine_that_dies_after_a_call_leaves_what_came_of_it(
    chats: ChatService, engine: FakeEngine
) -> None:
    engine.reply = saying(CALL, "Never said.")
    chat = await begun(chats)
    reply = await said(chats, chat)
    engine.die()
    reply = await decided(chats, reply, "run")
    assert (reply.state, reply.calls[0].result) == ("cut", "n was 3")
    await engine.load(LoadModel("models/fake-model"))
    engine.reply = saying("It was three.")
    await chats.continue_reply(chat, "owner", reply.id, PARAMS)
    longer = await rested(chats, chat)
    assert (longer.content, longer.calls) == ("It was three.", reply.calls)


# -- stopping -----------------------------------------------------------------------------


async def test_stop_while_a_call_waits_runs_nothing(chats: ChatService, engine: FakeEngine) -> None:
    engine.reply = saying(CALL, "Never said.")
    chat = await begun(chats)
    await said(chats, chat)
    await chats.stop(chat, "owner")
    reply = await rested(chats, chat)
    assert (reply.calls[0].state, reply.state, reply.waits) == ("skipped", "complete", False)


async def test_stop_while_a_tool_runs_ends_it_and_says_so(
    chats: ChatService, engine: FakeEngine, folder: Path
) -> None:
    function(folder, "probe", "import time; time.sleep(600)")
    engine.reply = saying(CALL, "Never said.")
    chat = await begun(chats)
    reply = await said(chats, chat)
    await chats.approvals.decide(chat, "owner", reply.id, reply.calls[0].id, "run")
    while (await chats.branch(chat, "owner"))[-1].calls[0].state != "running":
        await asyncio.sleep(0.02)
    await chats.stop(chat, "owner")
    reply = await rested(chats, chat)
    assert (reply.state, reply.calls[0].state) == ("stopped", "interrupted")


async def test_stop_while_a_call_is_written_makes_none(
    chats: ChatService, engine: FakeEngine
) -> None:
    engine.reply = saying("First " + "word " * 100 + CALL)
    engine.delay = 0.01
    chat = await begun(chats)
    await chats.send(chat, "owner", "Hi", PARAMS)
    while not (live := chats.live(chat)) or live.tokens < 5:
        await asyncio.sleep(0.01)
    await chats.stop(chat, "owner")
    reply = await rested(chats, chat)
    assert (reply.state, reply.calls) == ("stopped", ())


async def test_another_message_passes_over_a_call_that_waits(
    chats: ChatService, engine: FakeEngine
) -> None:
    engine.reply = saying(CALL, "All right.")
    chat = await begun(chats)
    waiting = await said(chats, chat)
    assert (await said(chats, chat, "Never mind.")).content == "All right."
    assert "This call was not run." in engine.requests[-1].prompt
    with pytest.raises(InvalidInputError):
        await decided(chats, waiting, "run")


# -- what is kept -------------------------------------------------------------------------


async def test_a_call_waits_through_a_restart(
    ctx: AppContext, chats: ChatService, engine: FakeEngine, folder: Path, settings: Settings
) -> None:
    engine.reply = saying(CALL, "It was three.")
    chat = await begun(chats)
    assert (await said(chats, chat)).waits
    await chats.close()
    again = build_context(settings, engine, Access()).chats
    again.desk.box = Tools([folder], folder / "mcp.json")
    reply = (await again.branch(chat, "owner"))[-1]
    assert reply.waits and reply.error == ""
    reply = await decided(again, reply, "run")
    assert (reply.content, reply.calls[0].result) == ("It was three.", "n was 3")
    again._stores.kept.close()


async def test_a_call_that_ran_during_a_restart_is_marked(
    chats: ChatService, engine: FakeEngine
) -> None:
    engine.reply = saying(CALL)
    chat = await begun(chats)
    reply = await said(chats, chat)
    store = chats._stores.kept
    store.set_calls(reply.id, (dataclasses.replace(reply.calls[0], state="running"),))
    store.resume(reply.id)
    store.mark_interrupted_replies()
    reply = await rested(chats, chat)
    assert (reply.state, reply.calls[0].state) == ("cut", "interrupted")


async def test_the_search_has_a_reply_once_that_was_resumed(
    chats: ChatService, engine: FakeEngine
) -> None:
    engine.reply = saying(f"Dragons first. {CALL}", "Dragons again.")
    chat = await begun(chats)
    reply = await said(chats, chat)
    store = chats._stores.kept
    assert [hit.message_id for hit in search(store, "owner", "dragons first")] == [reply.id]
    await decided(chats, reply, "run")
    assert [hit.message_id for hit in search(store, "owner", "dragons again")] == [reply.id]
    with store.transaction() as db:
        db.execute("INSERT INTO messages_found (messages_found) VALUES ('integrity-check')")


async def test_regenerate_edit_and_versions_keep_the_calls_of_each(
    chats: ChatService, engine: FakeEngine
) -> None:
    engine.reply = saying(f"Look. {CALL}", "Three.", "No tool this time.")
    chat = await begun(chats)
    first = await decided(chats, await said(chats, chat), "run")
    await chats.regenerate(chat, "owner", first.id, PARAMS)
    second = await rested(chats, chat)
    assert (second.calls, len(second.versions)) == ((), 2)
    await chats.show_version(chat, "owner", first.id)
    await chats.edit(chat, "owner", first.id, "Look here.\n\nThree!")
    edited = await rested(chats, chat)
    assert [(c.at, c.result) for c in edited.calls] == [(10, "n was 3")]


async def test_continue_goes_on_after_the_calls(chats: ChatService, engine: FakeEngine) -> None:
    engine.reply = saying(CALL, "It was", " three.")
    chat = await begun(chats)
    reply = await decided(chats, await said(chats, chat), "run")
    await chats.continue_reply(chat, "owner", reply.id, PARAMS)
    longer = await rested(chats, chat)
    assert longer.content == "It was three."
    assert [c.result for c in longer.calls] == ["n was 3"]
    assert engine.requests[-1].prompt.endswith("<|im_start|>assistant\nIt was")


async def test_a_replay_is_asked_about_anew_and_compared(
    chats: ChatService, engine: FakeEngine
) -> None:
    engine.reply = saying(CALL, "It was three.", CALL, "It was three.")
    chat = await begun(chats)
    reply = await decided(chats, await said(chats, chat), "run")
    assert (await chats.replays.prompt(chat, "owner", reply.id)).same
    await chats.replays.replay(chat, "owner", reply.id)
    waiting = await rested(chats, chat)
    assert waiting.waits
    await decided(chats, waiting, "run")
    origin = await chats.replays.origin(chat, "owner", waiting.id)
    assert origin.comparison is not None and origin.comparison.identical
    assert [r.params.seed for r in engine.requests] == [-1, 4711, 4711, 4711]


async def test_a_turn_with_calls_is_left_out_as_a_whole(
    chats: ChatService, engine: FakeEngine, folder: Path
) -> None:
    function(folder, "probe", "return 'word ' * 300")
    chat = await begun(chats)
    for _ in range(8):
        engine.reply = saying(CALL, "Long.")
        await decided(chats, await said(chats, chat), "run")
    prompt = engine.requests[-1].prompt
    assert "You can call these tools" in prompt
    assert prompt.count('"arguments": {"n": 3}') == prompt.count("\n</tool_response>") > 1
    after_system = prompt.partition("<|im_end|>\n")[2]
    assert after_system.startswith("<|im_start|>user\nProbe it.<|im_end|>\n<|im_start|>assistant")
    view = await chats.context(chat, "owner", "And now?", PARAMS)
    assert any(not s.kept and s.kind == "call" for s in view.segments)


async def test_the_inspector_counts_the_tools_and_the_calls(
    chats: ChatService, engine: FakeEngine
) -> None:
    engine.reply = saying(CALL, "Three.")
    chat = await begun(chats)
    await decided(chats, await said(chats, chat), "run")
    view = await chats.context(chat, "owner", "And now?", PARAMS)
    assert [(s.kind, s.label) for s in view.segments] == [
        ("tools", "other, probe"), ("user", "Probe it."), ("call", "probe"),
        ("assistant", "Three."), ("user", "And now?"),
    ]  # fmt: skip
    assert view.segments[0].tokens > 20


@pytest.mark.parametrize("form", ["lantern", "markdown"])
async def test_an_export_has_the_calls(chats: ChatService, engine: FakeEngine, form: str) -> None:
    engine.reply = saying(f"Look. {CALL}", "Three.")
    chat = await begun(chats)
    await decided(chats, await said(chats, chat), "run")
    text = FORMS[form].write(await chats.library.export(chat, "owner"))
    assert text.index("Look.") < text.index("n was 3")


async def test_an_import_brings_calls_of_which_none_can_be_run(
    chats: ChatService, engine: FakeEngine, tmp_path: Path
) -> None:
    engine.reply = saying(CALL)
    chat = await begun(chats)
    await said(chats, chat)
    copy = await chats.library.export(chat, "owner")
    text = FORMS["lantern"].write(copy).replace('"skipped"', '"asked"')
    assert '"asked"' in text
    made = await imported(chats.library, text, tmp_path)
    reply = await rested(chats, made)
    assert [c.state for c in reply.calls] == ["skipped"]
    assert (await chats.chat(made, "owner")).tools == ()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"{\\"n\\": 3}"', '"[]"'),
        ('"at": 0', '"at": 999'),
        ('"state": "skipped"', '"state": "x"'),
        ('"round": 1', '"round": 1, "more": 1'),
        ('"round": 1', '"round": 0'),
    ],
)
async def test_an_import_with_damaged_calls_is_refused(
    chats: ChatService, engine: FakeEngine, tmp_path: Path, old: str, new: str
) -> None:
    engine.reply = saying(CALL)
    chat = await begun(chats)
    await said(chats, chat)
    text = FORMS["lantern"].write(await chats.library.export(chat, "owner"))
    assert old in text
    with pytest.raises(InvalidInputError, match="calls, call 1"):
        await imported(chats.library, text.replace(old, new), tmp_path)


async def imported(library: ChatLibrary, text: str, folder: Path) -> int:
    path = folder / "chat.json"
    path.write_text(text)
    with path.open("rb") as file:
        (made,) = await library.import_file("owner", file, "chat.json")
    return made


async def test_a_copy_of_a_chat_has_its_tools_and_asks_anew(
    chats: ChatService, engine: FakeEngine
) -> None:
    engine.reply = saying(CALL, "Three.", CALL)
    chat = await begun(chats)
    await decided(chats, await said(chats, chat), "always")
    made = await chats.library.new_from(chat, "owner")
    copied = await chats.chat(made, "owner")
    assert (copied.tools, copied.always) == (("probe", "other"), {})
    assert (await rested(chats, made)).calls[0].result == "n was 3"


# -- who may ------------------------------------------------------------------------------


async def test_a_guest_has_no_tools_whatever_their_chat_says(
    chats: ChatService, engine: FakeEngine
) -> None:
    chat = (await chats.create("guest-1")).id
    with pytest.raises(ForbiddenError):
        await chats.approvals.choose(chat, "guest-1", ["probe"])
    chats._stores.kept.change_chat(chat, tools=["probe"], always={"probe": "x"})
    engine.reply = saying(CALL)
    await chats.send(chat, "guest-1", "Probe it.", PARAMS)
    reply = await rested(chats, chat, "guest-1")
    assert (reply.calls, reply.content) == ((), CALL)
    assert "probe" not in engine.requests[-1].prompt
    with pytest.raises(ForbiddenError):
        await chats.approvals.decide(chat, "guest-1", reply.id, "x", "run")


async def test_a_transcript_has_no_tools_and_leaves_calls_out(
    chats: ChatService, engine: FakeEngine
) -> None:
    engine.reply = saying(f"Look. {CALL}", "Three.", "Four.")
    chat = await begun(chats)
    await decided(chats, await said(chats, chat), "run")
    await chats.change(chat, "owner", mode="chat")
    await said(chats, chat, "And?")
    assert engine.requests[-1].prompt.endswith(
        "You: Probe it.\nAssistant: Look.\n\nThree.\nYou: And?\nAssistant:"
    )


async def test_without_the_extension_nothing_is_offered_and_nothing_runs(
    chats: ChatService, engine: FakeEngine, folder: Path
) -> None:
    engine.reply = saying(CALL, "Nothing came.")
    reply = await said(chats, await begun(chats))
    chats.desk.box = Tools([folder], folder / "mcp.json", is_on=lambda: False)
    reply = await decided(chats, reply, "run")
    assert (reply.calls[0].state, reply.content) == ("failed", "Nothing came.")
    assert reply.calls[0].result == "There is no tool probe any more."
    assert await chats.approvals.sources(start=False) == []


async def test_the_extension_brings_its_functions(settings: Settings, engine: FakeEngine) -> None:
    on = dataclasses.replace(settings, extensions=("tools",))
    (settings.user_data_dir / "tools").mkdir()
    function(settings.user_data_dir / "tools", "mine")
    for chosen, names in ((on, {"calculate", "mine", "roll_dice"}), (settings, set())):
        ctx = build_context(chosen, engine, Access())
        found = await ctx.chats.approvals.sources(start=False)
        assert names <= {tool.name for source in found for tool in source.tools}
        assert bool(found) == bool(names)
        ctx.chats._stores.kept.close()
