"""Good prices to begin with: the volume algorithm (Barahona and Anbil, "The volume algorithm", 2000).

Column generation takes long to come from no prices to good ones where a host holds many copies; this comes near them in
some hundred steps, and the columns on its way are of use.
"""

import time

import numpy as np

STEPS = 1_000
# How far a step goes at first, and by what it changes after steps that gained or, so many in a row, did not.
STRIDE = 0.2
LONGER, SHORTER, IN_VAIN = 1.3, 0.66, 15
# The most of a new column in the mean of all; it halves where so many steps gained less than that.
SHARE = 0.2
LOOK, GAIN = 100, 1e-3
LEAST_SHARE, LEAST_GAIN = 0.02, 2e-5


def climb(master, target, end):
    """Moves the master's prices to where they prove more, towards `target`."""
    best, columns, _ = master.bound(master.centre, roughly=True)
    if not columns:
        return
    mean, stride, share, before, failed = use(master, columns), STRIDE, SHARE, best, 0
    for step in range(1, STEPS):
        gap = asked(master, master.centre, mean) - mean
        length = float(gap @ gap)
        if best > target or length < 1e-9 or time.monotonic() > end:
            break
        tried = master.signed(master.centre + stride * (target - best) / length * gap)
        found, columns, _ = master.bound(tried, roughly=True)
        if not columns:
            break
        new = use(master, columns)
        mean = mean + mixed(asked(master, tried, mean) - mean, new - mean, share) * (new - mean)
        if found > best:
            failed = 0
            if float((asked(master, tried, new) - new) @ gap) > 0:
                stride = min(stride * LONGER, 2.0)
            best, master.centre = found, tried
        else:
            failed += 1
            if failed % IN_VAIN == 0:
                stride *= SHORTER
        if step % LOOK == 0:
            if best - before < GAIN * abs(best):
                share /= 2
            if best - before < LEAST_GAIN * abs(best) and share < LEAST_SHARE:
                break
            before = best


def use(master, columns):
    """How much of each rule and total the columns make up."""
    return sum(master.problem.use(host, column) for host, column in columns.items())


def asked(master, prices, mean):
    """What the rules and totals ask for: what there is, where they are kept and have no price."""
    problem, rows = master.problem, master.rows
    kept = np.where(problem.signs > 0, mean[:rows] > problem.values, mean[:rows] < problem.values)
    kept &= (problem.signs != 0) & (prices[:rows] == 0)
    totals = []
    for price, value, (least, most) in zip(prices[rows:], mean[rows:], master.node.totals):
        totals.append(least if value < least or price > 0 else most if value > most or price < 0 else value)
    return np.append(np.where(kept, mean[:rows], problem.values), totals)


def mixed(lacking, change, share):
    """How much of a change brings the mean nearest to what is asked, within limits."""
    length = float(change @ change)
    best = float(lacking @ change) / length if length > 0 else share
    return min(max(best, share / 10), share)
