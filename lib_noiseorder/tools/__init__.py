"""Everything that measures; a WebUI never loads it."""
