"""Tests of ``llmproxy.proxy``: the data path."""
