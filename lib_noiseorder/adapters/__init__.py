"""Other hosts of the same core; each file imports its own host, lazily."""
