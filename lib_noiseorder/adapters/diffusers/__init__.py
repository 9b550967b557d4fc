"""Ordered initial latents for diffusers pipelines; `call` has the whole story."""

from .call import Interrupted, OrderedRun, order_latents, ordered_latents, run_ordered

__all__ = ["Interrupted", "OrderedRun", "order_latents", "ordered_latents", "run_ordered"]
