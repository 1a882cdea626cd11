"""Answers a question of the planner's oracle: by column generation, and what that leaves open with CP-SAT.

usage: solve.py QUESTION.lp MOST SECONDS

Reads an integer programme and prints two numbers: what its minimum is proven not to be below, and the best that was
found, or "-". It looks only for something below MOST and stops as soon as it has it. Written for tests/planner/ask.rs.
"""

import math
import re
import sys
from fractions import Fraction

from ortools.sat.python import cp_model

import columns

# A load on the edge of its band is within it, whatever the last digit of the edge was rounded to.
EDGE = Fraction(1, 1_000_000)
# What was found is the minimum if nothing can be lower by more than this fraction.
ENOUGH = 0.0005
# The one variable that is no choice between 0 and 1: by how much bands give way.
OUTSIDE = "outside"


def terms(text):
    """A linear expression as {name: factor}."""
    found = re.findall(r"([+-]\d+(?:\.\d+)?) (\w+)", text)
    return {name: Fraction(factor) for factor, name in found}


def read(text):
    """The objective, the rules as (expression, relation, value), and the names of the choices."""
    objective, rules = text.split("Subject To\n")
    rules, names = rules.split("Binaries\n")
    rules = re.findall(r"([^<>=]*)(<=|>=|=) (\S+)\n", rules)
    names = names.split()
    assert names.pop() == "End"
    return terms(objective), [(terms(left), relation, Fraction(value)) for left, relation, value in rules], names


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


def with_edge(left, relation, value):
    """The rule, kept by what is on its edge."""
    return left, relation, value + {"=": 0, "<=": EDGE, ">=": -EDGE}[relation]


def without_outside(rule, part):
    """A rule in which the bands give way by that part."""
    left, relation, value = rule
    rest = {name: factor for name, factor in left.items() if name != OUTSIDE}
    return rest, relation, value - left.get(OUTSIDE, 0) * part


def outside(rules, chosen):
    """By how much the bands have to give way for what was chosen."""
    def need(left, value):
        return (sum(factor for name, factor in left.items() if name in chosen) - value) / -left[OUTSIDE]

    return max(0, *(need(left, value) for left, _, value in rules if OUTSIDE in left))


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
    counted = columns.least({} if gives_way else objective, within, names, most, seconds)
    if counted >= most:
        return most, None
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
    least = 0 if gives_way else max(counted, min(most, solver.best_objective_bound))
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
