"""The secret under which stored keys are hashed: the configured one, or one made once, in a file.

It knows nothing of keys.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Final

from llmproxy.config.model_stores import Admin
from llmproxy.stores.private_files import make_directory_of, warn_if_exposed

SECRET_BYTES: Final = 32


def load_key_secret(settings: Admin) -> bytes:
    """Give the secret; make the file ``<db_path>.secret`` when there is none.

    What is in the file is used as the text that it is, so that ``admin.key_secret`` may be given
    the same text, or ``admin.key_secret_file`` the same file. Several processes may start at once;
    all get the same secret. Blocks.

    Raises:
        OSError: The file cannot be read or made.
        ValueError: There is no secret in it.
    """
    if settings.key_secret:
        return settings.key_secret.encode("utf-8", "surrogatepass")
    path = os.path.abspath(settings.db_path) + ".secret"
    make_directory_of(path)
    with suppress(FileExistsError):
        _make(path)
    with open(path, "rb") as file:
        secret = file.read(4096).strip()
    if len(secret) < SECRET_BYTES:
        raise ValueError(
            f"{path} does not hold the secret that keys are hashed under; want the file back from "
            "a backup, or, where no keys are stored yet, deleted"
        )
    warn_if_exposed(path)
    return secret


def _make(path: str) -> None:
    """Make the file, whole or not at all, so that nobody reads half of it.

    Raises:
        FileExistsError: Another process was first; its secret stands.
    """
    if os.path.exists(path):
        raise FileExistsError(path)
    draft = f"{path}.{os.getpid()}.{os.urandom(4).hex()}"
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with open(descriptor, "wb") as file:
            file.write(os.urandom(SECRET_BYTES).hex().encode("ascii") + b"\n")
            file.flush()
            os.fsync(file.fileno())
        os.link(draft, path)  # fails when there is one, where a rename would replace it
    finally:
        os.unlink(draft)
    directory = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)  # without this secret all keys are lost
    finally:
        os.close(directory)
