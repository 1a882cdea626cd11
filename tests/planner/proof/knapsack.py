"""The cheapest set of copies that one host may hold: a knapsack with bands of bytes, of operations and of counts.

Bytes are kept by dynamic programming over whole MiB. Counts are priced into it (Lagrange), by coordinate ascent; so
are operations, for a first floor. Then a second programme, over coarse bytes and operations, says what is left to pay from
any point on, and a search goes where that promises less than the best so far.
"""

import math

import numpy as np
from numba import njit

# Coordinate ascents over all prices, and steps for each price.
ROUNDS = 2
STEPS = 8
# Sets that one search may look at.
LIMIT = 1_000_000
# How far above the floor it looks at first, in MiB; then so many times as far.
FIRST = 20.0
FARTHER = 4.0
# Levels of operations, and cells of the coarse programme at most.
LEVELS = 200
CELLS = 8_000_000
NOTHING = 1e-7
# What single precision makes of a number at most.
SINGLE = 6e-8


@njit(cache=True)
def look_ahead(table, sizes, costs, low):
    """table[d, b]: what is left to pay where b bytes are there and only the first d copies are to be decided.

    Infinite where `low` is out of reach, or more than the table has.
    """
    end = table.shape[1]
    for b in range(end):
        table[0, b] = 0 if b >= low else np.inf
    for d in range(table.shape[0] - 1):
        size, cost = sizes[d], costs[d]
        for b in range(max(end - size, 0), end):
            table[d + 1, b] = table[d, b]
        for b in range(end - size):
            table[d + 1, b] = min(table[d, b], table[d, b + size] + cost)


@njit(cache=True)
def charge(costs, loads, prices, charged):
    """The costs with what the prices ask for loads."""
    for n in range(costs.shape[0]):
        charged[n] = costs[n]
        for k in range(prices.shape[0]):
            charged[n] += prices[k] * loads[k, n]


@njit(cache=True)
def promised(prices, least, most):
    """What the prices take in at the edges of the bands: never more than for any load within them."""
    total = 0.0
    for k in range(prices.shape[0]):
        if prices[k] > 0:
            total += prices[k] * most[k]
        elif prices[k] < 0:
            total += prices[k] * least[k]
    return total


@njit(cache=True)
def floor_of(table, sizes, charged, low, chosen):
    """The least charged cost of any set with bytes from `low` to what the table has; such a set goes to `chosen`."""
    look_ahead(table, sizes, charged, low)
    chosen[:] = 0
    n, at = sizes.shape[0], 0
    least = table[n, 0]
    if least < np.inf:
        for i in range(n - 1, -1, -1):
            if at + sizes[i] < table.shape[1] and table[i, at + sizes[i]] + charged[i] < table[i, at]:
                chosen[i] = 1
                at += sizes[i]
    return least


@njit(cache=True)
def next_price(price, use, least, most, known):
    """Where a price lies that is neither too low nor too high, given the load at this one; `known` is narrowed to that.

    The price itself where it is as good as any.
    """
    if use > most + NOTHING or (price < 0 and use > least + NOTHING):
        known[0] = price
    elif use < least - NOTHING or (price > 0 and use < most - NOTHING):
        known[1] = price
    else:
        return price
    if known[1] == np.inf:
        return price + known[2]
    if known[0] == -np.inf:
        return price - known[2]
    return (known[0] + known[1]) / 2


@njit(cache=True)
def tune(table, sizes, costs, loads, bands, low, prices, charged, chosen):
    """Sets the prices so that the floor is high, and charges them; returns the floor. `chosen` is a set that costs it."""
    least, most = bands
    kept, best, known = prices.copy(), -np.inf, np.zeros(3)
    for _ in range(ROUNDS):
        before = best
        for k in range(prices.shape[0]):
            known[:] = -np.inf, np.inf, max(abs(prices[k]) / 4, 100 / max(1.0, most[k]))
            for _ in range(STEPS):
                charge(costs, loads, prices, charged)
                floor = floor_of(table, sizes, charged, low, chosen) - promised(prices, least, most)
                if floor > best:
                    best = floor
                    kept[:] = prices
                price, use = prices[k], 0.0
                for n in range(sizes.shape[0]):
                    use += loads[k, n] * chosen[n]
                prices[k] = next_price(price, use, least[k], most[k], known)
                known[2] *= 3
                if prices[k] == price or floor == np.inf:
                    break
            prices[:] = kept
        if not best - before > 1e-3:
            break
    charge(costs, loads, prices, charged)
    return floor_of(table, sizes, charged, low, chosen) - promised(prices, least, most)


@njit(cache=True)
def look_coarsely(plain, coarse, sizes, levels, costs, marks):
    """The same over coarse bytes and levels of operations.

    `plain[d, b]` for the copies without operations, which are the first; `coarse[d, k, b]` for d more, where k levels are
    there. Infinite where the marks (coarse bytes and levels at the end) are out of reach.
    """
    n, without = sizes.shape[0], plain.shape[0] - 1
    look_ahead(plain, sizes, costs, marks[0])
    end, top = plain.shape[1], coarse.shape[1]
    for k in range(top):
        for b in range(end):
            coarse[0, k, b] = plain[without, b] if k >= marks[1] else np.inf
    for d in range(n - without):
        size, level, cost = sizes[without + d], levels[without + d], costs[without + d]
        for k in range(top):
            here, next_one = coarse[d, k], coarse[d + 1, k]
            next_one[:] = here
            if k + level < top:
                with_it = coarse[d, k + level]
                for b in range(end - size):
                    next_one[b] = min(here[b], with_it[b + size] + cost)


@njit(cache=True)
def reaches(use, left, reach, least):
    """Whether what is left can bring each load up to its least."""
    for k in range(use.shape[0]):
        if use[k] + reach[left, k] < least[k] - NOTHING:
            return False
    return True


@njit(cache=True)
def dive(ahead, sizes, charges, rounded, loads, bands, low, prices, reach, top, limit, chosen):
    """The cheapest set below `top` that keeps all bands, into `chosen`; (its cost or `top`, sets looked at).

    More than `limit` sets mean that it was broken off. `ahead` looks ahead by exact bytes, where all loads have prices, and
    coarsely, where only counts have. A set is built from the last copy down; depth d has the first d to decide. `done[d]` is
    how many of both ways were tried for copy d - 1.
    """
    (table, plain, coarse), (costs, charged, in_part) = ahead, charges
    (steps, levels), (least, most) = rounded, bands
    n, without, count = sizes.shape[0], plain.shape[0] - 1, 0
    done, has = np.zeros(n + 1, np.int8), np.zeros(n + 1, np.int8)
    load, step, level = np.zeros(n + 1, np.int64), np.zeros(n + 1, np.int64), np.zeros(n + 1, np.int64)
    cost, priced, partly = np.zeros(n + 1), np.zeros(n + 1), np.zeros(n + 1)
    use = np.zeros((n + 1, prices.shape[0]))
    best, d = top, n
    priced[n] = -promised(prices, least, most)
    partly[n] = -promised(prices[1:], least[1:], most[1:])
    while d <= n:
        if done[d] == 0:
            count += 1
            if count > limit:
                return best, count
            left = plain[d, step[d]] if d <= without else coarse[d - without, level[d], step[d]]
            is_over = priced[d] + table[d, load[d]] >= best or partly[d] + left >= best
            if is_over or not reaches(use[d], d, reach, least):
                done[d] = 2
            elif d == 0:
                done[0] = 2
                if low <= load[0] and cost[0] < best:
                    best = cost[0]
                    chosen[:] = has[1:]
        if done[d] == 2:
            d += 1
            continue
        i = d - 1
        first = load[d] + sizes[i] < table.shape[1] and (
            table[i, load[d] + sizes[i]] + charged[i] <= table[i, load[d]]
        )
        takes = first == (done[d] == 0)
        done[d] += 1
        has[d] = takes
        if not takes:
            load[i], step[i], level[i] = load[d], step[d], level[d]
            cost[i], priced[i], partly[i] = cost[d], priced[d], partly[d]
            use[i] = use[d]
        else:
            load[i], step[i], level[i] = load[d] + sizes[i], step[d] + steps[i], level[d] + levels[i]
            if load[i] >= table.shape[1] or step[i] >= plain.shape[1] or level[i] >= coarse.shape[1]:
                continue
            use[i] = use[d] + loads[:, i]
            if (use[i] > most + NOTHING).any():
                continue
            cost[i], priced[i], partly[i] = cost[d] + costs[i], priced[d] + charged[i], partly[d] + in_part[i]
        done[i] = 0
        d = i
    return best, count


@njit(cache=True)
def each(table, sizes, costs, low):
    """The least cost of a set that has a copy, and of one that has it not, for each copy; only bytes are kept."""
    look_ahead(table, sizes, costs, low)
    n, end = sizes.shape[0], table.shape[1]
    before = np.full(end, np.inf)
    before[0] = 0
    having, lacking = np.full(n, np.inf), np.full(n, np.inf)
    for i in range(n - 1, -1, -1):
        size, cost = sizes[i], costs[i]
        for b in range(end):
            lacking[i] = min(lacking[i], before[b] + table[i, b])
            if b + size < end:
                having[i] = min(having[i], before[b] + cost + table[i, b + size])
        for b in range(end - 1, size - 1, -1):
            before[b] = min(before[b], before[b - size] + cost)
    return having, lacking


class Host:
    """What a host may hold where some choices are made: `gone` copies never, `held` ones always.

    `counts` are further bands: (copies, least, most).
    """

    def __init__(self, problem, host, gone, held, counts):
        self.held = held
        self.charges = problem.own_costs[host], problem.factors[host]
        load = problem.loads[host] or ({}, 0.0, math.inf)
        copies = [copy for copy in problem.may[host] if copy not in gone and copy not in held]
        copies.sort(key=lambda copy: (copy in load[0], problem.sizes[copy]))
        position = problem.position[host]
        self.copies, self.rows = copies, np.array([position[copy] for copy in copies], dtype=np.int64)
        self.held_rows = [position[copy] for copy in held]
        self.sizes = np.array([problem.sizes[copy] for copy in copies], dtype=np.int64)
        self.without = sum(copy not in load[0] for copy in copies)
        taken = sum(problem.sizes[copy] for copy in held)
        self.low, self.high = max(problem.bytes[host][0] - taken, 0), problem.bytes[host][1] - taken
        self.set_bands([load] + [(dict.fromkeys(group, 1.0), least, most) for group, least, most in counts])
        self.set_marks()

    def set_bands(self, bands):
        """All loads but bytes, without what is held; the first is operations."""
        count = len(self.copies)
        self.loads = np.array([[factors.get(copy, 0.0) for copy in self.copies] for factors, _, _ in bands])
        least, most = np.zeros(len(bands)), np.zeros(len(bands))
        for k, (factors, low, high) in enumerate(bands):
            held = sum(factors.get(copy, 0.0) for copy in self.held)
            least[k], most[k] = max(low - held, 0.0), min(high - held, self.loads[k].sum())
        self.bands, self.prices = (least, most), np.zeros(len(bands))
        self.reach = np.vstack([np.zeros(len(bands)), np.cumsum(self.loads, axis=1).T])
        self.is_possible = self.high >= self.low and bool((most >= -NOTHING).all())
        self.is_possible = self.is_possible and bool((self.reach[count] >= least - NOTHING).all())
        self.is_free = len(bands) == 1 and self.without == count

    def set_marks(self):
        """The coarse programme: its units, what each copy has of them, and the least at the end.

        Each copy has at least as much as it says, and less than one unit more.
        """
        if self.is_free or not self.is_possible:
            return
        loaded = len(self.copies) - self.without
        least, most = self.bands[0][0], self.bands[1][0]
        top = LEVELS + 1 if loaded else 1
        byte = max(1, -(-(self.high + 1) * top * max(loaded, 1) // CELLS))
        level = max(most / LEVELS, 1e-3)
        self.steps, self.levels = self.sizes // byte, (self.loads[0] / level - NOTHING).astype(np.int64)
        # So many copies fit at the most, and so many of those with operations.
        self.fits = int((np.cumsum(np.sort(self.sizes)) <= self.high).sum())
        loads = np.cumsum(np.sort(self.loads[0][self.without :]))
        fits = min(self.fits, int((loads <= most).sum()))
        marks = self.low // byte - (self.fits if byte > 1 else 0), int(least / level) - fits if loaded else 0
        self.marks = np.array(marks, dtype=np.int64)
        self.shape = (self.without + 1, self.high // byte + 1), (loaded + 1, top, self.high // byte + 1)

    def charged(self, prices):
        """What each copy costs at the prices of the rules between hosts; and the sum of what is held."""
        costs, factors = self.charges
        costs = costs - factors @ prices
        return costs[self.rows], float(costs[self.held_rows].sum())

    def cheapest(self, prices, roughly=False):
        """What no set costs less than, and a set; infinite where there is none.

        The set costs that, unless the search for it was broken off: then it may be any that keeps the bytes. Roughly: of all
        that keep the bytes.
        """
        if not self.is_possible:
            return math.inf, None
        costs, held = self.charged(prices)
        table = workspace("table", (len(costs) + 1, self.high + 1), np.float64)
        charged, chosen = costs.copy(), np.zeros(len(costs), np.int8)
        if roughly or self.is_free:
            floor = floor_of(table, self.sizes, costs, self.low, chosen)
        else:
            floor = tune(table, self.sizes, costs, self.loads, self.bands, self.low, self.prices, charged, chosen)
            if floor < math.inf:
                floor, chosen = self.search(floor, table, (costs, charged), chosen)
        if floor == math.inf:
            return math.inf, None
        return floor + held, self.held + [self.copies[n] for n in np.flatnonzero(chosen)]

    def search(self, floor, table, charges, chosen):
        """What no set that keeps all bands costs less than, and a set."""
        counted = np.append(0.0, self.prices[1:])
        in_part = charges[0] + counted @ self.loads
        plain, coarse = workspace("plain", self.shape[0], np.float32), workspace("coarse", self.shape[1], np.float32)
        look_coarsely(plain, coarse, self.steps, self.levels, in_part.astype(np.float32), self.marks)
        charges = (*charges, in_part)
        # What the coarse programme may be wrong by.
        slack = SINGLE * (self.fits + 2) * float(np.sort(np.abs(in_part))[-self.fits - 1 :].sum())
        ahead, rounded = (table, plain, coarse), (self.steps, self.levels)
        own = (self.loads, self.bands, self.low, self.prices, self.reach)
        found, above, left = np.zeros(len(in_part), np.int8), FIRST, LIMIT
        dearest = float(np.maximum(charges[0], 0).sum())
        while True:
            cost, looked_at = dive(ahead, self.sizes, charges, rounded, *own, floor + above, left, found)
            left -= looked_at
            if left < 0:
                return floor, (found if found.any() else chosen)
            if cost < floor + above:
                return max(floor, cost - slack), found
            if floor + above > dearest + slack:
                return math.inf, None
            floor = max(floor, floor + above - slack)
            above *= FARTHER

    def each(self, prices):
        """What no set costs less than that has a copy, and that has it not: {copy: (having, lacking)}."""
        if not self.copies:
            return {}
        costs, held = self.charged(prices)
        table = workspace("table", (len(costs) + 1, self.high + 1), np.float64)
        charged, chosen = costs.copy(), np.zeros(len(costs), np.int8)
        tune(table, self.sizes, costs, self.loads, self.bands, self.low, self.prices, charged, chosen)
        having, lacking = each(table, self.sizes, charged, self.low)
        rest = held - promised(self.prices, *self.bands)
        return {copy: (float(a) + rest, float(b) + rest) for copy, a, b in zip(self.copies, having, lacking)}


ROOM = {}


def workspace(name, shape, kind):
    """An array of that shape in memory that is used again and again."""
    size = math.prod(shape)
    if name not in ROOM or ROOM[name].size < size:
        ROOM[name] = np.empty(size, kind)
    return ROOM[name][:size].reshape(shape)
