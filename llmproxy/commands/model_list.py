"""The models of a running gateway, as a key sees them: ``GET /v1/models``, asked once."""

from __future__ import annotations

import http.client
import ssl
from typing import Final
from urllib.parse import urlsplit

import msgspec

from llmproxy.commands.failures import Refused, Unreachable
from llmproxy.values import ModelCard
from llmproxy.wire.opencode import KEY_VARIABLE

TIMEOUT_S: Final = 30.0
LARGEST_ANSWER_BYTES: Final = 16 * 1024 * 1024


class _Model(msgspec.Struct):
    id: str
    name: str = ""
    max_model_len: int | None = None
    max_output_tokens: int | None = None
    input_modalities: tuple[str, ...] = ()
    reasoning: bool = False


class _List(msgspec.Struct):
    data: tuple[_Model, ...]


def ask_models(url: str, key_header: str, key: str) -> list[ModelCard]:
    """Ask a gateway for the models that a key may use.

    Args:
        url: Where it is; ``/v1/models`` is appended.
        key_header: The header field that it takes keys in.
        key: The key; empty: none.

    Raises:
        Refused: It said no.
        Unreachable: It cannot be asked, or something else answers there.
    """
    status, body = _get(url, key_header, key)
    if status in (401, 403):
        raise Refused(
            f"{url} does not take the key in ${KEY_VARIABLE}"
            if key
            else f"the configuration names no models, and {url} wants a key to tell its own: "
            f"set ${KEY_VARIABLE} to one, or name the models in the configuration"
        )
    try:
        if status != http.client.OK:
            raise ValueError
        found = msgspec.json.decode(body, type=_List).data
    except ValueError:
        raise Unreachable(
            f"{url}/v1/models answered ({status}), but not as LLMProxy does; is that its address?"
        ) from None
    return [
        ModelCard(
            id=one.id,
            created=0,
            name=one.name,
            context=one.max_model_len,
            output=one.max_output_tokens,
            images="image" in one.input_modalities,
            reasoning=one.reasoning,
        )
        for one in found
    ]


def _get(url: str, key_header: str, key: str) -> tuple[int, bytes]:
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port
    connection = (
        http.client.HTTPSConnection(
            host, port, timeout=TIMEOUT_S, context=ssl.create_default_context()
        )
        if parts.scheme == "https"
        else http.client.HTTPConnection(host, port, timeout=TIMEOUT_S)
    )
    headers = {"Accept": "application/json"}
    if key:
        is_bearer = key_header.lower() == "authorization"
        headers[key_header] = f"Bearer {key}" if is_bearer else key
    try:
        connection.request("GET", f"{parts.path}/v1/models", headers=headers)
        response = connection.getresponse()
        return response.status, response.read(LARGEST_ANSWER_BYTES)
    except (http.client.HTTPException, OSError, ValueError) as error:
        if isinstance(error, ssl.SSLCertVerificationError):
            reason = f"its certificate is not trusted: {error.verify_message}"
        else:
            # A key with characters that no header can carry is told of without showing it.
            reason = str(getattr(error, "strerror", "") or type(error).__name__)
        raise Unreachable(
            f"the configuration names no models, and {url} cannot be asked for them: {reason}. "
            "Start the daemon, name another address with --url, or name the models in the "
            "configuration"
        ) from None
    finally:
        connection.close()
