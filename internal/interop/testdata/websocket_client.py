"""Tries what a WebSocket can do at /ws: websocket_client.py HOST:PORT [SVID.pem SVID.key BUNDLE.pem]"""

import socket
import ssl
import sys
import time

from websockets.exceptions import ConnectionClosedError, ConnectionClosedOK
from websockets.sync.client import connect

address, credentials = sys.argv[1], sys.argv[2:]
host, port = address.rsplit(":", 1)
secure = {}
if credentials:
    svid, key, bundle = credentials
    context = ssl.create_default_context(cafile=bundle)
    context.load_cert_chain(svid, key)
    secure = {"ssl": context, "server_hostname": "orders.test"}


def dial():
    raw = socket.create_connection((host, int(port)), timeout=20)
    scheme = "wss" if secure else "ws"
    return connect(f"{scheme}://orders.test:{port}/ws", sock=raw, proxy=None, subprotocols=["echo"], max_size=8 << 20, **secure)


with dial() as connection:
    assert connection.subprotocol == "echo", connection.subprotocol
    large = bytes(range(256)) * 4096
    for message in ["hello", "", "ünïcode ☺", b"\x00\xff" * 100, b"x" * 70_000, large, "t" * (1 << 20)]:
        connection.send(message)
        assert connection.recv(timeout=20) == message, "another message came back"
    connection.send(large[at : at + 50_000] for at in range(0, len(large), 50_000))  # fragments
    assert connection.recv(timeout=20) == large, "fragments"
    for payload in [b"", b"payload", b"x" * 125]:
        assert connection.ping(payload).wait(20), "no pong"
    time.sleep(1.2)  # in which a server that pings does so
    connection.send("after the pings")
    assert connection.recv(timeout=20) == "after the pings"
    connection.send("close 4001 that is enough")
    try:
        connection.recv(timeout=20)
        raise AssertionError("not closed")
    except ConnectionClosedError as closed:
        assert (closed.rcvd.code, closed.rcvd.reason) == (4001, "that is enough"), closed
with dial() as connection:
    connection.close(1001, "leaving")
    try:
        connection.recv(timeout=20)
        raise AssertionError("not closed")
    except ConnectionClosedOK as closed:
        assert closed.rcvd.code == 1001, closed
print("everything was as it should be")
