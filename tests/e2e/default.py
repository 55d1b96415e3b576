#!/usr/bin/env python3
"""The embedded default, as `make run` starts it: no file, four simulated clouds, life at once."""
import hashlib
import http.client
import re
import subprocess
import shutil
import unittest

import proxy
from proxy import free_port


class EmbeddedDefault(proxy.ProxyTest):
    def setUp(self):
        super().setUp()
        self.port = free_port()
        self.proxy = proxy.Proxy(file=False)
        self.proxy.arguments += ["--listen-port", str(self.port), "--admin-port", str(self.proxy.admin_port)]
        self.started.append(self.proxy)
        self.addCleanup(self._end, self.proxy)
        self.proxy.start()

    def fetch(self, path, method="GET", body=None):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(method, path, body=body)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def test_the_four_clouds_answer_in_turn(self):
        answers = [self.fetch("/") for _ in range(16)]
        self.assertEqual({200}, {status for status, _ in answers})
        text = b"\n".join(body for _, body in answers).decode().lower()
        for cloud in ("aws", "gcp", "azure", "on-prem"):
            self.assertIn(cloud, text)
        service = self.proxy.json("/api/v1/services")[0]
        self.assertEqual(4, len(service["endpoints"]))
        self.assertTrue(all(e["path"] for e in service["endpoints"]))
        metrics = self.proxy.metrics()
        by_path = [metrics.sum("connections_total", path=e["path"]) for e in service["endpoints"]]
        self.assertTrue(all(by_path), by_path)

    def test_bulk_goes_through(self):
        for size in (0, 1, 100_000, 50_000_000):
            status, body = self.fetch(f"/bytes/{size}")
            self.assertEqual((200, size), (status, len(body)))

    def test_an_upload_comes_back_whole(self):
        import random
        data = random.Random(3).randbytes(3_000_000)
        status, body = self.fetch("/echo", "POST", data)
        self.assertEqual(200, status)
        self.assertEqual(hashlib.sha256(data).digest(), hashlib.sha256(body).digest())

    @proxy.requires("curl")
    def test_curl(self):
        shown = subprocess.run([shutil.which("curl"), "-sS", "--max-time", "10", f"http://127.0.0.1:{self.port}/"],
                               capture_output=True, text=True, timeout=20)
        self.assertEqual(0, shown.returncode, shown.stderr)
        self.assertTrue(shown.stdout.strip())

    def test_it_says_what_to_try(self):
        log = self.proxy.log(None)
        self.assertRegex(log, rf"curl .*{self.port}")
        self.assertIn(str(self.proxy.admin_port), log)


class Occupied(proxy.ProxyTest):
    def test_an_occupied_port_is_named_with_what_to_do(self):
        import socket
        blocker = self.keep(socket.socket())
        blocker.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        port = free_port()
        blocker.bind(("0.0.0.0", port))
        blocker.listen()
        running = proxy.Proxy(file=False)
        running.arguments += ["--listen-port", str(port), "--admin-port", str(running.admin_port)]
        self.started.append(running)
        running.start(wait=None)
        self.assertEqual(1, running.wait(10))
        self.assertRegex(running.log(None), str(port))
        self.assertRegex(running.log(None), r"--listen-port|LISTEN_PORT|listen\.port")


if __name__ == "__main__":
    proxy.main()
