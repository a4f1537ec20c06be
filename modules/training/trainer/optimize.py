"""`Optimization`: what turns gradients into steps: groups, optimizer, schedule, clipping."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from transformers import get_scheduler
from transformers.optimization import Adafactor

from modules.errors import TrainingError
from modules.training.config import TrainingConfig

__all__ = ["Optimization"]


class Optimization:
    """The optimizer of a run of `total` steps over named parameters.

    Raises TrainingError where the optimizer needs a package that is not there.
    """

    def __init__(
        self,
        parameters: list[tuple[str, nn.Parameter]],
        config: TrainingConfig,
        total: int,
        dtype: torch.dtype,
    ) -> None:
        self._parameters = [parameter for _, parameter in parameters]
        self._most = config.max_grad_norm or math.inf
        groups = _groups(parameters, config)
        self._optimizer = _optimizer(groups, config, self._parameters[0].device)
        warmup = config.warmup_steps or math.ceil(config.warmup_ratio * total)
        # What no schedule is told, transformers chooses; this one refuses small rates then.
        ending = {"lr_end": 0.0} if config.lr_scheduler == "polynomial" else None
        self._scheduler: Any = get_scheduler(
            config.lr_scheduler, self._optimizer, warmup, total, ending
        )
        device = self._parameters[0].device.type
        # Gradients below 6e-8 are nothing in float16, unless the loss is scaled up.
        self._scaler = torch.amp.GradScaler(device, enabled=dtype == torch.float16)

    @property
    def learning_rate(self) -> float:
        """That of the next step; with LoRA+, that of A."""
        return float(self._optimizer.param_groups[0]["lr"])

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of a loss."""
        self._scaler.scale(loss).backward()  # type: ignore[no-untyped-call]

    def forget(self) -> None:
        """Drop all gradients."""
        self._optimizer.zero_grad(set_to_none=True)

    def step(self) -> float:
        """Make a step; returns the norm of the gradients as it was before clipping.

        Raises TrainingError where that is no number. (In float16 such a step is left out, and
        the scale made smaller.)
        """
        self._scaler.unscale_(self._optimizer)
        norm = nn.utils.clip_grad_norm_(self._parameters, self._most)
        if not self._scaler.is_enabled() and not torch.isfinite(norm):
            raise TrainingError(
                f"The gradients are no numbers ({float(norm)}).",
                "Lower the learning rate, or clip gradients at 1; the last checkpoint is kept.",
            )
        self._scaler.step(self._optimizer)
        self._scaler.update()
        self._scheduler.step()
        self.forget()
        return float(norm)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """All that a resumed run needs: tensors by name, and the rest as JSON takes it."""
        tensors: dict[str, Tensor] = {}
        plain: dict[str, Any] = {}
        for name, value in _flat(self._optimizer.state_dict()["state"]):
            kept = tensors if isinstance(value, Tensor) else plain
            kept[name] = value
        schedule = {k: v for k, v in self._scheduler.state_dict().items() if k != "lr_lambdas"}
        return tensors, {"values": plain, "schedule": schedule, "scale": self._scaler.state_dict()}

    def restore(self, tensors: Mapping[str, Tensor], rest: Mapping[str, Any]) -> None:
        """Go on from a `state`."""
        entries = _nested([*tensors.items(), *rest["values"].items()])
        groups = self._optimizer.state_dict()["param_groups"]
        self._optimizer.load_state_dict({"state": entries, "param_groups": groups})
        lambdas = self._scheduler.state_dict()["lr_lambdas"]  # functions, and so never saved
        self._scheduler.load_state_dict({**rest["schedule"], "lr_lambdas": lambdas})
        for group, rate in zip(
            self._optimizer.param_groups, self._scheduler.get_last_lr(), strict=True
        ):
            group["lr"] = rate
        self._scaler.load_state_dict(dict(rest["scale"]))


def _flat(state: Mapping[Any, Any], before: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """The values in a state, named by their place; bitsandbytes has tensors one level deeper."""
    for key, value in state.items():
        place = (*before, str(key))
        if isinstance(value, Mapping):
            yield from _flat(value, place)
        else:
            yield ".".join(place), value


def _nested(values: Iterable[tuple[str, Any]]) -> dict[int, dict[str, Any]]:
    """The state that `_flat` named the values of, by the number of the parameter."""
    state: dict[int, dict[str, Any]] = {}
    for name, value in values:
        index, *between, key = name.split(".")
        entry = state.setdefault(int(index), {})
        for part in between:
            entry = entry.setdefault(part, {})
        entry[key] = value
    return state


def _groups(
    parameters: list[tuple[str, nn.Parameter]], config: TrainingConfig
) -> list[dict[str, Any]]:
    """LoRA+ gives B a learning rate of its own (arxiv.org/abs/2402.12354)."""
    ratio = config.loraplus_lr_ratio or 1.0
    rest = [p for n, p in parameters if not _is_b(n)]
    b = [p for n, p in parameters if _is_b(n)]
    rates = ((rest, config.learning_rate), (b, config.learning_rate * ratio))
    groups = [{"params": found, "lr": rate} for found, rate in rates if found]
    return [{**group, "weight_decay": config.weight_decay} for group in groups]


def _is_b(name: str) -> bool:
    return ".lora_B." in name or ".lora_embedding_B" in name


def _optimizer(
    groups: list[dict[str, Any]], config: TrainingConfig, device: torch.device
) -> Optimizer:
    rate = config.learning_rate
    match config.optimizer:
        case "adamw_8bit":
            return _adamw_8bit(groups, rate, device)
        case "adafactor":
            # At the rate that was asked for, instead of one of its own.
            fixed = {"scale_parameter": False, "relative_step": False, "warmup_init": False}
            return Adafactor(groups, lr=rate, **fixed)  # type: ignore[no-untyped-call]
        case "sgd":
            return torch.optim.SGD(groups, lr=rate)
    return torch.optim.AdamW(groups, lr=rate, fused=True)


def _adamw_8bit(groups: list[dict[str, Any]], rate: float, device: torch.device) -> Optimizer:
    remedy = "Install it (pip install bitsandbytes), or choose optimizer: adamw or adafactor."
    try:
        import bitsandbytes  # type: ignore[import-not-found,import-untyped,unused-ignore]
    except ImportError as error:
        raise TrainingError("adamw_8bit needs bitsandbytes.", remedy) from error
    if device.type != "cuda":
        raise TrainingError("adamw_8bit needs a CUDA card.", "Choose optimizer: adamw.")
    optimizer: Optimizer = bitsandbytes.optim.AdamW8bit(groups, lr=rate)
    return optimizer
