"""The admin API: keys, usage and backends for administrators, on a listener of its own."""
