"""The gate before every load: a checkpoint that may be loaded, or why it may not."""

from __future__ import annotations

from pathlib import Path

from modules.errors import NotAModelError, UnsafeModelError
from modules.loader.inspect import Inspection, inspect_checkpoint
from modules.loader.options import LoadOptions

__all__ = ["check_checkpoint"]


def check_checkpoint(path: Path, options: LoadOptions | None = None) -> Inspection:
    """The inspection of the folder `path`, if `options` can load it.

    Raises ModelNotFoundError where there is no such folder, NotAModelError where something
    is missing, damaged or of a kind that is not read, and UnsafeModelError where loading
    would run code that the folder brings or names.
    """
    inspection = inspect_checkpoint(path, options)
    if not inspection.safe:
        raise UnsafeModelError(inspection.problem, inspection.remedy)
    if inspection.problem:
        raise NotAModelError(inspection.problem, inspection.remedy)
    return inspection
