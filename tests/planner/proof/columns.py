"""Lower bounds by column generation (Dantzig and Wolfe, "Decomposition principle for linear programs", 1960).

A column is all that one host holds: a set of copies that keeps the host's own bands. The rules between hosts are left to
prices. What the cheapest column of each host costs, less what the prices promise, is a bound for any prices; it is much
nearer than that of the linear programme where few copies fill a host.
"""

import math
import time

import highspy
import numpy as np

# What stands in for a rule that no column keeps yet, in sizes of the largest copy; and how much dearer it gets where it
# is still used once no column is new.
MISSING = 40
DEARER = 5
DEAREST = 1e8
# The share of the best prices so far in the prices that are tried (Wentges, "Weighted Dantzig-Wolfe decomposition", 1997).
SMOOTH = 0.8
# The bound is as near to the master's value as it gets; and what is nothing.
CLOSE = 1e-4
NOTHING = 1e-6
ALL = highspy.kHighsInf


class Master:
    """The linear programme over the columns so far, for one node of a tree: some choices are made, some counts are within
    bands (`node.totals`, one for each of the problem's).
    """

    def __init__(self, problem, node, hosts, pool):
        self.problem, self.node, self.hosts, self.pool = problem, node, hosts, pool
        self.rows = len(problem.rules)
        self.centre = node.prices
        self.build()

    def build(self):
        """With what of the pool fits the node."""
        problem, self.lp = self.problem, programme()
        for _, relation, value in problem.rules:
            self.lp.addRow(*band(relation, value), 0, [], [])
        for least, most in self.node.totals:
            self.lp.addRow(least, most, 0, [], [])
        for _ in problem.hosts:
            self.lp.addRow(1, 1, 0, [], [])
        self.penalties = []
        for row, sign in enumerate(problem.signs):
            largest = max(abs(factor) for factor in problem.rules[row][0].values())
            for side in (1.0, -1.0) if sign == 0 else (float(sign),):
                self.stand_in(row, side, MISSING * problem.largest / largest)
        for row in range(self.rows, self.rows + len(self.node.totals)):
            self.stand_in(row, 1.0, MISSING * problem.largest)
            self.stand_in(row, -1.0, MISSING * problem.largest)
        for row in range(self.rows + len(self.node.totals), self.lp.getNumRow()):
            self.stand_in(row, 1.0, 100 * MISSING * problem.largest)
        self.columns, self.known = [], set()
        for host in problem.hosts:
            for column in self.pool[host]:
                if self.node.allows(host, column):
                    self.add(host, column)

    def stand_in(self, row, side, penalty):
        self.lp.addCol(penalty, 0, ALL, 1, [row], [side])
        self.penalties.append(penalty)

    def add(self, host, column):
        """Whether that column is new."""
        if (host, column) in self.known:
            return False
        self.known.add((host, column))
        self.pool[host][column] = True
        use = self.problem.use(host, column)
        rows = np.flatnonzero(use)
        place = self.rows + len(self.node.totals) + self.problem.hosts.index(host)
        cost = sum(self.problem.costs.get((copy, host), 0.0) for copy in column)
        self.lp.addCol(cost, 0, ALL, len(rows) + 1, [*rows.tolist(), place], [*use[rows].tolist(), 1.0])
        self.columns.append((host, column))
        return True

    def solve(self):
        """The value over the columns so far, and the prices of the rules and totals."""
        self.lp.run()
        assert self.lp.getModelStatus() == highspy.HighsModelStatus.kOptimal
        prices = np.array(self.lp.getSolution().row_dual[: self.rows + len(self.node.totals)])
        return self.lp.getInfo().objective_function_value, self.signed(prices)

    def signed(self, prices):
        """The prices, of the sign that makes each a bound."""
        rules, totals = prices[: self.rows], prices[self.rows :]
        signs = self.problem.signs
        rules = np.where(signs > 0, np.maximum(rules, 0), np.where(signs < 0, np.minimum(rules, 0), rules))
        for n, (least, most) in enumerate(self.node.totals):
            totals[n] = max(totals[n], 0) if most == ALL else totals[n]
            totals[n] = min(totals[n], 0) if least <= 0 else totals[n]
        return np.append(rules, totals)

    def promised(self, prices):
        """What the prices take in for the least that the rules and totals ask for."""
        total = float(prices[: self.rows] @ self.problem.values)
        for price, (least, most) in zip(prices[self.rows :], self.node.totals):
            total += price * (least if price > 0 else most) if price else 0
        return total

    def bound(self, prices, roughly=False):
        """What the prices prove, the cheapest column of each host, and whether one of them is new."""
        total, columns, is_new = self.promised(prices), {}, False
        for number, host in self.hosts.items():
            value, chosen = host.cheapest(prices, roughly)
            if chosen is None:
                return math.inf, {}, False
            total += value
            columns[number] = tuple(sorted(chosen))
            is_new |= self.node.allows(number, columns[number]) and self.add(number, columns[number])
        return total, columns, is_new

    def settle(self, enough, end):
        """Generates columns until none is new; the bound, which may be less at the end of the time or more than `enough`."""
        best, self.value = self.bound(self.centre)[0], math.inf
        while best <= enough and time.monotonic() < end:
            self.value, prices = self.solve()
            tried = SMOOTH * self.centre + (1 - SMOOTH) * prices
            found, _, is_new = self.bound(tried)
            if not is_new or found <= best:
                exact, _, more = self.bound(prices)
                is_new |= more
                if exact > found:
                    found, tried = exact, prices
            if found > best:
                best, self.centre = found, tried
            if (not is_new or self.value - best < CLOSE * abs(self.value)) and (best > enough or not self.dearer()):
                break
        return best

    def dearer(self):
        """Makes dearer what stands in for a rule and is used; whether there is any."""
        used = self.lp.getSolution().col_value[: len(self.penalties)]
        found = [n for n, value in enumerate(used) if value > NOTHING and self.penalties[n] < DEAREST]
        for n in found:
            self.penalties[n] *= DEARER
            self.lp.changeColCost(n, self.penalties[n])
        return bool(found)

    def shares(self):
        """How much of each choice the columns take now; None where something stands in for a rule."""
        values, shares = self.lp.getSolution().col_value, {}
        if max(values[: len(self.penalties)]) > NOTHING:
            return None
        for value, (host, column) in zip(values[len(self.penalties) :], self.columns):
            for copy in column if value > NOTHING else ():
                shares[copy, host] = shares.get((copy, host), 0.0) + value
        return shares

    def given_up(self, enough):
        """The choices with which it is proven to be more than that, and those without which it is: (gone, held)."""
        least = {number: host.cheapest(self.centre)[0] for number, host in self.hosts.items()}
        spare = enough - self.promised(self.centre) - sum(least.values())
        gone, held = set(), set()
        for number, host in self.hosts.items():
            for copy, (having, lacking) in host.each(self.centre).items():
                if having - least[number] > spare:
                    gone.add((copy, number))
                elif lacking - least[number] > spare:
                    held.add((copy, number))
        return gone, held


def programme():
    """An empty linear programme, for the primal simplex: columns that are added leave it feasible."""
    lp = highspy.Highs()
    for option, value in (("output_flag", False), ("threads", 1), ("simplex_strategy", 4)):
        lp.setOptionValue(option, value)
    return lp


def band(relation, value):
    """What a rule allows, as (least, most)."""
    return (-ALL if relation == "<=" else value), (ALL if relation == ">=" else value)


def starting_prices(problem):
    """Those of the linear programme without columns; totals have none."""
    lp, choices = programme(), {}
    for host in problem.hosts:
        for copy in problem.may[host]:
            choices[copy, host] = len(choices)
            lp.addCol(problem.costs.get((copy, host), 0.0), 0, ALL, 0, [], [])
    for left, relation, value in problem.rules:
        lp.addRow(*band(relation, value), len(left), [choices[choice] for choice in left], list(left.values()))
    for host in problem.hosts:
        columns = [choices[copy, host] for copy in problem.may[host]]
        sizes = [float(problem.sizes[copy]) for copy in problem.may[host]]
        lp.addRow(*map(float, problem.bytes[host]), len(columns), columns, sizes)
    lp.run()
    prices = np.array(lp.getSolution().row_dual[: len(problem.rules)])
    return np.append(prices, np.zeros(len(problem.totals)))
