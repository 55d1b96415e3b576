"""Servers and clients that the proxy stands between: each server on a loopback port of the kernel's choice, on threads
of the test's process. All of them count and remember what they saw, so that a test can compare both ends."""
import hashlib
import random
import select
import socket
import struct
import threading
import time

from proxy import HOST, PATIENCE

BLOCK = 1 << 20


def reset(connection):
    """Closes so that the peer sees a reset."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


class Server:
    """Accepts connections and hands each to serve() on a thread of its own."""

    def __init__(self, host=HOST, port=0, backlog=128, reuse=True):
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.listener = socket.socket(family, socket.SOCK_STREAM)
        if reuse:
            self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.listener.bind((host, port))
        self.listener.listen(backlog)
        self.host, self.port = self.listener.getsockname()[:2]
        self.accepted = 0
        self.connections = set()
        self.lock = threading.Lock()
        self.thread = threading.Thread(target=self._accept, daemon=True)
        self.thread.start()

    def _accept(self):
        while True:
            try:
                connection, peer = self.listener.accept()
            except OSError:
                return
            with self.lock:
                self.accepted += 1
                self.connections.add(connection)
            threading.Thread(target=self._run, args=(connection, peer), daemon=True).start()

    def _run(self, connection, peer):
        try:
            self.serve(connection, peer)
        except OSError:
            pass  # the other side ended the connection; what arrived until then is on record
        finally:
            with self.lock:
                self.connections.discard(connection)
            connection.close()

    def serve(self, connection, peer):
        raise NotImplementedError

    def close(self):
        """No more connections; those that are open end."""
        try:
            self.listener.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self.listener.close()
        self.thread.join(5)
        with self.lock:
            open_ones = list(self.connections)
        for connection in open_ones:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass


class Echo(Server):
    """Sends back what arrives, closes when the client has."""

    def serve(self, connection, peer):
        while data := connection.recv(65536):
            connection.sendall(data)


class Named(Server):
    """Says its name as soon as somebody connects, then echoes."""

    def __init__(self, name, **more):
        self.name = name
        super().__init__(**more)

    def serve(self, connection, peer):
        connection.sendall(self.name.encode() + b"\n")
        while data := connection.recv(65536):
            connection.sendall(data)


class Recorder(Server):
    """Remembers what each connection sent, whole."""

    def __init__(self, **more):
        self.seen = []
        super().__init__(**more)

    def serve(self, connection, peer):
        data = b""
        try:
            while piece := connection.recv(65536):
                data += piece
                connection.sendall(b"k")
        finally:
            self.seen.append(data)


class Behaving(Server):
    """Runs the function it was given on every connection."""

    def __init__(self, behaviour, **more):
        self.behaviour = behaviour
        super().__init__(**more)

    def serve(self, connection, peer):
        self.behaviour(connection)


class BlackHole:
    """A port whose connection attempts get no answer: its queue of unaccepted connections is full, and the kernel
    drops further SYNs (tcp(7), tcp_abort_on_overflow off)."""

    def __init__(self, host=HOST):
        self.listener = socket.socket()
        self.listener.bind((host, 0))
        self.listener.listen(0)
        self.port = self.listener.getsockname()[1]
        self.fillers = []
        for _ in range(8):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex((host, self.port))
            self.fillers.append(filler)
        time.sleep(0.05)

    def close(self):
        for filler in self.fillers:
            filler.close()
        self.listener.close()


class Pattern:
    """`size` bytes that depend on the seed and on their place, in blocks, and the hash of those handed out."""

    def __init__(self, seed, size):
        self.block = bytearray(random.Random(seed).randbytes(min(size, BLOCK) or 1))
        self.left = size
        self.hash = hashlib.sha256()
        self.count = 0

    def blocks(self):
        number = 0
        while self.left:
            size = min(self.left, len(self.block))
            if size >= 8:
                struct.pack_into("<Q", self.block, 0, number)
            piece = memoryview(self.block)[:size]
            self.hash.update(piece)
            self.count += size
            self.left -= size
            number += 1
            yield piece


class Digest:
    """Reads a connection to its end into a hash."""

    def __init__(self):
        self.hash = hashlib.sha256()
        self.count = 0
        self.buffer = memoryview(bytearray(BLOCK))

    def drain(self, connection, pause=0.0, chunk=BLOCK):
        while size := connection.recv_into(self.buffer[:chunk]):
            self.hash.update(self.buffer[:size])
            self.count += size
            if pause:
                time.sleep(pause)


HEADER = struct.Struct("<QQQ")  # identity, bytes wanted back, whether to wait for the client's end first


class Exchange(Server):
    """The far end of exchange(): reads all, sends what the header asks for, remembers both hashes by identity."""

    def __init__(self, **more):
        self.results = {}
        self.arrived = threading.Condition()
        super().__init__(**more)

    def serve(self, connection, peer):
        connection.settimeout(120)
        head = b""
        while len(head) < HEADER.size:
            piece = connection.recv(HEADER.size - len(head))
            if not piece:
                return
            head += piece
        identity, wanted, after = HEADER.unpack(head)
        sent, received = Pattern(identity + 1, wanted), Digest()

        def send():
            try:
                for piece in sent.blocks():
                    connection.sendall(piece)
                connection.shutdown(socket.SHUT_WR)
            except OSError:
                pass  # the difference in the hashes tells

        sender = threading.Thread(target=send, daemon=True)
        try:
            if after:
                received.drain(connection)
                sender.start()
            else:
                sender.start()
                received.drain(connection)
        finally:
            if sender.ident:
                sender.join(120)
            with self.arrived:
                self.results[identity] = (received.count, received.hash.hexdigest(), sent.count, sent.hash.hexdigest())
                self.arrived.notify_all()

    def result(self, identity, seconds=60):
        with self.arrived:
            if not self.arrived.wait_for(lambda: identity in self.results, seconds):
                raise AssertionError(f"the server never saw the end of exchange {identity}")
            return self.results[identity]


def exchange(server, address, identity, up, down, *, after=False, pause=0.0, chunk=BLOCK, piece_pause=0.0, timeout=120):
    """Sends `up` bytes and takes `down` bytes at once over one connection through the proxy, half-closing when its own
    are out. Returns an error text, or None when both ends saw the same."""
    connection = socket.create_connection(address, timeout=timeout * PATIENCE)
    try:
        connection.sendall(HEADER.pack(identity, down, after))
        sent, received = Pattern(identity, up), Digest()
        failures = []

        def send():
            try:
                for piece in sent.blocks():
                    connection.sendall(piece)
                    if piece_pause:
                        time.sleep(piece_pause)
                connection.shutdown(socket.SHUT_WR)
            except OSError as error:
                failures.append(f"client sending: {error} after {sent.count} of {up}")

        sender = threading.Thread(target=send, daemon=True)
        sender.start()
        try:
            received.drain(connection, pause, chunk)
        except OSError as error:
            failures.append(f"client receiving: {error} after {received.count} of {down}")
        sender.join(timeout)
        if failures:
            return "; ".join(failures)
        far_count, far_hash, back_count, back_hash = server.result(identity)
        if (far_count, far_hash) != (up, sent.hash.hexdigest()):
            return f"up: {up} bytes sent, {far_count} arrived, hashes {'equal' if far_hash == sent.hash.hexdigest() else 'differ'}"
        if (received.count, received.hash.hexdigest()) != (down, back_hash) or back_count != down:
            return f"down: {down} wanted, {back_count} sent, {received.count} arrived"
        return None
    finally:
        connection.close()


class Datagrams:
    """A UDP server: answers each datagram with what reply() makes of it (None: no answer)."""

    def __init__(self, reply=lambda data, peer: data, host=HOST, port=0):
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.socket = socket.socket(family, socket.SOCK_DGRAM)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        self.socket.bind((host, port))
        self.host, self.port = self.socket.getsockname()[:2]
        self.reply = reply
        self.received = 0
        self.peers = set()
        self.stopping = False
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.thread.start()

    def _serve(self):
        while not self.stopping:
            readable, _, _ = select.select([self.socket], [], [], 0.1)
            if not readable:
                continue
            try:
                data, peer = self.socket.recvfrom(65535)
            except OSError:
                continue  # an ICMP error of an earlier answer
            self.received += 1
            self.peers.add(peer)
            answer = self.reply(data, peer)
            if answer is not None:
                self.socket.sendto(answer, peer)

    def close(self):
        self.stopping = True
        self.thread.join(5)
        self.socket.close()
