"""The way to one backend: our `IAgent`, its connections and pool, and the treq client over it."""
