"""Nodes for ComfyUI: whatever samples with the model that comes out of one starts from ordered noise.

    node.py          the nodes and their inputs
    sampling.py      what runs in place of the host's sampler
    guided_model.py  the model behind a guider, asked below its guidance
    kept_picture.py  a mask's kept picture, as the sampler shows it
    company.py       what other nodes have a say in
    set_aside.py     what other nodes keep, put back after every question
    runs.py          reports, progress and previews

It works with every node that samples through the host's guiders. ComfyUI is imported when a sampler runs, not before.
"""

from .node import NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS

__all__ = ["NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS"]
