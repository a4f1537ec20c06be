"""The loss of a step is that of its rows, however they are computed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional
from transformers import GPT2Config, GPT2LMHeadModel

from modules.training.config import TrainingConfig
from modules.training.masking import Masked
from modules.training.trainer.base import Base, load_base
from modules.training.trainer.batches import collate, learnt_tokens
from modules.training.trainer.lora import Lora, add_lora
from modules.training.trainer.objective import Objective
from tests.training.trainer.runs import Place

CPU = torch.device("cpu")


def rows() -> list[Masked]:
    """Rows of different lengths, half of each learnt."""
    made = []
    for number, length in enumerate((5, 17, 9, 2, 12)):
        ids = tuple((number * 31 + i * 7) % 300 for i in range(length))
        made.append(Masked(ids, tuple(i >= length // 2 for i in range(length))))
    return made


@pytest.fixture
def base(tiny_base: Path) -> Base:
    return load_base(tiny_base, TrainingConfig(), CPU, lambda text, fraction: None)


@pytest.fixture
def objective(base: Base) -> Objective:
    return Objective(add_lora(base, TrainingConfig(lora_r=4)).model, base.dtype)


def test_a_pack_has_the_loss_of_its_rows_one_by_one(objective: Objective) -> None:
    together = objective(collate(rows(), packed=True, device=CPU))
    alone = sum(objective(collate([row], packed=False, device=CPU)) for row in rows())
    assert objective.packs
    torch.testing.assert_close(together, alone)


def test_padding_changes_no_loss(objective: Objective) -> None:
    packed = objective(collate(rows(), packed=True, device=CPU))
    torch.testing.assert_close(objective(collate(rows(), packed=False, device=CPU)), packed)


def test_the_loss_is_cross_entropy_of_the_learnt_tokens(base: Base, objective: Objective) -> None:
    (row,) = rows()[1:2]
    ids = torch.tensor([row.ids])
    logits = base.model(ids).logits[0, :-1].float()
    losses = functional.cross_entropy(logits, ids[0, 1:], reduction="none")
    expected = losses[torch.tensor(row.learnt[1:])].sum()
    torch.testing.assert_close(objective(collate([row], packed=True, device=CPU)), expected)


def test_a_model_without_packs_computes_padded_batches_alike() -> None:
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=320, n_embd=32, n_layer=2, n_head=2)).eval()
    base = Base(Path("gpt2"), model, None, torch.float32, "")  # type: ignore[arg-type]
    lora = add_lora(base, TrainingConfig(target_modules=("c_attn",)))
    objective = Objective(lora.model, torch.float32)
    padded = objective(collate(rows(), packed=False, device=CPU))
    alone = sum(objective(collate([row], packed=False, device=CPU)) for row in rows())
    torch.testing.assert_close(padded, alone)


def test_all_linear_layers_are_meant_where_names_are_others() -> None:
    model = GPT2LMHeadModel(GPT2Config(vocab_size=320, n_embd=32, n_layer=2, n_head=2))
    base = Base(Path("gpt2"), model, None, torch.float32, "")  # type: ignore[arg-type]
    names = {name.split(".")[-4] for name, _ in add_lora(base, TrainingConfig()).named_parameters()}
    assert names == {"c_attn", "c_proj", "c_fc"}


def gradients(lora: Lora) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in lora.named_parameters() if p.grad is not None}


def test_checkpointing_changes_no_gradient(base: Base) -> None:
    lora = add_lora(base, TrainingConfig(lora_r=4))
    objective = Objective(lora.model, base.dtype)
    batch = collate(rows(), packed=True, device=CPU)
    lora.model.train()
    objective(batch).backward()  # type: ignore[no-untyped-call]
    plain = gradients(lora)
    lora.model.zero_grad()
    objective.checkpoint_gradients()
    objective(batch).backward()  # type: ignore[no-untyped-call]
    assert plain
    for name, gradient in gradients(lora).items():
        assert torch.equal(gradient, plain[name])


def noise_on(objective: Objective, packed: bool) -> Callable[[], torch.Tensor]:
    seen: list[torch.Tensor] = []
    hooks = objective._model.get_input_embeddings()  # type: ignore[no-untyped-call]
    handle = hooks.register_forward_hook(lambda m, a, output: seen.append(output))
    objective(collate(rows(), packed=packed, device=CPU))
    handle.remove()
    return lambda: seen[0]


def test_neftune_adds_noise_by_the_length_of_each_row_and_only_while_training(base: Base) -> None:
    lora = add_lora(base, TrainingConfig(lora_r=4))
    objective = Objective(lora.model, base.dtype, noise=8.0)
    lora.model.eval()
    plain = noise_on(objective, packed=True)()
    lora.model.train()
    noise = (noise_on(objective, packed=True)() - plain).abs()
    size = plain.shape[-1]
    first, second = noise[0, :5], noise[0, 5:22]
    assert 0.8 < float(first.max()) / (8 / (5 * size) ** 0.5) <= 1.0
    assert 0.8 < float(second.max()) / (8 / (17 * size) ** 0.5) <= 1.0


def test_the_first_token_of_a_row_is_never_learnt() -> None:
    assert learnt_tokens([Masked((1, 2, 3), (True, True, False))]) == 1


@pytest.mark.parametrize(
    "config",
    [
        {"micro_batch_size": 4},
        {"micro_batch_size": 2, "gradient_accumulation_steps": 2},
        {"micro_batch_size": 4, "gradient_checkpointing": "on"},
    ],
)
@pytest.mark.parametrize("batching", ["packed", "padded"])
def test_accumulation_changes_no_loss(place: Place, config: dict[str, Any], batching: str) -> None:
    one = place.steps("one", gradient_accumulation_steps=4, micro_batch_size=1, batching=batching)
    other = place.steps("other", batching=batching, **config)
    assert [s.loss for s in other] == pytest.approx([s.loss for s in one], rel=1e-4)
    assert [s.tokens for s in other] == [s.tokens for s in one]
