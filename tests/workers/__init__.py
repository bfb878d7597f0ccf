"""Tests of `llmproxy.workers`."""
