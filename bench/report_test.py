"""What the closing tables say about known figures. Run by ctest as unit.bench.report."""

import unittest

import packet_goals
import report


def results(values):
    """values: {(row, unit, lower is better): {subject: [values]}}"""
    collected = report.Results()
    for (row, unit, lower), subjects in values.items():
        for subject, taken in subjects.items():
            for value in taken:
                collected.add(row, unit, lower, subject, value)
    return collected


def verdict(row, lower, project, **peers):
    subjects = {name: [value] for name, value in peers.items()}
    if project is not None:
        subjects["marchproxy"] = [project]
    line = report.targets_table(results({(row, "u", lower): subjects})).splitlines()[2]
    return [cell.strip() for cell in line.strip("|").split("|")]


class Targets(unittest.TestCase):
    def test_throughput_is_compared_with_the_fastest_peer(self):
        cells = verdict("throughput-1-up", False, 23.0, haproxy=11.0, nginx=17.0, envoy=20.0, direct=30.0)
        self.assertEqual(cells[2:], ["20 (envoy)", "1.15 ×", "≥ 1.15 ×", "reached"])
        self.assertEqual(verdict("throughput-1-up", False, 22.9, nginx=17.0, envoy=20.0)[5], "NOT reached")

    def test_cpu_is_compared_with_the_most_frugal_peer(self):
        self.assertEqual(verdict("cpu-1-up", True, 0.30, haproxy=0.6, nginx=0.4)[5], "reached")
        self.assertEqual(verdict("cpu-1-up", True, 0.31, haproxy=0.6, nginx=0.4)[5], "NOT reached")

    def test_latency_has_a_limit_of_its_own_beside_the_ratio(self):
        self.assertEqual(verdict("paced-p50", True, 90, nginx=95)[5], "reached")
        self.assertEqual(verdict("paced-p50", True, 110, nginx=120)[5], "NOT reached")
        self.assertEqual(verdict("paced-p50", True, 96, nginx=95)[5], "NOT reached")

    def test_memory_needs_no_peer(self):
        self.assertEqual(verdict("idle-memory", True, 2048)[5], "reached")
        self.assertEqual(verdict("idle-memory", True, 2049, haproxy=3300)[5], "NOT reached")

    def test_what_was_not_measured_is_not_called_reached(self):
        self.assertEqual(verdict("fresh-rate", False, None, nginx=10)[5], "not measured")
        self.assertEqual(verdict("fresh-rate", False, 10, direct=20)[5], "no peer to compare with")

    def test_the_system_congestion_control_variant_is_no_peer(self):
        cells = verdict("throughput-1-up", False, 23.0, nginx=20.0, **{"marchproxy-system-cc": 40.0})
        self.assertEqual(cells[2], "20 (nginx)")


class PacketGoals(unittest.TestCase):
    @staticmethod
    def verdicts(values):
        lines = report.goals_table("packet plane", packet_goals.goals(results(values))).splitlines()[2:]
        cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
        return {name: (value, verdict) for name, value, _, verdict in cells}

    def test_a_cost_is_what_is_above_the_floor_of_as_many_flows(self):
        floors = {("packet-floor-1", "ns", True): {"empty": [30]}, ("packet-floor-10000000", "ns", True): {"empty": [50]}}
        one = {("packet-established-1", "ns", True): {"marchproxy": [90]}}
        many = {("packet-established-10000000", "ns", True): {"marchproxy": [251], "hash": [653], "lru_hash": [652]}}
        verdicts = self.verdicts(floors | one | many)
        self.assertEqual(verdicts["established, 1 flow: ns above the floor"], ("60", "reached"))
        self.assertEqual(verdicts["established, 10 million: ns above the floor"], ("201", "NOT reached"))
        self.assertEqual(verdicts["the same, times faster than hash"], ("3", "reached"))
        self.assertEqual(verdicts["the same, times faster than lru_hash"][1], "NOT reached")

    def test_small_packets_are_compared_by_what_one_costs_the_machine(self):
        cpu = ("packet-udp-cpu", "CPU us/packet", True)
        name = "small packets for the same CPU, times nftables"
        self.assertEqual(self.verdicts({cpu: {"marchproxy": [1.0], "nftables": [3.5]}})[name], ("3.5", "reached"))
        self.assertEqual(self.verdicts({cpu: {"marchproxy": [1.0], "nftables": [2.9]}})[name][1], "NOT reached")

    def test_what_was_not_measured_is_not_called_reached(self):
        cpu = ("packet-udp-cpu", "CPU us/packet", True)
        verdicts = self.verdicts({cpu: {"marchproxy": [1.0], "nftables": [3.5]}})
        self.assertEqual(verdicts["new flow: ns above the floor"], ("", "not measured"))
        self.assertEqual(verdicts["flows expired, of 10 million begun"], ("", "not measured"))

    def test_without_any_there_is_no_table(self):
        found = packet_goals.goals(results({("packet-established-1", "ns", True): {"marchproxy": [90]}}))
        self.assertEqual(report.goals_table("packet plane", found), "")


class Rows(unittest.TestCase):
    def test_a_row_is_the_median_with_its_extremes(self):
        (row,) = results({("udp-1", "echoes/s", False): {"nginx": [5, 1, 9]}}).as_json()
        expected = {"bench": "udp-1", "subject": "nginx", "value": 5, "unit": "echoes/s", "min": 1, "max": 9, "runs": 3}
        self.assertEqual(row, expected)

    def test_absent_figures_show_as_not_available(self):
        table = report.figures_table(results({("udp-1", "echoes/s", False): {"nginx": [1234]}}), ["haproxy", "nginx"], ["udp-1"])
        self.assertIn("| n/a     | 1,234 |", table)


if __name__ == "__main__":
    unittest.main()
