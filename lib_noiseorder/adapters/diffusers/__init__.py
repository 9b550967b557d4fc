"""Ordered initial latents for diffusers pipelines; `call` has the whole story."""

from .call import SUPPORTED, Interrupted, OrderedRun, order_latents, ordered_latents, run_ordered

__all__ = ["SUPPORTED", "Interrupted", "OrderedRun", "order_latents", "ordered_latents", "run_ordered"]
