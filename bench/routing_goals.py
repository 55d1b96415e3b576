"""What routing is to reach, beside what was measured."""

OUTAGES = (("killed", "endpoint killed", 50), ("dark", "path dark", 700), ("dark-10ms", "path dark, 10 ms probe", 100))


def goals(results):
    """What was not measured is left out: the rows are many."""
    return [goal for goal in every(results) if goal[1] is not None]


def every(results):
    most = "≤"
    for row, words, limit in OUTAGES:
        yield f"{words}: last new connection there after: ms", results.median(f"routing-{row}-left", "marchproxy"), most, limit
        yield f"{words}: clients that noticed", results.median(f"routing-{row}-errors", "marchproxy"), most, 0
    yield "one choice among 1,000 endpoints: ns", results.median("routing-choose-1000", "marchproxy"), most, 100
    for kind in ("tcp", "udp", "icmp"):
        yield f"5,000 {kind} probes each 200 ms: cores", results.median(f"routing-probes-{kind}", "marchproxy"), most, 0.2
