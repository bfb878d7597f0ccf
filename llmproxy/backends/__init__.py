"""The backends: their identity, their state, their models, and the built-in stand-in."""
