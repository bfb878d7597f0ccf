"""Tells ``twistd`` of the ``llmproxy`` subcommand; kept free of imports that cost start-up time."""

from twisted.application.service import ServiceMaker

llmproxy = ServiceMaker(
    "LLMProxy",
    "llmproxy.tap",
    "A streaming gateway between AI coding assistants and inference servers.",
    "llmproxy",
)
