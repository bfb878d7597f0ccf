"""SQL databases: a few threads, each with a connection of its own, and questions to them.

It knows nothing of drivers but what `SqlDriver` says, and nothing of what is asked. It is not
`twisted.enterprise.adbapi`, whose threads keep the process from ending while a server hangs, whose
queue has no bound and no clock, and which logs a traceback for each connection that breaks.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import Any, Final

import attrs
from twisted.application.service import Service
from twisted.internet.defer import Deferred, fail, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from llmproxy.config.model_stores import Database
from llmproxy.errors import StoreUnavailable, ValueRefused
from llmproxy.interfaces import IDatabase
from llmproxy.stores.sql_connection import ConnectionBroken, Rows, SqlConnection, SqlDriver

MAX_WAITING_EACH: Final = 100
"""Questions that may wait for each of the connections; more are refused at once."""

STOP_S: Final = 3.0
"""How long stopping waits for threads that are at something; then they are left behind."""


def make_database(settings: Database, reactor: Any) -> SqlDatabase:
    """Make what asks a database; it is to be started and stopped.

    Args:
        settings: One of ``storage.databases``.
        reactor: The reactor.

    Raises:
        ValueError: ``dsn`` cannot be read; the message shows nothing of it.
    """
    return SqlDatabase(settings, _make_driver(settings), reactor)


def _make_driver(settings: Database) -> SqlDriver:
    # Each is imported only when the configuration asks for it: they cost memory.
    if settings.driver == "postgres":
        from llmproxy.stores.sql_postgres import PostgresDriver

        return PostgresDriver(settings)
    if settings.driver == "mysql":
        from llmproxy.stores.sql_mysql import MysqlDriver

        return MysqlDriver(settings)
    from llmproxy.stores.sql_sqlite import SqliteDriver

    return SqliteDriver(settings)


@implementer(IDatabase)
class SqlDatabase(Service):
    """One SQL database; connections are made as they are needed.

    A question is answered, or fails, within the configured time, whatever its thread is at. A
    thread whose question was given up has its connection cut and is used again when it notices;
    while all of them are at such questions, nothing more is taken.

    Args:
        settings: One of ``storage.databases``.
        driver: Connects to it.
        reactor: Gives the time, and is told by the threads.

    Attributes:
        dialect: Whose SQL it speaks.
        marker: What stands for a parameter in statements.
        quote: What stands on both sides of an identifier.
    """

    _log = Logger()

    def __init__(self, settings: Database, driver: SqlDriver, reactor: Any) -> None:
        self.dialect = driver.dialect
        self.marker = driver.marker
        self.quote = driver.quote
        self._settings = settings
        self._driver = driver
        self._reactor = reactor
        self._waiting: deque[_Question] = deque()
        self._idle: list[_Asker] = []
        self._busy: dict[_Asker, _Question] = {}
        self._stopped: Deferred[None] | None = None
        self._stop_timer: Any = None
        self._told_of_outage = False

    def __repr__(self) -> str:
        return (
            f"<SqlDatabase {self._settings.name}: {len(self._busy)} of "
            f"{self._settings.pool_size} connections busy, {self._stuck} stuck, "
            f"{len(self._waiting)} questions waiting>"
        )

    @property
    def is_up(self) -> bool:
        """Whether it answered when it was last asked, or never was."""
        return not self._told_of_outage

    @property
    def _stuck(self) -> int:
        return sum(question.given_up for question in self._busy.values())

    def stopService(self) -> Deferred[None]:
        """Take no more questions, finish those that were begun, and close all connections."""
        super().stopService()
        for question in list(self._waiting):
            self._fail(question, "it is not asked any more")
        for asker in self._idle:
            asker.end()
        self._idle.clear()
        if not self._busy:
            return succeed(None)
        stopped = self._stopped = Deferred()
        self._stop_timer = self._reactor.callLater(STOP_S, self._leave_behind)
        return stopped

    def query(self, statement: str, parameters: Sequence[Any] = ()) -> Deferred[Rows]:
        """Ask; see `IDatabase.query`.

        A question that only reads is asked a second time when its connection turns out to be
        broken: the server may have been restarted since. Parameters that the database cannot
        hold, such as a text with a NUL, find nothing.
        """
        return self._ask(_Question(statement, parameters))

    def write(self, statement: str, rows: Sequence[Sequence[Any]]) -> Deferred[None]:
        """Write; see `IDatabase.write`."""
        return self._ask(_Question(statement, rows, writes=True)).addCallback(lambda _: None)

    def _ask(self, question: _Question) -> Deferred[Rows]:
        """Have a question asked when a connection is free."""
        if not self.running:
            return fail(self._unavailable("it is not asked any more"))
        size = self._settings.pool_size
        if self._stuck >= size:
            return fail(self._unavailable("no answer came to the last questions"))
        if len(self._waiting) >= MAX_WAITING_EACH * size:
            return fail(self._unavailable("too many questions wait for it"))
        question.answer = Deferred(lambda _: self._forget(question))
        question.timer = self._reactor.callLater(self._settings.timeout, self._give_up, question)
        self._waiting.append(question)
        self._dispatch()
        return question.answer

    def _dispatch(self) -> None:
        """Give waiting questions to those who can ask them."""
        while self._waiting and self.running:
            if self._idle:
                asker = self._idle.pop()
            elif len(self._busy) < self._settings.pool_size:
                asker = _Asker(self._driver, self._settings.name, self._on_outcome)
            else:
                return
            question = self._waiting.popleft()
            self._busy[asker] = question
            asker.ask(question)

    def _on_outcome(self, asker: _Asker, outcome: _Outcome) -> None:
        """Tell the reactor; runs in the asker's thread."""
        self._reactor.callFromThread(self._conclude, asker, outcome)

    def _conclude(self, asker: _Asker, outcome: _Outcome) -> None:
        question = self._busy.pop(asker, None)
        if question is None:  # it was left behind
            return
        if self.running:
            self._idle.append(asker)
        else:
            asker.end()
        _stop_timer(question)
        if isinstance(outcome, Failure):
            self._log.failure(
                "database {name}: a question failed", outcome, name=self._settings.name
            )
            outcome = StoreUnavailable("the question failed")
        if isinstance(outcome, StoreUnavailable):
            self._fail(question, str(outcome))
        else:
            self._tell_of_return()
            if question.answer.called:
                pass
            elif isinstance(outcome, ValueRefused):
                question.answer.errback(outcome)
            else:
                question.answer.callback(outcome)
        self._dispatch()
        if self._stop_timer is not None and not self._busy:
            self._stop_timer.cancel()
            self._end_stopping()

    def _give_up(self, question: _Question) -> None:
        """Fail a question whose time is over."""
        question.given_up = True
        asker = next((each for each, asked in self._busy.items() if asked is question), None)
        self._fail(question, "no answer came in time")
        if asker is not None:
            asker.cut()

    def _forget(self, question: _Question) -> None:
        """Drop a cancelled question; if it was begun, its time still runs."""
        if question in self._waiting:
            self._waiting.remove(question)
            _stop_timer(question)

    def _fail(self, question: _Question, reason: str) -> None:
        self._forget(question)
        self._tell_of_outage(reason)
        if not question.answer.called:
            question.answer.errback(self._unavailable(reason))

    def _leave_behind(self) -> None:
        """End the stopping; threads that are still at something end when they can."""
        for asker, question in self._busy.items():
            asker.cut()
            asker.end()
            _stop_timer(question)
            self._fail(question, "it is not asked any more")
        self._busy.clear()
        self._end_stopping()

    def _end_stopping(self) -> None:
        stopped, self._stopped, self._stop_timer = self._stopped, None, None
        if stopped is not None:
            stopped.callback(None)

    def _unavailable(self, reason: str) -> StoreUnavailable:
        return StoreUnavailable(f"database {self._settings.name} cannot be asked: {reason}")

    def _tell_of_outage(self, reason: str) -> None:
        """Log that it does not answer: once, until it does again."""
        if self.running and not self._told_of_outage:
            self._told_of_outage = True
            self._log.warn(
                "database {name}: cannot be asked: {reason}",
                name=self._settings.name,
                reason=reason,
            )

    def _tell_of_return(self) -> None:
        if self._told_of_outage:
            self._told_of_outage = False
            self._log.info("database {name}: is back", name=self._settings.name)


@attrs.define(eq=False)
class _Question:
    """One query, until it is answered.

    Attributes:
        statement: What is asked; with `parameters`.
        parameters: In the order of their markers; where it writes, a row of them for each time.
        writes: Whether it is run with each of several rows, in one transaction.
        given_up: Whether its time is over.
        answer: Fires with the rows.
        timer: Gives it up.
    """

    statement: str
    parameters: Sequence[Any] = attrs.field(repr=False)  # keys, perhaps
    writes: bool = False
    given_up: bool = False
    answer: Deferred[Rows] = attrs.field(factory=Deferred, repr=False)
    timer: Any = attrs.field(default=None, repr=False)

    @property
    def only_reads(self) -> bool:
        """Whether asking it twice does no more than asking it once."""
        return not self.writes and self.statement.lstrip()[:6].upper() == "SELECT"


_Outcome = Rows | StoreUnavailable | ValueRefused | Failure
"""What a question ended with."""


class _Asker:
    """A thread with a connection, which it makes when it is asked something and has none.

    Args:
        driver: Connects.
        name: The database's.
        on_outcome: Called in the thread with this and what a question ended with.
    """

    def __init__(
        self,
        driver: SqlDriver,
        name: str,
        on_outcome: Callable[[_Asker, _Outcome], None],
    ) -> None:
        self._driver = driver
        self._on_outcome = on_outcome
        self._questions: SimpleQueue[_Question | None] = SimpleQueue()
        self._connection: SqlConnection | None = None
        # A daemon: one that hangs, in a look-up of a name for example, must not keep the process.
        threading.Thread(target=self._run, name=f"database {name}", daemon=True).start()

    def ask(self, question: _Question) -> None:
        """Ask a question; it must not be at another."""
        self._questions.put(question)

    def cut(self) -> None:
        """End what it is at, if that can be done."""
        connection = self._connection
        if connection is not None:
            connection.cut()

    def end(self) -> None:
        """Have it close its connection and end, after what it is at."""
        self._questions.put(None)

    def _run(self) -> None:
        while (question := self._questions.get()) is not None:
            outcome: _Outcome
            try:
                outcome = self._rows(question)
            except (StoreUnavailable, ValueRefused) as error:
                outcome = error
            except Exception:  # noqa: BLE001 - the thread's outermost edge; it is logged
                outcome = Failure()
            self._on_outcome(self, outcome)
        self._drop()

    def _rows(self, question: _Question) -> Rows:
        if question.given_up:
            raise StoreUnavailable("no answer came in time")
        connection = self._connection
        if connection is not None and connection.is_usable:
            try:
                return self._ask_once(connection, question)
            except ConnectionBroken:
                if question.given_up or not question.only_reads:
                    raise
        self._drop()
        self._connection = connection = self._driver.connect()
        if question.given_up:
            raise StoreUnavailable("no answer came in time")
        return self._ask_once(connection, question)

    def _ask_once(self, connection: SqlConnection, question: _Question) -> Rows:
        try:
            if question.writes:
                connection.write(question.statement, question.parameters)
                return ()
            return connection.ask(question.statement, question.parameters)
        except ConnectionBroken:
            self._drop()
            raise

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


def _stop_timer(question: _Question) -> None:
    if question.timer.active():
        question.timer.cancel()
