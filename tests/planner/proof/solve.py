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
from question import OUTSIDE, at, outside, parts, read, with_edge, without_outside

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


def solved(objective, rules, names, most, seconds):
    """What CP-SAT proves that nothing is below, `most` at the most, and the choices of the best below that, or None.

    One worker: it decides in seconds what two, which do other things than one, leave open for long.
    """
    model = cp_model.CpModel()
    choices = {name: model.new_bool_var(name) for name in names}
    for rule in rules:
        add_rule(model, choices, *rule)
    cost = sum(int(factor) * choices[name] for name, factor in objective.items())
    if objective:
        model.minimize(cost)
    if objective and most < math.inf:
        model.add(cost <= math.ceil(most) - 1)
    solver = cp_model.CpSolver()
    solver.parameters.max_time_in_seconds = seconds
    solver.parameters.num_workers = 1
    solver.parameters.linearization_level = 2
    solver.parameters.relative_gap_limit = ENOUGH
    status = solver.solve(model) if most == math.inf else solver.solve(model, FirstBelow())
    if status == cp_model.INFEASIBLE:
        return most, None
    least = min(most, solver.best_objective_bound) if objective else 0
    if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        return least, None
    return least, {name for name, choice in choices.items() if solver.value(choice)}


def by_parts(objective, rules, names, most, seconds):
    """The same for what falls into parts that have nothing to do with each other: their minima add up."""
    rules, names, of = parts(rules, names)
    objective = {name: objective[name] for name in names if name in objective}
    if not objective or len(of) < 2:
        return solved(objective, rules, names, most, seconds)
    least, chosen = 0, set()
    for hosts in of:
        mine = [name for name in names if at(name)[1] in hosts]
        costs = {name: objective[name] for name in mine if name in objective}
        own = [rule for rule in rules if all(at(name)[1] in hosts for name in rule[0])]
        bound, found = solved(costs, own, mine, math.inf, seconds)
        if bound == math.inf:
            return most, None
        least += bound
        chosen = None if chosen is None or found is None else chosen | found
    is_below = chosen is not None and sum(objective.get(name, 0) for name in chosen) < most
    return min(least, most), (chosen if is_below else None)


def answer(text, most, seconds):
    """What nothing is below, and the best that was found or None."""
    objective, rules, names = read(text)
    gives_way = OUTSIDE in objective
    part = Fraction(most) / objective[OUTSIDE] if gives_way and most < math.inf else 0
    within = [with_edge(*without_outside(rule, part)) for rule in rules]
    costs = {} if gives_way else objective
    priced, found = branch.least(costs, within, names, most, seconds)
    if priced >= most:
        return most, None
    if found is not None:
        return priced, found
    least, chosen = by_parts(costs, within, names, most, seconds)
    if least >= most:
        return most, None
    least = 0 if gives_way else max(priced, least)
    if chosen is None:
        return least, None
    return least, float(objective[OUTSIDE] * outside(rules, chosen) if gives_way else sum(costs.get(x, 0) for x in chosen))


def main():
    file, most, seconds = sys.argv[1:]
    with open(file, encoding="ascii") as question:
        least, best = answer(question.read(), float(most), float(seconds))
    print(least, "-" if best is None else best)


main()
