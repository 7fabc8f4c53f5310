"""On Vercel: the application that both files of `api/` give to its runtime."""

# ruff: noqa: E402 - the collector must be off before anything else is imported
import gc

# What is imported stays, so looking for garbage in it finds none, and takes a sixth of a cold
# start.
gc.disable()

import os

from lib.web.routes import create_app
from lib.web.service import Service

app = create_app(Service(os.environ))
gc.freeze()
gc.enable()
