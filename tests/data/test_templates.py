"""Templates: does a stranger's template always end, and does an honest one read as the library has it?"""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import jinja2
import pytest
import tiny
from jinja2.sandbox import SandboxedEnvironment

from palimpsest.core.errors import UserError
from palimpsest.data import chat_template
from palimpsest.data.render import Renderer
from palimpsest.data.templates import BoundedEnvironment, TooMuch

GROW = (
    "{%% set ns = namespace(x=%s, y=%s) %%}{%% for i in range(60) %%}{%% set ns.x = %s %%}{%% set ns.y = %s %%}{%% endfor %%}"
)
SHARED = GROW % ("(1,)", "(1,)", "(ns.x, ns.x)", "(ns.y, ns.y)")
LISTS = GROW % ("[1]", "[1]", "[ns.x, ns.x]", "[ns.y, ns.y]")
ENDLESS = {
    "loops in loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "loops that keep nothing": "{% for a in range(99999) %}{% for b in range(99999) if false %}{% endfor %}{% endfor %}",
    "a loop that calls itself": "{% for x in [1] recursive %}{{ loop([1, 1]) }}{% endfor %}",
    "the length of a stream": "{% for x in range(99999) %}{% for y in range(99999) | map('string') %}{{ loop.length }}"
    "{% endfor %}{% endfor %}",
    "lists in a loop": "{% for x in range(99999) %}{% set y = range(99999) | list %}{% endfor %}",
    "searches in a loop": "{% set l = range(99999) | list %}{% for x in range(99999) %}{{ x in l }}{% endfor %}",
    "slices in a loop": "{% set s = 'a' * 8000000 %}{% for i in range(99999) %}{% set y = s[1:] %}{% endfor %}",
    "text in a loop": "{% for i in range(99999) %}" + "x" * 100_000 + "{% endfor %}",
    "a macro without end": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "a macro that doubles": "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(50) }}",
    "a block without end": "{% block a %}{{ self.a() }}{{ self.a() }}{% endblock %}",
    "a text times a number": "{{ 'a' * 10 ** 10 }}",
    "a number times a text": "{% set x = 10000000000 * 'a' %}",
    "a list times a number": "{{ ([1] * 10 ** 10) | length }}",
    "a power": "{{ 9 ** 999999999 }}",
    "a product of powers": GROW % ("9", "9", "ns.x * ns.x", "1"),
    "a sum that doubles": GROW % ("'a'", "1", "ns.x + ns.x", "1"),
    "a text that doubles": GROW % ("'a'", "1", "ns.x ~ ns.x", "1"),
    "a set block that doubles": "{% set ns = namespace(x='a') %}{% for i in range(60) %}{% set y %}{{ ns.x }}{{ ns.x }}"
    "{% endset %}{% set ns.x = y %}{% endfor %}",
    "a width after %": "{{ '%1000000000d' % 3 }}",
    "a precision after %": "{{ '%.1000000000f' % 3 }}",
    "a width that is a value": "{{ '%*d' % (1000000000, 3) }}",
    "a width after a name": "{{ '%(a(b)c)1000000000d' % {'a(b)c': 3} }}",
    "a width in format": "{{ '{:1000000000}'.format(3) }}",
    "a width that format takes": "{{ '{:{}}'.format(3, 1000000000) }}",
    "the filter format": "{{ '%1000000000d' | format(3) }}",
    "the filter center": "{{ 'a' | center(10 ** 9) }}",
    "a filter block": "{% filter center(1000000000) %}a{% endfilter %}",
    "ljust": "{{ 'a'.ljust(10 ** 9) }}",
    "zfill": "{{ 'a'.zfill(width) }}".replace("width", "10 ** 9"),
    "indent": "{{ ('\\n' * 1000000) | indent(10000) }}",
    "expandtabs": "{{ ('\\t' * 1000000).expandtabs(10000) }}",
    "replace": "{{ ('a' * 1000000).replace('a', 'b' * 1000000) }}",
    "the filter replace": "{{ ('a' * 1000000) | replace('a', 'b' * 1000000) }}",
    "translate": "{{ ('a' * 1000000).translate({97: 'b' * 1000000}) }}",
    "join": "{{ ('b' * 1000000).join(['a'] * 100000) }}",
    "the filter join": "{{ range(100000) | join('b' * 1000000) }}",
    "a join of one text often": "{{ (['a' * 1000000] * 100000) | select | join }}",
    "many wide texts": "{{ range(100000) | map('center', 100000) | join }}",
    "a sum of lists": "{{ range(90000) | batch(1) | sum(start=[]) | length }}",
    "rounding": "{{ 5 | round(-1000000000) }}",
    "indented JSON": "{{ (range(90000) | list) | tojson(indent=90000) }}",
    "wrapped words": "{{ ('a ' * 100000) | wordwrap(1, wrapstring='x' * 100000) }}",
    "bytes": "{{ (5).to_bytes(1000000000) }}",
    "a value in itself, written": LISTS + "{{ ns.x }}",
    "a value in itself, as JSON": LISTS + "{{ ns.x | tojson }}",
    "a value in itself, formatted": LISTS + "{{ '{}'.format(ns.x) }}",
    "a value in itself, with its holder": LISTS + "{{ ns }}",
    "a value in itself, compared": LISTS + "{{ ns.x == ns.y }}",
    "a value in itself, looked up": SHARED + "{{ {}[ns.x] }}",
    "a value in itself, as a key": SHARED + "{{ {ns.x: 1} | length }}",
    "a value in itself, asked for": SHARED + "{{ {}.get(ns.x) }}",
    "brackets": "{{ " + "(" * 5_000 + "1" + ")" * 5_000 + " }}",
    "a long template": "{# " + "x" * 2**18 + " #}",
    "answers of a model": "{% generation %}{{ 'a' * 10 ** 10 }}{% endgeneration %}",
}


@pytest.mark.parametrize("template", ENDLESS.values(), ids=ENDLESS)
def test_a_template_that_would_not_end_is_an_error_that_names_it(template: str) -> None:
    tokenizer = tiny.tokenizer(chat_template=template)
    tokenizer.name_or_path = "/models/theirs"
    with pytest.raises(UserError, match="the chat template of /models/theirs must end"):
        Renderer(tokenizer).template_text([{"role": "user", "content": "Hello"}])


def test_a_template_that_would_not_end_takes_no_memory() -> None:
    """With an address space that is hardly larger than what the program starts with, none of them may run out of it."""
    script = (
        "import resource, sys; sys.path.insert(0, 'tests')\n"
        "import tiny; from data.test_templates import ENDLESS, endless\n"
        "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + 2**30, used + 2**30))\n"
        "print([name for name in ENDLESS if 'than there is' in endless(ENDLESS[name])])"
    )
    if not Path("/proc/self/statm").exists() or not hasattr(resource, "RLIMIT_AS"):
        pytest.skip("needs a system that limits the address space")
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


def endless(template: str) -> str:
    """Return what is told of a template that doesn't end."""
    try:
        chat_template.render(tiny.tokenizer(chat_template=template), [{"role": "user", "content": "Hello"}], None)
    except TooMuch as error:
        return str(error)
    raise AssertionError("it ended")


QWEN = """{%- if messages[0].role == 'system' %}
    {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}{%- endif %}
{%- set ns = namespace(multi_step_tool=true, last_query_index=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.multi_step_tool and message.role == "user" and message.content is string
           and not(message.content.startswith('<tool_response>') and message.content.endswith('</tool_response>')) %}
        {%- set ns.multi_step_tool = false %}{%- set ns.last_query_index = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- set content = message.content if message.content is string else '' %}
    {%- set reasoning = '' %}
    {%- if '</think>' in content %}
        {%- set reasoning = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
        {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
    {%- endif %}
    {%- if loop.last or (loop.index0 > ns.last_query_index and reasoning) %}
        {{- '<|im_start|>' + message.role + '\\n<think>\\n' + reasoning.strip('\\n') + '\\n</think>\\n\\n' + content }}
    {%- else %}{{- '<|im_start|>' ~ message.role ~ '\\n' ~ content | trim }}{%- endif %}
    {{- '<|im_end|>\\n' }}{{ message | tojson(indent=2) }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"""
HONEST = {
    "as Qwen3": QWEN,
    "with macros": "{% macro turn(m, end='!') %}{{ m.role | upper | center(12) }}: {{ caller(m) }}{{ end }}{% endmacro %}"
    "{% for m in messages if m.role != 'system' %}{% call(x) turn(m) %}{{ x.content | indent(2) }}{% endcall %}{% endfor %}",
    "with answers marked": "{% for m in messages %}{% if loop.first %}{% continue %}{% endif %}"
    "{% generation %}{{ m['content'] }}{{ '%05d %-4s|' % (loop.index, m.role) }}{% endgeneration %}\n{% endfor %}",
    "with filters": "{{ messages | map(attribute='role') | join(', ') }} {{ messages | selectattr('role', 'equalto', 'user') "
    "| list | length }} {{ '{:>8}|{!r}'.format(messages[0].role, 2) }} {{ messages[-1].items() | list }} "
    "{{ 7 // 2 * 2.5 ** 2 }}{{ messages | groupby('role') | map('first') | list }} {{ [[1], [2]] | sum(start=[]) }} "
    "{{ 'x' in messages[0] }}",
}


@pytest.mark.parametrize("generation_prompt", [False, True])
@pytest.mark.parametrize("template", HONEST.values(), ids=HONEST)
def test_an_honest_template_reads_as_the_library_has_it(template: str, generation_prompt: bool) -> None:
    tokenizer = tiny.tokenizer(chat_template=template)
    turns = [("system", "Be brief."), ("user", "Two\nlines é <b>"), ("assistant", "<think>\nhm\n</think>\n\nHi"), ("user", "?")]
    messages: list[dict[str, str]] = [{"role": role, "content": content} for role, content in turns]
    wanted = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=generation_prompt)
    assert Renderer(tokenizer).template_text(messages, add_generation_prompt=generation_prompt) == wanted


def test_a_long_conversation_stays_within_the_budget() -> None:
    tokenizer, reply = tiny.tokenizer(chat_template=QWEN), "word " * 300
    messages = [{"role": role, "content": reply} for _ in range(500) for role in ("user", "assistant")]
    assert len(Renderer(tokenizer).template_text(messages)) > 1_000 * len(reply)


def test_what_a_template_may_not_do_in_the_library_it_may_not_do_here() -> None:
    for template in (
        "{{ messages.append(1) }}",
        "{{ ''.__class__.x }}",
        "{% set ns = namespace(__x=1) %}",
        "{{ lipsum() }}",
    ):
        with pytest.raises(UserError, match="refuses a conversation of user"):
            Renderer(tiny.tokenizer(chat_template=template)).template_text([{"role": "user", "content": "Hello"}])


def test_any_environment_can_be_bounded_and_keeps_its_filters_and_settings() -> None:
    theirs = SandboxedEnvironment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    theirs.filters["twice"] = lambda text: text * 2
    ours = BoundedEnvironment(theirs)
    assert ours.from_string("{{ a | twice }}{% set _ = l.append(1) %}{{ l }}\n").render(a="x", l=[0]) == "xx[0, 1]\n"
    with pytest.raises(jinja2.UndefinedError):
        ours.from_string("{{ b }}").render()
    with pytest.raises(TooMuch):
        ours.from_string("{% for i in range(99) %}{% set _ = l.extend(l) %}{% endfor %}").render(l=[0])


DATED = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}{{ strftime_now('%d %b %Y, %H h') }}"


def test_a_template_is_given_the_date_that_is_said() -> None:
    one: Any = Renderer(tiny.tokenizer(chat_template=DATED), "2024-02-29")
    assert one.day == "2024-02-29"
    assert one.template_text([{"role": "user", "content": "Hi"}]) == "<user>Hi29 Feb 2024, 12 h"


def test_a_renderer_keeps_the_day_on_which_it_was_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_template, "today", lambda: "2026-01-01")
    one = Renderer(tiny.tokenizer(chat_template=DATED))
    monkeypatch.setattr(chat_template, "today", lambda: "2026-01-02")
    assert one.day == "2026-01-01" and "01 Jan" in one.template_text([{"role": "user", "content": "Hi"}])


@pytest.mark.parametrize(
    ("template", "writes"),
    [(DATED, True), ("{{ 'strftime_now' }}", False), ("{% raw %}{{ strftime_now('') }}{% endraw %}", False), (None, False),
     ("{% if strftime_now is defined %}x{% endif %}", True), ("{{ strftime_now( }}", False), ({"a": "x", "b": DATED}, True)],
)  # fmt: skip
def test_only_a_template_that_asks_for_the_date_writes_one(template: Any, writes: bool) -> None:
    assert chat_template.writes_date(template) == writes
