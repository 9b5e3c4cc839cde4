"""The ASIC sentry: makes, discovery, poll schedule, and the relays that feed them."""
