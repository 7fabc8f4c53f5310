"""On AWS Lambda. The function's configuration names `lib.aws.handler`."""

# ruff: noqa: E402 - the collector must be off before anything else is imported
import gc

# What is imported stays, so looking for garbage in it finds none, and takes a sixth of a cold
# start.
gc.disable()

import os

from lib.aws.function import Handler

handler = Handler(os.environ)
gc.freeze()
gc.enable()
