"""Migration files and what is in them. Pure but for reading and creating files."""
