"""`FakeEngine`: an `EngineClient` without weights.

It keeps the whole contract (states, streaming, stop strings, limits, seeds, context,
cancelling, dying) over a scripted reply, and counts a word with the white space before
it as a token. Tests of the page, the API and the chats run on it.
"""

from __future__ import annotations

import asyncio
import math
import re
import time
import zlib
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from modules.engine.client import Catalog, EngineState
from modules.engine.params import SamplingParams
from modules.engine.protocol import (
    AdapterInfo,
    Embedded,
    Encoded,
    Finished,
    FinishReason,
    GenerateRequest,
    LoadModel,
    ModelInfo,
    NextToken,
    NextTokens,
    NextTokensFound,
    TokenChunk,
    TokenLogprob,
    Usage,
)
from modules.engine.swap import load_or_go_back, remembered
from modules.engine.tally import Tally
from modules.errors import (
    AdapterError,
    InvalidInputError,
    LanternError,
    LoadFailedError,
    NoModelError,
    PromptTooLongError,
    WorkerDiedError,
)
from modules.signals import Signal

__all__ = ["CHATML", "FakeEngine"]

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

_TOKEN = re.compile(r"\s*\S+|\s+")


@dataclass
class FakeEngine:
    """Answers every prompt with `reply(request)`, a word every `delay` seconds.

    `load_error` is what loads fail with, except of a checkpoint in `loaded_once`.
    """

    reply: Callable[[GenerateRequest], str] = lambda request: "The capital of France is Paris."
    delay: float = 0.0
    context_length: int = 2048
    load_error: LanternError | None = None
    loaded_once: set[str] = field(default_factory=set)
    adapter_error: LanternError | None = None
    state: EngineState = field(default_factory=EngineState)
    changed: Signal = field(default_factory=Signal)
    tally: Tally = field(default_factory=Tally)
    catalog: Catalog | None = None
    requests: list[GenerateRequest] = field(default_factory=list)
    looks: list[NextTokens] = field(default_factory=list)
    running: set[str] = field(default_factory=set)
    _cancelled: set[str] = field(default_factory=set)
    _words: dict[int, str] = field(default_factory=dict)

    @property
    def pid(self) -> int | None:
        """No process holds it."""
        return None

    async def load(self, command: LoadModel) -> ModelInfo:
        """Pretend to load; goes back to the model before where that fails."""
        before = self.state
        try:
            return await load_or_go_back(self, self._load_alone, command)
        except asyncio.CancelledError:
            self._become(remembered(before))
            raise

    async def _load_alone(self, command: LoadModel) -> ModelInfo:
        stage = "Reading the weights"
        self._become(EngineState("loading", command.path, stage, 0.5, command=command))
        await asyncio.sleep(self.delay)
        error = self.load_error
        if error is not None and command.path not in self.loaded_once:
            self._become(EngineState("crashed", command.path, error=error, command=command))
            raise LoadFailedError(error.message, error.remedy)
        self.loaded_once.add(command.path)
        info = ModelInfo(
            name=Path(command.path).name,
            path=command.path,
            architecture="FakeForCausalLM",
            parameters=1_000,
            dtype="float32",
            quantization="none",
            device="cpu",
            context_length=self.context_length,
            memory=4_000,
            chat_template=CHATML,
            special_tokens={"eos_token": "<|im_end|>"},
        )
        self._become(EngineState("ready", command.path, info=info, command=command))
        return info

    def prepare(self) -> None:
        """There is nothing to get ready."""

    async def unload(self) -> None:
        """Forget the model."""
        self._become(EngineState())

    def die(self, message: str = "The engine worker was killed (signal 9).") -> None:
        """What `kill -9` on the worker does."""
        error = WorkerDiedError(message, "Load the model again.")
        self._become(replace(self.state, phase="crashed", info=None, error=error))

    async def load_adapter(self, name: str, path: str) -> AdapterInfo:
        """Pretend to apply a LoRA; fails with `adapter_error` where one is set."""
        self._require_model()
        former = [adapter.weight for adapter in self.state.adapters if adapter.info.name == name]
        self._become(self.state.without_adapter(name))
        await asyncio.sleep(self.delay)
        if self.adapter_error is not None:
            raise AdapterError(self.adapter_error.message, self.adapter_error.remedy)
        info = AdapterInfo(
            name=name,
            path=path,
            kind="LoRA",
            rank=8,
            alpha=16.0,
            target_modules=("q_proj", "v_proj"),
            parameters=100,
            change=0.125,
        )
        self._become(self.state.with_adapter(info))
        if former:
            self.weigh_adapters({name: former[0]})
        return info

    async def unload_adapter(self, name: str) -> None:
        """Forget a LoRA."""
        self._require_model()
        self._become(self.state.without_adapter(name))

    def weigh_adapters(self, weights: Mapping[str, float]) -> None:
        """Set weights, as every engine does."""
        self._require_model()
        self._become(self.state.with_weights(weights))

    async def generate(
        self, request: GenerateRequest
    ) -> AsyncGenerator[TokenChunk | Finished, None]:
        """Stream the scripted reply."""
        self._require_model()
        request = replace(request, adapters=self.state.mix_of(request))
        self.requests.append(request)
        prompt_tokens = self._require_room(request)
        room = self.context_length - prompt_tokens
        started = time.perf_counter()
        self.running.add(request.id)
        self.tally.begin(request.id)
        failed = True
        try:
            words = _TOKEN.findall(self.reply(request))
            limit = min(request.params.max_new_tokens, room)
            reason: FinishReason = "stop" if len(words) <= limit else "length"
            sent, produced = "", 0
            for word in words[:limit]:
                await asyncio.sleep(self.delay)
                self._require_alive()
                if request.id in self._cancelled:
                    reason = "cancelled"
                    break
                produced += 1
                whole = sent + word
                end = min((i for s in request.stops if (i := whole.find(s)) >= 0), default=-1)
                text = word if end < 0 else whole[len(sent) : end]
                chunk = TokenChunk(request.id, text, 1, _logprobs(request, word))
                self.tally.note(chunk)
                yield chunk
                sent += text
                if end >= 0:
                    reason = "stop"
                    break
            seconds = time.perf_counter() - started
            usage = Usage(
                prompt_tokens, produced, first_token_s=seconds / max(1, produced), decode_s=seconds
            )
            seed = request.params.seed if request.params.seed >= 0 else 4711
            finished = Finished(request.id, reason, usage, seed)
            self.tally.note(finished)
            yield finished
        except GeneratorExit:
            failed = False
            raise
        finally:
            self.tally.end(request.id, failed=failed)
            self.running.discard(request.id)
            self._cancelled.discard(request.id)

    async def cancel(self, request_id: str) -> None:
        """End one request at its next word."""
        if request_id in self.running:
            self._cancelled.add(request_id)

    async def count_tokens(self, texts: list[str], special_tokens: bool = False) -> list[int]:
        """Words in each text."""
        self._require_model()
        return [_count(text) + special_tokens for text in texts]

    async def encode(self, text: str, special_tokens: bool = False) -> Encoded:
        """The words of a text; a word has the same id everywhere."""
        self._require_model()
        words = [*(["<|im_start|>"] if special_tokens else []), *_TOKEN.findall(text)]
        ids = tuple(zlib.crc32(w.encode("utf-8", "replace")) % 1000 for w in words)
        self._words |= dict(zip(ids, words, strict=True))
        return Encoded("", ids, tuple(words))

    async def decode(self, ids: list[int]) -> str:
        """The words that had these ids when they were encoded."""
        self._require_model()
        for id_ in ids:
            if id_ not in self._words:
                raise InvalidInputError(
                    f"The model has no token {id_}.", "Send ids of its own.", "tokens"
                )
        return "".join(self._words[id_] for id_ in ids)

    async def embed(self, text: str) -> Embedded:
        """How often each of eight kinds of words is in a text."""
        self._require_model()
        tokens = self._require_room(GenerateRequest("", text, SamplingParams.neutral()))
        counts = [0.0] * 8
        for id_ in (await self.encode(text, special_tokens=True)).ids:
            counts[id_ % 8] += 1
        length = math.hypot(*counts)
        return Embedded("", tuple(count / length for count in counts), tokens)

    async def next_tokens(self, command: NextTokens) -> NextTokensFound:
        """The words of the reply, each half as likely as the one before it."""
        self._require_model()
        self.state.mix_of(command.request)
        self.looks.append(command)
        prompt_tokens = self._require_room(command.request)
        await asyncio.sleep(self.delay)
        params = command.request.params
        words = _TOKEN.findall(self.reply(command.request))[: command.count]
        before = [0.5 ** (place + 1) for place in range(len(words))]
        kept = 1 if params.greedy else min(params.top_k or len(words), len(words))
        weights = [p ** (1 / (params.temperature or 1)) for p in before[:kept]]
        after = [w / sum(weights) for w in weights] + [0.0] * (len(words) - kept)
        tokens = zip(range(len(words)), words, before, after, strict=True)
        return NextTokensFound(
            command.id, tuple(NextToken(*t) for t in tokens), kept, 1000, prompt_tokens
        )

    async def close(self) -> None:
        """Nothing is held."""
        await self.unload()

    def _become(self, state: EngineState) -> None:
        self.state = replace(state)
        self.changed.notify()

    def _require_model(self) -> None:
        if self.state.phase != "ready":
            raise NoModelError

    def _require_room(self, request: GenerateRequest) -> int:
        """The tokens of the prompt, if a reply has room after it."""
        tokens = _count(request.prompt) + request.special_tokens
        if tokens >= self.context_length:
            raise PromptTooLongError(
                f"The prompt has {tokens:,} tokens, and the context holds {self.context_length:,}.",
                "Shorten it.",
            )
        return tokens

    def _require_alive(self) -> None:
        if self.state.phase == "crashed" and self.state.error is not None:
            raise WorkerDiedError(self.state.error.message, self.state.error.remedy)
        self._require_model()


def _count(text: str) -> int:
    return len(_TOKEN.findall(text))


def _logprobs(request: GenerateRequest, word: str) -> tuple[TokenLogprob, ...]:
    if request.logprobs is None:
        return ()
    others = tuple((f" other{i}", -3.0 - i) for i in range(request.logprobs - 1))
    top = ((word, -0.1), *others) if request.logprobs else ()
    return (TokenLogprob(word, -0.1, top),)
