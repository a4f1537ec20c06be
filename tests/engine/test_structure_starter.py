"""A form on a model that has something to say."""

from __future__ import annotations

import json

import pytest

from modules.engine.worker.runner import TransformersRunner
from modules.engine.worker.scheduler import Scheduler
from modules.engine.worker.tokens import end_ids
from modules.loader.options import LoadOptions
from modules.loader.transformers_loader import load
from tests.engine.helpers import ask, serve
from tests.starter import provide_starter

pytestmark = pytest.mark.starter

CITY = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 20},
        "size": {"enum": ["small", "large"]},
    },
    "required": ["city", "size"],
    "additionalProperties": False,
}


def test_the_starter_fills_in_a_schema() -> None:
    loaded = load(provide_starter(), lambda stage, fraction: None, LoadOptions(device="cpu"))
    ends = end_ids(loaded.model.generation_config, loaded.tokenizer)
    scheduler = Scheduler(TransformersRunner(loaded.model, 0), loaded.tokenizer, ends, 2048)
    prompt = (
        "<|im_start|>user\nWhat is the capital of France? Answer in JSON.<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    form = {"structure": "json_schema", "structure_text": json.dumps(CITY)}
    reply = serve(scheduler, [ask(prompt=prompt, max_new_tokens=60, **form)])["a"]
    answer = json.loads(reply.text)
    assert reply.finished.reason == "stop"
    assert answer["city"] == "Paris" and answer["size"] in ("small", "large")
