"""Replies that keep to a form, whatever the weights want to say."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import jsonschema
import pytest

from modules.engine.protocol import NextTokens
from modules.engine.worker.scheduler import Scheduler
from modules.engine.worker.structure import structure as module
from modules.loader.transformers_loader import LoadedModel
from tests.engine.helpers import Reply, ask, collect, serve
from tests.engine.structure_cases import random_regex, random_schema

Run = Callable[..., dict[str, Reply]]
Make = Callable[..., Scheduler]

PERSON = json.dumps(
    {
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 6},
            "mood": {"enum": ["glad", "sad"]},
        },
        "required": ["name", "mood"],
        "additionalProperties": False,
    }
)
WILD: dict[str, Any] = {"do_sample": True, "temperature": 1.0, "max_new_tokens": 120}
GREEDY: dict[str, Any] = {"do_sample": False, "max_new_tokens": 120}
# Written out, these rules are 2^60 times the last one.
LAUGHS = "root ::= a0\n" + "".join(f"a{i} ::= a{i + 1} a{i + 1}\n" for i in range(60))


def schema(text: str, **options: Any) -> dict[str, Any]:
    return {"structure": "json_schema", "structure_text": text, **options}


def regex(text: str, **options: Any) -> dict[str, Any]:
    return {"structure": "regex", "structure_text": text, **options}


def gbnf(text: str, **options: Any) -> dict[str, Any]:
    return {"structure": "gbnf", "structure_text": text, **options}


def rest_of(scheduler: Scheduler) -> list[Any]:
    events: list[Any] = []
    while scheduler.has_work:
        events += scheduler.step()
    return events


@pytest.mark.parametrize(("chance", "count"), [(GREEDY, 15), (WILD, 50)])
def test_every_reply_validates_against_its_schema(
    make_scheduler: Make, chance: dict[str, Any], count: int
) -> None:
    schemas = {f"{seed}": random_schema(seed) for seed in range(count)}
    requests = [
        ask(key, **schema(json.dumps(schemas[key])), **chance, seed=int(key)) for key in schemas
    ]
    replies = serve(make_scheduler(), requests)
    whole = {key: reply for key, reply in replies.items() if reply.finished.reason == "stop"}
    for key, reply in whole.items():
        jsonschema.validate(json.loads(reply.text), schemas[key])
    assert len(whole) > count / 2


@pytest.mark.parametrize(("chance", "count"), [(GREEDY, 15), (WILD, 40)])
def test_every_reply_matches_its_expression(
    make_scheduler: Make, chance: dict[str, Any], count: int
) -> None:
    texts = {f"{seed}": random_regex(seed) for seed in range(count)}
    requests = [ask(key, **regex(texts[key]), **chance, seed=int(key)) for key in texts]
    replies = serve(make_scheduler(), requests)
    for key, reply in replies.items():
        assert reply.finished.reason == "stop"
        assert re.fullmatch(texts[key], reply.text, re.ASCII), (texts[key], reply.text)


@pytest.mark.parametrize("seed", range(3))
def test_any_json_is_an_object(run: Run, seed: int) -> None:
    reply = run(ask(structure="json", seed=seed, **{**WILD, "max_new_tokens": 160}))["a"]
    if reply.finished.reason == "stop":
        assert isinstance(json.loads(reply.text), dict)
    else:
        assert reply.text.startswith("{")


@pytest.mark.parametrize(
    "sampling",
    [
        {"top_k": 1},
        {"top_p": 0.01},
        {"min_p": 0.9},
        {"typical_p": 0.1},
        {"tfs": 0.1},
        {"top_a": 0.5},
        {"top_n_sigma": 0.5},
        {"epsilon_cutoff": 9, "eta_cutoff": 20},
        {"mirostat_mode": 1},
        {"mirostat_mode": 2, "mirostat_tau": 0.1},
        {"xtc_probability": 1, "xtc_threshold": 0},
        {"adaptive_target": 0.5},
        {"smoothing_factor": 2, "dynamic_temperature": True, "dynatemp_high": 3},
        {"repetition_penalty": 1.5, "presence_penalty": 2, "dry_multiplier": 5},
        {"encoder_repetition_penalty": 0.8, "no_repeat_ngram_size": 1},
        {"sampler_priority": ["top_k", "temperature"], "top_k": 1, "temperature": 5},
        {"logit_bias": ["2:100"]},
        {"ban_eos_token": True, "min_length": 2000},
        {"prompt_lookup_num_tokens": 5},
        {"guidance_scale": 1.5},
        {"do_sample": False, "penalty_alpha": 0.6, "top_k": 4},
        {"do_sample": False, "num_beams": 3},
    ],
    ids=lambda sampling: "+".join(sampling),
)
def test_sampling_chooses_among_what_is_allowed(run: Run, sampling: dict[str, Any]) -> None:
    text = "(the capital|rome) (is){2} [0-9]{3}"
    reply = run(ask(**{**WILD, **regex(text, seed=1), **sampling}))["a"]
    assert re.fullmatch(text, reply.text)
    assert reply.finished.reason == "stop"


def test_a_ban_gives_way_where_nothing_else_is_allowed(run: Run, tiny: LoadedModel) -> None:
    ids = tiny.tokenizer("paris")["input_ids"] + tiny.tokenizer("p")["input_ids"]
    bans = [str(i) for i in ids]
    assert run(ask(**regex("paris"), custom_token_bans=bans))["a"].text == "paris"


def test_a_complete_reply_may_go_on_where_the_end_is_banned(run: Run) -> None:
    ends = run(ask(**regex("a{2}(a*)", max_new_tokens=30, logit_bias=["2:100"])))["a"]
    assert ends.text == "aa" and ends.finished.reason == "stop"
    banned = regex("a{2}(a*)", max_new_tokens=30, logit_bias=["2:100"], ban_eos_token=True)
    assert run(ask(**banned))["a"].finished.reason == "length"


def test_the_end_is_not_allowed_before_the_form_is_complete(run: Run) -> None:
    reply = run(ask(**regex("[a-z]{20}", max_new_tokens=60, logit_bias=["2:100"])))["a"]
    assert len(reply.text) == 20


def test_a_reply_that_is_cut_says_so(run: Run) -> None:
    reply = run(ask(**regex("[a-z]{400}", max_new_tokens=5)))["a"]
    assert reply.finished.reason == "length" and reply.tokens == 5


def test_a_seed_repeats_a_formed_reply(run: Run) -> None:
    replies = run(*(ask(key, **{**WILD, **schema(PERSON, seed=4)}) for key in "ab"))
    assert replies["a"].text == replies["b"].text


def test_requests_with_other_forms_and_none_are_served_together(run: Run) -> None:
    alone = run(ask("plain", max_new_tokens=30))["plain"].text
    together = run(
        ask("schema", **schema(PERSON, **WILD, seed=1)),
        ask("plain", max_new_tokens=30),
        ask("digits", **regex("[0-9]{9}")),
        ask("grammar", **gbnf('root ::= "(" root ")" | "x"', **WILD, seed=3)),
    )
    jsonschema.validate(json.loads(together["schema"].text), json.loads(PERSON))
    assert together["plain"].text == alone
    assert re.fullmatch("[0-9]{9}", together["digits"].text)
    depth = together["grammar"].text.count("(")
    assert together["grammar"].text == "(" * depth + "x" + ")" * depth


def test_stop_strings_end_a_formed_reply(run: Run) -> None:
    reply = run(ask(**regex("[a-z]{3}-[0-9]{9}", stop=["-"])))["a"]
    assert re.fullmatch("[a-z]{3}", reply.text)


def test_logprobs_are_those_of_the_model_alone(run: Run) -> None:
    free = run(ask(logprobs=3, max_new_tokens=1))["a"].chunks[0].logprobs[0]
    formed = run(ask(logprobs=3, **regex("[0-9]")))["a"].chunks[0].logprobs[0]
    assert [text for text, _ in formed.top] == [text for text, _ in free.top]
    assert dict(formed.top) == pytest.approx(dict(free.top), abs=1e-5)
    assert formed.text.isdigit()


def test_characters_of_several_tokens_are_whole(run: Run) -> None:
    reply = run(ask(**regex("[😀-😎é]{4}", **WILD, seed=2)))["a"]
    assert re.fullmatch("[😀-😎é]{4}", reply.text)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (schema('{\n  "type": }'), "line 2, column 11"),
        (schema('{"type": "strin"}'), "Invalid type: strin"),
        (schema('{"not": {}}'), '"not"'),
        (schema("[]"), "not an object"),
        (schema('{"minimum": NaN}'), "NaN"),
        (schema("[" * 60_000), "JSON"),
        (schema('{"type": "integer", "multipleOf": 999983}'), "multipleOf 999983"),
        (schema('{"$ref": "http://example.com/schema.json"}'), "example.com"),
        (schema('{"type": "string", "pattern": "(a"}'), "unclosed group"),
        (schema(""), "has no text"),
        (schema(json.dumps({"anyOf": [{"$ref": "#"}] * 4000})), "4,000 parts"),
        (schema('{"const": "\ud83d'), "line 1"),
        (regex("(a"), "unclosed group, at '(a'"),
        (regex("a(?=b)"), "look-ahead"),
        (regex("(" * 30_000), "unclosed group"),
        (gbnf("root ::= a\n"), "no rule a (line 1)"),
        (gbnf('a ::= "x"\n\nroot ::= [b'), "(line 3)"),
        (gbnf(LAUGHS), "no rule a60"),
        (gbnf("root ::= " + "(" * 60_000), "nested deeper than 32"),
    ],
    ids=lambda case: None if isinstance(case, str) else case["structure_text"][:20],
)
def test_a_damaged_form_is_refused_in_a_sentence(
    run: Run, options: dict[str, Any], said: str
) -> None:
    reply = run(ask(**options))["a"]
    assert reply.failed.kind == "InvalidInputError"
    assert reply.failed.field == "structure_text"
    assert said in reply.failed.message
    assert "\n" not in reply.failed.message
    assert not reply.chunks


def test_a_grammar_that_doubles_itself_is_not_written_out(run: Run) -> None:
    assert set(run(ask(**gbnf(LAUGHS + 'a60 ::= "x"')))["a"].text) == {"x"}


def test_what_takes_too_long_is_given_up_and_others_go_on(
    make_scheduler: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = threading.Event()
    monkeypatch.setattr(module, "_COMPILE_S", 0.05)
    monkeypatch.setattr(module, "compile_structure", lambda *about: release.wait(20))
    replies = serve(make_scheduler(), [ask("slow", **regex("a")), ask("plain")])
    release.set()
    assert "not ready after" in replies["slow"].failed.message
    assert replies["plain"].finished.reason in ("stop", "length")


def test_others_are_served_while_a_form_is_compiled(
    make_scheduler: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = threading.Event()
    compiled = module.compile_structure

    def slow(*about: Any) -> Any:
        release.wait(20)
        return compiled(*about)

    monkeypatch.setattr(module, "compile_structure", slow)
    scheduler, replies = make_scheduler(), dict[str, Reply]()
    for request in (ask("formed", **regex("[0-9]{3}")), ask("plain")):
        scheduler.add(request)
    while "plain" not in replies or replies["plain"].end is None:
        collect(replies, scheduler.step())
    assert "formed" not in replies
    release.set()
    collect(replies, rest_of(scheduler))
    assert re.fullmatch("[0-9]{3}", replies["formed"].text)


def test_a_form_that_is_compiled_may_be_cancelled(
    make_scheduler: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = threading.Event()
    monkeypatch.setattr(module, "compile_structure", lambda *about: release.wait(20))
    scheduler = make_scheduler()
    scheduler.add(ask("a", **regex("a")))
    scheduler.step()
    scheduler.cancel("a")
    replies = serve(scheduler, [])
    release.set()
    assert replies["a"].finished.reason == "cancelled"


def test_a_form_is_compiled_once(make_scheduler: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled, seen = module.compile_structure, []

    def counted(kind: str, text: str, tokenizer: Any) -> Any:
        seen.append(text)
        return compiled(kind, text, tokenizer)

    monkeypatch.setattr(module, "compile_structure", counted)
    scheduler = make_scheduler()
    for _ in range(3):
        serve(scheduler, [ask(**regex("[0-9]{3}"))])
    assert seen == ["[0-9]{3}"]


def test_the_next_tokens_are_those_that_are_allowed(make_scheduler: Make) -> None:
    scheduler = make_scheduler()
    for _ in range(2):
        scheduler.look(NextTokens(ask(**regex("[0-9]{3}", do_sample=True))))
        (answer,) = rest_of(scheduler)
        drawn = [token.text for token in answer.tokens if token.after > 0]
        assert drawn and all(text.isdigit() for text in drawn)


def test_without_a_form_the_library_is_not_imported() -> None:
    code = """
import sys
from modules.engine.params import SamplingParams
from modules.engine.worker.scheduler import Structures
assert Structures(None).begin(SamplingParams.neutral(), 1, frozenset()) is None
print("llguidance" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "False", done.stderr
