"""Which engine: what every engine would compute and allocate, and which of them fits and is fastest."""

from kronsgd.planner.plan import EngineCost, Plan, make_plan
from kronsgd.planner.problem import Problem, Schedule
from kronsgd.planner.rates import BUILT_IN, Rates

__all__ = ["BUILT_IN", "EngineCost", "Plan", "Problem", "Rates", "Schedule", "make_plan"]
