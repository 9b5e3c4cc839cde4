"""What every sentry is: identity, session, journal, guard, service."""

import garrison  # noqa: F401  # first: it sets what gRPC reads only once, when it is imported
