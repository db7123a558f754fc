"""Schema: what does a memory folder hold, and is this one of ours?

One SQLite file, ``memory.sqlite``, in write-ahead mode: readers see the last committed state while one process writes. The
file says whose it is (``application_id``) and in which version (``user_version``); anything else is refused by name.

SQLite itself sees damage only where it breaks a page's form. So whoever writes seals what there is with its hash, and whoever
opens it looks whether it still has it. A process that was killed leaves its last commits unsealed; then only the form is
looked at.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal
from urllib.parse import quote

from palimpsest.core.errors import UserError
from palimpsest.store.atomic import cannot_write

NAME = "memory.sqlite"
VERSION = 1
APPLICATION = 0x50414C4D
"""The letters PALM."""
BUSY_SECONDS = 5.0
"""So long a write waits for another process's before it gives up."""

_SEAL = "CREATE TABLE IF NOT EXISTS seal (commits INTEGER NOT NULL, sealed INTEGER NOT NULL, hash TEXT NOT NULL)"
_UNSEALED = ("seal", "surfacing")
"""Tables that a seal leaves out; what was surfaced is written by many, and nothing is concluded from it."""

Use = Literal["read", "write"]

TABLES = """
CREATE TABLE node (id INTEGER PRIMARY KEY, kind TEXT NOT NULL CHECK (kind IN ('behaviour', 'scenario', 'correction')));
CREATE TABLE behaviour (
    id INTEGER PRIMARY KEY REFERENCES node, name TEXT NOT NULL UNIQUE, digest TEXT NOT NULL, question TEXT NOT NULL);
CREATE TABLE scenario (
    id INTEGER PRIMARY KEY REFERENCES node, digest TEXT NOT NULL UNIQUE,
    messages TEXT NOT NULL, last TEXT NOT NULL, ending TEXT NOT NULL);
CREATE TABLE correction (
    id INTEGER PRIMARY KEY REFERENCES node, digest TEXT NOT NULL UNIQUE,
    behaviour INTEGER NOT NULL REFERENCES behaviour, pole TEXT NOT NULL CHECK (pole IN ('express', 'withhold')),
    scenario INTEGER NOT NULL REFERENCES scenario, conversation INTEGER NOT NULL REFERENCES conversation,
    said TEXT NOT NULL, wrong TEXT NOT NULL, better TEXT,
    covered INTEGER NOT NULL, failed INTEGER NOT NULL CHECK (failed BETWEEN 1 AND covered));
CREATE TABLE link (
    source INTEGER NOT NULL REFERENCES node, target INTEGER NOT NULL REFERENCES node,
    kind TEXT NOT NULL CHECK (kind IN ('of', 'arose in', 'like')), weight REAL NOT NULL CHECK (weight BETWEEN 0 AND 1),
    PRIMARY KEY (source, target, kind)) WITHOUT ROWID;
CREATE TABLE conversation (id INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, source TEXT NOT NULL, time REAL);
CREATE TABLE turn (
    id INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, conversation INTEGER NOT NULL REFERENCES conversation, time REAL,
    outcome TEXT NOT NULL CHECK (outcome IN ('passed', 'failed', 'disputed', 'unknown')),
    asked TEXT NOT NULL, reason TEXT NOT NULL,
    behaviour INTEGER REFERENCES behaviour, pole TEXT, how TEXT,
    correction INTEGER REFERENCES correction, known_before INTEGER REFERENCES correction);
CREATE TABLE surfacing (
    id INTEGER PRIMARY KEY, conversation TEXT NOT NULL, correction INTEGER NOT NULL REFERENCES correction,
    time REAL NOT NULL, score REAL NOT NULL, why TEXT NOT NULL);
CREATE INDEX link_target ON link (target, kind);
CREATE INDEX correction_scenario ON correction (scenario);
CREATE INDEX turn_of ON turn (behaviour, pole, outcome);
CREATE INDEX turn_conversation ON turn (conversation);
CREATE INDEX surfacing_conversation ON surfacing (conversation);
CREATE VIRTUAL TABLE scenario_text USING fts5 (
    words, content='', tokenize="unicode61 remove_diacritics 0 categories 'L* M* N* Co'");
CREATE VIRTUAL TABLE word USING fts5vocab (scenario_text, row);
"""


def connect(folder: Path, use: Use, *, whole: bool = True) -> sqlite3.Connection:
    """Open the memory of a folder; to write, one is made where there is none.

    Args:
        folder: where it lies.
        use: to read, or to write too.
        whole: look whether all of it is as it was written.

    Raises:
        UserError: the folder holds something else, a newer version, a damaged file, or can't be read or written.
    """
    file = folder / NAME
    check_place(folder, use)
    with told(folder):
        connection = sqlite3.connect(file, timeout=BUSY_SECONDS, isolation_level=None) if use == "write" else _reading(file)
        try:
            connection.execute("PRAGMA foreign_keys = ON")
            connection.execute("PRAGMA trusted_schema = OFF")  # a memory may come from somebody else
            _check_version(connection, file, use)
            if whole:
                _check_whole(connection, file)
            if use == "write":
                connection.execute(_SEAL)
        except BaseException:
            connection.close()
            raise
    return connection


@contextmanager
def told(folder: Path) -> Iterator[None]:
    """Tell SQLite's own errors in words that a user can act on."""
    try:
        yield
    except OSError as error:
        raise cannot_write(folder, error) from error
    except UnicodeDecodeError as error:  # of a message of SQLite's that quotes the file
        raise damaged(folder / NAME, error) from error
    except sqlite3.DatabaseError as error:
        raise _in_words(folder, error) from error


def _in_words(folder: Path, error: sqlite3.DatabaseError) -> UserError:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return UserError(
            f"another process writes {folder}, and did not let go within {BUSY_SECONDS:g} s; try again when it is done"
        )
    if code == sqlite3.SQLITE_FULL:
        return UserError(f"{folder} can't be written: the disk is full; free some space and give the same command again. "
                         "What was committed is kept.")  # fmt: skip
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return damaged(folder / NAME, error)
    if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_PERM):
        return UserError(f"{folder / NAME} can't be opened or written: {error}; who owns the folder?")
    if "fts5" in str(error):
        return UserError("this Python's SQLite has no full-text index (FTS5); use a Python that was built with it")
    if "decode to UTF-8" in str(error):
        return damaged(folder / NAME, "a text is none")
    raise error


def damaged(file: Path, why: object) -> UserError:
    """Return that a memory is not as it was written."""
    return UserError(f"{file} is damaged or no memory ({why}); move it away, and watch the transcripts again to have it back")


def commit(connection: sqlite3.Connection) -> None:
    """Commit what was written; until ``seal`` it is not sealed."""
    if not connection.execute("UPDATE seal SET commits = commits + 1").rowcount:
        connection.execute("INSERT INTO seal VALUES (1, 0, '')")
    connection.execute("COMMIT")


def seal(connection: sqlite3.Connection) -> None:
    """Note the hash of all that is remembered, where there were commits since it was noted last."""
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("UPDATE seal SET sealed = commits, hash = ? WHERE sealed < commits", (_hash(connection),))
    connection.execute("COMMIT")


def _check_whole(connection: sqlite3.Connection, file: Path) -> None:
    """Raise a ``UserError`` where a memory is not as it was written."""
    ((form,),) = connection.execute("PRAGMA integrity_check(1)").fetchall()
    if form != "ok":
        raise damaged(file, form)
    if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'seal'").fetchone():
        return
    connection.execute("BEGIN")  # what others write meanwhile is not seen
    try:
        sealed = connection.execute("SELECT hash FROM seal WHERE sealed = commits").fetchone()
        if sealed and sealed[0] != _hash(connection):
            raise damaged(file, "it is not what was written")
    finally:
        connection.execute("ROLLBACK")


def _hash(connection: sqlite3.Connection) -> str:
    """Return a hash of all rows of all tables that hold rows themselves."""
    found = hashlib.blake2b(digest_size=16)
    tables = connection.execute("SELECT name, sql FROM sqlite_master WHERE type = 'table' ORDER BY name").fetchall()
    for name, statement in tables:
        if name not in _UNSEALED and not statement.startswith("CREATE VIRTUAL"):
            found.update(f"{name} {statement}".encode())
            for row in connection.execute(f'SELECT * FROM "{name}" ORDER BY 1, 2'):
                found.update(repr(row).encode("utf-8", "surrogatepass"))
    return found.hexdigest()


def check_place(folder: Path, use: Use) -> None:
    """Check that a folder holds a memory or, to write, nothing.

    Raises:
        UserError: it holds something else.
    """
    file = folder / NAME
    try:
        if folder.exists() and not folder.is_dir():
            raise UserError(f"--memory must be a folder, but {folder} is a file")
        if file.exists():
            return
        if use == "read":
            raise UserError(f"{folder} holds no memory; make one with `palimpsest watch TRANSCRIPTS --memory {folder}`")
        others = sorted(one.name for one in folder.iterdir()) if folder.exists() else []
    except OSError as error:
        raise UserError(f"{folder} can't be read: {error.strerror or error}") from error
    others = [name for name in others if name != "lock" and not name.startswith(NAME)]
    if others:
        listed = ", ".join(others[:3]) + (f" and {len(others) - 3} more" if len(others) > 3 else "")
        raise UserError(f"{folder} is no memory: it holds {listed}; give a folder that is new or empty")


def _reading(file: Path) -> sqlite3.Connection:
    place = f"file:{quote(str(file.absolute()))}?mode=ro"
    connection = sqlite3.connect(place, timeout=BUSY_SECONDS, isolation_level=None, uri=True)
    try:
        connection.execute("PRAGMA schema_version").fetchone()
    except sqlite3.OperationalError:
        connection.close()
        if list(file.parent.glob(f"{NAME}-*")):
            raise
        # a folder that may not be written and that nobody writes: there is no shared index, and none is needed
        connection = sqlite3.connect(f"{place}&immutable=1", isolation_level=None, uri=True)
    return connection


def _check_version(connection: sqlite3.Connection, file: Path, use: Use) -> None:
    (owner,), (version,) = (connection.execute(f"PRAGMA {name}").fetchone() for name in ("application_id", "user_version"))
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if (owner, version, tables) == (0, 0, 0):  # new, or one whose making was cut off
        if use == "read":
            raise UserError(
                f"{file.parent} holds an empty memory; fill it with `palimpsest watch TRANSCRIPTS --memory {file.parent}`"
            )
        _make(connection)
        return
    if owner != APPLICATION:
        raise UserError(f"{file} is a database of another program; give another folder")
    if version > VERSION:
        raise UserError(
            f"{file} was made by a newer Palimpsest (version {version} of its form; this one reads up to {VERSION}); update it"
        )
    if version < VERSION:
        raise UserError(
            f"{file} has version {version} of its form, which is not read any more; watch the transcripts into a new folder"
        )


def _make(connection: sqlite3.Connection) -> None:
    """Make the tables in one transaction, so that there are all or none."""
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("BEGIN IMMEDIATE")
    for statement in TABLES.split(";\n"):
        if statement.strip():
            connection.execute(statement)
    connection.execute(f"PRAGMA application_id = {APPLICATION}")
    connection.execute(f"PRAGMA user_version = {VERSION}")
    connection.execute("COMMIT")
