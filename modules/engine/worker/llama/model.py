"""`LlamaModel`: the computation of a Llama, from token ids to logits.

The same for a token of each of many sequences and for a chunk of one prompt; what differs is how
attention finds the keys, which the caller says. Where the weights are in tiles and the rows few,
a layer is five to seven kernels (`_fused`), and four more with LoRAs that are stacked; else it is
composed of plain steps (`_composed`), between which LoRAs add what they change.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from modules.engine.worker.kernels.cache_blocks import Blocks
from modules.engine.worker.kernels.product import LowRank, Norm, Rope
from modules.engine.worker.kernels.rows import HeadShape, Places, Rows
from modules.engine.worker.kernels.tiled_linear import TiledLinear
from modules.engine.worker.llama.linear import Linear
from modules.engine.worker.llama.lora import Mixes
from modules.engine.worker.llama.lora_stack import StackedMixes, StackedProduct
from modules.engine.worker.llama.paged_cache import PagedCache
from modules.engine.worker.llama.shape import Shape

__all__ = ["Attend", "Layer", "LlamaModel", "Weights"]

Attend = Callable[[Tensor, Blocks, Blocks], Tensor]
"""From queries [rows, heads, head_dim] and a layer's cache to [rows, heads, head_dim]."""


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """The weights of a layer. `name` is its place in the model, for LoRAs, and `middle` the width
    of what its gate lets through."""

    name: str
    input_norm: Tensor
    qkv: Linear
    heads: HeadShape
    o: Linear
    post_norm: Tensor
    gate_up: Linear
    down: Linear
    middle: int


@dataclass(frozen=True, slots=True, eq=False)
class Weights:
    """Those of the whole model; `embedding` is [vocabulary, hidden]."""

    embedding: Tensor
    layers: Sequence[Layer]
    norm: Tensor
    head: Linear
    cos_sin: Tensor

    def stacked_products(self) -> Iterator[StackedProduct]:
        """The products that LoRAs may add to."""
        hidden = len(self.norm)
        for layer in self.layers:
            yield StackedProduct.qkv(layer.name, layer.heads)
            yield StackedProduct.single(f"{layer.name}.self_attn.o_proj", hidden)
            yield StackedProduct.gate_up(layer.name, layer.middle, layer.gate_up.paired)
            yield StackedProduct.single(f"{layer.name}.mlp.down_proj", hidden)
        yield StackedProduct.single("lm_head", len(self.embedding))


class LlamaModel:
    """Computes rows of tokens. Keys and values go into `cache` as they are computed."""

    def __init__(self, shape: Shape, weights: Weights, rows: Rows, cache: PagedCache) -> None:
        self.shape = shape
        self.weights = weights
        self.cache = cache
        self._rows = rows
        self.in_tiles = all(map(_in_tiles, weights.layers))

    @torch.inference_mode()
    def hidden(
        self, tokens: Tensor, places: Places, attend: Attend, mixes: Mixes | None = None
    ) -> Tensor:
        """The states after the last norm, [rows, hidden], of token ids [rows]."""
        h = functional.embedding(tokens, self.weights.embedding)
        if mixes is not None:
            mixes.add("model.embed_tokens", tokens, h)
        if self._fuses(len(tokens)):
            if mixes is None:
                return self._fused(h, places, attend, None)
            if isinstance(mixes, StackedMixes) and mixes.fuses:
                return self._fused(h, places, attend, mixes)
        return self._composed(h, places, attend, mixes)

    @torch.inference_mode()
    def logits(self, hidden: Tensor, mixes: Mixes | None = None) -> Tensor:
        """float32 [rows, vocabulary] of states [rows, hidden]."""
        logits = self.weights.head(hidden)
        if mixes is not None:
            mixes.add("lm_head", hidden, logits)
        return logits.float()

    def _fuses(self, rows: int) -> bool:
        # What follows from the kind of weights alone was looked at once; the rest is alike.
        qkv = self.weights.layers[0].qkv
        return self.in_tiles and isinstance(qkv, TiledLinear) and qkv.fuses(rows)

    def _fused(
        self, h: Tensor, places: Places, attend: Attend, mixes: StackedMixes | None
    ) -> Tensor:
        def more(place: str, x: Tensor, norm: Norm | None = None) -> LowRank | None:
            return None if mixes is None else mixes.low_rank(place, x, norm)

        for layer, (keys, values) in zip(self.weights.layers, self.cache.layers, strict=True):
            qkv, o, gate_up, down = layer.qkv, layer.o, layer.gate_up, layer.down
            assert isinstance(qkv, TiledLinear) and isinstance(o, TiledLinear)
            assert isinstance(gate_up, TiledLinear) and isinstance(down, TiledLinear)
            x, norm = self._before(qkv, h, layer.input_norm)
            added = more(f"{layer.name}.qkv", x, norm)
            if isinstance(keys, Tensor) and isinstance(values, Tensor):
                rope = Rope(places, keys, values, self.shape.heads)
                q = qkv.turned(x, norm, rope, added)
            else:
                # A scale is that of a whole head, of which a block of the product has a part.
                outputs = qkv.after_norm(x, norm, added)
                q = self._rows.rope_into_cache(outputs, layer.heads, places, keys, values)
            attended = attend(q, keys, values).reshape(len(h), -1)
            o.added(attended, h, more(f"{layer.name}.self_attn.o_proj", attended))
            x, norm = self._before(gate_up, h, layer.post_norm)
            gated = gate_up.gated(x, norm, more(f"{layer.name}.gate_up", x, norm))
            down.added(gated, h, more(f"{layer.name}.mlp.down_proj", gated))
        return self._rows.rms_norm(h, self.weights.norm, self.shape.eps)

    def _before(
        self, product: TiledLinear, h: Tensor, weight: Tensor
    ) -> tuple[Tensor, Norm | None]:
        """What a product is of: h, to be normalised on the way where it can be, or norm(h)."""
        if product.norms(len(h)):
            return h, Norm(weight, self.shape.eps)
        return self._rows.rms_norm(h, weight, self.shape.eps), None

    def _composed(self, h: Tensor, places: Places, attend: Attend, mixes: Mixes | None) -> Tensor:
        rows, eps = self._rows, self.shape.eps
        delta: Tensor | None = None
        for layer, (keys, values) in zip(self.weights.layers, self.cache.layers, strict=True):
            x = self._normed(h, delta, layer.input_norm)
            qkv = layer.qkv(x)
            if mixes is not None:
                mixes.add_to_qkv(layer.name, layer.heads, x, qkv)
            q = rows.rope_into_cache(qkv, layer.heads, places, keys, values)
            attended = attend(q, keys, values).reshape(len(h), -1)
            delta = layer.o(attended)
            if mixes is not None:
                mixes.add(f"{layer.name}.self_attn.o_proj", attended, delta)
            x = rows.add_rms_norm(h, delta, layer.post_norm, eps)
            gate_up = layer.gate_up(x)
            if mixes is not None:
                mixes.add_to_gate_up(layer.name, layer.gate_up.paired, x, gate_up)
            gated = rows.swiglu(gate_up, layer.gate_up.paired)
            delta = layer.down(gated)
            if mixes is not None:
                mixes.add(f"{layer.name}.mlp.down_proj", gated, delta)
            del gate_up, gated  # the largest of a layer: before the next ones are made
        return self._normed(h, delta, self.weights.norm)

    def _normed(self, h: Tensor, delta: Tensor | None, weight: Tensor) -> Tensor:
        if delta is None:
            return self._rows.rms_norm(h, weight, self.shape.eps)
        return self._rows.add_rms_norm(h, delta, weight, self.shape.eps)


def _in_tiles(layer: Layer) -> bool:
    """Whether kernels can compute a layer with what stands between its products."""
    products = (layer.qkv, layer.o, layer.gate_up, layer.down)
    return layer.heads.q_norm is None and all(
        isinstance(product, TiledLinear) and product.fuses(1) for product in products
    )
