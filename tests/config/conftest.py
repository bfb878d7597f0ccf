"""Loads configurations from text, with an environment and files that are dictionaries."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Mapping

import pytest

from llmproxy.config.load import parse_config
from llmproxy.config.model import Config
from llmproxy.errors import ConfigError

Load = Callable[..., Config]
Problems = Callable[..., list[str]]


@pytest.fixture
def load() -> Load:
    """Give a function that makes the configuration of a text."""

    def load_text(
        text: str,
        environ: Mapping[str, str] | None = None,
        files: Mapping[str, str | Exception] | None = None,
        directories: tuple[str, ...] = (".",),
        tls_fault: tuple[str, str] | None = None,
        ca_fault: str | None = None,
    ) -> Config:
        def read_file(path: str) -> str:
            content = (files or {}).get(path)
            if content is None:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
            if isinstance(content, Exception):
                raise content
            return content

        return parse_config(
            text,
            environ or {},
            file="x.yaml",
            read_file=read_file,
            is_directory=directories.__contains__,
            find_tls_fault=lambda _cert_file, _key_file: tls_fault,
            find_ca_fault=lambda _: ca_fault,
        )

    return load_text


@pytest.fixture
def problems(load: Load) -> Problems:
    """Give a function that tells the problems of a text, as they are printed."""

    def tell(text: str, *args: object, **kwargs: object) -> list[str]:
        try:
            load(text, *args, **kwargs)
        except ConfigError as error:
            return [str(problem) for problem in error.problems]
        return []

    return tell
