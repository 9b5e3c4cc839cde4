"""What both ends must agree on: the wire contract, the frame codec, the metric catalogue, fault codes, words, clock."""

import os

# TLS 1.3 only. gRPC's Python API cannot set a least version, but it reads this list of TLS 1.2 suites once, when it is
# imported. Ours needs an RSA key; all our keys are elliptic curves, so a TLS 1.2 handshake finds no suite and fails.
# tests/session/test_tls.py shows it. `commander` and `sentry_core` import this package before anything else for it.
os.environ["GRPC_SSL_CIPHER_SUITES"] = "ECDHE-RSA-AES128-GCM-SHA256"
os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # its own lines on stderr repeat what we log in words
