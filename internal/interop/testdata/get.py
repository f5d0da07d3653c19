"""Sends one GET over mutual TLS and prints the answer: get.py HOST:PORT PATH SVID.pem SVID.key BUNDLE.pem"""

import socket
import ssl
import sys

address, path, svid, key, bundle = sys.argv[1:]
context = ssl.create_default_context(cafile=bundle)
context.load_cert_chain(svid, key)
host, port = address.rsplit(":", 1)
with socket.create_connection((host, int(port)), timeout=20) as raw:
    with context.wrap_socket(raw, server_hostname="orders.test") as conn:
        conn.sendall(f"GET {path} HTTP/1.1\r\nHost: orders.test\r\nConnection: close\r\n\r\n".encode())
        answer = b""
        while part := conn.recv(65536):
            answer += part
print(answer.decode())
