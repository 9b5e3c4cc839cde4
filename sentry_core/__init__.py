"""What every sentry is: identity, session, journal, guard, service."""
