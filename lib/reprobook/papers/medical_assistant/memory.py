"""Long-term memory in SQLite and short-term memory of a session.

Every write is one transaction: an interruption leaves the state before or after it, never half of it. A database that
another program holds, or that is damaged, is a :class:`MemoryUnitError`; it is never repaired, replaced or emptied.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from reprobook.errors import ReprobookError

Embed = Callable[[Sequence[str]], np.ndarray]  # texts -> unit vectors (n, width)
_OWNED = {  # tables that belong to a patient, and their columns besides id and user_id
    "contacts": ("name", "phone_no"),
    "complaints": ("symptoms", "at"),
    "appointments": ("symptoms", "specialist_id", "appointment_time_date"),
    "reports": ("at", "content"),
    "reminders": ("title", "at", "days_left"),
    "vitals": ("at", "heart_rate", "oxygen", "steps", "soft_sos"),
    "conversations": ("session", "state"),
}
TABLES = ("patients", "sos_services", *_OWNED)


class MemoryUnitError(ReprobookError):
    """The database cannot be used (locked, damaged), or was asked about somebody it does not know."""


@dataclass
class ShortTerm:
    """What one session knows: its turns so far and the vitals that were read during it. Cleared with every session."""

    turns: list[Any] = field(default_factory=list)
    vitals: list[Any] = field(default_factory=list)


class LongTerm:
    """Patients, contacts, complaints, appointments, reports, reminders, vitals and conversations in one file.

    ``path``: of the database, made if there is none; ``":memory:"`` keeps it in memory. ``embed`` gives unit vectors of
    texts for the retrieval of past complaints (MiniLM in the chapter; words in common by default). ``timeout_s``: how
    long to wait for another program's lock."""

    def __init__(self, path: Path | str = ":memory:", embed: Embed | None = None, timeout_s: float = 2.0) -> None:
        self.path, self.embed = path, embed or words
        self._writing = False  # inside a transaction of ours
        try:
            self._db = sqlite3.connect(str(path), timeout=timeout_s, check_same_thread=False, isolation_level=None)
        except sqlite3.Error as error:
            raise self._clear(error) from error
        self._db.row_factory = sqlite3.Row
        self._db.execute("PRAGMA secure_delete = ON")  # from the first page on: what moves or goes leaves no remnant
        with self._transaction() as db:
            db.execute("PRAGMA foreign_keys = ON")
            if (state := db.execute("PRAGMA quick_check").fetchone()[0]) != "ok":
                raise sqlite3.DatabaseError(state)
            for statement in _schema():
                db.execute(statement)
        self._db.execute("PRAGMA foreign_keys = ON")  # has no effect inside a transaction

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    @contextmanager
    def together(self) -> Iterator[None]:
        """All writes of the block are kept, or none."""
        with self._transaction():
            yield

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        try:
            if self._writing:  # part of a larger one
                yield self._db
                return
            self._db.execute("BEGIN IMMEDIATE")
            self._writing = True
            try:
                yield self._db
                self._db.execute("COMMIT")  # fails, and leaves the transaction open, while somebody reads
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise
            finally:
                self._writing = False
        except sqlite3.Error as error:
            raise self._clear(error) from error

    def _clear(self, error: sqlite3.Error) -> MemoryUnitError:
        text = str(error)
        if "locked" in text or "busy" in text:
            return MemoryUnitError(
                f"database {self.path} is locked by another program; nothing was written: close the other and try again"
            )
        if isinstance(error, sqlite3.ProgrammingError):
            return MemoryUnitError(f"database {self.path} cannot be used: {text}")
        if isinstance(error, sqlite3.OperationalError):
            return MemoryUnitError(f"database {self.path} cannot be used ({text}); nothing was written")
        if isinstance(error, sqlite3.IntegrityError):
            return MemoryUnitError(f"database {self.path} refused a row ({text}); nothing was written")
        return MemoryUnitError(
            f"database {self.path} is damaged ({text}); it was left as it is: restore a backup, or give another path"
        )

    # ------------------------------------------------------------------------------------------------ patients

    def add_patient(self, user_id: str, name: str, **details: Any) -> None:
        """Add a patient; an id that exists is an error."""
        with self._transaction() as db:
            row = (user_id, name, json.dumps(details, ensure_ascii=False))
            db.execute("INSERT INTO patients (user_id, name, details) VALUES (?, ?, ?)", row)

    def patient(self, user_id: str) -> dict[str, Any]:
        """``user_id``, ``name`` and details; :class:`MemoryUnitError` for an unknown user."""
        row = self._rows("SELECT * FROM patients WHERE user_id = ?", (user_id,))
        if not row:
            raise MemoryUnitError(f"user {user_id!r} is unknown: add the patient first")
        return {"user_id": row[0]["user_id"], "name": row[0]["name"], **json.loads(row[0]["details"])}

    def knows(self, user_id: str) -> bool:
        """Whether there is such a patient."""
        return bool(self._rows("SELECT 1 FROM patients WHERE user_id = ?", (user_id,)))

    def delete_patient(self, user_id: str) -> int:
        """Delete a patient and everything stored about them; returns the number of rows. The file's free pages are
        overwritten, so nothing stays readable in it."""
        self.patient(user_id)
        n = 1 + sum(len(self.rows(table, user_id)) for table in _OWNED)
        with self._transaction() as db:
            db.execute("DELETE FROM patients WHERE user_id = ?", (user_id,))
        return n

    # ------------------------------------------------------------------------------------------------ rows

    def add(self, table: str, user_id: str, **values: Any) -> int:
        """Add a row to one of a patient's tables; returns its id."""
        return self.add_many(table, user_id, [values])[-1]

    def add_many(self, table: str, user_id: str, rows: Sequence[Mapping[str, Any]]) -> list[int]:
        """Add rows in one transaction: all of them, or none."""
        statement, values = self._insertion(table, user_id, rows)
        with self._transaction() as db:
            return [int(db.execute(statement, row).lastrowid or 0) for row in values]

    def replace_all(self, table: str, user_id: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Put ``rows`` in the place of all the patient's rows of one table, in one transaction."""
        statement, values = self._insertion(table, user_id, rows)
        with self._transaction() as db:
            db.execute(f"DELETE FROM {table} WHERE user_id = ?", (user_id,))
            db.executemany(statement, values)

    def _insertion(
        self, table: str, user_id: str, rows: Sequence[Mapping[str, Any]]
    ) -> tuple[str, list[tuple[Any, ...]]]:
        """A checked statement and its values."""
        self.patient(user_id)
        columns = _columns(table)
        for row in rows:
            if unknown := set(row) - set(columns):
                raise MemoryUnitError(f"{table} has no column {sorted(unknown)[0]!r}; columns: {', '.join(columns)}")
        marks = ", ".join("?" * (len(columns) + 1))
        statement = f"INSERT INTO {table} (user_id, {', '.join(columns)}) VALUES ({marks})"
        return statement, [(user_id, *(_stored(row.get(name)) for name in columns)) for row in rows]

    def rows(self, table: str, user_id: str) -> list[dict[str, Any]]:
        """All rows of a patient in one table, oldest first."""
        columns = _columns(table)
        names = ", ".join(("id", *columns))
        return [
            dict(row) for row in self._rows(f"SELECT {names} FROM {table} WHERE user_id = ? ORDER BY id", (user_id,))
        ]

    def add_sos_service(self, ambulance_id: str, phone_no: str, latitude: float, longitude: float) -> None:
        """Add an ambulance."""
        with self._transaction() as db:
            row = (ambulance_id, phone_no, latitude, longitude)
            db.execute("INSERT OR REPLACE INTO sos_services VALUES (?, ?, ?, ?)", row)

    def sos_services(self) -> list[dict[str, Any]]:
        """All ambulances."""
        return [dict(row) for row in self._rows("SELECT * FROM sos_services ORDER BY ambulance_id", ())]

    def _rows(self, statement: str, values: tuple[Any, ...]) -> list[sqlite3.Row]:
        try:
            return self._db.execute(statement, values).fetchall()
        except sqlite3.Error as error:
            raise self._clear(error) from error

    # ------------------------------------------------------------------------------------------------ retrieval

    def past_complaints(
        self, user_id: str, symptoms: str, since: datetime | None = None, until: datetime | None = None,
        k: int = 2, at_least: float = 0.3,
    ) -> list[dict[str, Any]]:  # fmt: skip
        """The ``k`` past complaints most similar to ``symptoms`` (cosine, at least ``at_least``), best first, from the
        half-open time ``[since, until)``."""
        self.patient(user_id)
        rows = [
            row for row in self.rows("complaints", user_id)
            if (since is None or datetime.fromisoformat(row["at"]) >= since)
            and (until is None or datetime.fromisoformat(row["at"]) < until)
        ]  # fmt: skip
        if not rows:
            return []
        vectors = self.embed([symptoms, *(row["symptoms"] for row in rows)])
        similarity = vectors[1:] @ vectors[0]
        order = np.argsort(-similarity, kind="stable")[:k]
        return [{**rows[i], "similarity": float(similarity[i])} for i in order if similarity[i] >= at_least]

    # ------------------------------------------------------------------------------------------------ conversations

    def save_conversation(self, user_id: str, session: str, state: Mapping[str, Any]) -> None:
        """Keep the state of a session (plain values); a later state replaces an earlier one."""
        self.patient(user_id)
        text = json.dumps(state, ensure_ascii=False)
        with self._transaction() as db:
            db.execute("DELETE FROM conversations WHERE user_id = ? AND session = ?", (user_id, session))
            db.execute("INSERT INTO conversations (user_id, session, state) VALUES (?, ?, ?)", (user_id, session, text))

    def conversation(self, user_id: str, session: str) -> dict[str, Any]:
        """The state of a session, to resume it; :class:`MemoryUnitError` if there is none."""
        statement = "SELECT state FROM conversations WHERE user_id = ? AND session = ?"
        found = self._rows(statement, (user_id, session))
        if not found:
            raise MemoryUnitError(f"user {user_id!r} has no conversation {session!r}")
        return json.loads(found[0]["state"])


def _schema() -> Iterator[str]:
    yield "CREATE TABLE IF NOT EXISTS patients (user_id TEXT PRIMARY KEY, name TEXT NOT NULL, details TEXT NOT NULL)"
    yield (
        "CREATE TABLE IF NOT EXISTS sos_services "
        "(ambulance_id TEXT PRIMARY KEY, phone_no TEXT NOT NULL, latitude REAL NOT NULL, longitude REAL NOT NULL)"
    )
    for table, columns in _OWNED.items():
        yield (
            f"CREATE TABLE IF NOT EXISTS {table} (id INTEGER PRIMARY KEY, user_id TEXT NOT NULL "
            f"REFERENCES patients(user_id) ON DELETE CASCADE, {', '.join(columns)})"
        )


def _columns(table: str) -> tuple[str, ...]:
    if table not in _OWNED:
        raise MemoryUnitError(f"no table {table!r}; tables of a patient: {', '.join(_OWNED)}")
    return _OWNED[table]


def _stored(value: Any) -> Any:
    """SQLite's own types as they are (numpy's as plain numbers), a time as ISO text, everything else as JSON."""
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, np.generic):
        value = value.item()
    return value if value is None or isinstance(value, str | int | float | bytes) else json.dumps(value)


def words(texts: Sequence[str]) -> np.ndarray:
    """Unit vectors of the words of ``texts``: a cosine without a model."""
    from sklearn.feature_extraction.text import HashingVectorizer

    return HashingVectorizer(n_features=2**12, alternate_sign=False).transform(texts).toarray()


def remembered(embed: Embed) -> Embed:
    """``embed`` that computes the vector of each text once."""
    known: dict[str, np.ndarray] = {}

    def look_up(texts: Sequence[str]) -> np.ndarray:
        new = [text for text in dict.fromkeys(texts) if text not in known]
        if new:
            known.update(zip(new, np.asarray(embed(new)), strict=True))
        return np.stack([known[text] for text in texts])

    return look_up
