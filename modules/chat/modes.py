"""The three ways in which a model reads a chat: instruct, chat-instruct and chat.

`instruct` is the chat template. `chat` is a transcript, `Name: text` in each line, which any
base model goes on with. `chat-instruct` gives that transcript to an instruction model and asks
it for the next line; that is how text-generation-webui has it, and so are the texts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from modules.chat.cast import Cast
from modules.chat.messages import Message
from modules.chat.template import render
from modules.chat.template_choice import ChatTemplate
from modules.chat.tool_prompt import render_with_tools
from modules.errors import TemplateError

__all__ = ["render_chat_mode", "stops", "transcript"]

_COMMAND = 'Continue the chat dialogue below. Write a single reply for the character "{}".\n\n{}'


def render_chat_mode(
    cast: Cast,
    template: ChatTemplate,
    messages: Sequence[Message],
    *,
    special_tokens: Mapping[str, str],
    continue_final: bool,
) -> str:
    """The prompt for `messages` in the mode of `cast`. Raises TemplateError.

    A prompt of the mode `chat` wants the tokenizer's own special tokens before it; in the
    others, the template writes them. Tools are for the mode `instruct`; in the others, what
    they were asked and answered is left out.
    """
    if cast.mode != "instruct":
        messages = _without_calls(messages)
    if cast.mode == "chat":
        return transcript(cast, messages, continue_final=continue_final)
    if cast.mode == "instruct":
        system = [Message("system", cast.context)] if cast.context else []
        if system and messages and messages[0].role == "system":
            system = [Message("system", f"{cast.context}\n\n{messages[0].content}")]
            messages = messages[1:]
        asked = [*system, *messages]
        if cast.tools or any(message.role == "tool" for message in messages):
            return render_with_tools(
                template.source, asked, cast.tools, special_tokens=special_tokens,
                continue_final=continue_final,
            ).text  # fmt: skip
    else:
        asked = _asking(cast, messages, continue_final)
        continue_final = True
    return render(
        template.source, asked, special_tokens=special_tokens, continue_final=continue_final
    )


def transcript(cast: Cast, messages: Sequence[Message], *, continue_final: bool) -> str:
    """The mode `chat`, which needs no template. Raises TemplateError where nothing is said."""
    text = _joined([cast.context, *_system(messages)])
    return text + "".join(_lines(cast, _without_calls(messages), continue_final))


def stops(cast: Cast, template: ChatTemplate) -> tuple[str, ...]:
    """What ends a reply in this mode, beside the model's own end token."""
    names = (f"\n{cast.user}:", f"\n{cast.name}:")
    match cast.mode:
        case "instruct":
            return template.stop
        case "chat-instruct":
            return (*template.stop, *names)
        case "chat":
            return names


def _asking(cast: Cast, messages: Sequence[Message], continue_final: bool) -> list[Message]:
    """The instruction around the transcript, and the reply begun by the character's name."""
    *before, begun = _lines(cast, messages, continue_final)
    transcript = _joined([cast.context]) + "".join(before)
    mine = continue_final and messages[-1].role == "user"
    command = _COMMAND.format(cast.user if mine else cast.name, transcript)
    system = [Message("system", text) for text in _system(messages)]
    return [
        *system,
        Message("user", command),
        Message("assistant", begun),
    ]


def _lines(cast: Cast, messages: Sequence[Message], continue_final: bool) -> list[str]:
    """A line for each turn, and at the end the beginning of the reply that is wanted."""
    names = {"user": cast.user, "assistant": cast.name}
    turns = [message for message in messages if message.role != "system"]
    begun = f"{cast.name}:"
    if continue_final:
        if not turns:
            raise TemplateError("There is no message to be continued.", "Send one.")
        last = turns.pop()
        begun = f"{names[last.role]}: {last.content}" if last.content else f"{names[last.role]}:"
    return [*(f"{names[turn.role]}: {turn.content.strip()}\n" for turn in turns), begun]


def _without_calls(messages: Sequence[Message]) -> list[Message]:
    """What was said alone; a reply that goes on after a call is one message."""
    if not any(message.role == "tool" for message in messages):
        return list(messages)
    said: list[Message] = []
    for message in messages:
        if message.role == "tool" or (message.tool_calls and not message.content):
            continue
        text = message.content
        if said and message.role == "assistant" == said[-1].role:
            text = f"{said.pop().content}\n\n{text}"
        said.append(Message(message.role, text))
    return said


def _system(messages: Sequence[Message]) -> list[str]:
    return [message.content for message in messages if message.role == "system"]


def _joined(texts: Sequence[str]) -> str:
    return "".join(f"{text.strip()}\n\n" for text in texts if text.strip())
