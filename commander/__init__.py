"""The commander: the daemon that remembers, decides and orders, and its command line."""
