"""What there is: sentries, devices, relay boards, which outlet feeds what, and what happened to them."""
