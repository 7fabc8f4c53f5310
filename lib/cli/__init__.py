"""The command line: arguments, commands, output, the process."""
