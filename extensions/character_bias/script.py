"""Begin every reply of a character with an action in asterisks, unseen, to set its mood.

Choose one of the lines of `bias_options.txt`, or write your own.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

params: dict[str, Any] = {
    "display_name": "Character bias",
    "activate": True,
    "bias string": " *I am so happy*",
    "use custom string": False,
    "custom string": "",
}

_OPTIONS = Path(__file__).with_name("bias_options.txt")


def bot_prefix_modifier(string: str, state: dict[str, Any]) -> str:
    """Put the action behind the character's name, before what the model writes."""
    if not params["activate"]:
        return string
    bias = params["custom string" if params["use custom string"] else "bias string"].strip()
    return f"{string} {bias} " if bias else string


def ui() -> None:
    """A switch, a choice and a text of one's own."""
    import gradio as gr

    options = _options()
    activate = gr.Checkbox(params["activate"], label="Begin replies with an action")
    choice = gr.Dropdown(
        options, value=params["bias string"], label="Action", allow_custom_value=True
    )
    use_own = gr.Checkbox(params["use custom string"], label="Use an action of my own")
    own = gr.Textbox(
        params["custom string"],
        label="My own action",
        info="In asterisks, as the ones above.",
    )
    activate.change(lambda on: params.update({"activate": on}), activate, None)
    choice.change(lambda text: params.update({"bias string": text or ""}), choice, None)
    use_own.change(lambda on: params.update({"use custom string": on}), use_own, None)
    own.change(lambda text: params.update({"custom string": text or ""}), own, None)


def _options() -> list[str]:
    """The lines of the file that are not empty, with the present choice among them."""
    try:
        lines = _OPTIONS.read_text("utf-8").splitlines()
    except OSError:
        lines = []
    found = [line.strip() for line in lines if line.strip()]
    chosen = params["bias string"]
    return found if chosen in found else [chosen, *found]
