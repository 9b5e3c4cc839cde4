"""The gRPC side of the commander: streams of sentries, and the port where new ones join. Thin over the subjects' services."""
