"""TLS towards clients: certificates, who the clients are by theirs, and the transport."""
