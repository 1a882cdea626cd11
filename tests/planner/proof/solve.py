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
# Of the time that branch and price has for a part, what CP-SAT has first: where it decides, it does so soon.
FIRST = 0.1


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


def by_parts(objective, rules, names, of, most, seconds):
    """The same for parts that have nothing to do with each other: their minima add up.

    CP-SAT looks for each one's minimum; then branch and price whether it is below what the others leave of `most`.
    """
    asked, least, chosen = [], [], []
    for hosts in of:
        mine = [name for name in names if at(name)[1] in hosts]
        costs = {name: objective[name] for name in mine if name in objective}
        own = [rule for rule in rules if all(at(name)[1] in hosts for name in rule[0])]
        bound, found = solved(costs, own, mine, math.inf, FIRST * seconds)
        asked.append((costs, own, mine))
        least.append(bound)
        chosen.append(found)
    for n, found in enumerate(chosen):
        rest = most - sum(least) + least[n]
        known = math.inf if found is None else sum(objective.get(name, 0) for name in found)
        if least[n] < rest <= known and rest < math.inf:
            # Costs are whole; what is left of `most` would add up to a digit less than that.
            proven = math.ceil(branch.least(*asked[n], rest, seconds)[0] - branch.ROUNDING)
            least[n] = max(least[n], proven)
    least = min(sum(least), most)
    found = None if None in chosen else set().union(*chosen)
    is_below = found is not None and sum(objective.get(name, 0) for name in found) < most
    return least, (found if is_below else None)


def answer(text, most, seconds):
    """What nothing is below, and the best that was found or None."""
    objective, rules, names = read(text)
    gives_way = OUTSIDE in objective
    part = Fraction(most) / objective[OUTSIDE] if gives_way and most < math.inf else 0
    within = [with_edge(*without_outside(rule, part)) for rule in rules]
    costs = {} if gives_way else objective
    free, possible, of = parts(within, names)
    if costs and len(of) > 1:
        costs = {name: costs[name] for name in possible if name in costs}
        least, chosen = by_parts(costs, free, possible, of, most, seconds)
    else:
        priced, found = branch.least(costs, within, names, most, seconds)
        if priced >= most or found is not None:
            return priced, found
        least, chosen = solved(costs, within, names, most, seconds)
        least = max(priced, least)
    if least >= most:
        return most, None
    least = 0 if gives_way else least
    if chosen is None:
        return least, None
    return least, float(objective[OUTSIDE] * outside(rules, chosen) if gives_way else sum(costs.get(x, 0) for x in chosen))


def main():
    file, most, seconds = sys.argv[1:]
    with open(file, encoding="ascii") as question:
        least, best = answer(question.read(), float(most), float(seconds))
    print(least, "-" if best is None else best)


if __name__ == "__main__":
    main()
