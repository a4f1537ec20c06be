"""Every hook there is, used once: the place to begin an extension of your own.

Copy this folder, and delete what you do not need. Switched on, it changes nothing until its
params are set, in settings.yaml (`example-shout: true`) or in the Session tab. The hooks and
their arguments are those of text-generation-webui; docs/extensions.md says when each is called.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

# What the page calls the extension, whether its widgets get a tab of their own, and then
# whatever the extension wants to have set. Give every param a value of the kind that it has.
params: dict[str, Any] = {
    "display_name": "Example",
    "is_tab": False,
    "shout": False,
    "emoticons": False,
    "signature": "",
    "forget_before": 0,
    "temperature_plus": 0.0,
    "mood": "",
    "plain_prompt": False,
    "parrot": False,
    "banned_token": -1,
    "reverse_prompt": False,
    "token_colors": False,
}


def setup() -> None:
    """Called once, when the extension is switched on: read files, open connections."""


def ui() -> None:
    """Build Gradio components; they appear in the page under the extension's name."""
    import gradio as gr

    signature = gr.Textbox(params["signature"], label="Signature under each reply")
    signature.change(lambda text: params.update(signature=text), signature, None)


def custom_css() -> str:
    """Style rules for the page."""
    return ".example-extension { opacity: 0.9; }"


def custom_js() -> str:
    """A script for the page, run once when it is open, with `lantern` to work with.

    docs/extensions.md says what `lantern` has. This one adds a line to a message when it is
    double-clicked, with what `page_call` says of it.
    """
    return """
    lantern.onMessage((message, node) => {
      node.addEventListener("dblclick", async () => {
        const found = await lantern.call("count", {}, message.id);
        if (found) lantern.say(`${found.words} words, after ${found.before} messages.`);
      });
    });
    """


def page_call(action: str, body: dict[str, Any], message: dict[str, Any] | None) -> dict[str, Any]:
    """Answers what the script above asks for; only the owner can ask.

    A `fault` in the answer is a sentence that the page shows.
    """
    if action != "count" or message is None:
        return {"fault": "There is nothing to count."}
    return {"words": len(message["text"].split()), "before": len(message["history"])}


def token_colors(tokens: list[dict[str, Any]]) -> dict[str, Any] | None:
    """A colour for each token of a reply, or an empty text; None for no colours at all.

    Each token has `text`, `probability` and `alternatives`. Where an extension with this hook is
    on, the model is asked for them.
    """
    if not params["token_colors"]:
        return None
    doubtful = [token["probability"] < 0.5 for token in tokens]
    return {
        "colors": ["orange" if one else "" for one in doubtful],
        "legend": [("orange", "less likely than not")],
    }


def chat_input_modifier(text: str, visible_text: str, state: dict[str, Any]) -> tuple[str, str]:
    """A new message: what the model sees of it, and what the page shows."""
    if params["emoticons"]:
        return re.sub(r":-?\)", "(smiles)", text), visible_text
    return text, visible_text


def input_modifier(string: str, state: dict[str, Any], is_chat: bool = False) -> str:
    """What the model sees: of a chat the new message, in Default and Notebook the whole text."""
    return string.upper() if params["shout"] else string


def history_modifier(history: dict[str, list[list[str]]]) -> dict[str, list[list[str]]]:
    """What the model sees of the chat so far: pairs of a message and its reply.

    What is stored, and what the page shows, stays as it was.
    """
    if params["forget_before"]:
        return {key: pairs[-params["forget_before"] :] for key, pairs in history.items()}
    return history


def state_modifier(state: dict[str, Any]) -> dict[str, Any]:
    """The parameters of this reply, and its names: name1 is the user, name2 the character."""
    if params["temperature_plus"]:
        state["temperature"] = min(5.0, state["temperature"] + params["temperature_plus"])
    return state


def bot_prefix_modifier(string: str, state: dict[str, Any]) -> str:
    """What stands before the reply: `Name:` in a transcript, nothing in instruct mode."""
    return f"{string} *{params['mood']}*" if params["mood"] else string


def custom_generate_chat_prompt(
    user_input: str, state: dict[str, Any], **kwargs: Any
) -> str | None:
    """The whole prompt of a chat. None leaves it to Lantern.

    `kwargs` has `history`, `impersonate` and `_continue`. Of several extensions with this hook,
    only the first one's is called, and so it is with the other two that begin with `custom_`.
    """
    if not params["plain_prompt"] or kwargs["_continue"]:
        return None
    turns = [f"Q: {asked}\nA: {said}\n" for asked, said in kwargs["history"]["internal"]]
    return "".join([*turns, f"Q: {user_input}\nA:"])


def custom_tokenized_length(prompt: str) -> int | None:
    """How many tokens a prompt has. None leaves it to the tokenizer."""
    return None


def custom_generate_reply(
    question: str,
    original_question: str,
    seed: int,
    state: dict[str, Any],
    stopping_strings: list[str],
    is_chat: bool = False,
) -> Iterator[str] | None:
    """Writes the reply in the place of the model. None leaves it to the model.

    Each item is the whole text so far. It works without a model, too.
    """
    return _parrot(question) if params["parrot"] else None


def _parrot(question: str) -> Iterator[str]:
    words = question.split()[-12:]
    for count in range(1, len(words) + 1):
        yield " ".join(words[:count])


def output_modifier(
    string: str, state: dict[str, Any], is_chat: bool = False, is_final: bool = True
) -> str:
    """What the page shows of a reply; the model goes on seeing the original.

    Because it takes `is_final`, it is also called while the reply grows. Without that argument
    (as text-generation-webui has it) it is called once, at the end: better for what takes long.
    """
    if params["signature"] and is_final:
        return f"{string}\n\n*{params['signature']}*"
    return string


# The two hooks below run where the model is, in another process, which imports this script for
# itself: it has the params, and nothing else that the functions above may have remembered.
# Import torch and transformers inside them, so that the page's process need not.


def tokenizer_modifier(
    state: dict[str, Any], prompt: str, input_ids: Any, input_embeds: None
) -> tuple[str, Any, None]:
    """The tokens of the prompt, a tensor of the shape [1, n]."""
    if params["reverse_prompt"]:
        input_ids = input_ids.flip(1)
    return prompt, input_ids, input_embeds


def logits_processor_modifier(processor_list: list[Any], input_ids: Any) -> list[Any]:
    """The logits processors of a reply; those of its sampling parameters are in the list."""
    if params["banned_token"] >= 0:
        from transformers import SuppressTokensLogitsProcessor

        processor_list.append(SuppressTokensLogitsProcessor([params["banned_token"]]))
    return processor_list
