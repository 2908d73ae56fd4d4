"""Memory and work of a training step or an inference from formulas, before anything runs."""

from softfree.planning.memory import GIB, Memory, memory
from softfree.planning.plan import Plan, make_plan
from softfree.planning.work import Work

__all__ = ["GIB", "Memory", "Plan", "Work", "make_plan", "memory"]
