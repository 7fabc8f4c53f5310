"""On AWS Lambda: `lib.aws.handler` is what its configuration names."""

# ruff: noqa: E402 - the collector must be off before anything else is imported
import gc

gc.disable()  # looking for garbage among what is imported takes a sixth of a cold start, and finds none

import os

from lib.aws.function import Handler

handler = Handler(os.environ)
gc.freeze()
gc.enable()
