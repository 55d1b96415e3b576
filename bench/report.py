"""From single values to rows, and from rows to the tables that people read."""

import statistics

import peers

PROJECT = "marchproxy"


class Results:
    """Every value of every round, by row and subject."""

    def __init__(self):
        self._values = {}  # (row, subject) -> values in the order taken
        self._units = {}  # row -> (unit, lower is better)

    def add(self, row, unit, lower_is_better, subject, value):
        self._units[row] = (unit, lower_is_better)
        self._values.setdefault((row, subject), []).append(value)

    def row_names(self):
        return list(self._units)

    def unit(self, row):
        return self._units[row][0]

    def lower_is_better(self, row):
        return self._units[row][1]

    def median(self, row, subject):
        values = self._values.get((row, subject))
        return statistics.median(values) if values else None

    def best_peer(self, row):
        """Name and median of the best of the three, or None when none of them has the row."""
        medians = {name: self.median(row, name) for name in peers.PEERS}
        medians = {name: value for name, value in medians.items() if value is not None}
        if not medians:
            return None
        pick = min if self.lower_is_better(row) else max
        name = pick(medians, key=medians.get)
        return name, medians[name]

    def as_json(self):
        """The rows of results.json."""
        rows = []
        for (row, subject), values in self._values.items():
            rows.append(
                {
                    "bench": row,
                    "subject": subject,
                    "value": statistics.median(values),
                    "unit": self.unit(row),
                    "min": min(values),
                    "max": max(values),
                    "runs": len(values),
                }
            )
        return sorted(rows, key=lambda entry: (self.row_names().index(entry["bench"]), entry["subject"]))


class Target:
    """A line of the issue's table: at least or at most `ratio` times the best peer, and, or only, at most `limit`."""

    def __init__(self, row, ratio=None, limit=None):
        self.row, self.ratio, self.limit = row, ratio, limit

    def wanted(self, lower_is_better):
        words = []
        if self.ratio is not None:
            words.append(f"{'≤' if lower_is_better else '≥'} {self.ratio:.2f} ×")
        if self.limit is not None:
            words.append(f"≤ {self.limit}")
        return " and ".join(words)

    def reached(self, lower_is_better, value, best):
        if self.limit is not None and value > self.limit:
            return False
        if self.ratio is None:
            return True
        if best is None or best == 0:
            return None
        return value / best <= self.ratio if lower_is_better else value / best >= self.ratio


TARGETS = (
    *(Target(f"throughput-{n}-{way}", ratio=1.15) for n in (1, 16) for way in ("up", "down")),
    *(Target(f"cpu-{n}-{way}", ratio=0.75) for n in (1, 16) for way in ("up", "down")),
    Target("paced-p50", ratio=1.0, limit=100),
    Target("paced-p99", ratio=1.0, limit=1000),
    Target("kept-p50", ratio=1.0, limit=100),
    Target("kept-p99", ratio=1.0, limit=1000),
    Target("fresh-rate", ratio=1.2),
    Target("idle-memory", limit=2048),
)


def shown(value):
    """Three significant digits, and no decimals where there are more of them."""
    if value is None:
        return "n/a"
    if abs(value) >= 100 or value == 0:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def figures_table(results, subjects, rows):
    """Medians of the rows, one column a subject."""
    lines = [["figure", "unit", *subjects]]
    for row in rows:
        lines.append([row, results.unit(row), *(shown(results.median(row, subject)) for subject in subjects)])
    return markdown(lines) if len(lines) > 1 else ""


def targets_table(results):
    """The project against the best of the peers, for every row that has a target, and the verdict."""
    lines = [["figure", PROJECT, "best peer", "ratio", "to reach", "verdict"]]
    for target in TARGETS:
        if target.row not in results.row_names():
            continue
        value, best = results.median(target.row, PROJECT), results.best_peer(target.row)
        lower = results.lower_is_better(target.row)
        ratio, verdict = "n/a", "not measured"
        if value is not None:
            if best and best[1]:
                ratio = f"{value / best[1]:.2f} ×"
            reached = target.reached(lower, value, best[1] if best else None)
            verdict = {True: "reached", False: "NOT reached", None: "no peer to compare with"}[reached]
        unit = results.unit(target.row)
        lines.append(
            [
                f"{target.row} ({unit})",
                shown(value),
                f"{shown(best[1])} ({best[0]})" if best else "n/a",
                ratio,
                target.wanted(lower),
                verdict,
            ]
        )
    return markdown(lines) if len(lines) > 1 else ""


def markdown(lines):
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    padded = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths)) + " |" for line in lines]
    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([padded[0], rule, *padded[1:]])


def goals_table(title, goals):
    """`goals`: name, what was measured (None: not), whether it is at most or at least, how much."""
    found = list(goals)
    if all(value is None for _, value, _, _ in found):
        return ""
    lines = [[title, "measured", "to reach", "verdict"]]
    for name, value, way, limit in found:
        reached = value is not None and (value <= limit if way == "≤" else value >= limit)
        verdict = "not measured" if value is None else "reached" if reached else "NOT reached"
        lines.append([name, "" if value is None else shown(value), f"{way} {limit}", verdict])
    return markdown(lines)
