"""Lower bounds by column generation (Dantzig and Wolfe, "Decomposition principle for linear programs", 1960).

A column is all that one host holds: a set of copies that keeps the host's band of bytes. The rules between hosts, and
all others of one host, are left to prices. What the cheapest column of each host costs, less what the prices promise,
is a bound for any prices; it is much nearer than that of the linear programme where few copies fill a host.

Sizes are whole MiB, so the cheapest column is found exactly, by dynamic programming over the bytes.
"""

import math
import time

import highspy
import numpy as np

# What stands in for a rule that no column keeps yet, in MiB: more than one copy can cost.
MISSING = 50_000.0
# The share of the best prices so far in the prices that are tried (Wentges, "Weighted Dantzig-Wolfe decomposition", 1997).
SMOOTH = 0.8
# The bound is as near to the master's value as it gets; and what rounding may make of either.
CLOSE = 1e-4
ROUNDING = 1e-6
# A bound above this refutes rules that ask for no minimum: with what keeps them it could not be above 0.
REFUTED = 1e-3


def at(name):
    """The copy and the host of a choice."""
    copy, host = name[1:].split("_")
    return int(copy), int(host)


class Host:
    """The copies that a host may hold, and the bytes that it has to end with."""

    def __init__(self, copies):
        self.copies = copies
        self.sizes, self.low, self.high = None, 0, None

    def takes(self, left, relation, value):
        """Whether the rule is about this host's bytes; then it is kept by every column."""
        sizes = [int(left.get(copy, 0)) for copy in self.copies]
        if any(left.get(copy, 0) != size for copy, size in zip(self.copies, sizes)) or max(sizes) <= 1:
            return False
        if self.sizes not in (None, sizes):
            return False
        self.sizes = sizes
        if relation == ">=":
            self.low = max(self.low, math.ceil(value))
        else:
            self.high = min(math.floor(value), sum(sizes) if self.high is None else self.high)
        return True

    def ready(self):
        self.sizes = self.sizes or [0] * len(self.copies)
        self.high = sum(self.sizes) if self.high is None else self.high

    def without(self, copies):
        """Never holds those again."""
        kept = [n for n, copy in enumerate(self.copies) if copy not in copies]
        self.copies, self.sizes = [self.copies[n] for n in kept], [self.sizes[n] for n in kept]

    def forward(self, costs):
        """The least cost of any set of the first copies, by its bytes."""
        least = np.full((len(self.copies) + 1, self.high + 1), np.inf)
        least[0, 0] = 0
        for n, size in enumerate(self.sizes):
            least[n + 1] = least[n]
            if size <= self.high:
                np.minimum(least[n, size:], least[n, : self.high + 1 - size] + costs[n], out=least[n + 1, size:])
        return least

    def cheapest(self, costs):
        """The least cost of a column and its copies; infinite where there is none."""
        least = self.forward(costs)
        end = least[-1, self.low :]
        if end.size == 0 or not np.isfinite(end.min()):
            return math.inf, None
        load = self.low + int(end.argmin())
        value, chosen = least[-1, load], []
        for n in range(len(self.copies) - 1, -1, -1):
            if least[n + 1, load] < least[n, load]:
                chosen.append(self.copies[n])
                load -= self.sizes[n]
        return float(value), chosen

    def with_each(self, costs):
        """The least cost of a column that holds a copy, for each copy."""
        before = self.forward(costs)
        after = np.full(self.high + 1, np.inf)
        after[self.low :] = 0
        found = [math.inf] * len(self.copies)
        for n in range(len(self.copies) - 1, -1, -1):
            size = self.sizes[n]
            if size > self.high:
                continue
            taken = after[size:] + costs[n]
            found[n] = float((before[n, : self.high + 1 - size] + taken).min())
            after[: self.high + 1 - size] = np.minimum(after[: self.high + 1 - size], taken)
        return found


class Master:
    """The linear programme over the columns so far."""

    def __init__(self, objective, rules, names):
        self.costs = {at(name): float(factor) for name, factor in objective.items()}
        choices = [at(name) for name in names]
        self.hosts = {host: Host([c for c, h in choices if h == host]) for host in sorted({h for _, h in choices})}
        self.rules = []
        for left, relation, value in rules:
            left = {at(name): float(factor) for name, factor in left.items()}
            of = {host for _, host in left}
            own = {copy: factor for (copy, _), factor in left.items()}
            if len(of) != 1 or relation == "=" or not self.hosts[min(of)].takes(own, relation, float(value)):
                self.rules.append((left, relation, float(value)))
        self.factors = {}
        for row, (left, _, _) in enumerate(self.rules):
            for choice, factor in left.items():
                self.factors.setdefault(choice, []).append((row, factor))
        for host in self.hosts.values():
            host.ready()
        self.values = np.array([value for _, _, value in self.rules])
        self.build()

    def build(self):
        """Begins without any column."""
        self.known = set()
        self.lp = highspy.Highs()
        self.lp.setOptionValue("output_flag", False)
        self.lp.setOptionValue("threads", 1)
        most = highspy.kHighsInf
        for _, relation, value in self.rules:
            self.lp.addRow(-most if relation == "<=" else value, most if relation == ">=" else value, 0, [], [])
        for _ in self.hosts:
            self.lp.addRow(1, 1, 0, [], [])
        for row, (_, relation, _) in enumerate(self.rules):
            for sign in {"=": (1, -1), ">=": (1,), "<=": (-1,)}[relation]:
                self.lp.addCol(MISSING, 0, most, 1, [row], [float(sign)])
        for row in range(len(self.rules), len(self.rules) + len(self.hosts)):
            self.lp.addCol(100 * MISSING, 0, most, 1, [row], [1.0])

    def add(self, place, host, chosen):
        """Whether that column is new."""
        if (host, tuple(chosen)) in self.known:
            return False
        self.known.add((host, tuple(chosen)))
        rows = {len(self.rules) + place: 1.0}
        for copy in chosen:
            for row, factor in self.factors.get((copy, host), ()):
                rows[row] = rows.get(row, 0.0) + factor
        cost = sum(self.costs.get((copy, host), 0.0) for copy in chosen)
        self.lp.addCol(cost, 0, highspy.kHighsInf, len(rows), list(rows), list(rows.values()))
        return True

    def solve(self):
        """The value over the columns so far, and the prices of the rules, of the sign that makes each a bound."""
        self.lp.run()
        prices = np.array(self.lp.getSolution().row_dual[: len(self.rules)])
        for row, (_, relation, _) in enumerate(self.rules):
            if relation != "=":
                prices[row] = min(prices[row], 0) if relation == "<=" else max(prices[row], 0)
        return self.lp.getInfo().objective_function_value, prices

    def charged(self, host, prices):
        """What each copy costs on the host at these prices."""
        return [
            self.costs.get((copy, host), 0.0)
            - sum(prices[row] * factor for row, factor in self.factors.get((copy, host), ()))
            for copy in self.hosts[host].copies
        ]

    def bound(self, prices):
        """What the prices prove, and whether a column of theirs is new."""
        total, new = float(prices @ self.values), False
        for place, (number, host) in enumerate(self.hosts.items()):
            value, chosen = host.cheapest(self.charged(number, prices))
            total += value
            if chosen is None:
                return math.inf, False
            new |= self.add(place, number, chosen)
        return total, new

    def give_up(self, prices, least, most):
        """Takes out each choice with which nothing below `most` is possible; whether there was one."""
        found = False
        for number, host in self.hosts.items():
            costs = self.charged(number, prices)
            spare = most - least + host.cheapest(costs)[0]
            dear = {copy for copy, cost in zip(host.copies, host.with_each(costs)) if cost > spare + ROUNDING * most}
            found |= bool(dear)
            host.without(dear)
        if found:
            self.build()
        return found


def least(objective, rules, names, most, seconds):
    """What the minimum is proven not to be below; anything above `most` where nothing below it keeps the rules.

    Without an objective it is 0, or infinite where nothing keeps the rules.
    """
    master, end = Master(objective, rules, names), time.monotonic() + seconds
    best, centre = -math.inf, np.zeros(len(master.rules))
    while time.monotonic() < end and best < most:
        value, prices = master.solve()
        tried = SMOOTH * centre + (1 - SMOOTH) * prices
        found, new = master.bound(tried)
        if not new or found <= best:
            exact, more = master.bound(prices)
            new |= more
            if exact > found:
                found, tried = exact, prices
        if found > best:
            best, centre = found, tried
        if not objective and best > REFUTED:
            return math.inf
        if not new or value - best < CLOSE * abs(value):
            if not objective or most == math.inf or not master.give_up(centre, best, most):
                break
    if not objective or best == math.inf:
        return best if objective else 0
    return math.ceil(max(best, 0) * (1 - ROUNDING) - ROUNDING)
