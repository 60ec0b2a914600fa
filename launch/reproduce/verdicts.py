"""Whether a claim holds: pure functions of what was measured, by seed.

Every function returns a `Verdict`. A claim *holds* where the whole interval of its effect lies on the side
that is claimed, it *does not hold* where the whole interval excludes an effect as large as the claim needs,
and it *cannot be judged* otherwise, for a reason that is told: the interval contains both, there is one run
and nothing within it to make an interval of, or a phenomenon that the claim is about was not seen.

Intervals are two-sided at 95 %. Over seeds they are Student's t of paired differences, because runs of one
seed share their first weights and the order of their images. A single run has no interval over seeds. An
error of one run has one over its test images, which does not know how far another seed would stray; a
verdict from it says so.
"""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from advtf.errors import quantity
from launch.reproduce.columns import in_words

HOLDS, FAILS, OPEN = "holds", "does not hold", "cannot be judged at this scale"
CONFIDENCE = 0.95
ONE_SIDED = 0.05  # of the exact test of a trend, in either direction
OVER_IMAGES = "the images of one run each"


class Missing(Exception):
    """A claim needs a value that was not measured; its text is a whole sentence that says which."""


@dataclass(frozen=True)
class Interval:
    """The range of an effect at 95 %, and what it is an interval over, such as "3 seeds"."""

    low: float
    high: float
    over: str


@dataclass(frozen=True)
class Verdict:
    """What became of a claim.

    Attributes:
        result: `HOLDS`, `FAILS` or `OPEN`.
        effect: its size, positive in the direction that is claimed; None where there is no single one.
        unit: of the effect, such as "points"; "×" for ratios.
        interval: of the effect; None where there is none.
        reasons: whole sentences.
    """

    result: str
    effect: float | None = None
    unit: str = ""
    interval: Interval | None = None
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True)
class Measured:
    """What an entry has measured at one scale.

    Attributes:
        by_seed: seed -> name -> value; None stands for a value that is not defined, such as a loss that is
            not finite, or that was to be measured by a run which has failed.
    """

    by_seed: Mapping[int, Mapping[str, float | None]]

    def __getitem__(self, name: str) -> np.ndarray:
        """Returns the values (seeds,) of one name.

        Raises:
            Missing: a seed lacks it.
        """
        found = [values.get(name) for values in self.by_seed.values()]
        if not found or None in found:
            raise Missing(self._why_missing(name))
        return np.array(found, np.float64)

    def _why_missing(self, name: str) -> str:
        lacking = [seed for seed, values in self.by_seed.items() if values.get(name) is None]
        if name not in self.names():
            return f"There is no {in_words(name)}: it is not measured at this scale, or its run has failed."
        seeds = "" if len(lacking) == len(self.by_seed) else f" with seed {', '.join(map(str, lacking))}"
        return f"There is no {in_words(name)}{seeds}: its run has failed, or the value is not finite."

    def __contains__(self, name: str) -> bool:
        return bool(self.by_seed) and all(values.get(name) is not None for values in self.by_seed.values())

    def names(self) -> list[str]:
        """Returns the names of all values, in the order of the first seed that has them."""
        return list(dict.fromkeys(name for values in self.by_seed.values() for name in values))


Judge = Callable[[Measured], Verdict]


def seeds_interval(values: Sequence[float]) -> Interval | None:
    """Returns Student's t interval of the mean over seeds; None for one seed."""
    values = np.asarray(values, np.float64)
    if len(values) < 2:
        return None
    from scipy import stats

    reach = stats.t.ppf(0.5 + CONFIDENCE / 2, len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values))
    return Interval(values.mean() - reach, values.mean() + reach, f"{len(values)} seeds")


def images_interval(first: float, second: float, images: float) -> Interval:
    """Returns the interval of first − second, two errors in percent of as many test images each.

    It is Newcombe's hybrid of Wilson's score intervals, which takes the two as independent. Errors on the
    same images mostly vary together, so that it is wider than it need be.
    """
    low_1, high_1 = _wilson(first / 100, images)
    low_2, high_2 = _wilson(second / 100, images)
    p1, p2 = first / 100, second / 100
    down = math.hypot(p1 - low_1, high_2 - p2)
    up = math.hypot(high_1 - p1, p2 - low_2)
    over = f"{images:,.0f} test images of one run each"
    return Interval(100 * (p1 - p2 - down), 100 * (p1 - p2 + up), over)


def _wilson(share, count):
    from scipy import stats

    z2 = stats.norm.ppf(0.5 + CONFIDENCE / 2) ** 2
    middle = (share + z2 / (2 * count)) / (1 + z2 / count)
    reach = math.sqrt(z2 * (share * (1 - share) / count + z2 / (4 * count**2))) / (1 + z2 / count)
    return middle - reach, middle + reach


def judged(
    effects: Sequence[float], unit: str, *, least: float = 0.0, within: Interval | None = None
) -> Verdict:
    """Judges an effect that is claimed to be positive, or above `least`.

    Args:
        effects: (seeds,).
        unit: of the effect.
        least: what the whole interval must be above; one that is nowhere above it refutes the claim.
        within: the interval of a single run, for the case that there is one seed only.
    """
    mean = float(np.mean(effects))
    interval, reasons = seeds_interval(effects), []
    if interval is None:
        reasons.append("One seed, so there is no interval over seeds.")
        interval = within
    if interval is None:
        return Verdict(OPEN, mean, unit, None, (*reasons, "Nothing within the run gives an interval either."))
    if not (math.isfinite(interval.low) and math.isfinite(interval.high)):
        return Verdict(OPEN, mean, unit, None, (*reasons, "The effect is not finite in every run."))
    if interval.low > least:
        return Verdict(HOLDS, mean, unit, interval, tuple(reasons))
    if interval.high <= least:
        return Verdict(FAILS, mean, unit, interval, tuple(reasons))
    return Verdict(OPEN, mean, unit, interval, (*reasons, f"The interval contains {least:g}."))


def lower(first: str, second: str, *, images: str | None = None) -> Judge:
    """The error `first` is lower than the error `second`, both in percent.

    Args:
        first, second: names of values.
        images: name of the number of test images of either, for the interval of a single run.
    """

    def judge(measured):
        ours, theirs = measured[first], measured[second]
        within = None
        if images and len(ours) == 1:
            within = images_interval(theirs[0], ours[0], measured[images][0])
        return judged(theirs - ours, "points", within=within)

    return judge


def higher(first: str, second: str, *, images: str | None = None) -> Judge:
    """The percentage `first` is higher than the percentage `second`; the arguments are those of `lower`."""
    return lower(second, first, images=images)


def positive(name: str, unit: str, *, sign: int = 1, least: float = 0.0, over: str = "") -> Judge:
    """A value is above 0, or above `least`.

    A single run may have measured an interval of its own, with the ends ``<name>_low`` and ``<name>_high``.

    Args:
        name: of the value.
        unit: of the value.
        sign: −1 if it is claimed to be negative.
        least: what it is claimed to be above.
        over: what the interval of a single run is over, such as "variants of one classifier".
    """

    def judge(measured):
        values, ends, within = sign * measured[name], (f"{name}_low", f"{name}_high"), None
        if len(values) == 1 and all(end in measured for end in ends):
            low, high = sorted(sign * float(measured[end][0]) for end in ends)
            within = Interval(low, high, over)
        return judged(values, unit, least=least, within=within)

    return judge


def more(first: str, second: str, unit: str, *, over: str = OVER_IMAGES) -> Judge:
    """The value `first` is above `second`.

    A single run may have measured standard errors of both, ``<name>_se``; they are taken as independent.

    Args:
        first, second: names of values.
        unit: of both.
        over: what the standard errors are over.
    """

    def judge(measured):
        ours, theirs = measured[first], measured[second]
        within = None
        if len(ours) == 1 and f"{first}_se" in measured and f"{second}_se" in measured:
            error = math.hypot(measured[f"{first}_se"][0], measured[f"{second}_se"][0])
            within = _normal(float(ours[0] - theirs[0]), error, over)
        return judged(ours - theirs, unit, within=within)

    return judge


def larger(first: str, second: str, *, times: float = 1.0, over: str = OVER_IMAGES) -> Judge:
    """The positive value `first` is larger than `second` by a factor, which must exceed `times`.

    A single run may have measured standard errors of both, ``<name>_se``, as in `more`.
    """

    def judge(measured):
        ours, theirs = measured[first], measured[second]
        if (ours <= 0).any() or (theirs <= 0).any():
            return Verdict(OPEN, reasons=("A ratio needs positive values, and one is not.",))
        logs, within = np.log(ours / theirs / times), None
        if len(ours) == 1 and f"{first}_se" in measured and f"{second}_se" in measured:
            parts = (measured[f"{first}_se"][0] / ours[0], measured[f"{second}_se"][0] / theirs[0])
            within = _normal(float(logs[0]), math.hypot(*parts), over)
        return _as_ratio(judged(logs, "×", within=within), times)

    return judge


def _normal(middle, error, over):
    from scipy import stats

    reach = stats.norm.ppf(0.5 + CONFIDENCE / 2) * error
    return Interval(middle - reach, middle + reach, over)


def smaller(first: str, second: str, *, times: float = 1.0, over: str = OVER_IMAGES) -> Judge:
    """The positive value `first` is smaller than `second`; the factor is that of `larger`."""
    return larger(second, first, times=times, over=over)


def _as_ratio(verdict, times):
    interval = verdict.interval and Interval(
        times * math.exp(verdict.interval.low),
        times * math.exp(verdict.interval.high),
        verdict.interval.over,
    )
    reasons = tuple(reason.replace("contains 0", f"contains {times:g}") for reason in verdict.reasons)
    return replace(verdict, effect=times * math.exp(verdict.effect), interval=interval, reasons=reasons)


def rises(names: Sequence[str], *, falls: bool = False) -> Judge:
    """The values rise (or fall) from each name to the next, as levels of one thing such as ε.

    The effect is the ratio of the last to the first, or of the first to the last where they are to fall. The
    test is exact: the share of all orders of the levels, the same number of seeds each, whose pairs agree
    with the claimed order at least as often as those measured. The claim holds where that share is below 5 %,
    and it does not hold where the share for the opposite order is: one-sided each way, because the claim has
    a direction. It needs no interval over seeds. Fewer than two levels leave the claim open, and so do levels
    and seeds of which no order at all is that rare, such as three levels of one seed.
    """

    def judge(measured):
        if len(names) < 2:
            raise Missing("A trend needs two levels to compare, and there are fewer.")
        table = np.array([measured[name] for name in names])  # (levels, seeds)
        ordered = -table if falls else table
        agreeing, chance = concordance(ordered)
        against = concordance(-ordered)[1]
        first, last = (table[-1], table[0]) if falls else (table[0], table[-1])
        positive = (first > 0).all() and (last > 0).all()
        effect = float(np.exp(np.mean(np.log(last / first)))) if positive else None
        interval = seeds_interval(np.log(last / first)) if positive else None
        if interval:
            interval = Interval(math.exp(interval.low), math.exp(interval.high), interval.over)
        result = HOLDS if chance < ONE_SIDED else FAILS if against < ONE_SIDED else OPEN
        reasons = (_pairs_in_words(agreeing, chance, against, table.shape), *_too_few(table.shape))
        return Verdict(result, effect, "×" if positive else "", interval, reasons)

    return judge


def _pairs_in_words(agreeing, chance, against, shape):
    pairs = math.comb(shape[0], 2) * shape[1]
    told = f"{(agreeing + pairs) // 2} of {pairs} pairs of levels are in the order that is claimed"
    opposite = f"; the opposite order: p = {against:.2g}" if agreeing < 0 else ""
    return f"{told} (exact one-sided p = {chance:.2g}{opposite})."


def least_chance(levels: int, seeds: int) -> float:
    """Returns the p of perfectly ordered levels in the test of `rises`, one over the number of all orders."""
    return math.factorial(levels) ** -seeds


def _too_few(shape):
    levels, seeds = shape
    least = least_chance(levels, seeds)
    if least < ONE_SIDED:
        return ()
    counted = quantity(levels, "level")
    return (
        f"No order of {counted} with {quantity(seeds, 'seed')} could be significant: the least p is "
        f"{least:.2g}, and it must be below {ONE_SIDED:g}.",
    )


def concordance(table: np.ndarray) -> tuple[int, float]:
    """Counts pairs of levels in rising order, less those in falling order, over all seeds.

    Args:
        table: (levels, seeds), at most 7 levels.

    Returns:
        The count, and the probability of one as high or higher if the levels of each seed came in a random
        order.
    """
    levels, seeds = table.shape

    def score(column):
        pairs = itertools.combinations(column, 2)
        return int(sum(np.sign(second - first) for first, second in pairs))

    found = sum(score(column) for column in table.T)
    most = math.comb(levels, 2)
    single = np.zeros(2 * most + 1)
    for order in itertools.permutations(range(levels)):
        single[score(order) + most] += 1
    single /= single.sum()
    whole = np.ones(1)
    for _ in range(seeds):
        whole = np.convolve(whole, single)
    return found, float(whole[found + most * seeds :].sum())


def exact(*names: str, how: str = "Computed in float64, without sampling noise.") -> Judge:
    """What the runs have checked is true: every value is 1.

    Args:
        names: of the values.
        how: a whole sentence that says how it was checked.
    """

    def judge(measured):
        false = [name for name in names if not (measured[name] == 1).all()]
        told = f"Not true: {', '.join(false)}." if false else how
        return Verdict(FAILS if false else HOLDS, reasons=(told,))

    return judge


def within_bound(name: str, bound: float, unit: str) -> Judge:
    """The value is below a bound that the paper states; without an interval, as each value is one fact."""

    def judge(measured):
        values = measured[name]
        worst = float(values.max())
        told = f"The bound is {bound:g}."
        if len(values) > 1:
            told = f"Shown is the largest of {len(values)} seeds; the bound is {bound:g}."
        return Verdict(HOLDS if worst <= bound else FAILS, worst, unit, None, (told,))

    return judge


def together(*judges: Judge, names: Sequence[str] = ()) -> Judge:
    """All parts of a claim hold. The effect shown is that of the part that decides, the first of its kind.

    A part that was not measured is open, so that it refutes nothing, and all parts together do not hold.

    Args:
        *judges: of the parts.
        names: what each part is about, such as "cosine, Square". Defaults to the numbers of the parts.
    """

    def judge(measured):
        found = [_or_open(part, measured) for part in judges]
        if not found:
            return Verdict(OPEN, reasons=("Nothing that the claim is about was measured at this scale.",))
        result = next(each for each in (FAILS, OPEN, HOLDS) if any(part.result == each for part in found))
        places = [place for place, part in enumerate(found) if part.result == result]
        deciding = found[places[0]]
        if len(found) == 1:
            return deciding
        shown = names[places[0]] if names else f"part {places[0] + 1}"
        told = f"{len(places)} of {len(found)} parts of the claim have this verdict; shown is {shown}."
        return replace(deciding, reasons=(*deciding.reasons, told))

    return judge


def provided(condition: Judge, otherwise: str, judge: Judge) -> Judge:
    """Judges only where a phenomenon was seen that the claim is about.

    Args:
        condition: whether it was.
        otherwise: a whole sentence that says what was not.
        judge: of the claim.
    """

    def whole(measured):
        seen = condition(measured)
        if seen.result == HOLDS:
            found = judge(measured)
            return replace(found, reasons=(*found.reasons, *seen.reasons))
        shown = "" if seen.effect is None else f" It is {describe(seen)}."
        return Verdict(OPEN, reasons=(f"{otherwise}{shown}", *seen.reasons))

    return whole


def seen_at_least(name: str, bound: float, unit: str = "points") -> Judge:
    """The mean of the values over the seeds is at least a bound: a phenomenon that claims are about.

    Where seeds differ, it is told how many are on the other side.
    """
    return _seen(name, bound, unit, 1)


def seen_at_most(name: str, bound: float, unit: str = "%") -> Judge:
    """The mean of the values over the seeds is at most a bound; otherwise as `seen_at_least`."""
    return _seen(name, bound, unit, -1)


def _seen(name, bound, unit, sign):
    def judge(measured):
        values = measured[name]
        mean = float(values.mean())
        result = HOLDS if sign * mean >= sign * bound else FAILS
        strays = int((sign * values < sign * bound).sum())
        reasons = ()
        if 0 < strays < len(values):
            side = "below" if sign > 0 else "above"
            told = f"the {in_words(name)} is {side} {bound:g} {unit}."
            reasons = (f"With {strays} of {len(values)} seeds {told}",)
        return Verdict(result, mean, unit, seeds_interval(values), reasons)

    return judge


def where_asked(names: Sequence[str], judge: Judge) -> Judge:
    """Judges over the seeds with which these values were to be measured.

    At a small scale not every method is trained with every seed.

    Args:
        names: of values, which an entry expects (`Record.expect`) where it asks for their runs.
        judge: of the claim.
    """

    def whole(measured):
        asked = {seed: own for seed, own in measured.by_seed.items() if all(name in own for name in names)}
        return judge(Measured(asked))

    return whole


def decide(judge: Judge, measured: Measured) -> Verdict:
    """Returns the verdict; what was not measured at this scale leaves the claim open."""
    if not measured.by_seed:
        return Verdict(OPEN, reasons=("Nothing has been measured yet.",))
    return _or_open(judge, measured)


def _or_open(judge, measured):
    try:
        return judge(measured)
    except Missing as missing:
        return Verdict(OPEN, reasons=(str(missing),))


def describe(verdict: Verdict) -> str:
    """Returns the effect with its interval, such as ``2.31 points (0.44 to 4.18 over 3 seeds)``."""
    if verdict.effect is None:
        return "–"
    shown = f"{number(verdict.effect)} {verdict.unit}".strip()
    if verdict.interval is None:
        return shown
    low, high = number(verdict.interval.low), number(verdict.interval.high)
    return f"{shown} ({low} to {high} over {verdict.interval.over})"


def number(value: float) -> str:
    """Returns a number with three significant digits, and a minus sign that is one."""
    if not math.isfinite(value):
        return "not finite"
    if value and not 1e-3 <= abs(value) < 1e5:
        shown = f"{value:.2e}"
    else:
        digits = 2 - math.floor(math.log10(abs(value))) if value else 0
        shown = f"{value:.{min(max(digits, 0), 4)}f}"
    return shown.replace("-", "−", 1) if shown.startswith("-") else shown
