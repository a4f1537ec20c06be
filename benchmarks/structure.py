"""What it costs to hold a reply to a form: compiling it, and each token.

    python benchmarks/structure.py [MODEL] [--tokens 64] [--runs 5]

Each form is compiled afresh, and then followed by drawing at random among what it allows, which
leaves it sooner than a model does. The last rows are decode speeds of the model on the processor,
with a form that allows any text and without one, in turn; the median of each pair's ratio. Prints
rows for benchmarks/RESULTS.md.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import torch
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from modules.engine.params import SamplingParams
from modules.engine.protocol import Finished, GenerateRequest
from modules.engine.worker.runner import TransformersRunner
from modules.engine.worker.scheduler import Scheduler
from modules.engine.worker.structure.structure import Structures
from modules.engine.worker.tokens import end_ids
from modules.loader.options import LoadOptions
from modules.loader.transformers_loader import load

_PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "minItems": 1},
    },
    "required": ["name", "age", "tags"],
    "additionalProperties": False,
}
_JSON_GRAMMAR = r"""root   ::= object
value  ::= object | array | string | number | ("true" | "false" | "null") ws
object ::= "{" ws (string ":" ws value ("," ws string ":" ws value)*)? "}" ws
array  ::= "[" ws (value ("," ws value)*)? "]" ws
string ::= "\"" ([^"\\\x7F\x00-\x1F] | "\\" (["\\bfnrt] | "u" [0-9a-fA-F]{4}))* "\"" ws
number ::= "-"? ([0-9] | [1-9] [0-9]{0,15}) ("." [0-9]+)? ws
ws     ::= | " " | "\n" [ \t]{0,20}
"""
_FORMS: dict[str, tuple[str, str]] = {
    "any JSON object": ("json", ""),
    "schema of three fields": ("json_schema", json.dumps(_PERSON)),
    "enumeration of 2,500 words, 52 KB": (
        "json_schema",
        json.dumps({"enum": [f"word {n:06d} {n * 7919 % 100_003}" for n in range(2500)]}),
    ),
    "object of 1,000 optional fields, 36 KB": (
        "json_schema",
        json.dumps({"properties": {f"p{n}": {"pattern": f"^[a-z]{{{n}}}$"} for n in range(1000)}}),
    ),
    "expression": ("regex", r"\d{3}-\d{4}( [a-z]+){1,20}"),
    "grammar without recursion": ("gbnf", 'root ::= ("- " line "\\n")+\nline ::= [^\\n]{1,80}'),
    "llama.cpp's grammar of JSON": ("gbnf", _JSON_GRAMMAR),
}


def follow(structures: Structures, kind: str, text: str, options: Any) -> tuple[float, list[float]]:
    """Seconds to compile, and for each token."""
    params = SamplingParams.neutral(structure=kind, structure_text=text)
    begun = time.perf_counter()
    structure = structures.begin(params, 1, frozenset({options.end}))
    assert structure is not None
    structure.require()
    compiled, spent = time.perf_counter() - begun, []
    rng, ids, logits = random.Random(1), [0], torch.zeros(options.vocabulary)
    while len(spent) < options.tokens:
        begun = time.perf_counter()
        allowed = structure.apply(logits, ids)
        spent.append(time.perf_counter() - begun)
        choices = [i for i in allowed.isfinite().nonzero().flatten().tolist() if i != options.end]
        if not choices:
            break
        ids.append(rng.choice(choices))
    return compiled, spent


def decode_speed(scheduler: Scheduler, params: SamplingParams) -> float:
    """Tokens a second of one reply."""
    scheduler.add(GenerateRequest("a", "Once upon a time", params))
    while scheduler.has_work:
        for event in scheduler.step():
            if isinstance(event, Finished):
                return event.usage.tokens_per_s
    raise SystemExit("The reply failed.")


def speeds(options: Any) -> None:
    loaded = load(options.model, lambda stage, fraction: None, LoadOptions(device="cpu"))
    ends = end_ids(loaded.model.generation_config, loaded.tokenizer)
    scheduler = Scheduler(TransformersRunner(loaded.model, 0), loaded.tokenizer, ends, 2048)
    free = SamplingParams.neutral(
        ban_eos_token=True, max_new_tokens=options.tokens, seed=1, temperature=0.7
    )
    forms = {
        "expression": free.replace(structure="regex", structure_text="(?s:.)*"),
        "recursive grammar": free.replace(structure="gbnf", structure_text='root ::= . root | ""'),
    }
    print("\n| form | tok/s without | tok/s with | ratio |\n|---|---|---|---|")
    for name, formed in forms.items():
        decode_speed(scheduler, formed)
        pairs = [
            (decode_speed(scheduler, free), decode_speed(scheduler, formed))
            for _ in range(options.runs)
        ]
        without, held = (statistics.median(column) for column in zip(*pairs, strict=True))
        ratio = statistics.median(b / a for a, b in pairs)
        print(f"| {name} | {without:.1f} | {held:.1f} | {ratio:.2f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    default = ROOT / "models" / "SmolLM2-135M-Instruct"
    parser.add_argument("model", type=Path, nargs="?", default=default)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(options.model)
    options.end, options.vocabulary = tokenizer.eos_token_id, len(tokenizer)
    structures = Structures(tokenizer)
    first, _ = follow(structures, "regex", "first", options)
    print(f"The first form of a model, with the library and the vocabulary: {first:.2f} s.\n")
    print("| form | compiled in ms | ms a token, median | at most |\n|---|---|---|---|")
    for name, (kind, text) in _FORMS.items():
        compiled, spent = follow(structures, kind, text, options)
        middle, most = statistics.median(spent) * 1e3, max(spent) * 1e3
        print(f"| {name} | {compiled * 1e3:.1f} | {middle:.2f} | {most:.2f} |")
    speeds(options)


if __name__ == "__main__":
    main()
