"""What the packet plane is to reach, beside what was measured. Costs are above the bench's floor for as many flows, which
is there for every subject alike."""

from report import PROJECT


def above_floor(results, row, flows, subject=PROJECT):
    cost, floor = results.median(f"{row}-{flows}", subject), results.median(f"packet-floor-{flows}", "empty")
    return None if cost is None or floor is None else cost - floor


def times(value, of):
    return None if not value or of is None else of / value


def goals(results):
    """Name, what was measured (None: not), whether it is at most or at least, how much."""
    most, least, ten_million = "≤", "≥", 10_000_000
    at_random = above_floor(results, "packet-established", ten_million)
    yield "established, 1 flow: ns above the floor", above_floor(results, "packet-established", 1), most, 60
    yield "established, 10 million: ns above the floor", at_random, most, 200
    for kind in ("hash", "lru_hash"):
        other = above_floor(results, "packet-established", ten_million, kind)
        yield f"the same, times faster than {kind}", times(at_random, other), least, 3
    yield "new flow: ns above the floor", above_floor(results, "packet-new", 1), most, 600
    yield "denied: ns above the floor", above_floor(results, "packet-denied", 1), most, 25
    for what in ("held", "expired"):
        yield f"flows {what}, of 10 million begun", results.median(f"packet-{what}-{ten_million}", PROJECT), least, ten_million
    yield "bytes a direction of a flow", results.median(f"packet-memory-{ten_million}", PROJECT), most, 200
    ours, nftables = (results.median("packet-udp-cpu", subject) for subject in (PROJECT, "nftables"))
    yield "small packets for the same CPU, times nftables", times(ours, nftables), least, 3
