"""Tests of ``llmproxy.limits``."""
