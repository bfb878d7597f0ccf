"""What Prometheus may scrape: one catalogue, counted per request or read when somebody looks."""
