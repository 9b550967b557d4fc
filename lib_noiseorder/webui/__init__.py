"""The WebUI's side (A1111, Forge and their relatives): the only folder that imports modules.*, backend.* or gradio."""
