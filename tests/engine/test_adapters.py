"""LoRAs over a loaded model compute what PEFT computes, alone and mixed, and leave no trace."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import cpu_offload
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from modules.engine.mix import Mix
from modules.engine.worker.adapters import Adapters
from modules.errors import AdapterError, LanternError, UnsafeModelError
from modules.loader.quantization.linear import QuantizedLinear
from modules.loader.transformers_loader import LoadedModel
from tests.engine.lora import IDS, LINEAR, base_model, logits, make_adapter, peft_logits

Make = Callable[..., Path]


def hooks(loaded: LoadedModel) -> int:
    """All of them; transformers has some of its own, once hidden states were asked for."""
    return sum(len(module._forward_hooks) for module in loaded.model.modules())


@pytest.fixture
def adapters(tiny: LoadedModel) -> Iterator[Adapters]:
    before = hooks(tiny)
    adapters = Adapters(tiny.model)
    yield adapters
    for name in adapters.names:
        adapters.unload(name)
    assert hooks(tiny) == before


@pytest.fixture
def make(checkpoint: Path, tmp_path: Path) -> Make:
    def make(name: str = "a", **options: Any) -> Path:
        return make_adapter(checkpoint, tmp_path / name, **options)

    return make


def with_mix(adapters: Adapters, mix: Mix) -> Tensor:
    adapters.use(mix)
    found = logits(adapters._model)
    adapters.use(())
    return found


def close(found: Tensor, expected: Tensor, tolerance: float = 1e-5) -> bool:
    return float((found - expected).norm() / expected.norm()) < tolerance


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"use_rslora": True, "r": 8, "lora_alpha": 4},
        {"use_dora": True},
        {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"layers.1.self_attn.q_proj": 3}},
        {"target_modules": ["up_proj"], "layers_to_transform": [1]},
        {"target_modules": r".*\.(q|v)_proj", "lora_dropout": 0.3},
        {"target_modules": ["q_proj", "embed_tokens"]},
        {"target_modules": ["lm_head", "v_proj"]},
        {"modules_to_save": ["embed_tokens", "lm_head"]},
    ],
    ids=lambda options: "-".join(options) or "plain",
)
def test_the_logits_are_those_of_peft(
    adapters: Adapters, make: Make, checkpoint: Path, options: dict[str, Any]
) -> None:
    folder = make(**options)
    info = adapters.load("a", folder, IDS)
    base, expected = logits(adapters._model), peft_logits(checkpoint, folder)
    assert close(with_mix(adapters, (("a", 1.0),)), expected)
    assert info.change == pytest.approx(float((expected - base).norm() / base.norm()), rel=1e-3)
    assert info.change > 0.01


def test_what_is_applied_is_described(adapters: Adapters, make: Make) -> None:
    info = adapters.load("a", make(use_rslora=True, target_modules=["q_proj", "v_proj"]), IDS)
    assert (info.kind, info.rank, info.alpha) == ("rsLoRA", 4, 8.0)
    assert info.target_modules == ("q_proj", "v_proj")
    assert info.parameters == 2 * (4 * 64 + 64 * 4 + 4 * 64 + 32 * 4)
    assert info.note == ""


def test_two_adapters_are_the_weighted_sum_of_their_changes(
    adapters: Adapters, make: Make, checkpoint: Path
) -> None:
    folders = {"a": make("a", seed=1), "b": make("b", seed=2, r=8, lora_alpha=4)}
    merged = base_model(checkpoint)
    weights = {"a": 0.7, "b": -1.5}
    for name, folder in folders.items():
        adapters.load(name, folder, IDS)
        scaling = {"a": 8 / 4, "b": 4 / 8}[name] * weights[name]
        tensors = load_file(folder / "adapter_model.safetensors")
        for key in (key for key in tensors if "lora_A" in key):
            module = merged.get_submodule(key.removeprefix("base_model.model.")[:-14])
            b = tensors[key.replace("lora_A", "lora_B")]
            module.weight.data += scaling * (b @ tensors[key])
    assert close(with_mix(adapters, tuple(weights.items())), logits(merged))


def test_a_weight_of_nought_and_a_removed_adapter_leave_the_base(
    adapters: Adapters, make: Make
) -> None:
    before = logits(adapters._model)
    adapters.load("a", make(), IDS)
    assert torch.equal(with_mix(adapters, ()), before)
    assert not torch.equal(with_mix(adapters, (("a", 1.0),)), before)
    adapters.unload("a")
    assert torch.equal(with_mix(adapters, (("a", 1.0),)), before)


def test_half_of_a_dora_is_half_of_its_change(adapters: Adapters, make: Make) -> None:
    layer = adapters._model.get_submodule("model.layers.0.self_attn.q_proj")
    x = torch.randn(3, 64)
    adapters.load("a", make(use_dora=True), IDS)
    base = layer(x)
    adapters.use((("a", 1.0),))
    whole = layer(x)
    adapters.use((("a", 0.5),))
    assert close(layer(x), (base + whole) / 2)


def test_a_float32_adapter_over_a_half_precision_model(make: Make, checkpoint: Path) -> None:
    half = Adapters(base_model(checkpoint).to(torch.bfloat16))
    folder = make()
    half.load("a", folder, IDS)
    expected = peft_logits(checkpoint, folder)
    assert close(with_mix(half, (("a", 1.0),)).float(), expected, 3e-2)


def test_an_adapter_over_quantized_layers(make: Make, checkpoint: Path) -> None:
    """The base's weights are codes; PEFT runs over the same numbers written out."""
    quantized, written_out = base_model(checkpoint), base_model(checkpoint)
    for name, module in list(quantized.named_modules()):
        if name.endswith("_proj"):
            layer = random_layer(module.in_features, module.out_features)
            quantized.set_submodule(name, layer)
            written_out.get_submodule(name).weight.data = layer.dequantize(torch.float32)
    for options in ({}, {"use_dora": True}):
        folder = make(f"q{len(options)}", **options)
        over = Adapters(quantized)
        over.load("a", folder, IDS)
        expected = PeftModel.from_pretrained(written_out, str(folder))
        assert close(with_mix(over, (("a", 1.0),)), logits(expected.eval()), 1e-4)
        over.unload("a")
        written_out = expected.unload()


@pytest.mark.parametrize("options", [{}, {"use_dora": True}, {"modules_to_save": ["lm_head"]}])
def test_an_adapter_over_weights_that_are_brought_in_for_each_forward(
    make: Make, checkpoint: Path, options: dict[str, Any]
) -> None:
    offloaded = cpu_offload(base_model(checkpoint))
    assert offloaded.get_submodule("model.layers.0.mlp.up_proj").weight.device.type == "meta"
    adapters, folder = Adapters(offloaded), make(**options)
    adapters.load("a", folder, IDS)
    assert close(with_mix(adapters, (("a", 1.0),)), peft_logits(checkpoint, folder))


def random_layer(inputs: int, outputs: int) -> QuantizedLinear:
    layer = QuantizedLinear(inputs, outputs, bits=4, group_size=32)
    layer.perm = None
    layer.weight.data = torch.randint(0, 256, layer.weight.shape, dtype=torch.uint8)
    layer.scales.data = torch.rand(layer.scales.shape).half() * 0.05
    layer.zeros.data = torch.full(layer.scales.shape, 8.0).half()
    return layer


def test_the_quantized_layer_works_inside_peft_as_it_is() -> None:
    """For a training over quantized weights: one line tells PEFT to wrap our layer."""
    from peft import LoraConfig, inject_adapter_in_model
    from peft.tuners.lora import Linear

    config = LoraConfig(target_modules=["0"], r=4)
    config._register_custom_module({QuantizedLinear: Linear})
    model = inject_adapter_in_model(config, nn.Sequential(random_layer(64, 32)))
    model(torch.randn(2, 64)).sum().backward()
    (trained,) = [n for n, p in model.named_parameters() if p.grad is not None and p.grad.any()]
    assert trained == "0.lora_B.default.weight"  # B is zero, so A has no gradient yet


# -- what does nothing, and what is refused -----------------------------------------------


def edit(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> Path:
    file = folder / "adapter_model.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file)
    return folder


def configure(folder: Path, **settings: Any) -> Path:
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))
    return folder


def test_an_adapter_that_changes_nothing_is_called_out(adapters: Adapters, make: Make) -> None:
    untrained = edit(make(), lambda t: [t[k].zero_() for k in t if "lora_B" in k])
    info = adapters.load("a", untrained, IDS)
    assert info.change < 1e-6
    assert "changes nothing" in info.note
    assert "lora_B" in info.note
    weak = adapters.load("b", configure(make("b"), lora_alpha=1e-9), IDS)
    assert "too small" in weak.note


def test_an_adapter_that_makes_no_numbers_is_removed_again(adapters: Adapters, make: Make) -> None:
    broken = edit(make(), lambda t: next(iter(t.values())).fill_(float("nan")))
    with pytest.raises(AdapterError, match="NaN"):
        adapters.load("a", broken, IDS)
    assert adapters.names == frozenset()
    assert not adapters._hooked


def test_another_vocabulary_is_refused_with_both_numbers(adapters: Adapters, make: Make) -> None:
    extended = edit(
        make(modules_to_save=["embed_tokens", "lm_head"]),
        lambda t: t.update({k: torch.zeros(49954, 64) for k in t if "embed_tokens" in k}),
    )
    vocabulary = adapters._model.config.vocab_size
    with pytest.raises(AdapterError, match=f"49,954 tokens, and tiny has {vocabulary}"):
        adapters.load("a", extended, IDS)


def test_another_size_is_refused_with_the_layer_and_both_numbers(
    adapters: Adapters, make: Make
) -> None:
    def widen(tensors: dict[str, Tensor]) -> None:
        key = next(key for key in tensors if "q_proj.lora_A" in key)
        tensors[key] = torch.zeros(4, 5120)

    with pytest.raises(AdapterError, match=r"q_proj has 5,120 inputs, and that of tiny has 64"):
        adapters.load("a", edit(make(), widen), IDS)


def test_layers_that_the_model_lacks_are_counted(adapters: Adapters, make: Make) -> None:
    def rename(tensors: dict[str, Tensor]) -> None:
        for key in [key for key in tensors if "layers.1" in key]:
            tensors[key.replace("layers.1", "layers.7")] = tensors.pop(key)

    with pytest.raises(AdapterError, match=r"changes 7 layers that tiny does not have: model\.la"):
        adapters.load("a", edit(make(), rename), IDS)


def test_a_norm_is_not_replaced(adapters: Adapters, make: Make) -> None:
    saved = edit(make(), lambda t: t.update({"base_model.model.model.norm.weight": torch.ones(64)}))
    with pytest.raises(AdapterError, match=r"replaces model\.norm"):
        adapters.load("a", saved, IDS)


def test_a_pickle_is_refused(adapters: Adapters, make: Make) -> None:
    folder = make()
    torch.save({}, folder / "adapter_model.safetensors")
    with pytest.raises(UnsafeModelError, match="pickle"):
        adapters.load("a", folder, IDS)


def test_another_base_is_a_warning(adapters: Adapters, make: Make) -> None:
    other = configure(make(), base_model_name_or_path="meta-llama/Llama-2-13b-hf")
    info = adapters.load("a", other, IDS)
    assert info.note == "It was trained on meta-llama/Llama-2-13b-hf, and tiny is loaded."


# -- memory -------------------------------------------------------------------------------


def resident() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def test_two_hundred_swaps_leave_the_memory_as_it_was(adapters: Adapters, make: Make) -> None:
    # 1.9 MB each: kept, they would be 380 MB.
    folders = [make(name, r=256, target_modules=LINEAR) for name in ("a", "b")]
    for count in range(220):
        if count == 20:
            gc.collect()
            before = resident()
        adapters.load("swapped", folders[count % 2], IDS)
        adapters.unload("swapped")
    gc.collect()
    assert resident() - before < 50e6


def test_no_failure_leaves_anything(adapters: Adapters, make: Make) -> None:
    damaged = make()
    (damaged / "adapter_model.safetensors").write_bytes(b"\x20" + bytes(30))
    with pytest.raises(LanternError, match="damaged"):
        adapters.load("a", damaged, IDS)
    assert not adapters._hooked
