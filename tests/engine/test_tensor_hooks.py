"""Hooks of extensions in the engine: what they alter, and what becomes of one that fails."""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from modules.engine.protocol import (
    Event,
    ExtensionFailed,
    GenerateRequest,
    HookEntered,
    HookLeft,
    NextTokens,
    NextTokensFound,
    TensorHooks,
    WorkerExtension,
)
from modules.engine.worker.scheduler import Scheduler
from modules.engine.worker.tokens import encode
from modules.loader.transformers_loader import LoadedModel
from tests.engine.helpers import PROMPT, Reply, Spy, ask, collect

Make = Callable[..., Scheduler]
Reference = Callable[..., list[int]]
Hooked = Callable[..., TensorHooks]

LOGITS, TOKENS = "logits_processor_modifier", "tokenizer_modifier"
BAN = """
    from transformers import SuppressTokensLogitsProcessor

    params = {"banned": [0]}

    def logits_processor_modifier(processor_list, input_ids):
        processor_list.append(SuppressTokensLogitsProcessor(params["banned"]))
        return processor_list
"""
REPLACE = """
    import torch

    def tokenizer_modifier(state, prompt, input_ids, input_embeds):
        return prompt, torch.tensor([state["ids"]]), None
"""
FAULTS = {
    "raises": ("raise ValueError('no')", "raised ValueError: no"),
    "hangs": ("while True: pass", "did not return within"),
    "sleeps": ("import time; time.sleep(60)", "did not return within"),
    "gives another type": ("return 5", "returned"),
    "ends the program": ("import sys; sys.exit(3)", "tried to end the program"),
}


@pytest.fixture
def hooked(tmp_path: Path) -> Hooked:
    """Hooks from the source of a script."""

    def hooked(source: str, *hooks: str, name: str = "ours", **more: Any) -> TensorHooks:
        path = tmp_path / "extensions" / name / "script.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(source))
        state, params = more.pop("state", {}), more.pop("params", {})
        extension = WorkerExtension(name, str(path), hooks, params, **more)
        return TensorHooks((extension,), state, hook_s=0.2, import_s=5.0, grace_s=0.1)

    return hooked


def served(
    scheduler: Scheduler, *requests: GenerateRequest
) -> tuple[dict[str, Reply], list[Event]]:
    """The replies, and what was said of hooks."""
    replies: dict[str, Reply] = {}
    said: list[Event] = []
    for request in requests:
        scheduler.add(request)
    while scheduler.has_work:
        events = scheduler.step()
        about = [e for e in events if isinstance(e, HookEntered | HookLeft | ExtensionFailed)]
        said += about
        collect(replies, [event for event in events if event not in about])
    return replies, said


def failures(said: list[Event]) -> list[ExtensionFailed]:
    return [event for event in said if isinstance(event, ExtensionFailed)]


def test_a_processor_that_an_extension_adds_has_its_way(
    make_scheduler: Make, hooked: Hooked, spy: Spy, reference: Reference, tiny: LoadedModel
) -> None:
    ids = encode(tiny.tokenizer, PROMPT, False)
    plain = reference(ids, max_new_tokens=12)
    hooks = hooked(BAN, LOGITS, params={"banned": plain[:2]})
    _, said = served(make_scheduler(), dataclasses.replace(ask(), hooks=hooks))
    assert spy.replies["a"] == reference(ids, max_new_tokens=12, suppress_tokens=plain[:2])
    assert failures(said) == []
    assert sum(isinstance(e, HookEntered) for e in said) == sum(
        isinstance(e, HookLeft) for e in said
    )


def test_chats_without_hooks_are_what_they_were_beside_one_with(
    make_scheduler: Make, hooked: Hooked, spy: Spy, reference: Reference, tiny: LoadedModel
) -> None:
    plain = reference(encode(tiny.tokenizer, PROMPT, False), max_new_tokens=12)
    hooks = hooked(BAN, LOGITS, params={"banned": plain})
    served(make_scheduler(), dataclasses.replace(ask("with"), hooks=hooks), ask("without"))
    assert spy.replies["without"] == plain
    assert not set(spy.replies["with"]) & set(plain)


def test_a_tokenizer_modifier_gives_the_model_other_tokens(
    make_scheduler: Make, hooked: Hooked, spy: Spy, reference: Reference, tiny: LoadedModel
) -> None:
    other = encode(tiny.tokenizer, "rome is the capital", False)
    hooks = hooked(REPLACE, TOKENS, state={"ids": other})
    replies, _ = served(make_scheduler(), dataclasses.replace(ask(), hooks=hooks))
    assert spy.replies["a"] == reference(other, max_new_tokens=12)
    assert replies["a"].finished.usage.prompt_tokens == len(other)


def test_the_form_of_a_reply_outlives_a_processor_that_would_break_it(
    make_scheduler: Make, hooked: Hooked
) -> None:
    source = """
        def logits_processor_modifier(processor_list, input_ids):
            return [lambda ids, scores: scores.fill_(0.0)]
    """
    request = ask(structure="regex", structure_text="(ab){3}")
    request = dataclasses.replace(request, hooks=hooked(source, LOGITS))
    replies, said = served(make_scheduler(), request)
    assert replies["a"].text == "ababab"
    assert failures(said) == []


def test_what_may_follow_is_told_with_the_processors_of_extensions(
    make_scheduler: Make, hooked: Hooked
) -> None:
    source = """
        def logits_processor_modifier(processor_list, input_ids):
            return [lambda ids, scores: scores.index_fill(1, scores.argmax(1), -1e9)]
    """
    scheduler = make_scheduler()
    request = dataclasses.replace(ask(), hooks=hooked(source, LOGITS))
    scheduler.look(NextTokens(request, 2))
    events = [event for _ in range(20) for event in scheduler.step()]
    (found,) = [event for event in events if isinstance(event, NextTokensFound)]
    assert [token.after for token in found.tokens] == [0.0, 1.0]


@pytest.mark.parametrize(
    ("hook", "fault"),
    [
        *((hook, fault) for hook in (LOGITS, TOKENS, "a processor") for fault in FAULTS),
        *(("import", fault) for fault in ("raises", "hangs", "ends the program")),
    ],
)
def test_a_reply_is_as_without_the_extension_whose_hook(
    hook: str, fault: str, make_scheduler: Make, hooked: Hooked, spy: Spy, reference: Reference,
    tiny: LoadedModel,
) -> None:  # fmt: skip
    code, said_of_it = FAULTS[fault]
    if hook == "import":
        source = f"{code}\ndef {LOGITS}(processors, ids):\n    return processors\n"
    elif hook == "a processor":
        source = (
            f"def {LOGITS}(processors, ids):\n    return [*processors, broken]\n"
            f"def broken(ids, scores):\n    {code}\n"
        )
    else:
        source = f"def {hook}(*args):\n    {code}\n"
    hooks = hooked(source, LOGITS, TOKENS)
    hooks = dataclasses.replace(hooks, import_s=0.2 if hook == "import" else 5.0)
    scheduler = make_scheduler()
    replies, said = served(scheduler, dataclasses.replace(ask(), hooks=hooks))
    plain = reference(encode(tiny.tokenizer, PROMPT, False), max_new_tokens=12)
    assert spy.replies["a"] == plain
    assert replies["a"].finished.reason in ("stop", "length")
    (failed,) = failures(said)
    assert failed.name == "ours"
    assert failed.hook == (LOGITS if hook == "a processor" else hook)
    assert said_of_it in failed.error or "has a processor that returned" in failed.error
    _, again = served(scheduler, dataclasses.replace(ask("b"), hooks=hooks))
    assert again == [], "it is not called again"


def test_embeddings_are_refused_in_one_sentence(make_scheduler: Make, hooked: Hooked) -> None:
    source = f"def {TOKENS}(state, prompt, ids, embeds):\n    return prompt, ids, ids.float()\n"
    _, said = served(make_scheduler(), dataclasses.replace(ask(), hooks=hooked(source, TOKENS)))
    assert [f.error for f in failures(said)] == [
        "returned input_embeds, which Lantern cannot compute from"
    ]


@pytest.mark.parametrize(
    "tokens", ["ids[0]", "ids[:, :0]", "ids + 10000", "ids - 10000", "ids.float()"]
)
def test_tokens_that_a_model_cannot_read_never_reach_it(
    tokens: str, make_scheduler: Make, hooked: Hooked
) -> None:
    source = f"def {TOKENS}(state, prompt, ids, embeds):\n    return prompt, {tokens}, None\n"
    replies, said = served(
        make_scheduler(), dataclasses.replace(ask(), hooks=hooked(source, TOKENS))
    )
    assert len(failures(said)) == 1
    assert replies["a"].tokens


@pytest.mark.parametrize("value", ["float('nan')", "float('-inf')"])
def test_scores_that_leave_nothing_to_choose_are_the_extensions_fault(
    value: str, make_scheduler: Make, hooked: Hooked, spy: Spy, reference: Reference,
    tiny: LoadedModel,
) -> None:  # fmt: skip
    source = f"def {LOGITS}(p, i):\n    return [lambda ids, s: s.fill_({value})]\n"
    _, said = served(make_scheduler(), dataclasses.replace(ask(), hooks=hooked(source, LOGITS)))
    assert "leave no token to choose" in failures(said)[0].error
    plain = reference(encode(tiny.tokenizer, PROMPT, False), max_new_tokens=12)
    assert spy.replies["a"] == plain


def test_an_edited_script_counts_from_the_next_time_it_is_switched_on(
    make_scheduler: Make, hooked: Hooked, spy: Spy, reference: Reference, tiny: LoadedModel
) -> None:
    scheduler = make_scheduler()
    broken = hooked("1 / 0", LOGITS, version=1)
    served(scheduler, dataclasses.replace(ask("first"), hooks=broken))
    mended = hooked(BAN, LOGITS, version=2, params={"banned": spy.replies["first"]})
    _, said = served(scheduler, dataclasses.replace(ask("second"), hooks=mended))
    assert failures(said) == []
    assert not set(spy.replies["second"]) & set(spy.replies["first"])


def test_long_replies_keeps_a_reply_from_ending_early(
    make_scheduler: Make, spy: Spy, tiny: LoadedModel
) -> None:
    path = Path(__file__).parents[2] / "extensions" / "long_replies" / "script.py"
    params = {"min_length": 10, "min_lines": 0, "ban_newlines": False}
    hooks = TensorHooks((WorkerExtension("long_replies", str(path), (LOGITS,), params),))
    eager = ask(max_new_tokens=30, logit_bias=(f"{tiny.tokenizer.eos_token_id}:80",))
    served(make_scheduler(), eager, dataclasses.replace(eager, id="long", hooks=hooks))
    assert len(spy.replies["a"]) == 0
    assert len(spy.replies["long"]) == 10


def test_long_replies_asks_for_lines_too(make_scheduler: Make, spy: Spy, tiny: LoadedModel) -> None:
    path = Path(__file__).parents[2] / "extensions" / "long_replies" / "script.py"
    params = {"min_length": 0, "min_lines": 2, "ban_newlines": False}
    hooks = TensorHooks((WorkerExtension("long_replies", str(path), (LOGITS,), params),))
    (newline,) = encode(tiny.tokenizer, "\n", False)
    biases = (f"{tiny.tokenizer.eos_token_id}:90", f"{newline}:80")
    request = ask(max_new_tokens=30, logit_bias=biases)
    served(make_scheduler(), dataclasses.replace(request, hooks=hooks))
    assert spy.replies["a"] == [newline, newline]
