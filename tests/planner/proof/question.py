"""A question of the planner's oracle: an integer programme about copies of shards and the hosts that they may be on."""

import math
import re
from fractions import Fraction

import numpy as np

# A load on the edge of its band is within it, whatever the last digit of the edge was rounded to.
EDGE = Fraction(1, 1_000_000)
# The one variable that is no choice between 0 and 1: by how much bands give way.
OUTSIDE = "outside"
# A rule of one host about no more copies than this is a matter of those copies, not of the host's load.
FEW = 3
# Sizes are of two kinds where one is by this much larger than the next smaller one.
LEAP = 1.6


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


def at(name):
    """The copy and the host of a choice."""
    copy, host = name[1:].split("_")
    return int(copy), int(host)


def parts(rules, names):
    """The rules and names without what can never be chosen, and sets of hosts that no copy can go between."""
    places = {}
    for name in names:
        places.setdefault(at(name)[0], []).append(name)
    fixed = {of[0] for of in places.values() if len(of) == 1}
    barred = set()
    for left, relation, value in rules:
        if relation == "<=" and int(value) == 1 and set(left.values()) == {1} and fixed & set(left):
            barred |= set(left) - fixed
    names = [name for name in names if name not in barred]
    rules = [({name: factor for name, factor in left.items() if name not in barred}, *rest) for left, *rest in rules]
    # A rule between copies that one of them, which cannot move, keeps for all of them.
    rules = [(left, *rest) for left, *rest in rules if not (rest[0] == "<=" and set(left) <= fixed and len(left) == 1)]
    found = []
    for left, relation, _ in rules:
        hosts = {at(name)[1] for name in left}
        joined = [other for other in found if other & hosts]
        found = [other for other in found if not other & hosts] + [hosts.union(*joined)]
    return rules, names, [hosts for hosts in found if hosts]


class Problem:
    """The programme by hosts: what each host may hold, its own rules, and the rules between hosts.

    Own rules are about one host's load. Bytes are whole MiB: `bytes[host]` is (least, most). Its operations are
    `loads[host]`: ({copy: factor}, least, most), or None. `rules` are all but those about bytes: ({choice: factor}, relation,
    value).
    """

    def __init__(self, objective, rules, names):
        choices = [at(name) for name in names]
        self.costs = {at(name): float(factor) for name, factor in objective.items()}
        self.hosts = sorted({host for _, host in choices})
        self.may = {host: [copy for copy, other in choices if other == host] for host in self.hosts}
        self.places = {}
        for copy, host in choices:
            self.places.setdefault(copy, []).append(host)
        self.homes = {copy: host for copy, host in choices if (copy, host) not in self.costs} if objective else {}
        self.sizes, self.bytes = {}, {host: (0, math.inf) for host in self.hosts}
        self.loads = {host: None for host in self.hosts}
        self.rules = []
        for left, relation, value in rules:
            self.take({at(name): factor for name, factor in left.items()}, relation, value)
        self.close()

    def take(self, left, relation, value):
        """Puts a rule where it belongs."""
        of = {host for _, host in left}
        if relation == "=" or len(of) != 1 or len(left) <= FEW:
            self.rules.append(({choice: float(factor) for choice, factor in left.items()}, relation, float(value)))
            return
        host, factors = min(of), {copy: factor for (copy, _), factor in left.items()}
        is_bytes = set(factors) == set(self.may[host]) and all(
            factor.denominator == 1 and self.sizes.get(copy, factor) == factor for copy, factor in factors.items()
        )
        if is_bytes:
            self.sizes.update((copy, int(factor)) for copy, factor in factors.items())
            least, most = self.bytes[host]
            if relation == ">=":
                self.bytes[host] = max(least, math.ceil(value)), most
            else:
                self.bytes[host] = least, min(most, math.floor(value))
        else:
            factors, value = {copy: float(factor) for copy, factor in factors.items()}, float(value)
            known, least, most = self.loads[host] or (factors, 0.0, math.inf)
            assert known == factors, "a host has one load beside its bytes"
            self.loads[host] = (factors, max(least, value), most) if relation == ">=" else (factors, least, min(most, value))
            self.rules.append(({(copy, host): factor for copy, factor in factors.items()}, relation, value))

    def close(self):
        """Derives what the rules say."""
        for copy in self.places:
            self.sizes.setdefault(copy, 0)
        for host, (least, most) in self.bytes.items():
            self.bytes[host] = least, int(min(most, sum(self.sizes[copy] for copy in self.may[host])))
        self.largest = max(self.sizes.values())
        self.kinds = self.kinds_of()
        of = set(self.kinds.values())
        groups = [{choice for choice in self.costs if self.kinds[choice[0]] == kind} for kind in sorted(of)]
        self.totals = [group for group in groups if group] + ([set(self.costs)] if len(of) > 1 else [])
        rows = [left for left, _, _ in self.rules] + [dict.fromkeys(group, 1.0) for group in self.totals]
        self.factors = {host: np.zeros((len(self.may[host]), len(rows))) for host in self.hosts}
        self.position = {host: {copy: n for n, copy in enumerate(self.may[host])} for host in self.hosts}
        for row, left in enumerate(rows):
            for (copy, host), factor in left.items():
                self.factors[host][self.position[host][copy], row] = factor
        self.own_costs = {
            host: np.array([self.costs.get((copy, host), 0.0) for copy in self.may[host]]) for host in self.hosts
        }
        self.values = np.array([value for _, _, value in self.rules])
        self.signs = np.array([{"=": 0, ">=": 1, "<=": -1}[relation] for _, relation, _ in self.rules])

    def use(self, host, column):
        """How much of each rule and total the column makes up."""
        return self.factors[host][[self.position[host][copy] for copy in column]].sum(axis=0)

    def kinds_of(self):
        """Copies that count alike: with load or without, and large or small where sizes leap."""
        sizes = sorted(set(self.sizes.values()))
        leaps = [(large / max(small, 1), large) for small, large in zip(sizes, sizes[1:])]
        leap, large = max(leaps, default=(0, 0))
        loaded = {copy for load in self.loads.values() for copy in (load[0] if load else ())}
        return {
            copy: (loaded != set(self.sizes) and copy in loaded, leap > LEAP and size >= large)
            for copy, size in self.sizes.items()
        }
