"""Several processes on the same sockets: one that supervises, and the workers that serve."""
