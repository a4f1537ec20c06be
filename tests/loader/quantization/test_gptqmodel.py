"""GPTQModel as a loader, and as a reference: skipped where it is not installed."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from modules.errors import LoadFailedError
from modules.loader.options import LoadOptions
from modules.loader.quantization.linear import QuantizedLinear
from modules.loader.transformers_loader import load
from tests.loader.quantization.stored import Form, write_quantized

REAL = Path(__file__).parents[4] / "shared/models/SmolLM2-135M-Instruct-GPTQ"
THROUGH = LoadOptions(device="cpu", dtype="float32", loader="gptqmodel")
EXACT = LoadOptions(device="cpu", dtype="float32")


def quiet(stage: str, fraction: float) -> None:
    """Progress that nobody follows."""


@pytest.mark.skipif(find_spec("gptqmodel") is not None, reason="GPTQModel is installed")
def test_without_gptqmodel_its_loader_says_how_to_get_it(
    tmp_path: Path, tokenizer_files: Path
) -> None:
    write_quantized(tmp_path / "model", Form(), tokenizer_files)
    with pytest.raises(LoadFailedError, match="not installed") as caught:
        load(tmp_path / "model", quiet, THROUGH)
    assert "requirements-gptqmodel.txt" in caught.value.remedy


@pytest.mark.skipif(not REAL.is_dir(), reason="the real GPTQ model is not beside the checkout")
def test_a_model_that_gptqmodel_made_has_no_layer_left_out() -> None:
    model = load(REAL, quiet, EXACT).model
    assert sum(isinstance(module, QuantizedLinear) for module in model.modules()) == 210


@pytest.mark.timeout(600)
@pytest.mark.skipif(not REAL.is_dir(), reason="the real GPTQ model is not beside the checkout")
def test_gptqmodel_computes_the_same_logits() -> None:
    pytest.importorskip("gptqmodel")
    ids = torch.tensor([[504, 2364, 282, 4649, 314]])
    theirs, ours = load(REAL, quiet, THROUGH).model, load(REAL, quiet, EXACT).model
    assert not any(isinstance(module, QuantizedLinear) for module in theirs.modules())
    with torch.inference_mode():
        meant, got = theirs(input_ids=ids).logits.float(), ours(input_ids=ids).logits
    assert (got - meant).norm() / meant.norm() < 1e-2
