"""Memory and work of a training step or an inference from formulas, before anything runs."""

from softfree.planning.plan import GIB, Memory, Plan, Work, make_plan, memory

__all__ = ["GIB", "Memory", "Plan", "Work", "make_plan", "memory"]
