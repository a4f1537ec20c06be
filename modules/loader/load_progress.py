"""How far a load is, by bytes, told while transformers reads the weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from transformers.utils import logging as transformers_logging

from modules.loader.inspect import TensorInfo

__all__ = ["LoadStages", "Progress"]

Progress = Callable[[str, float], None]
"""Called with a stage and the fraction of the whole that is done."""

_WEIGHTS_AT = 0.25
_REPORTS = 200


class LoadStages:
    """Reports stages, and remembers the last one for whoever must explain a failure."""

    def __init__(self, report: Progress) -> None:
        self._report = report
        self.stage = ""

    def enter(self, stage: str, fraction: float) -> None:
        """A stage begins."""
        self.stage = stage
        self._report(stage, fraction)

    @contextmanager
    def reading(self, tensors: Mapping[str, TensorInfo]) -> Iterator[None]:
        """Within it, each weight that transformers has placed is counted with its bytes."""
        total = sum(tensor.nbytes for tensor in tensors.values())
        self.enter(_stage(0, total), _WEIGHTS_AT)

        def counted(_: Callable[..., Any], args: tuple[Any, ...], options: dict[str, Any]) -> Any:
            return self._counting(args[0] if args else options["iterable"], tensors, total)

        previous = transformers_logging.set_tqdm_hook(counted)
        try:
            yield
        finally:
            transformers_logging.set_tqdm_hook(previous)

    def _counting(self, items: Any, tensors: Mapping[str, TensorInfo], total: int) -> Iterator[Any]:
        done = reported = 0
        for name, transform in list(items):
            yield name, transform
            sources = transform.layer_targets.get(name, ())
            done += sum(tensors[source].nbytes for source in sources if source in tensors)
            if (done - reported) * _REPORTS >= total:
                reported = done
                share = min(1.0, done / max(total, 1))
                self.enter(_stage(done, total), _WEIGHTS_AT + (1 - _WEIGHTS_AT) * share)


def _stage(done: int, total: int) -> str:
    return f"Reading the weights ({done / 1e9:.2f} of {total / 1e9:.2f} GB)"
