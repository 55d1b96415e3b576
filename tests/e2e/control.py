#!/usr/bin/env python3
"""Signals: SIGHUP reloads, SIGTERM drains, SIGUSR2 hands over to a new process, and the service manager is told."""
import os
import re
import shutil
import signal
import socket
import stat
import tempfile
import threading
import time
import unittest

import proxy
from peers import Echo, Exchange, exchange
from proxy import address_of, eventually, service


class Reload(proxy.ProxyTest):
    def test_a_wrong_file_leaves_what_runs_and_says_where(self):
        echo = self.keep(Echo())
        web = service(echo.port)
        running = self.start(web)
        client = self.connect(web)
        before = running.reloads()
        with open(running.config_file, "a", encoding="utf-8") as stream:
            stream.write("drain_timeuot: 3s\n")
        with open(running.config_file, encoding="utf-8") as stream:
            line = len(stream.read().splitlines())
        running.signal(signal.SIGHUP)
        eventually(lambda: f"{running.config_file}:{line}:1" in running.log(None), "file:line:column in the log")
        self.assertIn("drain_timeuot", running.log(None))
        changed = {k for k, v in running.reloads().items() if v > before.get(k, 0)}
        self.assert_echo(client)
        self.assert_echo(self.connect(web))
        running.write_config()
        self.assertNotIn(running.reload(), changed, "a good reload counts under another result")

    def test_an_occupied_port_leaves_what_runs(self):
        echo = self.keep(Echo())
        web, other = service(echo.port), service(echo.port, name="other")
        blocker = self.keep(socket.socket())
        blocker.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        blocker.bind(address_of(other))
        blocker.listen()
        running = self.start(web)
        client = self.connect(web)
        bad = running.reload([web, other])
        self.assertIn(other["listen"], running.log(None))
        self.assert_echo(client)
        self.assertEqual(["web"], [s["name"] for s in running.json("/api/v1/services")])
        blocker.close()
        self.assertNotEqual(bad, running.reload([web, other]))
        self.assert_echo(self.connect(other))

    def test_transfers_do_not_notice_reloads(self):
        server = self.keep(Exchange())
        web = service(server.port)
        running = self.start(web)
        results = []
        transfers = [threading.Thread(target=lambda n=n: results.append(
            exchange(server, address_of(web), n * 10, 30_000_000, 30_000_000, piece_pause=0.03))) for n in range(3)]
        for transfer in transfers:
            transfer.start()
        for turn in range(8):
            web["limits"] = {"connections": 100 + turn}
            running.reload([web])
        self.assertTrue(any(t.is_alive() for t in transfers), "reloads happened while bytes moved")
        for transfer in transfers:
            transfer.join()
        self.assertEqual([None] * 3, results)

    def test_by_the_api(self):
        echo = self.keep(Echo())
        web = service(echo.port)
        running = self.start(web)
        other = service(echo.port, name="other")
        running.write_config([web, other])
        self.assertEqual(200, running.post("/api/v1/reload").status)
        self.assert_echo(self.connect(other))
        with open(running.config_file, "w", encoding="utf-8") as stream:
            stream.write("services: 7\n")
        answer = running.post("/api/v1/reload")
        self.assertGreaterEqual(answer.status, 400)
        self.assertIn(f"{running.config_file}:1:", answer.text)
        self.assert_echo(self.connect(web))


class Terminate(proxy.ProxyTest):
    def test_a_running_transfer_ends_whole(self):
        server = self.keep(Exchange())
        web = service(server.port)
        running = self.start(web, settings={"drain_timeout": "20s"})
        results = []
        transfer = threading.Thread(target=lambda: results.append(
            exchange(server, address_of(web), 10, 20_000_000, 20_000_000, piece_pause=0.05)))
        transfer.start()
        eventually(lambda: running.service()["active_connections"] == 1, "the transfer runs")
        running.signal(signal.SIGTERM)
        eventually(lambda: running.get("/readyz").status == 503, "draining is not ready")
        self.assertEqual(200, running.get("/healthz").status)
        with self.assertRaises(OSError, msg="no new connections while draining"):
            socket.create_connection(address_of(web), timeout=2).close()
        self.assertIsNone(running.poll(), "it waits for the transfer")
        transfer.join()
        self.assertEqual([None], results)
        self.assertEqual(0, running.wait(5), "and ends as soon as that is over")

    def test_the_drain_timeout_bounds_it(self):
        echo = self.keep(Echo())
        web = service(echo.port)
        running = self.start(web, settings={"drain_timeout": "600ms"})
        client = self.connect(web)
        self.assert_echo(client)
        began = time.monotonic()
        running.signal(signal.SIGTERM)
        self.assert_closed(client, seconds=5)
        self.assertEqual(0, running.wait(5))
        took = time.monotonic() - began
        self.assertGreater(took, 0.5)
        self.assertLess(took, 3.0)

    def test_a_second_signal_ends_it_at_once(self):
        echo = self.keep(Echo())
        web = service(echo.port)
        running = self.start(web, settings={"drain_timeout": "60s"})
        self.assert_echo(self.connect(web))
        running.signal(signal.SIGTERM)
        eventually(lambda: running.get("/readyz").status == 503, "draining")
        running.signal(signal.SIGTERM)
        self.assertEqual(0, running.wait(5))

    def test_sigint_is_the_same(self):
        echo = self.keep(Echo())
        running = self.start(service(echo.port))
        running.signal(signal.SIGINT)
        self.assertEqual(0, running.wait(5))


class Upgrade(proxy.ProxyTest):
    def setUp(self):
        super().setUp()
        proxy.become_subreaper()

    def test_what_is_drained_stays_so(self):
        first, second = self.keep(Echo()), self.keep(Echo())
        web = service(first.port, second.port)
        running = self.start(web, settings={"paths": [{"name": "unused", "provider": "aws"}]})
        name = f"127.0.0.1:{first.port}"
        self.assertEqual(200, running.post(f"/api/v1/endpoints/{name}/drain").status)
        self.assertEqual(200, running.post("/api/v1/providers/aws/drain").status)
        running.replace()
        running.wait_for()
        self.assertEqual([True, False], [one["draining"] for one in running.service()["endpoints"]])
        self.assertTrue(running.json("/api/v1/paths")[0]["draining"])
        self.assertEqual(200, running.post(f"/api/v1/endpoints/{name}/undrain").status)
        self.assertEqual([False, False], [one["draining"] for one in running.service()["endpoints"]])

    def test_no_connection_attempt_is_refused_and_transfers_survive(self):
        echo, server = self.keep(Echo()), self.keep(Exchange())
        web, bulk = service(echo.port), service(server.port, name="bulk")
        running = self.start(web, bulk, settings={"drain_timeout": "20s"})
        results, failures, stop = [], [], threading.Event()
        answered = [0]

        def hammer():
            while not stop.is_set():
                try:
                    with socket.create_connection(address_of(web), timeout=5) as client:
                        client.sendall(b"x")
                        if client.recv(1) != b"x":
                            failures.append("closed without an answer")
                    answered[0] += 1
                except OSError as error:
                    failures.append(repr(error))

        transfer = threading.Thread(target=lambda: results.append(
            exchange(server, address_of(bulk), 10, 40_000_000, 40_000_000, piece_pause=0.08)))
        hammers = [threading.Thread(target=hammer) for _ in range(4)]
        for thread in (transfer, *hammers):
            thread.start()
        time.sleep(0.3)
        old = running.replace()
        running.wait_for("/readyz")
        transfer.join()
        self.assertEqual(0, old.wait(15), "the old process drains and ends")
        seen = answered[0]
        eventually(lambda: answered[0] > seen + 100, "the new process serves")
        stop.set()
        for thread in hammers:
            thread.join()
        self.assertEqual([], failures[:5])
        self.assertEqual([None], results)
        self.assert_echo(self.connect(web))

    def test_the_new_process_runs_the_binary_on_disk_and_can_be_replaced_again(self):
        echo = self.keep(Echo())
        web = service(echo.port)
        folder = self.enterContext(tempfile.TemporaryDirectory(prefix="marchproxy-e2e-"))
        binary = os.path.join(folder, "marchproxy-l3l4")
        shutil.copy(proxy.BINARY, binary)
        running = self.start(web, binary=binary)
        for _ in range(2):
            shutil.copy(proxy.BINARY, binary + ".new")
            os.rename(binary + ".new", binary)
            inode = os.stat(binary).st_ino
            old = running.replace()
            self.assertEqual(0, old.wait(10))
            eventually(lambda: os.stat(f"/proc/{running.pid}/exe").st_ino == inode, "the new file runs")
            running.wait_for("/readyz")
            self.assert_echo(self.connect(web))

    def test_a_broken_new_binary_changes_nothing(self):
        echo = self.keep(Echo())
        web = service(echo.port)
        folder = self.enterContext(tempfile.TemporaryDirectory(prefix="marchproxy-e2e-"))
        binary = os.path.join(folder, "marchproxy-l3l4")
        shutil.copy(proxy.BINARY, binary)
        running = self.start(web, binary=binary)
        client = self.connect(web)
        with open(binary + ".new", "w", encoding="utf-8") as stream:
            stream.write("#!/bin/sh\nexit 3\n")
        os.chmod(binary + ".new", stat.S_IRWXU)
        os.rename(binary + ".new", binary)
        lines = len(running.log(None).splitlines())
        running.signal(signal.SIGUSR2)
        eventually(lambda: re.search(r'"level":\s*"(ERROR|WARN)|\b(ERROR|WARN)\b',
                                     "\n".join(running.log(None).splitlines()[lines:])), "the log says so")
        self.assertIsNone(running.poll())
        self.assert_echo(client)
        self.assert_echo(self.connect(web))
        self.assertEqual(200, running.get("/readyz").status)


class ServiceManager(proxy.ProxyTest):
    def messages(self, running, until):
        """What the manager was told, up to a message that holds `until`."""
        told = []
        while not told or until not in told[-1]:
            told.append(running.notify_socket.recv(4096).decode())
        return told

    def test_it_hears_of_each_state(self):
        echo = self.keep(Echo())
        web = service(echo.port)
        running = self.start(web, notify=True)
        self.assertIn("READY=1", self.messages(running, "READY=1")[-1])
        running.reload([web])
        reloading = "\n".join(self.messages(running, "RELOADING=1"))
        self.assertIn("MONOTONIC_USEC=", reloading)
        self.messages(running, "READY=1")
        running.signal(signal.SIGTERM)
        self.messages(running, "STOPPING=1")

    def test_watchdog(self):
        echo = self.keep(Echo())
        running = self.start(service(echo.port), notify=True, environment={"WATCHDOG_USEC": "400000"})
        for _ in range(3):
            self.messages(running, "WATCHDOG=1")


if __name__ == "__main__":
    proxy.main()
