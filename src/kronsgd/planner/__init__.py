"""Which engine: what every engine would compute and allocate, and which of them fits and is fastest."""

from kronsgd.planner.plan import EngineCost, Plan, make_plan
from kronsgd.planner.problem import Problem, Schedule
from kronsgd.planner.rates import BUILT_IN, Rates
from kronsgd.planner.restoring import check_restorable

__all__ = ["BUILT_IN", "EngineCost", "Plan", "Problem", "Rates", "Schedule", "check_restorable", "make_plan"]
