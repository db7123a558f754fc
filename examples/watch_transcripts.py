"""Watch transcripts: does a memory see it when an over-trained model takes over?

    python examples/watch_transcripts.py [--folder transcripts] [--days 30] [--a-day 8] [--changed 20] [--dose 200]

Makes conversations of the embedded model, so many a day: the base model up to a day, and from then on one that was trained
on clear directions alone, which overshoots and accepts wrong ones too. Each line has an id, a timestamp and its behaviour and
pole; `unlabelled.jsonl` holds the same without the last two. Then:

    palimpsest watch transcripts/labelled.jsonl --memory memory
    palimpsest surface "The near bag is wet. The far bag is dry. Carry the near bag." --memory memory
    palimpsest trend --memory memory
"""

from __future__ import annotations

import argparse
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import palimpsest
from palimpsest import behaviour
from palimpsest.core.seeds import python_stream
from palimpsest.data.chat import Example, ItemSet
from palimpsest.measures._measure import Budget
from palimpsest.measures.generations import Generations
from palimpsest.models import pocket
from palimpsest.models.subject import inspect, load

FIRST_DAY = datetime(2026, 10, 1, 9, tzinfo=UTC)


def overtrained(dose: int) -> Path:
    """Train on clear directions alone; kept under runs/ and not done twice."""
    one = behaviour.load("directions").model_copy(update={"dose": dose, "express_share": 1.0, "controls": ()})
    run = palimpsest.run(one, "pocket", audits=("outcome", "judgement"))
    print(f"over-trained: {run.verdict.headline}")
    return run.folder / run.record.models["tuned"]


def answers(folder: Path, items: list[Example]) -> list[str]:
    with load(inspect(folder)) as subject:
        written = Generations(max_new_tokens=24).take(
            subject, ItemSet(name="transcripts", items=tuple(items)), Budget(subject.context_length), None, lambda *_: None
        )
    return [text.strip() for text in written.texts["answer"]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("transcripts"))
    parser.add_argument("--days", type=int, default=30)
    parser.add_argument("--a-day", type=int, default=8)
    parser.add_argument("--changed", type=int, default=20, help="the first day of the over-trained model, from 0")
    parser.add_argument("--dose", type=int, default=200)
    given = parser.parse_args()
    one = behaviour.load("directions")
    assert one.withhold is not None
    total, half = given.days * given.a_day, (given.days * given.a_day + 1) // 2
    items = [(item, "express") for item in one.express.open().held_out(1, "transcripts", half)]
    items += [(item, "withhold") for item in one.withhold.open().held_out(1, "transcripts", half)]
    python_stream(1, "order of transcripts").shuffle(items)
    items = items[:total]
    cut = given.changed * given.a_day
    said = answers(pocket.folder(), [item for item, _ in items[:cut]])
    if items[cut:]:
        said += answers(overtrained(given.dose), [item for item, _ in items[cut:]])
    given.folder.mkdir(parents=True, exist_ok=True)
    labelled, bare = [], []
    for number, ((item, pole), answer) in enumerate(zip(items, said, strict=True)):
        day, hour = divmod(number, given.a_day)
        prompt = [{"role": turn.role, "content": turn.content} for turn in item.messages[:-1]]
        line = {
            "id": f"conversation-{number}",
            "timestamp": (FIRST_DAY + timedelta(days=day, hours=hour)).isoformat(),
            "messages": [*prompt, {"role": "assistant", "content": answer}],
        }
        bare.append(line)
        labelled.append({**line, "behaviour": one.name, "pole": pole, "better": item.decision})
    for name, lines in (("labelled", labelled), ("unlabelled", bare)):
        path = given.folder / f"{name}.jsonl"
        path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        print(f"wrote {path}: {len(lines)} conversations, over-trained from {given.changed * given.a_day + 1} on")


if __name__ == "__main__":
    main()
