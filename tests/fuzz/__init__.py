"""Long-running fuzzing of what reads foreign bytes: ``python -m tests.fuzz --minutes 10``."""
