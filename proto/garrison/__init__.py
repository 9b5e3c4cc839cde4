"""What both ends must agree on: the wire contract, the frame codec, the metric catalogue, fault codes, words, clock."""
