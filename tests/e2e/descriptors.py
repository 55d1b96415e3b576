#!/usr/bin/env python3
"""When file descriptors run out the proxy stays up, serves what it has, says so, and accepts again afterwards."""
import resource
import socket
import time
import unittest

import proxy
from peers import Echo
from proxy import address_of, eventually, service


def limited(count):
    return lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (count, count))


class Exhaustion(proxy.ProxyTest):
    def exhaust(self, limit):
        echo = self.keep(Echo())
        web = service(echo.port)
        running = self.start(web, preexec=limited(limit), settings={"stream": {"workers": 2}})
        early = [self.connect(web) for _ in range(5)]
        for client in early:
            self.assert_echo(client)
        crowd = []
        for _ in range(limit):
            client = socket.socket()
            client.settimeout(5)
            client.setblocking(False)
            client.connect_ex(address_of(web))
            crowd.append(client)
        time.sleep(0.5)
        for client in early:
            self.assert_echo(client)
        ticks = self.cpu_ticks(running)
        time.sleep(1)
        self.assertLess(self.cpu_ticks(running) - ticks, 60, "no busy loop while descriptors are short")
        self.assertIsNone(running.poll())
        for client in crowd:
            client.close()

        def serves():
            try:
                with socket.create_connection(address_of(web), timeout=3) as client:
                    client.sendall(b"x")
                    return client.recv(1) == b"x"
            except OSError:
                return False
        eventually(serves, "it accepts again", 10, 0.1)
        for client in early:
            self.assert_echo(client)
        eventually(lambda: running.service()["active_connections"] <= 6, "what was refused is gone")
        running.wait_ended_with("descriptors")
        self.assertIn("descriptors", running.log(None))

    @staticmethod
    def cpu_ticks(running):
        with open(f"/proc/{running.pid}/stat", encoding="utf-8") as stream:
            fields = stream.read().rsplit(")", 1)[1].split()
        return int(fields[11]) + int(fields[12])

    def test_with_64(self):
        self.exhaust(64)

    def test_with_200(self):
        self.exhaust(200)

    def test_too_few_to_start_is_said(self):
        echo = self.keep(Echo())
        running = self.start(service(echo.port), wait=None, preexec=limited(10))
        running.expected_exit = 1
        self.assertEqual(1, running.wait(10))
        self.assertRegex(running.log(None), "descriptor|ulimit|open files")


if __name__ == "__main__":
    proxy.main()
