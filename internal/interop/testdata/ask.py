"""Makes one request with httpx by mutual TLS: ask.py 1|2 HOST:PORT SVID KEY BUNDLE METHOD PATH POSTED HEADS BODY [FIELD...]

POSTED is the file with the request's body; the answer's head and body are written to HEADS and BODY."""

import ssl
import sys

import httpx

version, address, svid, key, bundle, method, path, posted, heads, body, *fields = sys.argv[1:]
context = ssl.create_default_context(cafile=bundle)
context.load_cert_chain(svid, key)
headers = {"Host": "orders.test"} | dict(field.split(": ", 1) for field in fields)
with httpx.Client(http1=version == "1", http2=version == "2", verify=context, timeout=20, trust_env=False) as client:
    with open(posted, "rb") as file:
        answer = client.request(method, f"https://{address}{path}", headers=headers, content=file.read() or None, extensions={"sni_hostname": "orders.test"})
if answer.http_version != {"1": "HTTP/1.1", "2": "HTTP/2"}[version]:
    sys.exit(f"spoke {answer.http_version}")
with open(heads, "w", newline="") as file:
    file.write(f"HTTP/{version} {answer.status_code}\r\n" + "".join(f"{name}: {value}\r\n" for name, value in answer.headers.items()) + "\r\n")
with open(body, "wb") as file:
    file.write(answer.content)
