"""Reloading the configuration: one after the other, all or nothing, and told to whoever watches.

It knows when a reload is due and what became of it; what one consists of is handed in.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from llmproxy.config.load import LoadedConfig
from llmproxy.errors import ConfigError, Problem
from llmproxy.values import ConfigStatus

_T = TypeVar("_T")


class ConfigLife:
    """Which configuration is in force.

    Args:
        digest: The first one's.
        now: Gives the wall clock's time, seconds since the epoch.
        failed: Called with the number of problems of each reload that changes nothing.
    """

    def __init__(
        self,
        digest: str,
        now: Callable[[], float],
        failed: Callable[[int], None] = lambda _problems: None,
    ) -> None:
        self._now = now
        self._failed = failed
        self._status = ConfigStatus(digest, now())

    def __repr__(self) -> str:
        return f"<ConfigLife {self._status!r}>"

    def status(self) -> ConfigStatus:
        """Say which it is, and what became of the last reload."""
        return self._status

    def resume(self, status: ConfigStatus) -> None:
        """Take over what another process knows of the same configuration."""
        self._status = status

    def replaced(self, digest: str) -> None:
        """Take note of a reload that went well."""
        now_s = self._now()
        since_s = self._status.since_s if digest == self._status.digest else now_s
        self._status = ConfigStatus(digest, since_s, now_s)

    def stayed(self, problems: int) -> None:
        """Take note of a reload that changed nothing, for so many problems."""
        before = self._status
        self._status = ConfigStatus(before.digest, before.since_s, self._now(), problems)
        self._failed(problems)


class Watcher(Protocol):
    """Whoever supervises the daemon."""

    def reloading(self) -> None:
        """A reload begins."""

    def ready(self, status: str) -> None:
        """It is over, whatever became of it."""


class Reloader:
    """Reloads when it is asked to.

    Asked while it reloads, it reloads once more afterwards, however often it was asked: the file as
    it is at the last request counts.

    Args:
        load: Reads the file; its Deferred fails with `ConfigError`, and is never cancelled.
        replace: Puts what was read in force, or raises `ConfigError` and changes nothing; gives
            the digest.
        life: Takes note of what became of it.
        watcher: Is told of each.
    """

    _log = Logger()

    def __init__(
        self,
        load: Callable[[], Deferred[LoadedConfig]],
        replace: Callable[[LoadedConfig], str],
        *,
        life: ConfigLife,
        watcher: Watcher,
    ) -> None:
        self._load = load
        self._replace = replace
        self._life = life
        self._watcher = watcher
        self._is_wanted = False
        self._is_over = False
        self._is_reloading = False

    def __repr__(self) -> str:
        state = "over" if self._is_over else "reloading" if self._is_reloading else "idle"
        return f"<Reloader {state}>"

    def request(self) -> None:
        """Have the file read anew."""
        if self._is_over:
            self._log.info("the daemon is ending: its configuration is not read any more")
            return
        self._is_wanted = True
        if not self._is_reloading:
            Deferred.fromCoroutine(self._run())

    def stop(self) -> None:
        """Reload no more; what is being read changes nothing any more."""
        self._is_over = True

    async def _run(self) -> None:
        self._is_reloading = True
        while self._is_wanted and not self._is_over:
            self._is_wanted = False
            self._watcher.reloading()
            await self._reload()
            if not self._is_over:
                self._watcher.ready(self.summary())
        self._is_reloading = False

    def summary(self) -> str:
        """Say in a line which configuration is in force."""
        status = self._life.status()
        text = f"configuration {status.digest}"
        return f"{text}; the last reload failed" if status.problems else text

    async def _reload(self) -> None:
        try:
            loaded = await self._load()
            if self._is_over:
                return
            digest = self._replace(loaded)
        except ConfigError as error:
            for problem in error.problems:
                self._log.error("{problem}", problem=str(problem))
            self._failed(len(error.problems))
        except Exception:  # noqa: BLE001 - the outermost edge of a reload
            self._log.failure("the configuration could not be reloaded")
            self._failed(1)
        else:
            self._life.replaced(digest)
            self._log.info("configuration {digest} is in force", digest=digest)

    def _failed(self, problems: int) -> None:
        self._life.stayed(problems)
        self._log.error(
            "reload failed with {problems} problem(s): configuration {digest} stays in force",
            problems=problems,
            digest=self._life.status().digest,
        )


class Problems:
    """The problems of a configuration, as one part of it after the other is made.

    Attributes:
        found: The problems so far.
    """

    def __init__(self) -> None:
        self.found: list[Problem] = []

    def gather(self, make: Callable[[], _T]) -> _T | None:
        """Make a part; None when that cannot be done."""
        try:
            return make()
        except ConfigError as error:
            self.found.extend(error.problems)
            return None
