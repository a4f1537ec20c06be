"""What others reach and what we aim at, for a Llama-2-7B on one H100.

The figures were measured earlier, on an H100 80GB HBM3 with torch 2.11.0+cu130; they are no part
of the run that prints them, and on another card the ratio to them says little.
"""

from __future__ import annotations

import importlib.util

__all__ = ["GOALS", "MEASURED", "PEERS", "best_peer", "goal_of", "peer_lines", "ratio"]

MEASURED = "on an H100, 2026-11-23"

Key = tuple[str, str, int]
"""Benchmark, kind of weights, and its variable: context, tokens or chats; 0 for any."""

PEERS: dict[str, dict[Key, float]] = {
    "exllamav2": {
        ("decode", "gptq", 128): 248,
        ("prefill", "gptq", 512): 23,
        ("prefill", "gptq", 2048): 66,
        ("load", "gptq", 0): 1.6,
    },
    "vllm": {
        ("decode", "gptq", 128): 254,
        ("prefill", "gptq", 512): 26,
        ("prefill", "gptq", 2048): 46,
        ("concurrency", "gptq", 4): 837,
        ("concurrency", "gptq", 16): 2264,
        ("concurrency", "gptq", 32): 3052,
        ("load", "gptq", 0): 59,
    },
    "gptqmodel": {
        ("decode", "gptq", 128): 30,
        ("prefill", "gptq", 512): 57,
        ("prefill", "gptq", 2048): 103,
    },
    "bitsandbytes": {("decode", "8bit", 128): 12},
    "transformers": {("decode", "float16", 128): 25},
}
"""Tokens a second, for prefill milliseconds to the first token, for load seconds."""

GOALS: dict[Key, tuple[float, float]] = {
    ("decode", "gptq", 512): (450, 600),
    ("decode", "8bit", 512): (300, 380),
    ("prefill", "gptq", 2048): (46, 40),
    ("turns", "gptq", 0): (1.5, 1.2),
    ("concurrency", "gptq", 4): (1300, 1700),
    ("concurrency", "gptq", 16): (2600, 3200),
    ("load", "gptq", 0): (4, 2),
}
"""Goal and stretch, in the units of `PEERS`; for turns the ratio to a bare prefill."""

_LESS_IS_BETTER = ("prefill", "turns", "load")


def goal_of(benchmark: str, kind: str, variable: int = 0) -> float | None:
    """The goal, where there is one."""
    goal = GOALS.get((benchmark, kind, variable))
    return goal[0] if goal else None


def best_peer(benchmark: str, kind: str, variable: int = 0) -> float | None:
    """The best stored figure of any peer."""
    key = (benchmark, kind, variable)
    found = [figures[key] for figures in PEERS.values() if key in figures]
    best = min if benchmark in _LESS_IS_BETTER else max
    return best(found) if found else None


def ratio(benchmark: str, value: float, other: float) -> float:
    """How good `value` is beside another figure: 1 is as good, and more is better."""
    return other / value if benchmark in _LESS_IS_BETTER else value / other


def peer_lines(benchmark: str) -> list[str]:
    """A line for each peer that has figures of this benchmark: installed or not, and they."""
    lines = []
    for name, figures in PEERS.items():
        stored = [
            f"{kind} {variable or ''}".strip() + f": {value:g}"
            for (topic, kind, variable), value in figures.items()
            if topic == benchmark
        ]
        if stored:
            here = "installed here, not run" if _installed(name) else "not installed"
            lines.append(f"peer {name}: {here}; measured earlier {MEASURED}: {', '.join(stored)}")
    return lines


def _installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None
