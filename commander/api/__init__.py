"""The HTTP API: who may call what, faults as answers, and the listings that need more than one subject."""
