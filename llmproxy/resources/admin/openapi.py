"""The OpenAPI 3.1 document of the admin API, made of its operations and of the wire's structs.

``python -m llmproxy.resources.admin.openapi > docs/admin-api.json`` writes the file that is kept
with the documentation.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from http import HTTPStatus
from inspect import cleandoc
from typing import Any

import msgspec

from llmproxy.resources.admin.operations import OPERATIONS, Operation
from llmproxy.wire.admin import TOKEN_HEADER, Failure, Success

EVERYWHERE = (401, 429, 500)
"""What every operation may be refused with."""

WITH_A_BODY = (400, 408, 413, 503)
"""What every operation may be refused with that takes a body."""

_WHICH_KEY = ({"required": ["id"]}, {"required": ["key"]})
_FURTHER_RULES: Mapping[str, Mapping[str, Any]] = {
    # What `Request.check` holds to besides the types.
    "KeyNamed": {"oneOf": _WHICH_KEY},
    "UpdateKey": {"oneOf": _WHICH_KEY},
    "SyncKey": {
        "oneOf": ({"required": ["key"]}, {"required": ["key_hash"]}),
        "dependentRequired": {"prefix": ["key_hash"]},
    },
}


def document() -> dict[str, Any]:
    """Give the document."""
    kinds = [
        Failure,
        *(_success(operation) for operation in OPERATIONS if operation.answer),
        *(operation.request for operation in OPERATIONS if operation.request),
    ]
    refs, components = msgspec.json.schema_components(
        kinds, ref_template="#/components/schemas/{name}"
    )
    schemas = dict(zip(kinds, refs, strict=True))
    for name, schema in components.items():
        if "description" in schema:  # some versions of msgspec leave a docstring its indentation
            schema["description"] = cleandoc(schema["description"])
        if "properties" in schema:
            schema["additionalProperties"] = False
        schema.update(_FURTHER_RULES.get(name, {}))
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "LLMProxy admin API",
            "version": "1",
            "description": (
                "Keys, usage, reporters and backends of an LLMProxy, on the address admin.listen. "
                "Every path is exact; every answer is an object with success. Times are RFC 3339."
            ),
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "security": [{"admin_token": []}],
        "paths": {
            operation.path: {operation.method.lower(): _described(operation, schemas)}
            for operation in OPERATIONS
        },
        "components": {
            "securitySchemes": {
                "admin_token": {
                    "type": "apiKey",
                    "in": "header",
                    "name": TOKEN_HEADER.decode("ascii"),
                    "description": "The token of admin.token.",
                }
            },
            "schemas": components,
        },
    }


def _described(operation: Operation, schemas: Mapping[Any, Any]) -> dict[str, Any]:
    """Describe one operation."""
    answer = schemas[_success(operation)] if operation.answer else {"type": "object"}
    statuses = {*EVERYWHERE, *operation.refusals}
    described: dict[str, Any] = {
        "operationId": operation.path.removeprefix("/admin/").replace("/", "_").partition(".")[0],
        "summary": operation.summary,
        "tags": [operation.path.split("/")[2].partition(".")[0]],
    }
    if operation.request is not None:
        described["requestBody"] = {"required": True, "content": _json(schemas[operation.request])}
        statuses.update(WITH_A_BODY)
    described["responses"] = {
        "200": {"description": "It is done.", "content": _json(answer)},
        **{
            str(status): {
                "description": HTTPStatus(status).phrase,
                "content": _json(schemas[Failure]),
            }
            for status in sorted(statuses)
        },
    }
    return described


def _success(operation: Operation) -> Any:
    success: Any = Success
    return success[operation.answer]


def _json(schema: Any) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


def text() -> str:
    """Give the document as the file has it."""
    return json.dumps(document(), indent=2) + "\n"


if __name__ == "__main__":
    sys.stdout.write(text())
