"""Many databases with one set of migrations: the inventory, the worker, the report."""
