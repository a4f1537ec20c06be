"""`take_over`: the decoder layers of a transformers model with PEFT's LoRAs become fast ones.

Nothing is held twice: the linear layers are left as views of the products that they became part
of, and the LoRAs stay PEFT's parameters. So the model can be called, saved and looked into as
before; a layer that cannot go the fast way (with a cache, with an adapter switched off) goes the
usual one.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from peft.tuners.lora.layer import LoraLayer
from torch import Tensor, nn
from transformers import PreTrainedModel

from modules.engine.worker.llama.shape import decoder_of, unfit
from modules.loader.quantization.linear import QuantizedLinear
from modules.training.trainer.attention import Rows as PackRows
from modules.training.trainer.fast.layer import FastLayer, Heads, Norms, Places, fast_norm
from modules.training.trainer.fast.products import DenseProduct, Lora, PackedProduct, Part, Product
from modules.training.trainer.fast.rows import Rows

__all__ = ["keep_activations", "layers_that_fit", "take_over", "unfit_to_train"]


def unfit_to_train(model: PreTrainedModel) -> str:
    """Why the fast path does not serve a model; "" if it does."""
    reason = unfit(model, 0)
    if reason:
        return reason
    for layer in decoder_of(model).layers:
        for module in _projections(layer):
            reason = _unfit_module(module)
            if reason:
                return reason
        if any(p.requires_grad for n, p in layer.named_parameters() if ".lora_" not in n):
            return "more of its layers learns than LoRAs"
    return ""


def take_over(model: PreTrainedModel, rows: Rows) -> list[FastLayer]:
    """Swap in fast layers for all decoder layers of a model that fits, and a norm behind them."""
    found = []
    norm = decoder_of(model).norm
    norm.__class__ = _accelerated_norm(type(norm))
    norm.rows = rows
    for layer in decoder_of(model).layers:
        fast = _fast(layer, model, rows)
        layer.__class__ = _accelerated(type(layer))
        layer.fast = fast
        found.append(fast)
    return found


def keep_activations(model: PreTrainedModel, layers: int) -> None:
    """Let the last `layers` keep what their backward needs, though checkpointing is on.

    The last, because their backward comes first: when the others compute theirs again, it is gone.
    """
    fast = [layer.fast for layer in decoder_of(model).layers if hasattr(layer, "fast")]
    for number, layer in enumerate(fast):
        layer.keeps = number >= len(fast) - layers


def layers_that_fit(model: PreTrainedModel, tokens: int, free: float) -> int:
    """How many layers can keep theirs, for a batch of so many tokens, in `free` bytes.

    0 for a model without fast layers.
    """
    fast = [layer.fast for layer in decoder_of(model).layers if hasattr(layer, "fast")]
    return min(len(fast), int(max(0.0, free) // (fast[0].kept_bytes * tokens))) if fast else 0


def _accelerated(kind: type[nn.Module]) -> type[nn.Module]:
    """A decoder layer that goes the fast way where it can."""

    def forward(self: Any, hidden_states: Tensor, **options: Any) -> Any:
        checkpoint = self.gradient_checkpointing and self.training and torch.is_grad_enabled()
        if _serves(self.fast, self, hidden_states, options):
            flat = hidden_states.reshape(-1, hidden_states.shape[-1])
            places = _places(self.fast, hidden_states, options)
            return self.fast(flat, places, checkpoint=checkpoint).view(hidden_states.shape)
        usual = functools.partial(kind.forward, self, **options)
        return (
            self._gradient_checkpointing_func(usual, hidden_states)
            if checkpoint
            else (usual(hidden_states))
        )

    class Accelerated(kind):  # type: ignore[misc, valid-type]
        fast: FastLayer

    # Not in the body of the class, where transformers would wrap it: its checkpointing computes
    # all of a layer again, and that of a fast layer only what it must.
    Accelerated.forward = forward
    Accelerated.__name__ = Accelerated.__qualname__ = f"Accelerated{kind.__name__}"
    return Accelerated


def _accelerated_norm(kind: type[nn.Module]) -> type[nn.Module]:
    class Accelerated(kind):  # type: ignore[misc, valid-type]
        rows: Rows

        def forward(self, hidden_states: Tensor) -> Any:
            if self.weight.requires_grad or hidden_states.dtype != self.weight.dtype:
                return super().forward(hidden_states)
            return fast_norm(hidden_states, self.weight, self.variance_epsilon, self.rows)

    Accelerated.__name__ = Accelerated.__qualname__ = f"Accelerated{kind.__name__}"
    return Accelerated


def _serves(fast: FastLayer, layer: nn.Module, hidden: Tensor, options: dict[str, Any]) -> bool:
    return (
        options.get("cache") is None
        and options.get("past_key_values") is None
        and options.get("attention_mask") is None
        and hidden.dtype == fast.norms.before_mlp.dtype
        and all(_as_taken(module) for module in _projections(layer))
    )


def _as_taken(module: nn.Module) -> bool:
    """Whether a projection is still to be computed with the LoRA that was taken over."""
    return not isinstance(module, LoraLayer) or not (module.disable_adapters or module.merged)


def _places(fast: FastLayer, hidden: Tensor, options: dict[str, Any]) -> Places:
    count, length = hidden.shape[:2]
    cos, sin = (
        part.expand(count, -1, -1).reshape(count * length, -1).to(hidden.dtype).contiguous()
        for part in options["position_embeddings"]
    )
    bounds, longest = options.get("cu_seqlens"), options.get("max_seqlen")
    if bounds is None:
        # Padding stands behind each row, where nothing looks.
        bounds = torch.arange(count + 1, dtype=torch.int32, device=hidden.device) * length
        longest = length
    return Places(cos, sin, PackRows.of(bounds, longest, hidden.device, fast.heads.window))


def _fast(layer: Any, model: PreTrainedModel, rows: Rows) -> FastLayer:
    config: Any = model.config
    attention, mlp = layer.self_attn, layer.mlp
    dtype, device = layer.input_layernorm.weight.dtype, layer.input_layernorm.weight.device
    groups = (
        (attention.q_proj, attention.k_proj, attention.v_proj),
        (attention.o_proj,),
        (mlp.gate_proj, mlp.up_proj),
        (mlp.down_proj,),
    )
    qkv, o, gate_up, down = (_product(group, dtype, device) for group in groups)
    heads = Heads(
        config.num_attention_heads,
        config.num_key_value_heads,
        attention.head_dim,
        float(attention.scaling),
    )
    window = getattr(attention, "sliding_window", None)
    if not hasattr(attention, "sliding_window"):
        window = getattr(config, "sliding_window", None)
    q_norm, k_norm = getattr(attention, "q_norm", None), getattr(attention, "k_norm", None)
    if q_norm is not None and k_norm is not None:
        heads = replace(heads, q_norm=q_norm.weight.detach(), k_norm=k_norm.weight.detach())
    norms = Norms(
        layer.input_layernorm.weight.detach(),
        layer.post_attention_layernorm.weight.detach(),
        float(config.rms_norm_eps),
    )
    return FastLayer((qkv, o, gate_up, down), replace(heads, window=window or 0), norms, rows)


def _product(modules: Sequence[nn.Module], dtype: torch.dtype, device: torch.device) -> Product:
    parts = [Part(_base(module), _lora(module)) for module in modules]
    dense = all(type(part.layer) is nn.Linear for part in parts)
    return (DenseProduct if dense else PackedProduct)(parts, dtype, device)


def _projections(layer: Any) -> tuple[nn.Module, ...]:
    attention, mlp = layer.self_attn, layer.mlp
    return (
        *(attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj),
        *(mlp.gate_proj, mlp.up_proj, mlp.down_proj),
    )


def _base(module: Any) -> Any:
    return module.get_base_layer() if isinstance(module, LoraLayer) else module


def _active(module: Any) -> list[str]:
    return [name for name in module.active_adapters if name in module.lora_A]


def _lora(module: Any) -> Lora | None:
    if not isinstance(module, LoraLayer) or not _active(module):
        return None
    (name,) = _active(module)
    a: Any = module.lora_A[name].weight
    b: Any = module.lora_B[name].weight
    return Lora(a, b, float(module.scaling[name]))


def _unfit_module(module: Any) -> str:
    base = _base(module)
    if type(base) is not nn.Linear and not isinstance(base, QuantizedLinear):
        return f"it has layers of the kind {type(base).__name__}"
    if base.in_features % 8 or base.out_features % 8:
        return "the sizes of its layers are no multiples of 8"
    if not isinstance(module, LoraLayer):
        return ""
    lora: Any = module
    names = _active(lora)
    if len(names) > 1:
        return "more than one adapter is active"
    for name in names:
        dropout = lora.lora_dropout[name]
        if isinstance(dropout, nn.Dropout) and dropout.p > 0:
            return "its LoRA has dropout"
        if name in lora.lora_variant:
            return "its LoRA is no plain one"
        if lora.lora_B[name].bias is not None or lora.fan_in_fan_out:
            return "its LoRA has a bias or is transposed"
    return ""
