"""The LoRA over the base: made new, or begun with one that is there; and its tensors to keep."""

from __future__ import annotations

import collections
import difflib
import math
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from peft import LoraConfig, PeftModel, get_peft_model, set_peft_model_state_dict
from peft.tuners.lora.layer import Linear as LoraLinear
from peft.utils import get_peft_model_state_dict
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from modules.errors import AdapterError, InvalidInputError, TrainingError
from modules.loader.adapter_base import BaseLayer, check_fit
from modules.loader.adapters import AdapterCheck, check_adapter
from modules.loader.quantization.linear import QuantizedLinear
from modules.training.config import TrainingConfig
from modules.training.trainer.base import Base

__all__ = ["Lora", "add_lora", "continue_lora"]

_KINDS: tuple[type[nn.Module], ...] = (nn.Linear, QuantizedLinear, Conv1D)


class Lora:
    """A PEFT model, with what is saved of it.

    PiSSA takes the largest directions out of the base, so that its A and B alone mean nothing
    over the base as it lies on the disk: with those of the beginning taken off, they do, at
    twice the rank (B A - B0 A0 = [B, -B0] [A; A0]).
    """

    def __init__(self, model: PeftModel) -> None:
        self.model = model
        self._begun: dict[str, Tensor] = {}
        for parameter in self.parameters():
            # Steps of 1e-4 are lost in 16 bits.
            parameter.data = parameter.data.float()
        if self.config.init_lora_weights == "pissa":
            self._begun = {k: v.clone().cpu() for k, v in self._tensors().items()}

    @property
    def config(self) -> LoraConfig:
        """PEFT's."""
        config: Any = self.model.peft_config["default"]
        assert isinstance(config, LoraConfig)
        return config

    def named_parameters(self) -> list[tuple[str, nn.Parameter]]:
        """What learns, in an order that is always the same."""
        return [(n, p) for n, p in self.model.named_parameters() if p.requires_grad]

    def parameters(self) -> list[nn.Parameter]:
        """What learns."""
        return [parameter for _, parameter in self.named_parameters()]

    def to_save(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """adapter_config.json and the tensors of adapter_model.safetensors, in PEFT's form."""
        config = {k: _plain(v) for k, v in cast(Any, self.config).to_dict().items()}
        config["inference_mode"] = True
        tensors = self._tensors()
        if self._begun:
            stabilized = self.config.use_rslora
            config["r"] *= 2
            config["lora_alpha"] *= math.sqrt(2) if stabilized else 2
            config["init_lora_weights"] = True
            tensors = {key: self._without_beginning(key, t) for key, t in tensors.items()}
        return config, {key: tensor.contiguous() for key, tensor in tensors.items()}

    def _tensors(self) -> dict[str, Tensor]:
        found = get_peft_model_state_dict(self.model, save_embedding_layers=False)
        return {key: tensor.detach() for key, tensor in found.items()}

    def _without_beginning(self, key: str, tensor: Tensor) -> Tensor:
        if ".lora_A." in key:
            return torch.cat([tensor, self._begun[key].to(tensor)])
        if ".lora_B." in key:
            return torch.cat([tensor, -self._begun[key].to(tensor)], dim=1)
        return tensor


def _plain(value: Any) -> Any:
    """What JSON takes; sets in an order that is always the same."""
    return sorted(value) if isinstance(value, set) else value


# -- a new one --------------------------------------------------------------------------


def add_lora(base: Base, config: TrainingConfig) -> Lora:
    """A new LoRA that changes nothing yet. Raises InvalidInputError, TrainingError."""
    model = base.model
    replaced = _replaced(model, config)
    if config.use_dora or config.init_lora_weights == "pissa":
        _refuse_packed(model, "use_dora" if config.use_dora else "init_lora_weights: pissa")
    beginning: Any = {"default": True}.get(config.init_lora_weights, config.init_lora_weights)
    about = LoraConfig(
        task_type="CAUSAL_LM",
        r=config.lora_r,
        lora_alpha=cast(int, config.lora_alpha),
        lora_dropout=config.lora_dropout,
        target_modules=_targets(model, config, replaced),
        modules_to_save=replaced or None,
        use_rslora=config.use_rslora,
        use_dora=config.use_dora,
        init_lora_weights=beginning,
    )
    return Lora(_attached(base, about, config.seed))


def _attached(base: Base, about: LoraConfig, seed: int) -> PeftModel:
    about._register_custom_module({QuantizedLinear: _QuantizedLoraLinear})
    torch.manual_seed(seed)
    with warnings.catch_warnings(action="ignore"):  # of layers that it does not know
        attached: Any = get_peft_model(base.model, about)
    # PEFT puts the folder here; the name alone tells nothing about this machine.
    about.base_model_name_or_path = base.folder.name
    assert isinstance(attached, PeftModel)
    return attached


class _QuantizedLoraLinear(LoraLinear):
    """PEFT's layer over `QuantizedLinear`, which computes with its packed weights as it is."""


def _refuse_packed(model: nn.Module, asked: str) -> None:
    if any(isinstance(module, QuantizedLinear) for module in model.modules()):
        raise TrainingError(
            f"{asked} needs the weights of the base, which stay packed here.",
            "Set dequantize: once, or leave it out.",
        )


def _targets(model: PreTrainedModel, config: TrainingConfig, replaced: list[str]) -> list[str]:
    """The modules to change, all of which the model has."""
    kinds: tuple[type[nn.Module], ...] = (nn.Embedding, *_KINDS)
    names = [name for name, m in model.named_modules() if isinstance(m, kinds)]
    missing = [target for target in config.targets if not any(_ends(n, target) for n in names)]
    if missing and config.target_modules == ("all",):
        head = model.get_output_embeddings()  # type: ignore[no-untyped-call]
        found = {n.rpartition(".")[2] for n, m in model.named_modules()
                 if isinstance(m, _KINDS) and m is not head}  # fmt: skip
        return sorted(found - set(replaced))
    if missing:
        kinds_of = sorted({name.rpartition(".")[2] for name in names})
        near = difflib.get_close_matches(missing[0], kinds_of, n=1, cutoff=0.5)
        raise InvalidInputError(
            f"The model has no module {missing[0][:60]!r}.",
            f"Did you mean {near[0]}?" if near else f"It has {', '.join(kinds_of[:12])}.",
            "target_modules",
        )
    twice = [target for target in config.targets if target in replaced]
    if twice:
        raise InvalidInputError(
            f"{twice[0]} is in target_modules, and is trained whole as well.",
            "Choose one of them.",
            "target_modules",
        )
    return list(config.targets)


def _ends(name: str, target: str) -> bool:
    return name == target or name.endswith(f".{target}")


def _replaced(model: PreTrainedModel, config: TrainingConfig) -> list[str]:
    """The last part of the names of those that are trained whole."""
    wanted = []
    if config.train_embeddings:
        wanted.append(model.get_input_embeddings())
    if config.train_head:
        wanted.append(model.get_output_embeddings())  # type: ignore[no-untyped-call]
    found = []
    for module in wanted:
        if not isinstance(module, nn.Embedding | nn.Linear):
            raise TrainingError(
                f"A {type(module).__name__} cannot be trained whole.",
                "Leave train_embeddings and train_head out.",
            )
        found += [n.rpartition(".")[2] for n, m in model.named_modules() if m is module]
    return found


# -- one that goes on -------------------------------------------------------------------


def continue_lora(base: Base, config: TrainingConfig, folder: Path) -> Lora:
    """The LoRA in `folder`, to learn more; its rank and targets stay.

    Of its config nothing reaches PEFT but what was checked. Raises AdapterError.
    """
    check = check_adapter(folder, base.folder)
    if check.warning:
        raise AdapterError(
            f"{folder.name} cannot be continued. {check.warning}", "Choose its own base."
        )
    check_fit(check, base.folder.name, _layers_of(base.model))
    if check.kind == "DoRA":
        _refuse_packed(base.model, f"{folder.name}, a DoRA,")
    lora = Lora(_attached(base, _as_config(base, check, config), config.seed))
    tensors = {_full(key): tensor for key, tensor in load_file(check.weights).items()}
    report: Any = set_peft_model_state_dict(lora.model, tensors)
    if report.unexpected_keys:
        raise AdapterError(
            f"{folder.name} has tensors that found no place: {report.unexpected_keys[0][:80]}.",
            "Choose a LoRA that Lantern or PEFT has made.",
        )
    return lora


def _as_config(base: Base, check: AdapterCheck, config: TrainingConfig) -> LoraConfig:
    changed = {name: layer for name, layer in check.layers.items() if layer.rank}
    stabilized = check.kind == "rsLoRA"
    ranks = {name: layer.rank for name, layer in changed.items()}
    alphas = {
        name: layer.scaling * (math.sqrt(layer.rank) if stabilized else layer.rank)
        for name, layer in changed.items()
    }
    rank, alpha = _usual(ranks.values()), _usual(alphas.values())
    whole = {n.rpartition(".")[2] for n, layer in check.layers.items() if not layer.rank}
    return LoraConfig(
        task_type="CAUSAL_LM",
        r=int(rank),
        lora_alpha=cast(int, alpha),
        lora_dropout=config.lora_dropout,
        target_modules=_shortest(base.model, set(changed)),
        rank_pattern={n: r for n, r in ranks.items() if r != rank},
        alpha_pattern={n: a for n, a in alphas.items() if not math.isclose(a, alpha)},
        modules_to_save=sorted(whole) or None,
        use_rslora=stabilized,
        use_dora=check.kind == "DoRA",
    )


def _usual(values: Iterable[float]) -> float:
    return collections.Counter(values).most_common(1)[0][0]


def _shortest(model: nn.Module, changed: set[str]) -> list[str]:
    """The kinds of modules, where all of a kind are changed; else their full names."""
    kinds = sorted({name.rpartition(".")[2] for name in changed})
    meant = {n for n, _ in model.named_modules() if any(_ends(n, kind) for kind in kinds)}
    return kinds if meant == changed else sorted(changed)


def _full(key: str) -> str:
    prefix = "base_model.model."
    return key if key.startswith(prefix) else prefix + key


def _layers_of(model: PreTrainedModel) -> Mapping[str, BaseLayer]:
    head = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    found = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding):
            found[name] = BaseLayer(module.num_embeddings, module.embedding_dim, embedding=True)
        elif isinstance(module, Conv1D):
            found[name] = BaseLayer(module.nx, module.nf, head=module is head)
        elif isinstance(module, _KINDS):
            sizes: Any = module
            found[name] = BaseLayer(sizes.in_features, sizes.out_features, head=module is head)
    return found
