"""Chat templates: the same text as transformers, and no harm from a hostile one."""

from __future__ import annotations

import sys

import pytest

from modules.chat.messages import Message
from modules.chat.sandbox import Program
from modules.chat.template import render
from modules.chat.template_library import PLAIN
from modules.engine.fake import CHATML
from modules.errors import TemplateError

LLAMA_2 = (
    "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}"
    "{% set system_message = messages[0]['content'] %}{% else %}"
    "{% set loop_messages = messages %}{% set system_message = false %}{% endif %}"
    "{% for message in loop_messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}"
    "{% endif %}{% if loop.index0 == 0 and system_message != false %}"
    "{% set content = '<<SYS>>\\n' + system_message + '\\n<</SYS>>\\n\\n' + message['content'] %}"
    "{% else %}{% set content = message['content'] %}{% endif %}"
    "{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}"
    "{{ ' '  + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
)
LLAMA_3 = (
    "{% set loop_messages = messages %}{% for message in loop_messages %}"
    "{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'"
    "+ message['content'] | trim + '<|eot_id|>' %}"
    "{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}"
    "{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
LLAMA_3_DATED = """{{- bos_token }}
{%- if not date_string is defined %}
    {%- if strftime_now is defined %}
        {%- set date_string = strftime_now("%d %b %Y") %}
    {%- else %}
        {%- set date_string = "26 Jul 2024" %}
    {%- endif %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\nToday Date: " + date_string + "<|eot_id|>" }}
{%- for message in messages %}
    {%- if not (message.role == 'ipython' or 'tool_calls' in message) %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}
        {{- message['content'] | trim + '<|eot_id|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""
MISTRAL = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}"
    "{% endif %}{% if message['role'] == 'user' %}"
    "{{ '[INST] ' + message['content'] + ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}{{ message['content'] + eos_token}}"
    "{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}"
    "{% endfor %}"
)
ZEPHYR = """{% for message in messages %}
{% if message['role'] == 'user' %}
{{ '<|user|>\n' + message['content'] + eos_token }}
{% elif message['role'] == 'system' %}
{{ '<|system|>\n' + message['content'] + eos_token }}
{% elif message['role'] == 'assistant' %}
{{ '<|assistant|>\n'  + message['content'] + eos_token }}
{% endif %}
{% if loop.last and add_generation_prompt %}
{{ '<|assistant|>' }}
{% endif %}
{% endfor %}
"""
MARKED = """{% for message in messages %}
{% if message.role == 'assistant' %}{% generation %}{{ message | tojson }}{% endgeneration %}

{% else %}{{ message | tojson(indent=2) }}{% if loop.length > 99 %}{% break %}{% endif %}
{% endif %}{% endfor %}"""
TEMPLATES = {
    "chatml": CHATML,
    "llama-2": LLAMA_2,
    "llama-3": LLAMA_3,
    "llama-3.1": LLAMA_3_DATED,
    "marked": MARKED,
    "mistral": MISTRAL,
    "zephyr": ZEPHYR,
}
SPECIAL = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}

SYSTEM = Message("system", "Answer in verse.")
CHAT = [
    Message("user", "Who are <you> & why?"),
    Message("assistant", "Ich bin's — 你好."),
    Message("user", "  Two\n\nlines 'quoted'  "),
    Message("assistant", "{{ not_a_template }}"),
    Message("user", "Bye"),
]


def reference(
    template: str,
    messages: list[Message],
    generate: bool = True,
    continue_final: bool = False,
) -> str:
    """What `apply_chat_template` of transformers makes of it."""
    utilities = pytest.importorskip("transformers.utils.chat_template_utils")
    rendered, _ = utilities.render_jinja_template(
        conversations=[[{"role": m.role, "content": m.content} for m in messages]],
        chat_template=template,
        add_generation_prompt=generate,
        continue_final_message=continue_final,
        **SPECIAL,
    )
    return str(rendered[0])


def ours(template: str, messages: list[Message], **options: bool) -> str:
    return render(template, messages, special_tokens=SPECIAL, **options)


# -- the same as transformers ------------------------------------------------------------


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
@pytest.mark.parametrize("generate", [True, False])
def test_three_turns_equal_transformers(template: str, generate: bool) -> None:
    assert ours(template, CHAT, add_generation_prompt=generate) == reference(
        template, CHAT, generate
    )


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
def test_a_system_message_equals_transformers_where_the_template_takes_it(template: str) -> None:
    if template is not MISTRAL:
        assert ours(template, [SYSTEM, *CHAT]) == reference(template, [SYSTEM, *CHAT])


@pytest.mark.parametrize("template", [CHATML, LLAMA_2, LLAMA_3, LLAMA_3_DATED, MISTRAL, ZEPHYR])
def test_an_open_reply_equals_transformers(template: str) -> None:
    open_chat = CHAT[:4]
    assert ours(template, open_chat, continue_final=True) == reference(
        template, open_chat, False, continue_final=True
    )


def test_the_tokenizer_itself_agrees() -> None:
    transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel({"<unk>": 0}, unk_token="<unk>"))
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=backend, **SPECIAL)
    messages = [{"role": m.role, "content": m.content} for m in [SYSTEM, *CHAT]]
    text = tokenizer.apply_chat_template(
        messages, chat_template=LLAMA_2, tokenize=False, add_generation_prompt=True
    )
    assert ours(LLAMA_2, [SYSTEM, *CHAT]) == text


# -- system messages -----------------------------------------------------------------------


def test_a_refused_system_message_goes_into_the_first_question() -> None:
    text = ours(MISTRAL, [SYSTEM, *CHAT])
    assert text.startswith("<s>[INST] Answer in verse.\n\nWho are <you> & why? [/INST]")


def test_a_dropped_system_message_goes_into_the_first_question() -> None:
    dropping = "{% for m in messages if m.role != 'system' %}[{{ m.content }}]{% endfor %}"
    assert ours(dropping, [SYSTEM, CHAT[0]]) == "[Answer in verse.\n\nWho are <you> & why?]"


def test_a_rewritten_system_message_counts_as_shown() -> None:
    text = ours("{{ messages | tojson }}", [Message("system", 'Say "a"\n'), CHAT[0]])
    assert text.count("Say") == 1 and '"system"' in text


def test_only_the_later_system_message_moves_where_the_first_is_taken() -> None:
    first_only = (
        "{% for m in messages %}{% if m.role == 'system' and not loop.first %}"
        "{{ raise_exception('late') }}{% endif %}{{ m.role }}: {{ m.content }};{% endfor %}"
    )
    chat = [SYSTEM, Message("user", "a"), Message("system", "Now prose."), Message("user", "b")]
    assert ours(first_only, chat) == "system: Answer in verse.;user: a;user: Now prose.\n\nb;"


def test_a_system_message_alone_becomes_a_question() -> None:
    assert ours(MISTRAL, [SYSTEM]) == "<s>[INST] Answer in verse. [/INST]"


def test_a_system_message_after_the_last_question_joins_it() -> None:
    assert (
        ours(MISTRAL, [Message("user", "a"), SYSTEM]) == "<s>[INST] a\n\nAnswer in verse. [/INST]"
    )


def test_turns_that_a_template_refuses_are_named_with_its_words() -> None:
    with pytest.raises(TemplateError, match="roles must alternate") as caught:
        ours(MISTRAL, [CHAT[0], CHAT[0]])
    assert caught.value.remedy


# -- continuing ------------------------------------------------------------------------------


@pytest.mark.parametrize("content", ["", "Once upon", "Once upon a ", "Two\n\n"])
def test_an_open_reply_ends_with_its_content(content: str) -> None:
    text = ours(LLAMA_3, [CHAT[0], Message("assistant", content)], continue_final=True)
    assert text.endswith("assistant<|end_header_id|>\n\n" + content)


def test_a_reply_that_contains_the_sentinel_is_continued_whole() -> None:
    chat = [CHAT[0], Message("assistant", "Say LanternContinuesHere twice")]
    assert ours(CHATML, chat, continue_final=True).endswith("Say LanternContinuesHere twice")


def test_a_question_is_left_open_where_it_is_to_be_gone_on_with() -> None:
    text = ours(CHATML, CHAT, continue_final=True)
    assert text.endswith(f"<|im_start|>user\n{CHAT[-1].content}")


def test_nothing_cannot_be_continued() -> None:
    with pytest.raises(TemplateError, match="no message"):
        ours(CHATML, [], continue_final=True)


def test_a_template_that_hides_the_reply_says_so() -> None:
    with pytest.raises(TemplateError, match="leaves out the message"):
        ours("{{ messages[0].content }}", CHAT[:2], continue_final=True)


def test_the_plain_form_names_the_speakers() -> None:
    text = render(PLAIN.source, [SYSTEM, *CHAT[:2], CHAT[4]], special_tokens={})
    assert text == (
        "Answer in verse.\n\nUser: Who are <you> & why?\nAssistant: Ich bin's — 你好.\n"
        "User: Bye\nAssistant:"
    )


# -- hostile and damaged templates -----------------------------------------------------------

GROW = "{%% set ns = namespace(x='ab') %%}{%% for i in range(99) %%}%s{%% endfor %%}"
BOMBS = {
    "times": "{{ 'x' * 10**9 }}",
    "list times": "{{ [1] * 10**9 }}",
    "power": "{{ 10 ** (10**9) }}",
    "percent": "{{ '%1000000000d' % 1 }}",
    "starred width": "{{ '%*d' % (10**9, 1) }}",
    "format filter": "{{ '%1000000000d' | format(1) }}",
    "format method": "{{ '{:1000000000}'.format(1) }}",
    "nested width": "{{ '{:{}}'.format(1, 10**9) }}",
    "center filter": "{{ 'x' | center(10**10) }}",
    "mapped center": "{{ ['x'] | map('center', 10**10) | list }}",
    "ljust": "{{ 'x'.ljust(10**10) }}",
    "zfill": "{{ 'x'.zfill(10**10) }}",
    "expandtabs": "{{ '\t'.expandtabs(10**10) }}",
    "indent": "{{ 'x\ny' | indent(10**10) }}",
    "json indent": "{{ [1] | tojson(indent=10**9) }}",
    "replace": "{{ ('x' * 10**6).replace('x', 'y' * 10**6) }}",
    "replace filter": "{{ ('x' * 10**6) | replace('x', 'y' * 10**6) }}",
    "join": "{{ ('y' * 10**6).join(['a'] * 10**5) }}",
    "join filter": "{{ (['a'] * 10**5) | join('y' * 10**6) }}",
    "round": "{{ 1.5 | round(10**9, 'ceil') }}",
    "to_bytes": "{{ (5).to_bytes(10**9, 'big') }}",
    "plus": GROW % "{% set ns.x = ns.x + ns.x %}",
    "tilde": GROW % "{% set ns.x = ns.x ~ ns.x %}",
    "block": GROW % "{% set ns.x %}{{ ns.x }}{{ ns.x }}{% endset %}",
    "nested lists": GROW % "{% set ns.x = [ns.x, ns.x] %}" + "{{ ns.x }}",
    "nested lists as JSON": GROW % "{% set ns.x = [ns.x, ns.x] %}" + "{{ ns.x | tojson }}",
    "slices": "{% set b = 'y' * 10**6 %}{% set ns = namespace(x=[]) %}"
    "{% for i in range(9999) %}{% set ns.x = ns.x + [b[1:]] %}{% endfor %}",
    "output": "{% set b = 'y' * 10**6 %}{% for i in range(99999) %}{{ b }}{% endfor %}",
}
DAMAGED = {
    "syntax": "{% for %}",
    "unknown filter": "{{ 1 | nothing }}",
    "undefined": "{{ nothing.at.all }}",
    "division": "{{ 1 / 0 }}",
    "recursion": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "nesting": "{{ " + "[" * 3000 + "]" * 3000 + " }}",
    "include": "{% include '/etc/passwd' %}",
    "class": "{{ messages.__class__.__mro__ }}",
    "attr filter": "{{ ('' | attr('__class__')).mro() }}",
    "globals": "{{ raise_exception.__globals__['x'] }}",
    "mutation": "{{ messages.append(1) }}",
    "private name": "{% set ns = namespace() %}{% set ns.__class__ = 1 %}",
    "strftime width": "{{ strftime_now('%900000000d') }}",
    "too long": "{# " + "x" * 140_000 + " #}",
}


@pytest.mark.parametrize("template", BOMBS.values(), ids=BOMBS)
def test_a_memory_bomb_is_defused(template: str) -> None:
    with pytest.raises(TemplateError, match=r"was stopped|unsafe"):
        ours(template, CHAT)


@pytest.mark.parametrize("template", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_template_is_refused_with_a_remedy(template: str) -> None:
    with pytest.raises(TemplateError) as caught:
        ours(template, CHAT)
    assert caught.value.message.endswith(".") and caught.value.remedy.endswith(".")


def test_a_loop_without_output_ends() -> None:
    with pytest.raises(TemplateError, match="longer than 1 s"):
        ours("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}", CHAT)


def test_the_former_trace_function_is_back_afterwards() -> None:
    former = sys.gettrace()
    ours(CHATML, CHAT)
    with pytest.raises(TemplateError):
        ours("{{ 1 / 0 }}", CHAT)
    assert sys.gettrace() is former


def test_1500_long_messages_stay_within_the_limits() -> None:
    long = [Message(m.role, m.content * 100) for m in CHAT[:2]]
    assert ours(LLAMA_3, [SYSTEM, *(long * 750)]).count("<|eot_id|>") == 1501


def test_a_program_renders_each_conversation_as_if_it_were_the_first() -> None:
    remembers = (
        "{% if seen is defined or ns is defined %}seen {% endif %}"
        "{% set seen = true %}{% set ns = namespace(n=1) %}"
        "{% macro shout(text) %}{{ text }}!{% endmacro %}{{ shout(messages[0].content) }}"
    )
    program = Program(remembers)
    asked = [[Message("user", text)] for text in ("one", "two", "one")]
    texts = [render(program, chat, special_tokens={}) for chat in asked]
    assert texts == ["one!", "two!", "one!"]


def test_a_program_has_its_whole_limit_each_time_and_goes_on_after_one_was_reached() -> None:
    program = Program("{{ messages[0].content * (2000 if messages[0].content == 'a' else 1) }}" * 2)
    costly = Program("{{ 'x' * 40000000 if messages[0].content == 'a' else 'fine' }}")
    for _ in range(3):
        assert len(render(program, [Message("user", "a")], special_tokens={})) == 4_000
        with pytest.raises(TemplateError, match="stopped"):
            render(costly, [Message("user", "a")], special_tokens={})
        assert render(costly, [Message("user", "b")], special_tokens={}) == "fine"
