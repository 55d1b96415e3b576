"""What is seen of packets on the wire."""
import contextlib
import socket
import threading

from netns import inside

ETHERTYPES = {0x0800: socket.AF_INET, 0x86dd: socket.AF_INET6}


class Wire:
    """Every IP packet that one address sends, as an interface of a namespace gets it: traffic class and TCP flags."""

    def __init__(self, namespace, device, source):
        with inside(namespace):
            self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
            self.socket.bind((device, 0))
        self.socket.settimeout(0.1)
        self.source, self.classes, self.over = source, [], False
        self.thread = threading.Thread(target=self.read)
        self.thread.start()

    def read(self):
        while not self.over:
            with contextlib.suppress(TimeoutError):
                frame, about = self.socket.recvfrom(65535)
                if about[2] != socket.PACKET_OUTGOING:
                    self.look(frame)

    def look(self, frame):
        family = ETHERTYPES.get(int.from_bytes(frame[12:14], "big"))
        if family == socket.AF_INET and socket.inet_ntop(family, frame[26:30]) == self.source:
            header = frame[14:34]
            total = sum(int.from_bytes(header[i:i + 2], "big") for i in range(0, 20, 2))
            self.classes.append((frame[15], (total & 0xffff) + (total >> 16) & 0xffff == 0xffff))
        if family == socket.AF_INET6 and frame[20] in (6, 17) and socket.inet_ntop(family, frame[22:38]) == self.source:
            self.classes.append(((frame[14] & 0xf) << 4 | frame[15] >> 4, True))

    def close(self):
        self.over = True
        self.thread.join()
        self.socket.close()
