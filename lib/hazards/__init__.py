"""What a file does that a busy table or the code of the running release does not survive."""
