"""How a backend does: arithmetic on what was seen of it, without clocks or connections."""
