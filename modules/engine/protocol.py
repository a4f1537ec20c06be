"""What the web process and the engine worker say to each other.

Commands go to the worker, events come back; all are frozen, slotted dataclasses
of plain values, so that they pickle small and mean the same on both sides.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from modules.engine.methods import require_possible
from modules.engine.params import SamplingParams
from modules.loader.options import LoadOptions

__all__ = [
    "AdapterInfo",
    "AdapterLoaded",
    "AdapterUnloaded",
    "Cancel",
    "Command",
    "CountTokens",
    "Decode",
    "Decoded",
    "Embed",
    "Embedded",
    "Encode",
    "Encoded",
    "Event",
    "ExtensionFailed",
    "Failed",
    "FinishReason",
    "Finished",
    "GenerateRequest",
    "HookEntered",
    "HookLeft",
    "LoadAdapter",
    "LoadFailed",
    "LoadModel",
    "LoadProgress",
    "Loaded",
    "ModelInfo",
    "NextToken",
    "NextTokens",
    "NextTokensFound",
    "ServerInfo",
    "TensorHooks",
    "TokenChunk",
    "TokenCounts",
    "TokenLogprob",
    "UnloadAdapter",
    "Usage",
    "WorkerExtension",
]

FinishReason = Literal["stop", "length", "cancelled"]
"""`stop`: the end token or a stop string. `length`: the limit or the end of the context."""


# -- commands ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LoadModel:
    """Load the checkpoint in the folder `path`; the first command that a worker gets.

    `placement` maps modules to devices, as `Plan.placement` does; `offload_dir` is the folder
    for those that it puts on the disk. `cache_tokens` is how many tokens the fast runner's KV
    cache gets, 0 for one context. `held` are the bytes that each card gives back when the worker
    ends, as planned.
    """

    path: str
    options: LoadOptions = field(default_factory=LoadOptions)
    placement: Mapping[str, str] = field(default_factory=dict)
    offload_dir: str = ""
    cache_tokens: int = 0
    held: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LoadAdapter:
    """Read the LoRA in the folder `path`, to be used as `name`. Answered by `AdapterLoaded`."""

    id: str
    name: str
    path: str


@dataclass(frozen=True, slots=True)
class UnloadAdapter:
    """Forget a LoRA. Answered by `AdapterUnloaded`."""

    id: str
    name: str


@dataclass(frozen=True, slots=True)
class WorkerExtension:
    """An extension whose `hooks` alter tokens or logits, and so run in the worker.

    The script at `path` is imported anew when `version` is another than before. `params` are
    its plain params now.
    """

    name: str
    path: str
    hooks: tuple[str, ...]
    params: Mapping[str, Any] = field(default_factory=dict)
    version: int = 0


@dataclass(frozen=True, slots=True)
class TensorHooks:
    """The extensions of a request in their order, and the state that their hooks are told.

    A hook may take `hook_s` seconds and an import `import_s`; what still hangs `grace_s` after
    it was interrupted hangs for good.
    """

    extensions: tuple[WorkerExtension, ...]
    state: Mapping[str, Any] = field(default_factory=dict)
    hook_s: float = 5.0
    import_s: float = 60.0
    grace_s: float = 3.0


@dataclass(frozen=True, slots=True)
class GenerateRequest:
    """Continue `prompt`.

    `special_tokens` adds the tokenizer's own (a BOS, mostly): true for plain text,
    false for what a chat template rendered. `logprobs` asks for the log-probability
    of each token and of this many alternatives; None asks for none. `adapters` are names
    and weights of loaded LoRAs; None takes those that are applied to every request. `stop`
    are the stop strings of the prompt's format, beside those of `params`.
    `hooks` are those of extensions; None takes those of the extensions that are on.
    Raises InvalidInputError for parameters that cannot be had together.
    """

    id: str
    prompt: str
    params: SamplingParams
    special_tokens: bool = True
    logprobs: int | None = None
    adapters: tuple[tuple[str, float], ...] | None = None
    stop: tuple[str, ...] = ()
    hooks: TensorHooks | None = None

    def __post_init__(self) -> None:
        require_possible(self.params)

    @property
    def stops(self) -> tuple[str, ...]:
        """All stop strings, each of them once."""
        return tuple(dict.fromkeys((*self.params.stop, *self.stop)))


@dataclass(frozen=True, slots=True)
class Cancel:
    """End the request `id`; it answers with `Finished(reason="cancelled")`."""

    id: str


@dataclass(frozen=True, slots=True)
class CountTokens:
    """Ask how many tokens each text has, with the special tokens as in a request."""

    id: str
    texts: tuple[str, ...]
    special_tokens: bool = False


@dataclass(frozen=True, slots=True)
class Encode:
    """Ask for the tokens of a text, with the special tokens as in a request."""

    id: str
    text: str
    special_tokens: bool = False


@dataclass(frozen=True, slots=True)
class Decode:
    """Ask for the text of tokens, special ones included."""

    id: str
    ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Embed:
    """Ask for a vector of the meaning of a text.

    It is the mean of the last layer's states over its tokens, in length 1. `adapters` as in
    GenerateRequest. Answered by `Embedded`.
    """

    id: str
    text: str
    adapters: tuple[tuple[str, float], ...] | None = None


@dataclass(frozen=True, slots=True)
class NextTokens:
    """Ask what the first token of the reply to `request` may be, and draw none.

    A later question of the same `asker` takes the place of this one, which then fails.
    `count` tokens are told, from 1 to 100.
    """

    request: GenerateRequest
    count: int = 20
    asker: str = ""

    @property
    def id(self) -> str:
        """The id of the request."""
        return self.request.id


Command = (
    LoadModel
    | LoadAdapter
    | UnloadAdapter
    | GenerateRequest
    | Cancel
    | CountTokens
    | Encode
    | Decode
    | Embed
    | NextTokens
)


# -- events -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """The server that a model elsewhere belongs to.

    `kind` is the program, as people call it. `counts_tokens`: numbers of tokens are its own,
    and otherwise estimates. `tells_context`: so is the context, and otherwise assumed.
    """

    kind: str
    host: str
    counts_tokens: bool
    tells_context: bool


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What is loaded. `memory` is in bytes, `context_length` in tokens."""

    name: str
    path: str
    architecture: str
    parameters: int
    dtype: str
    quantization: str
    device: str
    context_length: int
    memory: int
    chat_template: str | None
    special_tokens: dict[str, str] = field(default_factory=dict)
    """`bos_token`, `eos_token` and the like, for the chat template."""
    unsupported: tuple[str, ...] = ()
    """The sampling parameters that this model cannot serve."""
    server: ServerInfo | None = None
    """The server that has it, where it is not on this machine; its chat template is not known."""


@dataclass(frozen=True, slots=True)
class LoadProgress:
    """How far a load is: `fraction` from 0 to 1."""

    stage: str
    fraction: float


@dataclass(frozen=True, slots=True)
class Loaded:
    """The model answers from now on."""

    info: ModelInfo


@dataclass(frozen=True, slots=True)
class LoadFailed:
    """The model could not be loaded; the worker ends."""

    message: str
    remedy: str


@dataclass(frozen=True, slots=True)
class AdapterInfo:
    """A LoRA as it lies over the model.

    `change` is the relative change that it makes to the logits of a fixed prompt at weight
    1 (root mean square); `note` is a sentence about it where something is odd.
    """

    name: str
    path: str
    kind: str
    rank: int
    alpha: float
    target_modules: tuple[str, ...]
    parameters: int
    change: float
    note: str = ""


@dataclass(frozen=True, slots=True)
class AdapterLoaded:
    """The answer to `LoadAdapter`; a `Failed` with its id is the other."""

    id: str
    info: AdapterInfo


@dataclass(frozen=True, slots=True)
class AdapterUnloaded:
    """The answer to `UnloadAdapter`."""

    id: str


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token with its log-probability under the model, before any sampling parameter."""

    text: str
    logprob: float
    top: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, slots=True)
class TokenChunk:
    """New text of a reply, from `tokens` new tokens (text may wait for the next ones)."""

    id: str
    text: str
    tokens: int
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens and seconds of one request.

    `cached_tokens` of the prompt were not computed again; `first_token_s` runs from the
    arrival of the request to its first token, `decode_s` from there to the last.
    """

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    first_token_s: float = 0.0
    decode_s: float = 0.0

    @property
    def tokens_per_s(self) -> float:
        """Decode speed: tokens after the first one, over the time that they took."""
        return (self.completion_tokens - 1) / self.decode_s if self.decode_s > 0 else 0.0


@dataclass(frozen=True, slots=True)
class Finished:
    """The last event of a request. `seed` is the one that was used."""

    id: str
    reason: FinishReason
    usage: Usage
    seed: int


@dataclass(frozen=True, slots=True)
class Failed:
    """The last event of a request that could not be served.

    `kind` names the class in modules.errors that the client raises, and `field` the parameter
    at fault, where it is one.
    """

    id: str
    kind: Literal["EngineError", "PromptTooLongError", "AdapterError", "InvalidInputError"]
    message: str
    remedy: str
    field: str = ""


@dataclass(frozen=True, slots=True)
class TokenCounts:
    """The answer to `CountTokens`."""

    id: str
    counts: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Encoded:
    """The answer to `Encode`. Joined, `texts` are the text, where the tokenizer can tell.

    A token that holds a part of a character has an empty text, and the last one of the
    character has it all.
    """

    id: str
    ids: tuple[int, ...]
    texts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Decoded:
    """The answer to `Decode`."""

    id: str
    text: str


@dataclass(frozen=True, slots=True)
class Embedded:
    """The answer to `Embed`: `vector` [width], made of `tokens` tokens."""

    id: str
    vector: tuple[float, ...]
    tokens: int


@dataclass(frozen=True, slots=True)
class HookEntered:
    """A hook of an extension is called now; `seconds` later it hangs for good.

    `version` is that of the `WorkerExtension`.
    """

    name: str
    hook: str
    seconds: float
    version: int


@dataclass(frozen=True, slots=True)
class HookLeft:
    """It came back."""


@dataclass(frozen=True, slots=True)
class ExtensionFailed:
    """A hook raised, took too long or gave what it may not, `error` says; it is not called again.

    `version` is that of the `WorkerExtension`.
    """

    name: str
    hook: str
    error: str
    version: int


@dataclass(frozen=True, slots=True)
class NextToken:
    """A token with its probability under the model alone, and that with which it is drawn.

    A server elsewhere may tell neither its id (-1) nor what the parameters make of it (None).
    """

    id: int
    text: str
    before: float
    after: float | None


@dataclass(frozen=True, slots=True)
class NextTokensFound:
    """The answer to `NextTokens`: the likeliest `tokens` before or after the parameters.

    The likeliest before is the first. `kept` of the `vocabulary` can be drawn; 0 and 0 where a
    server elsewhere does not tell.
    """

    id: str
    tokens: tuple[NextToken, ...]
    kept: int
    vocabulary: int
    prompt_tokens: int


Event = (
    LoadProgress
    | Loaded
    | LoadFailed
    | AdapterLoaded
    | AdapterUnloaded
    | TokenChunk
    | Finished
    | Failed
    | TokenCounts
    | Encoded
    | Decoded
    | Embedded
    | NextTokensFound
    | HookEntered
    | HookLeft
    | ExtensionFailed
)
