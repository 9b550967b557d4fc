"""What ComfyUI reads when this repository is one of its custom nodes. Nobody else needs this file."""

import sys

if "comfy" in sys.modules:  # test runners import a repository's own __init__.py, too: nothing for them
    from .lib_noiseorder.adapters.comfyui import NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS

    __all__ = ["NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS"]
