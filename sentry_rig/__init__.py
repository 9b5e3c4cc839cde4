"""The rig sentry: mining programs, supervision, sensors of one GPU or CPU rig."""
