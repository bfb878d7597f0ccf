"""Tests of `llmproxy.config`."""
