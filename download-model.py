"""Fetch a model or a LoRA from the terminal: `python download-model.py OWNER/NAME[:BRANCH]`."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from modules.errors import DownloadError, DownloadIncompleteError, InvalidInputError, LanternError
from modules.loader.terminal import ProgressLine

if TYPE_CHECKING:
    from modules.loader.download import DownloadRequest

_ROOT = Path(__file__).resolve().parent


def main(arguments: list[str] | None = None) -> int:
    """Do what the command line says; the exit status."""
    options = _parse(arguments)
    line = ProgressLine(sys.stdout)
    try:
        if options.model == "starter":
            return _fetch_starter(options.output or options.model_dir, line)
        return _check(options, line) if options.check else _download(options, line)
    except KeyboardInterrupt:
        line.end()
        kept = "nothing was left behind" if options.model == "starter" else "what has come is kept"
        print(f"Interrupted; {kept}.", file=sys.stderr)
        return 130
    except LanternError as error:
        line.end()
        missing = error.missing if isinstance(error, DownloadIncompleteError) else ()
        for path, reason in missing:
            print(f"missing: {path}: {reason}", file=sys.stderr)
        print(error, file=sys.stderr)
        return 2 if isinstance(error, InvalidInputError) else 1


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Fetch a model to models/, or a LoRA to loras/.")
    add = parser.add_argument
    add("model", nargs="?", metavar="MODEL", help="OWNER/NAME, OWNER/NAME:BRANCH, or starter")
    add("--branch", default="", help="the branch (default: main)")
    add("--threads", type=int, default=4, metavar="N", help="files fetched at a time (4)")
    add("--text-only", action="store_true", help="configuration, tokenizer and texts alone")
    add("--specific-file", default="", metavar="FILE", help="this file alone")
    add("--exclude-pattern", default="", metavar="REGEX", help="leave out the files it matches")
    add("--output", type=Path, metavar="DIR", help="put the folder into DIR, model or LoRA")
    add("--model-dir", type=Path, default=_ROOT / "models", metavar="DIR", help="here go models")
    add("--clean", action="store_true", help="do not go on from an earlier attempt")
    add("--check", action="store_true", help="compare what is there with its hashes")
    add("--max-retries", type=int, default=5, metavar="N", help="attempts in vain for a file (5)")
    add("--dry-run", action="store_true", help="say what would be fetched, and its size")
    options = parser.parse_args(arguments)
    if not options.model:
        parser.exit(2, "Say which model: OWNER/NAME, or starter. --help lists the options.\n")
    return options


def _request(options: argparse.Namespace) -> DownloadRequest:
    from modules.loader.download import DownloadRequest

    return DownloadRequest(
        model=options.model,
        branch=options.branch,
        text_only=options.text_only,
        specific_file=options.specific_file,
        exclude_pattern=options.exclude_pattern,
    )


def _download(options: argparse.Namespace, line: ProgressLine) -> int:
    from modules.loader.download import discard_partial, fetch, look
    from modules.loader.download.report import describe, progress_text

    listing = look(_request(options))
    print("\n".join(describe(listing, every_file=options.dry_run)), flush=True)
    parent = options.output or (_ROOT / "loras" if listing.is_adapter else options.model_dir)
    if options.dry_run:
        print(f"Nothing was fetched; it would go to {parent / listing.folder}.")
        return 0
    if options.clean:
        discard_partial(listing, parent)
    started = time.monotonic()
    path = fetch(
        listing,
        parent,
        on_progress=lambda now: line.show(now.stage, now.fraction, progress_text(now)),
        threads=options.threads,
        max_retries=options.max_retries,
    )
    line.end()
    print(f"{path} is complete and verified after {time.monotonic() - started:.0f} s.")
    return 0


def _check(options: argparse.Namespace, line: ProgressLine) -> int:
    from modules.loader.download import look, read_record, verify
    from modules.loader.download.listing import folder_name

    request = _request(options)
    name = folder_name(*request.repo_and_branch())
    parents = [options.output] if options.output else [options.model_dir, _ROOT / "loras"]
    folder = next((parent / name for parent in parents if (parent / name).is_dir()), None)
    if folder is None:
        raise DownloadError(f"There is no folder {parents[0] / name}.", "Fetch it without --check.")
    record = read_record(folder)
    files = record.files if record else look(request).files
    total, read, wrong = sum(file.size for file in files), 0, 0

    def count(size: int) -> None:
        nonlocal read
        read += size
        line.show(f"Checking {folder}", read / max(1, total))

    for path, problem in verify(folder, files, count):
        if problem:
            wrong += 1
            line.end()
            print(f"{path}: {problem}")
    line.end()
    if wrong:
        print(f"{wrong} of {len(files)} files are not right; delete them, and fetch them again.")
        return 1
    print(f"All {len(files)} files in {folder} are right.")
    return 0


def _fetch_starter(models_dir: Path, line: ProgressLine) -> int:
    from modules.loader.starter import STARTER, fetch_starter

    print(f"{STARTER.summary}, {STARTER.parameters} parameters, by {STARTER.author}")
    started = time.monotonic()
    path = fetch_starter(models_dir, line.show)
    line.end()
    print(f"{path} is ready after {time.monotonic() - started:.0f} s.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
