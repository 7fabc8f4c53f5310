"""The environment, made into a Config."""
