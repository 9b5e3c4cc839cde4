"""The commander: the daemon that remembers, decides and orders, and its command line."""

import garrison  # noqa: F401  # first: it sets what gRPC reads only once, when it is imported
