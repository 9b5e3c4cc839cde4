"""Hypothesis without a time limit an example: the box may be slow, and a slow example is not a wrong one."""

from hypothesis import HealthCheck, settings

settings.register_profile("garrison", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("garrison")
