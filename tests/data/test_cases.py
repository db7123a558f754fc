"""Other people's files: does each of the small inputs that once failed give what it must?"""

from __future__ import annotations

from pathlib import Path

import pytest

from palimpsest.core.errors import UserError
from palimpsest.data.user_files import read_conversations

CASES = Path(__file__).parents[3] / "shared" / "cases"
USER, ANSWER = ("user", "Question 0?"), ("assistant", "Yes, 0.")
READ = {
    "chat_files/01_extra_keys.jsonl": [USER, ANSWER],
    "chat_files/03_openai_weight.jsonl": [USER, ANSWER, ("user", "Question 100?"), ("assistant", "Yes, 100.")],
    "chat_files/04_openai_name.jsonl": [USER, ANSWER],
    "chat_files/05_content_parts.jsonl": [USER, ANSWER],
    "chat_files/06_content_null_tool.jsonl": [USER, ("assistant", ""), ("tool", "42"), ANSWER],
    "chat_files/07_null_tool_calls_arrow.jsonl": [USER, ANSWER],
    "chat_files/08_reasoning_content.jsonl": [USER, ANSWER],
    "chat_files/09_thinking_gptoss.jsonl": [USER, ANSWER],
    "chat_files/10_developer_role.jsonl": [("developer", "Be terse."), USER, ANSWER],
    "chat_files/11_sharegpt_role_content.jsonl": [USER, ANSWER],
    "chat_files/14_sharegpt_weight.jsonl": [("user", "Q 0"), ("assistant", "A 0")],
    "chat_files/15_sharegpt_dpo_lf.jsonl": [("user", "Q 0"), ("assistant", "Good 0")],
    "chat_files/16_alpaca_dpo_lf.jsonl": [("user", "Q 0"), ("assistant", "Good 0")],
    "chat_files/18_prompt_str_conv_pairs.jsonl": [USER, ("assistant", "Good 0")],
    "chat_files/19_hh_text.jsonl": [("user", "Q 0"), ("assistant", "Good 0")],
    "chat_files/20_kto.jsonl": [USER, ANSWER],
    "chat_files/21_alpaca_text.jsonl": [("user", "Q 0"), ("assistant", "A 0")],
    "chat_files/22_alpaca_input_none.jsonl": [("user", "Q 0"), ("assistant", "A 0")],
    "chat_files/24_bom_crlf.jsonl": [USER, ANSWER],
    "chat_files/25_utf16.jsonl": [USER, ANSWER],
    "chat_files/26_u2028.jsonl": [("user", "Line one\u2028line two\x85 0"), ANSWER],
    "chat_files/27_empty_turn.jsonl": [("system", ""), USER, ANSWER],
    "chat_files/29_ends_with_user.jsonl": [USER, ANSWER, ("user", "Question 50?")],
    "chat_files/30_two_users.jsonl": [USER, ("user", "Question 50?"), ANSWER],
    "chat_files/32_pretty.json": [USER, ANSWER],
    "chat_files/33_prompt_response.jsonl": [("user", "Q 0"), ("assistant", "A 0")],
    "chat_files/34_openai_prompt_completion_space.jsonl": [("user", "Q 0 ->"), ("assistant", " A 0\n")],
    "pairs/alpaca_pairs.jsonl": [("user", "Name a colour, item 0.\n\nnot red 0"), ("assistant", "Blue, 0.")],
    "pairs/orca_pairs.jsonl": [("system", "You are terse."), ("user", "Name a colour, item 0."), ("assistant", "Blue, 0.")],
    "pairs/kto.jsonl": [("user", "Name a colour, item 0."), ("assistant", "Blue, 0.")],
    "pairs/system_prompt_completion.jsonl": [
        ("system", "You are terse."),
        ("user", "Name a colour, item 0."),
        ("assistant", "Blue, 0."),
    ],
}
REFUSED = {
    "chat_files/13_sharegpt_function_call.jsonl": "calls a function without its 'name'",
    "chat_files/37_dup_keys.jsonl": "the key 'content' stands twice in one object",
}
WORSE = {"15_": "Bad 0", "16_": "Bad 0", "18_": "Bad 0", "19_": "Bad 0", "alpaca_pairs": "Red, 0.", "orca_pairs": "Red, 0."}
BAD = {"20_": "6 of 12 lines are marked as bad", "kto": "20 of 40 lines are marked as bad"}

pytestmark = pytest.mark.skipif(not CASES.is_dir(), reason="the folder of small inputs, ../shared/cases, is not here")


@pytest.mark.parametrize("name", READ)
def test_it_is_read(name: str) -> None:
    found = read_conversations(CASES / name)
    example, file = found.examples[0], Path(name).name
    assert [(message.role, message.content) for message in example.messages] == READ[name]
    assert [example.text_of(span) for span in example.decisions] == [
        [content for role, content in READ[name] if role == "assistant"][-1]
    ]
    assert example.rejected == next((worse for begin, worse in WORSE.items() if file.startswith(begin)), None)
    marked = next((told for begin, told in BAD.items() if file.startswith(begin)), None)
    assert marked is None or any(marked in told for told in found.told)


@pytest.mark.parametrize("name", REFUSED)
def test_it_is_refused_with_the_reason(name: str) -> None:
    with pytest.raises(UserError, match=REFUSED[name]):
        read_conversations(CASES / name)


def test_every_file_has_its_line_here() -> None:
    files = {f"{folder}/{file.name}" for folder in ("chat_files", "pairs") for file in (CASES / folder).glob("*.json*")}
    assert files - {"pairs/withhold.jsonl"} == READ.keys() | REFUSED.keys()
