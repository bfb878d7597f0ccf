"""Tests of ``llmproxy.wire``: pure functions and scanners."""
