"""Tests of `llmproxy.commands.text_files`."""

from __future__ import annotations

import io
from pathlib import Path

import click
import pytest

from llmproxy.commands.text_files import read_text


def test_a_file_and_standard_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A byte order mark is no part of a text; a dash is a file where input is not meant."""
    (tmp_path / "a").write_bytes(b"\xef\xbb\xbfh\xc3\xa9")
    assert read_text(str(tmp_path / "a")) == "hé"
    monkeypatch.setattr("sys.stdin", io.StringIO("\ufefftyped"))
    assert read_text("-") == "typed"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "-").write_text("a file")
    assert read_text("-", stdin=False) == "a file"


def test_what_cannot_be_read_is_told(tmp_path: Path) -> None:
    """With its name, and that of its option; with nothing of what is in it."""
    (tmp_path / "a").write_bytes(b"secret\xff")
    for file, words in (
        ("a", "--it {} is not UTF-8 text"),
        ("none", "--it {} cannot be read: No such file or directory"),
        ("", "--it {} cannot be read: Is a directory"),
        ("\0", "--it {} is not the name of a file"),
    ):
        path = str(tmp_path / file)
        with pytest.raises(click.UsageError) as caught:
            read_text(path, called="--it")
        assert caught.value.message == words.format(path)
