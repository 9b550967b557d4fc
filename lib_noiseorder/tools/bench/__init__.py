"""What ordering the noise costs, measured on a model in this process, a pipeline or a running WebUI."""
