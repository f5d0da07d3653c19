"""Answers every GET over mutual TLS with the caller's URI SAN: serve.py HOST:PORT SVID.pem SVID.key BUNDLE.pem"""

import http.server
import ssl
import sys

address, svid, key, bundle = sys.argv[1:]


class Answer(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        uris = [value for kind, value in self.connection.getpeercert()["subjectAltName"] if kind == "URI"]
        body = ("called by " + " ".join(uris)).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=bundle)
context.verify_mode = ssl.CERT_REQUIRED
context.load_cert_chain(svid, key)
host, port = address.rsplit(":", 1)


class Server(http.server.ThreadingHTTPServer):
    def get_request(self):
        raw, peer = super().get_request()
        # The handshake is the handler's, so that a connection that sends nothing holds nobody up.
        return context.wrap_socket(raw, server_side=True, do_handshake_on_connect=False), peer

    def handle_error(self, *_):
        pass  # a peer that leaves during the handshake


Server((host, int(port)), Answer).serve_forever()
