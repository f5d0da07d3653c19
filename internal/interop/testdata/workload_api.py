"""Fetches an X.509-SVID and the bundles with py-spiffe: workload_api.py unix:///SOCKET"""

import sys

from spiffe import WorkloadApiClient

with WorkloadApiClient(sys.argv[1]) as client:
    context = client.fetch_x509_context(timeout=10)
    bundles = client.fetch_x509_bundles(timeout=10)
svid = context.default_svid
authorities = bundles.get_bundle_for_trust_domain(svid.spiffe_id.trust_domain).x509_authorities
print("fetched", svid.spiffe_id, len(svid.cert_chain), len(authorities))
