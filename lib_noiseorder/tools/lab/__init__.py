"""The lab: a small world of coloured shapes in which the truth is known, to measure what a way of ordering noise does."""
