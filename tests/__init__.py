"""The tests; they mirror ``llmproxy`` file by file."""
