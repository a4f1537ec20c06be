"""`metrics_text`: what Lantern does, in the text format of Prometheus (version 0.0.4)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from modules.api.service import Api
from modules.engine.client import EngineClient

__all__ = ["metrics_text"]

Sample = tuple[Mapping[str, str], int]
Metric = tuple[str, str, str, Iterable[Sample]]
"""Name, type, help, and the values with their labels."""

_STATES = ("empty", "loading", "ready", "crashed")


def metrics_text(api: Api) -> str:
    """All metrics, one after the other."""
    lines: list[str] = []
    for name, kind, told, samples in [*_replies(api.engine), *_model(api.engine), *_requests(api)]:
        lines += [f"# HELP {name} {told}", f"# TYPE {name} {kind}"]
        lines += [f"{name}{_labels(labels)} {value}" for labels, value in samples]
    return "\n".join(lines) + "\n"


def _replies(engine: EngineClient) -> Iterator[Metric]:
    tally = engine.tally
    yield (
        "lantern_prompt_tokens_total", "counter", "Tokens of the prompts of all finished replies.",
        [({}, tally.prompt_tokens)],
    )  # fmt: skip
    yield (
        "lantern_cached_prompt_tokens_total", "counter",
        "Those of them that were not computed again.", [({}, tally.cached_tokens)],
    )  # fmt: skip
    yield (
        "lantern_completion_tokens_total", "counter", "Tokens of all replies.",
        [({}, tally.completion_tokens)],
    )  # fmt: skip
    yield (
        "lantern_replies_total", "counter", "Replies that have ended, by what ended them.",
        [({"reason": reason}, count) for reason, count in sorted(tally.replies.items())],
    )  # fmt: skip
    yield (
        "lantern_replies_running", "gauge", "Replies that are being written.",
        [({}, len(tally.running))],
    )  # fmt: skip
    yield (
        "lantern_replies_waiting", "gauge", "Requests whose first token has not come.",
        [({}, len(tally.waiting))],
    )  # fmt: skip


def _model(engine: EngineClient) -> Iterator[Metric]:
    state, info = engine.state, engine.state.info
    yield (
        "lantern_model_state", "gauge", "What the engine is doing: 1 for the present state.",
        [({"state": phase}, int(phase == state.phase)) for phase in _STATES],
    )  # fmt: skip
    if info is None:
        return
    yield (
        "lantern_model_info", "gauge", "The model that is loaded.",
        [({"model": info.name, "quantization": info.quantization, "device": info.device}, 1)],
    )  # fmt: skip
    yield (
        "lantern_model_memory_bytes", "gauge", "Memory of its weights.", [({}, info.memory)]
    )  # fmt: skip
    yield (
        "lantern_adapters_applied", "gauge", "LoRAs over the model.", [({}, len(state.adapters))]
    )  # fmt: skip


def _requests(api: Api) -> Iterator[Metric]:
    yield (
        "lantern_http_requests_total", "counter", "Requests to the API, by route and status.",
        [
            ({"path": path, "status": str(status)}, count)
            for (path, status), count in sorted(api.meters.requests.items())
        ],
    )  # fmt: skip


def _labels(labels: Mapping[str, str]) -> str:
    if not labels:
        return ""
    inner = ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items())
    return f"{{{inner}}}"


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
