"""Remote Relay Controllers: relay boards, smart plugs, PDUs, meters. Knows no sentry."""
