"""Judges a certificate chain with the path validation of the cryptography package: verify.py SVID.pem BUNDLE.pem"""

import datetime
import sys

from cryptography import x509
from cryptography.x509 import verification


def read(path):
    with open(path, "rb") as file:
        return x509.load_pem_x509_certificates(file.read())


leaf, *between = read(sys.argv[1])
verifier = (
    verification.PolicyBuilder()
    .store(verification.Store(read(sys.argv[2])))
    .time(datetime.datetime.now(datetime.timezone.utc))
    .build_client_verifier()
)
try:
    verified = verifier.verify(leaf, between)
except verification.VerificationError as refusal:
    sys.exit(f"refused: {refusal}")
ids = [name.value for name in verified.subjects if isinstance(name, x509.UniformResourceIdentifier)]
print("accepted", *ids)
