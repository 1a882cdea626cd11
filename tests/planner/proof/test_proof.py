"""What the proofs say about small questions, held against counting all there is.

usage: python -m unittest (in this folder; script/planner-optima runs it first)
"""

import itertools
import math
import random
import unittest
from fractions import Fraction
from unittest.mock import patch

import numpy as np

import branch
import solve
from knapsack import Host
from question import Problem, at, parts


def small(dice, hosts, copies):
    """A question about a small fleet, as (objective, rules, names): bands of bytes and operations, pairs kept apart."""
    homes = [dice.randrange(hosts) for _ in range(copies)]
    sizes = [dice.randrange(20, 120) for _ in homes]
    ops = [Fraction(dice.randrange(100, 900), 10) if copy % 2 == 0 else 0 for copy in range(copies)]
    names = [f"x{copy}_{host}" for copy in range(copies) for host in range(hosts)]
    objective = {
        f"x{copy}_{host}": Fraction(sizes[copy])
        for copy in range(copies)
        for host in range(hosts)
        if host != homes[copy]
    }
    rules = [({f"x{copy}_{host}": Fraction(1) for host in range(hosts)}, "=", Fraction(1)) for copy in range(copies)]
    for first in range(0, copies - 1, 2):
        for host in range(hosts):
            rules.append(({f"x{first}_{host}": Fraction(1), f"x{first + 1}_{host}": Fraction(1)}, "<=", Fraction(1)))
    for loads, wide in ((sizes, Fraction(1, 4)), (ops, Fraction(1, 2))):
        share = Fraction(sum(loads)) / hosts
        for host in range(hosts):
            left = {f"x{copy}_{host}": Fraction(load) for copy, load in enumerate(loads) if load}
            rules += [(left, "<=", share * (1 + wide)), (left, ">=", share * (1 - wide))]
    return objective, rules, names


def keeps(left, relation, value, chosen):
    total = sum(factor for name, factor in left.items() if name in chosen)
    return total == value if relation == "=" else total <= value if relation == "<=" else total >= value


def counted(objective, rules, hosts, copies):
    """The minimum, by looking at every way; infinite where there is none."""
    least = math.inf
    for places in itertools.product(range(hosts), repeat=copies):
        chosen = {f"x{copy}_{host}" for copy, host in enumerate(places)}
        if all(keeps(*rule, chosen) for rule in rules):
            least = min(least, sum(objective.get(name, 0) for name in chosen))
    return least


class Hosts(unittest.TestCase):
    def check(self, dice, broken_off=False):
        """One host under some choices and prices, against all sets that it could hold."""
        problem = Problem(*small(dice, 3, 10))
        gone = {dice.randrange(10)}
        group, fewest, most = [0, 2, 4, 6, 8], dice.randrange(3), dice.randrange(2, 5)
        host = Host(problem, 1, gone, [], [(group, fewest, most)])
        prices = np.array([dice.uniform(-60, 90) for _ in range(problem.factors[1].shape[1])])
        costs = dict(zip(problem.may[1], problem.own_costs[1] - problem.factors[1] @ prices))
        load, low, high = problem.loads[1]
        sets = itertools.chain.from_iterable(
            itertools.combinations([copy for copy in range(10) if copy not in gone], n) for n in range(11)
        )
        fitting = {
            chosen: sum(costs[copy] for copy in chosen)
            for chosen in sets
            if problem.bytes[1][0] <= sum(problem.sizes[copy] for copy in chosen) <= problem.bytes[1][1]
            and low <= sum(load.get(copy, 0) for copy in chosen) <= high
            and fewest <= sum(copy in group for copy in chosen) <= most
        }
        least = min(fitting.values(), default=math.inf)
        found, chosen = host.cheapest(prices)
        self.assertLessEqual(found, least + 1e-6)
        if not broken_off and fitting:
            self.assertAlmostEqual(found, least, delta=0.1)
            self.assertAlmostEqual(sum(costs[copy] for copy in chosen), least, delta=0.1)
        elif not broken_off:
            self.assertEqual((found, chosen), (math.inf, None))
        for copy, (having, lacking) in host.each(prices).items():
            those = [cost for chosen, cost in fitting.items() if copy in chosen]
            others = [cost for chosen, cost in fitting.items() if copy not in chosen]
            self.assertLessEqual(having, min(those, default=math.inf) + 1e-6)
            self.assertLessEqual(lacking, min(others, default=math.inf) + 1e-6)

    def test_the_cheapest_set_is_the_cheapest_of_all(self):
        dice = random.Random(1)
        for _ in range(60):
            self.check(dice)

    def test_it_is_where_bytes_are_coarse(self):
        dice = random.Random(3)
        with patch("knapsack.CELLS", 20_000):
            for _ in range(60):
                self.check(dice)

    def test_a_search_that_is_broken_off_promises_no_more(self):
        dice = random.Random(4)
        with patch("knapsack.LIMIT", 12):
            for _ in range(60):
                self.check(dice, broken_off=True)


class Trees(unittest.TestCase):
    def check(self, dice):
        """One question against every way; whether it has an answer."""
        objective, rules, names = small(dice, 3, 8)
        least = counted(objective, rules, 3, 8)
        refuted = branch.least({}, rules, names, 1_000, 60)
        if least == math.inf:
            self.assertEqual(refuted, (1_000, None))
            self.assertEqual(branch.least(objective, rules, names, 1_000, 60), (1_000, None))
            return False
        self.assertEqual(refuted, (0, None))
        self.assertEqual(branch.least(objective, rules, names, float(least), 60), (least, None))
        proven, found = branch.least(objective, rules, names, float(least) + 1, 60)
        self.assertLessEqual(proven, least)
        self.assertAlmostEqual(found, float(least), delta=0.01)
        return True

    def test_a_minimum_is_proven_and_less_is_refuted(self):
        dice = random.Random(2)
        self.assertGreater(sum(self.check(dice) for _ in range(25)), 5)

    def test_it_is_where_good_prices_are_looked_for_first(self):
        dice = random.Random(5)
        with patch("branch.CROWDED", 0):
            self.assertGreater(sum(self.check(dice) for _ in range(10)), 2)


def beside(question, other):
    """Both questions as one. What moves in the first may go to the other's hosts too, but for what cannot move there."""
    objective, rules, names = question
    copies, hosts = (1 + max(at(name)[n] for name in names) for n in (0, 1))
    shifted = {name: "x{}_{}".format(at(name)[0] + copies, at(name)[1] + hosts) for name in other[2]}
    there = sorted({at(name)[1] for name in shifted.values()})
    ways = {f"x{copy}_{host}": f"x{900 + host}_{host}" for copy in range(copies) for host in there}
    moved = [({shifted[name]: factor for name, factor in left.items()}, *rest) for left, *rest in other[1]]
    chosen_once = [
        ({**left, **{way: Fraction(1) for way in ways if at(way)[0] == copy}}, *rest)
        for copy, (left, *rest) in enumerate(rules[:copies])
    ]
    fixed = [({name: Fraction(1)}, "=", Fraction(1)) for name in sorted(set(ways.values()))]
    apart = [({way: Fraction(1), name: Fraction(1)}, "<=", Fraction(1)) for way, name in ways.items()]
    costs = {**objective, **{shifted[name]: factor for name, factor in other[0].items()}, **dict.fromkeys(ways, Fraction(1))}
    names = [*names, *shifted.values(), *ways, *sorted(set(ways.values()))]
    return costs, [*chosen_once, *rules[copies:], *moved, *fixed, *apart], names


class Parts(unittest.TestCase):
    def check(self, dice):
        """Two questions beside each other against every way of each; whether both have an answer."""
        questions = [small(dice, 3, 6), small(dice, 3, 6)]
        least = sum(counted(*question[:2], 3, 6) for question in questions)
        objective, rules, names = beside(*questions)
        rules, names, of = parts(rules, names)
        self.assertEqual(of, [{0, 1, 2}, {3, 4, 5}])
        objective = {name: objective[name] for name in names if name in objective}
        if least == math.inf:
            self.assertEqual(solve.by_parts(objective, rules, names, of, 1_000, 60), (1_000, None))
            return False
        self.assertEqual(solve.by_parts(objective, rules, names, of, float(least), 60), (least, None))
        proven, chosen = solve.by_parts(objective, rules, names, of, float(least) + 1, 60)
        self.assertLessEqual(proven, least)
        self.assertEqual(sum(objective.get(name, 0) for name in chosen), least)
        return True

    def test_minima_add_up(self):
        dice = random.Random(6)
        self.assertGreater(sum(self.check(dice) for _ in range(40)), 3)

    def test_what_cp_sat_leaves_open_is_refuted_all_the_same(self):
        dice, all_of_it, asked = random.Random(6), solve.solved, []

        def solved(*question):
            """As if time had been over before the first part's last three MiB."""
            least, found = all_of_it(*question)
            asked.append(question)
            return least - 3 * (len(asked) % 2), found

        with patch("solve.solved", solved):
            self.assertGreater(sum(self.check(dice) for _ in range(40)), 3)


if __name__ == "__main__":
    unittest.main()
