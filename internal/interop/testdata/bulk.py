"""Moves a large body with httpx by mutual TLS and prints its checksum: bulk.py down|up 1|2 HOST:PORT SIZE SVID.pem SVID.key BUNDLE.pem"""

import array
import hashlib
import ssl
import sys

import httpx

direction, version, address, size, svid, key, bundle = sys.argv[1:]
size, port = int(size), address.rsplit(":", 1)[1]
context = ssl.create_default_context(cafile=bundle)
context.load_cert_chain(svid, key)
BLOCK = 1 << 20


def pattern():
    """Every eight bytes are their own place."""
    for start in range(0, size, BLOCK):
        places = array.array("Q", range(start // 8, (start + BLOCK) // 8))
        if sys.byteorder == "little":
            places.byteswap()
        yield places.tobytes()[: size - start]


with httpx.Client(http1=version == "1", http2=version == "2", verify=context, timeout=60, trust_env=False) as client:
    # The name is verified; the connection goes to loopback.
    url, extra = f"https://127.0.0.1:{port}", {"sni_hostname": "orders.test"}
    headers = {"Host": "orders.test"}
    if direction == "down":
        checksum = hashlib.sha256()
        with client.stream("GET", f"{url}/down?bytes={size}", headers=headers, extensions=extra) as answer:
            answer.raise_for_status()
            for part in answer.iter_raw(BLOCK):
                checksum.update(part)
        print(checksum.hexdigest())
    else:
        answer = client.post(f"{url}/up", headers=headers | {"Content-Length": str(size)}, content=pattern(), extensions=extra)
        answer.raise_for_status()
        print(answer.text)
    if answer.http_version != {"1": "HTTP/1.1", "2": "HTTP/2"}[version]:
        sys.exit(f"spoke {answer.http_version}")
