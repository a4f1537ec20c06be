"""`take_over`: the weights of a transformers model become those of a `LlamaModel`.

Products with the same input are put together. No weight is held twice: the modules of the
transformers model are left as views of what they became, so that what looks a module up (LoRAs,
which measure what they change) still finds its weight.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from modules.engine.worker.kernels.product import ProductKernels
from modules.engine.worker.kernels.rows import HeadShape
from modules.engine.worker.kernels.tiled_linear import TiledLinear, become_part
from modules.engine.worker.kernels.tiles import Tiles
from modules.engine.worker.llama.linear import DenseLinear, JoinedLinear, Linear
from modules.engine.worker.llama.model import Layer, Weights
from modules.engine.worker.llama.order import gate_up_order, qkv_order
from modules.engine.worker.llama.processor import Int4Product, Int8Product
from modules.engine.worker.llama.shape import Shape, cos_sin, decoder_of
from modules.loader.quantization.aten import AtenInt4Linear
from modules.loader.quantization.linear import QuantizedLinear

__all__ = ["take_over"]


@torch.inference_mode()
def take_over(model: PreTrainedModel, context: int, kernels: ProductKernels | None) -> Weights:
    """The weights of a model that fits, for positions below `context`.

    `kernels` are those for packed weights on a card; without them, such layers stay modules.
    """
    shape = Shape.of(model)
    decoder = decoder_of(model)
    embedding: Any = model.get_input_embeddings()
    head: nn.Module = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    layers = [
        _layer(f"model.layers.{number}", layer, shape, kernels)
        for number, layer in enumerate(decoder.layers)
    ]
    return Weights(
        embedding=embedding.weight.data,
        layers=layers,
        norm=decoder.norm.weight.data,
        head=_head(head, layers, kernels),
        cos_sin=cos_sin(model, context, embedding.weight.device),
    )


def _head(head: nn.Module, layers: Sequence[Layer], kernels: ProductKernels | None) -> Linear:
    """A dense head beside layers in 4 bits on the processor gets 8 bits: it is a third of them."""
    if type(head) is nn.Linear and all(isinstance(layer.down, Int4Product) for layer in layers):
        weight = head.weight.data
        outputs, inputs = weight.shape
        if weight.device.type == "cpu" and inputs % 32 == 0 and outputs % 64 == 0:
            return Int8Product.of(weight, _data(head.bias))
    return _joined([head], None, kernels)


def _layer(name: str, layer: Any, shape: Shape, kernels: ProductKernels | None) -> Layer:
    attention, mlp = layer.self_attn, layer.mlp
    heads = HeadShape(
        shape.heads,
        shape.kv_heads,
        shape.head_dim,
        paired=True,
        q_norm=_weight(getattr(attention, "q_norm", None)),
        k_norm=_weight(getattr(attention, "k_norm", None)),
        eps=shape.eps,
    )
    # Heads of 8 dimensions have no pairs of eight.
    own = kernels if shape.head_dim % 16 == 0 else None
    order = None if own is None else qkv_order(heads)
    qkv = _joined([attention.q_proj, attention.k_proj, attention.v_proj], order, own)
    middle = mlp.gate_proj.out_features
    order = None if kernels is None else gate_up_order(middle)
    return Layer(
        name=name,
        input_norm=layer.input_layernorm.weight.data,
        qkv=qkv,
        heads=heads if qkv.paired else _unpaired(heads),
        o=_joined([attention.o_proj], None, kernels),
        post_norm=layer.post_attention_layernorm.weight.data,
        gate_up=_joined([mlp.gate_proj, mlp.up_proj], order, kernels),
        down=_joined([mlp.down_proj], None, kernels),
        middle=middle,
    )


def _joined(
    modules: Sequence[nn.Module], order: Tensor | None, kernels: ProductKernels | None
) -> Linear:
    """One product of modules with the same input; in `order` where the kernels want one."""
    plain = [module for module in modules if type(module) is nn.Linear]
    if len(plain) == len(modules):
        return _dense(plain)
    packed = [module for module in modules if isinstance(module, QuantizedLinear)]
    if kernels is not None and len(packed) == len(modules) and _alike(packed):
        return _tiled(packed, order, kernels)
    aten = [module for module in modules if isinstance(module, AtenInt4Linear)]
    if Int4Product.joins(modules):
        return Int4Product.joined(aten)
    return JoinedLinear(modules)


def _dense(modules: Sequence[nn.Linear]) -> DenseLinear:
    if len(modules) == 1:
        return DenseLinear(modules[0].weight.data, _data(modules[0].bias))
    weight = torch.cat([module.weight.data for module in modules])
    sizes = [module.out_features for module in modules]
    for module, part in zip(modules, torch.split(weight, sizes), strict=True):
        module.weight = nn.Parameter(part, requires_grad=False)
    return DenseLinear(weight, _biases(modules))


def _alike(layers: Sequence[QuantizedLinear]) -> bool:
    """Whether layers can become one product in tiles."""
    first = layers[0]
    return all(
        Tiles.fits(layer)
        and (layer.bits, layer.group_size) == (first.bits, first.group_size)
        and _same(layer.perm, first.perm)
        for layer in layers
    )


def _tiled(
    layers: Sequence[QuantizedLinear], order: Tensor | None, kernels: ProductKernels
) -> TiledLinear:
    device = layers[0].weight.device
    total = sum(layer.out_features for layer in layers)
    rows = torch.arange(total, device=device) if order is None else order.to(device)
    tiles = Tiles.of(layers, None if order is None else rows)
    bias = _biases(layers)
    perm = None if layers[0].perm is None else layers[0].perm.long()
    fused = TiledLinear(
        tiles, None if bias is None else bias[rows], kernels, perm=perm, paired=order is not None
    )
    places = torch.empty_like(rows)
    places[rows] = torch.arange(total, device=device)
    sizes = [layer.out_features for layer in layers]
    for layer, part in zip(layers, torch.split(places, sizes), strict=True):
        become_part(layer, fused, part)
    return fused


def _biases(modules: Sequence[Any]) -> Tensor | None:
    """Of all modules [out], zeros where only some have one; None where none has."""
    if all(module.bias is None for module in modules):
        return None
    like = next(module.bias.data for module in modules if module.bias is not None)
    return torch.cat(
        [
            like.new_zeros(module.out_features) if module.bias is None else module.bias.data
            for module in modules
        ]
    )


def _same(left: Tensor | None, right: Tensor | None) -> bool:
    if left is None or right is None:
        return left is right
    return torch.equal(left, right)


def _unpaired(heads: HeadShape) -> HeadShape:
    return HeadShape(
        heads.heads, heads.kv_heads, heads.head_dim, False, heads.q_norm, heads.k_norm, heads.eps
    )


def _weight(module: nn.Module | None) -> Tensor | None:
    return None if module is None else _data(module.weight)  # type: ignore[arg-type]


def _data(parameter: Tensor | None) -> Tensor | None:
    return None if parameter is None else parameter.data
