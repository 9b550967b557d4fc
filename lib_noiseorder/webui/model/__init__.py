"""The loaded checkpoint, in the core's terms."""
