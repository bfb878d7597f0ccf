"""The whole daemon, as a process of its own, with real clients."""
