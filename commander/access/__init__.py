"""Who may do what: the farm's CA, join tokens, people's tokens, the policy."""
