"""Active health checks of the backends."""
