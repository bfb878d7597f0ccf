"""The table of usage records in an SQL database: its columns, its statements, and rows that fit.

Pure, for three dialects. The columns are the fields of a record under the same names. A later
version may add columns, which older tables get; none is ever dropped or changed. It knows no
connections.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, Literal

import attrs
import msgspec

from llmproxy.config.key_fields import parse_table
from llmproxy.wire.tool_calls import add_calls
from llmproxy.wire.usage_record import UsageRecordJson

Dialect = Literal["postgres", "mysql", "sqlite"]
Kind = Literal["id", "name", "text", "time", "count", "number", "flag"]

LONGEST_NAME: Final = 256
"""Characters of a column of names; longer ones are cut."""

LONGEST_TEXT: Final = 1_000_000
"""Characters of any other text: what every server takes in one statement as it is set up."""

LARGEST_COUNT: Final = 2**63 - 1
"""What a BIGINT holds; larger counts are stored as this."""

OURS: Final = ("id", "time", "request_id", "outcome")
"""The columns by which a table is known to be one of usage records."""

INDEXES: Final[Mapping[str, tuple[str, ...]]] = {
    "time": ("time",),
    "key": ("key_id", "time"),
    "session": ("session_id",),
}
"""The columns of each index, by the end of its name."""

_KINDS: Final[Mapping[str, Kind]] = {
    "id": "id",
    "time": "time",
    "stream": "flag",
    "tool_calls": "text",
    "tried": "text",
    "request_body": "text",
    **dict.fromkeys(
        (
            "prompt_tokens",
            "completion_tokens",
            "total_tokens",
            "cached_tokens",
            "reasoning_tokens",
            "status",
            "attempts",
            "bytes_in",
            "bytes_out",
        ),
        "count",
    ),
    **dict.fromkeys(("first_byte_ms", "duration_ms", "queue_ms"), "number"),
}
COLUMNS: Final[Mapping[str, Kind]] = {
    field: _KINDS.get(field, "name") for field in UsageRecordJson.__struct_fields__
}
"""Every column, in order, and what it holds."""

_TYPES: Final[Mapping[Dialect, Mapping[Kind, str]]] = {
    "postgres": {
        "id": "TEXT PRIMARY KEY",
        "name": "TEXT NOT NULL DEFAULT ''",
        "text": "TEXT",
        "time": "TIMESTAMPTZ NOT NULL",
        "count": "BIGINT NOT NULL DEFAULT 0",
        "number": "DOUBLE PRECISION",
        "flag": "BOOLEAN NOT NULL DEFAULT FALSE",
    },
    "mysql": {
        "id": f"VARCHAR({LONGEST_NAME}) PRIMARY KEY",
        "name": f"VARCHAR({LONGEST_NAME}) NOT NULL DEFAULT ''",
        "text": "LONGTEXT",
        "time": "DATETIME(3) NOT NULL",
        "count": "BIGINT NOT NULL DEFAULT 0",
        "number": "DOUBLE",
        "flag": "BOOLEAN NOT NULL DEFAULT FALSE",
    },
    "sqlite": {
        "id": "TEXT PRIMARY KEY NOT NULL",
        "name": "TEXT NOT NULL DEFAULT ''",
        "text": "TEXT",
        "time": "TEXT NOT NULL",
        "count": "INTEGER NOT NULL DEFAULT 0",
        "number": "REAL",
        "flag": "INTEGER NOT NULL DEFAULT 0",
    },
}
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


@attrs.frozen
class RecordTable:
    """One table of usage records.

    Attributes:
        table: Its name, with or without a schema.
        dialect: Whose SQL is spoken there.
        marker: What stands for a parameter.
        quote: What stands on both sides of an identifier.
    """

    table: str
    dialect: Dialect
    marker: str
    quote: str

    def look(self) -> tuple[str, Sequence[str | None]]:
        """Give the question for its columns: of each the name, and whether it is in a unique key.

        There are no rows when there is no such table.
        """
        *schemas, name = parse_table(self.table)
        if self.dialect == "postgres":
            return (
                "SELECT a.attname, EXISTS (SELECT 1 FROM pg_index i WHERE i.indrelid = a.attrelid "
                "AND i.indisunique AND i.indpred IS NULL AND a.attnum = ANY(i.indkey::int2[])) "
                "FROM pg_attribute a WHERE a.attrelid = to_regclass(%s) AND a.attnum > 0 "
                "AND NOT a.attisdropped",
                (self._name,),
            )
        if self.dialect == "mysql":
            return (
                "SELECT column_name, EXISTS (SELECT 1 FROM information_schema.statistics s "
                "WHERE s.table_schema = c.table_schema AND s.table_name = c.table_name "
                "AND s.column_name = c.column_name AND s.non_unique = 0) "
                "FROM information_schema.columns c "
                "WHERE c.table_schema = COALESCE(%s, DATABASE()) AND c.table_name = %s",
                (schemas[0] if schemas else None, name),
            )
        schema = schemas[0] if schemas else "main"
        return (
            "SELECT c.name, c.pk > 0 OR EXISTS (SELECT 1 FROM pragma_index_list(?, ?) l, "
            'pragma_index_info(l.name, ?) i WHERE l."unique" AND NOT l.partial '
            "AND i.name = c.name) FROM pragma_table_info(?, ?) c",
            (name, schema, schema, name, schema),
        )

    def create(self) -> str:
        """Give the statement that makes it."""
        parts = [f"{self._quoted(column)} {self._type(column)}" for column in COLUMNS]
        ending = ""
        if self.dialect == "mysql":
            parts += ["INDEX {} ({})".format(*self._index(end)) for end in INDEXES]
            # Ids and names are what they are: their case counts.
            ending = " CHARACTER SET utf8mb4 COLLATE utf8mb4_bin"
        return f"CREATE TABLE IF NOT EXISTS {self._name} ({', '.join(parts)}){ending}"

    def create_indexes(self) -> Iterator[str]:
        """Give the statements that make its indexes, where `create` did not."""
        if self.dialect == "mysql":
            return
        *schema, table = map(self._quoted, parse_table(self.table))
        for end in INDEXES:
            name, columns = self._index(end)
            if self.dialect == "sqlite":  # the schema is told with the index
                name, on = ".".join((*schema, name)), table
            else:
                on = self._name
            yield f"CREATE INDEX IF NOT EXISTS {name} ON {on} ({columns})"

    def add_column(self, column: str) -> str:
        """Give the statement that adds a column to an older table."""
        return f"ALTER TABLE {self._name} ADD COLUMN {self._quoted(column)} {self._type(column)}"

    def insert(self) -> str:
        """Give the statement that stores a row, unless one of that id is there."""
        columns = ", ".join(map(self._quoted, COLUMNS))
        markers = ", ".join(self.marker for _ in COLUMNS)
        # MySQL's INSERT IGNORE would ignore far more than that.
        ending = (
            "ON DUPLICATE KEY UPDATE `id` = `id`"
            if self.dialect == "mysql"
            else "ON CONFLICT DO NOTHING"
        )
        return f"INSERT INTO {self._name} ({columns}) VALUES ({markers}) {ending}"

    def row(self, record: UsageRecordJson) -> tuple[Any, ...]:
        """Give a record as a row, in the order of the columns, cut to what they hold."""
        return tuple(
            self._fitted(kind, getattr(record, column)) for column, kind in COLUMNS.items()
        )

    @property
    def _name(self) -> str:
        return ".".join(map(self._quoted, parse_table(self.table)))

    def _quoted(self, identifier: str) -> str:
        return f"{self.quote}{identifier}{self.quote}"

    def _index(self, end: str) -> tuple[str, str]:
        """Give an index's name and columns."""
        name = f"{parse_table(self.table)[-1][: 62 - len(end)]}_{end}"
        return self._quoted(name), ", ".join(map(self._quoted, INDEXES[end]))

    def _type(self, column: str) -> str:
        return _TYPES[self.dialect][COLUMNS[column]]

    def _fitted(self, kind: Kind, value: Any) -> Any:
        if kind == "time":
            return self._time(value)
        if kind == "count":
            return min(max(value, 0), LARGEST_COUNT)
        if isinstance(value, str):
            # PostgreSQL's text holds no NUL.
            return value[: _longest(kind)].replace("\0", "\N{REPLACEMENT CHARACTER}")
        if isinstance(value, dict):
            calls: dict[str, int] = {}
            add_calls(calls, value)
            return msgspec.json.encode(calls).decode()
        if isinstance(value, list):
            return msgspec.json.encode(value).decode()
        return None if value is msgspec.UNSET else value

    def _time(self, text: str) -> str:
        try:
            moment = datetime.fromisoformat(text).astimezone(UTC)
        except (ValueError, OverflowError):
            moment = _EPOCH  # of a version that wrote none; the id is what matters
        written = moment.isoformat(sep=" ", timespec="milliseconds")
        if self.dialect == "postgres":
            return written
        plain = written.removesuffix("+00:00")
        return plain if self.dialect == "mysql" else plain.replace(" ", "T") + "Z"


def in_ascii(row: Sequence[Any]) -> tuple[Any, ...]:
    r"""Give a row with other characters escaped (``\u2603``), for a database that has not all."""
    return tuple(
        value.encode("ascii", "backslashreplace").decode()[: _longest(kind)]
        if isinstance(value, str)
        else value
        for kind, value in zip(COLUMNS.values(), row, strict=True)
    )


def _longest(kind: Kind) -> int:
    return LONGEST_TEXT if kind == "text" else LONGEST_NAME
