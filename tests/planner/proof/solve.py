"""Answers a question of the planner's oracle: by branch and price, and what that leaves open with CP-SAT.

usage: solve.py QUESTION.lp MOST SECONDS

Reads an integer programme and prints two numbers: what its minimum is proven not to be below, and the best that was
found, or "-". It looks only for something below MOST and stops as soon as it has it. Written for tests/planner/ask.rs.
"""

import math
import sys
from fractions import Fraction

from ortools.sat.python import cp_model

import branch
from question import OUTSIDE, outside, read, with_edge, without_outside

# What was found is the minimum if nothing can be lower by more than this fraction.
ENOUGH = 0.0005


def add_rule(model, choices, left, relation, value):
    """Adds a rule, times whatever makes its factors whole numbers."""
    scale = math.lcm(*(factor.denominator for factor in left.values()))
    total = sum(int(factor * scale) * choices[name] for name, factor in left.items())
    if relation == "=":
        model.add(total == int(value * scale))
    elif relation == "<=":
        model.add(total <= math.floor(value * scale))
    else:
        model.add(total >= math.ceil(value * scale))


class FirstBelow(cp_model.CpSolverSolutionCallback):
    """Stops at the first solution: all that the model allows are below what was asked."""

    def on_solution_callback(self):
        self.stop_search()


def answer(text, most, seconds):
    """What nothing is below, and the best that was found or None."""
    objective, rules, names = read(text)
    gives_way = OUTSIDE in objective
    part = Fraction(most) / objective[OUTSIDE] if gives_way and most < math.inf else 0
    within = [with_edge(*without_outside(rule, part)) for rule in rules]
    priced, found = branch.least({} if gives_way else objective, within, names, most, seconds)
    if priced >= most:
        return most, None
    if found is not None:
        return priced, found
    model = cp_model.CpModel()
    choices = {name: model.new_bool_var(name) for name in names}
    for rule in within:
        add_rule(model, choices, *rule)
    if not gives_way:
        cost = sum(int(factor) * choices[name] for name, factor in objective.items())
        model.minimize(cost)
        if most < math.inf:
            model.add(cost <= math.ceil(most) - 1)
    solver = cp_model.CpSolver()
    solver.parameters.max_time_in_seconds = seconds
    solver.parameters.num_workers = 2
    solver.parameters.relative_gap_limit = ENOUGH
    status = solver.solve(model, FirstBelow())
    if status == cp_model.INFEASIBLE:
        return most, None
    least = 0 if gives_way else max(priced, min(most, solver.best_objective_bound))
    if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        return least, None
    if not gives_way:
        return least, solver.objective_value
    chosen = {name for name, choice in choices.items() if solver.value(choice)}
    return least, float(objective[OUTSIDE] * outside(rules, chosen))


def main():
    file, most, seconds = sys.argv[1:]
    with open(file, encoding="ascii") as question:
        least, best = answer(question.read(), float(most), float(seconds))
    print(least, "-" if best is None else best)


main()
