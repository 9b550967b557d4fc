"""One batch's life in the WebUI."""
