"""Watch: which answers in real conversations failed, and had that failure been seen before?

Each assistant turn is put to the check of the behaviour that its conversation belongs to: where the behaviour should appear
and the check does not fire, or where it should not and the check fires, the answer failed. Where a conversation belongs is
said by a label in the transcript, else by likeness to the behaviour's own prompts, else by a judge model; where none of them
can say, it is unknown and counted as such.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from palimpsest import behaviour as behaviours
from palimpsest.behaviour import Behaviour
from palimpsest.core.errors import Problems, nearest
from palimpsest.core.progress import Progress, Silent
from palimpsest.core.spec import digest
from palimpsest.data.chat import Pole
from palimpsest.data.checks import Choice
from palimpsest.memory.belonging import Belonging, Place
from palimpsest.memory.judge import Asked, Judge
from palimpsest.memory.records import Entry, Judged, Watched
from palimpsest.memory.store import Memory
from palimpsest.memory.transcripts import Checked, Conversation, Turn, check

LABEL, LIKENESS, JUDGE = "label", "likeness", "judge"
_COMMIT_SECONDS = 0.5
"""So much work at most is done again after a kill."""


@dataclass
class Count:
    """What was found for one behaviour and pole."""

    watched: int = 0
    failed: int = 0
    known_before: int = 0
    """Failures that a correction from an earlier conversation covers."""


@dataclass
class Summary:
    """What watching found."""

    conversations: int = 0
    already: int = 0
    """Turns that the memory had."""
    judged: dict[tuple[str, Pole], Count] = field(default_factory=dict)
    unknown: Counter[str] = field(default_factory=Counter)
    """Turns that could not be judged, by the reason."""
    disputed: int = 0
    """Turns about which judge and check disagree: neither failures nor passed."""
    rules: tuple[str, ...] = ()
    """How conversations without a label were matched."""


class Looking:
    """Judges turns; opens the behaviours' material only when a conversation has no label.

    Args:
        known: the behaviours that are watched.
        judge: a model that judges every turn besides, where there is one.
    """

    def __init__(self, known: Sequence[Behaviour], judge: Judge | None = None) -> None:
        self.known = {one.name: one for one in known}
        self.judge = judge
        self.belonging: Belonging | None = None
        self.asked = digest([sorted((one.name, digest(one)) for one in known), judge.name if judge else None])

    def look(self, before: tuple[tuple[str, str], ...], turn: Turn) -> Judged:
        """Return what is to be said about one assistant turn."""
        if turn.behaviour and turn.behaviour not in self.known:
            return _unknown(f"it names the behaviour '{turn.behaviour[:100]}', which is not watched")
        if not before:
            return _unknown("nothing stands before it")
        named = turn.behaviour or (next(iter(self.known)) if turn.pole and len(self.known) == 1 else None)
        if turn.pole and not named:
            return _unknown("it names a pole but no behaviour, and several are watched")
        pole: Pole | None = turn.pole  # type: ignore[assignment]  # checked where it was read
        if self.judge:
            return self._by_judge(self.judge, before, turn, named, pole)
        place = Place(named, pole, "") if named and pole else self._by_likeness([text for _, text in before], named)
        if place.behaviour is None or place.pole is None:
            return _unknown(place.why)
        return self._by_check(self.known[place.behaviour], place.pole, turn, turn.better, LABEL if pole else LIKENESS)

    def _by_likeness(self, texts: list[str], named: str | None) -> Place:
        if self.belonging is None:
            self.belonging = Belonging(tuple(self.known.values()))
        return self.belonging.place(texts, named)

    def _by_check(self, one: Behaviour, pole: Pole, turn: Turn, better: str | None, how: str) -> Judged:
        shows = one.check.passes(turn.text)
        if shows == (pole == "express"):
            return Judged("passed", "", one.name, pole, how)
        return Judged("failed", _wrong(one, pole, turn.text), one.name, pole, how, _agreed(one, pole, better))

    def _by_judge(
        self, judge: Judge, before: tuple[tuple[str, str], ...], turn: Turn, named: str | None, pole: Pole | None
    ) -> Judged:
        said = judge.opinion(before, turn.text, named, pole)
        if said is None:
            return _unknown("the judge's reply made no sense")
        if said.behaviour is None or said.pole is None:
            return _unknown("the judge says that it is about none of the behaviours")
        one = self.known[said.behaviour]
        found = self._by_check(one, said.pole, turn, turn.better or said.better, LABEL if pole else JUDGE)
        if said.shows != one.check.passes(turn.text):
            reason = (
                f"the judge says that it {'shows' if said.shows else 'does not show'} the behaviour, the check the opposite"
            )
            return Judged("disputed", reason, one.name, said.pole, found.how)
        return found


def known_behaviours(names: Sequence[str], memory: Path) -> list[Behaviour]:
    """Return the behaviours that are to be watched: those named, else those of the memory, else those of the library.

    Raises:
        UserError: one of them is not there, or two have one name.
    """
    if not names and (memory / "memory.sqlite").exists():
        with Memory.open(memory) as opened:
            names = [name for name in opened.behaviours() if name in behaviours.names()]
            if missing := set(opened.behaviours()) - set(names):
                problems = Problems(f"the memory {memory} knows behaviours that are not in the library:")
                problems.add(f"{', '.join(sorted(missing))}: give their files with --behaviour")
                problems.raise_if_any()
    loaded = [behaviours.load(name) for name in (names or behaviours.names())]
    problems = Problems("the behaviours can't be watched together:")
    for name, count in Counter(one.name for one in loaded).items():
        if count > 1:
            problems.add(f"{count} of them have the name '{name}'; give each a name of its own")
    problems.raise_if_any()
    return loaded


def watch(
    paths: Sequence[Path],
    folder: Path,
    known: Sequence[Behaviour],
    *,
    endpoint: Asked | None = None,
    skip_unreadable: bool = False,
    progress: Progress | None = None,
) -> Summary:
    """Judge the assistant turns of transcripts and remember what failed. What is there already adds nothing.

    Args:
        paths: transcript files, or folders of them.
        folder: the memory, made where it is missing.
        known: the behaviours to watch for.
        endpoint: a model that judges every turn besides the checks.
        skip_unreadable: leave out lines that can't be read.
        progress: who is told how it goes.

    Raises:
        UserError: transcripts or memory can't be used (before anything is written), or the judge is down.
    """
    heard: Progress = progress or Silent()
    heard.begin("reading the transcripts")
    transcripts = check(paths, skip_unreadable=skip_unreadable)
    for note in transcripts.told:
        heard.tell(note)
    looking = Looking(known, Judge(endpoint, known) if endpoint else None)
    with Memory.open(folder, "write") as memory:
        for note in _meet(memory, known):
            heard.tell(note)
        return _watch(transcripts, memory, looking, heard)


def _watch(transcripts: Checked, memory: Memory, looking: Looking, heard: Progress) -> Summary:
    found = Summary()
    heard.begin("watching", transcripts.conversations)
    waiting: list[Entry] = []
    pending: set[str] = set()
    since = time.monotonic()

    def commit() -> None:
        for turn, known in memory.record(waiting):
            _count(found, turn.judged, known is not None)
        waiting.clear()
        pending.clear()

    for conversation in transcripts:
        fresh = tuple(_fresh(conversation, memory, looking, found, pending))
        if fresh:
            waiting.append(Entry(conversation.key, conversation.source, conversation.time, fresh))
            pending |= {turn.key for turn in fresh}
        # what a judge said has cost something, so it is kept at once; otherwise flushing the disk would take most of the time
        if waiting and (looking.judge or time.monotonic() - since > _COMMIT_SECONDS):
            commit()
            since = time.monotonic()
        found.conversations += 1
        heard.at(found.conversations, transcripts.conversations)
    commit()
    if looking.belonging:
        found.rules = tuple(rule.sentence for rule in looking.belonging.rules.values())
    _tell_of_labels(found, looking, heard)
    return found


def _fresh(
    conversation: Conversation, memory: Memory, looking: Looking, found: Summary, pending: set[str]
) -> Iterator[Watched]:
    before: list[tuple[str, str]] = []
    for turn in conversation.turns:
        if turn.role == "assistant" and turn.text.strip():
            key = digest([conversation.key, before, turn.text])
            if key in pending or memory.settled(key, looking.asked):
                found.already += 1
            else:
                judged = looking.look(tuple(before), turn)
                yield Watched(key, looking.asked, turn.time, tuple(before), turn.text, judged)
        before.append((turn.role, turn.text))


def _count(found: Summary, judged: Judged, known: bool) -> None:
    if judged.outcome == "unknown":
        found.unknown[judged.reason] += 1
    elif judged.outcome == "disputed":
        found.disputed += 1
    else:
        assert judged.behaviour is not None and judged.pole is not None
        one = found.judged.setdefault((judged.behaviour, judged.pole), Count())
        one.watched += 1
        one.failed += judged.outcome == "failed"
        one.known_before += known


def _meet(memory: Memory, known: Sequence[Behaviour]) -> Iterator[str]:
    for one in known:
        before, now = memory.behaviour_digest(one.name), digest(one)
        if before is not None and before != now:
            yield f"{one.name} reads otherwise than when it was watched last; what was judged before stays as it is"
        if before != now:
            memory.know(one.name, now, one.question)


def _tell_of_labels(found: Summary, looking: Looking, heard: Progress) -> None:
    for reason in found.unknown:
        if "which is not watched" in reason:
            heard.tell(f"{reason}.{nearest(reason.split(chr(39))[1], looking.known)}")


def _wrong(one: Behaviour, pole: Pole, answer: str) -> str:
    """Return what was wrong with an answer, in the behaviour's own words."""
    told = one.words.miss if pole == "express" else one.words.false_alarm
    if isinstance(one.check, Choice):
        chosen = one.check.chosen(answer)
        began = "with none of the options" if chosen is None else f"with the option '{chosen}'"
        told += f" (it begins {began})"
    return told


def _agreed(one: Behaviour, pole: Pole, better: str | None) -> str | None:
    """Return a better answer only where the behaviour's own check calls it one."""
    return better if better and one.check.passes(better) == (pole == "express") else None


def _unknown(reason: str) -> Judged:
    return Judged("unknown", reason)
