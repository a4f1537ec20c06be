"""Write the tables of options in docs/training.md: `python docs/options.py`."""

from __future__ import annotations

import sys
from itertools import groupby
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from modules.engine.knobs import Knob  # noqa: E402 - the path comes first
from modules.training.config import TrainingConfig, training_knobs  # noqa: E402

DOCUMENT = ROOT / "docs" / "training.md"
BEGIN = "<!-- made by docs/options.py -->\n"
END = "<!-- until here -->\n"


def main() -> None:
    """Put the tables between the two comments."""
    before, _, rest = DOCUMENT.read_text("utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    DOCUMENT.write_text(f"{before}{BEGIN}{tables()}{END}{after}", "utf-8")


def tables() -> str:
    """A table for each group of the page, in its order."""
    knobs = training_knobs().items()
    parts = []
    for group, some in groupby(knobs, key=lambda entry: entry[1].group):
        rows = "".join(_row(name, knob) for name, knob in some)
        parts.append(f"**{group}**\n\n| key | default | values | |\n|---|---|---|---|\n{rows}\n")
    return "\n" + "".join(parts)


def _row(name: str, knob: Knob) -> str:
    default = _shown(getattr(TrainingConfig(), name))
    source = f" ([source](https://{knob.source}))" if knob.source else ""
    return f"| `{name}` | {default} | {_values(knob)} | *{knob.label}.* {knob.help}{source} |\n"


def _shown(value: object) -> str:
    if isinstance(value, bool):
        text = str(value).lower()
    elif isinstance(value, tuple):
        text = ", ".join(map(str, value))
    else:
        text = f"{value:g}" if isinstance(value, float) else str(value)
    return f"`{text}`" if text else "none"


def _values(knob: Knob) -> str:
    if knob.kind == "choice":
        return ", ".join(map(str, knob.choices))
    if knob.kind in ("number", "integer"):
        most = int(knob.maximum) if float(knob.maximum).is_integer() else knob.maximum
        return f"{knob.minimum:g} to {most:,}"
    return {"switch": "true, false", "text": "text", "strings": "a list of texts"}[knob.kind]


if __name__ == "__main__":
    main()
