"""Hosts on one machine: a process that makes network namespaces and carries packets between them, slowly. Linux, root.

    python relay.py HOSTS LATENCY BANDWIDTH SECONDS

Each host is a namespace with one interface, `kron0` with address 10.77.0.1, 10.77.0.2 …, which is a TUN device whose packets
this process reads. A packet leaves its host when the host's line is free (bytes / BANDWIDTH each), arrives LATENCY seconds
later, and takes the receiving host's line for as long again, so that many senders to one host queue up. Prints a line of the
namespaces' paths once all are up, and ends when its input is closed or after SECONDS; the namespaces have no names and end with
those who use them, so nothing is left behind whatever happens.
"""

from __future__ import annotations

import ctypes
import fcntl
import heapq
import os
import select
import struct
import subprocess
import sys
import time

CLONE_NEWNET, PR_SET_TIMERSLACK, TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x40000000, 29, 0x400454CA, 1, 0x1000
MTU = 9000  # bytes: jumbo frames, so that a process in Python keeps up with 1 Gbit/s
LINK = "kron0"


def address(host: int) -> str:
    """Of host 0, 1, …, in its own namespace and the others'."""
    return f"10.77.0.{host + 1}"


def make_host(host: int) -> tuple[int, str]:
    """Enter a new namespace with a link; returns (the link's packets, path of the namespace)."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), f"cannot make a network namespace: {os.strerror(ctypes.get_errno())}")
    namespace = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    packets = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(packets, TUNSETIFF, struct.pack("16sH22x", LINK.encode(), IFF_TUN | IFF_NO_PI))
    for command in (
        "link set lo up", f"addr add {address(host)}/24 dev {LINK}", f"link set dev {LINK} mtu {MTU} txqueuelen 10000 up"
    ):  # fmt: skip
        subprocess.run(["ip", *command.split()], check=True)
    return packets, f"/proc/{os.getpid()}/fd/{namespace}"


def be_prompt() -> None:
    """Sleep to the microsecond, and run before those who compute where that is allowed."""
    ctypes.CDLL(None).prctl(PR_SET_TIMERSLACK, 1)
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    except OSError as error:
        print(f"packets may be late: {error}", file=sys.stderr)


def carry(links: list[int], latency: float, bandwidth: float, end: float) -> None:
    """Carry packets until the input is closed, or until `end` on the monotonic clock."""
    host_of, stop = {link: host for host, link in enumerate(links)}, sys.stdin.fileno()
    sending, receiving = [0.0] * len(links), [0.0] * len(links)  # when each host's line is free
    waiting: list[tuple[float, int, int, bytes]] = []  # when it arrives, a number that breaks ties, at which host, a packet
    number = 0
    while (now := time.monotonic()) < end:
        while waiting and waiting[0][0] <= now:
            _, _, host, packet = heapq.heappop(waiting)
            os.write(links[host], packet)
        until = waiting[0][0] if waiting else end
        ready, _, _ = select.select([*links, stop], [], [], max(0.0, until - time.monotonic()))
        if stop in ready:
            return
        now = time.monotonic()
        for link in ready:
            source = host_of[link]
            for packet in read_all(link):
                host = packet[19] - 1 if packet[0] >> 4 == 4 and packet[16:19] == b"\x0a\x4d\x00" else -1
                if not 0 <= host < len(links):
                    continue  # for no host: the kernel's own multicast
                line = len(packet) / bandwidth
                sending[source] = max(now, sending[source]) + line
                receiving[host] = max(sending[source] + latency, receiving[host] + line)
                heapq.heappush(waiting, (receiving[host], number, host, packet))
                number += 1


def read_all(link: int) -> list[bytes]:
    """All packets that a host has sent by now."""
    packets = []
    while True:
        try:
            packets.append(os.read(link, MTU))
        except BlockingIOError:
            return packets


def main(hosts: int, latency: float, bandwidth: float, seconds: float) -> None:
    """Seconds one way, bytes/s."""
    made = [make_host(host) for host in range(hosts)]
    print(*(path for _, path in made), flush=True)
    be_prompt()
    carry([packets for packets, _ in made], latency, bandwidth, time.monotonic() + seconds)


if __name__ == "__main__":
    main(int(sys.argv[1]), *map(float, sys.argv[2:5]))
