"""Two processes that share the weights of one base learn what one process does."""

from __future__ import annotations

import gc
import itertools
import json
import multiprocessing
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from torch import Tensor
from torch.distributed.tensor import DTensor
from transformers import AutoModelForCausalLM

from modules.training.config import TrainingConfig
from modules.training.events import Evaluated, Failed, Sampled, Saved, Scored, Started, Step
from modules.training.masking import Masked
from modules.training.run import main
from modules.training.trainer.base import load_base
from modules.training.trainer.batches import Batch, collate
from modules.training.trainer.distributed import join
from modules.training.trainer.lora import add_lora
from modules.training.trainer.objective import Objective
from modules.training.trainer.sharded import shard
from tests.training.trainer.runs import Place, make_base
from tests.training.trainer.test_distributed import together

SHARDED = {"sharding": "on", "micro_batch_size": 2}
STEPS = {"max_steps": 5, "eval_split": 0.25, "eval_steps": 2}


@pytest.fixture
def untied(place: Place) -> Place:
    """Where the base has a head of its own."""
    make_base(place.root / "models" / "untied", tie_word_embeddings=False, num_hidden_layers=3)
    return place


def adapter(place: Place, run: str) -> dict[str, Tensor]:
    """What the last checkpoint of a run holds."""
    last = max((place.folder(run) / "checkpoints").glob("step-*"))
    return load_file(last / "adapter_model.safetensors")


def same_losses(place: Place, one: str, two: str) -> None:
    steps, others = place.told(Step, one), place.told(Step, two)
    assert [s.loss for s in others] == pytest.approx([s.loss for s in steps], rel=1e-5)
    assert [s.grad_norm for s in others] == pytest.approx([s.grad_norm for s in steps], rel=1e-4)
    evaluated = [[e.loss for e in place.told(Evaluated, run)] for run in (one, two)]
    assert evaluated[1] == pytest.approx(evaluated[0], rel=1e-5)


@pytest.mark.parametrize(
    "config",
    [
        {"base": "untied"},
        {"base": "untied", "gradient_checkpointing": "on", "batching": "sorted"},
        {"base": "tiny", "use_dora": True},
        {"base": "untied", "train_embeddings": True, "train_head": True},
        {"base": "untied", "target_modules": ["q_proj", "lm_head"]},
    ],
    ids=["untied", "checkpointed", "tied", "whole", "head"],
)
def test_two_that_share_the_base_have_the_losses_and_the_lora_of_one(
    untied: Place, config: dict[str, Any]
) -> None:
    untied.steps("one", gradient_accumulation_steps=2, micro_batch_size=2, **STEPS, **config)
    together(untied, "two", **SHARDED, **STEPS, **config)
    same_losses(untied, "one", "two")
    assert "spread over 2 processes" in untied.told(Started, "two")[0].how
    one, two = adapter(untied, "one"), adapter(untied, "two")
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=1e-3, atol=1e-4)


def test_a_step_that_leaves_one_without_work_is_the_same(untied: Place) -> None:
    config = {"base": "untied", "batching": "padded", "eval_split": 0.3, "epochs": 1}
    untied.steps("one", micro_batch_size=1, gradient_accumulation_steps=6, **config)
    shared = {**SHARDED, "micro_batch_size": 1, "gradient_accumulation_steps": 3}
    together(untied, "two", **shared, **config)
    same_losses(untied, "one", "two")
    assert len(untied.told(Step, "two")) == 3, "17 rows, 6 at a time"


def test_samples_and_scores_are_answered_by_all_together(untied: Place) -> None:
    held_out = untied.root / "held-out.jsonl"
    held_out.write_text(json.dumps({"prompt": "What is 3?", "pattern": "."}) + "\n")
    config = {"base": "untied", "sample_prompts": ["What is 1?", "What is very 6?"],
              "sample_tokens": 6, "held_out": str(held_out), "max_steps": 2}  # fmt: skip
    untied.steps("one", gradient_accumulation_steps=2, micro_batch_size=2, **config)
    together(untied, "two", **SHARDED, **config)
    same_losses(untied, "one", "two")
    replies = [[s.reply for s in untied.told(Sampled, run)] for run in ("one", "two")]
    assert replies[0] == replies[1] and len(replies[0]) == 4
    assert [s.right for s in untied.told(Scored, "two")] == [1, 1]


def test_a_sharded_run_goes_on_sharded_and_by_one(untied: Place) -> None:
    config = {"base": "untied", "save_steps": 2, "epochs": 1}
    whole = untied.steps("one", micro_batch_size=2, gradient_accumulation_steps=2, **config)
    for run in ("two", "alone"):
        together(untied, run, **SHARDED, **config, stop_at_loss=10.0)
        assert [saved.step for saved in untied.told(Saved, run)] == [1]
    together(untied, "two", "--resume", **SHARDED, **config)
    assert untied.run("alone", "--resume", **SHARDED, **config) == 0
    for run in ("two", "alone"):
        losses = list(untied.losses(run).values())
        assert losses == pytest.approx([s.loss for s in whole], rel=1e-5)


def test_the_lora_of_a_sharded_run_loads_in_plain_peft(untied: Place) -> None:
    together(untied, "two", **SHARDED, base="untied", max_steps=2)
    model = AutoModelForCausalLM.from_pretrained(untied.root / "models" / "untied")
    over = PeftModel.from_pretrained(model, untied.root / "loras" / "made")
    ids = torch.arange(1, 9)[None]
    with torch.no_grad():
        changed = over(ids).logits
        with over.disable_adapter():
            assert not torch.allclose(over(ids).logits, changed)


def enter(rank: int, port: int) -> None:
    """Make this process one of two, as a launcher does."""
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    torch.set_num_threads(1)


def statuses(work: Callable[[int, int, Any], None], about: object) -> list[int | None]:
    """The exit statuses of two processes that do it together."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    context = multiprocessing.get_context("spawn")
    both = [context.Process(target=work, args=(rank, port, about)) for rank in (0, 1)]
    for process in both:
        process.start()
    for process in both:
        process.join(120)
        process.kill()
    return [process.exitcode for process in both]


def hold_a_share(rank: int, port: int, folder: Path) -> None:
    """Spread a base over two processes, learn once, and write down what this one holds."""
    enter(rank, port)
    world = join()
    config = TrainingConfig(target_modules=("q_proj",), lora_r=1)
    base = load_base(folder, config, world.device, lambda text, fraction: None, aside=True)
    lora = add_lora(base, config)
    told = {"whole": held()}
    shard(lora.model, world)
    told["share"] = held()
    objective = Objective(lora.model, base.dtype)
    row = Masked(tuple(range(1, 40)), (True,) * 39)
    loss = objective(collate([row], packed=True, device=world.device))
    torch.autograd.backward(loss)
    del loss
    for _ in range(8):  # gloo's threads hold what they gathered until they are at something else
        world.sum(0.0)
    told["after"] = held()
    (folder / f"{rank}.json").write_text(json.dumps(told))
    world.leave()
    os._exit(0)  # see modules/training/run.py


def held() -> int:
    """Bytes of all tensors that live."""
    gc.collect()
    storages = {}
    for thing in gc.get_objects():
        if issubclass(type(thing), Tensor):
            tensor = thing.to_local() if isinstance(thing, DTensor) else thing
            storage = tensor.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


def test_each_process_holds_half_of_the_base(tmp_path: Path) -> None:
    folder = make_base(tmp_path / "base", tie_word_embeddings=False, hidden_size=128,
                       intermediate_size=512)  # fmt: skip
    assert statuses(hold_a_share, folder) == [0, 0]
    for rank in (0, 1):
        told = json.loads((folder / f"{rank}.json").read_text())
        assert told["share"] == pytest.approx(told["whole"] / 2, rel=0.05)
        assert told["after"] == pytest.approx(told["whole"] / 2, rel=0.05)


def run_beside(rank: int, port: int, arguments: list[str]) -> None:
    """One of two processes; the memory of the second ends at its second step."""
    enter(rank, port)
    if rank == 1:
        whole = Objective.__call__
        calls = itertools.count()

        def short(self: Objective, batch: Batch) -> Tensor:
            if next(calls) == 1:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
            return whole(self, batch)

        Objective.__call__ = short  # type: ignore[method-assign]
    os._exit(main(arguments))


def test_a_lack_of_memory_in_one_process_ends_the_run_with_a_sentence(untied: Place) -> None:
    arguments = untied.arguments("two", **SHARDED, base="untied", max_steps=3)
    assert statuses(run_beside, arguments) == [1, 1]
    assert len(untied.told(Step, "two")) == 1
    told = [failed.message for failed in untied.told(Failed, "two")]
    assert any("Memory ran out in one of the processes" in message for message in told)
