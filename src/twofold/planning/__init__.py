"""Deciding: the candidates of each layer, and one choice over all layers under a budget."""

from twofold.planning.budget import COSTS, Budget, Cost
from twofold.planning.candidates import Candidate, candidates
from twofold.planning.make import Request, as_fitted, make_plan, requests
from twofold.planning.objective import Curve, EqualWeights, MeasuredSensitivity, Objective
from twofold.planning.options import FixedRanks, PlanOptions
from twofold.planning.plan import Choice, Plan, Totals
from twofold.planning.rules import RULES, Rule

__all__ = [
    "COSTS",
    "RULES",
    "Budget",
    "Candidate",
    "Choice",
    "Cost",
    "Curve",
    "EqualWeights",
    "FixedRanks",
    "MeasuredSensitivity",
    "Objective",
    "Plan",
    "PlanOptions",
    "Request",
    "Rule",
    "Totals",
    "as_fitted",
    "candidates",
    "make_plan",
    "requests",
]
