"""The OpenAPI document: the file that is kept, what it says, and whether the API does so."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import attrs
import pytest

from llmproxy.resources.admin.openapi import document, text
from llmproxy.resources.admin.operations import OPERATIONS
from tests.daemon import BIN, ROOT
from tests.end_to_end.entitled import TOKEN, Entitled, entitled_config
from tests.resources.admin.made_up import BACKEND, SEEDS

TIME_LIMIT_S = 180


@attrs.frozen
class Target:
    """An admin API to be tested.

    Attributes:
        url: The origin of its listener.
        token: Its token.
    """

    url: str
    token: str = TOKEN


@pytest.fixture
def target(tmp_path: Path) -> Iterator[Target]:
    """Give the admin API of a real daemon that nothing else depends on."""
    config = entitled_config(tmp_path, [{"name": BACKEND, "url": "demo:"}])
    config["usage"] = {
        "reporters": [{"name": "local", "type": "builtin"}],
        "spool_dir": str(tmp_path / "spool"),
    }
    config["auth"]["failed_attempts"] = {"per_minute": 0}  # many wrong tokens are to be answered
    with Entitled(tmp_path / "daemon", config) as gateway:
        yield Target(f"http://{config['admin']['listen']}")
        assert "Traceback" not in gateway.daemon.log()


def test_the_file_is_the_document() -> None:
    """``docs/admin-api.json`` is what the code makes; the module says how it is written."""
    assert (ROOT / "docs" / "admin-api.json").read_text() == text()


def test_every_operation_stands_in_it() -> None:
    """With its method, what it takes, and only envelopes as answers."""
    paths = document()["paths"]
    assert list(paths) == [operation.path for operation in OPERATIONS]
    for operation in OPERATIONS:
        described = paths[operation.path][operation.method.lower()]
        assert ("requestBody" in described) == (operation.request is not None)
        assert {"200", "401", "429", "500"} <= set(described["responses"])
        for status, answer in described["responses"].items():
            schema = answer["content"]["application/json"]["schema"]
            if status != "200":
                assert schema == {"$ref": "#/components/schemas/Failure"}


def test_objects_are_closed() -> None:
    """Every object with fields says that there are no others, so that a stray one is noticed."""
    components = document()["components"]["schemas"]
    assert "Key" in components
    assert all(schema["additionalProperties"] is False for schema in components.values())


def test_every_answer_field_is_required() -> None:
    """Readers may count on all fields of a key but those that only exports have."""
    key = document()["components"]["schemas"]["Key"]
    assert set(key["properties"]) - set(key["required"]) == {"key_hash", "prefix"}


@pytest.mark.slow
def test_the_api_does_as_it_says(target: Target, tmp_path: Path) -> None:
    """Requests made up from the document, right and wrong, are answered as the document says."""
    seed(target)
    run = subprocess.run(
        [
            BIN / "schemathesis",
            "run",
            f"{target.url}/admin/openapi.json",
            *("--header", f"X-Admin-Token: {target.token}"),
            *("--checks", "all"),
            *("--max-examples", "10"),
            *("--request-timeout", "10"),
            "--generation-deterministic",
            "--continue-on-failure",
            "--no-color",
        ],
        cwd=tmp_path,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "SCHEMATHESIS_HOOKS": "tests.resources.admin.made_up",
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=TIME_LIMIT_S,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert "Missing test data" not in run.stdout, "some operation was only ever refused"
    operations = len(OPERATIONS) - 1  # the document does not ask for itself
    assert f"Tested: {operations}" in run.stdout or f"Tested: {len(OPERATIONS)}" in run.stdout


def seed(target: Target) -> None:
    """Store the keys that requests ask for."""
    request = Request(
        f"{target.url}/admin/keys/sync",
        json.dumps({"mode": "incremental", "keys": SEEDS}).encode(),
        {"X-Admin-Token": target.token},
    )
    with urlopen(request, timeout=10) as response:
        answer: dict[str, Any] = json.load(response)
    assert answer["data"]["created"] == len(SEEDS)
