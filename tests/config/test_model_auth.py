"""Tests of `llmproxy.config.model_auth`; that the reference shows it is tested with the model."""

from __future__ import annotations

import attrs

from llmproxy.config.model_auth import Auth, OwnLimits, StaticKey, WebhookProvider
from llmproxy.config.model_stores import Limits
from llmproxy.config.setting import Secret
from llmproxy.entitlements import Limits as LimitsInForce
from llmproxy.entitlements import OwnLimits as OwnLimitsInForce


def test_secrets_are_not_in_the_repr() -> None:
    """Neither keys nor header values, wherever they stand."""
    key = StaticKey(key=Secret("s3cret"))
    webhook = WebhookProvider(url="http://h", headers={"X-A": "s3cret"})
    assert "s3cret" not in repr((key, webhook))


def test_the_defaults_let_nobody_in() -> None:
    """Authentication is on, there is no key, and nothing is known to be open."""
    auth = Auth()
    assert auth.enabled
    assert auth.pipeline == ()
    assert StaticKey().status == "active"
    assert StaticKey().total_quota is None


def test_limits_have_the_same_names_everywhere() -> None:
    """Those of all keys, those of one, and those that are held to."""
    names = [[one.name for one in attrs.fields(cls)] for cls in (OwnLimits, Limits)]
    names += [[one.name for one in attrs.fields(cls)] for cls in (LimitsInForce, OwnLimitsInForce)]
    assert all(one == names[0] for one in names)
