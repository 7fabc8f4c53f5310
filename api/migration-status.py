"""GET /api/migration-status."""

import gc

gc.disable()  # looking for garbage among what is imported takes a sixth of a cold start, and finds none
from lib.web import app  # noqa: E402

gc.freeze()
gc.enable()
