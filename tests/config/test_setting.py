"""Tests of `llmproxy.config.setting`."""

from __future__ import annotations

import attrs
import pytest

from llmproxy.config.setting import key_name, setting


@attrs.frozen(kw_only=True)
class Section:
    """One of each kind of key."""

    plain: int = setting("required")
    import_: int = setting("a word of Python's own", 5, key="import", minimum=1)
    hidden: str = setting("not to be seen", "s3cret", secret=True)
    many: dict[str, str] = setting("made anew each time", factory=dict, secret=True)


def test_keys_are_attributes_with_defaults() -> None:
    """Without a default a key is required; a factory's are not shared."""
    with pytest.raises(TypeError, match="plain"):
        Section()
    one, other = Section(plain=1), Section(plain=1)
    assert (one.import_, one.hidden, one.many) == (5, "s3cret", {})
    assert one.many is not other.many


def test_secrets_are_not_in_the_repr() -> None:
    """Neither a default nor what is given, nor what is in a mapping."""
    assert repr(Section(plain=1, many={"a": "s3cret"})) == "Section(plain=1, import_=5)"


def test_names_in_yaml() -> None:
    """The attribute's, unless another is given."""
    names = [key_name(one) for one in attrs.fields(Section)]
    assert names == ["plain", "import", "hidden", "many"]


def test_what_is_declared_is_kept() -> None:
    """The loader and the reference file's test read it."""
    metadata = attrs.fields(Section).import_.metadata
    assert metadata["doc"] == "a word of Python's own"
    assert (metadata["minimum"], metadata["secret"]) == (1, False)
