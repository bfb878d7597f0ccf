"""The data path: one exchange from its head to its one conclusion."""
