"""When mains may be switched, and when it was."""
