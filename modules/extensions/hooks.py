"""The hooks that an extension may declare: names and meaning are those of text-generation-webui.

An extension is a `script.py` whose functions have the names below. It declares what it needs;
each function may leave out the last arguments, as the older scripts do. `TYPES` is what a hook
has to return.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import pluggy

__all__ = ["FIRST_WINS", "IN_WORKER", "NAMES", "PROJECT", "TYPES", "Hooks"]

PROJECT = "lantern"

hookspec = pluggy.HookspecMarker(PROJECT)

History = dict[str, list[list[str]]]
"""`internal` (what the model sees) and `visible`: pairs of a message and its reply."""

State = dict[str, Any]
"""The parameters of a reply by their names, with name1, name2, mode, character and context."""


class Hooks:
    """What each hook gets, gives and is for. See docs/extensions.md for when it is called."""

    @hookspec
    def setup(self) -> None:
        """Called once, after the script was imported and its params were set."""

    @hookspec
    def ui(self) -> None:
        """Build Gradio components inside the page."""

    @hookspec
    def custom_css(self) -> str:
        """Style rules for the page."""
        raise NotImplementedError

    @hookspec
    def custom_js(self) -> str:
        """A script for the page."""
        raise NotImplementedError

    @hookspec
    def history_modifier(self, history: History) -> History:
        """Alter what the model sees of the chat; what is stored stays."""
        raise NotImplementedError

    @hookspec
    def state_modifier(self, state: State) -> State:
        """Alter the parameters of a reply, and the names in it."""
        raise NotImplementedError

    @hookspec
    def chat_input_modifier(self, text: str, visible_text: str, state: State) -> tuple[str, str]:
        """Alter a new message: what the model sees of it, and what the page shows."""
        raise NotImplementedError

    @hookspec
    def input_modifier(self, string: str, state: State, is_chat: bool) -> str:
        """Alter what the model sees: of a chat the new message, otherwise the whole prompt."""
        raise NotImplementedError

    @hookspec
    def output_modifier(self, string: str, state: State, is_chat: bool, is_final: bool) -> str:
        """Alter what the page shows of a reply. Without `is_final`, called at its end alone."""
        raise NotImplementedError

    @hookspec
    def bot_prefix_modifier(self, string: str, state: State) -> str:
        """Alter what stands before the reply in the prompt."""
        raise NotImplementedError

    @hookspec
    def tokenizer_modifier(
        self, state: State, prompt: str, input_ids: Any, input_embeds: None
    ) -> tuple[str, Any, None]:
        """Alter the tokens [1, n] of a prompt, in the engine worker."""
        raise NotImplementedError

    @hookspec
    def logits_processor_modifier(self, processor_list: Any, input_ids: Any) -> Any:
        """Alter the logits processors of a reply, in the engine worker."""
        raise NotImplementedError

    @hookspec(firstresult=True)
    def custom_generate_chat_prompt(
        self, user_input: str, state: State, kwargs: Mapping[str, Any]
    ) -> str | None:
        """Build the prompt of a chat; `kwargs` are history, impersonate and _continue.

        None: as usual.
        """

    @hookspec(firstresult=True)
    def custom_generate_reply(
        self,
        question: str,
        original_question: str,
        seed: int,
        state: State,
        stopping_strings: list[str],
        is_chat: bool,
    ) -> Any:
        """Write the reply in the place of the model: yields the text so far. None: the model's."""
        raise NotImplementedError

    @hookspec(firstresult=True)
    def custom_tokenized_length(self, prompt: str) -> int | None:
        """Count the tokens of a prompt. None: as usual."""

    @hookspec(firstresult=True)
    def token_colors(self, tokens: list[dict[str, Any]]) -> dict[str, Any] | None:
        """Colour the tokens of a reply. Lantern's own. None: no colours.

        Each token has its `text`, `probability` and `alternatives`, pairs of a text and its
        probability. What is returned has `colors`, a CSS colour or nothing for each token, and
        `legend`, pairs of a colour and what it means.
        """

    @hookspec
    def page_call(
        self, action: str, body: dict[str, Any], message: dict[str, Any] | None
    ) -> dict[str, Any]:
        """Answer what the extension's own script in the page asks for. Lantern's own.

        Only the owner can ask. `message` is the one that was asked about, with its `text`, its
        `history` in OpenAI's form and its `versions`.
        """
        raise NotImplementedError


NAMES: tuple[str, ...] = tuple(name for name in vars(Hooks) if not name.startswith("_"))
"""Every hook, in the order above."""

IN_WORKER = frozenset({"tokenizer_modifier", "logits_processor_modifier"})
"""The hooks that need tensors, and run where the model is."""

FIRST_WINS = frozenset(name for name in NAMES if name.startswith("custom_generate")) | {
    "custom_tokenized_length",
    "token_colors",
}
"""The hooks of which only that of the first extension that declares them is called."""

TYPES: Mapping[str, type | tuple[type, ...]] = MappingProxyType(
    {
        "custom_css": str,
        "custom_js": str,
        "history_modifier": dict,
        "state_modifier": dict,
        "chat_input_modifier": tuple,
        "input_modifier": str,
        "output_modifier": str,
        "bot_prefix_modifier": str,
        "custom_generate_chat_prompt": (str, type(None)),
        "custom_tokenized_length": (int, type(None)),
        "token_colors": (dict, type(None)),
        "page_call": dict,
    }
)
"""What a hook has to return. Those that are not here are looked at where they are called."""
