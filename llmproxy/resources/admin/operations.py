"""The list of what the admin API can do: each path with what it takes and what it answers.

The tree serves exactly these, and the OpenAPI document is made of them. What is done is elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Literal

import attrs
from twisted.internet.defer import Deferred

from llmproxy.wire.admin import BackendList, BackendNamed, BackendShown, ConfigShown, Request
from llmproxy.wire.admin_keys import (
    CreateKey,
    Key,
    KeyDeleted,
    KeyList,
    KeyNamed,
    KeysSynced,
    ListKeys,
    SyncKeys,
    UpdateKey,
)
from llmproxy.wire.admin_sessions import QuerySessions, QueryUsage, RecordPage, SessionPage
from llmproxy.wire.admin_spool import (
    AskDeadLetters,
    DeadLetterList,
    ReplaySpool,
    ShowSpool,
    SpoolReplayed,
    SpoolShown,
)
from llmproxy.wire.admin_usage import SummarizeUsage, UsageSummary


@attrs.frozen(kw_only=True)
class Operation:
    """One thing that can be asked for.

    Attributes:
        path: Its exact path.
        method: Its method; a GET may also be a HEAD.
        summary: What it does.
        request: What the body is to be; None: there is none.
        answer: The type of ``data`` in its answer; None: the answer is the OpenAPI document.
        refusals: The statuses that it answers besides those of every operation.
        changes: Whether it changes something; it is then done to its end, the client there or not.
    """

    path: str
    method: Literal["GET", "POST"] = "POST"
    summary: str
    request: type[Request] | None = None
    answer: Any = None
    refusals: tuple[int, ...] = ()
    changes: bool = False


@attrs.frozen
class Done:
    """What an operation came to.

    Attributes:
        message: For a person.
        data: Of the type of `Operation.answer`.
    """

    message: str
    data: Any


Note = Callable[[str], None]
"""Takes note of a change that was made, in words without secrets; called as soon as it is made."""

Run = Callable[[Any, Note], Coroutine[Deferred[Any], Any, Done]]
"""Does an operation, given the request. It fails with any error that `envelope.refusal_of` knows;
cancelling it ends what it waits for."""

InThread = Callable[[Callable[[], Any]], "Deferred[Any]"]
"""Runs what takes long in another thread, so that no stream waits for it."""

CREATE_KEY = Operation(
    path="/admin/keys/create",
    summary="Store a new key; its whole text is in this answer only.",
    request=CreateKey,
    answer=Key,
    refusals=(409,),
    changes=True,
)
UPDATE_KEY = Operation(
    path="/admin/keys/update",
    summary="Change fields of a key; null puts the default there.",
    request=UpdateKey,
    answer=Key,
    refusals=(404,),
    changes=True,
)
DELETE_KEY = Operation(
    path="/admin/keys/delete",
    summary="Delete a key.",
    request=KeyNamed,
    answer=KeyDeleted,
    refusals=(404,),
    changes=True,
)
GET_KEY = Operation(
    path="/admin/keys/get",
    summary="Show a key.",
    request=KeyNamed,
    answer=Key,
    refusals=(404,),
)
LIST_KEYS = Operation(
    path="/admin/keys/list",
    summary="Show a page of the keys, the newest first.",
    request=ListKeys,
    answer=KeyList,
)
SYNC_KEYS = Operation(
    path="/admin/keys/sync",
    summary="Make the stored keys what the request says, all or nothing.",
    request=SyncKeys,
    answer=KeysSynced,
    refusals=(409,),
    changes=True,
)
SUMMARIZE_USAGE = Operation(
    path="/admin/usage/summary",
    summary="Add up requests and tokens.",
    request=SummarizeUsage,
    answer=UsageSummary,
)
QUERY_USAGE = Operation(
    path="/admin/usage/query",
    summary="Show a page of the usage records, the newest first.",
    request=QueryUsage,
    answer=RecordPage,
    refusals=(404,),
)
QUERY_SESSIONS = Operation(
    path="/admin/usage/sessions",
    summary="Show a page of the sessions, the last seen first.",
    request=QuerySessions,
    answer=SessionPage,
    refusals=(404,),
)
SHOW_SPOOL = Operation(
    path="/admin/spool/status",
    summary="Show how the spool and its reporters stand.",
    request=ShowSpool,
    answer=SpoolShown,
)
REPLAY_SPOOL = Operation(
    path="/admin/spool/replay",
    summary="Send reporters again what they were sent before.",
    request=ReplaySpool,
    answer=SpoolReplayed,
    refusals=(404,),
    changes=True,
)
DEAD_LETTERS = Operation(
    path="/admin/spool/dead-letters",
    summary="Show the batches that were given up, or try them again.",
    request=AskDeadLetters,
    answer=DeadLetterList,
    refusals=(404,),
    changes=True,
)
LIST_BACKENDS = Operation(
    path="/admin/backends",
    method="GET",
    summary="Show the backends and their states.",
    answer=BackendList,
)
DRAIN_BACKEND = Operation(
    path="/admin/backends/drain",
    summary="Give a backend no further requests; those that run go on.",
    request=BackendNamed,
    answer=BackendShown,
    refusals=(404,),
    changes=True,
)
ENABLE_BACKEND = Operation(
    path="/admin/backends/enable",
    summary="Give a drained backend requests again.",
    request=BackendNamed,
    answer=BackendShown,
    refusals=(404,),
    changes=True,
)
SHOW_CONFIG = Operation(
    path="/admin/config",
    method="GET",
    summary="Show the configuration, its secrets hidden.",
    answer=ConfigShown,
)
SHOW_OPENAPI = Operation(
    path="/admin/openapi.json",
    method="GET",
    summary="This document.",
)

OPERATIONS = (
    CREATE_KEY,
    UPDATE_KEY,
    DELETE_KEY,
    GET_KEY,
    LIST_KEYS,
    SYNC_KEYS,
    SUMMARIZE_USAGE,
    QUERY_USAGE,
    QUERY_SESSIONS,
    SHOW_SPOOL,
    REPLAY_SPOOL,
    DEAD_LETTERS,
    LIST_BACKENDS,
    DRAIN_BACKEND,
    ENABLE_BACKEND,
    SHOW_CONFIG,
    SHOW_OPENAPI,
)
"""All of them."""
