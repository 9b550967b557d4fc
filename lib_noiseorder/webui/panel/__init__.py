"""The accordion, its presets and the grid's axes."""
