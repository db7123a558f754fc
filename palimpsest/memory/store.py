"""Store: which corrections are remembered, how much does each matter, and which cover a situation?

A graph in SQLite. Nodes are behaviours, scenarios (what stood before an answer that failed) and corrections (what the model
said, what was wrong with it, the better answer where one is known). Links carry weights: a correction's to its behaviour and
to its scenario are its importance, one between two scenarios is their likeness.

Importance is how likely a covered situation still goes wrong: (failures + 1) / (situations + 2), counted over the situations
that the correction covers, its own with them. A new one has 0.67; it rises with every return and falls with every answer that
is right again.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from palimpsest.core.errors import UserError, nearest
from palimpsest.core.spec import digest
from palimpsest.data.chat import Message, Pole
from palimpsest.memory.likeness import Situation, likeness, situation, words
from palimpsest.memory.records import Correction, Entry, Failure, Watched
from palimpsest.memory.schema import Use, check_place, commit, connect, seal, told
from palimpsest.store.lock import FolderLock

COVERS = 0.5
"""A correction covers a situation of its behaviour and pole that is at least so much like its own."""
LINKED = 0.3
"""Scenarios that are at least so alike are linked, the nearest ones."""
_MOST_LINKS = 8
_CANDIDATES = 50
_ASKED_WORDS = 16
"""The rarest words of a situation by which candidates are looked up."""
_LONGEST_WORDS = 400
_MOST_COMPARED = 10_000


class Memory:
    """A memory folder, open to read or to write; a context manager that closes it."""

    def __init__(self, folder: Path, connection: sqlite3.Connection, lock: FolderLock | None) -> None:
        self.folder, self._db, self._lock = folder, connection, lock
        self._written = False
        self._compared: dict[int, Situation] = {}
        """Scenarios that were compared; they never change, and their runs of characters take the most time."""

    @classmethod
    def open(cls, folder: str | Path, use: Use = "read", *, alone: bool = True) -> Self:
        """Open a memory.

        Args:
            folder: where it lies; to write, it is made where there is none.
            use: any number of processes may read while one writes.
            alone: to write, keep others from writing as long as it is open; otherwise wait a little for them at each write.

        Raises:
            UserError: it is no memory, is of a newer version, or another process writes it.
        """
        folder, lock = Path(folder), None
        check_place(folder, use if alone else "read")
        if use == "write" and alone:
            with told(folder):
                folder.mkdir(parents=True, exist_ok=True)
                lock = FolderLock(folder / "lock")
        try:
            return cls(folder, connect(folder, use, whole=alone), lock)
        except BaseException:
            if lock:
                lock.release()
            raise

    def close(self) -> None:
        """Close it; what was committed stays."""
        with suppress(sqlite3.Error):
            if self._written:
                seal(self._db)
            self._db.close()
        if self._lock:
            self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    # reading

    def behaviours(self) -> tuple[str, ...]:
        """Return the names of the behaviours that were watched."""
        return tuple(name for (name,) in self._all("SELECT name FROM behaviour ORDER BY name"))

    def behaviour_digest(self, name: str) -> str | None:
        """Return the digest of a behaviour as it was when it was last watched."""
        found = self._all("SELECT digest FROM behaviour WHERE name = ?", name)
        return found[0][0] if found else None

    def failures(self, behaviour: str, count: int) -> list[Failure]:
        """Return failed conversations of a behaviour, the most important first, then the newest; one a scenario.

        Conversations that no chat template takes (with the results of tools in them) are left out.

        Raises:
            UserError: the behaviour was never watched.
        """
        if behaviour not in self.behaviours():
            raise UserError(
                f"the memory {self.folder} knows no behaviour '{behaviour}'.{nearest(behaviour, self.behaviours())}"
            )
        found: list[Failure] = []
        seen: set[tuple[int, str]] = set()
        for one in self.corrections(behaviour):
            if len(found) >= count:
                break
            roles = self.messages(one.scenario)
            if (one.scenario, one.pole) not in seen and all(role in ("system", "user", "assistant") for role, _ in roles):
                seen.add((one.scenario, one.pole))
                messages = tuple(Message(role=role, content=text) for role, text in roles)  # type: ignore[arg-type]
                found.append(Failure(messages, one.pole, one))
        return found

    def corrections(self, behaviour: str | None = None) -> list[Correction]:
        """Return all corrections (of a behaviour), the most important first, then the newest."""
        which = "" if behaviour is None else "WHERE b.name = ?"
        rows = self._all(
            f"{_CORRECTION} {which} ORDER BY (c.failed + 1.0) / (c.covered + 2.0) DESC, c.id DESC",
            *(() if behaviour is None else (behaviour,)),
        )
        return [_correction(row) for row in rows]

    def messages(self, scenario: int) -> list[tuple[str, str]]:
        """Return role and text of the messages of a scenario."""
        ((text,),) = self._all("SELECT messages FROM scenario WHERE id = ?", scenario)
        return [(role, content) for role, content in json.loads(text)]

    def situation(self, scenario: int) -> Situation:
        """Return a scenario as it is compared."""
        ((last, ending),) = self._all("SELECT last, ending FROM scenario WHERE id = ?", scenario)
        return Situation(last, ending)

    def links(self, node: int, kind: str) -> list[tuple[int, float]]:
        """Return the nodes that links of a kind join with one, with their weights, the heaviest first."""
        rows = self._all(
            "SELECT target, weight FROM link WHERE source = ?1 AND kind = ?2 "
            "UNION SELECT source, weight FROM link WHERE target = ?1 AND kind = ?2",
            node,
            kind,
        )
        return sorted(rows, key=lambda row: (-row[1], row[0]))

    def corrections_of(self, scenario: int) -> list[Correction]:
        """Return the corrections that arose in a scenario."""
        return [_correction(row) for row in self._all(f"{_CORRECTION} WHERE c.scenario = ? ORDER BY c.id", scenario)]

    def like(self, wanted: Situation, behaviour: str | None = None, pole: Pole | None = None) -> list[tuple[int, float]]:
        """Return scenarios (of a behaviour and pole) with their likeness to a situation, the most alike first.

        Candidates come from the full-text index: those that BM25 ranks highest for the situation's rarest words.
        """
        asked = self._rarest(wanted)
        if not asked:
            return []
        query = " OR ".join('"' + word + '"' for word in asked)  # words hold no quotes: letters, digits, underscores
        which, values = "", [query]
        if behaviour is not None:
            which = (  # the plus keeps SQLite from searching once for each of these
                "AND +rowid IN (SELECT c.scenario FROM correction c JOIN behaviour b ON b.id = c.behaviour "
                "WHERE b.name = ? AND c.pole = ?)"
            )
            values += [behaviour, str(pole)]
        rows = self._all(
            "SELECT s.id, s.last, s.ending FROM "
            f"(SELECT rowid AS id FROM scenario_text WHERE scenario_text MATCH ? {which} ORDER BY bm25(scenario_text) "
            f"LIMIT {_CANDIDATES}) AS found JOIN scenario s ON s.id = found.id",
            *values,
        )
        if len(self._compared) > _MOST_COMPARED:
            self._compared.clear()
        alike = [
            (scenario, likeness(wanted, self._compared.setdefault(scenario, Situation(last, ending))))
            for scenario, last, ending in rows
        ]
        return sorted(alike, key=lambda one: (-one[1], one[0]))

    def _rarest(self, wanted: Situation) -> list[str]:
        """Return the words of a situation that the fewest scenarios have, of those that any has."""
        asked = list(dict.fromkeys([*words(wanted.last)[-_LONGEST_WORDS:], *words(wanted.end)[-_LONGEST_WORDS:]]))
        counted = []
        for word in asked:
            found = self._all("SELECT doc FROM word WHERE term = ?", word)
            if found:
                counted.append((found[0][0], word))
        return [word for _, word in sorted(counted)[:_ASKED_WORDS]]

    def settled(self, key: str, asked: str) -> bool:
        """Whether a turn is judged already, or could not be by those who are asked now."""
        found = self._all("SELECT outcome, asked FROM turn WHERE key = ?", key)
        return bool(found) and (found[0][0] != "unknown" or found[0][1] == asked)

    def counts(self) -> dict[str, int]:
        """Return how much of everything there is."""
        names = ("conversation", "turn", "behaviour", "scenario", "correction", "link", "surfacing")
        return {name: self._all(f"SELECT count(*) FROM {name}")[0][0] for name in names}

    def judged(self) -> list[tuple[str, Pole]]:
        """Return the behaviours and poles of which answers were judged."""
        return self._all(
            "SELECT DISTINCT b.name, t.pole FROM turn t JOIN behaviour b ON b.id = t.behaviour "
            "WHERE t.outcome IN ('passed', 'failed') ORDER BY b.name, t.pole"
        )

    def turns(self, behaviour: str, pole: Pole) -> list[tuple[int, float | None, float | None, bool, int | None]]:
        """Return (conversation, its time, the turn's time, failed, scenario of the failure) of judged turns, unordered."""
        rows = self._all(
            "SELECT t.conversation, v.time, t.time, t.outcome = 'failed', c.scenario FROM turn t "
            "JOIN conversation v ON v.id = t.conversation JOIN behaviour b ON b.id = t.behaviour "
            "LEFT JOIN correction c ON c.id = t.correction "
            "WHERE b.name = ? AND t.pole = ? AND t.outcome IN ('passed', 'failed') ORDER BY t.conversation, t.id",
            behaviour,
            pole,
        )
        return [(one, time, own, bool(failed), scenario) for one, time, own, failed, scenario in rows]

    def surfaced_in(self, conversation: str) -> list[Correction]:
        """Return the corrections that were surfaced in a conversation before."""
        which = "WHERE c.id IN (SELECT correction FROM surfacing WHERE conversation = ?) ORDER BY c.id"
        return [_correction(row) for row in self._all(f"{_CORRECTION} {which}", conversation)]

    # writing

    def know(self, name: str, spec_digest: str, question: str) -> None:
        """Remember a behaviour, or that it reads otherwise now."""
        with self._transaction():
            self._behaviour(name, spec_digest, question)

    def record(self, entries: Iterable[Entry]) -> list[tuple[Watched, int | None]]:
        """Enter conversations, all of them or none.

        Returns:
            Each turn with the correction that was known before and covers its failure, if it failed and there is one.
        """
        found = []
        with self._transaction():
            for key, source, time, turns in entries:
                self._run("INSERT OR IGNORE INTO conversation (key, source, time) VALUES (?, ?, ?)", key, source, time)
                ((conversation,),) = self._all("SELECT id FROM conversation WHERE key = ?", key)
                found += [(turn, self._turn(conversation, turn)) for turn in turns]
        return found

    def surfaced(self, conversation: str, time: float, found: Sequence[tuple[int, float, str]]) -> None:
        """Record that corrections (id, score, why) were shown in a conversation at a time (seconds since 1970)."""
        with self._transaction(sealed=False):
            for correction, score, why in found:
                self._run(
                    "INSERT INTO surfacing (conversation, correction, time, score, why) VALUES (?, ?, ?, ?, ?)",
                    conversation, correction, time, score, why,
                )  # fmt: skip

    def _turn(self, conversation: int, turn: Watched) -> int | None:
        judged, behaviour, known, correction = turn.judged, None, None, None
        if judged.behaviour is not None:
            ((behaviour,),) = self._all("SELECT id FROM behaviour WHERE name = ?", judged.behaviour)
        if judged.outcome in ("passed", "failed"):
            now = situation([text for _, text in turn.before])
            known = self._covered(conversation, turn, now)
            if judged.outcome == "failed":
                correction = self._correct(conversation, turn, now, behaviour)
            else:
                known = None
        self._run(
            "INSERT INTO turn "
            "(key, conversation, time, outcome, asked, reason, behaviour, pole, how, correction, known_before) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (key) DO UPDATE SET outcome = excluded.outcome, "
            "asked = excluded.asked, reason = excluded.reason, behaviour = excluded.behaviour, pole = excluded.pole, "
            "how = excluded.how, correction = excluded.correction, known_before = excluded.known_before",
            turn.key, conversation, turn.time, judged.outcome, turn.asked, judged.reason, behaviour, judged.pole, judged.how,
            correction, known,
        )  # fmt: skip
        return known

    def _covered(self, conversation: int, turn: Watched, now: Situation) -> int | None:
        """Count the situation for every correction from another conversation that covers it; return the nearest of them."""
        failed, known = turn.judged.outcome == "failed", None
        for scenario, alike in self.like(now, turn.judged.behaviour, turn.judged.pole):
            if alike < COVERS:
                break
            for (one,) in self._all(
                "SELECT c.id FROM correction c JOIN behaviour b ON b.id = c.behaviour "
                "WHERE c.scenario = ? AND b.name = ? AND c.pole = ? AND c.conversation != ? ORDER BY c.id",
                scenario, turn.judged.behaviour, turn.judged.pole, conversation,
            ):  # fmt: skip
                known = one if known is None else known
                self._run("UPDATE correction SET covered = covered + 1, failed = failed + ? WHERE id = ?", int(failed), one)
                self._weigh(one)
        return known

    def _correct(self, conversation: int, turn: Watched, now: Situation, behaviour: int | None) -> int:
        """Return the correction of a failure, a new one where this answer was not given here before."""
        judged, scenario = turn.judged, self._scenario(turn, now)
        key = digest([judged.behaviour, judged.pole, scenario, turn.said])
        if found := self._all("SELECT id, better FROM correction WHERE digest = ?", key):
            ((one, better),) = found
            if better is None and judged.better:
                self._run("UPDATE correction SET better = ? WHERE id = ?", judged.better, one)
            return one
        one = self._node("correction")
        self._run(
            "INSERT INTO correction "
            "(id, digest, behaviour, pole, scenario, conversation, said, wrong, better, covered, failed) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, 1, 1)",
            one, key, behaviour, judged.pole, scenario, conversation, turn.said, judged.reason, judged.better,
        )  # fmt: skip
        self._run("INSERT INTO link VALUES (?, ?, 'of', 0), (?, ?, 'arose in', 0)", one, behaviour, one, scenario)
        self._weigh(one)
        return one

    def _scenario(self, turn: Watched, now: Situation) -> int:
        text = json.dumps(turn.before, ensure_ascii=False)
        key = digest(turn.before)
        if found := self._all("SELECT id FROM scenario WHERE digest = ?", key):
            return found[0][0]
        neighbours = [one for one in self.like(now) if one[1] >= LINKED][:_MOST_LINKS]
        scenario = self._node("scenario")
        self._run("INSERT INTO scenario VALUES (?, ?, ?, ?, ?)", scenario, key, text, now.last, now.end)
        self._run("INSERT INTO scenario_text (rowid, words) VALUES (?, ?)", scenario, " ".join(words(now.end)))
        for other, alike in neighbours:
            self._run("INSERT INTO link VALUES (?, ?, 'like', ?)", scenario, other, min(alike, 1.0))
        return scenario

    def _weigh(self, correction: int) -> None:
        self._run(
            "UPDATE link SET weight = (SELECT (failed + 1.0) / (covered + 2.0) FROM correction WHERE id = ?1) "
            "WHERE source = ?1 AND kind IN ('of', 'arose in')",
            correction,
        )

    def _behaviour(self, name: str, spec_digest: str, question: str) -> None:
        if self._all("SELECT id FROM behaviour WHERE name = ?", name):
            self._run("UPDATE behaviour SET digest = ?, question = ? WHERE name = ?", spec_digest, question, name)
        else:
            one = self._node("behaviour")
            self._run("INSERT INTO behaviour VALUES (?, ?, ?, ?)", one, name, spec_digest, question)

    def _node(self, kind: str) -> int:
        with told(self.folder):
            found = self._db.execute("INSERT INTO node (kind) VALUES (?)", (kind,)).lastrowid
        assert found is not None
        return found

    @contextmanager
    def _transaction(self, *, sealed: bool = True) -> Iterator[None]:
        """All that is written in the block is there after it, or nothing of it."""
        self._run("BEGIN IMMEDIATE")
        try:
            yield
            with told(self.folder):
                commit(self._db) if sealed else self._db.execute("COMMIT")
            self._written |= sealed
        except BaseException:
            with suppress(sqlite3.Error):
                self._db.execute("ROLLBACK")
            raise

    def _run(self, statement: str, *values: Any) -> None:
        with told(self.folder):
            self._db.execute(statement, values)

    def _all(self, statement: str, *values: Any) -> list[Any]:
        with told(self.folder):
            return self._db.execute(statement, values).fetchall()


_CORRECTION = (
    "SELECT c.id, b.name, c.pole, c.said, c.wrong, c.better, (c.failed + 1.0) / (c.covered + 2.0), c.covered, c.failed, "
    "c.scenario FROM correction c JOIN behaviour b ON b.id = c.behaviour"
)
_correction: Callable[[Any], Correction] = lambda row: Correction(*row)  # noqa: E731
