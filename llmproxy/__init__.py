"""LLMProxy: a streaming gateway between AI coding assistants and inference servers."""

__version__ = "0.1.0"
