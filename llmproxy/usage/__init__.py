"""What was used: totals of the exchanges' records."""
