"""Tests of `llmproxy.auth.anonymous`."""

from __future__ import annotations

import pytest
from zope.interface.verify import verifyObject

from llmproxy.auth.anonymous import AnonymousAuthenticator
from llmproxy.interfaces import IAuthenticator
from llmproxy.values import ANONYMOUS, Principal


@pytest.mark.parametrize("credential", ["", "sk-whatever"])
def test_everybody_is_anonymous(credential: str) -> None:
    """With or without a key, the principal is the same and is there at once."""
    results: list[Principal] = []
    AnonymousAuthenticator().authenticate(credential, "192.0.2.7").addCallback(results.append)
    assert results == [ANONYMOUS]


def test_interface() -> None:
    """It is what the data path expects."""
    assert verifyObject(IAuthenticator, AnonymousAuthenticator())
