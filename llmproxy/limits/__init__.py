"""How much may be asked: rates, requests at once, and budgets of tokens."""
