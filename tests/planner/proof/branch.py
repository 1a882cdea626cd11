"""Branch and price: what column generation leaves open is divided, first by how many copies move.

How many of a kind move in all, how many of a host's own stay and how many others come are whole numbers; fixing one of
them says more than fixing where a copy is, of which there are many alike.
"""

import heapq
import math
import time

from columns import ALL, Master, starting_prices
from knapsack import Host
from question import Problem
from volume import climb

# A number that is no further from a whole one is whole; one that is further is divided by.
WHOLE = 1e-4
TOTAL = 0.01
COUNT = 0.05
# A bound proves the next whole number where it is so far above a whole one; what the solvers' rounding may come to.
ROUNDING = 0.05
# Where hosts hold more copies than this, good prices are looked for before columns are generated.
CROWDED = 16
# Where so many of the open choices were given up, it is worth to settle again.
AGAIN = 0.1


class Node:
    """Some choices made: `gone` and `held`; and bands for counts, by host and kind, and for all that moves."""

    def __init__(self, problem):
        self.problem = problem
        self.gone, self.held, self.counts = set(), set(), {}
        self.totals = [(0, ALL)] * len(problem.totals)
        self.bound, self.prices = -math.inf, None

    def child(self):
        node = Node(self.problem)
        node.gone, node.held, node.counts = set(self.gone), set(self.held), dict(self.counts)
        node.totals, node.bound, node.prices = list(self.totals), self.bound, self.prices
        return node

    def hold(self, choice):
        """The copy is on that host."""
        copy, host = choice
        self.held.add(choice)
        self.gone.update((copy, other) for other in self.problem.places[copy] if other != host)

    def group(self, host, copy):
        """What the copy is counted among on a host."""
        return host, self.problem.homes.get(copy) == host, self.problem.kinds[copy]

    def hosts(self):
        """The hosts under these choices."""
        problem, hosts = self.problem, {}
        for host in problem.hosts:
            counts = [
                ([copy for copy in problem.may[host] if self.group(host, copy) == group], *band)
                for group, band in self.counts.items()
                if group[0] == host
            ]
            gone = {copy for copy, other in self.gone if other == host}
            held = [copy for copy, other in self.held if other == host]
            hosts[host] = Host(problem, host, gone, held, counts)
        return hosts

    def allows(self, host, column):
        """Whether the host may hold that."""
        if any((copy, host) in self.gone for copy in column):
            return False
        if any(other == host and copy not in column for copy, other in self.held):
            return False
        for group, (least, most) in self.counts.items():
            if group[0] == host and not least <= sum(self.group(host, copy) == group for copy in column) <= most:
                return False
        return True


class Tree:
    """Divides until every node is proven to have nothing below `most`, or something is found, or time is up."""

    def __init__(self, problem, most, seconds):
        self.problem, self.most, self.end = problem, most, time.monotonic() + seconds
        assert all(cost == int(cost) for cost in problem.costs.values())
        # More than this is at least `most`, since costs are whole.
        self.enough = math.ceil(most) - 1 + ROUNDING if most < math.inf else math.inf
        self.pool = {host: {} for host in problem.hosts}

    def grow(self):
        """What nothing is below, and something below `most` or None."""
        root, number = Node(self.problem), 0
        nodes = [(-math.inf, 0, root)]
        while nodes:
            _, _, node = heapq.heappop(nodes)
            master = self.settle(node)
            if node.bound > self.enough:
                continue
            shares = master.shares() if time.monotonic() < self.end and self.most < math.inf else None
            is_whole = shares is not None and all(abs(share - round(share)) < WHOLE for share in shares.values())
            if is_whole and master.value < self.most:
                return min(math.ceil(bound - ROUNDING) for bound, _, _ in [*nodes, (node.bound, 0, 0)]), master.value
            if shares is None:
                nodes.append((node.bound, number, node))
                break
            if set(shares) <= node.held:
                # All is decided, and not below `most`; the bound only lacks what the search of some host broke off.
                continue
            for child in divided(node, shares):
                number += 1
                heapq.heappush(nodes, (child.bound, -number, child))
        return min((math.ceil(bound - ROUNDING) for bound, _, _ in nodes), default=self.most), None

    def settle(self, node):
        """The node's bound, with the choices given up that its prices rule out."""
        while True:
            is_root = node.prices is None
            if is_root:
                node.prices = starting_prices(self.problem)
            master = Master(self.problem, node, node.hosts(), self.pool)
            if is_root and self.most < math.inf and len(self.problem.places) > CROWDED * len(self.problem.hosts):
                climb(master, self.enough, self.end)
            bound = master.settle(self.enough, self.end)
            node.bound, node.prices = max(node.bound, bound), master.centre
            if node.bound > self.enough or time.monotonic() > self.end or self.most == math.inf:
                return master
            gone, held = master.given_up(self.enough)
            node.gone |= gone
            for choice in held:
                node.hold(choice)
            left = sum(len(copies) for copies in self.problem.may.values()) - len(node.gone)
            if len(gone) + len(held) < AGAIN * left:
                return master


def divided(node, shares):
    """Two nodes that have all between them that is whole."""
    problem = node.problem
    totals = [sum(shares.get(choice, 0) for choice in group) for group in problem.totals]
    number = max(range(len(totals)), key=lambda n: off(totals[n]), default=None)
    if number is not None and off(totals[number]) > TOTAL:
        fewer, more = node.child(), node.child()
        fewer.totals[number], more.totals[number] = halves(node.totals[number], totals[number])
        return fewer, more
    counts = {}
    for (copy, host), share in shares.items():
        group = node.group(host, copy)
        counts[group] = counts.get(group, 0) + share
    group = max(counts, key=lambda group: off(counts[group]))
    if off(counts[group]) > COUNT:
        fewer, more = node.child(), node.child()
        fewer.counts[group], more.counts[group] = halves(node.counts.get(group, (0, ALL)), counts[group])
        return fewer, more
    open_ones = [choice for choice in shares if off(shares[choice]) > WHOLE]
    open_ones = open_ones or [choice for choice in shares if choice not in node.held]
    at_home = [choice for choice in open_ones if problem.homes.get(choice[0]) == choice[1]]
    choice = max(at_home or open_ones, key=lambda choice: (off(shares[choice]), problem.sizes[choice[0]], choice))
    here, elsewhere = node.child(), node.child()
    here.hold(choice)
    elsewhere.gone.add(choice)
    return here, elsewhere


def off(number):
    """How far it is from a whole number."""
    return abs(number - round(number))


def halves(band, number):
    """What is within the band below the number, and above it."""
    return (band[0], math.floor(number)), (math.ceil(number), band[1])


def least(objective, rules, names, most, seconds):
    """What the minimum is proven not to be below, `most` at the most; and something below `most`, or None.

    Without an objective it is 0, or `most` where nothing keeps the rules.
    """
    tree = Tree(Problem(objective, rules, names), most if objective else 1, seconds)
    bound, found = tree.grow()
    if not objective:
        return (most if bound >= 1 else 0), None
    return min(max(bound, 0), most), found
