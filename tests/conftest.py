"""Settings for all tests."""

from hypothesis import settings

# how long an example takes says nothing about whether it is right, and machines are shared
settings.register_profile("coterie", deadline=None, print_blob=True)
settings.load_profile("coterie")
