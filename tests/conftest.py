"""What holds for every test run."""

from hypothesis import HealthCheck, settings

# That a machine is busy says nothing of the code.
settings.register_profile("gantry", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("gantry")
