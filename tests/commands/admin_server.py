"""A stand-in for the admin API: a thread with an HTTP server that holds requests to the shapes.

It reads each request with the shapes of ``llmproxy.wire`` and answers with them, over a dictionary
of keys. What the real resources do beyond that is tested with them.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import attrs
import msgspec

from llmproxy.deliveries import SpoolStatus
from llmproxy.errors import GatewayError
from llmproxy.key_records import KeyRecord, StoredKey
from llmproxy.wire import (
    admin,
    admin_keys,
    admin_records,
    admin_sessions,
    admin_spool,
    admin_usage,
)
from llmproxy.wire.usage_record import UsageRecordJson

TOKEN = "correct-horse-battery"
CREATED_S = 1_780_000_000.0


class Refusal(Exception):
    """An answer that is a failure."""

    def __init__(self, status: int, code: Any, error: str, param: str = "") -> None:
        super().__init__(error)
        self.status = status
        self.failure = admin.Failure(error=error, code=code, param=param)


class FakeAdmin:
    """The state behind the stand-in.

    Attributes:
        stored: Keys by id, the newest last.
        used: What was used of quotas, by id.
        resets_at_s: When every quota is whole again.
        asked: Every request: its path, and its body as it came.
        answers: Answers that are given instead, by path: a status and bytes.
        now_s: What the time is.
        records: Usage records, the newest first.
        sessions: Sessions, the last seen first.
        spool: How it stands.
        letters: Dead letters.
        refused: The reporters that are sent nothing again, and why.
    """

    def __init__(self) -> None:
        self.stored: dict[str, StoredKey] = {}
        self.used: dict[str, int] = {}
        self.resets_at_s: float | None = None
        self.asked: list[tuple[str, Any]] = []
        self.answers: dict[str, tuple[int, bytes]] = {}
        self.now_s = CREATED_S
        self.usage: admin_usage.UsageSummary | None = None
        self.records: list[UsageRecordJson] = []
        self.sessions: list[admin_sessions.SessionShown] = []
        self.spool = admin_spool.spool_shown(SpoolStatus(), ())
        self.letters: list[admin_spool.DeadLetterShown] = []
        self.refused: dict[str, str] = {}
        self.backends = {
            "gpu-1": admin.BackendShown(
                name="gpu-1",
                url="http://10.0.0.5:8001",
                state="up",
                in_flight=3,
                reason="",
                weight=1,
                models=("qwen-72b", "coder"),
                breaker="closed",
                ejected=False,
                times_opened=0,
                share_percent=100,
                latency_ms=None,
            )
        }
        self._made = 0

    def add(self, key: str = "", **fields: Any) -> KeyRecord:
        """Put a key in, as create would."""
        body = json.dumps({"key": key, **fields} if key else fields).encode()
        answer = self._create(admin.read_request(body, admin_keys.CreateKey))
        return self.stored[answer.id].record

    def answer(self, method: str, path: str, token: str | None, body: bytes) -> tuple[int, bytes]:
        """Answer a request."""
        self.asked.append((path, json.loads(body) if body else None))
        if path in self.answers:
            return self.answers[path]
        try:
            if token != TOKEN:
                raise Refusal(401, "unauthorized", "The admin token is missing or wrong.")
            answer = self._answer(method, path.removeprefix("/admin/"), body)
        except Refusal as refusal:
            return refusal.status, msgspec.json.encode(refusal.failure)
        except GatewayError as error:
            failure = admin.Failure(
                error=str(error), code="invalid_request", param=error.param or ""
            )
            return 400, msgspec.json.encode(failure)
        return 200, msgspec.json.encode(admin.Success(message="done", data=answer))

    def _answer(self, method: str, path: str, body: bytes) -> Any:
        routes: dict[str, tuple[type[admin.Request], Callable[[Any], Any]]] = {
            "keys/create": (admin_keys.CreateKey, self._create),
            "keys/update": (admin_keys.UpdateKey, self._update),
            "keys/delete": (admin_keys.KeyNamed, self._delete),
            "keys/get": (admin_keys.KeyNamed, lambda wanted: self._shown(self._find(wanted))),
            "keys/list": (admin_keys.ListKeys, self._list),
            "keys/sync": (admin_keys.SyncKeys, self._sync),
            "usage/summary": (admin_usage.SummarizeUsage, lambda _: self.usage),
            "usage/query": (admin_sessions.QueryUsage, self._query),
            "usage/sessions": (admin_sessions.QuerySessions, self._sessions),
            "spool/status": (admin_spool.ShowSpool, lambda _: self.spool),
            "spool/replay": (admin_spool.ReplaySpool, self._replay),
            "spool/dead-letters": (admin_spool.AskDeadLetters, self._dead_letters),
            "backends/drain": (admin.BackendNamed, lambda wanted: self._set(wanted, "drained")),
            "backends/enable": (admin.BackendNamed, lambda wanted: self._set(wanted, "up")),
        }
        if (method, path) == ("GET", "backends"):
            return admin.BackendList(backends=tuple(self.backends.values()))
        if method != "POST" or path not in routes:
            raise Refusal(404, "not_found", "This path is not served here.")
        kind, act = routes[path]
        return act(admin.read_request(body, kind))

    def _shown(self, stored: StoredKey, **more: Any) -> admin_keys.Key:
        key_id = stored.record.id
        return admin_records.shown(
            stored,
            now_s=self.now_s,
            used=self.used.get(key_id, 0),
            resets_at_s=self.resets_at_s,
            **more,
        )

    def _create(self, request: admin_keys.CreateKey) -> admin_keys.Key:
        draft = admin_records.draft_to_create(request, f"sk-llmp-Made{self._made:012d}")
        if self._by_key(draft.key):
            raise Refusal(409, "already_exists", "That key is there already.", "key")
        return self._shown(self._put(draft.record, _digest(draft.key)), whole_key=draft.key)

    def _put(self, record: KeyRecord, digest: bytes, prefix: str = "sk-llmp-Made") -> StoredKey:
        self._made += 1
        key_id = record.id or f"key_{self._made:04d}{digest.hex()[:12]}"
        record = attrs.evolve(record, id=key_id)
        stored = StoredKey(
            record=record,
            prefix=prefix,
            digest=digest,
            created_at_s=CREATED_S,
            updated_at_s=CREATED_S,
        )
        self.stored[key_id] = stored
        self.used.setdefault(key_id, record.quota.used_before if record.quota else 0)
        return stored

    def _by_key(self, key: str) -> StoredKey | None:
        return next((one for one in self.stored.values() if one.digest == _digest(key)), None)

    def _find(self, wanted: Any) -> StoredKey:
        if wanted.key is not msgspec.UNSET:
            found = self._by_key(wanted.key)
        else:
            found = self.stored.get(wanted.id)
        if found is None:
            raise Refusal(404, "not_found", "There is no such key.")
        return found

    def _update(self, request: admin_keys.UpdateKey) -> admin_keys.Key:
        stored = self._find(request)
        record = admin_records.changed(stored.record, request)
        if isinstance(request.used_quota, int):
            self.used[record.id] = request.used_quota
        self.stored[record.id] = attrs.evolve(stored, record=record)
        return self._shown(self.stored[record.id])

    def _delete(self, wanted: admin_keys.KeyNamed) -> admin_keys.KeyDeleted:
        key_id = self._find(wanted).record.id
        del self.stored[key_id]
        return admin_keys.KeyDeleted(id=key_id)

    def _list(self, request: admin_keys.ListKeys) -> admin_keys.KeyList:
        wanted = admin_records.filter_of(request)
        fitting = [
            one
            for one in reversed(self.stored.values())
            if wanted.user_id in ("", one.record.user_id)
            and wanted.status in (None, one.record.status)
            and wanted.search.lower()
            in f"{one.record.id} {one.record.name} {one.record.user_id} {one.prefix}".lower()
        ]
        page = fitting[wanted.offset : wanted.offset + wanted.limit]
        return admin_keys.KeyList(
            keys=tuple(self._shown(one, for_export=request.include_hash) for one in page),
            total=len(fitting),
            offset=wanted.offset,
            limit=wanted.limit,
        )

    def _sync(self, request: admin_keys.SyncKeys) -> admin_keys.KeysSynced:
        before = {one.digest: key_id for key_id, one in self.stored.items()}
        kept: set[str] = set()
        updated = 0
        for number, entry in enumerate(request.keys):
            draft = admin_records.draft_to_sync(entry, number)
            digest = draft.digest or _digest(draft.key)
            record = draft.record
            if digest in before:
                updated += 1
                record = attrs.evolve(record, id=before[digest])
            kept.add(self._put(record, digest, draft.prefix or draft.key[:12]).record.id)
        gone = set(before.values()) - kept if request.mode == "full" else set()
        for key_id in gone:
            del self.stored[key_id]
        created = len(request.keys) - updated
        return admin_keys.KeysSynced(created=created, updated=updated, deleted=len(gone))

    def _query(self, request: admin_sessions.QueryUsage) -> admin_sessions.RecordPage:
        page, cursor = _page(self.records, request.as_filter())
        return admin_sessions.RecordPage(records=page, next_cursor=cursor)

    def _sessions(self, request: admin_sessions.QuerySessions) -> admin_sessions.SessionPage:
        page, cursor = _page(self.sessions, request.as_filter())
        return admin_sessions.SessionPage(sessions=page, next_cursor=cursor)

    def _replay(self, request: admin_spool.ReplaySpool) -> admin_spool.SpoolReplayed:
        names = [one.name for one in self.spool.reporters]
        if request.reporter not in (None, *names):
            raise Refusal(404, "not_found", "There is no reporter of that name.", "reporter")
        return admin_spool.SpoolReplayed(
            reporters=tuple(name for name in names if request.reporter in (None, name)),
            refused=self.refused,
        )

    def _dead_letters(self, request: admin_spool.AskDeadLetters) -> admin_spool.DeadLetterList:
        found = [one for one in self.letters if request.reporter in (None, one.reporter)]
        shown = () if request.redeliver else tuple(found)
        return admin_spool.DeadLetterList(
            dead_letters=shown,
            redelivered=("billing",) if request.redeliver else (),
            refused=self.refused if request.redeliver else {},
        )

    def _set(self, wanted: admin.BackendNamed, state: Any) -> admin.BackendShown:
        if wanted.name not in self.backends:
            raise Refusal(404, "not_found", "There is no backend of that name.", "name")
        self.backends[wanted.name].state = state
        return self.backends[wanted.name]


def _page(found: list[Any], wanted: Any) -> tuple[tuple[Any, ...], str]:
    """Give a page, and the cursor of the next: here, how many were shown."""
    start = int(wanted.cursor.removesuffix(".1") or 0)
    end = start + wanted.limit
    return tuple(found[start:end]), f"{end}.1" if end < len(found) else ""


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()


@contextmanager
def serving(fake: FakeAdmin) -> Iterator[int]:
    """Serve on a free port of loopback; gives the port."""

    class Answering(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer()

        def do_POST(self) -> None:
            self._answer()

        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            token = self.headers.get("X-Admin-Token")
            status, answer = fake.answer(self.command, self.path, token, body)
            self.send_response(status)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answering)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
