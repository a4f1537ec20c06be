"""Fetch a model from the terminal: `python download-model.py starter`."""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from pathlib import Path

from modules.errors import DownloadError

_ROOT = Path(__file__).resolve().parent


def main(arguments: list[str] | None = None) -> int:
    """Do what the command line says; the exit status."""
    options = _parse(arguments)
    if options.model != "starter":
        print(
            f"Only `starter` can be fetched so far, so put the folder of {options.model} "
            f"(config.json, tokenizer.json and safetensors weights) into {options.model_dir} "
            "by hand.",
            file=sys.stderr,
        )
        return 2
    return _fetch_starter(options.model_dir)


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Fetch a model into models/.")
    parser.add_argument(
        "model", metavar="MODEL", help="`starter`: SmolLM2-135M-Instruct, 93 MB, Apache-2.0"
    )
    parser.add_argument(
        "--model-dir",
        type=Path,
        default=_ROOT / "models",
        metavar="DIR",
        help="the folder that holds the models (default: models/ beside this file)",
    )
    return parser.parse_args(arguments)


def _fetch_starter(models_dir: Path) -> int:
    from modules.loader.starter import STARTER, fetch_starter

    print(f"{STARTER.summary}, {STARTER.parameters} parameters, by {STARTER.author}")
    line = _Line(sys.stdout.isatty())
    started = time.monotonic()
    try:
        path = fetch_starter(models_dir, line.show)
    except DownloadError as error:
        line.end()
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        line.end()
        print("Interrupted; nothing was left behind.", file=sys.stderr)
        return 130
    line.end()
    print(f"{path} is ready after {time.monotonic() - started:.0f} s.")
    return 0


class _Line:
    """One line that is rewritten on a terminal, and one line a stage elsewhere."""

    def __init__(self, terminal: bool) -> None:
        self._terminal = terminal
        self._shown = ""

    def show(self, stage: str, fraction: float) -> None:
        """Print where the fetch is."""
        stage = stage.partition(" (")[0]
        if self._terminal:
            text = f"{fraction:4.0%} {stage}"
            width = shutil.get_terminal_size().columns - 1
            print(f"\r{text[:width]:<{width}}", end="", flush=True)
        elif stage != self._shown:
            print(f"{fraction:4.0%} {stage}", flush=True)
        self._shown = stage

    def end(self) -> None:
        """Leave the line as it stands."""
        if self._terminal and self._shown:
            print()


if __name__ == "__main__":
    sys.exit(main())
