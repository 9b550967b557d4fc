import gradio as gr

from gradio.events import Dependency

class InputAccordion(gr.Checkbox):
    """A checkbox in the shape of an accordion: its value is whether it is open."""

    def __init__(self, value, *, label, elem_id):
        super().__init__(value, label=label, elem_id=elem_id)
        self._column = gr.Column(elem_id=f"{elem_id}_content")

    def __enter__(self):
        self._column.__enter__()
        return self

    def __exit__(self, *exception):
        return self._column.__exit__(*exception)
    from typing import Callable, Literal, Sequence, Any, TYPE_CHECKING
    from gradio.blocks import Block
    if TYPE_CHECKING:
        from gradio.components import Timer
        from gradio.components.base import Component