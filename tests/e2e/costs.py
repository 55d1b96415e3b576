#!/usr/bin/env python3
"""The cost book: what paths carried and cost, over reloads, restarts and hot upgrades; budgets."""
import json
import os
import sqlite3

import proxy
from peers import Echo
from proxy import eventually, receive_exactly, service

MEGABYTE = 1_000_000


class Costs(proxy.ProxyTest):
    def setUp(self):
        super().setUp()
        proxy.become_subreaper()

    def two_paths(self, routing=None, **multicloud):
        """A dear path that all connections take as long as they may, and a cheap one."""
        dear, cheap = self.keep(Echo()), self.keep(Echo())
        self.web = service({"address": f"127.0.0.1:{dear.port}", "path": "dear"},
                           {"address": f"127.0.0.1:{cheap.port}", "path": "cheap", "weight": 0},
                           routing=routing or {"policy": "weighted_round_robin"})
        # Dollars a gigabyte as no cloud takes them, so that a megabyte counts.
        paths = [{"name": "dear", "provider": "aws", "region": "us", "cost_per_gb": 1000},
                 {"name": "cheap", "provider": "onprem", "region": "fra", "cost_per_gb": 10}]
        return self.start(self.web, settings={"paths": paths, "multicloud": {"enabled": True, **multicloud},
                                              "drain_timeout": "5s"})

    def carry(self, megabytes, connection=None):
        """Over a connection that goes on, or one of its own."""
        client = connection or self.connect(self.web)
        for _ in range(megabytes * 10):
            client.sendall(b"x" * (MEGABYTE // 10))
            receive_exactly(client, MEGABYTE // 10)
        if not connection:
            client.close()

    def dollars(self, running, path="dear"):
        return sum(row["dollars"] for row in running.json(f"/api/v1/costs?path={path}"))

    def becomes(self, running, dollars, path="dear"):
        eventually(lambda: abs(self.dollars(running, path) - dollars) < 1e-6,
                   lambda: f"{dollars} dollars, not {running.json('/api/v1/costs?by=path,day,service')}")

    def test_the_book_says_what_was_carried_and_outlives_processes(self):
        running = self.two_paths()
        client = self.connect(self.web)
        self.carry(2, client)
        self.becomes(running, 2)
        row, = running.json("/api/v1/costs?by=service,path,provider,region,month")
        self.assertEqual(("web", "dear", "aws", "us", 2 * MEGABYTE, 2 * MEGABYTE),
                         (row["service"], row["path"], row["provider"], row["region"], row["received_bytes"], row["billed_bytes"]))
        eventually(lambda: abs(running.metrics().sum("path_cost_dollars_total", path="dear", provider="aws", region="us") - 2) < 1e-6,
                   "the metric says it too")
        # A hot upgrade: what the old process still carries is counted beside what the new one does.
        old = running.replace()
        running.wait_for()
        self.carry(1, client)
        self.carry(3)
        client.close()
        eventually(lambda: old.poll() is not None, "the old process ends", 15)
        self.becomes(running, 6)
        # A restart.
        running.stop()
        running.start()
        self.becomes(running, 6)
        self.carry(1)
        self.becomes(running, 7)
        self.assertAlmostEqual(1, running.metrics().sum("path_cost_dollars_total", path="dear"), msg="of this process", places=5)
        report = running.command("costs", "--by", "path,day")
        self.assertRegex(report.stdout, r"DAY +PATH +RECEIVED +SENT +BILLED +DOLLARS\n\d{4}-\d\d-\d\d +dear +7.00 MB +7.00 MB +7.00 MB +7.00\n")
        self.assertEqual(2, len(running.command("costs", "--json").stdout.splitlines()[0].split("\"path\"")))
        wrong = running.command("costs", "--by", "colour")
        self.assertEqual(1, wrong.returncode)
        self.assertIn("it takes some of day, month, service, path, provider, region", wrong.stderr)

    def test_a_crash_loses_seconds_and_not_the_book(self):
        running = self.two_paths()
        self.carry(2)
        self.becomes(running, 2)  # asking has it written
        running.expected_exit = -9
        running.signal(9)
        running.wait()
        running.expected_exit = 0
        running.start()
        self.becomes(running, 2)

    def test_tiers_are_of_the_month(self):
        running = self.two_paths()
        paths = [{**running.settings["paths"][0], "cost_per_gb": [{"up_to": "3MB", "cost": 1000}, {"cost": 100}]}]
        running.reload(services=[{**self.web, "endpoints": self.web["endpoints"][:1]}], settings={"paths": paths})
        self.assertEqual(1000, running.json("/api/v1/paths")[0]["cost_per_gb"])
        self.carry(5)
        self.becomes(running, 3 + 0.2)
        self.assertEqual(100, running.json("/api/v1/paths")[0]["cost_per_gb"], "what the next gigabyte costs")

    def budget(self, at_limit, **more):
        return [{"name": "month", "provider": "aws", "dollars": 3, "at_limit": at_limit, **more}]

    def test_a_spent_budget_lets_nobody_new_in_and_established_ones_go_on(self):
        running = self.two_paths(budgets=self.budget("stop_new"))
        client = self.connect(self.web)
        self.carry(2, client)
        self.becomes(running, 2)
        self.assert_echo(self.connect(self.web))
        self.carry(2, client)
        eventually(lambda: running.json("/api/v1/budgets")[0]["state"] == "spent", "it is spent")
        eventually(lambda: "budget month: 4.0" in str(running.status()["notes"]), "status says so")
        eventually(lambda: running.service()["endpoints"][0]["draining"], "its endpoint takes nothing new")
        self.assert_turned_away(self.web)
        running.wait_ended_with("no_endpoint")
        self.assert_echo(client)
        self.assertIn("a budget is spent", running.log(None))
        told = json.loads(running.command("paths", "explain", "--service", "web", "--source", "10.1.2.3", "--json").stdout)
        self.assertEqual("takes nothing new: a budget is spent", told["candidates"][0]["reason"])
        self.assertRegex(running.command("budgets").stdout, r"month +provider aws +month +3.00 +4.0\d +13\d% +spent +stop_new")
        # More may be spent.
        running.reload(settings={"multicloud": {"enabled": True, "budgets": self.budget("stop_new", dollars=100)}})
        self.assert_echo(self.connect(self.web))
        # And the new process of a hot upgrade knows it from its first connection on.
        running.reload(settings={"multicloud": {"enabled": True, "budgets": self.budget("stop_new")}})
        running.replace()
        running.wait_for("/healthz")
        self.assert_turned_away(self.web)

    def test_a_spent_budget_can_have_cost_decide(self):
        running = self.two_paths(budgets=self.budget("prefer_cheaper"))
        self.web["endpoints"][1]["weight"] = 100
        running.reload(services=[self.web])
        for _ in range(4):
            self.carry(2)
        eventually(lambda: running.json("/api/v1/budgets")[0]["state"] == "spent", "it is spent")
        shares = lambda: {c["path"]: c["share"] for c in running.json("/api/v1/paths/explain?service=web&source=10.1.2.3")["candidates"]}
        eventually(lambda: shares() == {"dear": 0, "cheap": 1}, shares)
        before = self.dollars(running)
        for _ in range(4):
            self.carry(1)
        self.assertAlmostEqual(before, self.dollars(running), places=6)

    def test_a_file_that_cannot_be_used_is_told_and_left_alone(self):
        running = self.two_paths(cost_book="/dev/null/costs.db")
        note, = [note for note in running.status()["notes"] if note.startswith("cost book")]
        self.assertIn("/dev/null/costs.db cannot be used (Not a directory)", note)
        self.carry(1)
        self.becomes(running, 1)
        book = os.path.join(running.folder, "elsewhere", "costs.db")
        running.reload(settings={"multicloud": {"enabled": True, "cost_book": book}})
        self.assertFalse([note for note in running.status()["notes"] if note.startswith("cost book")])
        self.becomes(running, 1)
        running.stop()
        with sqlite3.connect(book) as other:  # a file that any tool reads
            self.assertEqual([(MEGABYTE,)], other.execute("SELECT billed FROM traffic").fetchall())
        running.start()


if __name__ == "__main__":
    proxy.main()
