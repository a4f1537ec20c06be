"""`Scheduler`: who is served next, one step at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from modules.engine.methods import require_supported
from modules.engine.params import SamplingParams
from modules.engine.protocol import (
    AdapterLoaded,
    AdapterUnloaded,
    Embed,
    Embedded,
    Event,
    Failed,
    FinishReason,
    GenerateRequest,
    LoadAdapter,
    NextTokens,
    TokenChunk,
    UnloadAdapter,
)
from modules.engine.worker.decoding.choice import make_method
from modules.engine.worker.decoding.method import Drawn, Method
from modules.engine.worker.detokenizer import Detokenizer
from modules.engine.worker.extensions import Extensions, WorkerHost
from modules.engine.worker.flights import Flight, Flights
from modules.engine.worker.llama.blocks import CacheFullError
from modules.engine.worker.looks import Looks
from modules.engine.worker.runner import Runner
from modules.engine.worker.sampler import Sampler, not_finite, require_finite
from modules.engine.worker.sequence import Sequence
from modules.engine.worker.structure.structure import Structures
from modules.engine.worker.tokens import encode, stop_ids
from modules.errors import (
    AdapterError,
    EngineError,
    InvalidInputError,
    LanternError,
    ModelError,
    PromptTooLongError,
)

__all__ = ["Scheduler"]

_PATIENCE_S = 0.02
"""How long a step waits for a structure where there is nothing else to do."""

_NO_ROOM = (
    "The context is longer than the memory that is left for it.",
    "Shorten the prompt, or load the model with a smaller context.",
)

# What a LoRA's change is measured on: an instruction, an answer, prose, numbers and code.
_PROBE = (
    "### Instruction: What is the capital of France?\n### Response: The capital of France is "
    "Paris. Once upon a time there was an old house by the sea. 12 + 30 = 42\ndef f(x):"
)


class Scheduler:
    """Serves many requests at once with one runner.

    A step gives every running sequence one token (its method of decoding may make another
    number of it), and one sequence one chunk of its prompt. So a long prompt delays the
    others by a chunk at most, which is shorter while others are served (`shared_chunk`), and a
    cancel takes effect within a step. At most `max_running` sequences hold KV caches; the others
    wait. With `flights`, replies that sample plainly are computed a step ahead of what is said.
    `unsupported` are the parameters that turn on what the model cannot do. `tell` sends events
    that cannot wait for the end of a step.
    """

    def __init__(
        self,
        runner: Runner,
        tokenizer: PreTrainedTokenizerBase,
        eos_ids: frozenset[int],
        context_length: int,
        max_running: int = 16,
        prefill_chunk: int = 256,
        shared_chunk: int | None = None,
        flights: Flights | None = None,
        unsupported: tuple[str, ...] = (),
        tell: Callable[[list[Event]], None] | None = None,
    ) -> None:
        self._runner = runner
        self._tokenizer = tokenizer
        self._eos_ids = eos_ids
        self._context_length = context_length
        self._max_running = max_running
        self._prefill_chunk = prefill_chunk
        self._shared_chunk = shared_chunk or prefill_chunk
        self._unsupported = unsupported
        self._waiting: deque[Sequence] = deque()
        self._prefilling: deque[Sequence] = deque()
        self._running: list[Sequence] = []
        self._events: list[Event] = []
        self._flights = flights
        self._flight: Flight | None = None
        self._looks = Looks(tokenizer)
        self._structures = Structures(tokenizer)
        self._extensions = Extensions(WorkerHost(tokenizer), tell or self._note_all, self._note)

    @property
    def has_work(self) -> bool:
        """Whether a step would do anything."""
        return bool(self._events or self._waiting or self._prefilling or self._running)

    def add(self, request: GenerateRequest) -> None:
        """Queue a request; one that cannot be served answers with `Failed` at the next step."""
        try:
            self._waiting.append(self._sequence(request))
        except Exception as error:  # noqa: BLE001 - one request's failure is its own
            self._events.append(_failed(request.id, error))

    def look(self, command: NextTokens) -> None:
        """Queue a question about the next token, in the place of its asker's earlier one."""
        for seq in [*self._waiting, *self._prefilling]:
            if seq.look is not None and seq.look.asker == command.asker != "":
                superseded = EngineError("A newer question came.", "Its answer is the one to show.")
                self._fail(seq, superseded)
        try:
            seq = self._sequence(command.request)
        except Exception as error:  # noqa: BLE001 - one request's failure is its own
            self._events.append(_failed(command.id, error))
            return
        seq.look, seq.method = command, Method(seq, self._runner)
        logits = self._looks.known(seq)
        if logits is None or not _ready(seq):
            self._waiting.append(seq)
        else:
            self._show(command, seq, logits)

    def embed(self, command: Embed) -> None:
        """Queue a text whose vector is wanted."""
        plain = SamplingParams.neutral(max_new_tokens=1)
        request = GenerateRequest(command.id, command.text, plain, adapters=command.adapters)
        try:
            seq = self._sequence(request)
        except Exception as error:  # noqa: BLE001 - one request's failure is its own
            self._events.append(_failed(command.id, error))
            return
        seq.embed, seq.hidden = command, []
        self._waiting.append(seq)

    def _note(self, event: Event) -> None:
        self._events.append(event)

    def _note_all(self, events: list[Event]) -> None:
        self._events += events

    def cancel(self, request_id: str) -> None:
        """End a request, if it is still here, with what its reply has so far."""
        for seq in chain(self._waiting, self._prefilling, self._running):
            if seq.id == request_id:
                self._finish(seq, "cancelled")
                return

    def load_adapter(self, command: LoadAdapter) -> None:
        """Read a LoRA between two steps, in the place of one of the same name."""
        try:
            self._drop_adapter(command.name, "was read anew")
            probe = encode(self._tokenizer, _PROBE, True)[: self._context_length]
            info = self._runner.load_adapter(command.name, Path(command.path), probe)
        except Exception as error:  # noqa: BLE001 - as for a request, it is the command's own
            self._events.append(_failed(command.id, error))
            return
        self._events.append(AdapterLoaded(command.id, info))

    def unload_adapter(self, command: UnloadAdapter) -> None:
        """Forget a LoRA between two steps."""
        self._drop_adapter(command.name, "was removed")
        self._events.append(AdapterUnloaded(command.id))

    def _drop_adapter(self, name: str, what: str) -> None:
        """Replies that are under way with it fail: the rest would be another model's."""
        begun = [seq for seq in self._waiting if len(seq.token_ids) > seq.prompt_tokens]
        for seq in [*begun, *self._prefilling, *self._running]:
            if name in dict(seq.mix):
                message = f"The LoRA {name} {what} while this reply was written with it."
                self._fail(seq, AdapterError(message, "Regenerate the reply."))
        self._looks.forget()
        self._runner.unload_adapter(name)

    def step(self) -> list[Event]:
        """Compute once for everyone; returns what happened, in order."""
        self._decode()
        self._admit()
        self._prefill()
        events, self._events = self._events, []
        return events

    def _decode(self) -> None:
        under_way = [] if self._flight is None else self._flight.seqs
        paused = [seq for seq in self._running if seq in under_way and seq.method.pauses()]
        known = [seq for seq in self._running if seq not in under_way]
        alone = [seq for seq in known if seq.method.alone()]
        rest = [seq for seq in known if seq.row is None]
        grounded = {*paused, *alone}
        self._fly([s for s in self._running if s.row is not None and s not in grounded])
        # Each of these may have to make room, so that who was served is not any more.
        self._decode_together([s for s in rest if s not in alone and s in self._running])
        for seq in alone:
            if seq in self._running:
                self._take(seq, seq.method.step)

    def _fly(self, seqs: list[Sequence]) -> None:
        """Launch the next step of all, and only then look what came of the one before."""
        before, self._flight = self._flight, None
        under_way = set() if before is None else set(before.seqs)
        going = [s for s in seqs if len(s.token_ids) + (s in under_way) < s.max_tokens]
        if going and self._flights is not None:
            try:
                self._flight = self._flights.launch(going, before)
            except CacheFullError:
                self._flight = before
                self._make_room()
                return
            except Exception as error:  # noqa: BLE001 - the runner cannot say whose it is
                for seq in going:
                    self._fail(seq, error)
        self._land(before)

    def _land(self, flight: Flight | None) -> None:
        """Pass on the tokens of a step that was under way."""
        for seq, token_id, numbers in () if flight is None else flight.land():
            if seq in self._running:
                self._take(seq, partial(_landed, token_id, numbers))

    def _decode_together(self, seqs: list[Sequence]) -> None:
        if not seqs:
            return
        try:
            logits = self._runner.decode(seqs)
        except CacheFullError:
            self._make_room()
            return
        except Exception as error:  # noqa: BLE001 - the runner cannot say whose it is
            for seq in seqs:
                self._fail(seq, error)
            return
        for seq, row in zip(seqs, logits, strict=True):
            if seq.error is not None:
                self._fail(seq, seq.error)
            else:
                self._take(seq, partial(seq.method.draw, row))

    def _make_room(self) -> None:
        """Let the youngest that can wait do so until another has ended; it is computed anew then.

        What is under way is seen first: it is somebody's next token, and may end a reply.
        """
        running = len(self._running)
        flight, self._flight = self._flight, None
        self._land(flight)
        if len(self._running) < running:
            return
        served = [*self._running, *self._prefilling]
        able = [seq for seq in served if type(seq.method) is Method]
        if able and len(served) > 1:
            self._send_back(max(able, key=_arrival))
        else:
            self._fail(max(self._running, key=_arrival), EngineError(*_NO_ROOM))

    def _send_back(self, seq: Sequence) -> None:
        """From those who are served to the head of those who wait."""
        for place in (self._prefilling, self._running):
            if seq in place:
                place.remove(seq)
        self._runner.release(seq)
        seq.computed = 0
        seq.hidden = None if seq.hidden is None else []
        self._waiting.appendleft(seq)

    def _admit(self) -> None:
        busy = len(self._running) + len(self._prefilling)
        ready = [seq for seq in self._waiting if _ready(seq)]
        if self._waiting and not (busy or ready or self._events):
            _ready(self._waiting[0], _PATIENCE_S)
        for seq in ready[: self._max_running - busy]:
            # Nobody overtakes who waits for memory. Alone, a request finds out that it is too long.
            if (self._running or self._prefilling) and not self._runner.has_room(seq):
                break
            self._waiting.remove(seq)
            self._prefilling.append(seq)
            try:
                if seq.sampler.structure is not None:
                    seq.sampler.structure.require()
                cached = seq.method.start()
                if len(seq.token_ids) == seq.prompt_tokens:  # else it was sent back in mid-reply
                    seq.cached_tokens = cached
                if self._flights is not None and seq.row is None:
                    self._flights.board(seq)
            except Exception as error:  # noqa: BLE001 - one request's failure is its own
                self._fail(seq, error)

    def _prefill(self) -> None:
        if not self._prefilling:
            return
        seq = self._prefilling[0]
        # The next step is another prompt's turn, so that a short one overtakes a long one.
        self._prefilling.rotate(-1)
        try:
            chunk = self._shared_chunk if self._running else self._prefill_chunk
            logits = seq.method.prefill(chunk)
        except CacheFullError:
            if len(self._prefilling) + len(self._running) > 1 and type(seq.method) is Method:
                self._send_back(seq)
            else:
                self._fail(seq, EngineError(*_NO_ROOM))
            return
        except Exception as error:  # noqa: BLE001 - one request's failure is its own
            self._fail(seq, error)
            return
        if logits is not None:
            self._prefilling.remove(seq)
            if seq.look is not None:
                self._looks.keep(seq, logits)
                self._show(seq.look, seq, logits)
                return
            if seq.embed is not None:
                self._measure(seq, logits)
                return
            self._running.append(seq)
            self._take(seq, partial(self._first, seq, logits))

    def _first(self, seq: Sequence, logits: Tensor) -> list[Drawn]:
        """The first token after a prompt."""
        if seq.row is None or self._flights is None:
            return seq.method.draw(logits)
        return _landed(*self._flights.first(seq, logits))

    def _show(self, command: NextTokens, seq: Sequence, logits: Tensor) -> None:
        """Tell what could be drawn from logits [vocab], and draw nothing."""
        try:
            answer = self._looks.answer(command, seq, logits)
        except Exception as error:  # noqa: BLE001 - one request's failure is its own
            self._fail(seq, error)
            return
        self._events.append(answer)
        self._remove(seq)

    def _measure(self, seq: Sequence, logits: Tensor) -> None:
        """Tell the mean of the states of a prompt, in length 1; logits [vocab] follow it."""
        assert seq.hidden is not None
        try:
            require_finite(logits)
            mean = torch.cat(seq.hidden).mean(dim=0)
            vector = tuple((mean / mean.norm()).tolist())
        except Exception as error:  # noqa: BLE001 - one request's failure is its own
            self._fail(seq, error)
            return
        self._events.append(Embedded(seq.id, vector, seq.prompt_tokens))
        self._remove(seq)

    def _take(self, seq: Sequence, draw: Callable[[], list[Drawn]]) -> None:
        """Have tokens drawn, and pass on what they make of the reply."""
        reason: FinishReason | None = None
        try:
            drawn = draw()
            seq.mark_time()
            for token in drawn:
                reason = self._add(seq, token)
                if reason is not None:
                    break
        except Exception as error:  # noqa: BLE001 - one request's failure is its own
            self._fail(seq, error)
            return
        if reason is not None:
            self._finish(seq, reason)

    def _add(self, seq: Sequence, token: Drawn) -> FinishReason | None:
        """The next token of a reply, and whether it ends there."""
        if token.token_id in seq.end_ids:
            return "stop"
        text = seq.append(token.token_id)
        self._events.append(TokenChunk(seq.id, text, 1, token.logprobs))
        if seq.detokenizer.stopped:
            return "stop"
        return "length" if seq.full else None

    def _finish(self, seq: Sequence, reason: FinishReason) -> None:
        rest = seq.detokenizer.flush()
        if rest:
            self._events.append(TokenChunk(seq.id, rest, 0))
        self._events.append(seq.finished(reason))
        self._remove(seq)

    def _fail(self, seq: Sequence, error: Exception) -> None:
        self._events.append(_failed(seq.id, error))
        self._remove(seq)

    def _remove(self, seq: Sequence) -> None:
        for place in (self._waiting, self._prefilling, self._running):
            if seq in place:
                place.remove(seq)
        seq.method.release()

    def _sequence(self, request: GenerateRequest) -> Sequence:
        """Raises PromptTooLongError or EngineError."""
        ids = encode(self._tokenizer, request.prompt, request.special_tokens)
        ids = ids or self._beginning()
        hooks = self._extensions.of(request.hooks)
        if hooks is not None:
            ids = hooks.tokens(request.prompt, ids, len(self._tokenizer))
        params = request.params
        require_supported(params, self._unsupported)
        context = min(self._context_length, params.truncation_length or self._context_length)
        if len(ids) >= context:
            raise PromptTooLongError(
                f"The prompt has {len(ids):,} tokens, and the context holds {context:,}.",
                "Shorten it.",
            )
        # What a template ends a turn with is an end that may be banned, as the model's own is.
        ends_of_turn = self._eos_ids | stop_ids(self._tokenizer, request.stop)
        ends = self._eos_ids | stop_ids(self._tokenizer, request.stops)
        structure = self._structures.begin(params, len(ids), ends)
        seq = Sequence(
            request=request,
            token_ids=ids,
            max_tokens=min(context, len(ids) + params.max_new_tokens),
            end_ids=ends,
            sampler=Sampler(params, ends_of_turn, self._tokens_of, structure, hooks),
            detokenizer=Detokenizer(self._tokenizer, ids, request.stops),
            tokenizer=self._tokenizer,
        )
        seq.method = make_method(seq, self._runner, context)
        return seq

    def _tokens_of(self, text: str) -> list[int]:
        return encode(self._tokenizer, text, special_tokens=False)

    def _beginning(self) -> list[int]:
        """What an empty prompt is computed from. Raises EngineError where there is nothing."""
        for token_id in (self._tokenizer.bos_token_id, self._tokenizer.eos_token_id):
            if token_id is not None:
                return [token_id]
        raise EngineError("The prompt is empty.", "Write something first.")


def _arrival(seq: Sequence) -> float:
    return seq.arrived


def _landed(token_id: int, numbers: bool) -> list[Drawn]:
    """A token that was drawn on the device. Raises EngineError where the logits were no numbers."""
    if not numbers:
        raise not_finite()
    return [Drawn(token_id)]


def _ready(seq: Sequence, patience: float = 0.0) -> bool:
    """Whether a sequence need not wait for its structure; waits `patience` seconds for it."""
    return seq.sampler.structure is None or seq.sampler.structure.ready(patience)


def _failed(request_id: str, error: Exception) -> Failed:
    if isinstance(error, PromptTooLongError):
        return Failed(request_id, "PromptTooLongError", error.message, error.remedy)
    if isinstance(error, AdapterError | ModelError):
        return Failed(request_id, "AdapterError", error.message, error.remedy)
    if isinstance(error, InvalidInputError):
        return Failed(request_id, "InvalidInputError", error.message, error.remedy, error.field)
    if isinstance(error, LanternError):
        return Failed(request_id, "EngineError", error.message, error.remedy)
    if isinstance(error, torch.OutOfMemoryError | MemoryError) or "memory" in str(error):
        return Failed(
            request_id,
            "EngineError",
            "Memory ran out while the reply was computed.",
            "Shorten the prompt, end other replies, or load a smaller model.",
        )
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return Failed(
        request_id,
        "EngineError",
        f"The model could not compute this request: {lines[0][:200]}",
        "Try again; if it fails again, load the model anew.",
    )
