"""A small double of the WebUI's `modules`: our own code, shaped after what HOSTS promise and Noise Order relies on.

The same contract tests run against it and against the real hosts, which proves it true. It draws with the embedded
models: the eps model behaves as in A1111 (`parameterization`, `combine_denoised`), the flow model as in Forge
(`forge_objects`, `predictor`, post-CFG functions, model residency).
"""
