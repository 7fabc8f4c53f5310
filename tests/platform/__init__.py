"""Tests on what the platforms themselves run; they need more than every machine has, and CI must
have it.
"""
