"""Hooks of extensions that need tensors: they alter the tokens of a prompt, and the logits.

They run in the thread that computes, one extension's after another's. A hook that raises, takes
too long or gives what it may not is not called again, the web process is told of it, and the
reply goes on without. A hook that cannot be interrupted is the web process's to notice: it is
told before each call (`HookEntered`) and after it (`HookLeft`).
"""

from __future__ import annotations

import inspect
import signal
import threading
import types
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList, PreTrainedTokenizerBase

from modules.engine.protocol import (
    Event,
    ExtensionFailed,
    HookEntered,
    HookLeft,
    TensorHooks,
    WorkerExtension,
)
from modules.engine.worker.tokens import encode
from modules.scripts import HOST, HookError, Interrupted, clause_of, import_script, kind_of

__all__ = ["Extensions", "RequestHooks", "WorkerHost"]

_TOKENS = "tokenizer_modifier"
_LOGITS = "logits_processor_modifier"


@dataclass(frozen=True, slots=True)
class WorkerHost:
    """What scripts reach here. `model_name` is the checkpoint's."""

    tokenizer: PreTrainedTokenizerBase
    model_name: str = "None"

    def encode(self, text: str, special_tokens: bool) -> Tensor:
        """The tokens [1, n] of a text."""
        return torch.tensor([encode(self.tokenizer, text, special_tokens)])

    def decode(self, ids: Sequence[int], skip_special_tokens: bool) -> str:
        """The text of tokens."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=skip_special_tokens))


class Extensions:
    """The scripts that requests came with. `tell` sends events at once, `note` with the next."""

    def __init__(
        self,
        host: WorkerHost,
        tell: Callable[[list[Event]], None],
        note: Callable[[Event], None],
    ) -> None:
        self._host = host
        self._tell = tell
        self._note = note
        self._modules: dict[tuple[str, int], types.ModuleType | None] = {}

    def of(self, hooks: TensorHooks | None) -> RequestHooks | None:
        """The hooks of one request."""
        return None if hooks is None or not hooks.extensions else RequestHooks(self, hooks)

    def module(self, extension: WorkerExtension, hooks: TensorHooks) -> types.ModuleType | None:
        """The script with its params as they are now; None for one that failed."""
        key = (extension.name, extension.version)
        if key not in self._modules:
            for former in [known for known in self._modules if known[0] == extension.name]:
                del self._modules[former]
            path = Path(extension.path)
            self._modules[key] = self.run(
                extension, "import", hooks, lambda: import_script(extension.name, path)
            )
        module = self._modules[key]
        params = getattr(module, "params", None)
        if isinstance(params, dict):
            params.update(extension.params)
        return module

    def run(
        self,
        extension: WorkerExtension,
        hook: str,
        hooks: TensorHooks,
        call: Callable[[], Any],
    ) -> Any:
        """What `call` returns; None, and the extension is off, where it fails."""
        seconds = hooks.import_s if hook == "import" else hooks.hook_s
        entered = HookEntered(extension.name, hook, seconds + hooks.grace_s, extension.version)
        self._tell([entered])
        HOST.set(self._host)
        try:
            try:
                with _deadline(seconds):
                    return call()
            except Interrupted:
                raise HookError(f"did not return within {seconds:g} s") from None
        except BaseException as error:  # noqa: BLE001 - the extension call: SystemExit too
            self._modules[(extension.name, extension.version)] = None
            failed = ExtensionFailed(extension.name, hook, clause_of(error), extension.version)
            self._note(failed)
            return None
        finally:
            self._note(HookLeft())


class RequestHooks:
    """The hooks that one request came with."""

    def __init__(self, extensions: Extensions, hooks: TensorHooks) -> None:
        self._extensions = extensions
        self._hooks = hooks

    def tokens(self, prompt: str, ids: list[int], vocabulary: int) -> list[int]:
        """The tokens of a prompt after every tokenizer_modifier; `ids` has at least one."""
        for extension in self._having(_TOKENS):
            function = self._function(extension, _TOKENS)
            if function is None:
                continue
            given = (dict(self._hooks.state), prompt, torch.tensor([ids]), None)

            def call(given: Any = given, function: Any = function) -> tuple[str, list[int]]:
                return _prompt(function(*given), vocabulary)

            made = self._extensions.run(extension, _TOKENS, self._hooks, call)
            if made is not None:
                prompt, ids = made
        return ids

    def processors(self, chain: LogitsProcessorList, context: Tensor) -> LogitsProcessorList:
        """The processors after every logits_processor_modifier, for tokens [1, n] so far.

        What an extension added is called through `_Guarded`.
        """
        for extension in self._having(_LOGITS):
            function = self._function(extension, _LOGITS)
            if function is None:
                continue
            before = list(chain)
            given = (LogitsProcessorList(before), context.clone())[: _count(function)]

            def call(given: Any = given, function: Any = function) -> list[Any]:
                return _listed(function(*given))

            made = self._extensions.run(extension, _LOGITS, self._hooks, call)
            if made is not None:
                own = {id(processor) for processor in before}
                chain = LogitsProcessorList(
                    one if id(one) in own else _Guarded(one, extension, self) for one in made
                )
        return chain

    def score(
        self, processor: Any, extension: WorkerExtension, context: Tensor, scores: Tensor
    ) -> Tensor:
        """What a processor of an extension makes of scores [1, vocab]."""
        if self._extensions.module(extension, self._hooks) is None:
            return scores

        def call() -> Tensor:
            return _scores(processor(context, scores.clone()), scores)

        made = self._extensions.run(extension, _LOGITS, self._hooks, call)
        return scores if made is None else made

    def _having(self, hook: str) -> Iterator[WorkerExtension]:
        return (one for one in self._hooks.extensions if hook in one.hooks)

    def _function(self, extension: WorkerExtension, hook: str) -> Callable[..., Any] | None:
        module = self._extensions.module(extension, self._hooks)
        function = getattr(module, hook, None)
        return function if callable(function) else None


class _Guarded(LogitsProcessor):
    """A processor that an extension added."""

    def __init__(self, processor: Any, extension: WorkerExtension, hooks: RequestHooks) -> None:
        self._processor = processor
        self._extension = extension
        self._hooks = hooks

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        return self._hooks.score(self._processor, self._extension, input_ids, scores)


@contextmanager
def _deadline(seconds: float) -> Iterator[None]:
    """Raise Interrupted in this block after `seconds`, in the main thread and on POSIX.

    By a signal, which ends a sleep and a wait too. A timer that somebody else set is put back.
    """
    if threading.current_thread() is not threading.main_thread() or not hasattr(
        signal, "setitimer"
    ):
        yield
        return
    inside = True

    def ring(*_: object) -> None:
        if inside:
            raise Interrupted

    former_handler = signal.signal(signal.SIGALRM, ring)
    former_timer = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        inside = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, former_handler)
        if former_timer[0]:
            signal.setitimer(signal.ITIMER_REAL, *former_timer)


def _count(function: Callable[..., Any]) -> int:
    """How many arguments a function takes; the older ones took the processors alone."""
    return min(2, len(inspect.signature(function).parameters)) or 2


def _prompt(made: Any, vocabulary: int) -> tuple[str, list[int]]:
    """What a tokenizer_modifier returned. Raises HookError."""
    if not isinstance(made, tuple) or len(made) != 3:
        raise HookError(f"returned {kind_of(made)} and not (prompt, input_ids, input_embeds)")
    prompt, ids, embeds = made
    if embeds is not None:
        raise HookError("returned input_embeds, which Lantern cannot compute from")
    if not isinstance(prompt, str) or not isinstance(ids, Tensor):
        raise HookError("returned something else than a text and a tensor of tokens")
    if ids.dim() != 2 or ids.shape[0] != 1 or ids.shape[1] < 1 or ids.is_floating_point():
        raise HookError(f"returned tokens of shape {list(ids.shape)} and not [1, n]")
    tokens = ids[0].tolist()
    if not all(0 <= token < vocabulary for token in tokens):
        raise HookError("returned a token that the model does not have")
    return prompt, tokens


def _listed(made: Any) -> list[Any]:
    """What a logits_processor_modifier returned. Raises HookError."""
    if not isinstance(made, list) or not all(callable(one) for one in made):
        raise HookError(f"returned {kind_of(made)} and not a list of logits processors")
    return made


def _scores(made: Any, before: Tensor) -> Tensor:
    """What a logits processor of an extension returned. Raises HookError."""
    if not isinstance(made, Tensor) or made.shape != before.shape:
        raise HookError(f"has a processor that returned {kind_of(made)} and not the scores")
    if not torch.isfinite(made.max()):
        raise HookError("has a processor whose scores leave no token to choose")
    return made.to(before.dtype)
