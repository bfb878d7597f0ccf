"""What was used: totals of the exchanges, and their records on the way to who wants them."""
