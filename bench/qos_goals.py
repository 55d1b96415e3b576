"""What qos is to reach, beside what was measured."""

PLANES = (("stream", "marchproxy"), ("packet", "marchproxy-packet"))
RATES = ("1M", "10M", "100M", "1G", "10G")


def difference(results, loaded, idle, subject):
    values = [results.median(row, subject) for row in (loaded, idle)]
    return None if None in values else values[0] - values[1]


def goals(results):
    """What was not measured is left out: the rows are many."""
    return [goal for goal in every(results) if goal[1] is not None]


def every(results):
    most, least = "≤", "≥"
    for plane, subject in PLANES:
        for protocol, rates in (("tcp", RATES), ("udp", RATES[:3])):
            for rate in rates:
                achieved = results.median(f"qos-{protocol}-rate-{rate}", subject)
                off = None if achieved is None else abs(achieved - 1)
                yield f"{plane}: {protocol} {rate}: off by", off, most, 0.02
                yield f"{plane}: {protocol} {rate}: highest second", results.median(f"qos-{protocol}-peak-{rate}", subject), most, 1.01
        yield f"{plane}: guarantee delivered under overload", results.median("qos-guarantee", subject), least, 0.98
        added = difference(results, "qos-p0-loaded-p99", "qos-p0-idle-p99", subject)
        yield f"{plane}: P0, p99 added while P3 fills the link: us", added, most, 1000
        peer = difference(results, "qos-p0-loaded-p99", "qos-p0-idle-p99", "htb")
        if added is not None and peer is not None:
            yield f"{plane}: the same, of HTB's", added / peer, most, 1
        yield f"{plane}: what P3 gets meanwhile", results.median("qos-p3-share", subject), least, 0.05
        yield f"{plane}: fairness of 64 connections, Jain", results.median("qos-fairness-64", subject), least, 0.98
        yield f"{plane}: one TCP flow at 50 Mbit/s waits: ms", results.median("qos-codel-50M", subject), most, 10
    for kind in ("turns", "ceilings", "guarantees"):
        yield f"scheduler, {kind}, 10,000 classes: ns", results.median(f"qos-scheduler-{kind}-10000", "marchproxy"), most, 60
