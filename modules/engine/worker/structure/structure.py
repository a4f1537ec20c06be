"""`Structure`: which tokens a reply may go on with, so that it keeps to its form."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import lru_cache
from itertools import takewhile
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from modules.engine.params import SamplingParams
from modules.engine.worker.structure.compile import compile_structure, first_line
from modules.errors import EngineError, InvalidInputError

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

__all__ = ["Structure", "Structures"]

_COMPILE_S = 10.0
_TOKEN_S = 2.0
_KEPT = 16
_THREADS = 2
# The library follows a grammar by recursion, and an overflow ends the process. A thread has 8 MB
# otherwise, and half a MB on macOS; memory is taken as it is used.
_STACK = 256 * 2**20


class Structures:
    """Makes structures for one tokenizer; keeps what was compiled last."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._llguidance = lru_cache(1)(self._make_tokenizer)
        self._compiled = lru_cache(_KEPT)(self._compile)
        self._threads = lru_cache(1)(_threads)

    def begin(
        self, params: SamplingParams, prompt_tokens: int, end_ids: frozenset[int]
    ) -> Structure | None:
        """What holds a reply to its form; None where it has none.

        The reply follows `prompt_tokens` tokens. `end_ids` end it, and are allowed where the
        form is complete.
        """
        if params.structure == "none":
            return None

        def begin() -> LLMatcher:
            # A matcher changes with each token, so that each reply has its own.
            return self._compiled(params.structure, params.structure_text).deep_copy()

        return Structure(self._threads(), begin, prompt_tokens, end_ids)

    def _compile(self, kind: str, text: str) -> LLMatcher:
        return compile_structure(kind, text, self._llguidance())

    def _make_tokenizer(self) -> LLTokenizer:
        from llguidance.hf import from_tokenizer

        tokenizer: Any = self._tokenizer  # only those of the library `tokenizers` will do
        try:
            return from_tokenizer(tokenizer)
        except ValueError as error:
            raise EngineError(
                f"This model's tokenizer cannot hold a reply to a form: {first_line(str(error))}.",
                "Set the structure to none, or load another model.",
            ) from error


class Structure:
    """The form of one reply.

    Compiling, and computing what may come next, is done in a thread: others are served
    meanwhile, and the model computes. What takes longer than the limits is given up.
    """

    def __init__(
        self,
        threads: ThreadPoolExecutor,
        begin: Callable[[], LLMatcher],
        prompt_tokens: int,
        end_ids: frozenset[int],
    ) -> None:
        self._threads = threads
        self._prompt_tokens = prompt_tokens
        self._end_ids = end_ids
        self._deadline = time.monotonic() + _COMPILE_S
        self._begun: Future[LLMatcher] = threads.submit(begin)
        self._lock = threading.Lock()
        self._taken: list[int] = []
        """The tokens that the matcher has taken."""
        self._expected: tuple[list[int], Future[Tensor]] | None = None

    def ready(self, patience: float = 0.0) -> bool:
        """Whether the reply can begin, or it is known that it cannot; waits `patience` seconds."""
        wait([self._begun], patience)
        return self._begun.done() or time.monotonic() > self._deadline

    def require(self) -> None:
        """Raises InvalidInputError for a form that cannot be used."""
        try:
            self._begun.result(max(0.0, self._deadline - time.monotonic()))
        except TimeoutError:
            raise InvalidInputError(
                f"The structure was not ready after {_COMPILE_S:.0f} seconds.",
                "Simplify it.",
                field="structure_text",
            ) from None

    def expect(self, token_ids: list[int]) -> None:
        """Begin to compute what may follow prompt and reply, which `apply` will ask for."""
        if token_ids[-1] not in self._end_ids:
            reply = token_ids[self._prompt_tokens :]
            self._expected = (reply, self._threads.submit(self._after, reply))

    def apply(self, logits: Tensor, token_ids: list[int]) -> Tensor:
        """The logits [vocab] that follow prompt and reply, with -inf for what breaks the form.

        Raises EngineError where that cannot be found out in time, or no token is left.
        """
        self.require()
        if self._expected is None or self._expected[0] != token_ids[self._prompt_tokens :]:
            self.expect(token_ids)
        barred = self._result()
        # The model may have logits for more tokens than the tokenizer, or for fewer.
        whole = barred.new_ones(logits.shape[-1])
        known = barred[: len(whole)]
        whole[: len(known)] = known
        if whole.all():
            raise EngineError(
                "The model has no token that goes on with the structure.", "Change the structure."
            )
        return logits.masked_fill(whole.to(logits.device), -torch.inf)

    def _result(self) -> Tensor:
        assert self._expected is not None
        try:
            return self._expected[1].result(_TOKEN_S)
        except TimeoutError:
            raise EngineError(
                f"The structure took more than {_TOKEN_S:.0f} seconds for one token.",
                "Simplify it.",
            ) from None

    def _after(self, reply: list[int]) -> Tensor:
        """Which tokens [vocab] may not follow `reply`."""
        matcher = self._begun.result()
        with self._lock:
            # Beams take turns with replies that are alike only in their beginnings.
            alike = len(self._taken)
            if reply[:alike] != self._taken:
                pairs = zip(self._taken, reply, strict=False)
                alike = sum(takewhile(bool, (ours == theirs for ours, theirs in pairs)))
            matcher.rollback(len(self._taken) - alike)
            matcher.consume_tokens(reply[alike:])
            self._taken = reply
            # A byte for each token, which is 0 where it may not come.
            allowed = torch.frombuffer(bytearray(matcher.compute_logit_bias()), dtype=torch.uint8)
            if matcher.is_error():
                raise EngineError(
                    "The structure became too complex in mid-reply: "
                    f"{first_line(matcher.get_error())}.",
                    "Simplify it.",
                )
            complete = matcher.is_accepting()
        barred = allowed == 0
        barred[[end for end in self._end_ids if end < len(barred)]] = not complete
        return barred


def _threads() -> ThreadPoolExecutor:
    before = threading.stack_size(_STACK)
    pool = ThreadPoolExecutor(_THREADS, "structure")
    together = threading.Barrier(_THREADS)
    for _ in range(_THREADS):  # so that all of them start now, with this stack
        pool.submit(together.wait)
    threading.stack_size(before)
    return pool
