"""Fast layers against those of transformers and PEFT: the same loss, the same gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from modules.loader.quantization.format import LOAD_4BIT, LOAD_8BIT, QuantizationFormat
from modules.loader.quantization.linear import QuantizedLinear
from modules.loader.quantization.rounding import quantize
from modules.training.trainer.fast import accelerate_model
from modules.training.trainer.fast.rows import TorchRows
from modules.training.trainer.fast.take_over import (
    keep_activations,
    layers_that_fit,
    take_over,
    unfit_to_train,
)
from tests.training.trainer.fast.models import (
    ALL,
    llama,
    loss_of,
    mistral,
    packed,
    qwen2,
    qwen3,
    rows_of,
    step,
    with_lora,
)

LENGTHS = (7, 1, 12, 4)


def same(found: dict[str, Tensor], meant: dict[str, Tensor]) -> None:
    assert found.keys() == meant.keys()
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, meant[name], rtol=2e-4, atol=2e-5, msg=lambda m: m)


def inner(model: Any) -> Any:
    return model.get_base_model()


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("make", [llama, mistral, qwen2, qwen3])
def test_the_loss_and_the_gradients_are_those_of_the_plain_layers(
    make: Callable[[], PreTrainedModel],
) -> None:
    model = with_lora(make())
    meant = step(model, rows_of(LENGTHS))
    assert not unfit_to_train(inner(model))
    take_over(inner(model), TorchRows())
    same(step(model, rows_of(LENGTHS)), meant)


@pytest.mark.parametrize("targets", [("q_proj", "v_proj"), ("down_proj",), ("up_proj", "o_proj")])
def test_some_projections_may_be_without_a_lora(targets: tuple[str, ...]) -> None:
    model = with_lora(llama(), targets)
    meant = step(model, rows_of(LENGTHS))
    take_over(inner(model), TorchRows())
    same(step(model, rows_of(LENGTHS)), meant)


@pytest.mark.parametrize("kept", [0, 1, 3])
def test_checkpointing_changes_nothing_but_what_is_kept(kept: int) -> None:
    model = with_lora(llama())
    take_over(inner(model), TorchRows())
    meant = step(model, rows_of(LENGTHS))
    inner(model).gradient_checkpointing_enable()
    keep_activations(inner(model), kept)
    model.train()
    sizes = []

    def noted(tensor: Tensor) -> Tensor:
        sizes.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(noted, lambda tensor: tensor):
        same(step(model, rows_of(LENGTHS)), meant)
    count, width, of_heads, middle = sum(LENGTHS), 64, 64, 96
    assert sizes.count(count * 2 * middle) == kept
    assert sum(sizes) >= count * (3 * width + kept * (of_heads + 2 * middle))


def test_layers_that_fit_are_counted_by_what_they_keep() -> None:
    model = with_lora(llama())
    assert layers_that_fit(inner(model), 24, 1e9) == 0
    take_over(inner(model), TorchRows())
    kept: dict[int, int] = {}
    for layers in (0, 2):
        inner(model).gradient_checkpointing_enable()
        keep_activations(inner(model), layers)
        kept[layers] = 0

        def noted(tensor: Tensor, layers: int = layers) -> Tensor:
            kept[layers] += tensor.nbytes
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(noted, lambda tensor: tensor):
            loss_of(model.train(), *packed(rows_of(LENGTHS)))
    room = kept[2] - kept[0]
    # The processor's attention keeps nothing of its own for the backward; a card's does.
    of_attention = 2 * sum(LENGTHS) * 4 * 4
    assert layers_that_fit(inner(model), sum(LENGTHS), room + of_attention) == 2
    assert layers_that_fit(inner(model), sum(LENGTHS), room) == 1


def test_a_step_of_the_optimizer_is_seen_by_the_next_forward() -> None:
    model = with_lora(llama())
    take_over(inner(model), TorchRows())
    step(model, rows_of(LENGTHS))
    plain = with_lora(llama())
    plain.load_state_dict(model.state_dict())
    for some in (model, plain):
        for name, parameter in some.named_parameters():
            if ".lora_" in name:
                parameter.data += 0.05  # as an optimizer of another library may do it
    same(step(model, rows_of(LENGTHS)), step(plain, rows_of(LENGTHS)))


def test_rows_of_a_batch_that_is_padded_are_rows_of_a_pack() -> None:
    model = with_lora(llama())
    rows = rows_of((9, 9))
    about, _ = packed(rows)
    take_over(inner(model), TorchRows())
    with torch.no_grad():
        pack = inner(model).get_decoder()(**about).last_hidden_state
        batch = inner(model).get_decoder()(torch.stack(rows), use_cache=False).last_hidden_state
    torch.testing.assert_close(batch.flatten(0, 1), pack[0])


def test_a_mask_is_left_to_the_usual_layers_and_their_checkpointing() -> None:
    model = with_lora(llama())
    rows = rows_of((9,))
    about, labels = packed(rows)
    mask = torch.ones(9, 9).tril().log()[None, None]
    about = {"input_ids": about["input_ids"], "attention_mask": mask, "use_cache": False}
    loss_of(model, about, labels).backward()  # type: ignore[no-untyped-call]
    meant = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    take_over(inner(model), TorchRows())
    inner(model).gradient_checkpointing_enable()
    model.train().zero_grad()
    loss_of(model, about, labels).backward()  # type: ignore[no-untyped-call]
    same({n: p.grad for n, p in model.named_parameters() if p.grad is not None}, meant)


def test_a_model_goes_on_to_answer_and_to_do_without_its_adapter() -> None:
    model = with_lora(llama())
    ids = rows_of((6,))[0][None]
    meant = model.generate(input_ids=ids, max_new_tokens=6, do_sample=False)
    with model.disable_adapter():
        bare = model(input_ids=ids).logits
    take_over(inner(model), TorchRows())
    torch.testing.assert_close(
        model.generate(input_ids=ids, max_new_tokens=6, do_sample=False), meant
    )
    with model.disable_adapter():
        torch.testing.assert_close(model(input_ids=ids).logits, bare)


def test_weights_are_held_once() -> None:
    model = with_lora(llama())
    layers = take_over(inner(model), TorchRows())
    layer = inner(model).model.layers[0]
    joined = [layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj]
    storages = {module.base_layer.weight.untyped_storage().data_ptr() for module in joined}
    assert storages == {layers[0].qkv.a.untyped_storage().data_ptr()}


def packed_model(
    form: QuantizationFormat, *, ordered: bool = False, **sizes: int
) -> PreTrainedModel:
    """A model whose layers are packed; `ordered`: with the inputs in an order of their own."""
    model = llama(**sizes)
    for name, layer in list(model.named_modules()):
        if isinstance(layer, nn.Linear) and name.endswith(ALL):
            of = QuantizedLinear(
                layer.in_features, layer.out_features, bits=form.bits, group_size=form.group_size
            )
            found = quantize(layer.weight.data, form)
            of.weight, of.scales = (nn.Parameter(t, False) for t in (found.weight, found.scales))
            of.zeros = None if found.zeros is None else nn.Parameter(found.zeros, False)
            perm = torch.randperm(layer.in_features).int()
            of.perm = nn.Parameter(perm, False) if ordered else None
            model.set_submodule(name, of)
    return model


@pytest.mark.parametrize(
    ("form", "ordered"),
    [(LOAD_4BIT, False), (LOAD_8BIT, False), (QuantizationFormat("gptq", 4, 32, True), True)],
)
def test_packed_layers_give_the_gradients_of_their_dequantized_twins(
    form: QuantizationFormat, ordered: bool
) -> None:
    model = with_lora(packed_model(form, ordered=ordered))
    plain = step(model, rows_of(LENGTHS))
    assert not unfit_to_train(inner(model))
    take_over(inner(model), TorchRows())
    same(step(model, rows_of(LENGTHS)), plain)


@pytest.mark.parametrize(
    ("about", "words"),
    [
        ({"lora_dropout": 0.1}, "dropout"),
        ({"use_dora": True}, "plain"),
        ({"lora_bias": True}, "bias"),
    ],
)
def test_other_kinds_of_lora_are_left_to_the_plain_path(about: dict[str, Any], words: str) -> None:
    assert words in unfit_to_train(
        inner(with_lora(llama(attention_bias=True, mlp_bias=True), **about))
    )


def test_a_model_whose_norms_learn_is_left_to_the_plain_path() -> None:
    model = with_lora(llama())
    inner(model).model.layers[1].input_layernorm.weight.requires_grad = True
    assert "learns" in unfit_to_train(inner(model))


def near(found: dict[str, Tensor], meant: dict[str, Tensor], most: float) -> None:
    """Relative: of the loss, and of all gradients together."""
    loss, wanted = found.pop("loss"), meant.pop("loss")
    assert (loss - wanted).abs() < most * wanted
    off = torch.stack([(found[n] - meant[n]).float().norm() for n in meant]).norm()
    assert off < most * torch.stack([meant[n].float().norm() for n in meant]).norm()


WIDE = {"hidden_size": 256, "intermediate_size": 512, "num_attention_heads": 4}


def on_card(model: PreTrainedModel, dtype: torch.dtype) -> Any:
    """With a LoRA in float32, as the trainer has it."""
    made = with_lora(model.to("cuda", dtype))
    for parameter in made.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return made


def cast_step(model: Any, dtype: torch.dtype) -> dict[str, Tensor]:
    with torch.autocast("cuda", dtype):
        return step(model, rows_of((70, 1, 130, 40)), "cuda")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA card")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("make", [llama, mistral, qwen2, qwen3])
def test_kernels_on_a_card_give_the_plain_gradients_within_rounding(
    make: Callable[[], PreTrainedModel], dtype: torch.dtype
) -> None:
    model = on_card(make(), dtype)
    meant = cast_step(model, dtype)
    assert "3 layers" in accelerate_model(model)
    near(cast_step(model, dtype), meant, 4e-2)
    inner(model).gradient_checkpointing_enable()
    near(cast_step(model.train(), dtype), cast_step(model.eval(), dtype), 1e-2)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA card")
@pytest.mark.parametrize(("form", "ordered"), [(LOAD_4BIT, False), (LOAD_8BIT, True)])
def test_packed_layers_on_a_card_give_the_plain_gradients_within_rounding(
    form: QuantizationFormat, ordered: bool
) -> None:
    model = on_card(packed_model(form, ordered=ordered, **WIDE), torch.bfloat16)
    meant = cast_step(model, torch.bfloat16)
    assert "3 layers" in accelerate_model(model)
    near(cast_step(model, torch.bfloat16), meant, 4e-2)


def test_the_processor_keeps_the_plain_layers() -> None:
    model = with_lora(llama())
    assert accelerate_model(model) == ""
    assert type(inner(model).model.layers[0]).__name__ == "LlamaDecoderLayer"
