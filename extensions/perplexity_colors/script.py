"""Colours each token of a reply by how likely it was; hover over one for the alternatives.

Probabilities are those under the model, before any sampling parameter. They are asked for only
while this is on: replies that were written before have no colours.
"""

from __future__ import annotations

from typing import Any

params: dict[str, Any] = {
    "display_name": "Perplexity colours",
    "likely": 0.9,
    "even": 0.5,
    "unlikely": 0.1,
}

_EVEN, _UNSURE, _UNLIKELY = "#d9c600", "#f08c00", "#e0312b"
"""Yellow, orange and red: calm where the model was sure, and lighter or darker than each other."""


def token_colors(tokens: list[dict[str, Any]]) -> dict[str, Any]:
    """A colour for each token, and none for what was likely."""
    likely, even, unlikely = sorted(
        (params["likely"], params["even"], params["unlikely"]), reverse=True
    )
    steps = ((likely, ""), (even, _EVEN), (unlikely, _UNSURE), (0.0, _UNLIKELY))

    def color(probability: float) -> str:
        return next((color for least, color in steps if probability >= least), _UNLIKELY)

    return {
        "colors": [color(token["probability"]) for token in tokens],
        "legend": [
            ("", f"{likely:.0%} and more"),
            (_EVEN, f"{even:.0%} to {likely:.0%}"),
            (_UNSURE, f"{unlikely:.0%} to {even:.0%}"),
            (_UNLIKELY, f"below {unlikely:.0%}"),
        ],
    }
