"""The real starter model for tests, fetched once and kept between runs."""

from __future__ import annotations

import os
from pathlib import Path

from modules.loader.starter import fetch_starter

__all__ = ["provide_starter"]


def provide_starter() -> Path:
    """The starter's folder in the cache: LANTERN_TEST_CACHE, or ~/.cache/lantern-tests.

    The first call fetches and converts it, which takes about half a minute; calls from
    several processes at once wait for one another.
    """
    cache = os.environ.get("LANTERN_TEST_CACHE") or Path.home() / ".cache" / "lantern-tests"
    return fetch_starter(Path(cache) / "models", lambda stage, fraction: None)
