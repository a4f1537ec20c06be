"""Whether the engine computes what the weights say, before anything is timed.

A small random checkpoint of the same kind is served by a worker on the same device. What it
answers is compared with a forward of transformers in float32, on the processor, over weights that
this file dequantizes by itself. What is quantized while it is read is rounded as the loader does
it, and the rounding has to be near the weights.
"""

from __future__ import annotations

import asyncio
import json
import warnings
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.replies import Asker, Reply, greedy, sampled

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Check", "check_replies", "dequantized", "rounded"]

_PROMPTS = (300, 37, 150, 16)
_REPLY = 24
_TOLERANCE = {"float32": 0.002, "float16": 0.03, "bfloat16": 0.1}
"""Of a log-probability, in nats. Those of the checkpoint's tokens differ by 0.3 and more."""
_ON_PROCESSOR = {"gptq": 0.02, "4bit": 0.02}
"""What a product in bfloat16 may add; the processor has no other with packed 4-bit weights."""
_ROUNDING = {"8bit": 0.01, "4bit": 0.12}
"""What rounding may change a matrix by, relative, for those that are rounded while read."""


@dataclass(frozen=True, slots=True)
class Check:
    """How far the engine was from the reference, in nats.

    `logprob` is the largest error of a token's log-probability, and `shortfall` how far a
    greedy token was below the reference's best one; `tokens` were looked at. `repeated`: the
    greedy and the seeded reply came out the same twice.
    """

    ok: bool
    tokens: int
    logprob: float
    shortfall: float
    tolerance: float
    repeated: bool

    def words(self) -> str:
        """What was checked, and how it came out."""
        return (
            f"checked against float32 transformers: {self.tokens} greedy tokens of "
            f"{len(_PROMPTS)} replies at once, log-probabilities within {self.logprob:.1e} and "
            f"choices within {self.shortfall:.1e} nats (allowed {self.tolerance:g}); greedy and "
            f"seeded replies {'the same' if self.repeated else 'NOT the same'} twice: "
            f"{'passed' if self.ok else 'FAILED'}"
        )


async def check_replies(asker: Asker, folder: Path, kind: str, dtype: str) -> Check:
    """Check the model of `asker`, which was loaded from the random checkpoint in `folder`."""
    prompts = [await asker.fresh_prompt(tokens) for tokens in _PROMPTS]
    asked = [asker.ask(prompt, greedy(_REPLY), logprobs=1) for prompt in prompts]
    told = await asyncio.gather(*asked)
    plain = await asyncio.gather(*(asker.ask(prompt, greedy(_REPLY)) for prompt in prompts))
    reference = _Reference(folder, kind)
    errors, shortfalls = [0.0], [0.0]
    for prompt, with_logprobs, without in zip(prompts, told, plain, strict=True):
        ids = list((await asker.engine.encode(prompt)).ids)
        seen = [(token.text, token.logprob) for token in with_logprobs.logprobs]
        for error, shortfall in reference.follow(ids, seen):
            errors.append(error)
            shortfalls.append(shortfall)
        unsaid = [(text, None) for text in without.texts]
        shortfalls += [shortfall for _, shortfall in reference.follow(ids, unsaid)]
    # Half precision: the second prompt is in the cache, where its last token was computed among
    # others, so that a near tie may fall otherwise; it is told, and is no failure.
    repeated = await _same_twice(asker, prompts[1])
    tolerance = allowed(kind, dtype)
    close = max(errors) <= tolerance and max(shortfalls) <= 2 * tolerance
    complete = len(errors) > len(prompts) * _REPLY
    ok = close and complete and (repeated or dtype != "float32")
    return Check(ok, len(shortfalls) - 1, max(errors), max(shortfalls), tolerance, repeated)


def allowed(kind: str, dtype: str) -> float:
    """How far a log-probability may be from the reference's, in nats."""
    return _TOLERANCE[dtype] + (_ON_PROCESSOR.get(kind, 0.0) if dtype == "float32" else 0.0)


async def _same_twice(asker: Asker, prompt: str) -> bool:
    async def text(params: Any) -> str:
        reply: Reply = await asker.ask(prompt, params)
        return "".join(reply.texts)

    ways = (greedy(_REPLY), sampled(_REPLY, seed=7))
    return all([await text(way) == await text(way) for way in ways])


class _Reference:
    """Transformers in float32 over a random checkpoint."""

    def __init__(self, folder: Path, kind: str) -> None:
        import torch
        from tokenizers import Tokenizer
        from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

        config = json.loads((folder / "config.json").read_text())
        for name in ("quantization_config", "torch_dtype", "architectures"):
            config.pop(name, None)
        self._end = config["eos_token_id"]
        self._new_cache = DynamicCache
        self._torch = torch
        model: Any = LlamaForCausalLM(LlamaConfig(**config))
        self._model = model.float().eval()
        self._model.load_state_dict(rounded(dequantized(folder), kind))
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._ids: defaultdict[str, list[int]] = defaultdict(list)
        for token_id in range(tokenizer.get_vocab_size()):
            text = tokenizer.decode([token_id], skip_special_tokens=False)
            self._ids[text].append(token_id)

    def follow(
        self, ids: list[int], said: Iterable[tuple[str, float | None]]
    ) -> list[tuple[float, float]]:
        """The errors of a greedy reply after the tokens `ids`, token by token.

        Each is that of the log-probability (0 where it was not said), and how far the token is
        below the best one. Text that is no whole token ends what can be followed.
        """
        found, cache = [], self._new_cache()
        for text, logprob in said:
            candidates = self._ids.get(text)
            if not candidates:
                break
            scores = self._scores(ids, cache)
            # Single bytes of a character look alike; a greedy reply takes the likeliest one.
            token_id = max(candidates, key=lambda i: float(scores[i]))
            own, best = float(scores[token_id]), float(scores.max())
            found.append((0.0 if logprob is None else abs(own - logprob), best - own))
            ids = [token_id]
        return found

    def _scores(self, ids: list[int], cache: Any) -> Tensor:
        """Log-probabilities [vocab] after `ids` and those before; the banned end is at -inf."""
        tokens = self._torch.tensor([ids])
        with self._torch.inference_mode(), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # the cache's argument is being renamed
            output = self._model(tokens, past_key_values=cache, logits_to_keep=1)
        logits = output.logits[0, -1]
        scores: Tensor = logits.log_softmax(-1)
        scores[self._end] = -self._torch.inf
        return scores


def dequantized(folder: Path) -> dict[str, Tensor]:
    """The weights of a checkpoint that random_checkpoint.py wrote, in float32.

    W[o, i] = (code[i, o] - zero[g, o] - 1) * scale[g, o] with g = g_idx[i]: GPTQ's format v1
    (github.com/AutoGPTQ/AutoGPTQ), eight 4-bit codes in each int32.
    """
    import torch
    from safetensors.torch import load_file

    stored: dict[str, Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        stored |= load_file(file)
    shifts = torch.arange(0, 32, 4, dtype=torch.int32)
    weights = {name: t.float() for name, t in stored.items() if name.endswith(".weight")}
    for name in [name for name in stored if name.endswith(".qweight")]:
        base = name.removesuffix(".qweight")
        packed, zeros, g = stored[name], stored[f"{base}.qzeros"], stored[f"{base}.g_idx"].long()
        codes = ((packed[:, None, :] >> shifts[None, :, None]) & 15).flatten(0, 1)
        zero = ((zeros[:, :, None] >> shifts) & 15).flatten(1, 2) + 1
        scales = stored[f"{base}.scales"].float()
        weights[f"{base}.weight"] = ((codes - zero[g]) * scales[g]).t().contiguous()
    return weights


def rounded(weights: dict[str, Tensor], kind: str) -> dict[str, Tensor]:
    """The layers' weights as a kind that is quantized while it is read has them.

    Raises SystemExit where the rounding is not near the weights.
    """
    from torch.nn import Parameter

    from modules.loader.quantization.format import LOAD_4BIT, LOAD_8BIT
    from modules.loader.quantization.linear import QuantizedLinear
    from modules.loader.quantization.rounding import quantize

    if kind not in _ROUNDING:
        return weights
    form = {"8bit": LOAD_8BIT, "4bit": LOAD_4BIT}[kind]
    made = dict(weights)
    for name in [name for name in weights if name.endswith("_proj.weight")]:
        weight, group = weights[name], form.group_size
        layer = QuantizedLinear(*weight.shape[::-1], bits=form.bits, group_size=group)
        packed = quantize(weight, form)
        layer.weight.data, layer.scales.data = packed.weight, packed.scales
        layer.zeros = None if packed.zeros is None else Parameter(packed.zeros, False)
        layer.perm = None
        made[name] = layer.dequantize(weight.dtype)
        if (made[name] - weight).norm() > _ROUNDING[kind] * weight.norm():
            raise SystemExit(f"Rounding {name} to {kind} lost too much.")
    return made
