"""What all tests share."""

from hypothesis import settings

# The machines are small and noisy: how long one example takes says nothing.
settings.register_profile("llmproxy", deadline=None)
settings.load_profile("llmproxy")
