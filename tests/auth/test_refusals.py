"""Tests of `llmproxy.auth.refusals`."""

from __future__ import annotations

import pytest

from llmproxy.auth.refusals import Refusals
from llmproxy.config.model_auth import OwnAnswer, StatusCodes
from llmproxy.errors import (
    GatewayError,
    InvalidApiKey,
    IpNotAllowed,
    KeyDisabled,
    KeyExpired,
    KeyNotStarted,
    ModelNotAllowed,
    QuotaExceeded,
    QuotaReserved,
    TooManyFailures,
)

OWN = OwnAnswer(http_code=418, message="Ask the team lead.")


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("not_found", InvalidApiKey()),
        ("disabled", KeyDisabled()),
        ("expired", KeyExpired()),
        ("expired", KeyNotStarted()),
        ("ip_not_allowed", IpNotAllowed()),
        ("model_not_allowed", ModelNotAllowed()),
        ("quota_exceeded", QuotaExceeded()),
    ],
)
def test_restates_its_own_errors(name: str, error: GatewayError) -> None:
    """Each key is of its errors and of no others; class and code stay."""
    restated = Refusals(StatusCodes(**{name: OWN})).restate(error)
    assert type(restated) is type(error)
    assert (restated.status, str(restated), restated.code) == (418, OWN.message, error.code)
    assert error.status != 418
    others = StatusCodes(
        **{one: OWN for one in StatusCodes.__annotations__ if one != name},
    )
    assert Refusals(others).restate(error) is error


def test_half_an_answer() -> None:
    """What is not given stays as it is."""
    refusals = Refusals(
        StatusCodes(disabled=OwnAnswer(http_code=401), expired=OwnAnswer(message="Renew it."))
    )
    disabled, expired = refusals.restate(KeyDisabled()), refusals.restate(KeyExpired())
    assert (disabled.status, str(disabled)) == (401, KeyDisabled.message)
    assert (expired.status, str(expired)) == (403, "Renew it.")
    assert repr(refusals) == "<Refusals ['KeyDisabled', 'KeyExpired', 'KeyNotStarted']>"


@pytest.mark.parametrize("error", [QuotaReserved(), TooManyFailures(), GatewayError()])
def test_others_pass(error: GatewayError) -> None:
    """Errors that are none of the key's own are answered as ever."""
    every = StatusCodes(**dict.fromkeys(StatusCodes.__annotations__, OWN))
    assert Refusals(every).restate(error) is error
