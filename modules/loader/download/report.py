"""A download in words, for the terminal and the page."""

from __future__ import annotations

from modules.loader.download.listing import Listing
from modules.loader.download.meter import DownloadProgress

__all__ = ["describe", "progress_text", "size_text", "time_text"]

_NAMED = 3


def describe(listing: Listing, *, every_file: bool = False) -> list[str]:
    """The lines that say what would be fetched, and what not and why."""
    count = len(listing.files)
    lines = [
        f"{listing.repo}, branch {listing.branch}, commit {listing.revision[:12]}: "
        f"{count} {'file' if count == 1 else 'files'}, {size_text(listing.total_bytes)}"
    ]
    if every_file:
        lines += [f"  {size_text(file.size):>9}  {file.path}" for file in listing.files]
    reasons: dict[str, list[str]] = {}
    for path, reason in listing.left_out:
        reasons.setdefault(reason, []).append(path)
    for reason, paths in reasons.items():
        named = paths if every_file else paths[:_NAMED]
        more = f" and {len(paths) - len(named)} more" if len(paths) > len(named) else ""
        lines.append(f"Left out, because {reason}: {', '.join(map(_printable, named))}{more}")
    return lines


def progress_text(progress: DownloadProgress) -> str:
    """Bytes, speed, time and file in one line."""
    parts = [f"{size_text(progress.done)} of {size_text(progress.total)}"]
    if progress.speed > 0:
        parts.append(f"{size_text(round(progress.speed))}/s")
    if progress.seconds_left is not None:
        parts.append(f"{time_text(progress.seconds_left)} left")
    return ", ".join([*parts, progress.file] if progress.file else parts)


def size_text(size: int) -> str:
    """A number of bytes for a user to read."""
    for unit, name in ((10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if size >= unit:
            return f"{size / unit:.{2 if unit == 10**9 else 1}f} {name}"
    return f"{size} B"


def time_text(seconds: float) -> str:
    """A length of time for a user to read."""
    whole = min(round(seconds), 10**7)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"


def _printable(path: str) -> str:
    """A path that a hub told, without what could steer a terminal."""
    return "".join(character if character.isprintable() else "?" for character in path[:200])
