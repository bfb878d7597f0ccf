"""Who calls: credentials, keys and the rules that hang on them."""
